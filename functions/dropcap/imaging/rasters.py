"""Convert a raster of any Pillow mode to a small upright sRGB raster. Sizes are (width, height) in px."""

import struct
from collections.abc import Callable
from functools import cache
from math import ceil, floor

from PIL import Image, ImageCms, ImageMath
from PIL.TiffImagePlugin import TiffImageFile

from dropcap.domain.naming import Side
from dropcap.imaging.colour import ColourSpace, srgb_profile, to_srgb
from dropcap.imaging.headers.tiff_layout import BITS, PHOTOMETRIC

ORIENTATION, SHORT = 0x0112, 3  # the tag of EXIF and TIFF, and its type (CIPA DC-008, 4.6.5)
TRANSPOSITIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
SWAPPED_SIDES = frozenset({5, 6, 7, 8})  # orientations that swap width and height
WHITE_IS_ZERO = 0  # TIFF 6.0
STRIP_PX = 1_000_000  # px converted at a time, without the margin that the filter needs
LANCZOS_REACH = 3  # px of the result that the filter reads on either side
# A decoder that can reduce decodes at least this multiple of the kept px: 41 dB PSNR against LANCZOS of the
# whole raster, to 1600 px, on synthetic 1/f texture with edges at 24 MP; 32 to 41 dB at 1.0.
DRAFT_GAP = 1.5
REDUCING_GAP = 3.0  # Pillow: from 3.0 on "indistinguishable from fair resampling in most cases"


