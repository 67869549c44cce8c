"""What decoding really takes, in a process of its own for every measurement."""

import io
from pathlib import Path

from PIL import Image

from dropcap import animation, formats, memory, picture, pixels
from dropcap.decoders import DECODERS
from dropcap.settings import Settings
from infra.peak import peak_mb

CLEAR_REFS = Path("/proc/self/clear_refs")
NO_PEAK = "" if CLEAR_REFS.exists() else "this system does not tell the peak of a process"


def begin_anew() -> None:
    """The peak of this process is what it takes now (man 5 proc)."""
    CLEAR_REFS.write_text("5")


def peak_and_need(path: str, decoder: str, side: int) -> tuple[float, float]:
    """The peak of the resident set while one decoder decodes a file, beside the file, and its need, MB."""
    data = Path(path).read_bytes()
    kind = formats.recognized(data)
    if kind == "HEIF":
        picture._register_heif()
    [chosen] = [each for each in DECODERS if each.name == decoder]
    with Image.open(io.BytesIO(data), formats=(kind,)) as header:
        need = chosen.need_mb(header, data, side)
        memory.release()
        before = memory.rss_mb()
        begin_anew()
        chosen.decode(header, data, side)
        header.getexif()
    return peak_mb() - before, need


def frames_peak_and_need(path: str, side: int) -> tuple[float, float]:
    """The same of all frames of an animation, published in one size."""
    data = Path(path).read_bytes()
    settings = Settings(sizes=(side,))
    with picture.opened(data, settings) as source:
        facts = source.facts
    moving = animation.opened(data, facts, settings, memory.release)
    assert moving is not None, "an animation"
    memory.release()
    before = memory.rss_mb()
    begin_anew()
    assert moving.published(side, 80) is not None, "a WebP that moves"
    canvas = (facts.width, facts.height)
    width, height = pixels.fit(canvas, side)
    return peak_mb() - before, animation.need_mb(canvas, width * height, moving.frames, len(data))
