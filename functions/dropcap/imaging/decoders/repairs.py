"""Repair files whose pixels are complete, which browsers show without a warning."""

import re
import struct
import zlib

from dropcap.imaging.headers.bitstreams import Limit
from dropcap.imaging.headers.dimensions import MAX_SCANS

JPEG_END, SCAN = b"\xff\xd9", b"\xda"
LAST_MARKER = re.compile(rb".*\xff([^\0\xff\xd0-\xd7])", re.DOTALL)  # not stuffing, fill bytes or restarts
FRAMES = frozenset({0xC0, 0xC1, 0xC2})  # baseline, extended, progressive
PNG_SIGNATURE, PNG_END = b"\x89PNG\r\n\x1a\n", b"\0\0\0\0IEND\xaeB`\x82"
# Ancillary chunks that affect how a picture looks, with their length (W3C PNG, third edition, 11.3); 0: any.
WANTED = {b"tRNS": 0, b"cICP": 4, b"cLLI": 8, b"iCCP": 0, b"sRGB": 1, b"gAMA": 4, b"cHRM": 32, b"eXIf": 0}
TEXTS = frozenset({b"tEXt", b"zTXt", b"iTXt"})
MAX_TEXT = 16_384  # bytes; Deflate compresses by 1,032 at most


def repair(kind: str, data: bytes) -> bytes | None:
    """Return a repaired file that a decoder may accept, or None if there is nothing to repair.

    Pixel data is not touched: a strict decoder finds out whether it is complete.
    """
    if kind == "AVIF":  # another library reads it unchanged
        return data
    whole = _jpeg(data) if kind == "JPEG" else _png(data) if kind == "PNG" else data
    return whole if whole != data else None


def _jpeg(data: bytes) -> bytes:
    """Return a JPEG with an end marker (ITU-T T.81, B.1.1.3), if all scans are there and it lacks one."""
    last = LAST_MARKER.match(data)
    return data + JPEG_END if last and last[1] == SCAN and _all_scans(data) else data


def _all_scans(data: bytes) -> bool:
    """Return whether the scans cover all bits of the first and last coefficient of each component (B.2.3)."""
    at, parts = 2, 0
    while data[at : at + 1] == b"\xff" and data[at + 1 : at + 2] != SCAN:
        if data[at + 1] in FRAMES:
            parts = data[at + 9]
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    last: set[tuple[int, int]] = set()
    limit = Limit(MAX_SCANS, "scans")
    while at >= 0:
        limit.take()
        count = data[at + 4]
        first, end, bits = data[at + 5 + 2 * count : at + 8 + 2 * count]
        if not bits & 15:
            last |= {(part, edge) for part in data[at + 5 : at + 5 + 2 * count : 2] for edge in (first, end)}
        at = data.find(b"\xff" + SCAN, at + 2)
    return all(sum(edge == side for _, edge in last) == parts for side in (0, 63))


def without_long_text(data: bytes) -> bytes:
    """Return a PNG without its text chunks if they are long: libvips turns 2 MB of them into 2 GB."""
    if len(data) < MAX_TEXT:
        return data
    at, start, text, kept = len(PNG_SIGNATURE), 0, 0, []
    while name := data[at + 4 : at + 8]:
        end = at + 12 + int.from_bytes(data[at : at + 4], "big")
        if name in TEXTS:
            kept.append((start, at))
            text, start = text + end - at, end
        at = end
    if text <= MAX_TEXT:
        return data
    view = memoryview(data)
    return b"".join([*(view[first:last] for first, last in kept), view[start:]])


def _png(data: bytes) -> bytes:
    """Return a PNG without damaged or needless ancillary chunks, and with an end chunk."""
    at, kept = len(PNG_SIGNATURE), [data[: len(PNG_SIGNATURE)]]
    while len(name := data[at + 4 : at + 8]) == 4 and name != b"IEND":
        length = int.from_bytes(data[at : at + 4], "big")
        end = at + 12 + length
        if end > len(data):  # the part that is there
            body = data[at + 4 :]
            kept += [struct.pack(">I", len(body) - 4), body, struct.pack(">I", zlib.crc32(body))]
            break
        critical = not name[0] & 0x20
        sound = zlib.crc32(memoryview(data)[at + 4 : end - 4]) == int.from_bytes(data[end - 4 : end], "big")
        if critical or (sound and length and WANTED.get(name, -1) in (0, length)):
            kept.append(data[at:end])
        at = end
    return b"".join([*kept, PNG_END])
