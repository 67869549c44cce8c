"""`make bench-cold`: what the time from the start of the process to the first caption consists of.

The function starts as the cloud starts it: functions/ as it is deployed, compiled as the build compiles it,
with the modification times that the image has, in the environment of `--python`. An event waits for it, as an
event waits for a new instance. Its files are cached by the system: reading them from a disk comes on top.

`--against` starts another checkout in turns, on the same machine in the same minutes. The medians of CPU
seconds depend less on what else the machine does than those of seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil
from rich.console import Console
from rich.progress import track
from rich.table import Table

from infra import ROOT
from infra.cloud import source
from infra.cloud.resources.functions import BUILD_VARIABLES
from infra.local.events import cloud_event
from infra.local.process import Process, framework, free_port
from tests.bench.deployed import DEPLOYED, NAIVE
from tests.bench.workers import Failed
from tests.memory.encoders import photo, pillow
from tests.memory.instance import AS_DEPLOYED
from tests.memory.outside import Outside
from tests.memory.uploads import Sample
from tests.support.backing_services import post_event

IMAGE_TIME = 315_532_801  # 1980-01-01 and a second: github.com/buildpacks/lifecycle/issues/1358
TRACING = Path(__file__).with_name("tracing")
PICTURE = (4032, 3024)  # px: a phone's
START_S, ANSWER_S = 60.0, 120.0
SECTIONS = ("start", "first event", "beside")
NOTHING = (0.0, 0.0)
Spans = Mapping[str, Sequence[float]]


@dataclass(frozen=True, slots=True)
class Start:
    """A cold start: seconds until it listens and answers, CPU seconds, and the spans of each section."""

    listening_s: float
    answered_s: float
    cpu_s: float
    sandbox_cpu_s: float
    sections: Mapping[str, Spans]


@dataclass(frozen=True, slots=True)
class Way:
    """A function to start: its main.py, the model's folder, and the Python of its environment."""

    name: str
    main: Path
    model: Path
    python: Path


def build(checkout: Path, folder: Path, variables: dict[str, str], python: Path) -> Path:
    """Copy what is deployed of a checkout into `folder`, compile it as the buildpack does; return main.py.

    The buildpack runs compileall to find syntax errors (GoogleCloudPlatform/buildpacks,
    cmd/python/functions_framework/lib/lib.go, 2026-08-22), and the image gives every file the same time, so
    that bytecode is valid only if it is checked by the hash of its source.
    """
    for name in source.files(checkout):
        if not name.startswith("model/"):
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(checkout / source.FOLDER / name, target)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    compiling = [str(python), "-m", "compileall", "-f", "-q", "."]
    subprocess.run(compiling, cwd=folder, env=environment | variables, check=True)
    for path in folder.rglob("*"):
        os.utime(path, (IMAGE_TIME, IMAGE_TIME))
    return folder / "main.py"


def start(way: Way, outside: Outside, name: str, picture: Path, cpus: int, folder: Path) -> Start:
    """Start the function with an event waiting for it, and return what that took. Raises Failed."""
    trace, port = folder / "trace.json", free_port()
    trace.unlink(missing_ok=True)
    headers, body = cloud_event(outside.upload(Sample(name, "", picture, 0, 0)))
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    environment |= outside.environment | AS_DEPLOYED | {"MODEL_FOLDER": str(way.model.resolve())}
    # An instance may write its bytecode to memory, but has none from before.
    environment |= {"PYTHONPATH": str(TRACING), "PYTHONDONTWRITEBYTECODE": "1", "TRACE": str(trace)}
    if way.main == NAIVE:
        environment["PYTHONPATH"] = ""
    command = framework(way.main, port, python=way.python)
    with pinned(cpus):
        began = time.monotonic()
        environment["TRACE_FROM"] = str(began)
        process = Process(way.name, command, folder / f"{way.name}.log", environment, folder)
    with process:
        wait_for(port, process)
        listening_s = time.monotonic() - began
        answer = post_event(f"http://127.0.0.1:{port}", headers, body, ANSWER_S)
        answered_s = time.monotonic() - began
        if answer != "answered":
            raise Failed(f"{way.name}: the event was {answer}; see {process.log}")
        used = [(" ".join(each.cmdline()), cpu_s(each)) for each in family(process.pid)]
    sections: list[Spans] = json.loads(trace.read_text()) if trace.exists() else [{}, {}, {}]
    decoders = sum(seconds for command, seconds in used if "fork_server" in command)
    return Start(
        listening_s,
        answered_s,
        sum(seconds for _, seconds in used),
        decoders,
        dict(zip(SECTIONS, sections, strict=True)),
    )


@contextmanager
def pinned(cpus: int) -> Iterator[None]:
    """Pin what is started in this block to so many CPUs, the last ones that this process may use."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(allowed)[-cpus:])
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


def wait_for(port: int, process: Process) -> None:
    """Wait until the port is open, as Cloud Run's startup probe does."""
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        process.check()
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.005)
    raise Failed(f"{process.name} does not listen: see {process.log}")


