"""Decode an upload safely: detect its format, enforce the limits, and keep one downscaled sRGB raster.

    with decoding.open_picture(data, limits) as source:
        source.facts                        format, size and pages of the upload
        source.resize(400)                  a raster for a model
        source.encode(800, "webp", 80)      an encoded rendition without metadata

Each upload is decoded once, by the cheapest decoder that fits in memory. The format is detected from the
bytes, never from the name or content type. Sides are in px, memory in MB. The functions decode in a child
process (sandbox/); importing this module loads Pillow.
"""

import io
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from http import HTTPStatus
from importlib import import_module
from math import inf
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar

from PIL import Image, features
from PIL.GifImagePlugin import GifImageFile

from dropcap.domain.analysis import PictureFacts
from dropcap.domain.naming import CONTENT_TYPES, Encoded, Side
from dropcap.errors import Rejected
from dropcap.imaging import colour, rasters
from dropcap.imaging.decoder_errors import LIBRARIES, broken, collect_warnings, read_header, translate_errors
from dropcap.imaging.decoders import pillow_readers, ranking
from dropcap.imaging.decoders.libvips import STRICT, AvifHeader
from dropcap.imaging.decoders.repairs import repair
from dropcap.imaging.headers import boxes, dimensions, tiff
from dropcap.imaging.headers.formats import CODECS, OPENED_BRANDS, detect_format, unsupported
from dropcap.runtime.memory import Admit

# Pillow's own limit warns at 89 MP and raises at twice that. MAX_MEGAPIXELS replaces it.
Image.MAX_IMAGE_PIXELS = None
pillow_readers.register()

BROKEN_PICTURE = "broken_picture"
ENCODING: dict[str, dict[str, Any]] = {
    "webp": {"method": 4},
    "jpeg": {"progressive": True, "optimize": True},
    "png": {},
    # About a tenth of the time of Pillow's default of 6, for 9 % more bytes (noise, 1600 x 1067 px).
    "avif": {"speed": 8},
}

T = TypeVar("T")


class Limits(Protocol):
    """The limits on a picture; `largest_side` is the largest side of what is made from it, px."""

    @property
    def max_side(self) -> int: ...

    @property
    def max_megapixels(self) -> int: ...

    @property
    def largest_side(self) -> int: ...


def admit_first(needs: Sequence[float]) -> tuple[int | None, float]:
    """Admit the best way, whatever it needs."""
    return 0, inf


class Picture:
    """An upload as an upright sRGB raster, no larger than its largest rendition or model input."""

    def __init__(self, facts: PictureFacts, raster: Image.Image) -> None:
        self.facts = facts
        self._raster = raster

    def resize(self, side: Side) -> Image.Image:
        """Return a new RGB raster that fits in `side`, never enlarged. The caller closes it."""
        size = rasters.fit(self._raster.size, side)
        return self._raster.resize(size, Image.Resampling.LANCZOS)

    def encode(self, side: Side, kind: str, quality: int) -> Encoded:
        """Return an encoded sRGB copy without metadata.

        `kind` is webp, jpeg, png or avif; `quality` 1 to 100.
        """
        with self.resize(side) as copy, io.BytesIO() as file:
            copy.save(file, kind, quality=quality, **ENCODING[kind])
            return Encoded(file.getvalue(), *copy.size, CONTENT_TYPES[kind])

    def close(self) -> None:
        """Free the raster; `memory.release()` then returns its memory to the system."""
        self._raster.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_picture(data: bytes, limits: Limits, admit: Admit = admit_first) -> Picture:
    """Decode `data`. Close the picture after use, preferably by `with`.

    `admit` chooses among the decoders' needs of memory. Raises Rejected if `data` is not a picture, has an
    unsupported format, is damaged or too large, or needs more memory than is available.
    """
    kind = detect_format(data)
    with collect_warnings(kind):
        return _open(kind, data, limits, admit)


def _open(kind: str, data: bytes, limits: Limits, admit: Admit) -> Picture:
    if kind == "HEIF":
        register_heif()
    largest = _check_claimed_sizes(kind, data, limits)
    if kind == "GIF":  # Pillow's reader allocates a second canvas to dispose of the first frame
        _choose([(largest[0] * largest[1] / 1e6, None)], kind, largest, admit)
    pages, shown = 1, data
    if kind == "TIFF":
        with translate_errors(kind):
            chosen = tiff.pages(data)
        pages = max(1, chosen.full)
        if chosen.largest != chosen.first:
            shown = tiff.from_page(data, chosen.largest)
    if kind == "HEIF" and data[8:12] not in OPENED_BRANDS:
        shown = data[:8] + b"mif1" + data[12:]
    try:
        raster, size, decoder = _decode(kind, shown, limits, admit)
    except Rejected as rejected:
        if rejected.code != BROKEN_PICTURE:
            raise
        with translate_errors(kind):
            whole = repair(kind, shown)
        if whole is None:
            raise
        raster, size, decoder = _decode(kind, whole, limits, admit, again=True)
    return Picture(PictureFacts(kind, len(data), *size, decoder, pages=pages), raster)


