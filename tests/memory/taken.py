"""Measure the memory that decoding takes, in a separate process."""

from contextlib import suppress
from math import inf
from pathlib import Path

from dropcap.imaging import decoder_errors, decoding
from dropcap.imaging.decoders.ranking import DECODERS
from dropcap.imaging.headers import formats
from dropcap.runtime import memory
from tests.memory.peak import peak_mb

CLEAR_REFS = Path("/proc/self/clear_refs")
NO_PEAK = "" if CLEAR_REFS.exists() else "this system does not tell the peak of a process"


def begin_anew() -> None:
    """Reset the peak of this process to its present size (man 5 proc)."""
    CLEAR_REFS.write_text("5")


def peak_and_need(path: str, decoder: str, side: int) -> tuple[float, float]:
    """Return the peak resident set while decoding, without the file itself, and the estimated need, MB.

    The peak is 0 and the need infinite if the decoder does not support the kind.
    """
    data = Path(path).read_bytes()
    kind = formats.detect_format(data)
    if kind == "HEIF":
        decoding.register_heif()
    [chosen] = [each for each in DECODERS if each.name == decoder]
    try:
        header = decoder_errors.read_header(kind, data)
    except Exception:  # the next reader may support it
        return 0.0, inf
    with header, decoder_errors.collect_warnings(kind):
        need = chosen.need_mb(header, data, side)
        if need == inf:
            return 0.0, inf
        memory.release()
        before = memory.rss_mb()
        begin_anew()
        with suppress(Exception):  # it may fail only now
            chosen.decode(header, data, side)
    return peak_mb() - before, need
