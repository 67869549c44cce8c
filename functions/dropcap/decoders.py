"""Decoders, best first: each says what memory it would need, the first that fits is taken.

Sizes are (width, height) in px, memory is in MB.
"""

from dataclasses import dataclass
from typing import Protocol

from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile
from PIL.TiffImagePlugin import TiffImageFile

from dropcap import pixels

COMPRESSION, ROWS_PER_STRIP, TILE_LENGTH = 259, 278, 323  # TIFF 6.0
UNCOMPRESSED = 1


class Decoder(Protocol):
    """A way from an opened, not yet decoded picture to a small raster.

    Both methods may raise whatever Pillow raises on damaged bytes.
    """

    @property
    def name(self) -> str: ...

    def need_mb(self, header: Image.Image, data: bytes, side: int) -> float:
        """The memory that decoding takes at its peak, beside `data`, MB."""

    def decode(self, header: Image.Image, side: int) -> Image.Image:
        """The raster within `side` x `side` px, as it is stored: unturned, in mode L, RGB or CMYK."""


@dataclass(frozen=True, slots=True)
class Pillow:
    """Pillow and pillow-heif. JPEGs are decoded at 1/2, 1/4 or 1/8, to at least `gap` times the px we keep.

    Against a LANCZOS of the whole raster, to 1600 px, on synthetic 1/f texture with edges at 8, 12 and 24 MP:
    41 dB PSNR where gap 1.5 reduces at all (24 MP), 32, 35 and 41 dB at gap 1.0.
    """

    name: str
    gap: float

    def need_mb(self, header: Image.Image, data: bytes, side: int) -> float:
        """Measured as peak resident set at 24 MP with Pillow 13.0 and pillow-heif 1.8, bytes a pixel:

        JPEG 4.0 (progressive +3.0 at 4:2:0, +6.0 at 4:4:4); PNG, GIF, BMP, TIFF the raster alone (+3.0 for
        TIFF in one strip); WebP 16.0; AVIF 9.1 at 4:2:0, 10.8 at 4:4:4, 11.6 with alpha; HEIC 7.3 at 4:2:0,
        8.3 with alpha, 9.6 at 4:4:4, 15.3 at 4:4:4 and 10 bits. The last three also copy the file. Deep AVIF
        is an assumption: 8 bits and 4 bytes more.
        """
        px = header.width * header.height
        raster = {"1": 1, "L": 1, "P": 1}.get(header.mode, 2 if header.mode.startswith("I;16") else 4)
        file = len(data)
        match header.format:
            case "JPEG" | "MPO":
                assert isinstance(header, JpegImageFile)
                size = _draft_size(header.size, side, self.gap)
                fits = min(header.width // size[0], header.height // size[1])
                scale = max(scale for scale in (1, 2, 4, 8) if scale <= fits)
                whole = px * (raster / scale**2 + _coefficients(header, data))
            case "TIFF":
                assert isinstance(header, TiffImageFile)
                whole = px * raster + _strip(header)
            case "WEBP":
                whole = px * 16 + file
            case "AVIF":
                whole = px * (16 if _deep_avif(data) else 12) + file
            case "HEIF":
                deep = header.info.get("bit_depth", 8) > 8
                whole = px * (9 if header.info.get("chroma") == 420 else 16 if deep else 11) + file
            case _:
                whole = px * raster
        kept = pixels.fit(header.size, side)
        after = 2 * 4 * kept[0] * kept[1]  # twice: once more while its colours are converted or it is turned
        strips = 5 * 4 * pixels.strip_px(header.size, kept)  # cut out, with alpha, white, laid on it, in RGB
        return (whole + after + strips) / 1e6

    def decode(self, header: Image.Image, side: int) -> Image.Image:
        size = pixels.fit(header.size, side)
        header.draft(None, _draft_size(header.size, side, self.gap))
        header.load()
        return pixels.shrunk(header, size)


# The second is for JPEGs alone: softer, with a raster of at most a quarter of the px.
DECODERS: tuple[Decoder, ...] = (Pillow("pillow", 1.5), Pillow("pillow-draft", 1.0))


def _draft_size(size: tuple[int, int], side: int, gap: float) -> tuple[int, int]:
    """The least that may be decoded: never more than there is."""
    width, height = pixels.fit(size, side)
    return min(size[0], round(width * gap)), min(size[1], round(height * gap))


def _coefficients(header: JpegImageFile, data: bytes) -> float:
    """Bytes a pixel that libjpeg keeps until the last scan: 2 a coefficient, where one scan is not all."""
    scan = 2  # behind the start of the file; segments follow: 0xff, marker, length (ITU-T T.81, B.1.1)
    while data[scan : scan + 1] == b"\xff" and data[scan + 1 : scan + 2] != b"\xda":
        scan += 2 + int.from_bytes(data[scan + 2 : scan + 4], "big")
    interleaved = data[scan + 4 : scan + 5] == bytes([header.layers])  # how many parts the first scan has
    if interleaved and not header.info.get("progressive"):
        return 0.0
    across, down = max(part[1] for part in header.layer), max(part[2] for part in header.layer)
    return 2 * sum(part[1] * part[2] for part in header.layer) / (across * down)


def _strip(header: TiffImageFile) -> float:
    """Bytes of one strip or row of tiles, which libtiff decompresses as a whole."""
    tags = header.tag_v2
    if tags.get(COMPRESSION, UNCOMPRESSED) == UNCOMPRESSED:
        return 0
    rows = min(header.height, int(tags.get(TILE_LENGTH) or tags.get(ROWS_PER_STRIP) or header.height))
    bits = tags.get(pixels.BITS_PER_SAMPLE, (8,))
    return rows * header.width * sum(bits) / 8


def _deep_avif(data: bytes) -> bool:
    """Whether the AV1 configuration says 10 or 12 bits (AV1-ISOBMFF 2.3.3: bit 6 of its third byte)."""
    at = data.find(b"av1C")
    return at >= 0 and bool(int.from_bytes(data[at + 6 : at + 7], "big") & 0x40)
