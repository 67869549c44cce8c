"""`make estimates`: compare each decoder's peak memory with its estimate, for every kind of file."""

import argparse
import multiprocessing
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path

from rich.console import Console
from rich.table import Table

from dropcap.imaging.decoders.ranking import DECODERS
from tests.memory.kinds import kinds
from tests.memory.taken import NO_PEAK, peak_and_need

SIDE = 1600  # px of the decoded picture


@dataclass(frozen=True, slots=True)
class Row:
    """Peak and estimate of one decoder for one kind, MB."""

    kind: str
    decoder: str
    px: int
    need: float
    peak: float

    @property
    def holds(self) -> bool:
        """Return whether the estimate was enough."""
        return self.peak <= self.need


def main(words: Sequence[str] | None = None) -> int:
    """Measure and print; the exit status is 1 if a decoder exceeded its estimate."""
    parser = argparse.ArgumentParser(prog="make estimates", description=__doc__)
    parser.add_argument("--width", type=int, default=4000, help="of the pictures, px; they are 3 : 2")
    parser.add_argument("--only", default="", help="kinds whose name contains this")
    parser.add_argument("--but", default="", help="no kinds whose name contains this")
    asked = parser.parse_args(words)
    if NO_PEAK:
        print(f"make estimates: {NO_PEAK}", file=sys.stderr)
        return 2
    size = (asked.width, asked.width * 2 // 3)
    chosen = {
        name: make
        for name, make in kinds().items()
        if asked.only in name and (not asked.but or asked.but not in name)
    }
    table = Table("kind", "decoder", "says, MB", "took, MB", "bytes a px", "")
    rows = []
    for row in measured(chosen, size):
        rows.append(row)
        bytes_a_px = row.peak * 1e6 / row.px
        more = "" if row.holds else "MORE"
        table.add_row(row.kind, row.decoder, f"{row.need:.0f}", f"{row.peak:.0f}", f"{bytes_a_px:.1f}", more)
    Console(width=120).print(table)
    short = sum(not row.holds for row in rows)
    print(f"{len(chosen)} kinds of {size[0]} x {size[1]} px, {len(rows)} measured, {short} took more")
    return 1 if short else 0


def measured(made: dict[str, Callable[[tuple[int, int]], bytes]], size: tuple[int, int]) -> Iterator[Row]:
    """Yield a row for each kind and each decoder that supports it."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.memory.taken"])
    with tempfile.TemporaryDirectory() as folder, context.Pool(1, maxtasksperchild=1) as pool:
        file = Path(folder) / "picture"
        for name, make in made.items():
            file.write_bytes(make(size))
            for decoder in DECODERS:
                peak, need = pool.apply(peak_and_need, (str(file), decoder.name, SIDE))
                if need < inf:
                    yield Row(name, decoder.name, size[0] * size[1], need, peak)


if __name__ == "__main__":
    sys.exit(main())
