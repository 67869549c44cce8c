"""What decoding really takes: run by test_decoders.py in a process of its own for every measurement."""

import io
from pathlib import Path

from PIL import Image

from dropcap import memory, picture
from dropcap.decoders import DECODERS
from infra.peak import peak_mb


def peak_and_need(path: str, decoder: str, side: int) -> tuple[float, float]:
    """The peak of the resident set while one decoder decodes a file, beside the file, and its need, MB."""
    data = Path(path).read_bytes()
    kind = picture._format(data)
    if kind == "HEIF":
        picture._register_heif()
    [chosen] = [each for each in DECODERS if each.name == decoder]
    with Image.open(io.BytesIO(data), formats=(kind,)) as header:
        need = chosen.need_mb(header, data, side)
        memory.release()
        before = memory.rss_mb()
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew (man 5 proc)
        chosen.decode(header, data, side)
        header.getexif()
    return peak_mb() - before, need
