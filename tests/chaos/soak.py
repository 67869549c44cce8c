"""`make soak`: send thousands of uploads through one instance, and check that nothing grows."""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
import psutil
from rich.console import Console
from rich.table import Table

from infra import ROOT
from tests.chaos import report
from tests.chaos.report import Scene
from tests.chaos.world import Function
from tests.memory.uploads import BAD, Sample, drawn

WINDOW = 100  # uploads; each picture comes twice in it, so that windows can be compared
MEMORY = 1.02  # times the median resident set at rest of the second window, at most
LATENCY = 1.5  # times its median time
SIZES = "1600,800,200"  # as shipped
THREADS = 6  # of a worker whose pool is full: its own, four that begin when they are needed, and the watchdog
CONNECTIONS = (
    "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'dropcap' AND pid <> pg_backend_pid()"
)


@dataclass(frozen=True, slots=True)
class Rest:
    """The instance at rest, after an upload that took so many seconds."""

    seconds: float
    rss_mb: float
    threads: int
    files: int  # open ones, sockets included
    left: int  # in the temporary folder


def soak(scene: Scene, uploads: int, seed: int, largest: float, pictures: Path) -> None:
    """Deliver them one after the other; `largest` in megapixels. `pictures` keeps them for the next time."""
    world = scene.world
    window = max(1, min(WINDOW, uploads // 4))
    samples = list(drawn(max(1, window // 2), seed, largest, pictures))
    temporary = world.logs / "tmp"
    temporary.mkdir(exist_ok=True)
    scene.total(uploads)
    rests = []
    with world.function("function", SIZES=SIZES, TMPDIR=str(temporary), LEASE_S="600") as function:
        worker = function.worker()
        for number in range(uploads):
            sample = samples[number % len(samples)]
            rests.append(_one(scene, function, worker, number, sample, temporary))
            scene.step()
        with world.connected() as connection:
            [[connections]] = connection.run(CONNECTIONS) or [[0]]
        if function.worker() != worker:
            scene.problems.append("The process ended and was replaced.")
    scene.check(at_rest=True)
    scene.facts |= {"connections": connections, "window": window, "rests": [asdict(rest) for rest in rests]}
    if connections > 1:
        scene.problems.append(f"{connections} connections to PostgreSQL are open, not 1.")
    scene.problems += grown(rests, window)


def grown(rests: Sequence[Rest], window: int) -> list[str]:
    """Return the figures that grow from the second window on, as the first one warms up."""
    second, last = rests[window : 2 * window], rests[-window:]
    checks: tuple[tuple[str, Callable[[Rest], float], Callable[..., float], float], ...] = (
        ("resident set at rest, MB", lambda rest: rest.rss_mb, median, MEMORY),
        ("seconds of an upload", lambda rest: rest.seconds, median, LATENCY),
        ("threads", lambda rest: max(rest.threads, THREADS), max, 1),
        # The least of a window: the server keeps an answered connection until its client has closed it.
        ("open files", lambda rest: rest.files, min, 1),
    )
    reasons = []
    for name, value, of, factor in checks:
        before, after = of(map(value, second)), of(map(value, last))
        if after > factor * before:
            reasons.append(f"{name}: {before:g} in the second {window} uploads, {after:g} in the last")
    if rests[-1].left:
        reasons.append(f"{rests[-1].left} files are left in the temporary folder")
    return reasons


def _one(
    scene: Scene, function: Function, worker: psutil.Process, number: int, sample: Sample, temporary: Path
) -> Rest:
    world = scene.world
    user = sample.name.partition("/")[0]
    size, code = (sample.width, sample.height), BAD.get(sample.kind, "")
    sent = world.send(f"{user}/{number}.{sample.path.suffix}", sample.path.read_bytes(), size, code=code)
    began = time.monotonic()
    answer = world.deliver(function, sent)
    seconds = time.monotonic() - began
    if answer != "answered":
        scene.problems.append(f"{sent} ({sample.kind}) was {answer}")
    with worker.oneshot():
        rss_mb, threads, files = worker.memory_info().rss / 1e6, worker.num_threads(), worker.num_fds()
    left = sum(1 for _ in temporary.iterdir())
    return Rest(round(seconds, 4), round(rss_mb, 1), threads, files, left)


def show(console: Console, scene: Scene) -> None:
    """Print a line for each window, or for each tenth of the run."""
    rests = [Rest(**each) for each in scene.facts["rests"]]
    step = max(scene.facts["window"], len(rests) // 10)
    table = Table("uploads")
    names = ("RSS at rest MB, median", "largest", "s, median", "95th percentile", "threads", "open files")
    for name in names:
        table.add_column(name, justify="right")
    for start in range(0, len(rests), step):
        part = rests[start : start + step]
        seconds, rss = [rest.seconds for rest in part], [rest.rss_mb for rest in part]
        table.add_row(
            f"{start + 1} to {start + len(part)}",
            *(f"{median(rss):.1f}", f"{max(rss):.1f}", f"{median(seconds):.3f}"),
            *(f"{np.percentile(seconds, 95):.3f}", str(max(rest.threads for rest in part))),
            str(max(rest.files for rest in part)),
        )
    console.print(table)


def main(words: Sequence[str] | None = None) -> int:
    """Return the exit status; see `--help`."""
    asked = _arguments(words)
    act = partial(
        soak, uploads=asked.uploads, seed=asked.seed, largest=asked.largest, pictures=asked.build / "uploads"
    )
    return report.run("soak", {"soak": act}, asked, {}, show=lambda console, scenes: show(console, scenes[0]))


def _arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="make soak",
        description="Send pictures of every kind through one instance, one after the other, and look at it "
        f"at rest after each. From the second to the last {WINDOW} uploads its memory may grow by "
        f"{MEMORY - 1:.0%} and its time by {LATENCY - 1:.0%} (medians), threads, open files, connections and "
        "temporary files not at all. Exit status: 0 if so, and no promise is broken, 1 with the reasons.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--seed", type=int, default=0, help="of the pictures")
    parser.add_argument("--uploads", type=int, default=2000, metavar="N", help="how many, bad ones included")
    parser.add_argument(
        "--largest", type=float, default=1.0, metavar="MP", help="largest picture, megapixels"
    )
    parser.add_argument("--build", type=Path, default=ROOT / "build", help="folder for logs and soak.json")
    return parser.parse_args(words)


if __name__ == "__main__":
    sys.exit(main())
