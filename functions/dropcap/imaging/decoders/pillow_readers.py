"""Subclasses of Pillow's readers that fix differences from browsers.

`register` replaces Pillow's own with them.
"""

import struct
from typing import Any

from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageFile,
    ImagePalette,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
)

from dropcap.imaging.headers.formats import unsupported
from dropcap.imaging.headers.tiff_layout import Layout

WIDTH, LENGTH, COLOR_MAP, PROFILE = 256, 257, 320, 34675  # TIFF 6.0
GREYS = {"L;2": 85, "L;4": 17}  # the grey step of a PNG of 2 and 4 bits
CLEAR = (0, 0, 0, 0)
TO_BACKGROUND, TO_PREVIOUS = 2, 3  # how a frame of a GIF is disposed of (GIF89a, 23)
BITFIELDS, ALPHA_BITFIELDS = 3, 6  # compressions of a BMP ([MS-WMF] 2.1.1.7)
EMBEDDED = b"DEBM"  # a BMP with an embedded profile ([MS-WMF] 2.1.1.14)
PX = 100_000  # px of a BMP unpacked at a time


class Png(PngImagePlugin.PngImageFile):
    """A PNG reader that scales the transparent grey like the pixels: Pillow leaves it at 2 or 4 bits."""

    def _open(self) -> None:
        super()._open()
        key, raw_mode = self.info.get("transparency"), self.tile[0].args if self.tile else ""
        if isinstance(key, int) and raw_mode in GREYS:
            self.info["transparency"] = key * GREYS[raw_mode]


class _Chunks(PngImagePlugin.PngStream):
    """Skips the text chunks of a PNG, which nothing here uses: Pillow turns 65 KB of them into 250 MB."""

    def chunk_iTXt(self, pos: int, length: int) -> bytes:
        assert self.fp is not None
        return ImageFile._safe_read(self.fp, length)

    chunk_tEXt = chunk_zTXt = chunk_iTXt


class Gif(GifImagePlugin.GifImageFile):
    """A GIF reader with a transparent background, as in every browser: Pillow gives it a colour."""

    @property
    def has_uncovered_canvas(self) -> bool:
        """Return whether the first frame, not yet loaded, leaves part of the canvas uncovered."""
        return bool(self.tile) and self.tile[0].extents != (0, 0, *self.size)

    def _seek(self, frame: int, update_image: bool = True) -> None:
        if frame and update_image:
            if self.tile:
                self.load()
            first = self.tell() == 0  # only background precedes it
            cleared = (TO_BACKGROUND, TO_PREVIOUS) if first else (TO_BACKGROUND,)
            if self.dispose_extent and self.disposal_method in cleared:
                self._to_rgba()
                left, top, right, bottom = self.dispose_extent
                self.dispose = Image.new("RGBA", (right - left, bottom - top), CLEAR).im
            self.disposal_method = 0  # Pillow would keep it for a frame without a disposal method
        super()._seek(frame, update_image)

    def load_prepare(self) -> None:
        self._uncovered = self.tell() == 0 and self.has_uncovered_canvas
        super().load_prepare()

    def load_end(self) -> None:
        super().load_end()
        if self._uncovered and self.dispose_extent:
            self.im = self._crop(self.im, self.dispose_extent)
            self._to_rgba()
            inside = self.im
            self.im = Image.new("RGBA", self.size, CLEAR).im
            self.im.paste(inside, self.dispose_extent)

    def _to_rgba(self) -> None:
        clear = self.info.pop("transparency", None)
        if clear is None:
            self.im = self.im.convert("RGBA")
        elif self.mode == "L":
            self.im = self.im.convert_transparent("RGBA", clear)
        else:
            self.im.putpalettealpha(clear, 0)
            self.im = self.im.convert("RGBA")
        self._mode = "RGBA"


class Tiff(TiffImagePlugin.TiffImageFile):
    """A TIFF reader that keeps the stored orientation: Pillow would rotate while loading, and use XMP's.

    `is_foreign`: Pillow can't decode the pixels, but size, tags and profile are available.
    """

    is_foreign = False

    def _setup(self) -> None:
        try:
            super()._setup()
        except (KeyError, IndexError, SyntaxError):  # an unknown compression or sample layout
            self.is_foreign = True
            self._mode, self.tile = Layout.of(self.tag_v2).mode, []
            self._tile_size = int(self.tag_v2[WIDTH]), int(self.tag_v2[LENGTH])
            if profile := self.tag_v2.get(PROFILE):
                self.info["icc_profile"] = profile
        self._size = self._tile_size
        colors = self.tag_v2.get(COLOR_MAP) if self.mode in ("P", "PA") else None
        if (
            colors and max(colors) < 256
        ):  # 8-bit values where the specification wants 16; libtiff accepts them, too
            self.palette = ImagePalette.raw("RGB;L", bytes(colors))

    def load_end(self) -> None:
        if not self.is_animated:
            self._close_exclusive_fp_after_loading = True


