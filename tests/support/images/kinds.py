"""Kinds of pictures that browsers read, made from scratch: format x mode x bits x alpha x colour space."""

import struct
import zlib
from collections.abc import Callable
from functools import cache

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageCms

from tests.support.images.pictures import ADOBE_RGB, DISPLAY_P3, encoded, png, quadrants

Make = Callable[[], bytes]
WIDTH, HEIGHT = 128, 96
GREY, RGB, PALETTE, GREY_ALPHA, RGBA = 0, 2, 3, 4, 6  # colour types of PNG
SRGB_XY = (0.3127, 0.3290, 0.64, 0.33, 0.30, 0.60, 0.15, 0.06)  # white, red, green, blue
P3_XY = (0.3127, 0.3290, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060)


@cache
def colours() -> npt.NDArray[np.uint8]:
    """Draw ramps of grey, of each colour and of mixed ones, and saturated areas."""
    ramp = np.linspace(0, 1, WIDTH)
    rows = [
        ramp[:, None] * np.array(mix) for mix in ((1, 1, 1), (1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 0.6, 0.3))
    ]
    picture = np.repeat(np.stack(rows), 12, axis=0) * 255
    below = np.asarray(quadrants(WIDTH, HEIGHT - len(picture)))
    return np.round(np.vstack([picture, below])).astype(np.uint8)


def image(mode: str = "RGB") -> Image.Image:
    return Image.fromarray(colours()).convert(mode)


def clear(mode: str = "RGBA") -> Image.Image:
    """Draw the same with every degree of alpha, and colours below transparent pixels."""
    alpha = Image.linear_gradient("L").resize((WIDTH, HEIGHT))
    alpha.paste(0, (10, 10, 40, 40))
    made = image("RGB" if mode == "RGBA" else "L")
    made.putalpha(alpha)
    return made


def samples(values: npt.NDArray[np.integer], bits: int) -> bytes:
    """Return rows of a PNG with their filter bytes, for samples of this many bits."""
    flat = values.reshape(len(values), -1).astype(np.int64)
    spread = (flat[:, :, None] >> np.arange(bits)[::-1]) & 1
    packed = np.packbits(spread.reshape(len(flat), -1).astype(np.uint8), axis=1)
    return b"".join(b"\0" + row.tobytes() for row in packed)


