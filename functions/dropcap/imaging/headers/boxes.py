"""Read the sizes in the boxes of a HEIF or AVIF file (ISO/IEC 14496-12, 23008-12; AV1-ISOBMFF, AVIF)."""

import struct
from collections.abc import Iterator
from typing import NamedTuple

from dropcap.imaging.headers import bitstreams
from dropcap.imaging.headers.bitstreams import Bytes, Limit, Size

# Container boxes, with the bytes that precede their children; a sample description is one as well.
CONTAINERS = {b"meta": 4, b"iprp": 0, b"ipco": 0, b"moov": 0, b"trak": 0, b"mdia": 0, b"minf": 0, b"stbl": 0}
CONTAINERS |= {b"iinf": 6, b"stsd": 8, b"av01": 78, b"hvc1": 78, b"hev1": 78}
HEVC_ITEMS, AV1_ITEMS = frozenset({b"hvc1", b"hev1", b"lhv1"}), frozenset({b"av01"})
DERIVED_ITEMS = frozenset({b"grid", b"iovl"})
DECLARED, CODED, DERIVED = "declared", "coded", "derived"  # where a size comes from
# A grid of 10,000 tiles has 10,000 items, each with a box, a location and at least one unit.
MAX_BOXES, MAX_LOCATIONS, MAX_UNITS, MAX_IDATS = 200_000, 50_000, 50_000, 4
MAX_DEPTH = 8


class Box(NamedTuple):
    """A box: its body is between `start` and `end`."""

    name: bytes
    start: int
    end: int


ItemLocation = tuple[int, bool, tuple[tuple[int, int], ...]]
"""Where an item is: its id, whether in `idat`, and (at, length) of each part."""


class _Items:
    """What a walk through a file's boxes collects and evaluates at its end."""

    def __init__(self) -> None:
        self.kinds: set[tuple[int, bytes]] = set()  # of items: (id, type)
        self.locations: dict[
            ItemLocation, None
        ] = {}  # each once: a sequence lists those of its metadata twice
        self.location_limit, self.units = Limit(MAX_LOCATIONS, "locations"), Limit(MAX_UNITS, "units")
        self.idats: list[int] = []
        self.chunks: list[int] = []  # offset of the first sample of a track
        self.samples: list[int] = []  # and its length
        self.prefixes = {4}  # bytes of a NAL unit's length
        self.tracks: set[bytes] = set()  # how they are coded


def claimed_sizes(data: bytes) -> Iterator[Size]:
    """Yield every size: of items, of derived items, of tracks, and in their bitstreams.

    Raises ValueError if there are more boxes, or longer items, than in any real picture.
    """
    return (size for _, size in _labelled(data))


def working_px(data: bytes) -> int:
    """Return how many px a decoder holds at once: those of the largest size, and a tile beside its grid.

    Raises ValueError as `claimed_sizes` does.
    """
    most = {DECLARED: 0, CODED: 0, DERIVED: 0}
    for label, (width, height) in _labelled(data):
        most[label] = max(most[label], width * height)
    return max(most.values()) + (most[CODED] if most[DERIVED] else 0)


def codecs(data: bytes) -> set[bytes]:
    """Return the codecs of items and tracks, by their types in ISO/IEC 23008-12; `mini` is a file layout.

    Raises ValueError as `claimed_sizes` does.
    """
    found = _Items()
    for box in boxes(data):
        for _ in _box_sizes(box, data, found):
            pass
    return {kind for _, kind in found.kinds} | found.tracks


def _labelled(data: bytes) -> Iterator[tuple[str, Size]]:
    found = _Items()
    for box in boxes(data):
        yield from _box_sizes(box, data, found)
    view = memoryview(data)
    copied = Limit(len(data), "bytes in its items")  # copied here or, if they are metadata, by libheif
    for item, inside, locations in found.locations:
        kinds = {kind for kind in HEVC_ITEMS | AV1_ITEMS | DERIVED_ITEMS if (item, kind) in found.kinds}
        for start in found.idats if inside else [0]:
            parts = [
                view[start + at :][:length] if length else view[start + at :] for at, length in locations
            ]
            if len(parts) > 1 or not kinds:
                copied.take(sum(map(len, parts)))
            body = parts[0] if len(parts) == 1 else b"".join(parts) if kinds else b""
            for kind in kinds:
                yield from _item_sizes(kind, body, found)
    for chunk, length in zip(found.chunks, found.samples, strict=False):
        for kind in found.tracks:
            yield from _item_sizes(kind, view[chunk : chunk + length], found)


def _item_sizes(kind: bytes, body: Bytes, found: _Items) -> Iterator[tuple[str, Size]]:
    found.units.take()
    if kind in DERIVED_ITEMS:
        yield from ((DERIVED, size) for size in _derived(kind, bytes(body[:64])))
    elif kind in AV1_ITEMS:
        yield from ((CODED, size) for size in bitstreams.av1(body, found.units))
    else:
        for prefix in found.prefixes:
            yield from ((CODED, size) for size in bitstreams.hevc(body, prefix, found.units))