def family(pid: int) -> list[psutil.Process]:
    root = psutil.Process(pid)
    return [root, *root.children(recursive=True)]


def cpu_s(process: psutil.Process) -> float:
    """Return the CPU seconds of a process and of those of its children that have ended."""
    times = process.cpu_times()
    return float(times.user + times.system + times.children_user + times.children_system)


def median(starts: Sequence[Start]) -> Start:
    """Return the medians; of a span that some starts lack, the median with zeros."""
    sections = {}
    for section in SECTIONS:
        names = {name: None for each in starts for name in each.sections[section]}
        sections[section] = {
            name: tuple(
                statistics.median(each.sections[section].get(name, NOTHING)[at] for each in starts)
                for at in (0, 1)
            )
            for name in names
        }
    figures = {
        name: statistics.median(getattr(each, name) for each in starts)
        for name in ("listening_s", "answered_s", "cpu_s", "sandbox_cpu_s")
    }
    return Start(**figures, sections=sections)


def table(ways: Mapping[str, Start], least_ms: float) -> Table:
    """Return a table of the parts that take at least `least_ms` of time or CPU in one of the ways."""
    shown = Table("ms (ms of CPU)", *ways, title="From the start of the process to the first caption")
    for section in SECTIONS:
        parts = [way.sections[section] for way in ways.values()]
        shown.add_section()
        shown.add_row(
            f"[bold]{section}", *(_cell(map(sum, zip(*each.values(), strict=True))) for each in parts)
        )
        most = {name: max(max(each.get(name, NOTHING)) for each in parts) for each in parts for name in each}
        for name in sorted(most, key=lambda name: -most[name]):
            if most[name] * 1000 >= least_ms:
                shown.add_row(f"  {name}", *(_cell(each.get(name, ())) for each in parts))
    shown.add_section()
    starts = ways.values()
    shown.add_row("the sandbox's processes", *(f"({each.sandbox_cpu_s * 1000:.0f})" for each in starts))
    shown.add_row("until it listens", *(f"{each.listening_s * 1000:.0f}" for each in starts))
    shown.add_row("[bold]until the first caption", *(_cell((each.answered_s, each.cpu_s)) for each in starts))
    return shown


def _cell(span: Iterable[float]) -> str:
    figures = [f"{seconds * 1000:.0f}" for seconds in span]
    return f"{figures[0]} ({figures[1]})" if figures else ""


def main(words: Sequence[str] | None = None) -> int:
    """Measure and print the table; return the exit status."""
    asked = _arguments(words)
    console = Console()
    picture = asked.build / "bench" / "12.jpg"
    picture.parent.mkdir(parents=True, exist_ok=True)
    if not picture.exists():
        picture.write_bytes(pillow("JPEG", quality=85)(photo(PICTURE, 0)))
    with TemporaryDirectory(prefix="dropcap-") as folder, Outside(picture.parent) as outside:
        ways = _ways(asked, Path(folder))
        starts: dict[str, list[Start]] = {way.name: [] for way in ways}
        for turn in track(range(asked.rounds + 1), "cold starts", console=console):
            for way in ways:
                name = f"ana/{way.name}-{turn}.jpg"
                starts[way.name].append(start(way, outside, name, picture, asked.cpus, Path(folder)))
    console.print(table({name: median(each[1:]) for name, each in starts.items()}, asked.least_ms))
    return 0


def _ways(asked: argparse.Namespace, folder: Path) -> list[Way]:
    ways = [
        Way("this", build(ROOT, folder / "this", BUILD_VARIABLES, asked.python), asked.model, asked.python)
    ]
    if asked.against:
        variables = {} if asked.stale else BUILD_VARIABLES
        other = build(asked.against, folder / "other", variables, asked.python)
        ways.append(Way("other", other, asked.model, asked.python))
    if asked.naive:
        ways.append(Way("naive", NAIVE, asked.naive, Path(sys.executable)))
    return ways


def _arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="make bench-cold",
        description="Measure the parts of a cold start, from the start of the process to the first caption.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "--rounds", type=int, default=5, metavar="N", help="starts of each, after a first one"
    )
    parser.add_argument("--cpus", type=int, default=1, metavar="N", help="CPUs that the function may use")
    parser.add_argument("--model", type=Path, default=ROOT / "build" / "random-base", help="BLIP's folder")
    parser.add_argument("--python", type=Path, default=DEPLOYED, help="of the environment that is deployed")
    parser.add_argument("--against", type=Path, metavar="CHECKOUT", help="start this one in turns, too")
    parser.add_argument("--stale", action="store_true", help="the other's bytecode is stale, as it was")
    parser.add_argument("--naive", type=Path, metavar="FOLDER", help="start the naive way, with this model")
    parser.add_argument("--least-ms", type=float, default=5, metavar="MS", help="do not show smaller parts")
    parser.add_argument("--build", type=Path, default=ROOT / "build", help="folder for the picture and logs")
    return parser.parse_args(words)


if __name__ == "__main__":
    sys.exit(main())
