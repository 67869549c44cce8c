"""make scaling: what Dropcap does under load, by simulation; see --help."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track
from rich.table import Table

from infra.local import StackError
from infra.local.storage import ROOT
from infra.scaling import document, inputs, measure, prose, scenarios
from infra.scaling.limits import Database

RESULTS = Path(__file__).with_name("results.json")  # what SCALING.md shows
CHART = ROOT / "docs" / "scaling.svg"
BENCH_PYTHON = ROOT / ".venv-bench" / "bin" / "python"  # has matplotlib


def main(words: Sequence[str] | None = None) -> int:
    """Run what is asked for; the exit status."""
    asked = _arguments(words)
    console = Console()
    try:
        if asked.measure:
            facts = measure.measure(console, asked.seconds, asked.seed)
            measure.KEPT.write_text(json.dumps(facts, indent=1) + "\n")
            console.print(f"Measured: {measure.KEPT}")
        feed = inputs.measured() if asked.fresh else inputs.kept()
    except (OSError, ValueError, StackError) as failed:
        console.print(f"make scaling: {failed}", style="red", markup=False)
        return 2
    measured = measure.kept()
    results = simulate(feed, measured, asked, console)
    asked.build.mkdir(exist_ok=True)
    file = asked.build / "scaling.json"
    file.write_text(json.dumps(results, indent=1) + "\n")
    show(results, measured, console)
    if asked.write:
        if asked.fresh:
            inputs.keep(feed)
        RESULTS.write_text(file.read_text())
        text = document.DOCUMENT.read_text()
        document.DOCUMENT.write_text(document.filled(text, prose.parts(results, measured)))
    chart = CHART if asked.write else asked.build / "scaling.svg"
    if BENCH_PYTHON.exists():
        command = [str(BENCH_PYTHON), "-m", "infra.scaling.chart", str(file), str(chart)]
        subprocess.run(command, check=True, cwd=ROOT)
        console.print(f"The picture: {chart}")
    console.print(f"All of it: {file}")
    return 0


def simulate(
    feed: inputs.Inputs, measured: dict[str, Any], asked: argparse.Namespace, console: Console
) -> dict[str, Any]:
    """All numbers."""

    def progress(runs: list[Any], title: str) -> Iterator[Any]:
        return iter(track(runs, title, console=console, disable=asked.quick))

    database = Database(**measured["database"])
    return scenarios.run(feed, database, measured["threads"], asked.seed, asked.quick, progress)


def show(results: dict[str, Any], measured: dict[str, Any], console: Console) -> None:
    """The tables of the document."""
    for made in document.tables(results, measured).values():
        table = Table(*made.head, title=made.title)
        for row in made.rows:
            table.add_row(*row)
        console.print(table)
    for text in prose.sentences(results, measured).values():
        console.print(text, markup=False)


def _arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="make scaling",
        description="Simulate uploads, events, instances, Gemini's quota and the database from 0.01 to "
        "10,000 uploads a second, and say which limit is met first. Takes a few minutes.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="chance; the same gives the same")
    parser.add_argument("--quick", action="store_true", help="a few small runs, in seconds")
    parser.add_argument(
        "--write", action="store_true", help="put the tables into SCALING.md, draw its picture"
    )
    parser.add_argument(
        "--fresh",
        action="store_true",
        help="take times from build/bench.json and build/prove in place of ours",
    )
    parser.add_argument(
        "--measure", action="store_true", help="first compare the model with real instances here: 5 minutes"
    )
    parser.add_argument(
        "--seconds", type=float, default=25.0, metavar="S", help="of uploads in each such run"
    )
    parser.add_argument("--build", type=Path, default=ROOT / "build", help="folder for scaling.json")
    return parser.parse_args(words)


if __name__ == "__main__":
    sys.exit(main())
