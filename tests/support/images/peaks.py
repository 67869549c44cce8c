"""Measure the memory of decoding, each time in a new process."""

from pathlib import Path

from dropcap.imaging import animation, decoding, rasters
from dropcap.runtime import memory
from dropcap.settings import Settings
from tests.memory.peak import peak_mb
from tests.memory.taken import begin_anew


def frames_peak_and_need(path: str, side: int) -> tuple[float, float]:
    """Return the measured peak and the estimate, MB, of encoding an animation in one size."""
    data = Path(path).read_bytes()
    settings = Settings(sizes=(side,))
    with decoding.open_picture(data, settings) as source:
        facts = source.facts
    moving = animation.open_animation(data, facts, settings.sizes, decoding.admit_first)
    assert moving is not None, "an animation"
    memory.release()
    before = memory.rss_mb()
    begin_anew()
    assert moving.encode(side, 80) is not None, "a WebP that moves"
    canvas = (facts.width, facts.height)
    width, height = rasters.fit(canvas, side)
    return peak_mb() - before, animation.need_mb(canvas, width * height, moving.frames, len(data))