def boxes(data: bytes) -> Iterator[Box]:
    """Yield the boxes of a file, each before its children.

    Raises ValueError if there are too many, or they are nested too deeply.
    """
    waiting, limit = [(0, len(data), 0)], Limit(MAX_BOXES, "boxes")
    while waiting:
        at, end, depth = waiting.pop()
        while at + 8 <= end:
            length, name = struct.unpack_from(">I4s", data, at)
            start = at + 8
            if length == 1 and at + 16 <= end:
                [length], start = struct.unpack_from(">Q", data, start), start + 8
            stop = end if length == 0 else min(at + length, end)
            if length and at + length < start:
                break
            yield Box(name, start, stop)
            limit.take()
            if depth > MAX_DEPTH:
                raise ValueError(f"boxes deeper than {MAX_DEPTH}")
            if name in CONTAINERS:
                wide = 2 * (name == b"iinf" and data[start : start + 1] > b"\0")
                waiting.append((start + CONTAINERS[name] + wide, stop, depth + 1))
            at = stop


def _box_sizes(box: Box, data: bytes, found: _Items) -> Iterator[tuple[str, Size]]:
    body = data[box.start : min(box.end, box.start + 4096)]
    match box.name:
        case b"ispe":
            if len(body) >= 12:
                yield DECLARED, struct.unpack_from(">2I", body, 4)
        case b"tkhd":
            at = 88 if body[:1] > b"\0" else 76
            if len(body) >= at + 8:
                width, height = struct.unpack_from(">2I", body, at)
                yield DECLARED, (width >> 16, height >> 16)
        case b"av01" | b"hvc1" | b"hev1":
            found.tracks.add(box.name)
            if len(body) >= 28:
                yield DECLARED, struct.unpack_from(">2H", body, 24)
        case b"av1C":
            yield from ((CODED, size) for size in bitstreams.av1(body[4:], found.units))
        case b"hvcC":
            found.prefixes.add((body[21:22] or b"\3")[0] % 4 + 1)
            yield from ((CODED, size) for size in _hvcc(body, found.units))
        case b"mini":
            found.kinds.add((0, b"mini"))
        case b"idat":
            found.idats.append(box.start)
            if len(found.idats) > MAX_IDATS:
                raise ValueError(f"more than {MAX_IDATS} boxes of data")
        case b"infe":
            if len(body) >= 12 and body[0] in (2, 3):
                size = 2 if body[0] == 2 else 4
                found.kinds.add((int.from_bytes(body[4 : 4 + size], "big"), body[6 + size : 10 + size]))
        case b"iloc":
            found.locations |= dict.fromkeys(
                _iloc(memoryview(data)[box.start : box.end], found.location_limit)
            )
        case b"stco" | b"co64":
            width = 4 if box.name == b"stco" else 8
            found.chunks.append(int.from_bytes(body[8 : 8 + width], "big"))
        case b"stsz":
            uniform, first = int.from_bytes(body[4:8], "big"), int.from_bytes(body[12:16], "big")
            found.samples.append(uniform or first)


def _hvcc(body: bytes, limit: Limit) -> Iterator[Size]:
    """Yield the sizes in an HEVC decoder configuration record (ISO/IEC 14496-15, 8.3.3.1)."""
    at = 23
    for _ in range((body[22:23] or b"\0")[0]):
        units = int.from_bytes(body[at + 1 : at + 3], "big")
        at += 3
        for _ in range(min(units, 64)):
            limit.take()
            length = int.from_bytes(body[at : at + 2], "big")
            yield from bitstreams.hevc_unit(body[at + 2 : at + 2 + length])
            at += 2 + length


def _iloc(body: memoryview, limit: Limit) -> list[ItemLocation]:
    """Return where items are (ISO/IEC 14496-12, 8.11.3)."""
    at = 0

    def take(count: int) -> int:
        nonlocal at
        at += count
        if at > len(body):
            raise EOFError
        return int.from_bytes(body[at - count : at], "big")

    locations: list[ItemLocation] = []
    try:
        version, _, sizes = take(1), take(3), take(2)
        offset, length, base, index = (sizes >> shift & 15 for shift in (12, 8, 4, 0))
        for _ in range(take(2 if version < 2 else 4)):
            limit.take()
            item = take(2 if version < 2 else 4)
            method = take(2) & 15 if version else 0
            take(2)
            start, parts = take(base), []
            for _ in range(take(2)):
                limit.take()
                take(index if version else 0)
                parts.append((start + take(offset), take(length)))
                if not offset + length + index:
                    break
            locations.append((item, method == 1, tuple(parts)))
    except EOFError:  # the file is cut here
        pass
    return locations


def _derived(kind: bytes, body: bytes) -> Iterator[Size]:
    """Yield the canvas size of a grid or an overlay (ISO/IEC 23008-12, 6.6.2.3)."""
    at = 4 if kind == b"grid" else 10
    size = ">2I" if body[1:2] > b"\0" and body[1] & 1 else ">2H"
    if len(body) >= at + struct.calcsize(size):
        yield struct.unpack_from(size, body, at)
