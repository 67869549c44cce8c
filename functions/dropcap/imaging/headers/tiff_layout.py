"""Sample layouts of TIFF (TIFF 6.0 and its supplements), and which decoder handles which."""

from collections.abc import Mapping
from typing import Any, NamedTuple, Self

BITS, COMPRESSION, PHOTOMETRIC, SAMPLES, PLANAR, INK_SET, EXTRA, FORMAT = (
    258,
    259,
    262,
    277,
    284,
    332,
    338,
    339,
)
TILE_WIDTH = 322
WHITE_IS_ZERO, GREY, RGB, PALETTE, SEPARATED, YCBCR, LAB = 0, 1, 2, 3, 5, 6, 8
COLOURS = {WHITE_IS_ZERO: 1, GREY: 1, RGB: 3, PALETTE: 1, SEPARATED: 4, YCBCR: 3, LAB: 3}  # channels
UNSIGNED, SIGNED, FLOAT = 1, 2, 3
ASSOCIATED, STRAIGHT = 1, 2  # kinds of alpha
CMYK = 1  # the ink set
JPEG, WEBP = 7, 50001
# None, LZW, JPEG, Deflate, PackBits, WebP, old Deflate; libvips is built without ZSTD and LZMA.
OF_LIBVIPS = frozenset({1, 5, JPEG, 8, 32773, WEBP, 32946})
# Three kinds of fax, old JPEG, LZMA and ZSTD as well, but not WebP.
OF_PILLOW = OF_LIBVIPS - {WEBP} | {2, 3, 4, 6, 34925, 50000}
NAMES = {
    PHOTOMETRIC: {
        **{WHITE_IS_ZERO: "grey", GREY: "grey", RGB: "RGB", PALETTE: "palette", SEPARATED: "CMYK"},
        **{
            YCBCR: "YCbCr",
            LAB: "CIELAB",
            4: "mask",
            9: "ICCLAB",
            10: "ITULAB",
            32844: "LogL",
            32845: "LogLuv",
        },
    },
    FORMAT: {UNSIGNED: "", SIGNED: " signed", FLOAT: " float", 4: " undefined", 5: " complex", 6: " complex"},
    COMPRESSION: {
        **{
            2: "CCITT",
            3: "CCITT fax 3",
            4: "CCITT fax 4",
            5: "LZW",
            6: "old JPEG",
            JPEG: "JPEG",
            WEBP: "WebP",
        },
        **{32809: "ThunderScan", 34661: "JBIG", 34676: "SGI Log", 34677: "SGI Log 24", 34712: "JPEG 2000"},
        **{
            33003: "JPEG 2000",
            33005: "JPEG 2000",
            34887: "LERC",
            34925: "LZMA",
            50000: "ZSTD",
            50002: "JPEG XL",
        },
    },
}


class Layout(NamedTuple):
    """Sample layout from a picture's tags; `bits` and `kinds` (number formats) are per channel."""

    photometric: int
    bits: tuple[int, ...]
    kinds: tuple[int, ...]
    extra: tuple[int, ...]
    planar: bool
    tiled: bool
    compression: int
    inks: int

    @classmethod
    def of(cls, tags: Mapping[int, Any]) -> Self:
        """Return the layout of a directory."""

        def values(tag: int, default: int) -> tuple[int, ...]:
            value = tags.get(tag, default)
            return (tuple(map(int, value)) if isinstance(value, tuple | bytes) else (int(value),)) or (
                default,
            )

        [photometric, *_], [compression, *_] = values(PHOTOMETRIC, 0), values(COMPRESSION, 1)
        if compression == JPEG and photometric not in COLOURS:
            photometric = YCBCR
        count = values(SAMPLES, COLOURS.get(photometric, 1) if compression == JPEG else 1)[0]
        bits, kinds = values(BITS, 1), values(FORMAT, UNSIGNED)
        extra = values(EXTRA, 0) if EXTRA in tags else ()
        return cls(
            photometric,
            bits if len(bits) == count else (*bits, 1)[:1] * max(1, min(count, 64)),
            kinds,
            extra,
            values(PLANAR, 1)[0] == 2,
            TILE_WIDTH in tags,
            compression,
            values(INK_SET, CMYK)[0],
        )

    @property
    def colours(self) -> int:
        """Return the number of colour channels, without alpha."""
        return COLOURS.get(self.photometric, 1)

    @property
    def alpha(self) -> int:
        """Return the kind of alpha, 0 if none. An undeclared fourth channel of RGB is alpha."""
        if len(self.bits) <= self.colours:
            return 0
        if not self.extra:
            return STRAIGHT if self.photometric == RGB else 0
        return self.extra[0] if self.extra[0] in (ASSOCIATED, STRAIGHT) else 0

    @property
    def mode(self) -> str:
        """Return Pillow's mode for the same channels."""
        mode = {3: "RGB", 4: "CMYK"}.get(self.colours, "L")
        return "LAB" if self.photometric == LAB else mode + "A" if self.alpha and mode != "CMYK" else mode

    @property
    def name(self) -> str:
        """Return the layout in words: LogLuv, 32-bit float, 3 channels, JBIG."""
        colours = NAMES[PHOTOMETRIC].get(self.photometric, f"photometric {self.photometric}")
        kind = NAMES[FORMAT].get(max(self.kinds), "")
        packed = NAMES[COMPRESSION].get(self.compression, f"compression {self.compression}")
        planes = (", in planes of tiles" if self.tiled else ", in planes") if self.planar else ""
        packed = "" if self.compression in (1, 8, 32773, 32946) else f", {packed}"
        return f"{colours}, {max(self.bits)}-bit{kind}{planes}{packed}"

    @property
    def pillow_supports(self) -> bool:
        """Return whether Pillow decodes this correctly; it fails on some planar and deep files."""
        bits, kind = max(self.bits), max(self.kinds)
        return self.compression in OF_PILLOW and not (
            (self.planar and (bits > 8 or self.alpha == ASSOCIATED))
            or (bits == 32 and kind == UNSIGNED)
            or (bits == 8 and kind == SIGNED)
        )

    @property
    def libvips_supports(self) -> bool:
        """Return whether libvips decodes this correctly."""
        layouts = {(bits, kind) for bits in self.bits for kind in self.kinds}
        known: set[tuple[int, int]] = {(8, UNSIGNED), (16, UNSIGNED)}
        if self.photometric in (GREY, RGB, SEPARATED) and self.alpha != ASSOCIATED:
            known |= {(32, UNSIGNED), (32, FLOAT)} | (set() if self.planar else {(16, FLOAT)})
        return (
            len(layouts) == 1
            and layouts <= known
            and self.compression in OF_LIBVIPS
            and len(self.bits) >= self.colours
            and not (self.planar and (self.tiled or self.colours == 1 < len(self.bits)))
            and self.photometric in (WHITE_IS_ZERO, GREY, RGB, SEPARATED, LAB, PALETTE, YCBCR)
            and (self.photometric != LAB or max(self.bits) == 16)
            and (self.photometric != YCBCR or self.compression == JPEG)
            and (self.photometric != SEPARATED or self.inks == CMYK)
            and (self.photometric != PALETTE or (max(self.bits) == 8 and len(self.bits) == 1))
            and (self.compression not in (JPEG, WEBP) or max(self.bits) == 8)
        )
