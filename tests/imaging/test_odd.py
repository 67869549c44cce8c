"""Unusual but complete pictures are decoded; an unsupported variant is named in the error."""

import io
import struct
from collections.abc import Callable
from contextlib import suppress
from http import HTTPStatus
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from dropcap.errors import Rejected
from dropcap.imaging import decoding
from tests.support.images import pictures
from tests.support.images.kinds import bmp, clear, gama, image, rgb_png
from tests.support.images.pictures import encoded, png
from tests.support.images.rendering import unlike
from tests.support.images.tiffs import (
    CMYK,
    FLOAT,
    GREY,
    LAB,
    LONG,
    PALETTE,
    RGB,
    SHORT,
    SIGNED,
    UNSIGNED,
    WHITE_IS_ZERO,
    tiff,
)
from tests.support.images.ways import ROOM, WAYS, shown

Values = npt.NDArray[np.float64]
WIDTH, HEIGHT = 48, 36
ACROSS = np.tile(np.linspace(0, 1, WIDTH), (HEIGHT, 1))[:, :, None]
DOWN = np.tile(np.linspace(0, 1, HEIGHT)[:, None, None], (1, WIDTH, 1))
COLOURS = np.dstack([ACROSS, DOWN, np.full((HEIGHT, WIDTH), 0.25)])

TILES = [(322, LONG, (16,)), (323, LONG, (16,))]


def coded(values: Values, bits: int, kind: int) -> Values:
    """Return values of 0 to 1 as numbers of this type."""
    top = {UNSIGNED: 2.0**bits - 1, SIGNED: 2.0 ** (bits - 1) - 1, FLOAT: 1.0}[kind]
    return values if kind == FLOAT else np.round(values * top)


def layers(name: str) -> tuple[int, Values, tuple[int, ...], Values]:
    """Photometric interpretation, channels, kinds of extra channels, and the expected picture."""
    on_white, grey = COLOURS * DOWN + 1 - DOWN, np.repeat(ACROSS, 3, 2)
    black = np.dstack([1 - COLOURS, 0 * ACROSS])
    return {
        "grey": (GREY, ACROSS, (), grey),
        "white is zero": (WHITE_IS_ZERO, 1 - ACROSS, (), grey),
        "grey straight": (GREY, np.dstack([ACROSS, DOWN]), (2,), grey * DOWN + 1 - DOWN),
        "grey associated": (GREY, np.dstack([ACROSS * DOWN, DOWN]), (1,), grey * DOWN + 1 - DOWN),
        "RGB": (RGB, COLOURS, (), COLOURS),
        "RGB straight": (RGB, np.dstack([COLOURS, DOWN]), (2,), on_white),
        "RGB associated": (RGB, np.dstack([COLOURS * DOWN, DOWN]), (1,), on_white),
        "RGB unspecified": (RGB, np.dstack([COLOURS, DOWN]), (0,), COLOURS),
        "CMYK": (CMYK, black, (), COLOURS),
        "CMYK straight": (CMYK, np.dstack([black, DOWN]), (2,), on_white),
    }[name]


NUMBERS = [
    *((bits, UNSIGNED) for bits in (1, 2, 4, 8, 12, 16, 32, 64)),
    *((bits, SIGNED) for bits in (8, 16, 32)),
]
NUMBERS += [(bits, FLOAT) for bits in (16, 32, 64)]


def picture_of(name: str, bits: int, kind: int, big: bool, planar: bool) -> tuple[bytes, Image.Image]:
    photometric, channels, extra, visible = layers(name)
    if bits < 8:
        visible = np.round(visible * (2**bits - 1)) / (2**bits - 1)
    data = tiff(coded(channels, bits, kind), photometric, bits, kind, extra, big=big, planar=planar)
    return data, Image.fromarray(np.round(visible * 255).astype(np.uint8))


