"""Our own parsers of pictures: each check raises what must not happen.

A check takes any bytes. `sizes` compares ours with what Pillow reads: a size that Pillow sees and we do not
would evade the limits.
"""

import struct
import warnings
import zlib
from contextlib import suppress
from dataclasses import dataclass

from PIL import Image

from dropcap.errors import Rejected
from dropcap.imaging import colour, decoding, linear_light, rasters
from dropcap.imaging.colour_spaces import Colours
from dropcap.imaging.decoder_errors import read_header
from dropcap.imaging.decoders import repairs
from dropcap.imaging.headers import boxes, dimensions, nclx, properties, tiff
from dropcap.imaging.headers.formats import detect_format
from tests.support.images.pictures import FORMATS

MAX_SIDE = 4096  # px, of what a library opens here
MAX_FRAMES = 50
WORD = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits that every size is within or not, as chance has it."""

    max_side: int = MAX_SIDE
    max_megapixels: int = 1
    largest_side: int = 100


def _kind(data: bytes) -> str:
    """Return the format; empty if there is none."""
    try:
        kind = detect_format(data)
    except Rejected:
        return ""
    assert kind in FORMATS, kind
    return kind


def check_headers(data: bytes) -> None:
    """Check everything that is read from a file's bytes alone: only ValueError, and only where it says so."""
    kind = _kind(data)
    with suppress(Rejected):
        decoding.check_head(data, Limits())
    if not kind:
        return
    with suppress(ValueError):
        for width, height in dimensions.claimed_sizes(kind, data):
            assert 0 < width <= 2**33
            assert 0 < height <= 2**33
    match kind:
        case "GIF":
            assert 0 <= properties.count_gif_frames(data, MAX_FRAMES) <= MAX_FRAMES + 1
        case "WEBP":
            properties.webp_lossless(data)
        case "PNG":
            properties.png_exif(data)
        case "HEIF" | "AVIF":
            _check_boxes(data)
        case "TIFF":
            check_tiff(data)


def _check_boxes(data: bytes) -> None:
    with suppress(ValueError):
        assert boxes.working_px(data) >= 0
    with suppress(ValueError):
        boxes.codecs(data)
    nclx.is_grey(data)
    nclx.codes(data)
    properties.deep_avif(data)


def check_tiff(data: bytes) -> None:
    """Check that pages are found, and that the chosen one becomes the first."""
    with suppress(ValueError):
        tiff.is_raw(data)
    try:
        chosen = tiff.pages(data)
    except ValueError:
        return
    assert chosen.full >= 0
    if chosen.largest in (0, chosen.first):
        return
    moved = tiff.from_page(data, chosen.largest)
    assert len(moved) == len(data)
    first = next(tiff.directories(moved))
    assert (first.at, first.page) == (chosen.largest, 0)


def check_sizes(data: bytes) -> None:
    """Check that no size that Pillow reads is larger than every size that we read."""
    kind = _kind(data)
    if kind in ("", "HEIF", "AVIF"):  # their readers are in C, and parse the whole file
        return
    try:
        claimed = list(dimensions.claimed_sizes(kind, data))
    except ValueError:
        return
    if not claimed or max(map(max, claimed)) > MAX_SIDE:
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            header = read_header(kind, data)
        except Exception:  # hostile bytes make Pillow raise anything
            return
    with header:
        fits = any(header.width <= width and header.height <= height for width, height in claimed)
        assert fits, (header.size, claimed)


def check_repairs(data: bytes) -> None:
    """Check that a repaired file is one: for a PNG, that all chunks are whole and the last is the end."""
    kind = _kind(data)
    if kind == "PNG":
        shorter = repairs.without_long_text(data)
        assert len(shorter) <= len(data)
    if kind not in ("JPEG", "PNG"):
        return
    try:
        whole = repairs.repair(kind, data)
    except (ValueError, IndexError):  # no longer a picture: translate_errors says that it is damaged
        return
    if whole is None:
        return
    assert whole != data
    if kind == "JPEG":
        assert whole == data + repairs.JPEG_END
    else:
        at, name = len(repairs.PNG_SIGNATURE), b""
        while at < len(whole):
            [length, name] = struct.unpack_from(">I4s", whole, at)
            at += 12 + length
        assert (at, name) == (len(whole), b"IEND")


def check_orientation(data: bytes) -> None:
    """Check the orientation in an EXIF block, with and without its prefix."""
    found = rasters._exif_orientation(data)
    assert found == rasters._exif_orientation(b"Exif\0\0" + data.removeprefix(b"Exif\0\0"))
    assert isinstance(found, int)
    image = Image.new("L", (2, 1))
    image.info["exif"] = data
    turn = rasters.orientation(image)
    assert turn in range(1, 9)
    size = rasters.apply_orientation(image, turn).size
    assert size == ((1, 2) if turn in rasters.SWAPPED_SIDES else (2, 1))


def check_colours(data: bytes) -> None:
    """Check that no colour chunk of a PNG, and no `nclx` box, fails a picture."""
    chunks, at = b"", 0
    for name, length in ((b"cICP", 4), (b"cLLI", 8), (b"gAMA", 4), (b"cHRM", 32), (b"sRGB", 1)):
        if data[at : at + 1] > b"\x20":
            body = data[at + 1 : at + 1 + length]
            crc = zlib.crc32(name + body)
            chunks += struct.pack(">I", len(body)) + name + body + struct.pack(">I", crc)
        at += 1 + length
    image = Image.new("RGB", (4, 1))
    image.putdata([(0, 0, 0), (255, 255, 255), (255, 0, 0), (9, 90, 200)])
    for kind, file in (("PNG", b"\x89PNG\r\n\x1a\n" + chunks + data), ("AVIF", data)):
        image.format = kind
        found = colour.colour_space(image, file)
        if isinstance(found, Colours):
            assert linear_light.convert(image, found).size == image.size
