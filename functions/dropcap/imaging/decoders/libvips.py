"""Decode pictures of any size with libvips, which is imported only for a picture that needs it.

libvips reduces JPEG and WebP while loading and streams PNG and TIFF, so that a full-size raster exists only
if the order of the file requires it. Sizes are (width, height) in px, memory is in MB.
"""

import io
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from math import inf
from typing import Any

from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from dropcap.imaging import rasters
from dropcap.imaging.decoders import repairs
from dropcap.imaging.headers import nclx, properties
from dropcap.imaging.headers.tiff_layout import LAB, PALETTE, Layout

# pyvips 3.2, libvips 8.18. The import is paid once: 12 MB, and more where its files are not cached: a peak
# was once 6 MB higher than usual.
IMPORT_MB, PIPELINE_MB = 15.0, 8.0  # the latter varies by 4 MB with what else the machine does
STRICT = "strict"  # key in a header's `info`: the file was repaired, and pixels may be missing
AVIF_PX = 20.0  # bytes a px: measured at 4 MP with alpha 18, at 10 bits 24 to 28, import included
# Rows of the loaded picture that libvips holds at once: 950 to 1,830, measured from 2000 x 50000 to
# 24000 x 500 px, in 1 to 4 channels of 8 and 16 bits; of 500 rows 940, of 250 850.
ROWS = 1900
LOADERS = {"JPEG": "jpegload", "MPO": "jpegload", "PNG": "pngload", "WEBP": "webpload", "TIFF": "tiffload"}
LOADERS["AVIF"] = "heifload"
MODES = {1: "L", 3: "RGB", 4: "CMYK"}  # by number of channels, without alpha
INTERPRETATIONS = {1: ("b-w", "grey16"), 3: ("srgb", "rgb16"), 4: ("cmyk", "cmyk")}  # at 8 and 16 bits


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
        if not _supports(header):
            return inf
        px = header.width * header.height
        samples = _channels(header) * _width(header, data)
        width, height = header.size
        whole = len(data) if header.info.get(STRICT) else 0.0  # a repaired file is a copy
        match header.format:
            case "JPEG" | "MPO":
                assert isinstance(header, JpegImageFile)
                scale = rasters.draft_scale(header.size, side)
                width, height = width // scale + 1, height // scale + 1
                whole += px * properties.jpeg_coefficients(header, data)
            case "PNG":
                whole += px * samples if properties.png(data).interlaced else 0
                whole += len(data) * (repairs.without_long_text(data) is not data)
            case "WEBP":
                scaled = _webp_scale(header.size, side)
                width, height = round(width * scaled), round(height * scaled)
                frame = 2 * samples * width * height  # once more while it is laid on its canvas
                lossless = properties.webp_lossless(data)
                whole = frame + px * (4 if lossless else 2 if header.mode == "RGBA" else 0)
            case "AVIF":
                assert isinstance(header, AvifHeader)
                whole = (AVIF_PX + 8 * header.is_deep) * properties.decoded_px(header, data)
            case "TIFF":
                assert isinstance(header, TiffImageFile)
                whole = (
                    properties.tiff_planes(header)
                    + properties.tiff_read(header)
                    + properties.tiff_coefficients(header, data)
                    + properties.strips_held(header.tag_v2) * properties.tiff_block(header)
                )
        return (
            _library_mb()
            + (whole + _streaming_bytes(width, height, samples, rasters.fit(header.size, side))) / 1e6
        )

    def decode(self, header: Image.Image, data: bytes, side: int) -> Image.Image:
        # As strict as Pillow: a truncated or damaged picture raises, an unusual one does not. "error" would
        # reject a PNG whose comment has a wrong checksum, "truncated" would accept half a TIFF.
        strict = "truncated" if header.format == "PNG" else "error"
        options: dict[str, Any] = {"access": "sequential", "fail_on": strict}
        if header.format in ("JPEG", "MPO"):
            options["shrink"] = rasters.draft_scale(header.size, side)
        elif header.format == "WEBP":
            options["scale"] = _webp_scale(header.size, side)
        elif header.format == "PNG":  # otherwise Pillow decodes the whole picture to find it
            header.info.setdefault("exif", properties.png_exif(data))
        pyvips = library()

        def load() -> Any:
            source = pyvips.Source.new_from_memory(data)  # a buffer would be copied
            assert header.format is not None
            return getattr(pyvips.Image, f"{LOADERS[header.format]}_source")(source, **options)

        if header.format == "PNG":
            data = repairs.without_long_text(data)
        size = rasters.fit(header.size, side)
        if header.info.get(STRICT):
            with _raise_on_warning():
                return _downscale(load(), size)
        tags = header.tag_v2 if isinstance(header, TiffImageFile) else None
        return _downscale(load() if tags is None else _load_tiff(load, Layout.of(tags)), size)