def fit(size: tuple[int, int], side: Side) -> tuple[int, int]:
    """Return the largest size of the same aspect ratio within `side`, never enlarged."""
    width, height = (side, side) if isinstance(side, int) else side
    scale = min(1.0, width / size[0], height / size[1])
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def draft_scale(size: tuple[int, int], side: int) -> int:
    """Return by how much a JPEG may be reduced while decoding: 1, 2, 4 or 8."""
    kept = fit(size, side)
    fits = min(whole // min(whole, round(part * DRAFT_GAP)) for whole, part in zip(size, kept, strict=True))
    return max(scale for scale in (1, 2, 4, 8) if scale <= fits)


def orientation(image: Image.Image) -> int:
    """Return the orientation of a picture, 1 to 8 as in EXIF.

    As in browsers, only EXIF counts: XMP is ignored, and so is a damaged block. The decoder has already
    rotated a HEIF picture; for AVIF Pillow reports the container's properties (irot, imir). Chromium ignores
    the orientation of a WebP; Safari, libvips and phones do not.
    """
    if image.format == "HEIF":
        return 1
    if isinstance(image, TiffImageFile):
        turn = image.tag_v2.get(ORIENTATION, 1)  # libtiff accepts any integer type
        turn = turn[0] if isinstance(turn, bytes) and len(turn) == 1 else turn
    else:
        turn = _exif_orientation(image.info.get("exif") or b"")
    return turn if turn in TRANSPOSITIONS else 1


def _exif_orientation(block: bytes) -> int:
    """Return the orientation in the first directory of an EXIF block, if it is a single unsigned short.

    Chromium 156 (tried) and Firefox (EXIFParser::ParseOrientation) ignore every other type.
    """
    block = block.removeprefix(b"Exif\0\0")
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(block[:4])
    try:
        if order:
            [first] = struct.unpack_from(f"{order}I", block, 4)
            [count] = struct.unpack_from(f"{order}H", block, first)
            for at in range(first + 2, first + 2 + 12 * count, 12):
                tag, kind, values, turn = struct.unpack_from(f"{order}HHIH", block, at)
                if tag == ORIENTATION:
                    return int(turn) if (kind, values) == (SHORT, 1) else 1
    except struct.error:  # truncated
        pass
    return 1


def apply_orientation(raster: Image.Image, turn: int) -> Image.Image:
    """Return the raster rotated or mirrored by its EXIF orientation."""
    return raster.transpose(TRANSPOSITIONS[turn]) if turn in TRANSPOSITIONS else raster


def downscale(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Return the image at `size` by LANCZOS, in mode L, LA, RGB, RGBA or CMYK, computed in strips.

    Strips overlap by the filter's radius, so that no seam shows. No second raster of full size is needed: a
    48 MP palette picture takes 48 MB here, not 48 + 192.
    """
    scale = image.height / size[1]
    rows, margin = _strip_rows(image.size, size)
    plain = _flattener(image)
    whole: Image.Image | None = None
    for top in range(0, size[1], rows):
        bottom = min(top + rows, size[1])
        first = max(0, floor(top * scale) - margin)
        last = min(image.height, ceil(bottom * scale) + margin)
        strip = plain(image.crop((0, first, image.width, last)))
        box = (0.0, top * scale - first, float(image.width), min(bottom * scale, image.height) - first)
        part = strip.resize((size[0], bottom - top), Image.Resampling.LANCZOS, box, REDUCING_GAP)
        whole = whole or Image.new(part.mode, size)
        whole.paste(part, (0, top))
    assert whole is not None, "a picture has at least one row"
    return whole


def strip_px(image: tuple[int, int], size: tuple[int, int]) -> int:
    """Return the most px that `downscale` holds at once, besides image and result."""
    rows, margin = _strip_rows(image, size)
    return image[0] * min(image[1], ceil(rows * image[1] / size[1]) + 2 * margin)


def _strip_rows(image: tuple[int, int], size: tuple[int, int]) -> tuple[int, int]:
    """Return the rows of the result per strip, and the source rows that the filter needs above and below."""
    scale = image[1] / size[1]
    return max(1, floor(STRIP_PX / image[0] / scale)), ceil(scale * LANCZOS_REACH) + 1


def flatten_to_srgb(raster: Image.Image, colours: ColourSpace) -> Image.Image:
    """Return the raster in sRGB as RGB, on white, without metadata.

    As in browsers, colours are converted before transparency is blended, so that blending happens in sRGB.
    """
    shown = convert_to_srgb(raster, colours)
    if shown.mode == "RGBA":
        shown = Image.alpha_composite(Image.new("RGBA", shown.size, "white"), shown).convert("RGB")
    shown.info.clear()  # `save` would write its profiles, EXIF and comments
    return shown


def convert_to_srgb(raster: Image.Image, colours: ColourSpace) -> Image.Image:
    """Return the raster in sRGB, as RGB, or as RGBA if it has alpha."""
    if raster.mode not in ("LA", "RGBA"):
        return to_srgb(raster, colours)
    if not colours:
        return raster.convert("RGBA")
    alpha = raster.getchannel("A")
    shown = to_srgb(raster.convert("L" if raster.mode == "LA" else "RGB"), colours)
    shown.putalpha(alpha)
    return shown


@cache
def _lab_to_srgb() -> ImageCms.ImageCmsTransform:
    return ImageCms.buildTransform(ImageCms.createProfile("LAB"), srgb_profile(), "LAB", "RGB")


def _flattener(image: Image.Image) -> Callable[[Image.Image], Image.Image]:
    """Return a function that converts a strip to mode L, LA, RGB, RGBA or CMYK at 8 bits, full scale kept."""
    if image.mode.startswith("I") or image.mode == "F":
        clear = image.info.pop("transparency", None)  # the grey that is transparent, in PNG
        black, white = _levels(image)
        scale = 255 / (white - black)
        offset = -black * scale

        def plain(strip: Image.Image) -> Image.Image:
            if strip.mode != "F":  # I;16B and its like convert to I alone
                strip = strip.convert("I")
            grey = strip.convert("F").point(lambda value: value * scale + (offset + 0.5)).convert("L")
            if isinstance(clear, int):  # all 16 bits count
                grey.putalpha(
                    ImageMath.lambda_eval(lambda of: (of["strip"] != clear) * 255, strip=strip).convert("L")
                )
            return grey

        return plain
    if image.mode == "LAB":
        return lambda strip: _lab_to_srgb().apply(strip)
    if image.mode == "La":
        return lambda strip: strip.convert("LA")
    if image.has_transparency_data:
        return lambda strip: strip if strip.mode in ("LA", "RGBA") else strip.convert("RGBA")
    mode = {"1": "L", "L": "L", "CMYK": "CMYK"}.get(image.mode, "RGB")
    return lambda strip: strip if strip.mode == mode else strip.convert(mode)


def _levels(image: Image.Image) -> tuple[float, float]:
    """Return the values of black and white in a picture of more than 8 bits a channel.

    16-bit modes have them by definition (Pillow keeps 12-bit TIFF as it is, and white-is-zero unturned);
    signed integers and floats use the smallest customary white that holds them, else they are stretched.
    """
    tags = image.tag_v2 if isinstance(image, TiffImageFile) else {}
    if image.mode.startswith("I;16"):
        white = 2 ** int(tags.get(BITS, (16,))[0]) - 1
        return (white, 0) if tags.get(PHOTOMETRIC) == WHITE_IS_ZERO else (0, white)
    low, high = image.getextrema()
    if not (isinstance(low, int | float) and isinstance(high, int | float)):
        raise ValueError(f"extrema of mode {image.mode}")
    bits = tags.get(BITS, (32,))[0]
    found = levels(low, high, 65535 if image.mode == "F" else 2 ** (bits - 1) - 1)
    return found[::-1] if tags.get(PHOTOMETRIC) == WHITE_IS_ZERO else found


def levels(low: float, high: float, top: int) -> tuple[float, float]:
    """Return the values of black and white for numbers from `low` to `high`; `top` is the largest white."""
    for white in (1, 255, 65535, top):
        if low >= 0 and high <= white <= top:
            return 0, white
    return (low, high) if high > low else (0, 1)