def grey_png(bits: int, key: int | None = None) -> bytes:
    """Return a PNG of all greys; with 16 bits, some differ only in the low byte."""
    top = 2**bits - 1
    values = np.tile(np.round(np.linspace(0, top, WIDTH)).astype(np.int64), (HEIGHT, 1))
    if bits == 16:
        values[: HEIGHT // 2] = np.arange(WIDTH) + 25_700
    chunks = () if key is None else ((b"tRNS", struct.pack(">H", key)),)
    return png(WIDTH, HEIGHT, bits, GREY, samples(values, bits), *chunks)


def rgb16_png(key: tuple[int, int, int] | None = None, alpha: bool = False) -> bytes:
    values = colours().astype(np.int64) * 257
    values[:20, :64] = (20_000, 20_000, 20_000)
    values[:20, 64:] = (20_000, 20_000, 20_100)
    chunks = () if key is None else ((b"tRNS", struct.pack(">3H", *key)),)
    if alpha:
        values = np.dstack(
            [values, np.tile(np.linspace(0, 65535, HEIGHT)[:, None], (1, WIDTH)).astype(np.int64)]
        )
    return png(WIDTH, HEIGHT, 16, RGBA if alpha else RGB, samples(values, 16), *chunks)


def rgb_png(*chunks: tuple[bytes, bytes], alpha: bool = False) -> bytes:
    values = np.asarray(clear()) if alpha else colours()
    return png(WIDTH, HEIGHT, 8, RGBA if alpha else RGB, samples(values, 8), *chunks)


def gama(value: int) -> tuple[bytes, bytes]:
    return b"gAMA", struct.pack(">I", value)


def chrm(xy: tuple[float, ...]) -> tuple[bytes, bytes]:
    return b"cHRM", struct.pack(">8I", *[round(value * 100_000) for value in xy])


def cicp(*codes: int) -> tuple[bytes, bytes]:
    return b"cICP", bytes(codes)


def iccp(profile: bytes) -> tuple[bytes, bytes]:
    return b"iCCP", b"x\0\0" + zlib.compress(profile)


def palette_png(bits: int, alphas: bytes = b"", *chunks: tuple[bytes, bytes]) -> bytes:
    count = 2**bits
    table = bytes(value for index in range(count) for value in (index * 255 // (count - 1), 255 - index, 90))
    values = np.tile(np.arange(WIDTH) * count // WIDTH, (HEIGHT, 1))
    shown = [(b"PLTE", table), *([(b"tRNS", alphas)] if alphas else [])]
    return png(WIDTH, HEIGHT, bits, PALETTE, samples(values, bits), *chunks, *shown)


def gif(frames: list[tuple[tuple[int, int, int, int], int, int, bool]], background: int = 0) -> bytes:
    """Return a GIF of 60 x 60 px; frames are (box, colour, disposal, transparent green)."""
    table = b"\x00\x00\xc8\xff\x00\x00\x00\xff\x00\xff\xff\xff"
    out = b"GIF89a" + struct.pack("<HHBBB", 60, 60, 0x81, background, 0) + table
    for (left, top, right, bottom), colour, disposal, transparent in frames:
        px = (right - left) * (bottom - top)
        bits = "".join(f"{code:03b}"[::-1] for code in (4, colour) * px) + "101"  # cleared before each
        bits += "0" * (-len(bits) % 8)
        data = bytes(int(bits[at : at + 8][::-1], 2) for at in range(0, len(bits), 8))
        blocks = b"".join(
            bytes([len(part)]) + part for part in (data[at : at + 255] for at in range(0, len(data), 255))
        )
        out += b"!\xf9\x04" + struct.pack("<BHB", disposal << 2 | transparent, 10, 2) + b"\0"
        out += b"," + struct.pack("<4HB", left, top, right - left, bottom - top, 0) + b"\x02" + blocks + b"\0"
    return out + b";"


def bmp(
    bits: int, masks: tuple[int, ...], header: int = 124, compression: int = 3, down: bool = False
) -> bytes:
    """Return a BMP of 16 or 32 bits a pixel with bit masks for red, green, blue and alpha."""
    values = np.asarray(clear()).astype(np.int64)
    pixels = np.zeros((HEIGHT, WIDTH), np.int64)
    for channel, mask in enumerate(masks):
        if mask:
            low = (mask & -mask).bit_length() - 1
            pixels |= np.round(values[:, :, channel] * (mask >> low) / 255).astype(np.int64) << low
    rows = (pixels if down else pixels[::-1]).astype(f"<u{bits // 8}").tobytes()
    shown = struct.pack(
        "<IiiHHIIiiII",
        header,
        WIDTH,
        -HEIGHT if down else HEIGHT,
        1,
        bits,
        compression,
        len(rows),
        0,
        0,
        0,
        0,
    )
    shown += struct.pack("<4I", *(*masks, 0)[:4])[: 12 if header < 56 else 16]
    if header == 124:
        shown = (shown + b"BGRs").ljust(124, b"\0")
    return b"BM" + struct.pack("<IHHI", 14 + len(shown) + len(rows), 0, 0, 14 + len(shown)) + shown + rows


def bmp_with_profile(profile: bytes) -> bytes:
    data = bytearray(bmp(32, (0xFF0000, 0xFF00, 0xFF)))
    data[14 + 56 : 14 + 60] = b"DEBM"
    data[14 + 112 : 14 + 120] = struct.pack("<2I", len(data) - 14, len(profile))
    return bytes(data) + profile


def nclx(primaries: int, curve: int) -> bytes:
    """Return an AVIF whose nclx box has these primaries and this transfer curve."""
    data = bytearray(encoded(image(), "AVIF", quality=100))
    at = data.index(b"nclx") + 4
    data[at : at + 4] = struct.pack(">2H", primaries, curve)
    return bytes(data)


def grey_profile() -> bytes:
    """Return an ICC profile of grey: version 2, gamma 1.8."""
    white = struct.pack(">3i", 63190, 65536, 54061)  # D50
    head = struct.pack(">I4xI4s4s4s12x4s", 190, 0x02100000, b"mntr", b"GRAY", b"XYZ ", b"acsp")
    tags = struct.pack(">I4sII4sII", 2, b"wtpt", 156, 20, b"kTRC", 176, 14)
    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(1.8 * 256)) + b"\0\0"
    return (head.ljust(68, b"\0") + white).ljust(128, b"\0") + tags + b"XYZ \0\0\0\0" + white + curve


GREY_PROFILE = grey_profile()
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()

PNGS: dict[str, Make] = {
    **{f"grey {bits}": lambda bits=bits: grey_png(bits) for bits in (1, 2, 4, 8, 16)},  # type: ignore[misc]
    **{
        f"grey {bits} clear {key}": lambda bits=bits, key=key: grey_png(bits, key)  # type: ignore[misc]
        for bits, key in ((1, 0), (1, 1), (2, 2), (4, 8), (8, 100), (16, 0), (16, 25_750))
    },
    "RGB 16": rgb16_png,
    "RGB 16 clear": lambda: rgb16_png((20_000,) * 3),
    "RGBA 16": lambda: rgb16_png(alpha=True),
    "RGB clear": lambda: rgb_png((b"tRNS", struct.pack(">3H", 200, 30, 40))),
    "RGB sBIT": lambda: rgb_png((b"sBIT", b"\5\6\5")),
    "palette 2 alphas": lambda: palette_png(2, b"\xff\x80\0"),
    "palette 8 alphas": lambda: palette_png(8, bytes(range(256))),
    "palette 4 gamma": lambda: palette_png(4, b"", gama(100_000)),
    "grey alpha": lambda: encoded(clear("LA")),
    "RGBA": lambda: encoded(clear()),
    **{
        f"gamma {value}": lambda value=value: rgb_png(gama(value))  # type: ignore[misc]
        for value in (0, 30_000, 45_455, 55_556, 100_000)
    },
    "gamma alpha": lambda: rgb_png(gama(100_000), alpha=True),
    "gamma grey": lambda: png(128, 1, 8, GREY, samples(np.arange(0, 256, 2)[None], 8), gama(100_000)),
    "gamma sRGB": lambda: rgb_png(gama(100_000), (b"sRGB", b"\0")),
    "gamma 16": lambda: png(128, 1, 16, GREY, samples(np.arange(128)[None] * 512, 16), gama(100_000)),
    "chromaticities alone": lambda: rgb_png(chrm(P3_XY)),
    "chromaticities P3": lambda: rgb_png(gama(45_455), chrm(P3_XY)),
    "chromaticities sRGB": lambda: rgb_png(chrm(SRGB_XY), gama(45_455)),
    "chromaticities of another white": lambda: rgb_png(gama(50_000), chrm((1 / 3, 1 / 3, *SRGB_XY[2:]))),
    "profile P3": lambda: rgb_png(iccp(DISPLAY_P3)),
    "profile P3 alpha": lambda: rgb_png(iccp(DISPLAY_P3), alpha=True),
    "profile Adobe RGB beside gamma": lambda: rgb_png(iccp(ADOBE_RGB), gama(100_000)),
    "profile of 16 bits": lambda: encoded(image(), icc_profile=ADOBE_RGB),
    "profile of colours, grey": lambda: encoded(image("L"), icc_profile=ADOBE_RGB),
    "profile of grey": lambda: encoded(image("L"), icc_profile=GREY_PROFILE),
    "profile of grey, colours": lambda: encoded(image(), icc_profile=GREY_PROFILE),
    "profile sRGB": lambda: encoded(image(), icc_profile=SRGB),
    "profile damaged beside gamma": lambda: rgb_png(iccp(DISPLAY_P3[:200]), gama(100_000)),
    **{
        f"cICP {codes}": lambda codes=codes: rgb_png(cicp(*codes))  # type: ignore[misc]
        for codes in (
            (1, 1, 0, 1),
            (12, 13, 0, 1),
            (9, 14, 0, 1),
            (9, 16, 0, 1),
            (9, 18, 0, 1),
            (12, 16, 0, 1),
        )
    },
    "cICP of little light": lambda: rgb_png(cicp(9, 16, 0, 1), (b"cLLI", struct.pack(">2I", 4_700_000, 0))),
    "cICP of no light": lambda: rgb_png(cicp(9, 16, 0, 1), (b"cLLI", bytes(8))),
    "cICP before all else": lambda: rgb_png(cicp(1, 13, 0, 1), iccp(ADOBE_RGB), gama(100_000)),
    "cICP HDR alpha": lambda: rgb_png(cicp(9, 16, 0, 1), alpha=True),
}
GIFS: dict[str, Make] = {
    "whole": lambda: gif([((0, 0, 60, 60), 1, 0, False)]),
    "small frame": lambda: gif([((20, 20, 40, 40), 1, 0, False)]),
    "small frame, another background": lambda: gif([((0, 30, 60, 60), 1, 0, False)], 2),
    "small frame, transparent": lambda: gif([((20, 20, 40, 40), 1, 0, True)]),
    "clear": lambda: gif([((0, 0, 60, 60), 2, 0, True)]),
    "interlaced": lambda: encoded(image("P"), "GIF", interlace=1),
    "grey": lambda: encoded(image("L"), "GIF"),
    "many colours": lambda: encoded(image().quantize(200), "GIF"),
}
BMPS: dict[str, Make] = {
    "ARGB4444": lambda: bmp(16, (0xF00, 0xF0, 0xF, 0xF000)),
    "ARGB1555": lambda: bmp(16, (0x7C00, 0x3E0, 0x1F, 0x8000)),
    "ARGB1555, short header": lambda: bmp(16, (0x7C00, 0x3E0, 0x1F, 0x8000), header=56),
    "RGB444": lambda: bmp(16, (0xF00, 0xF0, 0xF)),
    "RGB565": lambda: bmp(16, (0xF800, 0x7E0, 0x1F), header=40),
    "RGB565, from the top": lambda: bmp(16, (0xF800, 0x7E0, 0x1F), down=True),
    "RGB555": lambda: bmp(16, (0x7C00, 0x3E0, 0x1F), header=40, compression=0),
    "2101010": lambda: bmp(32, (0x3FF00000, 0xFFC00, 0x3FF, 0xC0000000)),
    "101010": lambda: bmp(32, (0x3FF00000, 0xFFC00, 0x3FF)),
    "BGRA": lambda: bmp(32, (0xFF, 0xFF00, 0xFF0000, 0xFF000000)),
    "ARGB": lambda: bmp(32, (0xFF0000, 0xFF00, 0xFF, 0xFF000000)),
    "ARGB without masks": lambda: bmp(32, (0xFF0000, 0xFF00, 0xFF, 0xFF000000), compression=0),
    "XRGB": lambda: bmp(32, (0xFF0000, 0xFF00, 0xFF), header=40, compression=0),
    "RGB": lambda: encoded(image(), "BMP"),
    "palette": lambda: encoded(image().quantize(60), "BMP"),
    "grey": lambda: encoded(image("L"), "BMP"),
    "black and white": lambda: encoded(image("1"), "BMP"),
    "profile": lambda: bmp_with_profile(ADOBE_RGB),
}
JPEGS: dict[str, Make] = {
    "RGB": lambda: encoded(image(), "JPEG"),
    "grey": lambda: encoded(image("L"), "JPEG"),
    "without conversion": lambda: encoded(image(), "JPEG", keep_rgb=True),
    "CMYK": lambda: encoded(image("CMYK"), "JPEG"),
    "profile Adobe RGB": lambda: encoded(image(), "JPEG", icc_profile=ADOBE_RGB),
    "profile of grey": lambda: encoded(image("L"), "JPEG", icc_profile=GREY_PROFILE),
    "profile of colours, grey": lambda: encoded(image("L"), "JPEG", icc_profile=ADOBE_RGB),
    "profile of colours, CMYK": lambda: encoded(image("CMYK"), "JPEG", icc_profile=ADOBE_RGB),
    "profile damaged": lambda: encoded(image(), "JPEG", icc_profile=DISPLAY_P3[:200]),
}
WEBPS: dict[str, Make] = {
    "lossless": lambda: encoded(image(), "WEBP"),
    "alpha": lambda: encoded(clear(), "WEBP", exact=True),
    "profile alpha": lambda: encoded(clear(), "WEBP", exact=True, icc_profile=ADOBE_RGB),
    "profile P3": lambda: encoded(image(), "WEBP", icc_profile=DISPLAY_P3),
}
AVIFS: dict[str, Make] = {
    **{
        f"nclx {codes}": lambda codes=codes: nclx(*codes)  # type: ignore[misc]
        for codes in (
            *((1, 1), (1, 4), (1, 5), (1, 7), (1, 8), (1, 13), (1, 17), (2, 2), (4, 13), (5, 6), (6, 6)),
            *((8, 13), (9, 1), (9, 14), (9, 16), (9, 18), (10, 13), (11, 13), (12, 13), (12, 16), (22, 13)),
        )
    },
    "grey": lambda: encoded(image("L"), "AVIF"),
    "profile": lambda: encoded(image(), "AVIF", icc_profile=ADOBE_RGB),
}
KINDS: dict[str, tuple[str, Make]] = {
    f"{format} {name}": (mime, make)
    for format, mime, kinds in (
        ("PNG", "image/png", PNGS),
        ("GIF", "image/gif", GIFS),
        ("BMP", "image/bmp", BMPS),
        ("JPEG", "image/jpeg", JPEGS),
        ("WebP", "image/webp", WEBPS),
        ("AVIF", "image/avif", AVIFS),
    )
    for name, make in kinds.items()
}
