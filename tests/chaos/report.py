"""Results of a run: the table, the JSON, and the reasons of a failure."""

import argparse
import json
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from infra.local import StackError
from tests.chaos.invariants import INVARIANTS, Violation, tally, violations
from tests.chaos.world import LEASE_S, TIMEOUT_S, World

PLAIN_WIDTH = 160  # columns
WATCH_S = 1.0  # between two checks while functions run
SHOWN = 20  # reasons at most on the terminal; the JSON has all


@dataclass
class Scene:
    """A running scenario and its results. `problems` are failures other than violations."""

    name: str
    world: World
    progress: Progress
    violations: list[Violation] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    looks: int = 0
    seconds: float = 0.0

    def total(self, steps: int) -> None:
        """Set the number of steps of the progress bar."""
        self.progress.update(self.progress.task_ids[-1], total=steps)

    def step(self) -> None:
        self.progress.advance(self.progress.task_ids[-1])

    def check(self, at_rest: bool = False) -> None:
        """Check the invariants; `at_rest` if every delivery was acknowledged."""
        found = violations(self.world, at_rest)
        self.looks += 1
        self.violations += [each for each in found if each not in self.violations]

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Check repeatedly in the background."""
        over = threading.Event()

        def watch() -> None:
            while not over.wait(WATCH_S):
                self.check()

        watcher = threading.Thread(target=watch, name="watch")
        watcher.start()
        try:
            yield
        finally:
            over.set()
            watcher.join()

    @property
    def reasons(self) -> list[str]:
        """Return the reasons why this scenario failed; empty if it did not."""
        return [f"{self.name}: {each}" for each in (*self.violations, *self.problems)]

    def figures(self) -> dict[str, Any]:
        """Return the figures of the table by their names in the JSON."""
        world = self.world
        uploads = world.earlier + len(world.sent)
        counts = {"uploads": uploads, "deliveries": world.deliveries, "kills": world.kills}
        counts |= {name.replace(" ", "_"): number for name, number in tally(self.violations).items()}
        return counts | {"seconds": round(self.seconds, 1)}

    def to_json(self) -> dict[str, Any]:
        common = {"scenario": self.name, "looks": self.looks, "problems": self.problems}
        return common | self.figures() | self.facts | {"broken": [asdict(each) for each in self.violations]}


Play = Callable[[Scene], None]
Variables = Mapping[str, Mapping[str, str]]  # by the names of scenarios


def play(
    plays: Mapping[str, Play], folder: Path, seed: int, console: Console, variables: Variables
) -> list[Scene]:
    """Run the scenarios in turn, each in a new world with its `variables`, with a progress bar each."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    scenes = []
    with Progress(*columns, console=console) as progress:
        for name, act in plays.items():
            progress.add_task(name, total=None)
            with World(folder / name.replace(" ", "-"), seed, variables.get(name, {})) as world:
                scene = Scene(name, world, progress)
                started = time.monotonic()
                act(scene)
                scene.seconds = time.monotonic() - started
            scenes.append(scene)
    return scenes


def show(console: Console, scenes: Sequence[Scene]) -> None:
    """Print a line for each scenario."""
    names = ("uploads", "deliveries", "kills", *INVARIANTS, "seconds")
    table = Table("scenario")
    for name in names:
        table.add_column(name, justify="right")
    for scene in scenes:
        table.add_row(scene.name, *(str(value) for value in scene.figures().values()))
    console.print(table)


def write(file: Path, facts: Mapping[str, Any], scenes: Sequence[Scene]) -> None:
    """Write the JSON: facts of the run, then each scenario."""
    file.parent.mkdir(parents=True, exist_ok=True)
    document = dict(facts) | {"scenarios": [scene.to_json() for scene in scenes]}
    file.write_text(json.dumps(document, indent=1, default=str))


def run(
    who: str,
    plays: Mapping[str, Play],
    asked: argparse.Namespace,
    variables: Variables,
    show: Callable[[Console, Sequence[Scene]], None] = show,
) -> int:
    """Run all scenarios, show and write the results; return the exit status of `make {who}`."""
    signal.signal(signal.SIGTERM, _interrupt)
    console = Console(width=None if sys.stdout.isatty() else PLAIN_WIDTH, highlight=False)
    try:
        scenes = play(plays, asked.build / who, asked.seed, console, variables)
    except StackError as problem:
        reasons = [str(problem)]
    except KeyboardInterrupt:
        reasons = ["stopped"]
    else:
        reasons = [reason for scene in scenes for reason in scene.reasons]
        file = asked.build / f"{who}.json"
        facts = {"kept": not reasons, "reasons": reasons, "lease_s": LEASE_S, "timeout_s": TIMEOUT_S}
        write(file, facts | {"asked": vars(asked)}, scenes)
        show(console, scenes)
        console.print(f"All of it: {file}. The same again: --seed {asked.seed}")
    for reason in reasons[:SHOWN]:
        print(f"make {who}: {reason}", file=sys.stderr)
    if len(reasons) > SHOWN:
        print(f"make {who}: {len(reasons) - SHOWN} more", file=sys.stderr)
    return 1 if reasons else 0


def _interrupt(signum: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