class Bmp(BmpImagePlugin.BmpImageFile):
    """A BMP reader for any bit masks (Pillow supports only a few) and for embedded ICC profiles."""

    @property
    def is_packed(self) -> bool:
        """Return whether its rows are run-length encoded."""
        return bool(self.tile) and self.tile[0].codec_name == "bmp_rle"

    def _bitmap(self, header: int = 0, offset: int = 0) -> None:
        assert self.fp is not None
        start = self.fp.tell()
        head = self.fp.read(124).ljust(124, b"\0")
        size, width, height, _, bits, compression = struct.unpack_from("<IiiHHI", head)
        if size == 12:  # OS/2
            bits, compression = int.from_bytes(head[10:12], "little"), 0
        if bits not in (1, 4, 8, 16, 24, 32) or compression not in (0, 1, 2, BITFIELDS, ALPHA_BITFIELDS):
            raise unsupported(f"BMP ({bits}-bit, compression {compression})")
        masks = struct.unpack_from("<4I", head, 40)
        if size < 56 and compression != ALPHA_BITFIELDS:  # a short header is followed by three masks
            masks = (*masks[:3], 0)
        if (
            compression == 0 and bits == 32 and masks[3]
        ):  # the colour masks of the header don't count, its alpha mask does
            masks = (0xFF0000, 0xFF00, 0xFF, masks[3])
        elif size < 40 or bits not in (16, 32) or compression not in (BITFIELDS, ALPHA_BITFIELDS):
            masks = ()
        if masks:
            self._size, self._mode = (width, abs(height)), "RGBA" if masks[3] else "RGB"
            args = (bits, masks, height > 0)
            self.tile = [ImageFile._Tile("dropcap_bitfields", (0, 0, *self._size), offset, args)]
        else:
            self.fp.seek(start)
            super()._bitmap(header, offset)
        if size == 124 and head[56:60] == EMBEDDED:
            at, length = struct.unpack_from("<2I", head, 112)
            self.fp.seek(start + at)
            self.info["icc_profile"] = self.fp.read(length)


class _Bitfields(ImageFile.PyDecoder):
    """Decode pixels of 16 or 32 bits by a bit mask for each channel."""

    _pulls_fd = True

    def decode(self, buffer: Any) -> tuple[int, int]:
        import numpy as np

        assert self.fd is not None
        assert self.im is not None
        bits, masks, upwards = self.args
        width, height = self.im.size
        stride = (width * bits + 31) // 32 * 4
        most = max(1, PX // width)
        for top in range(0, height, most):
            rows = min(most, height - top)
            body = self.fd.read(rows * stride)
            if len(body) < rows * stride:
                raise OSError("image file is truncated")
            pixels = np.frombuffer(body, f"<u{bits // 8}").reshape(rows, -1)[:, :width].astype(np.uint32)
            raw = np.dstack([_scaled(pixels, mask) for mask in masks[: len(self.mode)]])
            at = height - top - rows if upwards else top
            part = Image.fromarray(raw[::-1] if upwards else raw)
            self.im.paste(part.im, (0, at, width, at + rows))
        return -1, 0


def _scaled(pixels: Any, mask: int) -> Any:
    """Return the contiguous bits of a mask, scaled to 0 to 255."""
    import numpy as np

    if not mask:
        return np.zeros(pixels.shape, np.uint8)
    low = (mask & -mask).bit_length() - 1
    return np.round(((pixels & mask) >> low) * (255 / (mask >> low))).astype(np.uint8)


def register() -> None:
    """Let `Image.open` use these readers."""
    # An EXIF resolution of 3 million numbers takes 850 MB, and nothing here uses the resolution.
    JpegImagePlugin.JpegImageFile._read_dpi_from_exif = lambda self: None  # type: ignore[method-assign]
    PngImagePlugin.PngStream = _Chunks  # type: ignore[misc]
    Image.register_open(Png.format, Png, PngImagePlugin._accept)
    Image.register_open(Gif.format, Gif, GifImagePlugin._accept)
    Image.register_open(Tiff.format, Tiff, TiffImagePlugin._accept)
    Image.register_open(Bmp.format, Bmp, BmpImagePlugin._accept)
    Image.register_decoder("dropcap_bitfields", _Bitfields)
