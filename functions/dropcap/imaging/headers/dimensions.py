"""Read every size that a file claims from its bytes: libraries allocate memory by it before they report it.

A GIF of 43 bytes made Pillow fill 4.3 GB in `Image.open`. So all sizes in a file are compared with the limits
before a library sees it.
"""

import re
import struct
from collections.abc import Callable, Iterator

from dropcap.imaging.headers import boxes, tiff
from dropcap.imaging.headers.bitstreams import Limit, Size

MAX_PARTS, PART = 100_000, 100  # blocks, chunks or segments; more if they average this many bytes
GIF_EXTENSION, GIF_IMAGE, GIF_END = b"!,;"
GIF_COMMENT, GIF_APPLICATION = b"\xfe", b"\xff"
JPEG_FRAMES = frozenset({*range(0xC0, 0xD0), 0xDE}) - {0xC4, 0xC8, 0xCC}  # SOF, DHP (ITU-T T.81, table B.1)
PROGRESSIVE = frozenset({0xC2, 0xC6, 0xCA, 0xCE})  # progressive SOF markers (ITU-T T.81, table B.1)
MAX_SCANS = 100  # as in libtiff 4.7 (JPEG_MAX_ALLOWED_SCAN_NUMBER); most progressive pictures have about ten
JPEG_END = b"\xd9"
JPEG_MARKER = re.compile(rb"\xff[^\0\xff\xd0-\xd7]")  # not stuffing, fill bytes or restarts
JPEG_APP1, MAX_EXIF = 0xE1, 64  # Pillow copies all EXIF segments again for each one
JPEG_SCAN, JPEG_BARE = 0xDA, frozenset({0x01, *range(0xD0, 0xDA)})  # the latter have no length field


def claimed_sizes(kind: str, data: bytes) -> Iterator[Size]:
    """Yield each size (width, height) in px that a file claims, if both are above 0.

    `data` may be the beginning of a file. Raises ValueError if it has more parts than any real picture.
    """
    return (size for size in READERS[kind](data) if min(size) > 0)


def gif_frames(data: bytes, most: int | None = None) -> Iterator[tuple[int, int, int, int]]:
    """Yield left, top, width and height of each frame in px (GIF89a, 18 to 27), as Pillow finds them.

    Raises ValueError if there are more than `most` blocks, or too many sub-blocks.
    """
    parts, at, has_image = _parts(data), 13 + gif_palette_bytes(data[10:11]), False
    blocks = Limit(most, "blocks") if most else parts
    while at < len(data) and data[at] != GIF_END:
        blocks.take()
        if data[at] == GIF_IMAGE:
            if at + 10 > len(data):
                return
            yield struct.unpack_from("<4H", data, at + 1)
            has_image = True
            at = _skip_blocks(data, at + 11 + gif_palette_bytes(data[at + 9 : at + 10]), parts)
        elif data[at] == GIF_EXTENSION:
            label, first = data[at + 1 : at + 2], data[at + 2 : at + 3] or b"\0"
            block = data[at + 3 : at + 3 + first[0]]
            at += 3 + first[0]
            if label == GIF_APPLICATION and not has_image and block.startswith(b"NETSCAPE2.0"):
                at += 1 + (data[at : at + 1] or b"\0")[0]
            if block or label != GIF_COMMENT:  # Pillow continues if the first block was the terminator
                at = _skip_blocks(data, at, parts)
        else:
            at += 1


def gif_palette_bytes(flags: bytes) -> int:
    """Return the size in bytes of the colour table that the flags of a screen or a frame announce."""
    return 3 << (flags[0] & 7) + 1 if flags and flags[0] & 0x80 else 0


