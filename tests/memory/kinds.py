"""Write a file of every kind: format, colour space, depth, compression and pixel order.

The pictures are gradients with grain. Files that no library writes are written by hand.
"""

import io
import struct
import zlib
from collections.abc import Callable
from functools import partial
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

NONE, LZW, JPEG, DEFLATE, PACKBITS, WEBP = 1, 5, 7, 8, 32773, 50001  # compressions (TIFF 6.0, libtiff)
GREY, RGB, PALETTE, CMYK, YCBCR, LAB = 1, 2, 3, 5, 6, 8  # photometric; 0: white is zero


def kinds() -> dict[str, Callable[[tuple[int, int]], bytes]]:
    """Return the writer of each kind, by its name."""
    made: dict[str, Callable[[tuple[int, int]], bytes]] = {}
    for mode, sub in (("L", 0), ("RGB", 0), ("RGB", 1), ("RGB", 2), ("CMYK", 0)):
        for progressive in (False, True):
            name = f"JPEG {mode} {('4:4:4', '4:2:2', '4:2:0')[sub]}{' progressive' if progressive else ''}"
            made[name] = partial(_pillow, "JPEG", mode, subsampling=sub, progressive=progressive)
    for mode, bits, interlace in product(("L", "LA", "RGB", "RGBA", "P"), (1, 4, 8, 16), (False, True)):
        if (bits >= 8 or mode in ("L", "P")) and (mode != "P" or bits <= 8):
            name = f"PNG {mode} {bits} bits{' interlaced' if interlace else ''}"
            made[name] = partial(_png, mode, bits, interlace)
    for mode in ("P", "L"):
        made[f"GIF {mode}"] = partial(_pillow, "GIF", mode, interlace=0)
        made[f"GIF {mode} interlaced"] = partial(_pillow, "GIF", mode, interlace=1)
    made["GIF disposed"] = _gif_disposed
    made["GIF bare"] = _gif_bare
    for mode in ("1", "L", "P", "RGB", "RGBA"):
        made[f"BMP {mode}"] = partial(_pillow, "BMP", mode)
    for bits in (16, 32):
        made[f"BMP {bits} bit fields"] = partial(_bmp, bits)
    made["BMP RLE"] = _bmp_rle
    for mode, lossless in product(("RGB", "RGBA"), (False, True)):
        name = f"WebP {mode}{' lossless' if lossless else ''}"
        made[name] = partial(_pillow, "WEBP", mode, lossless=lossless, method=0, quality=10)
    made["WebP animated"] = partial(_pillow, "WEBP", "RGB", method=0, quality=10, save_all=True, twice=True)
    for mode, chroma in product(("L", "RGB", "RGBA"), ("4:2:0", "4:4:4")):
        made[f"AVIF {mode} {chroma}"] = partial(
            _pillow, "AVIF", mode, subsampling=chroma, speed=10, quality=30
        )
    for mode, parts in product(("L", "RGB", "RGBA"), (420, 444)):
        for tile in (0, 512):
            name = f"HEIC {mode} {parts}{' grid' if tile else ''}"
            made[name] = partial(_heic, mode, parts, tile)
        made[f"HEIC {mode} {parts} 10 bits"] = partial(_heic, mode, parts, 0, deep=True)
    made |= _tiffs()
    return made


CODES = {NONE: "", LZW: "LZW", JPEG: "JPEG", DEFLATE: "deflate", PACKBITS: "packbits"}
SHAPES = {"": (256, 0), " in one strip": (0, 0), " in tiles": (0, 256), " in large tiles": (0, 2048)}