def _decode(
    kind: str, data: bytes, limits: Limits, admit: Admit, again: bool = False
) -> tuple[Image.Image, tuple[int, int], str]:
    """Return the raster, upright and in sRGB, the picture's size and the decoder's name.

    Tries each decoder that supports the picture and fits in memory, best first. `again` marks the second
    round, with a repaired file. Raises Rejected if none succeeds.
    """
    side = limits.largest_side
    with translate_errors(kind):
        header = AvifHeader(data) if again and kind == "AVIF" else read_header(kind, data)
    with header:
        _check_size(kind, header.size, limits)
        if isinstance(header, GifImageFile):
            header.dispose = None  # no other frame follows
        if again:
            header.info[STRICT] = True
        with translate_errors(kind):
            needs = [each for each in ranking.rank_decoders(header, data, side) if each[0] < inf]
            if not needs:
                raise unsupported(ranking.name(header))
        size = header.size  # Pillow changes it when it reduces a JPEG
        refusal: Rejected | None = None
        while refusal is None or needs:
            decoder = _choose(needs, kind, size, admit)
            need_mb = next(need for need, each in needs if each is decoder)
            needs = [each for each in needs if each[1] is not decoder]
            try:
                with translate_errors(kind, need_mb):
                    raster = decoder.decode(header, data, side)
                    orientation = rasters.orientation(header)
                    colours = colour.colour_space(header, data)
                break
            except Rejected as rejected:
                if rejected.code != BROKEN_PICTURE:
                    raise
                refusal = rejected
        else:
            raise refusal
    with translate_errors(kind):  # the full-size raster is already freed
        raster = rasters.apply_orientation(rasters.flatten_to_srgb(raster, colours), orientation)
    turned = orientation in rasters.SWAPPED_SIDES
    return raster, size[::-1] if turned else size, decoder.name


def check_head(head: bytes, limits: Limits) -> None:
    """Raise Rejected if the first bytes already show that the file can't be accepted.

    Only certain cases count: not a picture, an unsupported format, or too large a size. An incomplete or
    unknown header is left to `open_picture`. No library sees the bytes.
    """
    kind = detect_format(head)
    with suppress(ValueError):
        for size in dimensions.claimed_sizes(kind, head):
            _check_size(kind, size, limits)


def load_readers() -> None:
    """Load Pillow's readers and codecs, which it otherwise does when it meets the first such picture."""
    Image.preinit()
    for name in ("Avif", "Mpo", "Tiff", "WebP"):
        import_module(f"PIL.{name}ImagePlugin")
    for name in LIBRARIES.values():
        features.check(name)


@cache
def register_heif() -> None:
    """Register the HEIF reader once, and only for a HEIF picture: the library takes 3 MB."""
    import pillow_heif

    # Embedded thumbnails are too small; depth and auxiliary pictures are never shown.
    pillow_heif.register_heif_opener(thumbnails=False, depth_images=False, aux_images=False, decode_threads=1)


def _check_claimed_sizes(kind: str, data: bytes, limits: Limits) -> tuple[int, int]:
    """Return the largest size that the file claims.

    Raises Rejected if a size is not allowed, there is none, or the coding is unknown.
    """
    largest = (0, 0)
    with translate_errors(kind):
        if kind == "HEIF" and (coded := boxes.codecs(data)) and not coded & boxes.HEVC_ITEMS:
            for codec in coded & CODECS.keys():
                raise unsupported(f"HEIF ({CODECS[codec]})")
        for size in dimensions.claimed_sizes(kind, data):
            _check_size(kind, size, limits)
            largest = max(largest, size, key=lambda each: each[0] * each[1])
    if largest == (0, 0):
        raise broken(kind)
    return largest


def _check_size(kind: str, size: tuple[int, int], limits: Limits) -> None:
    """Raise Rejected if the sides exceed the limits or are below 1."""
    if min(size) < 1:
        raise broken(kind)
    shown = f"{size[0]:,} x {size[1]:,} px"
    if max(size) > limits.max_side:
        raise Rejected(
            "side_too_long",
            f"The picture is {shown}: its longest side may have {limits.max_side:,} px.",
            "Upload a smaller copy, or raise MAX_SIDE.",
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        )
    if size[0] * size[1] > limits.max_megapixels * 1_000_000:
        raise Rejected(
            "too_many_pixels",
            f"The picture is {shown}, {size[0] * size[1] / 1e6:,.1f} megapixels: "
            f"at most {limits.max_megapixels:,} are allowed.",
            "Upload a smaller copy, or raise MAX_MEGAPIXELS.",
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        )


def _choose(needs: list[tuple[float, T]], kind: str, size: tuple[int, int], admit: Admit) -> T:
    """Return the first decoder whose need, MB, is admitted. Raises Rejected if none is."""
    index, left_mb = admit([need for need, _ in needs])
    if index is not None:
        return needs[index][1]
    raise Rejected(
        "needs_too_much_memory",
        f"Decoding this {kind} picture of {size[0]:,} x {size[1]:,} px needs "
        f"{min(need for need, _ in needs):,.0f} MB of memory, and {max(left_mb, 0):,.0f} MB are left.",
        "Upload a smaller copy, or raise the function's memory.",
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    )