LAYOUTS = ["grey", "white is zero", "grey straight", "grey associated", "CMYK", "CMYK straight"]
LAYOUTS += ["RGB", "RGB straight", "RGB associated", "RGB unspecified"]


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_tiff_layout_is_decoded_correctly_or_named_in_the_error(name: str) -> None:
    wrong, decoded = [], 0
    for bits, kind in NUMBERS:
        if bits < 8 and name not in ("grey", "white is zero"):
            continue
        for big in (False, True):
            for planar in (False, True) if "grey" not in name and "white" not in name else (False,):
                data, wanted = picture_of(name, bits, kind, big, planar)
                case = f"{bits}-bit, kind {kind}, {big=}, {planar=}"
                try:
                    ways = [copy for way in WAYS if (copy := shown(data, way)) is not None]
                except Rejected as refused:
                    wrong += [case] if refused.code != "unsupported_format" else []
                    wrong += [case] if f"{bits}-bit" not in refused.problem else []
                    continue
                decoded += len(ways)
                wrong += [f"{case}: {why}" for copy in ways if (why := unlike(copy, wanted))]
    assert wrong == []
    assert decoded >= (2 if name in ("grey associated",) else 4)


@pytest.mark.parametrize(
    ("name", "bits", "kind", "planar"),
    [
        *(("grey", 16, UNSIGNED, False), ("grey", 32, UNSIGNED, False), ("grey", 32, FLOAT, False)),
        *(("RGB", 16, UNSIGNED, True), ("RGB", 32, FLOAT, False), ("RGB", 16, FLOAT, False)),
        *(("RGB straight", 16, UNSIGNED, True), ("RGB straight", 32, FLOAT, False)),
        *(("RGB associated", 16, UNSIGNED, False), ("grey associated", 8, UNSIGNED, False)),
        *(("CMYK", 16, UNSIGNED, True), ("CMYK straight", 8, UNSIGNED, False), ("RGB", 32, UNSIGNED, False)),
    ],
)
def test_these_layouts_are_decoded(name: str, bits: int, kind: int, planar: bool) -> None:
    for big in (False, True):
        data, wanted = picture_of(name, bits, kind, big, planar)
        with decoding.open_picture(data, ROOM) as source, source.resize(100) as copy:
            assert unlike(copy, wanted) == ""


def test_16_bit_lab_is_decoded_like_8_bit_lab() -> None:
    wanted = Image.fromarray(np.round(COLOURS * 100 + 100).astype(np.uint8))  # where 8 bits are fine
    colour = pictures.lab(wanted)
    eight = np.asarray(colour).astype(np.int64)  # the last two are signed
    deep = np.dstack([eight[:, :, 0] * 257, ((eight[:, :, 1:] ^ 128) - 128) * 256 & 0xFFFF])
    for samples, bits in ((eight, 8), (deep, 16)):
        with decoding.open_picture(tiff(samples, LAB, bits), ROOM) as source, source.resize(100) as copy:
            assert unlike(copy, wanted) == ""


@pytest.mark.parametrize("levels", [1, 257])
def test_a_palette_of_8_bits_has_colours(levels: int) -> None:
    table = [
        value * levels
        for channel in zip(*pictures.QUADRANTS, strict=True)
        for value in (*channel, *[0] * 252)
    ]
    indexes = np.arange(4).reshape(2, 2, 1).repeat(20, 0).repeat(30, 1)
    data = tiff(indexes, PALETTE, 8, tags=[(320, SHORT, table)])
    copies = [copy for way in WAYS if (copy := shown(data, way)) is not None]
    assert len(copies) == 2
    assert all(pictures.alike(pictures.corners(copy), pictures.QUADRANTS, 0) for copy in copies)


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (lambda: tiff(coded(COLOURS, 12, UNSIGNED), RGB, 12), "TIFF (RGB, 12-bit)"),
        (lambda: tiff(COLOURS, RGB, 64, FLOAT), "TIFF (RGB, 64-bit float)"),
        (lambda: tiff(np.zeros((4, 4, 3), np.int64), 32845, 16), "TIFF (LogLuv, 16-bit)"),
        (lambda: tiff(np.zeros((4, 4, 3), np.int64), 10, 8), "TIFF (ITULAB, 8-bit)"),
        (lambda: tiff(COLOURS, RGB, 16, planar=True, tags=TILES), "TIFF (RGB, 16-bit, in planes of tiles)"),
        (lambda: compressed(34712), "TIFF (RGB, 8-bit, JPEG 2000)"),
        (lambda: compressed(34887), "TIFF (RGB, 8-bit, LERC)"),
        (lambda: compressed(4711), "TIFF (RGB, 8-bit, compression 4711)"),
        (lambda: of_bmp(2, 0), "BMP (2-bit, compression 0)"),
        (lambda: of_bmp(24, 4), "BMP (24-bit, compression 4)"),
    ],
)
def test_an_unsupported_variant_is_named_in_the_error(data: Callable[[], bytes], name: str) -> None:
    with pytest.raises(Rejected) as caught:
        decoding.open_picture(data(), ROOM).close()
    assert (caught.value.code, caught.value.status) == (
        "unsupported_format",
        HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    )
    assert name in caught.value.problem


