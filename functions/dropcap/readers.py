"""Pillow's readers of some formats, corrected where they show another picture than browsers do.

`register` puts them in the place of Pillow's own.
"""

from PIL import Image, ImagePalette, TiffImagePlugin

COLOR_MAP = 320  # TIFF 6.0


class Tiff(TiffImagePlugin.TiffImageFile):
    """A TIFF as it is stored: Pillow would turn it while it loads, and believe XMP about the direction."""

    def _setup(self) -> None:
        super()._setup()
        self._size = self._tile_size
        colors = self.tag_v2.get(COLOR_MAP) if self.mode in ("P", "PA") else None
        if colors and max(colors) < 256:  # 8 bits where the specification wants 16, as libtiff takes it
            self.palette = ImagePalette.raw("RGB;L", bytes(colors))

    def load_end(self) -> None:
        if not self.is_animated:
            self._close_exclusive_fp_after_loading = True


def register() -> None:
    """Let `Image.open` use these readers."""
    Image.register_open(Tiff.format, Tiff, TiffImagePlugin._accept)
