"""Read properties of a file before decoding that Pillow does not expose. Sizes are in px or bytes."""

import struct
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, NamedTuple

from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile
from PIL.TiffImagePlugin import TiffImageFile

from dropcap.imaging.headers import boxes, dimensions
from dropcap.imaging.headers.bitstreams import Limit
from dropcap.imaging.headers.tiff_layout import BITS, Layout

COMPRESSION, ROWS_PER_STRIP, STRIP_BYTES, TILE_LENGTH, TILE_BYTES = 259, 278, 279, 323, 325  # TIFF 6.0
TILE_WIDTH, STRIP_STARTS, TILE_STARTS = 322, 273, 324
UNCOMPRESSED, OLD_JPEG, JPEG, WEBP = 1, 6, 7, 50001
MAX_SEGMENTS = 50_000  # before the first scans of all strips; with more they count as having several scans


def decoded_px(header: Image.Image, data: bytes) -> int:
    """Return how many px are decoded: HEIF and AVIF often code more than they show."""
    shown = header.width * header.height
    return max(shown, boxes.working_px(data)) if header.format in ("HEIF", "AVIF") else shown


def jpeg_coefficients(header: JpegImageFile, data: bytes) -> float:
    """Return the bytes per px that libjpeg keeps until the last scan: 2 a coefficient, 0 for one scan."""
    scan = 2  # after SOI; segments follow: 0xff, marker, length (ITU-T T.81, B.1.1)
    while data[scan : scan + 1] == b"\xff" and data[scan + 1 : scan + 2] != b"\xda":
        scan += 2 + int.from_bytes(data[scan + 2 : scan + 4], "big")
    interleaved = data[scan + 4 : scan + 5] == bytes(
        [header.layers]
    )  # the number of components in the first scan
    if interleaved and not header.info.get("progressive"):
        return 0.0
    across, down = max(part[1] for part in header.layer), max(part[2] for part in header.layer)
    return 2 * sum(part[1] * part[2] for part in header.layer) / (across * down)


class Png(NamedTuple):
    """Fields of the first chunk, IHDR (W3C PNG, 11.2.1)."""

    bits: int  # per sample
    interlaced: bool


def png(data: bytes) -> Png:
    """Return the bit depth and the row order of a PNG."""
    return Png(data[24], data[28] != 0)


def png_exif(data: bytes) -> bytes | None:
    """Return the EXIF block of a PNG in Pillow's form, wherever it is in the file."""
    at = 8  # after the signature; chunks follow: length, name, body, checksum (W3C PNG, 5.3)
    while name := data[at + 4 : at + 8]:
        end = at + 8 + int.from_bytes(data[at : at + 4], "big")
        if name == b"eXIf":
            return b"Exif\0\0" + data[at + 8 : end]
        at = end + 4
    return None


def tiff_strip(header: TiffImageFile) -> float:
    """Return the bytes of a strip or row of tiles that libtiff decompresses as a whole; 0 if it need not."""
    return 0 if header.tag_v2.get(COMPRESSION, UNCOMPRESSED) == UNCOMPRESSED else tiff_block(header)