def compressed(code: int) -> bytes:
    """Return a TIFF that declares this compression."""
    data = tiff(np.zeros((4, 4, 3), np.int64), RGB, 8)
    entry = struct.pack("<HHIH", 259, SHORT, 1, 1)
    return data.replace(entry, entry[:8] + struct.pack("<H", code))


def of_bmp(bits: int, compression: int) -> bytes:
    data = bytearray(encoded(image(), "BMP"))
    data[28:30], data[30:34] = struct.pack("<H", bits), struct.pack("<I", compression)
    return bytes(data)


# What lacks nothing of the picture


def chunk(name: bytes, body: bytes) -> bytes:
    """Return a PNG chunk with a valid checksum."""
    return png(1, 1, 8, 0, b"\0\0", (name, body)).split(b"IHDR", 1)[1][17 : 17 + 12 + len(body)]


def with_chunk(body: bytes) -> bytes:
    """Return a PNG with these bytes after its header."""
    data = rgb_png(gama(45_455))
    return data[:33] + body + data[33:]


def jpeg(**options: Any) -> bytes:
    return encoded(image(options.pop("mode", "RGB")), "JPEG", **options)


COMMENT = chunk(b"tEXt", b"Comment\0hello")
WHOLE: dict[str, tuple[Callable[[], bytes], Callable[[], bytes]]] = {
    "JPEG without end": (jpeg, lambda: jpeg()[:-2]),
    "JPEG without end, progressive": (jpeg, lambda: jpeg(progressive=True)[:-2]),
    "JPEG without end, subsampled": (lambda: jpeg(subsampling=2), lambda: jpeg(subsampling=2)[:-2]),
    "JPEG without end, CMYK": (lambda: jpeg(mode="CMYK"), lambda: jpeg(mode="CMYK")[:-2]),
    "JPEG with more behind": (jpeg, lambda: jpeg() + b"more" * 9),
    "PNG with a damaged comment": (
        rgb_png,
        lambda: with_chunk(COMMENT[:-1] + b"?"),
    ),
    "PNG with a damaged time": (rgb_png, lambda: with_chunk(chunk(b"tIME", bytes(7))[:-4] + b"????")),
    "PNG with a damaged colour": (rgb_png, lambda: with_chunk(chunk(*gama(100_000))[:-4] + b"????")),
    "PNG with a comment that never ends": (
        rgb_png,
        lambda: with_chunk(chunk(b"zTXt", b"a\0\0x\x9c" + bytes(9))),
    ),
    "PNG with an empty chunk of colour": (rgb_png, lambda: with_chunk(chunk(b"cHRM", b""))),
    "PNG without end": (rgb_png, lambda: rgb_png()[:-12]),
    "PNG with half an end": (rgb_png, lambda: rgb_png()[:-5]),
}


@pytest.mark.parametrize("name", WHOLE)
def test_a_damaged_file_with_all_pixels_is_decoded(name: str) -> None:
    whole, odd = WHOLE[name]
    with decoding.open_picture(whole(), ROOM) as source, decoding.open_picture(odd(), ROOM) as other:
        assert unlike(other.resize(400), source.resize(400)) == ""


