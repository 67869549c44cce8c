"""`make fuzz`: fuzz the parsers, guided by coverage, and the whole decoder with changed files.

    python -m tests.fuzz --seconds 60                    every target for a minute
    python -m tests.fuzz --target answers --runs 10000   one, or all whose names begin so
    python -m tests.fuzz --target decoding --seed 7 --first 4711 --runs 1    one changed file again
    python -m tests.fuzz --target repairs --replay FILE  one input

Findings are written to build/fuzz/, and the exit status is 1 if there are any.
"""

import argparse
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from infra import ROOT
from tests.fuzz import decoding, guided
from tests.fuzz.guided import Result
from tests.fuzz.targets import TARGETS

FOLDER = ROOT / "build" / "fuzz"
DECODING = "decoding"
ALL = "all"
SECONDS = 60
WIDTHS = (20, 12, 9, 9, 9)


def main(words: Sequence[str] | None = None) -> int:
    """Return the exit status; see `--help`."""
    asked = _arguments(words)
    names = [name for name in (*TARGETS, DECODING) if asked.target == ALL or name.startswith(asked.target)]
    if not names:
        print(f"There is no target {asked.target}: {', '.join((ALL, *TARGETS, DECODING))}.", file=sys.stderr)
        return 2
    if asked.replay:
        return _replay(names[0], asked.replay.read_bytes())
    print(_row("target", "executions", "a second", "branches", "findings"), flush=True)
    results = {}
    for name in names:
        results[name] = _decoding(asked) if name == DECODING else _guided(name, asked)
        print(_line(name, results[name]), flush=True)
    total = sum(result.executions for result in results.values())
    findings = sum(len(result.findings) for result in results.values())
    print(_row("in all", f"{total:,}", "", "", f"{findings:,}"))
    for name, result in results.items():
        for what, times in result.findings.items():
            print(f"{name}: {times:,} times: {what}")
    if findings:
        print(f"The inputs are in {FOLDER.relative_to(ROOT)}/.")
    return 1 if findings else 0


def _arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="fuzz", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--target", default=ALL, help="the beginning of a target's name, or all")
    parser.add_argument("--seconds", type=int, help=f"for each target; {SECONDS} unless --runs is given")
    parser.add_argument("--runs", type=int, default=0, help="executions of each target")
    parser.add_argument("--seed", type=int, default=1, help="same seed and runs: same inputs")
    parser.add_argument("--first", type=int, default=0, help="number of the first changed file of `decoding`")
    parser.add_argument(
        "--replay", type=Path, help="an input to check again, with the --target that it is of"
    )
    asked = parser.parse_args(words)
    if asked.seconds is None:
        asked.seconds = 0 if asked.runs else SECONDS
    return asked


def _guided(name: str, asked: argparse.Namespace) -> Result:
    return guided.run([name], FOLDER, runs=asked.runs, seconds=asked.seconds, seed=asked.seed)


def _decoding(asked: argparse.Namespace) -> Result:
    found = decoding.run(FOLDER, runs=asked.runs, seconds=asked.seconds, seed=asked.seed, first=asked.first)
    for outcome, times in sorted(found.counts.items()):
        print(f"  {times:,} {outcome}")
    print(f"  A child took at most {found.peak_mb:.0f} MB, and {found.cpu_s:.1f} s of CPU.")
    return Result(found.files, found.seconds, None, dict(found.findings))


def _replay(name: str, data: bytes) -> int:
    """Check one input, and show what it raises."""
    check: Callable[[bytes], object] = decoding.replay if name == DECODING else TARGETS[name].check
    try:
        print(f"{name}: {check(data) or 'nothing was found'}")
    except Exception:
        traceback.print_exc()
        return 1
    return 0


def _line(name: str, result: Result) -> str:
    speed = result.executions / max(result.seconds, 0.001)
    covered = "" if result.covered is None else f"{result.covered:,}"
    return _row(name, f"{result.executions:,}", f"{speed:,.0f}", covered, f"{len(result.findings):,}")


def _row(name: str, *numbers: str) -> str:
    return name.ljust(WIDTHS[0]) + "".join(
        text.rjust(width) for text, width in zip(numbers, WIDTHS[1:], strict=True)
    )


if __name__ == "__main__":
    sys.exit(main())
