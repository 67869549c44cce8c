"""No decoder takes more memory than estimated for the hardest kinds; `make estimates` measures all."""

from collections.abc import Callable
from itertools import chain

import pytest

from tests.memory.estimates import measured
from tests.memory.kinds import kinds
from tests.memory.taken import NO_PEAK

SIZE = (2100, 1400)  # px: 2.9 MP
HARD = (
    "AVIF RGBA 4:4:4",
    "GIF bare",
    "HEIC RGBA 444 10 bits",
    "TIFF CMYK 8 bits deflate in large tiles",
    "TIFF RGB 16 bits in large tiles",
    "TIFF RGB 16 bits in one strip planar",
    "TIFF YCbCr JPEG in one strip",
    "TIFF YCbCr JPEG progressive in one strip",
)


@pytest.mark.skipif(bool(NO_PEAK), reason=NO_PEAK)
def test_no_decoder_takes_more_memory_than_estimated() -> None:
    every = kinds()
    rows = [*measured({name: every[name] for name in HARD}, SIZE)]
    assert {row.kind for row in rows} == {*HARD}
    assert [(row.kind, row.decoder, row.need, row.peak) for row in rows if not row.holds] == []
    assert [(row.kind, row.decoder) for row in rows if row.peak < 1] == []  # decoded, not refused


def test_every_kind_has_its_own_file() -> None:
    every: dict[str, Callable[[tuple[int, int]], bytes]] = kinds()
    formats = {name.partition(" ")[0] for name in every}
    assert formats == {"JPEG", "PNG", "GIF", "BMP", "WebP", "AVIF", "HEIC", "TIFF"}
    made = [every[name]((24, 16)) for name in chain(HARD, ("PNG L 1 bits", "WebP animated"))]
    assert len({*made}) == len(made)