OPTIONS = [{}, {"progressive": True}, {"subsampling": 2}, {"restart_marker_blocks": 3}]


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("lacks", [3, 4, 8, 20, 100, 1000])
def test_a_jpeg_that_lacks_pixels_is_damaged(options: dict[str, Any], lacks: int) -> None:
    noise = Image.effect_noise((240, 170), 90).convert("RGB")
    data = encoded(noise, "JPEG", **options)[:-lacks]
    with pytest.raises(Rejected) as caught:
        decoding.open_picture(data, ROOM).close()
    assert caught.value.code == "broken_picture"


@pytest.mark.parametrize("lacks", [40, 200])  # the last 24 bytes are checksums and the end
def test_a_png_that_lacks_pixels_is_damaged(lacks: int) -> None:
    noise = Image.effect_noise((60, 40), 90).convert("RGB")
    with pytest.raises(Rejected) as caught:
        decoding.open_picture(encoded(noise)[:-lacks], ROOM).close()
    assert caught.value.code == "broken_picture"


def test_an_avif_that_pillow_rejects_is_decoded() -> None:
    """Two tables of properties, as some encoders write: libavif wants one, browsers and libheif do not."""
    made = clear()
    data = two_tables(encoded(made, "AVIF", quality=95, subsampling="4:4:4"))
    with pytest.raises(OSError, match="cannot identify"):
        Image.open(io.BytesIO(data))
    wanted = Image.alpha_composite(Image.new("RGBA", made.size, "white"), made).convert("RGB")
    with decoding.open_picture(data, ROOM) as source, source.resize(400) as copy:
        assert source.facts.decoder == "libvips"
        assert unlike(copy, wanted) == ""


def two_tables(data: bytes) -> bytes:
    """An AVIF of Pillow's, whose second item has its properties in a table of its own."""
    at = data.index(b"ipma") - 4
    [length] = struct.unpack_from(">I", data, at)
    body, count = data[at + 16 : at + length], struct.unpack_from(">I", data, at + 12)[0]
    assert count == 2
    first = 3 + body[2]
    head = data[at + 4 : at + 12]
    parts = [
        struct.pack(">I", 16 + len(part)) + head + struct.pack(">I", 1) + part
        for part in (body[:first], body[first:])
    ]
    made = bytearray(data[:at] + b"".join(parts) + data[at + length :])
    for name in (b"meta", b"iprp"):
        start = made.index(name) - 4
        made[start : start + 4] = struct.pack(">I", struct.unpack_from(">I", made, start)[0] + 16)
    iloc = made.index(b"iloc")
    [items] = struct.unpack_from(">H", made, iloc + 10)
    at = iloc + 12
    for _ in range(items):  # version 0, four bytes an offset and a length
        [offset] = struct.unpack_from(">I", made, at + 6)
        made[at + 6 : at + 10] = struct.pack(">I", offset + 16)
        at += 14
    return bytes(made)


def test_a_16_bit_bitmap_with_alpha_is_composited_on_white() -> None:
    """Computed, beside what Chromium shows of it: 4 bits of alpha."""
    made = np.asarray(clear()).astype(np.float64)
    alpha = np.round(made[:, :, 3:] / 17) / 15
    colours = np.round(made[:, :, :3] / 17) * 17
    wanted = Image.fromarray(np.round(colours * alpha + 255 * (1 - alpha)).astype(np.uint8))
    with (
        decoding.open_picture(bmp(16, (0xF00, 0xF0, 0xF, 0xF000)), ROOM) as source,
        source.resize(400) as copy,
    ):
        assert unlike(copy, wanted) == ""


def test_a_libvips_error_that_is_not_utf_8_fails_no_other_picture() -> None:
    """libheif's names a box of any bytes. pyvips reads each error as UTF-8, and keeps what it can't read."""
    data = bytearray(encoded(image(), "AVIF"))
    at = data.index(b"iprp")
    for value in range(0x80, 0x100, 9):
        data[at : at + 4] = bytes([value]) * 4
        with suppress(Rejected):
            decoding.open_picture(bytes(data), ROOM).close()
        assert shown(encoded(image()), "libvips") is not None
