"""Encode files of every accepted kind, with the sizes of real files, not those of noise."""

import io
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pillow_heif
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from tests.memory import kinds

DRAWN = 1200  # px; larger pictures are enlarged from it
INSET = 1600  # px; the largest photo in a picture of flat colours
ROWS = 256  # of a PNG at once
ADAM7 = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
Pixels = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Kind:
    """A way to write pictures; `draw` makes a raster of (width, height) px from a seed, `encode` the file."""

    name: str
    suffix: str
    draw: Callable[[tuple[int, int], int], Image.Image]
    encode: Callable[[Image.Image], bytes]


def photo(size: tuple[int, int], seed: int) -> Image.Image:
    """Return a texture with the 1/f spectrum of photographs, edges, and a sensor's grain."""
    image = np.asarray(_scene(size, seed).resize(size, Image.Resampling.BICUBIC))
    grain = np.random.default_rng(seed).normal(0, 3, (256, 256, 1)).astype(np.int16)
    out = np.empty_like(image)
    for top in range(0, size[1], 256):
        rows = image[top : top + 256]
        tiled = np.tile(grain, (1, -(-size[0] // 256), 1))[: len(rows), : size[0]]
        out[top : top + 256] = (rows + tiled).clip(0, 255)
    return Image.fromarray(out)


def graphic(size: tuple[int, int], seed: int) -> Image.Image:
    """Return a page of flat colours with a photo on it, as people store without loss."""
    image = _scene(size, seed).quantize(24).convert("RGB").resize(size, Image.Resampling.NEAREST)
    inset = (min(INSET, size[0] // 2), min(INSET, size[1] // 2))
    image.paste(photo(inset, seed), (size[0] // 4, size[1] // 4))
    return image


def palette(size: tuple[int, int], seed: int) -> Image.Image:
    """Reduce to at most 256 colours."""
    return _scene(size, seed).quantize(256).resize(size, Image.Resampling.NEAREST)


def _scene(size: tuple[int, int], seed: int) -> Image.Image:
    """Return the picture at a size that is quick to draw."""
    random = np.random.default_rng(seed)
    scale = min(1.0, DRAWN / max(size))
    width, height = max(2, round(size[0] * scale)), max(2, round(size[1] * scale))
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    frequency[0, 0] = 1
    waves = random.normal(size=(3, *frequency.shape)) + 1j * random.normal(size=(3, *frequency.shape))
    field = np.fft.irfft2(waves / frequency, s=(height, width))
    field = 128 + 50 * (field - field.mean()) / field.std()
    image = Image.fromarray(np.ascontiguousarray(field.clip(0, 255).astype(np.uint8).transpose(1, 2, 0)))
    draw = ImageDraw.Draw(image)
    for _ in range(12):
        x, y = random.integers(0, width), random.integers(0, height)
        reach = max(2, min(width, height) // int(random.integers(4, 12)))
        colour = tuple(int(part) for part in random.integers(0, 256, 3))
        draw.regular_polygon((int(x), int(y), int(reach)), int(random.integers(3, 9)), fill=colour)
    return image


def pillow(kind: str, **options: object) -> Callable[[Image.Image], bytes]:
    def encode(image: Image.Image) -> bytes:
        file = io.BytesIO()
        image.save(file, kind, **options)
        return file.getvalue()

    return encode


def png(interlaced: bool = False, bits: int = 8) -> Callable[[Image.Image], bytes]:
    """Encode PNGs that Pillow can't write."""

    def encode(image: Image.Image) -> bytes:
        raster = np.asarray(image)
        passes = ADAM7 if interlaced else ((0, 0, 1, 1),)
        squeeze = zlib.compressobj(1)
        body = b"".join(
            squeeze.compress(rows)
            for top, left, down, across in passes
            for rows in _filtered(raster[top::down, left::across], bits // 8)
        )
        return png_file(*image.size, bits, interlaced, body + squeeze.flush())

    return encode


def _filtered(raster: Pixels, repeat: int) -> Iterator[bytes]:
    """Apply PNG's Sub filter (PNG, 9.2); a deeper sample repeats its byte."""
    step = 3 * repeat
    for top in range(0, len(raster) if raster.size else 0, ROWS):
        rows = np.repeat(raster[top : top + ROWS].reshape(-1, raster.shape[1] * 3), repeat, axis=1)
        out = np.ones((len(rows), rows.shape[1] + 1), np.uint8)
        out[:, 1:] = rows
        out[:, 1 + step :] -= rows[:, :-step]
        yield out.tobytes()


def png_file(width: int, height: int, bits: int, interlaced: bool, body: bytes) -> bytes:
    """Return an RGB PNG of compressed rows, valid or not."""

    def chunk(name: bytes, data: bytes) -> bytes:
        tail = zlib.crc32(name + data).to_bytes(4, "big")
        return len(data).to_bytes(4, "big") + name + data + tail

    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([bits, 2, 0, 0, interlaced])
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def heic(image: Image.Image) -> bytes:
    """Encode in tiles of 512 px, as phones do."""
    file = io.BytesIO()
    pillow_heif.from_pillow(image).save(
        file, quality=45, chroma=420, tile_size=512, enc_params={"preset": "ultrafast"}
    )
    return file.getvalue()


def scan(image: Image.Image) -> bytes:
    """Return a TIFF as scanners write it: one strip, which is a JPEG in YCbCr."""
    strip = pillow("JPEG", quality=60, subsampling=0)(image)
    tags = {258: (8, 8, 8), 259: (kinds.JPEG,), 262: (kinds.YCBCR,), 277: (3,), 284: (1,), 530: (1, 1)}
    tags |= {256: (image.width,), 257: (image.height,), 278: (image.height,)}
    return kinds.tiff_file(tags, [strip], (273, 279))


KINDS = (
    Kind("PNG", "png", graphic, pillow("PNG", compress_level=1)),
    Kind("JPEG", "jpg", photo, pillow("JPEG", quality=85)),
    Kind("WebP", "webp", photo, pillow("WEBP", quality=75, method=0)),
    Kind("HEIC", "heic", photo, heic),
    Kind("JPEG, progressive", "jpg", photo, pillow("JPEG", quality=85, progressive=True)),
    Kind("PNG, interlaced", "png", graphic, png(interlaced=True)),
    Kind("AVIF", "avif", photo, pillow("AVIF", quality=55, speed=10)),
    Kind("TIFF", "tif", graphic, pillow("TIFF", compression="tiff_adobe_deflate")),
    Kind("TIFF, JPEG in one strip", "tif", photo, scan),
    Kind("WebP, lossless", "webp", graphic, pillow("WEBP", lossless=True, method=0, quality=0)),
    Kind("PNG, palette", "png", palette, pillow("PNG", compress_level=1)),
    Kind("PNG, 16 bits", "png", graphic, png(bits=16)),
    Kind("GIF", "gif", palette, pillow("GIF")),
    Kind("BMP, palette", "bmp", palette, pillow("BMP")),
)
