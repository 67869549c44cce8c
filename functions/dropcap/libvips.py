"""libvips: pictures of any size by streaming, imported only where one comes that needs it.

It shrinks JPEG and WebP while they load and streams PNG and TIFF, so that a whole raster never exists except
where the file's own order needs one. Sizes are (width, height) in px, memory is in MB.
"""

import io
import sys
from dataclasses import dataclass
from functools import cache
from math import inf
from typing import Any

from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from dropcap import headers, pixels

# pyvips 3.2, libvips 8.18. The import is paid once: 12 MB, and more where its files are not cached: a peak
# was once 6 MB higher than usual.
IMPORT_MB, PIPELINE_MB = 15.0, 4.0
# Rows of what is loaded that libvips has in hand at once: 950 to 1,830, measured from 2000 x 50000 to
# 24000 x 500 px, in 1 to 4 channels of 8 and 16 bits; of 500 rows 940, of 250 850.
ROWS = 1900
LOADERS = {"JPEG": "jpegload", "MPO": "jpegload", "PNG": "pngload", "WEBP": "webpload", "TIFF": "tiffload"}
MODES = {1: "L", 3: "RGB", 4: "CMYK"}  # by channels, without alpha
# TIFF 6.0 and its supplements: what libvips shows as Pillow does. ZSTD and LZMA are not built into it; YCbCr
# that is not JPEG, white-is-zero, LAB, 12 bits and floats are rare, and Pillow has its own way with each.
TIFF_MODES = frozenset({"L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "I;16B"})
COMPRESSIONS = frozenset({1, 5, 7, 8, 32773, 32946})  # none, LZW, JPEG, Deflate, PackBits, Deflate as it was
BLACK_IS_ZERO, RGB, PALETTE, SEPARATED, YCBCR, JPEG = 1, 2, 3, 5, 6, 7
PLANAR, EXTRA_SAMPLES, SAMPLE_FORMAT = 284, 338, 339
CHUNKY, STRAIGHT_ALPHA, UNSIGNED = 1, 2, 1


@dataclass(frozen=True, slots=True)
class Libvips:
    """JPEG, PNG, WebP and TIFF."""

    name: str = "libvips"

    def need_mb(self, header: Image.Image, data: bytes, side: int) -> float:
        """Measured as peak resident set with libvips 8.18 at 1600 px, import included, MB at 24 / 100 MP:

        JPEG 35 / 36, grey 19, CMYK 42, progressive 105 / 334 at 4:2:0 and 179 / 636 at 4:4:4 (coefficients);
        PNG 49 / 86, with alpha 57 / 95, 16 bits 76 / 154, interlaced 111 / 369 and 193 / 715 at 16 bits (the
        raster); WebP 59 / 60, with alpha 77 / 230 (2 bytes a pixel), lossless 124 / 429 (4 bytes a pixel);
        TIFF 45 / 90 in strips or tiles, 16 bits 74 / 157, in one strip 59 / 109. The file is never copied.
        """
        if not _can(header):
            return inf
        px = header.width * header.height
        samples = _channels(header) * (2 if _deep(header, data) else 1)
        width, height = header.size
        whole = 0.0
        match header.format:
            case "JPEG" | "MPO":
                assert isinstance(header, JpegImageFile)
                scale = pixels.draft_scale(header.size, side)
                width, height = width // scale + 1, height // scale + 1
                whole = px * headers.jpeg_coefficients(header, data)
            case "PNG":
                whole = px * samples if headers.png(data).interlaced else 0
            case "WEBP":
                scaled = _webp_scale(header.size, side)
                width, height = round(width * scaled), round(height * scaled)
                frame = 2 * samples * width * height  # once more while it is laid on its canvas
                lossless = headers.webp_lossless(data)
                whole = frame + px * (4 if lossless else 2 if header.mode == "RGBA" else 0)
            case "TIFF":
                assert isinstance(header, TiffImageFile)
                whole = headers.tiff_read(header) + (
                    2 * headers.tiff_strip(header) if headers.TILE_LENGTH in header.tag_v2 else 0
                )
        return (
            _library_mb() + (whole + _streamed(width, height, samples, pixels.fit(header.size, side))) / 1e6
        )

    def decode(self, header: Image.Image, data: bytes, side: int) -> Image.Image:
        # As strict as Pillow: a cut or damaged picture raises, an odd one does not. "error" would refuse a
        # PNG whose comment has a wrong checksum, "truncated" would show half a TIFF.
        strict = "truncated" if header.format == "PNG" else "error"
        options: dict[str, Any] = {"access": "sequential", "fail_on": strict}
        if header.format in ("JPEG", "MPO"):
            options["shrink"] = pixels.draft_scale(header.size, side)
        elif header.format == "WEBP":
            options["scale"] = _webp_scale(header.size, side)
        elif header.format == "PNG":  # else Pillow decodes the whole picture in search of it
            header.info.setdefault("exif", headers.png_exif(data))
        pyvips = _library()
        source = pyvips.Source.new_from_memory(data)  # a buffer would be copied
        assert header.format is not None
        image = getattr(pyvips.Image, f"{LOADERS[header.format]}_source")(source, **options)
        return _shrunk(image, pixels.fit(header.size, side))


@dataclass(frozen=True, slots=True)
class Libheif:
    """HEIC: pillow-heif's own raster, which libvips shrinks where it lies; Pillow would copy it first."""

    name: str = "libheif"

    def need_mb(self, header: Image.Image, data: bytes, side: int) -> float:
        """Measured as peak resident set with pillow-heif 1.8 and libheif 1.23, bytes a pixel between 24 and
        48 MP: 4.4 at 4:2:0 (4.6 as a grid of tiles), 7.3 with alpha, 9.5 at 4:4:4; and 10 to 50 MB, import
        included. At 10 bits and 6 MP 65 MB at 4:2:0, 101 MB at 4:4:4.
        """
        if header.format != "HEIF" or header.mode not in ("L", "RGB", "RGBA"):
            return inf
        half = header.info.get("chroma") == 420
        if header.info.get("bit_depth", 8) > 8:
            a_px = 9.6 if half else 16.0
        else:
            a_px = 9.6 if not half else 7.4 if header.mode == "RGBA" else 4.6
        px = headers.whole_px(header, data)
        kept = pixels.fit(header.size, side)
        shrinking = 4 * px + _streamed(*header.size, len(header.getbands()), kept)
        return _library_mb() + (max(a_px * px + 32e6, shrinking) + len(data)) / 1e6

    def decode(self, header: Image.Image, data: bytes, side: int) -> Image.Image:
        import pillow_heif

        pyvips = _library()
        pictures = pillow_heif.open_heif(io.BytesIO(data))
        picture = pictures[pictures.primary_index]
        raster, channels = picture.data, len(picture.mode)
        image = pyvips.Image.new_from_memory(raster, *picture.size, channels, "uchar")
        image = image.copy(interpretation="srgb" if channels > 2 else "b-w")
        return _shrunk(image, pixels.fit(header.size, side))


def _library_mb() -> float:
    return PIPELINE_MB + (0.0 if "pyvips" in sys.modules else IMPORT_MB)


@cache
def _library() -> Any:
    """libvips, set up once: one thread, as the instance has one vCPU, and no finished operation is kept."""
    import pyvips

    pyvips.concurrency_set(1)
    pyvips.cache_set_max(0)
    return pyvips


def _shrunk(image: Any, size: tuple[int, int]) -> Image.Image:
    """The image at `size` by LANCZOS, at 8 bits, with its alpha: as `pixels.shrunk` makes it of a raster."""
    deep, alpha = image.format == "ushort", image.hasalpha()
    top = {"max_alpha": 65535 if deep else 255}
    if alpha:  # what is clear has no part in its neighbours' colours
        image = image.premultiply(**top).rint().cast("ushort" if deep else "uchar")
    image = image.resize(size[0] / image.width, vscale=size[1] / image.height, kernel="lanczos3")
    if alpha:
        image = image.unpremultiply(**top).rint().cast("ushort" if deep else "uchar")
    if deep:
        image = (image / 257).rint().cast("uchar")
    mode = MODES[image.bands - alpha] + "A" * alpha
    return Image.frombytes(mode, size, image.write_to_memory())


def _streamed(width: int, height: int, samples: int, kept: tuple[int, int]) -> float:
    """Bytes while rows of `width` px with `samples` bytes a pixel stream by, and of what they become."""
    return width * samples * min(ROWS, 2 * height + 500) + 2 * 4 * kept[0] * kept[1]


def _webp_scale(size: tuple[int, int], side: int) -> float:
    """44 dB PSNR against LANCZOS of the whole raster (24 MP, to 1600 px); 42 at exactly what we keep."""
    return min(1.0, pixels.DRAFT_GAP * max(pixels.fit(size, side)) / max(size))


def _can(header: Image.Image) -> bool:
    """Whether libvips shows this picture as Pillow does: not animations, nor the rarer kinds of TIFF."""
    if header.format == "WEBP":
        return isinstance(header, WebPImageFile) and not header.is_animated
    if not isinstance(header, TiffImageFile):
        return header.format in LOADERS
    tags = header.tag_v2
    compression = tags.get(headers.COMPRESSION, headers.UNCOMPRESSED)
    colours = {BLACK_IS_ZERO, RGB, PALETTE, SEPARATED} | ({YCBCR} if compression == JPEG else set())
    alpha = (STRAIGHT_ALPHA,) if header.mode in ("LA", "RGBA") else ()
    return all(
        (
            header.mode in TIFF_MODES,
            compression in COMPRESSIONS,
            tags.get(pixels.PHOTOMETRIC) in colours,
            set(tags.get(pixels.BITS_PER_SAMPLE, (1,))) <= {8, 16},
            set(tags.get(SAMPLE_FORMAT, (UNSIGNED,))) == {UNSIGNED},
            tags.get(PLANAR, CHUNKY) == CHUNKY,
            tags.get(EXTRA_SAMPLES, ()) == alpha,
        )
    )


def _channels(header: Image.Image) -> int:
    """Channels that libvips loads: palettes as colours, a transparent colour as alpha."""
    channels = 3 if header.mode == "P" else len(header.getbands())
    return channels + ("transparency" in header.info and header.mode in ("1", "L", "I;16", "P", "RGB"))


def _deep(header: Image.Image, data: bytes) -> bool:
    """Whether a channel has 16 bits."""
    if isinstance(header, TiffImageFile):
        return bool(max(header.tag_v2.get(pixels.BITS_PER_SAMPLE, (8,))) > 8)
    return header.format == "PNG" and headers.png(data).bits > 8