def tiff_block(header: TiffImageFile) -> float:
    """Return the decompressed bytes of a strip or row of tiles; tiles may be larger than the picture."""
    tags = header.tag_v2
    across, rows = int(tags.get(TILE_WIDTH, 0)), int(tags.get(TILE_LENGTH, 0))
    if across and rows:
        px = -(-header.width // across) * across * rows
    else:
        px = header.width * min(header.height, int(tags.get(ROWS_PER_STRIP) or header.height))
    bits = tags.get(BITS, (8,))
    return px * sum(bits) / 8


def strips_held(tags: Mapping[int, Any]) -> int:
    """Return how many whole strips or rows of tiles libvips holds at once, measured by `make estimates`."""
    compression = tags.get(COMPRESSION)
    return 3 if compression == WEBP else 2 if TILE_LENGTH in tags or compression in (JPEG, OLD_JPEG) else 0


def tiff_coefficients(header: TiffImageFile, data: bytes) -> float:
    """Return the bytes of coefficients that libjpeg keeps until the last scan: 2 for each byte of a sample.

    0 if each strip or tile has a single scan, as TIFF requires. Nothing is known of old-style JPEG (TIFF
    6.0).
    """
    tags = header.tag_v2
    compression = tags.get(COMPRESSION, UNCOMPRESSED)
    if compression not in (JPEG, OLD_JPEG):
        return 0
    starts = tags.get(TILE_STARTS) or tags.get(STRIP_STARTS) or ()
    if compression == JPEG:
        with suppress(ValueError):
            limit = Limit(MAX_SEGMENTS, "segments")
            if not any(_several_scans(data, int(at), limit) for at in starts):
                return 0
    return 2 * tiff_strip(header)


def _several_scans(data: bytes, at: int, limit: Limit) -> bool:
    """Return whether a JPEG has several scans: it is progressive, or the first scan lacks components.

    Raises ValueError if there are too many segments.
    """
    at, parts = at + 2, 0  # after SOI; each segment is 0xff, marker, length (ITU-T T.81, B.1.1)
    while True:
        limit.take()
        marker = data[at + 1 : at + 2]
        if data[at : at + 1] != b"\xff" or not marker:
            return False
        if marker[0] in dimensions.PROGRESSIVE:
            return True
        if marker[0] in dimensions.JPEG_FRAMES:
            parts = (data[at + 9 : at + 10] or b"\0")[0]
        if marker[0] == dimensions.JPEG_SCAN:
            return (data[at + 4 : at + 5] or b"\0")[0] < parts
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")


def tiff_planes(header: TiffImageFile) -> float:
    """Return the bytes that libvips takes to join the strips of all planes of a planar TIFF."""
    layout = Layout.of(header.tag_v2)
    if not layout.planar:
        return 0
    tags = header.tag_v2
    rows = min(header.height, int(tags.get(TILE_LENGTH) or tags.get(ROWS_PER_STRIP) or header.height))
    return 1.5 * rows * header.width * sum(layout.bits) / 8


def tiff_read(header: TiffImageFile) -> int:
    """Return the bytes of the longest stored strip or tile, which libtiff reads as a whole to decompress."""
    tags = header.tag_v2
    if tags.get(COMPRESSION, UNCOMPRESSED) == UNCOMPRESSED:
        return 0
    return max(tags.get(TILE_BYTES) or tags.get(STRIP_BYTES) or (0,))


def webp_lossless(data: bytes) -> bool:
    """Return whether a still WebP is lossless (RFC 9649, 2.5 to 2.7)."""
    at = 12  # after "RIFF", length, "WEBP"; chunks follow: name, length, body, to even lengths
    while (name := data[at : at + 4]) and name != b"VP8 ":
        if name == b"VP8L":
            return True
        length = int.from_bytes(data[at + 4 : at + 8], "little")
        at += 8 + length + length % 2
    return False


def deep_avif(data: bytes) -> bool:
    """Return whether the AV1 configuration has 10 or 12 bits (AV1-ISOBMFF 2.3.3: bit 6 of its third byte)."""
    at = data.find(b"av1C")
    return at >= 0 and bool(int.from_bytes(data[at + 6 : at + 7], "big") & 0x40)


def count_gif_frames(data: bytes, most: int) -> int:
    """Return the number of frames of a GIF, counted up to `most` + 1.

    0 if a frame exceeds the picture, because decoders would enlarge the canvas, or if there is too much data
    between frames.
    """
    width, height = struct.unpack_from("<HH", data.ljust(10, b"\0"), 6)
    frames = 0
    try:
        for left, top, wide, high in dimensions.gif_frames(data, 20 * most):
            if left + wide > width or top + high > height:
                return 0
            frames += 1
            if frames > most:
                break
    except ValueError:
        return 0
    return frames
