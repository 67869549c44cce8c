"""Read the picture sizes in HEVC and AV1 bitstreams: decoders allocate memory by them."""

from collections.abc import Iterator
from contextlib import suppress

Size = tuple[int, int]
Bytes = bytes | memoryview
HEVC_SPS = 33  # nal_unit_type of a sequence parameter set (ITU-T H.265, table 7-1)
HEVC_PADDING = 63  # px that the coded side may exceed the shown one: the largest coding block is 64 px
AV1_SEQUENCE, AV1_FRAMES = 1, (3, 6, 7)  # obu_type (AV1 bitstream specification, 6.2.2)
SELECT = 2  # the sequence leaves the choice to each frame (AV1, 5.5.1)
MAX_UNIT_BYTES = 1024  # bytes of a unit that may precede its sizes: 32 operating points take 340


class Limit:
    """A limit on how much of something a file may have: hostile files keep a parser busy for minutes."""

    def __init__(self, most: int, what: str) -> None:
        self._most, self._left, self._what = most, most, what

    def take(self, count: int = 1) -> None:
        """Count `count` more. Raises ValueError above the limit."""
        self._left -= count
        if self._left < 0:
            raise ValueError(f"more than {self._most:,} {self._what}")


class Bits:
    """Read bits from the front of a byte string. Raises EOFError at its end."""

    def __init__(self, data: bytes) -> None:
        self._value, self._left = int.from_bytes(data, "big"), 8 * len(data)

    def take(self, count: int) -> int:
        """Return the next `count` bits as a number."""
        self._left -= count
        if self._left < 0:
            raise EOFError
        return self._value >> self._left & (1 << count) - 1

    def golomb(self) -> int:
        """Return the next Exp-Golomb number, ue(v) (H.265, 9.2) and uvlc() (AV1, 4.10.3)."""
        zeros = 0
        while zeros < 32 and not self.take(1):
            zeros += 1
        return (1 << zeros) - 1 + self.take(zeros)


def hevc(units: Bytes, prefix: int, limit: Limit) -> Iterator[Size]:
    """Yield the size in each sequence parameter set; each NAL unit has a length field of `prefix` bytes.

    Raises ValueError if there are too many units.
    """
    at = 0
    while at + prefix < len(units):
        limit.take()
        length = int.from_bytes(units[at : at + prefix], "big")
        yield from hevc_unit(bytes(units[at + prefix : at + prefix + min(length, MAX_UNIT_BYTES)]))
        at += prefix + length


def hevc_unit(unit: bytes) -> Iterator[Size]:
    """Yield the size in one NAL unit, minus possible padding (H.265, 7.3.2.2)."""
    if len(unit) > 2 and unit[0] >> 1 & 63 == HEVC_SPS:
        with suppress(EOFError):
            width, height = _hevc_sps(unit)
            yield max(1, width - HEVC_PADDING), max(1, height - HEVC_PADDING)


def _hevc_sps(unit: bytes) -> Size:
    bits = Bits(unit[2:].replace(b"\0\0\3", b"\0\0"))  # without emulation prevention (H.265, 7.3.1.1)
    bits.take(4)
    layers = bits.take(3)
    bits.take(1 + 96)  # profile, tier and level of all layers together
    present = [(bits.take(1), bits.take(1)) for _ in range(layers)]
    if layers:
        bits.take(2 * (8 - layers))
    for profile, level in present:
        bits.take(88 * profile + 8 * level)
    bits.golomb()
    if bits.golomb() == 3:
        bits.take(1)
    return bits.golomb(), bits.golomb()


def av1(units: Bytes, limit: Limit) -> Iterator[Size]:
    """Yield each size in the OBUs; a frame with a size of its own counts as the largest that it can encode.

    Raises ValueError if there are too many units.
    """
    at = 0
    sequence: _Av1Sequence | None = None
    while at < len(units):
        limit.take()
        head, extended = units[at], units[at] >> 2 & 1
        at += 1 + extended
        length = len(units) - at
        if head & 2:
            length, at = _leb128(units, at)
        kind, body = head >> 3 & 15, bytes(units[at : at + min(length, MAX_UNIT_BYTES)])
        with suppress(EOFError):
            if kind == AV1_SEQUENCE:
                sequence = _Av1Sequence(body)
                yield sequence.size
            elif kind in AV1_FRAMES and sequence and sequence.has_own_size(body):
                yield sequence.largest
        at += length


def _leb128(data: Bytes, at: int) -> tuple[int, int]:
    """Return a number of up to 8 bytes with 7 bits each, and the offset of its end (AV1, 4.10.5)."""
    value = 0
    for index, byte in enumerate(data[at : at + 8]):
        value |= (byte & 127) << 7 * index
        if not byte & 128:
            return value, at + index + 1
    return value, at + 8


class _Av1Sequence:
    """The fields of a sequence header (AV1, 5.5.1) that sizes depend on."""

    def __init__(self, body: bytes) -> None:
        bits = Bits(body)
        bits.take(4)
        self._reduced = bits.take(1)
        self._instants = 0  # bits of a frame's presentation time
        if self._reduced:
            bits.take(5)
        else:
            self._operating_points(bits)
        width, height = bits.take(4) + 1, bits.take(4) + 1
        self.size = bits.take(width) + 1, bits.take(height) + 1
        self.largest = 1 << width, 1 << height
        self._ids = self._screen = self._integer = 0
        if self._reduced:
            return
        if bits.take(1):
            delta = bits.take(4) + 2
            self._ids = delta + bits.take(3) + 1
        bits.take(7)
        if bits.take(1):  # order hints
            bits.take(2)
        self._screen = SELECT if bits.take(1) else bits.take(1)
        self._integer = SELECT
        if self._screen:
            self._integer = SELECT if bits.take(1) else bits.take(1)

    def _operating_points(self, bits: Bits) -> None:
        decoder_model = delay = 0
        if bits.take(1):  # timing
            bits.take(64)
            equal = bits.take(1)
            if equal:
                bits.golomb()
            decoder_model = bits.take(1)
            if decoder_model:
                delay = bits.take(5) + 1
                bits.take(32 + 5)
                instants = bits.take(5) + 1
                self._instants = 0 if equal else instants
        display_delay = bits.take(1)
        for _ in range(bits.take(5) + 1):
            bits.take(12)
            if bits.take(5) > 7:
                bits.take(1)
            if decoder_model and bits.take(1):
                bits.take(2 * delay + 1)
            if display_delay and bits.take(1):
                bits.take(4)

    def has_own_size(self, body: bytes) -> bool:
        """Return whether a frame header overrides the sequence's size (AV1, 5.9.2)."""
        bits = Bits(body)
        if self._reduced or bits.take(1):  # show_existing_frame
            return False
        kind, shown = bits.take(2), bits.take(1)
        if shown:
            bits.take(self._instants)
        else:
            bits.take(1)
        key, switch = kind == 0, kind == 3
        if not (switch or (key and shown)):
            bits.take(1)
        bits.take(1)
        screen = bits.take(1) if self._screen == SELECT else self._screen
        if screen and self._integer == SELECT:
            bits.take(1)
        bits.take(self._ids)
        return switch or bool(bits.take(1))
