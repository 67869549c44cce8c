"""Small pictures for tests: four coloured quadrants, in every format and variant."""

import io
import struct
import zlib
from typing import Any

from PIL import Image, ImageCms

from dropcap.imaging import decoding

Colour = tuple[int, int, int]
RED, GREEN, BLUE, YELLOW = (200, 30, 40), (20, 160, 60), (30, 60, 190), (230, 200, 40)
QUADRANTS = (RED, GREEN, BLUE, YELLOW)  # top left, top right, bottom left, bottom right
SECRET = b"SECRET-MARKER-7391"  # what must never be published
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "HEIF", "AVIF")
EXIF_FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "HEIF", "AVIF")


def quadrants(width: int = 120, height: int = 80, colours: tuple[Colour, ...] = QUADRANTS) -> Image.Image:
    image = Image.new("RGB", (width, height))
    for index, colour in enumerate(colours):
        left, top = index % 2 * (width // 2), index // 2 * (height // 2)
        image.paste(colour, (left, top, left + width // 2 + 1, top + height // 2 + 1))
    return image


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    """Return the file; lossy formats at high quality and without chroma subsampling."""
    if kind == "HEIF":
        decoding.register_heif()
    quality: dict[str, dict[str, Any]] = {
        "JPEG": {"quality": 95, "subsampling": 0},
        "WEBP": {"lossless": True},
        "AVIF": {"quality": 95, "subsampling": "4:4:4", "speed": 10},
        "HEIF": {"quality": 95, "chroma": 444, "enc_params": {"preset": "ultrafast"}},
    }
    file = io.BytesIO()
    image.save(file, kind, **quality.get(kind, {}) | options)
    return file.getvalue()


def corners(image: Image.Image) -> tuple[Colour, ...]:
    """Return the colours in the middles of the four quadrants."""
    points = [(x * image.width // 4, y * image.height // 4) for y in (1, 3) for x in (1, 3)]
    shown = image.convert("RGB")
    return tuple(shown.getpixel(point) for point in points)  # type: ignore[misc]


def alike(one: tuple[Colour, ...], other: tuple[Colour, ...], tolerance: int = 6) -> bool:
    return all(
        abs(a - b) <= tolerance
        for left, right in zip(one, other, strict=True)
        for a, b in zip(left, right, strict=True)
    )


def turned(image: Image.Image, orientation: int) -> Image.Image:
    """Return the image stored such that `orientation` shows it upright: the inverse of EXIF's transform."""
    reverse = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    return image.transpose(reverse[orientation]) if orientation in reverse else image


def exif(orientation: int = 1) -> Image.Exif:
    """Return an EXIF block with orientation, a position, and the marker in several tags."""
    block = Image.Exif()
    block[0x0112] = orientation
    block[0x010E] = block[0x010F] = SECRET.decode()  # ImageDescription, Make
    block.get_ifd(0x8825).update(
        {1: "N", 2: (41.0, 23.0, 11.0), 3: "E", 4: (2.0, 9.0, 7.0), 0x1D: SECRET.decode()}
    )
    return block


def png(width: int, height: int, bits: int, colour: int, data: bytes, *chunks: tuple[bytes, bytes]) -> bytes:
    """Return a PNG that Pillow can't write, valid or not. `data` are the rows with filter bytes."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    parts = ((b"IHDR", header), *chunks, (b"IDAT", zlib.compress(data)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def rgb_profile(red: tuple[float, float, float], green: tuple[float, ...], blue: tuple[float, ...]) -> bytes:
    """Return an ICC profile (version 2, matrix and curve) from primaries in XYZ at D50; gamma 2.2."""

    def fixed(*values: float) -> bytes:
        return b"".join(struct.pack(">i", round(value * 65536)) for value in values)

    tags = {
        b"desc": b"desc\0\0\0\0" + struct.pack(">I", 5) + b"test\0" + b"\0" * 78,
        b"wtpt": b"XYZ \0\0\0\0" + fixed(0.9642, 1.0, 0.8249),
        b"rXYZ": b"XYZ \0\0\0\0" + fixed(*red),
        b"gXYZ": b"XYZ \0\0\0\0" + fixed(*green),
        b"bXYZ": b"XYZ \0\0\0\0" + fixed(*blue),
        b"rTRC": b"curv\0\0\0\0" + struct.pack(">IH", 1, round(2.2 * 256)) + b"\0\0",
    }
    tags[b"gTRC"] = tags[b"bTRC"] = tags[b"rTRC"]
    table, body, at = b"", b"", 128 + 4 + 12 * len(tags)
    for name, value in tags.items():
        value += b"\0" * (-len(value) % 4)
        table += struct.pack(">4sII", name, at + len(body), len(value))
        body += value
    head = struct.pack(">I4xI4s4s4s12x4s", at + len(body), 0x02100000, b"mntr", b"RGB ", b"XYZ ", b"acsp")
    head = head.ljust(68, b"\0") + fixed(0.9642, 1.0, 0.8249)
    return head.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + body


# Primaries adapted to D50 (Bradford), as the published profiles hold them.
DISPLAY_P3 = rgb_profile((0.5151, 0.2412, -0.0011), (0.2920, 0.6922, 0.0419), (0.1571, 0.0666, 0.7841))
ADOBE_RGB = rgb_profile((0.6097, 0.3111, 0.0195), (0.2053, 0.6257, 0.0609), (0.1492, 0.0632, 0.7446))

# What has OF_P3's numbers in Display P3 at gamma 2.2, by hand: the matrix from P3 to sRGB (CSS Color 4,
# section 19), cut off at zero, then the curve of sRGB.
OF_P3 = ((200, 60, 60), (60, 180, 80), (60, 70, 190), (128, 128, 128))
SRGB_OF_P3 = ((219, 37, 49), (0, 184, 62), (54, 69, 199), (129, 129, 129))


def lab(image: Image.Image) -> Image.Image:
    srgb, cielab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    converted = ImageCms.profileToProfile(image, srgb, cielab, outputMode="LAB")
    assert converted is not None
    return converted
