"""Read colour properties of AVIF and HEIF, above all `nclx` (ISO/IEC 14496-12, 12.1.5)."""

import struct
from collections.abc import Iterator
from contextlib import suppress

from dropcap.imaging.headers.bitstreams import Limit

MAX_LINKS = 200_000  # from items to properties; a grid of 10,000 tiles has 40,000


def is_grey(data: bytes) -> bool:
    """Return whether the primary picture is monochrome (AV1-ISOBMFF 2.3.3: bit 4 of byte 3)."""
    with suppress(struct.error, IndexError, ValueError):  # damaged: the decoder says so
        for start, end in _boxes_named(data, b"meta", 0, len(data)):
            for box in _properties(data, start + 4, end):
                if box[:4] == b"av1C":
                    return bool(box[6] & 0x10)
    return False


def codes(data: bytes) -> tuple[int, int, int] | None:
    """Return primaries and transfer characteristics (ITU-T H.273) of the primary picture, and its peak.

    The peak is in nits (`clli`, ISO/IEC 14496-12, 12.1.6), 0 if unknown.
    """
    try:
        for start, end in _boxes_named(data, b"meta", 0, len(data)):
            found = list(_properties(data, start + 4, end))
            bright = next((int.from_bytes(box[4:6], "big") for box in found if box[:4] == b"clli"), 0)
            for box in found:
                if box[:8] == b"colrnclx" and len(box) >= 12:
                    return (*struct.unpack_from(">2H", box, 8), bright)
            return None
    except (struct.error, IndexError, ValueError):  # damaged: the decoder says so
        return None
    at = data.find(b"colrnclx")  # a sequence without items
    return (*struct.unpack_from(">2H", data, at + 8), 0) if 0 <= at <= len(data) - 12 else None


def _properties(data: bytes, start: int, end: int) -> Iterator[bytes]:
    """Yield the properties of the primary item, each starting with its name (ISO/IEC 23008-12, 9.3).

    Raises ValueError if there are too many links to properties.
    """
    limit = Limit(MAX_LINKS, "links to properties")
    [pitm, _] = next(_boxes_named(data, b"pitm", start, end), (0, 0))
    form = ">I" if data[pitm] else ">H"
    [primary] = struct.unpack_from(form, data, pitm + 4)
    for iprp in _boxes_named(data, b"iprp", start, end):
        boxes = [
            data[at - 4 : min(stop, at + 64)]
            for ipco in _boxes_named(data, b"ipco", *iprp)
            for _, at, stop in _boxes(data, *ipco)
        ]
        for at, _ in _boxes_named(data, b"ipma", *iprp):
            version, wide = data[at], data[at + 3] & 1
            [count] = struct.unpack_from(">I", data, at + 4)
            at += 8
            for _ in range(count):
                [item] = struct.unpack_from(">I" if version else ">H", data, at)
                at += 4 if version else 2
                links = data[at]
                limit.take(1 + links)
                for link in range(at + 1, at + 1 + links * (1 + wide), 1 + wide):
                    index = int.from_bytes(data[link : link + 1 + wide], "big") & (0x7FFF if wide else 0x7F)
                    if item == primary and 0 < index <= len(boxes):
                        yield boxes[index - 1]
                at += 1 + links * (1 + wide)


def _boxes_named(data: bytes, name: bytes, start: int, end: int) -> Iterator[tuple[int, int]]:
    return ((at, stop) for kind, at, stop in _boxes(data, start, end) if kind == name)


def _boxes(data: bytes, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Yield name, start and end of the body of each box (ISO/IEC 14496-12, 4.2)."""
    while start + 8 <= end:
        length, name = struct.unpack_from(">I4s", data, start)
        head = 8
        if length == 1:
            [length], head = struct.unpack_from(">Q", data, start + 8), 16
        stop = min(start + length, end) if length else end
        if stop < start + head:
            return
        yield name, start + head, stop
        start = stop
