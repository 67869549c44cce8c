"""Small files for which decoders allocate hundreds of megabytes, or work for seconds.

Each killed an instance of 512 MiB, or came near it, before pictures were decoded in the sandbox; the figures
are what they took then (issue 20).
"""

import struct
import zlib
from collections.abc import Callable
from pathlib import Path

from tests.support.images import bombs
from tests.support.images.pictures import encoded, quadrants

G4, DEFLATE = 4, 8  # compressions of TIFF
BLOCK = 2**20


def tiff_tile(compression: int, width: int, height: int, body: bytes = b"\0") -> bytes:
    """Return a TIFF of 128 x 128 px in one tile of another size."""
    tags = {256: 128, 257: 128, 258: 1, 259: compression, 262: 0, 277: 1}
    tags |= {322: width, 323: height, 324: 0, 325: len(body)}
    return bombs.tiff(tags | {324: len(bombs.tiff(tags))}) + body


def deflate_tile(side: int) -> bytes:
    """Return a TIFF in one tile of side x side px in black and white, compressed."""
    return tiff_tile(DEFLATE, side, side, zlib.compress(bytes(side // 8 * side), 9))


def jpeg_in_three_scans(side: int) -> bytes:
    """Return a baseline JPEG of three scans, one per channel, after a stray restart marker."""
    parts = [b"\xff\xd8", b"\xff\xd0"]
    quantization = b"\xff\xdb" + struct.pack(">HB", 67, 0) + b"\1" * 64
    # One code for DC (0 bits) and one for AC (end of block): each block is two bits.
    codes = b"".join(
        b"\xff\xc4" + struct.pack(">HB", 20, table) + b"\1" + bytes(15) + b"\0" for table in (0, 16)
    )
    size = struct.pack(">HBHHB", 17, 8, side, side, 3) + b"".join(bytes((n, 0x11, 0)) for n in (1, 2, 3))
    blocks = (side // 8) ** 2
    for channel in (1, 2, 3):
        parts.append(b"\xff\xda" + struct.pack(">HB", 8, 1) + bytes((channel, 0, 0, 63, 0)))
        parts.append(bytes(blocks // 4))
    return b"".join([*parts[:2], quantization, codes, b"\xff\xc0" + size, *parts[2:], b"\xff\xd9"])


def png_with_texts(count: int) -> bytes:
    """Return a PNG with compressed texts of 1 MiB each."""
    text = b"Comment\0\1\0\0\0" + zlib.compress(bytes(BLOCK), 9)
    return bombs.with_chunks(encoded(quadrants(), "PNG"), *[(b"iTXt", text)] * count)


def bmp_of_runs(side: int) -> bytes:
    """Return a BMP with an RLE8 picture that ends at once."""
    header = struct.pack("<IiiHHIIiiII", 40, side, side, 1, 8, 1, 2, 0, 0, 256, 0)
    offset = 14 + len(header) + 1024
    return b"BM" + struct.pack("<IHHI", offset + 2, 0, 0, offset) + header + bytes(1024) + b"\0\1"


def tiff_of_strips(count: int) -> bytes:
    """Return a TIFF of one row, with that many offsets of strips."""
    tags = {256: 8, 257: 1, 258: 8, 259: 1, 262: 1, 277: 1, 278: 1}
    at = 8 + 2 + 12 * (len(tags) + 1) + 4
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(tags.items()))
    entries += struct.pack("<HHII", 279, 4, count, at)
    entries = entries[:60] + struct.pack("<HHII", 273, 4, count, at) + entries[60:]
    return b"II*\0" + struct.pack("<IH", 8, len(tags) + 2) + entries + bytes(4) + struct.pack("<I", 8) * count


def jpeg_of_segments(marker: int, count: int) -> bytes:
    """Return a JPEG with empty segments before its picture."""
    plain = encoded(quadrants(), "JPEG")
    return plain[:2] + bytes((0xFF, marker, 0, 2)) * count + plain[2:]


def gif_of_extensions(count: int) -> bytes:
    """Return a GIF with empty extensions before its picture."""
    return bombs.GIF + b"!\xf9\0" * count + bombs.FRAME + b";"


def jpeg_of_scans(count: int) -> bytes:
    """Return a progressive JPEG with that many scans, each of which is a pass over the picture."""
    plain = encoded(quadrants(2000, 2000), "JPEG", progressive=True)
    last = plain.rindex(b"\xff\xda")
    return plain[:last] + plain[last:-2] * count + b"\xff\xd9"


def png_of_chunks(count: int) -> bytes:
    """Return a PNG with empty private chunks before its picture."""
    plain = encoded(quadrants(), "PNG")
    return plain[:33] + bombs.chunk(b"prVt", b"") * count + plain[33:]


# White, of 9,900 x 9,900 px; the container says 64 x 64. Encoding it takes 15 s.
TWO_SIZES = Path(__file__).with_name("two_sizes.avif")
FILES: dict[str, tuple[str, Callable[[], bytes]]] = {
    "TIFF, one G4 tile of 2^24 x 256 px: 814 MB": ("side_too_long", lambda: tiff_tile(G4, 2**24, 256)),
    "TIFF, a G4 tile of 30,000 px: 553 MB": ("too_many_pixels", lambda: tiff_tile(G4, 30_000, 30_000)),
    "TIFF, a G4 tile of 120,000 px: 1,787 MB": ("side_too_long", lambda: tiff_tile(G4, 120_000, 120_000)),
    "TIFF, a Deflate tile of 30,000 px: 600 MB": ("too_many_pixels", lambda: deflate_tile(30_000)),
    "TIFF, a Deflate tile of 9,900 px": ("broken_picture", lambda: deflate_tile(9_900)),
    "TIFF of two million strips: 521 MB": ("broken_picture", lambda: tiff_of_strips(2_000_000)),
    "JPEG in three scans after a restart marker: 644 MB": (
        "needs_too_much_memory",
        lambda: jpeg_in_three_scans(9_904),
    ),
    "JPEG of empty APP segments: 576 MB": ("broken_picture", lambda: jpeg_of_segments(0xEF, 4_000_000)),
    "JPEG of empty comments: 1,124 MB": ("broken_picture", lambda: jpeg_of_segments(0xFE, 4_000_000)),
    "JPEG of 5,000 scans: 7 s": ("broken_picture", lambda: jpeg_of_scans(5_000)),
    "AVIF, 64 x 64 px over 9,900 x 9,900: 562 MB": ("needs_too_much_memory", TWO_SIZES.read_bytes),
    "PNG of two million private chunks: 286 MB": ("broken_picture", lambda: png_of_chunks(2_000_000)),
    "PNG, 56 compressed texts of 1 MiB: 236 MB": ("", lambda: png_with_texts(56)),
    "BMP of 98 MP in runs: 472 MB": ("needs_too_much_memory", lambda: bmp_of_runs(9_900)),
    "GIF of empty extensions: 41 s": ("broken_picture", lambda: gif_of_extensions(8_000_000)),
}
"""By name: the code of the rejection, empty if the picture is decoded, and the file."""