class AvifHeader(Image.Image):
    """Header by libvips of an AVIF that Pillow can't open because libavif is stricter than browsers."""

    format = "AVIF"

    def __init__(self, data: bytes) -> None:
        super().__init__()
        pyvips = library()
        image = pyvips.Image.heifload_source(pyvips.Source.new_from_memory(data))
        self._size, self._mode = (image.width, image.height), "RGBA" if image.hasalpha() else "RGB"
        self.is_deep = image.format == "ushort"
        self.is_grey = nclx.is_grey(data)
        if "icc-profile-data" in image.get_fields():
            self.info["icc_profile"] = image.get("icc-profile-data")


@dataclass(frozen=True, slots=True)
class Libheif:
    """HEIC: decoded by pillow-heif, downscaled by libvips in place; Pillow would copy the raster first."""

    name: str = "libheif"

    def need_mb(self, header: Image.Image, data: bytes, side: int) -> float:
        """Return the need, MB: the peak with pillow-heif 1.8 and libheif 1.23.

        In bytes a pixel between 24 and 48 MP: 4.4 at 4:2:0 (4.6 as a grid of tiles), 7.3 with alpha, 9.5 at
        4:4:4; and 10 to 50 MB, import included. At 10 bits and 6 MP 65 MB at 4:2:0, 101 MB at 4:4:4. With
        alpha at 10.7 MP 106 MB, 142 at 4:4:4, at 10 bits 136 and 227.
        """
        if header.format != "HEIF" or header.mode not in ("L", "RGB", "RGBA"):
            return inf
        half, alpha = header.info.get("chroma") == 420, header.mode == "RGBA"
        if header.info.get("bit_depth", 8) > 8:
            a_px = (12.2 if alpha else 9.6) if half else (20.6 if alpha else 16.0)
        elif half:
            a_px = 7.4 if alpha else 4.6
        else:
            a_px = 12.6 if alpha else 9.6
        px = properties.decoded_px(header, data)
        kept = rasters.fit(header.size, side)
        shrinking = 4 * px + _streaming_bytes(*header.size, len(header.getbands()), kept)
        return _library_mb() + (max(a_px * px + 32e6, shrinking) + len(data)) / 1e6

    def decode(self, header: Image.Image, data: bytes, side: int) -> Image.Image:
        import pillow_heif

        pyvips = library()
        pictures = pillow_heif.open_heif(io.BytesIO(data))
        picture = pictures[pictures.primary_index]
        raster, channels = picture.data, len(picture.mode)
        image = pyvips.Image.new_from_memory(raster, *picture.size, channels, "uchar")
        image = image.copy(interpretation="srgb" if channels > 2 else "b-w")
        return _downscale(image, rasters.fit(header.size, side))


def _library_mb() -> float:
    return PIPELINE_MB + (0.0 if "pyvips" in sys.modules else IMPORT_MB)


def library() -> Any:
    """Return libvips with its error buffer cleared: an old error that is not UTF-8 would fail every call."""
    pyvips = _set_up()
    pyvips.vips_lib.vips_error_clear()
    return pyvips


@cache
def _set_up() -> Any:
    """Set up libvips once: one thread, because an instance has one vCPU, and no operation cache."""
    import pyvips

    pyvips.concurrency_set(1)
    pyvips.cache_set_max(0)
    return pyvips


@contextmanager
def _raise_on_warning() -> Iterator[None]:
    """Raise if libvips logged a warning: that is how it reports missing rows at the end of a JPEG."""
    warnings: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: warnings.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("pyvips")
    level, disabled = logger.level, logging.root.manager.disable
    logging.disable(logging.NOTSET)  # a program that silences warnings must not see a cut picture as whole
    logger.setLevel(logging.WARNING)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        logging.disable(disabled)
    if warnings:
        raise OSError(warnings[-1])


