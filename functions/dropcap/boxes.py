"""Read the sizes in the boxes of a HEIF or AVIF file (ISO/IEC 14496-12, 23008-12; AV1-ISOBMFF, AVIF)."""

import struct
from collections.abc import Iterator
from typing import NamedTuple

from dropcap import bits
from dropcap.bits import Size

# Container boxes, with the bytes that precede their children; a sample description is one as well.
CONTAINERS = {b"meta": 4, b"iprp": 0, b"ipco": 0, b"moov": 0, b"trak": 0, b"mdia": 0, b"minf": 0, b"stbl": 0}
CONTAINERS |= {b"stsd": 8, b"av01": 78, b"hvc1": 78, b"hev1": 78}
HEVC_ITEMS, AV1_ITEMS = frozenset({b"hvc1", b"hev1", b"lhv1"}), frozenset({b"av01"})
DERIVED_ITEMS = frozenset({b"grid", b"iovl"})
SAID, CODED, DERIVED = "said", "coded", "derived"  # where a size comes from
MOST_BOXES = 200_000  # a grid of 10,000 tiles has 10,000 items with a box each
DEEPEST = 8
MOST_READ = 4  # times the file's size: items may share bytes, but not most of them


class Box(NamedTuple):
    """A box: its body is between `start` and `end`."""

    name: bytes
    start: int
    end: int


class _Contents:
    """What a walk through a file's boxes collects and evaluates at its end."""

    def __init__(self) -> None:
        self.kinds: set[tuple[int, bytes]] = set()  # of items: (id, type)
        self.places: list[tuple[int, bool, list[tuple[int, int]]]] = []  # id, in idat or not, (at, length)
        self.idats: list[int] = []
        self.chunks: list[int] = []  # offset of the first sample of a track
        self.samples: list[int] = []  # and its length
        self.prefixes = {4}  # bytes of a NAL unit's length
        self.tracks: set[bytes] = set()  # how they are coded


def claims(data: bytes) -> Iterator[Size]:
    """Yield every size: of items, of derived items, of tracks, and in their bitstreams.

    Raises ValueError if there are more boxes, or longer items, than in any real picture.
    """
    return (size for _, size in _labelled(data))


def working_px(data: bytes) -> int:
    """Return how many px a decoder holds at once: those of the largest size, and a tile beside its grid.

    Raises ValueError as `claims` does.
    """
    most = {SAID: 0, CODED: 0, DERIVED: 0}
    for label, (width, height) in _labelled(data):
        most[label] = max(most[label], width * height)
    return max(most.values()) + (most[CODED] if most[DERIVED] else 0)


def codecs(data: bytes) -> set[bytes]:
    """Return the codecs of items and tracks, by their types in ISO/IEC 23008-12; `mini` is a file layout.

    Raises ValueError as `claims` does.
    """
    found = _Contents()
    for box in boxes(data):
        for _ in _of_box(box, data, found):
            pass
    return {kind for _, kind in found.kinds} | found.tracks


def _labelled(data: bytes) -> Iterator[tuple[str, Size]]:
    found = _Contents()
    for box in boxes(data):
        yield from _of_box(box, data, found)
    view, left = memoryview(data), MOST_READ * len(data)
    for item, inside, places in found.places:
        kinds = {kind for kind in HEVC_ITEMS | AV1_ITEMS | DERIVED_ITEMS if (item, kind) in found.kinds}
        for start in (found.idats if inside else [0]) if kinds else []:
            parts = [view[start + at :][:length] if length else view[start + at :] for at, length in places]
            left -= sum(map(len, parts))
            if left < 0:
                raise ValueError("items are longer than the file")
            body = b"".join(parts)
            for kind in kinds:
                yield from _of_item(kind, body, found.prefixes)
    for chunk, length in zip(found.chunks, found.samples, strict=False):
        for kind in found.tracks:
            yield from _of_item(kind, data[chunk : chunk + length], found.prefixes)


def _of_item(kind: bytes, body: bytes, prefixes: set[int]) -> Iterator[tuple[str, Size]]:
    if kind in DERIVED_ITEMS:
        yield from ((DERIVED, size) for size in _derived(kind, body))
    elif kind in AV1_ITEMS:
        yield from ((CODED, size) for size in bits.av1(body))
    else:
        for prefix in prefixes:
            yield from ((CODED, size) for size in bits.hevc(body, prefix))