def _parts(data: bytes) -> Limit:
    return Limit(MAX_PARTS + len(data) // PART, "parts")


def _skip_blocks(data: bytes, at: int, parts: Limit) -> int:
    while at < len(data) and data[at]:
        parts.take()
        at += data[at] + 1
    return at + 1


def _gif(data: bytes) -> Iterator[Size]:
    """Yield the size of the canvas, which Pillow enlarges for each frame, even for one without a height."""
    width, height = struct.unpack_from("<2H", data.ljust(10, b"\0"), 6)
    yield width, height
    for left, top, wide, high in gif_frames(data):
        width, height = max(width, left + wide), max(height, top + high)
        yield width, height


def _png(data: bytes) -> Iterator[Size]:
    """Yield the sizes in IHDR, wherever it is, and in fcTL (W3C PNG, third edition, 11.2.1, 11.3.6.2)."""
    parts, at = _parts(data), 8
    while (name := data[at + 4 : at + 8]) and name != b"IEND":
        parts.take()
        if name == b"IHDR" and at + 16 <= len(data):
            yield struct.unpack_from(">2I", data, at + 8)
        elif name == b"fcTL" and at + 28 <= len(data):
            width, height, left, top = struct.unpack_from(">4I", data, at + 12)
            yield left + width, top + height
        at += 12 + int.from_bytes(data[at : at + 4], "big")


def _jpeg(data: bytes) -> Iterator[Size]:
    """Yield the size in each frame header before the first scan: Pillow uses the last, libjpeg the first."""
    parts, exif, at = _parts(data), Limit(MAX_EXIF, "EXIF segments"), 2
    several, components = False, 0
    while at + 1 < len(data):
        parts.take()
        marker = data[at + 1]
        if data[at] != 0xFF or marker in (0x00, 0xFF):
            following = data.find(b"\xff", at + 1)
            if following < 0:
                return
            at = following
        elif marker in JPEG_BARE:
            at += 2
        elif marker == JPEG_SCAN:
            if several or data[at + 4 : at + 5] < bytes([components]):
                _check_scans(data, at, parts)
            return
        else:
            if marker in JPEG_FRAMES and at + 9 <= len(data):
                height, width = struct.unpack_from(">2H", data, at + 5)
                yield width, height
                several, components = several or marker in PROGRESSIVE, (data[at + 9 : at + 10] or b"\0")[0]
            elif marker == JPEG_APP1 and data[at + 4 : at + 8] == b"Exif":
                exif.take()
            at += 2 + max(2, int.from_bytes(data[at + 2 : at + 4], "big"))


def _check_scans(data: bytes, at: int, parts: Limit) -> None:
    """Raise ValueError if a JPEG has too many scans, each of which is a pass over the whole picture."""
    scans = Limit(MAX_SCANS, "scans")
    while data[at + 1 : at + 2] not in (b"", JPEG_END):
        parts.take()
        if data[at + 1] == JPEG_SCAN:
            scans.take()
        found = JPEG_MARKER.search(data, at + 2 + int.from_bytes(data[at + 2 : at + 4], "big"))
        at = found.start() if found else len(data)


def _bmp(data: bytes) -> Iterator[Size]:
    """Yield the size in the header: 16 bits a side if it has 12 bytes (OS/2), else 32, maybe negative."""
    if data[14:18] == b"\x0c\0\0\0" and len(data) >= 22:
        yield struct.unpack_from("<2H", data, 18)
    elif data[14:18] != b"\x0c\0\0\0" and len(data) >= 26:
        width, height = struct.unpack_from("<Ii", data, 18)
        yield width, abs(height)


def _webp(data: bytes) -> Iterator[Size]:
    """Yield the sizes of canvas, frames and bitstreams (RFC 9649, sections 2.5 to 2.7)."""
    parts, at = _parts(data), 12
    while (name := data[at : at + 4]) and at + 8 <= len(data):
        parts.take()
        length = int.from_bytes(data[at + 4 : at + 8], "little")
        body = data[at + 8 : at + 24]
        if name == b"VP8X" and len(body) >= 10:
            yield _plus_one(body[4:])
        elif name == b"ANMF":
            if len(body) >= 12:
                yield _plus_one(body[6:])
            length = 16  # its sub-chunks come next
        elif name == b"VP8L" and len(body) >= 5:
            bits = int.from_bytes(body[1:5], "little")
            yield (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
        elif name == b"VP8 " and len(body) >= 10:
            width, height = struct.unpack_from("<2H", body, 6)
            yield width & 0x3FFF, height & 0x3FFF
        at += 8 + length + length % 2


def _plus_one(body: bytes) -> Size:
    """Return the size from two sides of 24 bits each, stored minus one."""
    return int.from_bytes(body[:3], "little") + 1, int.from_bytes(body[3:6], "little") + 1


READERS: dict[str, Callable[[bytes], Iterator[Size]]] = {
    "GIF": _gif,
    "PNG": _png,
    "JPEG": _jpeg,
    "BMP": _bmp,
    "TIFF": tiff.claimed_sizes,
    "WEBP": _webp,
    "HEIF": boxes.claimed_sizes,
    "AVIF": boxes.claimed_sizes,
}
