"""Estimate the memory that each decoder needs, and rank the decoders.

Sizes are (width, height) in px, memory is in MB.
"""

from dataclasses import dataclass
from math import inf
from typing import Protocol

from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile
from PIL.TiffImagePlugin import TiffImageFile

from dropcap.imaging import rasters
from dropcap.imaging.decoders import libvips, pillow_readers
from dropcap.imaging.decoders.libvips import STRICT, Libheif, Libvips
from dropcap.imaging.headers import properties
from dropcap.imaging.headers.tiff_layout import Layout

# Below this need, Pillow decodes: libvips costs 12 MB permanently and 0.04 s once. It pays off for a JPEG or
# PNG of 12 MP: 0.1 s and 40 MB, import included, where Pillow takes 0.25 s and 68 MB.
LIGHT_MB = 64.0
AVIF_BYTES = 8e6  # taken by its decoder at any size: measured at 1.5 to 11 MP


class Decoder(Protocol):
    """Decodes an opened picture to a small raster.

    Both methods may raise any error of Pillow or libvips on damaged bytes.
    """

    @property
    def name(self) -> str: ...

    def need_mb(self, header: Image.Image, data: bytes, side: int) -> float:
        """Return the peak memory of decoding in MB, besides `data`; infinite if it does not support it."""

    def decode(self, header: Image.Image, data: bytes, side: int) -> Image.Image:
        """Return the raster within `side` x `side` px, not rotated, in mode L, LA, RGB, RGBA or CMYK."""


@dataclass(frozen=True, slots=True)
class Pillow:
    """Pillow and pillow-heif read every supported format. JPEGs are decoded at 1/1, 1/2, 1/4 or 1/8."""

    name: str = "pillow"

    def need_mb(self, header: Image.Image, data: bytes, side: int) -> float:
        """Return the need, MB: the peak at 24 MP with Pillow 13.0 and pillow-heif 1.8, bytes a pixel:

        JPEG 4.0 (progressive +3.0 at 4:2:0, +6.0 at 4:4:4); PNG, GIF, BMP, TIFF the raster alone (+3.0 for
        TIFF in one strip, +6.0 if that is a progressive JPEG); WebP 16.0; AVIF 9.1 at 4:2:0, 10.8 at 4:4:4,
        with alpha 11.9 and 13.6; HEIC 7.3 at 4:2:0, 8.4 with alpha, 9.6 and 12.5 at 4:4:4, at 10 bits 9.4,
        12.0, 15.3 and 20.5. The last three also copy the file. Deep AVIF is an assumption: 8 bits and 4
        bytes more. `make estimates` measures all kinds.
        """
        if not _supports(header):
            return inf
        px = properties.decoded_px(header, data)
        kept = rasters.fit(header.size, side)
        after = 2 * 4 * kept[0] * kept[1]  # twice: conversion and rotation make a copy
        # Copies: the crop, with alpha, white, composited, in RGB, and reduced if it is RGBA.
        strips = (6 if header.has_transparency_data else 5) * 4 * rasters.strip_px(header.size, kept)
        raster = {"1": 1, "L": 1, "P": 1}.get(header.mode, 2 if header.mode.startswith("I;16") else 4)
        whole, decoding = float(px * raster), 0.0
        match header.format:
            case "JPEG" | "MPO":
                assert isinstance(header, JpegImageFile)
                scale = rasters.draft_scale(header.size, side)
                whole = px * (raster / scale**2 + properties.jpeg_coefficients(header, data))
            case "TIFF":
                assert isinstance(header, TiffImageFile)
                whole += properties.tiff_strip(header) + properties.tiff_coefficients(header, data)
            case "GIF" if isinstance(header, pillow_readers.Gif) and header.has_uncovered_canvas:
                whole = px * 9.0  # the decoded frame and the picture in RGBA
            case "BMP" if isinstance(header, pillow_readers.Bmp) and header.is_packed:
                whole = px * 3.0  # Pillow unpacks into a bytearray and copies it before it fills the raster
            case "WEBP":
                decoding = px * 16.5 + len(data)
            case "AVIF":
                a_px = 12.6 if header.mode == "RGBA" else 10.2
                decoding = px * (a_px + 4 * properties.deep_avif(data)) + after + AVIF_BYTES + len(data)
            case "HEIF":
                half, deep = header.info.get("chroma") == 420, header.info.get("bit_depth", 8) > 8
                alpha = header.mode == "RGBA"
                if half:
                    a_px = (13 if alpha else 10) if deep else 9
                else:
                    a_px = (22 if alpha else 16) if deep else (14 if alpha else 11)
                decoding = px * a_px + len(data)
        return max(decoding, whole + after + strips) / 1e6

    def decode(self, header: Image.Image, data: bytes, side: int) -> Image.Image:
        size = rasters.fit(header.size, side)
        scale = rasters.draft_scale(header.size, side)
        header.draft(None, (header.width // scale, header.height // scale))
        header.load()
        return rasters.downscale(header, size)


def _supports(header: Image.Image) -> bool:
    """Return whether Pillow decodes this picture correctly."""
    if isinstance(header, libvips.AvifHeader):
        return False
    if isinstance(header, pillow_readers.Tiff):
        return not header.is_foreign and Layout.of(header.tag_v2).pillow_supports
    if header.info.get(STRICT) and header.format in ("JPEG", "MPO"):  # Pillow would not notice missing pixels
        return False
    key = header.info.get("transparency")
    # The transparent colour has 16 bits, but Pillow has reduced the pixels to 8.
    return not (header.format == "PNG" and isinstance(key, tuple) and max(key) > 255)


DECODERS: tuple[Decoder, ...] = (Pillow(), Libvips(), Libheif())


def name(header: Image.Image) -> str:
    """Return a name for a kind of picture that no decoder reads."""
    if isinstance(header, pillow_readers.Tiff):
        return f"TIFF ({Layout.of(header.tag_v2).name})"
    return "AVIF (grey with alpha)" if header.format == "AVIF" else str(header.format)


def rank_decoders(header: Image.Image, data: bytes, side: int) -> list[tuple[float, Decoder]]:
    """Return decoders with their need of memory, MB, best first: Pillow for small ones, else the least need.

    Only memory matters, because all produce the same picture (tests/imaging/test_decoders.py). Pillow decodes
    AVIF where it can, because libvips needs more, and always GIF and BMP: libvips keeps 4 bytes a pixel of a
    GIF and can't read BMP.
    """
    needs = [(decoder.need_mb(header, data, side), decoder) for decoder in DECODERS]
    return sorted(needs, key=lambda need: max(need[0], LIGHT_MB))