def boxes(data: bytes) -> Iterator[Box]:
    """Yield the boxes of a file, each before its children.

    Raises ValueError if there are too many, or they are nested too deeply.
    """
    waiting, seen = [(0, len(data), 0)], 0
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
            seen += 1
            if seen > MOST_BOXES or depth > DEEPEST:
                raise ValueError(f"more than {MOST_BOXES:,} boxes, or deeper ones than {DEEPEST}")
            if name in CONTAINERS:
                waiting.append((start + CONTAINERS[name], stop, depth + 1))
            at = stop


def _of_box(box: Box, data: bytes, found: _Contents) -> Iterator[tuple[str, Size]]:
    body = data[box.start : min(box.end, box.start + 4096)]
    match box.name:
        case b"ispe":
            if len(body) >= 12:
                yield SAID, struct.unpack_from(">2I", body, 4)
        case b"tkhd":
            at = 88 if body[:1] > b"\0" else 76
            if len(body) >= at + 8:
                width, height = struct.unpack_from(">2I", body, at)
                yield SAID, (width >> 16, height >> 16)
        case b"av01" | b"hvc1" | b"hev1":
            found.tracks.add(box.name)
            if len(body) >= 28:
                yield SAID, struct.unpack_from(">2H", body, 24)
        case b"av1C":
            yield from ((CODED, size) for size in bits.av1(body[4:]))
        case b"hvcC":
            found.prefixes.add((body[21:22] or b"\3")[0] % 4 + 1)
            yield from ((CODED, size) for size in _hvcc(body))
        case b"mini":
            found.kinds.add((0, b"mini"))
        case b"idat":
            found.idats.append(box.start)
        case b"infe":
            if len(body) >= 12 and body[0] in (2, 3):
                size = 2 if body[0] == 2 else 4
                found.kinds.add((int.from_bytes(body[4 : 4 + size], "big"), body[6 + size : 10 + size]))
        case b"iinf":
            wide = 4 if body[:1] > b"\0" else 2
            for each in boxes(data[box.start + 4 + wide : box.end]):
                start = box.start + 4 + wide
                yield from _of_box(Box(each.name, start + each.start, start + each.end), data, found)
        case b"iloc":
            found.places += _iloc(data[box.start : box.end])
        case b"stco" | b"co64":
            width = 4 if box.name == b"stco" else 8
            found.chunks.append(int.from_bytes(body[8 : 8 + width], "big"))
        case b"stsz":
            uniform, first = int.from_bytes(body[4:8], "big"), int.from_bytes(body[12:16], "big")
            found.samples.append(uniform or first)


def _hvcc(body: bytes) -> Iterator[Size]:
    """Yield the sizes in an HEVC decoder configuration record (ISO/IEC 14496-15, 8.3.3.1)."""
    at = 23
    for _ in range((body[22:23] or b"\0")[0]):
        units = int.from_bytes(body[at + 1 : at + 3], "big")
        at += 3
        for _ in range(min(units, 64)):
            length = int.from_bytes(body[at : at + 2], "big")
            yield from bits.hevc_unit(body[at + 2 : at + 2 + length])
            at += 2 + length


def _iloc(body: bytes) -> list[tuple[int, bool, list[tuple[int, int]]]]:
    """Return where items are (ISO/IEC 14496-12, 8.11.3): id, whether in `idat`, (offset, length) by part."""
    at = 0

    def take(count: int) -> int:
        nonlocal at
        at += count
        if at > len(body):
            raise EOFError
        return int.from_bytes(body[at - count : at], "big")

    places: list[tuple[int, bool, list[tuple[int, int]]]] = []
    try:
        version, _, sizes = take(1), take(3), take(2)
        offset, length, base, index = (sizes >> shift & 15 for shift in (12, 8, 4, 0))
        for _ in range(take(2 if version < 2 else 4)):
            item = take(2 if version < 2 else 4)
            method = take(2) & 15 if version else 0
            take(2)
            start, parts = take(base), []
            for _ in range(take(2)):
                take(index if version else 0)
                parts.append((start + take(offset), take(length)))
                if not offset + length + index:
                    break
            places.append((item, method == 1, parts))
    except EOFError:  # the file is cut here
        pass
    return places


def _derived(kind: bytes, body: bytes) -> Iterator[Size]:
    """Yield the canvas size of a grid or an overlay (ISO/IEC 23008-12, 6.6.2.3)."""
    at = 4 if kind == b"grid" else 10
    size = ">2I" if body[1:2] > b"\0" and body[1] & 1 else ">2H"
    if len(body) >= at + struct.calcsize(size):
        yield struct.unpack_from(size, body, at)