def _tiffs() -> dict[str, Callable[[tuple[int, int]], bytes]]:
    colours = {
        "white is zero": (0, 1, 0),
        "grey": (GREY, 1, 0),
        "grey alpha": (GREY, 2, 2),
        "RGB": (RGB, 3, 0),
        "RGB alpha": (RGB, 4, 2),
        "RGB alpha laid on": (RGB, 4, 1),
        "palette": (PALETTE, 1, 0),
        "CMYK": (CMYK, 4, 0),
        "CMYK alpha": (CMYK, 5, 2),
        "YCbCr": (YCBCR, 3, 0),
        "LAB": (LAB, 3, 0),
    }
    made: dict[str, Callable[[tuple[int, int]], bytes]] = {}
    for (colour, (photometric, samples, extra)), bits, code, (shape, (rows, tile)), planar in product(
        colours.items(), (1, 8, 16, 32, -32), CODES, SHAPES.items(), (1, 2)
    ):
        if planar == 2 and samples == 1:
            continue
        if (bits == 1 and samples > 1) or (
            code == JPEG and (bits != 8 or extra or photometric in (PALETTE, LAB))
        ):
            continue
        if (abs(bits) == 32 and photometric not in (GREY, RGB)) or (photometric == PALETTE and bits != 8):
            continue
        words = ("TIFF", colour, f"{bits} bits" if bits > 0 else "floats", CODES[code])
        name = " ".join(filter(None, words)) + shape + (" planar" if planar == 2 else "")
        made[name] = partial(_tiff, photometric, samples, bits, code, rows, tile, planar, extra)
    for (shape, (rows, tile)), samples in product(SHAPES.items(), (3, 4)):
        name = f"TIFF RGB{' alpha' if samples == 4 else ''} WebP{shape}"
        made[name] = partial(_tiff, RGB, samples, 8, WEBP, rows, tile, 1, 2 if samples == 4 else 0)
    for way, mode in (("zstd", "RGB"), ("lzma", "RGB"), ("group3", "1"), ("group4", "1")):
        for shape, one in (("", False), (" in one strip", True)):
            made[f"TIFF {mode} {way}{shape}"] = partial(_pillow_tiff, mode, way, one)
    for progressive in (False, True):
        made[f"TIFF YCbCr JPEG{' progressive' if progressive else ''} in one strip"] = partial(
            _tiff, YCBCR, 3, 8, JPEG, 0, 0, 1, 0, progressive=progressive
        )
    return made


