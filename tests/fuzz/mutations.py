"""Change real files at random, repeatably: the same number gives the same file."""

import random
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

from tests.fuzz.corpus import NUMBERS, WORDS

MAX_CHANGES = 6
MAX_BYTES = 300_000  # of a changed file
NEAR = 512  # bytes: headers are at the front, so half of the changes are there


def changed(files: Mapping[str, Sequence[bytes]], kind: str, number: str) -> bytes:
    """Return a changed file of a format. `number` chooses the file and the changes."""
    chosen = random.Random(number)  # noqa: S311  repeatable, not secret
    data = bytearray(chosen.choice(files[kind]))
    for _ in range(min(chosen.randint(1, MAX_CHANGES), chosen.randint(1, MAX_CHANGES))):
        if data:
            chosen.choice(CHANGES)(data, chosen, files[kind], kind)
    if kind == "PNG" and chosen.random() < 0.8:  # or each change but those of checksums would end there
        _mend_checksums(data)
    return bytes(data[:MAX_BYTES])


def _mend_checksums(data: bytearray) -> None:
    """Make the checksum of each chunk of a PNG right."""
    at = 8
    while at + 12 <= len(data):
        end = at + 8 + int.from_bytes(data[at : at + 4], "big")
        if end + 4 <= len(data):
            data[end : end + 4] = zlib.crc32(data[at + 4 : end]).to_bytes(4, "big")
        at = end + 4


def _at(data: bytearray, chosen: random.Random) -> int:
    return chosen.randrange(min(len(data), NEAR) if chosen.random() < 0.5 else len(data))


def _length(data: bytearray, chosen: random.Random) -> int:
    """Return the length of a part: as often a few bytes as most of the file."""
    return int(len(data) ** chosen.random())


def _flip(data: bytearray, chosen: random.Random, *_: object) -> None:
    data[_at(data, chosen)] ^= 1 << chosen.randrange(8)


def _byte(data: bytearray, chosen: random.Random, *_: object) -> None:
    data[_at(data, chosen)] = chosen.choice((0, 1, 0x7F, 0x80, 0xFF, chosen.randrange(256)))


def _number(data: bytearray, chosen: random.Random, *_: object) -> None:
    value, at = chosen.choice(NUMBERS), _at(data, chosen)
    data[at : at + len(value)] = value


def _add(data: bytearray, chosen: random.Random, *_: object) -> None:
    """Add a small number to one of 1, 2 or 4 bytes."""
    orders: tuple[Literal["big", "little"], ...] = ("big", "little")
    size, order = chosen.choice((1, 2, 4)), chosen.choice(orders)
    at = _at(data, chosen)
    value = int.from_bytes(data[at : at + size], order) + chosen.randint(-35, 35)
    data[at : at + size] = (value % 256**size).to_bytes(size, order)


def _cut(data: bytearray, chosen: random.Random, *_: object) -> None:
    del data[chosen.randrange(len(data)) :]


def _remove(data: bytearray, chosen: random.Random, *_: object) -> None:
    at = _at(data, chosen)
    del data[at : at + _length(data, chosen)]


def _repeat(data: bytearray, chosen: random.Random, *_: object) -> None:
    at = _at(data, chosen)
    part = data[at : at + _length(data, chosen)]
    data[at:at] = part * chosen.choice((1, 1, 2, 9))


def _noise(data: bytearray, chosen: random.Random, *_: object) -> None:
    at = _at(data, chosen)
    part = data[at : at + _length(data, chosen)]
    data[at : at + len(part)] = chosen.randbytes(len(part))


def _word(data: bytearray, chosen: random.Random, _: Sequence[bytes], kind: str) -> None:
    """Put a word of the format where another of them is, or anywhere."""
    word, other, at = chosen.choice(WORDS[kind]), chosen.choice(WORDS[kind]), _at(data, chosen)
    found = data.find(other, at)
    if found >= 0:
        data[found : found + len(other)] = word
    elif chosen.random() < 0.5:
        data[at : at + len(word)] = word
    else:
        data[at:at] = word


def _splice(data: bytearray, chosen: random.Random, files: Sequence[bytes], _: str) -> None:
    """Go on with another file of the format."""
    other = chosen.choice(files)
    data[_at(data, chosen) :] = other[chosen.randrange(len(other)) :]


def _insert(data: bytearray, chosen: random.Random, files: Sequence[bytes], _: str) -> None:
    """Put a part of another file of the format anywhere."""
    other, at = chosen.choice(files), _at(data, chosen)
    begin = chosen.randrange(len(other))
    data[at:at] = other[begin : begin + chosen.choice((4, 16, 64, 1024))]


Change = Callable[[bytearray, random.Random, Sequence[bytes], str], None]
CHANGES: tuple[Change, ...] = (
    *(_flip, _flip, _byte, _byte, _number, _number, _add, _add, _cut, _remove, _repeat, _noise, _word, _word),
    *(_splice, _insert),
)
