"""Read the image file directories of a TIFF without a library (TIFF 6.0; BigTIFF; DNG 1.7)."""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from dropcap.imaging.headers.bitstreams import Limit, Size

SUBFILE, OLD_SUBFILE, WIDTH, LENGTH, PHOTOMETRIC, TILE_WIDTH, TILE_LENGTH = 254, 255, 256, 257, 262, 322, 323
SUB_DIRECTORIES, DNG_VERSION = 330, 50706
WANTED = frozenset({SUBFILE, OLD_SUBFILE, WIDTH, LENGTH, PHOTOMETRIC, TILE_WIDTH, TILE_LENGTH})
WANTED |= {SUB_DIRECTORIES, DNG_VERSION}
REDUCED, MASK = 1, 4  # bits of SUBFILE
OLD_REDUCED = 2
SENSOR = frozenset({32803, 34892})  # photometric: a colour filter array (TIFF/EP), LinearRaw (DNG)
TYPES = {1: "B", 3: "H", 4: "I", 6: "b", 7: "B", 8: "h", 9: "i", 13: "I", 16: "Q", 17: "q", 18: "Q"}
MAX_VALUES = 256  # values read of a tag; the tags used here have few
# Numbers in one tag, of which Pillow makes objects of 16 to 200 bytes: a colour map of 16 bits has 196,608,
# and 100 megapixels in the smallest tiles have 390,625 offsets.
MAX_NUMBERS, MAX_OFFSETS = 200_000, 400_000
OFFSETS = frozenset({273, 279, 324, 325})  # offsets and byte counts of strips and tiles
PRIVATE, OF_BYTES = 32768, frozenset({1, 2, 6, 7})  # the first private tag; types that Pillow keeps as bytes
MAX_ENTRIES = 200_000  # entries and values of all directories
# Camera raw files that begin like a TIFF, or nearly: Olympus' ORF and Panasonic's RW2; at offset 8, Canon's
# CR2 and Phase One's IIQ.
RAW_BEGINNINGS = (b"IIRO", b"IIRS", b"MMOR", b"IIU\0")
RAW_AT_8 = (b"CR", b"IIII", b"MMMM")


@dataclass(frozen=True, slots=True)
class Directory:
    """One directory: offset and tags; `page` is its index in the main chain, None outside it."""

    at: int
    page: int | None
    tags: dict[int, list[int]]

    @property
    def size(self) -> Size:
        """Return width and height in px, 0 if missing."""
        return self._first(WIDTH), self._first(LENGTH)

    @property
    def tile(self) -> Size:
        """Return width and height of a tile in px, 0 if missing."""
        return self._first(TILE_WIDTH), self._first(TILE_LENGTH)

    @property
    def is_full(self) -> bool:
        """Return whether it holds a picture of its own, not a reduced copy or a mask of another."""
        return not self._first(SUBFILE) & (REDUCED | MASK) and self._first(OLD_SUBFILE) != OLD_REDUCED

    def _first(self, tag: int) -> int:
        return max(0, 0, *self.tags.get(tag, ()))


@dataclass(frozen=True, slots=True)
class Pages:
    """The number of full pages, and the offset of the largest one's directory; `first` is that of page 0."""

    full: int
    largest: int
    first: int


def directories(data: bytes) -> Iterator[Directory]:
    """Yield the pages and their subdirectories, each once, however they are linked.

    Raises ValueError if there are more entries or values than in any real picture.
    """
    read = _Reader(data)
    big = read.big
    waiting: list[tuple[int, int | None]] = [(read.offset(8 if big else 4), 0)]
    visited: set[int] = set()
    limit = Limit(MAX_ENTRIES, "entries and values in its directories")
    while waiting:
        at, page = waiting.pop()
        if at in visited or not 0 < at < len(data):
            continue
        visited.add(at)
        count = read.number(data[at : at + (8 if big else 2)])
        start, size = at + (8 if big else 2), 20 if big else 12
        body = data[start : start + min(count, MAX_ENTRIES) * size]
        limit.take(len(body) // size + 1)
        tags: dict[int, list[int]] = {}
        for index in range(0, len(body) - size + 1, size):
            tag, kind = read.number(body[index : index + 2]), read.number(body[index + 2 : index + 4])
            count_of_it = read.number(body[index + 4 : index + (12 if big else 8)])
            if tag < PRIVATE and kind not in OF_BYTES:
                Limit(MAX_OFFSETS if tag in OFFSETS else MAX_NUMBERS, "values of a tag").take(count_of_it)
            if tag in WANTED:
                values = read.values(body[index : index + size])
                limit.take(len(values))
                tags.setdefault(tag, []).extend(values)
        yield Directory(at, page, tags)
        if page is not None:
            waiting.append((read.offset(start + count * size), page + 1))
        waiting += [(each, None) for each in tags.get(SUB_DIRECTORIES, ())]


def claimed_sizes(data: bytes) -> Iterator[Size]:
    """Yield the sizes of each directory: picture and tile.

    Raises ValueError as `directories` does.
    """
    for directory in directories(data):
        yield directory.size
        yield directory.tile


def is_raw(data: bytes) -> bool:
    """Return whether a TIFF is camera raw: sensor data with a small preview.

    Raises ValueError as `directories` does.
    """
    if data[8:10] == RAW_AT_8[0] or data[8:12] in RAW_AT_8[1:]:
        return True
    for directory in directories(data):
        if DNG_VERSION in directory.tags or SENSOR & set(directory.tags.get(PHOTOMETRIC, ())):
            return True
        if directory.page == 0 and not directory.is_full and SUB_DIRECTORIES in directory.tags:
            return True
    return False


def pages(data: bytes) -> Pages:
    """Return which page to publish: the largest full one, else the largest.

    Raises ValueError as `directories` does.
    """
    chain = [each for each in directories(data) if each.page is not None]
    full = [each for each in chain if each.is_full]
    largest = max(full or chain, key=lambda each: each.size[0] * each.size[1], default=Directory(0, 0, {}))
    return Pages(len(full), largest.at, chain[0].at if chain else 0)


def from_page(data: bytes, at: int) -> bytes:
    """Return the file with the directory at `at` as its first, so that every library decodes that page."""
    read = _Reader(data)
    start, size = (8, 8) if read.big else (4, 4)
    return data[:start] + at.to_bytes(size, read.order) + data[start + size :]


class _Reader:
    """Read numbers in a file's byte order and word size."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.order: Literal["little", "big"] = "little" if data[:2] == b"II" else "big"
        self.big = data[2:4] in (b"+\0", b"\0+")

    def number(self, field: bytes) -> int:
        return int.from_bytes(field, self.order)

    def offset(self, at: int) -> int:
        return self.number(self._data[at : at + (8 if self.big else 4)])

    def values(self, entry: bytes) -> tuple[int, ...]:
        """Return the integers of a directory entry; none if it has another type."""
        kind = TYPES.get(self.number(entry[2:4]))
        if kind is None:
            return ()
        length = struct.calcsize(f"={kind}")
        count = min(self.number(entry[4 : 12 if self.big else 8]), MAX_VALUES)
        field = entry[12 if self.big else 8 :]
        if count * length > len(field):
            at = self.number(field)
            field = self._data[at : at + count * length]
        order = "<" if self.order == "little" else ">"
        return struct.unpack_from(f"{order}{min(count, len(field) // length)}{kind}", field)
