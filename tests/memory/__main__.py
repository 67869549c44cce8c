"""`make prove`: upload pictures of every kind and size to the function in the memory of its instance."""

import argparse
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from subprocess import CalledProcessError
from types import FrameType

from rich.console import Console
from rich.progress import track

from dropcap.captioning.blip import Card, ModelError
from dropcap.errors import SettingsError
from infra import ROOT
from infra.cloud.resources.declaration import PICTURES_AT_ONCE
from infra.local import StackError
from tests.memory import report
from tests.memory.instance import DELIVERIES, Platform
from tests.memory.limit import NoLimit, kernel_limit
from tests.memory.outside import Outside
from tests.memory.report import Result, Way
from tests.memory.uploads import Sample, drawn

MAIN = ROOT / "functions" / "main.py"
NAIVE = ROOT / "tests" / "memory" / "naive.py"
TIMEOUT_S = 540  # as infra/cloud/config.py sets it
NAIVE_TIMEOUT_S = 60
PLAIN_WIDTH = 160  # columns


def main(words: Sequence[str] | None = None) -> int:
    """Return the exit status; see `--help`."""
    signal.signal(signal.SIGTERM, _interrupt)
    asked = _arguments(words)
    console = Console(width=None if sys.stdout.isatty() else PLAIN_WIDTH, highlight=False)
    try:
        with kernel_limit(asked.limit) as limit:
            means = limit.means
        reasons = _prove(asked, means, console)
    except NoLimit as refusal:
        print(f"make prove: {refusal}", file=sys.stderr)
        return 2
    except (StackError, ModelError, SettingsError, CalledProcessError) as problem:
        reasons = [str(problem)]
    except KeyboardInterrupt:
        reasons = ["stopped"]
    for reason in reasons:
        print(f"make prove: {reason}", file=sys.stderr)
    return 1 if reasons else 0


def _prove(asked: argparse.Namespace, means: str, console: Console) -> list[str]:
    """Run everything and report it; the reasons why it proves nothing."""
    card = Card.read(asked.model)
    plan = drawn(asked.uploads, asked.seed, asked.largest, asked.build / "uploads")
    samples = list(track(plan, "drawing pictures", asked.uploads, console=console))
    ways = {"dropcap": dropcap(asked, samples, console)}
    if asked.naive:
        few = asked.naive_uploads
        ways |= {"dropcap_first": ways["dropcap"].first(few), "naive": naive(asked, samples[:few], console)}
    reasons = report.failures(ways["dropcap"])
    facts = {
        "proven": not reasons,
        "failures": reasons,
        "limit_mib": asked.limit,
        "limited_by": means,
        "model": {"name": card.name, "revision": card.revision, "files": card.files},
        "seed": asked.seed,
        "deliveries_at_most": DELIVERIES,
        "deliveries_at_once": asked.at_once,
        "gemini_s": asked.gemini_s,
        "naive_timeout_s": NAIVE_TIMEOUT_S,
    }
    file = asked.build / "prove.json"
    report.write(file, facts, ways)
    limit = (
        f"{asked.limit} MiB without swap by {means}, 1 CPU, {card.name}, {asked.at_once} deliveries at once"
    )
    console.print(f"\n{limit}", style="bold")
    report.show(console, list(ways.values()))
    if asked.naive:
        console.print(f"naive: at most {NAIVE_TIMEOUT_S} s and {DELIVERIES} deliveries an upload.")
    console.print(f"All of it: {file}")
    return reasons


def dropcap(asked: argparse.Namespace, samples: Sequence[Sample], console: Console) -> Way:
    """Run the deployed function, and return the outcome of each upload after all deliveries."""
    with Outside(asked.build / "prove") as outside:
        environment = os.environ | outside.environment
        logs, died = asked.build / "prove", outside.let_leases_run_out
        with Platform(MAIN, asked.model, environment, asked.limit, TIMEOUT_S, logs, died) as platform:
            outside.gemini.latency_s = asked.gemini_s
            with ThreadPoolExecutor(asked.at_once) as pool:
                delivered = pool.map(lambda sample: platform.deliver(outside.upload(sample)), samples)
                deliveries = list(track(delivered, "uploads to Dropcap", len(samples), console=console))
        results = [
            Result(sample, delivery, outside.outcome(sample))
            for sample, delivery in zip(samples, deliveries, strict=True)
        ]
    return Way.of("Dropcap", results, platform)


def naive(asked: argparse.Namespace, samples: Sequence[Sample], console: Console) -> Way:
    """Run transformers and Pillow under the same limit."""
    model = asked.build / "naive"
    if not model.exists():
        with console.status("Writing fp32 weights of BLIP-base for the naive way ..."):
            subprocess.run([sys.executable, "-m", "tests.memory.naive", str(model)], cwd=ROOT, check=True)
    results, problem = [], ""
    with Outside(asked.build / "prove") as outside:
        environment = os.environ | outside.environment
        with Platform(
            NAIVE, model, environment, asked.limit, NAIVE_TIMEOUT_S, asked.build / "prove"
        ) as platform:
            try:
                for sample in track(samples, "uploads to the naive way", console=console):
                    delivery = platform.deliver(outside.upload(sample))
                    results.append(Result(sample, delivery, outside.naive_outcome(sample, delivery.answered)))
            except StackError as failed:
                problem = str(failed)
    return Way.of(f"naive, first {len(samples)}", results, platform, problem)


def _arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="make prove",
        description="Run the deployed function under a memory limit that the kernel enforces, upload "
        "pictures of every kind to it, then look whether anything was killed or lost. "
        "Exit status: 0 if not, 1 with the reasons, 2 where no limit can be had.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--uploads", type=int, default=100, metavar="N", help="how many, bad ones included")
    parser.add_argument(
        "--largest", type=float, default=100, metavar="MP", help="largest picture, megapixels"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the pictures and their order")
    parser.add_argument("--model", type=Path, default=ROOT / "build" / "random-base", help="BLIP's folder")
    parser.add_argument(
        "--at-once", type=int, default=PICTURES_AT_ONCE, metavar="N", help="deliveries, to Dropcap"
    )
    parser.add_argument(
        "--gemini-s", type=float, default=1.5, metavar="S", help="latency of Gemini's stand-in"
    )
    parser.add_argument("--limit", type=int, default=512, metavar="MIB", help="memory of the instance, MiB")
    parser.add_argument(
        "--naive", action=argparse.BooleanOptionalAction, default=True, help="compare with the naive way"
    )
    parser.add_argument(
        "--naive-uploads", type=int, default=12, metavar="N", help="how many of them the naive way gets"
    )
    parser.add_argument(
        "--build", type=Path, default=ROOT / "build", help="folder for pictures, logs and prove.json"
    )
    return parser.parse_args(words)


def _interrupt(signum: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