def drawn(size: tuple[int, int], samples: int) -> NDArray[np.uint8]:
    """Return gradients with grain, an array of rows, columns, samples."""
    width, height = size
    grain = np.random.default_rng(1).integers(0, 8, (64, 64, samples), np.uint8)
    tiled = np.tile(grain, (-(-height // 64), -(-width // 64), 1))[:height, :width]
    ramp = (np.arange(width) * 200 // width).astype(np.uint8)
    return tiled + ramp[None, :, None]


def image(size: tuple[int, int], mode: str) -> Image.Image:
    """Return such a picture in a mode of Pillow."""
    samples = len(Image.new(mode, (1, 1)).getbands())
    raster = drawn(size, samples)
    if mode in ("1", "P"):
        return (
            Image.fromarray(raster[:, :, 0]).convert("RGB").quantize(64)
            if mode == "P"
            else Image.fromarray(raster[:, :, 0]).convert("1", dither=Image.Dither.NONE)
        )
    made = Image.fromarray(raster[:, :, 0] if samples == 1 else raster, mode)
    return made


def _pillow(kind: str, mode: str, size: tuple[int, int], twice: bool = False, **options: Any) -> bytes:
    drawing, file = image(size, mode), io.BytesIO()
    if twice:
        options["append_images"] = [drawing.transpose(Image.Transpose.FLIP_LEFT_RIGHT)]
    drawing.save(file, kind, **options)
    return file.getvalue()


def _pillow_tiff(mode: str, code: str, one: bool, size: tuple[int, int]) -> bytes:
    rows = {278: size[1] if one else 64}  # 278: rows of a strip
    return _pillow("TIFF", mode, size, compression=code, tiffinfo=rows)


def _png(mode: str, bits: int, interlace: bool, size: tuple[int, int]) -> bytes:
    import pyvips

    samples = {"L": 1, "LA": 2, "RGB": 3, "RGBA": 4, "P": 3}[mode]
    raster = pyvips.Image.new_from_memory(drawn(size, samples).tobytes(), *size, samples, "uchar")
    if bits == 16:
        raster = (raster.cast("ushort") * 257).cast("ushort")
    colours = ("b-w" if samples < 3 else "srgb") if bits < 16 else ("grey16" if samples < 3 else "rgb16")
    options: dict[str, Any] = {"palette": True, "effort": 1} if mode == "P" else {}
    if bits < 16:
        options["bitdepth"] = bits
    out = raster.copy(interpretation=colours).pngsave_buffer(compression=1, interlace=interlace, **options)
    return bytes(out)


def _gif_disposed(size: tuple[int, int]) -> bytes:
    whole = _pillow("GIF", "P", size)
    at = 13 + (3 << (whole[10] & 7) + 1)
    return whole[:at] + b"!\xf9\4\x08\0\0\0\0" + whole[at:]


def _gif_bare(size: tuple[int, int]) -> bytes:
    whole = _pillow("GIF", "P", size)
    return whole[:6] + struct.pack("<2H", size[0] + 10, size[1] + 10) + whole[10:]


def _bmp(bits: int, size: tuple[int, int]) -> bytes:
    masks = (0xF00, 0xF0, 0xF, 0xF000) if bits == 16 else (0x3FF00000, 0xFFC00, 0x3FF, 0)
    rows = np.repeat(drawn(size, 1)[:, :, 0], bits // 8, axis=1)
    body = np.pad(rows, ((0, 0), (0, -rows.shape[1] % 4))).tobytes()
    head = struct.pack("<IiiHHIIiiII4I", 56, *size, 1, bits, 3, len(body), 0, 0, 0, 0, *masks)
    return b"BM" + struct.pack("<IHHI", 14 + len(head) + len(body), 0, 0, 14 + len(head)) + head + body


def _bmp_rle(size: tuple[int, int]) -> bytes:
    rows = b"".join(bytes([255, level % 250]) for level in range(size[0] // 255))
    row = rows + bytes([size[0] % 255, 7]) * bool(size[0] % 255) + b"\0\0"
    body, palette = row * size[1] + b"\0\1", bytes(v for level in range(256) for v in (level, 0, level, 0))
    head = struct.pack("<IiiHHIIiiII", 40, *size, 1, 8, 1, len(body), 0, 0, 256, 0)
    at = 14 + len(head) + len(palette)
    return b"BM" + struct.pack("<IHHI", at + len(body), 0, 0, at) + head + palette + body


def _heic(mode: str, chroma: int, tile: int, size: tuple[int, int], deep: bool = False) -> bytes:
    import pillow_heif

    options: dict[str, Any] = {"tile_size": tile} if tile else {}
    file = io.BytesIO()
    if deep:
        samples = len(Image.new(mode, (1, 1)).getbands())
        raster = (drawn(size, samples).astype(np.uint16) * 257).tobytes()
        made = pillow_heif.from_bytes({"L": "L;16", "RGB": "RGB;16", "RGBA": "RGBA;16"}[mode], size, raster)
        pillow_heif.options.SAVE_HDR_TO_12_BIT = False
    else:
        made = pillow_heif.from_pillow(image(size, mode))
    made.save(file, quality=20, chroma=chroma, enc_params={"preset": "ultrafast"}, **options)
    return file.getvalue()


def _tiff(
    photometric: int,
    samples: int,
    bits: int,
    code: int,
    rows: int,
    tile: int,
    planar: int,
    extra: int,
    size: tuple[int, int],
    progressive: bool = False,
) -> bytes:
    """Return a TIFF in strips of `rows`, 0 for all, or tiles of `tile` px; `bits` below 0 are floats."""
    width, height = size
    raster: Any = drawn(size, samples)
    if bits == 16:
        raster = raster.astype("<u2") * 257
    elif bits == 32:
        raster = raster.astype("<u4") * 0x1010101
    elif bits == -32:
        raster = raster.astype("<f4")
    elif bits == 1:
        raster = raster[:, :, :1]
    across, down = (tile, tile) if tile else (width, rows or height)
    blocks = []
    for plane in range(samples) if planar == 2 else (slice(None),):
        layer = raster[:, :, plane : plane + 1] if isinstance(plane, int) else raster
        for top in range(0, height, down):
            for left in range(0, width, across):
                block = layer[top : top + down, left : left + across]
                if tile:
                    pad = ((0, down - block.shape[0]), (0, across - block.shape[1]), (0, 0))
                    block = np.pad(block, pad)
                blocks.append(_packed(block, bits, code, photometric, progressive))
    tags: dict[int, tuple[int, ...]] = {
        256: (width,),
        257: (height,),
        258: (abs(bits),) * samples,
        259: (code,),
        262: (photometric,),
        277: (samples,),
        284: (planar,),
    }
    if tile:
        tags |= {322: (tile,), 323: (tile,)}
    else:
        tags |= {278: (down,)}
    if extra:
        tags |= {338: (extra,)}
    if bits == -32:
        tags |= {339: (3,) * samples}
    if photometric == PALETTE:
        tags |= {320: tuple(level * 256 for level in (*range(256), *range(255, -1, -1), *range(256)))}
    if photometric == YCBCR:
        tags |= {530: (1, 1)}
    return tiff_file(tags, blocks, (324, 325) if tile else (273, 279))


def _packed(block: Any, bits: int, code: int, photometric: int, progressive: bool) -> bytes:
    if code == JPEG:
        mode = {1: "L", 3: "RGB" if photometric == RGB else "YCbCr", 4: "CMYK"}[block.shape[2]]
        file, raster = io.BytesIO(), np.ascontiguousarray(block)
        made = Image.fromarray(raster[:, :, 0] if mode == "L" else raster, mode)
        if photometric == RGB:
            made.save(file, "JPEG", quality=60, keep_rgb=True)
        else:
            made.save(file, "JPEG", quality=60, subsampling=0, progressive=progressive)
        return file.getvalue()
    if code == WEBP:
        file = io.BytesIO()
        Image.fromarray(np.ascontiguousarray(block)).save(file, "WEBP", quality=60, method=0)
        return file.getvalue()
    raw = np.packbits(block[:, :, 0] > 100, axis=1).tobytes() if bits == 1 else block.tobytes()
    if code == DEFLATE:
        return zlib.compress(raw, 1)
    if code == PACKBITS:
        return b"".join(
            bytes([len(raw[at : at + 128]) - 1]) + raw[at : at + 128] for at in range(0, len(raw), 128)
        )
    return _lzw(raw) if code == LZW else raw


def _lzw(raw: bytes) -> bytes:
    """Encode as literals of 9 bits, clearing the table before codes need 10 bits (TIFF 6.0, 13)."""
    values = np.frombuffer(raw, np.uint8).astype(np.uint16)
    padded = np.concatenate([values, np.full(-len(values) % 250, 257, np.uint16)]).reshape(-1, 250)
    codes = np.hstack([np.full((len(padded), 1), 256, np.uint16), padded]).ravel()
    codes = np.append(codes[: len(codes) - (-len(values) % 250)], 257)
    bits = np.unpackbits(codes.astype(">u2").view(np.uint8)).reshape(-1, 16)[:, 7:]
    return np.packbits(bits.ravel()).tobytes()


def tiff_file(tags: dict[int, tuple[int, ...]], blocks: list[bytes], where: tuple[int, int]) -> bytes:
    """Return a TIFF of one page; `where` are the tags of the offsets and lengths of its strips or tiles."""
    tags |= {where[0]: (0,) * len(blocks), where[1]: tuple(map(len, blocks))}
    head = 8 + 2 + 12 * len(tags) + 4
    for _ in (1, 2):  # the second pass knows the offsets of the blocks
        entries, beside = b"", b""
        for tag, values in sorted(tags.items()):
            long = tag in (*where, 256, 257, 278)
            packed = struct.pack(f"<{len(values)}{'I' if long else 'H'}", *values)
            if len(packed) > 4:
                field = struct.pack("<I", head + len(beside))
                beside += packed + b"\0" * (len(packed) % 2)
            else:
                field = packed.ljust(4, b"\0")
            entries += struct.pack("<HHI", tag, 4 if long else 3, len(values)) + field
        starts, at = [], head + len(beside)
        for block in blocks:
            starts.append(at)
            at += len(block)
        tags[where[0]] = tuple(starts)
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(tags)) + entries + bytes(4) + beside + b"".join(blocks)
