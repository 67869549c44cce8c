"""Embed an XMP packet in an encoded picture, without encoding it again.

    kind    where the packet goes                                       source
    webp    a chunk at the end, announced in VP8X                       RFC 9649, 2.7
    jpeg    an APP1 segment, at most 65,502 bytes                       XMP part 3, 1.1.3
    png     an iTXt chunk after IHDR                                    XMP part 3, 1.1.5; PNG, 11.3.3
    avif    an item that describes the primary one, data at the end     ISO 14496-12, 8.11; ISO 23008-12, 6.6

Only files as our encoders write them are understood: without metadata, and an AVIF with one item. They come
from the process that decoded a hostile picture, so everything is checked.
"""

import struct
import zlib
from collections.abc import Iterator

from dropcap.domain.naming import Encoded

VP8X_XMP, VP8X_ALPHA = 0x04, 0x10  # flags
JPEG_NAMESPACE = b"http://ns.adobe.com/xap/1.0/\0"
JPEG_LARGEST = 65_533  # bytes of a segment, without its length
PNG_KEYWORD = b"XML:com.adobe.xmp\0\0\0\0\0"  # not compressed, no language, no translated keyword
PNG_IHDR_END = 33  # bytes: signature and the first chunk
# How libavif 1.4.2 begins two boxes: version and flags, sizes of offsets and lengths in iloc, one item.
ILOC, IINF = b"\0\0\0\0\x44\0\0\1", b"\0\0\0\0\0\1"
# The entry of item 2: version 2, no protection, its type and name.
INFE = b"\2\0\0\0\0\2\0\0mimeXMP\0application/rdf+xml\0"


def embed(picture: Encoded, packet: bytes) -> Encoded:
    """Return the picture with `packet` as its only metadata; unchanged if the packet is empty.

    Raises ValueError if the file is not one that our encoders write, or the packet is too large for it.
    """
    if not packet:
        return picture
    try:
        data = _EMBED[picture.content_type](picture, packet)
    except (IndexError, KeyError, struct.error) as wrong:
        raise ValueError(f"not a {picture.content_type} file that our encoders write") from wrong
    return picture._replace(data=data)


def _webp(picture: Encoded, packet: bytes) -> bytes:
    data = picture.data
    chunks = data[12:]
    if (kind := chunks[:4]) == b"VP8X":
        chunks = chunks[:8] + bytes([chunks[8] | VP8X_XMP]) + chunks[9:]
    else:
        # VP8L: a signature byte, 14 bits each of width and height, then the bit that says that alpha is used
        alpha = VP8X_ALPHA if kind == b"VP8L" and chunks[12] & VP8X_ALPHA else 0
        sides = ((side - 1).to_bytes(3, "little") for side in (picture.width, picture.height))
        chunks = struct.pack("<4sIB3x", b"VP8X", 10, VP8X_XMP | alpha) + b"".join(sides) + chunks
    chunks += b"XMP " + struct.pack("<I", len(packet)) + packet + b"\0" * (len(packet) % 2)
    return b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WEBP" + chunks


def _jpeg(picture: Encoded, packet: bytes) -> bytes:
    data = picture.data
    [marker, length] = struct.unpack_from(">HH", data, 2)
    start = 4 + length if marker == 0xFFE0 else 2  # JFIF's segment must be the first
    segment = JPEG_NAMESPACE + packet
    if len(segment) > JPEG_LARGEST:
        raise ValueError("the packet is too large for a JPEG")
    return data[:start] + struct.pack(">HH", 0xFFE1, 2 + len(segment)) + segment + data[start:]


def _png(picture: Encoded, packet: bytes) -> bytes:
    data, chunk = picture.data, b"iTXt" + PNG_KEYWORD + packet
    framed = struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
    return data[:PNG_IHDR_END] + framed + data[PNG_IHDR_END:]


def _avif(picture: Encoded, packet: bytes) -> bytes:
    data = picture.data
    kinds, contents = zip(*_boxes(data), strict=True)
    if kinds[:2] != (b"ftyp", b"meta"):
        raise ValueError("an AVIF file with another order of boxes")
    old = contents[1]
    inner = dict(_boxes(old[4:]))
    if inner[b"iloc"][:8] != ILOC or inner[b"iinf"][:6] != IINF or b"iref" in inner:
        raise ValueError("an AVIF file with more than one item")
    primary = inner[b"pitm"][4:]
    [extent_at] = struct.unpack_from(">I", inner[b"iloc"], 14)

    def meta(grown: int) -> bytes:
        """Return the box with both items; `grown` is how many bytes it is larger than before."""
        item = struct.pack(">HHHII", 2, 0, 1, len(data) + grown + 8, len(packet))
        iloc = inner[b"iloc"]
        inner_boxes = inner | {
            b"iloc": ILOC[:7] + b"\2" + iloc[8:14] + struct.pack(">I", extent_at + grown) + iloc[18:] + item,
            b"iinf": IINF[:5] + b"\2" + inner[b"iinf"][6:] + _box(b"infe", INFE),
            b"iref": b"\0\0\0\0" + _box(b"cdsc", b"\0\2\0\1" + primary),
        }
        return _box(b"meta", old[:4] + b"".join(_box(*each) for each in inner_boxes.items()))

    grown = len(meta(0)) - len(old) - 8
    end = len(contents[0]) + 8
    return data[:end] + meta(grown) + data[end + len(old) + 8 :] + _box(b"mdat", packet)


def _boxes(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield type and content of each box."""
    at = 0
    while at < len(data):
        size, kind = struct.unpack_from(">I4s", data, at)
        if not 8 <= size <= len(data) - at:
            raise ValueError("an AVIF file with a box of another size")
        yield kind, data[at + 8 : at + size]
        at += size


def _box(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I4s", 8 + len(content), kind) + content


_EMBED = {"image/webp": _webp, "image/jpeg": _jpeg, "image/png": _png, "image/avif": _avif}
