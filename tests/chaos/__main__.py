"""`make chaos`: kills, duplicates, stale workers, faults and damaged schemas; checks each upload."""

import argparse
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from infra import ROOT
from tests.chaos import duplicates, faults, foreign_tables, kills, report, restarts, schemas, stale_workers
from tests.chaos.machine import rules
from tests.chaos.report import Play
from tests.chaos.world import NO_VERDICT, UNSAFE

# Variables of all functions of a scenario.
VARIABLES = {
    "killed, archived": {"SOURCE": "archive"},
    "killed, copies": {"LAYOUT": "beside"},
    "killed, held": {"SAFETY": "low"},
    "delivered often": {"LAYOUT": "beside"},
    "taken over, unsafe": {"SAFETY": "low"},
    "taken over, held": {"SAFETY": "low"},
    "overwritten, copies": {"LAYOUT": "beside"},
    "state machine": {"SAFETY": "low"},
}


def plays(asked: argparse.Namespace) -> Mapping[str, Play]:
    """Return the scenarios by name."""
    points, few = asked.points, asked.faults
    return {
        "killed, picture": partial(kills.at_every_point, only=points),
        "killed, no picture": partial(kills.at_every_point, bad=True, only=points),
        "killed, archived": partial(kills.at_every_point, only=points),
        "killed, copies": partial(kills.at_every_point, only=points),
        "killed, held": partial(kills.held, only=points),
        "killed, at random": partial(kills.at_random, kills=asked.kills),
        "delivered often": partial(duplicates.many_times, uploads=asked.uploads),
        "taken over, picture": partial(stale_workers.taken_over, only=points),
        "taken over, no picture": partial(stale_workers.taken_over, bad=True, only=points),
        "taken over, unsafe": partial(stale_workers.taken_over, other=UNSAFE, only=points),
        "taken over, held": partial(stale_workers.taken_over, other=NO_VERDICT, only=points),
        "overwritten, picture": partial(stale_workers.overwritten, only=points),
        "overwritten, no picture": partial(stale_workers.overwritten, bad=True, only=points),
        "overwritten, copies": partial(stale_workers.overwritten, only=points),
        "faults of PostgreSQL": faults.of_postgresql,
        "faults of Gemini": partial(faults.of_gemini, only=few),
        **{
            f"faults towards {part}": partial(faults.of_the_network, part=part, only=few)
            for part in faults.ADDRESSES
        },
        "PostgreSQL restarted": partial(restarts.of_postgresql, uploads=asked.restarted, pause_s=asked.pause),
        "state machine": partial(rules.run, steps=asked.steps, number=asked.seed),
        "schema damaged": partial(schemas.damaged, damages=asked.damages),
        "schema, foreign": partial(foreign_tables.foreign, databases=asked.foreign),
        "schema, cold starts": partial(schemas.started_at_once, processes=asked.starts),
    }


def main(words: Sequence[str] | None = None) -> int:
    """Return the exit status; see `--help`."""
    asked = _arguments(words)
    chosen = {name: play for name, play in plays(asked).items() if asked.only in name}
    return report.run("chaos", chosen, asked, VARIABLES)


def _arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="make chaos",
        description="Kill the function at every point and at random instants, deliver events repeatedly and "
        "late, suspend it while others continue, inject faults between it and its services; then check in "
        "buckets and database that nothing was lost, happened twice, hit the wrong upload or did not heal. "
        "Exit status: 0 if so, 1 with the reasons.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--seed", type=int, default=0, help="of all random choices")
    parser.add_argument("--kills", type=int, default=200, metavar="N", help="kills at random instants")
    parser.add_argument(
        "--uploads", type=int, default=1000, metavar="N", help="uploads that are delivered repeatedly"
    )
    parser.add_argument(
        "--points",
        type=int,
        metavar="N",
        help="random points of each scenario to kill or suspend at; else all",
    )
    parser.add_argument("--faults", type=int, default=40, metavar="N", help="random faults of each service")
    parser.add_argument(
        "--restarted", type=int, default=1000, metavar="N", help="uploads while PostgreSQL is restarted"
    )
    parser.add_argument(
        "--pause", type=float, nargs=2, default=(5, 40), metavar="S", help="seconds between two restarts"
    )
    parser.add_argument("--steps", type=int, default=10_000, metavar="N", help="steps of the state machine")
    parser.add_argument("--damages", type=int, default=200, metavar="N", help="randomly damaged schemas")
    parser.add_argument(
        "--foreign",
        "--strangers",
        type=int,
        default=50,
        metavar="N",
        help="databases with foreign tables",
    )
    parser.add_argument("--starts", type=int, default=50, metavar="N", help="cold starts at one instant")
    parser.add_argument(
        "--only", default="", metavar="WORDS", help="scenarios with these words in their names"
    )
    parser.add_argument("--build", type=Path, default=ROOT / "build", help="folder for logs and chaos.json")
    return parser.parse_args(words)


if __name__ == "__main__":
    sys.exit(main())