def _downscale(image: Any, size: tuple[int, int]) -> Image.Image:
    """Return the image at `size` by LANCZOS, at 8 bits, with alpha: `rasters.downscale` for libvips."""
    if image.interpretation == "cmyk" and image.hasalpha():  # white means no ink
        image = image.flatten(background=0, max_alpha=65535 if image.format == "ushort" else 255)
    deep, alpha = image.format == "ushort", image.hasalpha()
    top = {"max_alpha": 65535 if deep else 255}
    if alpha:  # so that transparent px do not bleed into their neighbours
        image = image.premultiply(**top).rint().cast("ushort" if deep else "uchar")
    image = image.resize(size[0] / image.width, vscale=size[1] / image.height, kernel="lanczos3")
    if alpha:
        image = image.unpremultiply(**top).rint().cast("ushort" if deep else "uchar")
    if deep:
        image = (image / 257).rint().cast("uchar")
    mode = MODES[image.bands - alpha] + "A" * alpha
    return Image.frombytes(mode, size, image.write_to_memory())


def _streaming_bytes(width: int, height: int, samples: int, kept: tuple[int, int]) -> float:
    """Return the bytes of streaming rows of `width` px with `samples` bytes per px, and of the result."""
    return width * samples * min(ROWS, 2 * height + 500) + 2 * 4 * kept[0] * kept[1]


def _webp_scale(size: tuple[int, int], side: int) -> float:
    """Return the scale to load at: 44 dB PSNR against LANCZOS of the whole raster (24 MP, to 1600 px).

    Loading at exactly the kept size has 42 dB.
    """
    return min(1.0, rasters.DRAFT_GAP * max(rasters.fit(size, side)) / max(size))


def _load_tiff(load: Callable[[], Any], layout: Layout) -> Any:
    """Return the colours of a TIFF of any number format in 8 or 16 bits, with alpha if there is one."""
    image, colours = load(), layout.colours if layout.photometric != PALETTE else 3
    if layout.photometric == LAB:
        lab = image.extract_band(0, n=colours).colourspace("lab")
        return lab.icc_export(output_profile="srgb", intent="relative")  # D50, as in TIFF
    if image.format in ("uint", "float"):  # read twice: first for its levels
        limits = image.extract_band(0, n=colours).stats()
        whole, others = image.format == "uint", image.bands - colours
        black, white = rasters.levels(limits(0, 0)[0], limits(1, 0)[0], 2**32 - 1 if whole else 65535)
        scales = [65535 / (white - black)] * colours + [65535 / (2**32 - 1) if whole else 65535.0] * others
        image = ((load() - ([black] * colours + [0.0] * others)) * scales).rint().cast("ushort")
    image = image.extract_band(0, n=colours + bool(layout.alpha))
    return image.copy(interpretation=INTERPRETATIONS[colours][image.format == "ushort"])


def _supports(header: Image.Image) -> bool:
    """Return whether libvips decodes this picture, to the same pixels as Pillow: no animations."""
    if header.format == "WEBP":
        return isinstance(header, WebPImageFile) and not header.is_animated
    if isinstance(header, TiffImageFile):
        return Layout.of(header.tag_v2).libvips_supports
    if header.format == "AVIF":  # Pillow needs less memory, and libheif darkens grey with alpha
        return isinstance(header, AvifHeader) and not (header.is_grey and header.mode == "RGBA")
    return header.format in LOADERS


def _channels(header: Image.Image) -> int:
    """Return the number of channels that libvips loads: a palette as colours, a colour key as alpha."""
    if isinstance(header, TiffImageFile) and header.mode != "P":
        return len(Layout.of(header.tag_v2).bits)
    channels = 3 if header.mode == "P" else len(header.getbands())
    return channels + ("transparency" in header.info and header.mode in ("1", "L", "I;16", "P", "RGB"))


def _width(header: Image.Image, data: bytes) -> int:
    """Return the bytes of a sample."""
    if isinstance(header, TiffImageFile):
        return -(-max(Layout.of(header.tag_v2).bits) // 8)
    return 2 if header.format == "PNG" and properties.png(data).bits > 8 else 1
