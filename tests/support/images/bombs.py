"""Small files with huge claimed sizes, one for each field in which a format stores a size; raw bytes only."""

import struct
import zlib

from tests.support.images.pictures import encoded, quadrants

GIF = b"GIF89a\1\0\1\0\x80\0\0" + b"\0\0\0\xff\xff\xff"
DISPOSED = b"!\xf9\4\x08\0\0\0\0"  # its place is to be filled with the background
LZW = b"\2\2\x4c\1\0"
FRAME, HUGE_FRAME = b",\0\0\0\0\1\0\1\0\0" + LZW, b",\0\0\0\0\xff\xff\xff\xff\0" + LZW


def _gif_frame(width: int, height: int) -> bytes:
    return struct.pack("<B4HB", 0x2C, 0, 0, width, height, 0) + LZW


SOI, SOS = b"\xff\xd8", b"\xff\xda\0\x08\1\1\0\0\x3f\0"


class Bits:
    """Write numbers bit by bit."""

    def __init__(self) -> None:
        self._text = ""

    def put(self, value: int, count: int) -> "Bits":
        self._text += f"{value:0{count}b}"
        return self

    def golomb(self, *values: int) -> "Bits":
        for value in values:
            self.put(value + 1, 2 * (value + 1).bit_length() - 1)
        return self

    def bytes(self) -> bytes:
        text = self._text + "1" + "0" * (-(len(self._text) + 1) % 8)
        return int(text, 2).to_bytes(len(text) // 8, "big")


def sps(width: int, height: int, layers: int = 0) -> bytes:
    """Return an HEVC sequence parameter set, up to its size (ITU-T H.265, 7.3.2.2)."""
    bits = Bits().put(0, 4).put(layers, 3).put(1, 1).put(0x0160000000900000000000 << 8 | 93, 96)
    if layers:  # each with a profile and a level of its own
        bits.put(4**layers - 1, 2 * layers).put(0, 2 * (8 - layers)).put(0, 96 * layers)
    body = bits.golomb(0, 1, width, height).put(0, 32).bytes()
    escaped = b""
    for byte in body:  # emulation prevention (7.4.2)
        escaped += (b"\3" if escaped[-2:] == b"\0\0" and byte < 4 else b"") + bytes([byte])
    return b"\x42\1" + escaped


def av1(width: int, height: int, own: bool = False) -> bytes:
    """Return an AV1 sequence header as an OBU (AV1, 5.5.1); `own` adds a frame with its own size."""
    bits = Bits().put(0, 3).put(not own, 1).put(not own, 1)
    if own:
        bits.put(0, 2).put(0, 5).put(0, 12).put(8, 5).put(0, 1)
    else:
        bits.put(8, 5)
    bits.put(15, 4).put(15, 4).put(width - 1, 16).put(height - 1, 16)
    if own:  # no ids, seven tools, order hints, screen content and integer motion vectors off
        bits.put(0, 1).put(0, 7).put(0, 1).put(0, 2)
    body = bits.put(0, 32).bytes()
    frame = Bits().put(0, 1).put(0, 2).put(1, 1).put(0, 1).put(1, 1).put(0, 64).bytes()
    return b"\x0a" + bytes([len(body)]) + body + (b"\x32" + bytes([len(frame)]) + frame if own else b"")


def box(name: bytes, *parts: bytes) -> bytes:
    body = b"".join(parts)
    return struct.pack(">I4s", 8 + len(body), name) + body


def ispe(width: int, height: int) -> bytes:
    return box(b"ispe", struct.pack(">3I", 0, width, height))


def hvcc(unit: bytes) -> bytes:
    head = b"\1\1" + bytes(4) + bytes(6) + b"\x5d\xf0\0\xfc\xfd\xf8\xf8\0\0\x0f\1"
    return box(b"hvcC", head, b"\x21\0\1", struct.pack(">H", len(unit)), unit)


def item(brand: bytes, kind: bytes, body: bytes, *properties: bytes, inside: bool = False) -> bytes:
    """Return a file with one item of this kind, whose body is in `idat` or in `mdat`."""
    ftyp = box(b"ftyp", brand, bytes(4), brand, b"mif1")

    def meta(at: int) -> bytes:
        iloc = struct.pack(">B3xHHHHHHII", 1, 0x4400, 1, 1, inside, 0, 1, at, len(body))
        return box(
            b"meta",
            bytes(4),
            box(b"hdlr", bytes(8), b"pict", bytes(13)),
            box(b"pitm", struct.pack(">IH", 0, 1)),
            box(b"iloc", iloc),
            box(b"iinf", struct.pack(">IH", 0, 1), box(b"infe", b"\2\0\0\0\0\1\0\0", kind, b"\0")),
            box(b"iprp", box(b"ipco", *properties), box(b"ipma", struct.pack(">IIHBB", 0, 1, 1, 1, 1))),
            box(b"idat", body) if inside else b"",
        )

    at = 0 if inside else len(ftyp) + len(meta(0)) + 8
    return ftyp + meta(at) + (b"" if inside else box(b"mdat", body))


def track(width: int, height: int, entry: tuple[int, int], sample: bytes) -> bytes:
    """Return an AV1 image sequence: size of the track, of its sample entry, and its first sample."""
    ftyp = box(b"ftyp", b"avis", bytes(4), b"avis", b"msf1")

    def moov(at: int) -> bytes:
        tkhd = box(b"tkhd", bytes(76), struct.pack(">2I", width << 16, height << 16))
        av01 = box(b"av01", bytes(24), struct.pack(">2H", *entry), bytes(50), box(b"av1C", b"\x81\0\0\0"))
        stsd = box(b"stsd", struct.pack(">2I", 0, 1), av01)
        stsz = box(b"stsz", struct.pack(">4I", 0, 0, 1, len(sample)))
        stco = box(b"stco", struct.pack(">3I", 0, 1, at))
        return box(b"moov", box(b"trak", tkhd, box(b"mdia", box(b"minf", box(b"stbl", stsd, stsz, stco)))))

    return ftyp + moov(len(ftyp) + len(moov(0)) + 8) + box(b"mdat", sample)


def png(*chunks: tuple[bytes, bytes]) -> bytes:
    parts = (*chunks, (b"IDAT", zlib.compress(bytes(5))), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*each) for each in parts)


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def with_chunks(data: bytes, *chunks: tuple[bytes, bytes]) -> bytes:
    """Return a PNG with more chunks after its first."""
    return data[:33] + b"".join(chunk(*each) for each in chunks) + data[33:]


def ihdr(width: int, height: int) -> tuple[bytes, bytes]:
    return b"IHDR", struct.pack(">2I5B", width, height, 8, 2, 0, 0, 0)


def sof(width: int, height: int, marker: int = 0xC0) -> bytes:
    return struct.pack(">BBHBHHBBBB", 0xFF, marker, 11, 8, height, width, 1, 1, 0x11, 0)


def bmp(size: int, sides: bytes) -> bytes:
    body = struct.pack("<I", size) + sides + struct.pack("<HH", 1, 24)
    return b"BM" + struct.pack("<IHHI", 54, 0, 0, 14 + size) + body.ljust(size, b"\0") + bytes(16)


def bmp_of_runs(width: int, height: int) -> bytes:
    """Return a grey BMP in which every row consists of runs of one colour (RLE8)."""
    row = b"".join(bytes([min(255, width - at), 77]) for at in range(0, width, 255)) + b"\0\0"
    head = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, 0, 1, 1, 256, 0)
    colours = b"".join(bytes([level, level, level, 0]) for level in range(256))
    return b"BM" + struct.pack("<IHHI", 0, 0, 0, 14 + 40 + 1024) + head + colours + row * height + b"\0\1"


def ifd(at: int, tags: dict[int, int], following: int = 0, order: str = "<", big: bool = False) -> bytes:
    """Return a directory of LONGs for offset `at`."""
    entry, end = (f"{order}HHQI4x", f"{order}Q") if big else (f"{order}HHII", f"{order}I")
    count = struct.pack(f"{order}{'Q' if big else 'H'}", len(tags))
    entries = b"".join(struct.pack(entry, tag, 4, 1, value) for tag, value in tags.items())
    return count + entries + struct.pack(end, following)


def tiff(*directories: dict[int, int], order: str = "<", big: bool = False, loops: bool = False) -> bytes:
    """Return a TIFF of these directories in order; with `loops` the last links to the first."""
    head = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}H", 43 if big else 42)
    head += struct.pack(f"{order}HHQ", 8, 0, 16) if big else struct.pack(f"{order}I", 8)
    made, first = head, len(head)
    for index, tags in enumerate(directories):
        length = len(ifd(0, tags, big=big))
        following = len(made) + length if index + 1 < len(directories) else first * loops
        made += ifd(len(made), tags, following, order, big)
    return made


def strip(width: int, height: int, **more: int) -> dict[int, int]:
    """Return the tags of a grey picture, without any of its bytes."""
    return {256: width, 257: height, 258: 8, 259: 1, 262: 1, 273: 8, 277: 1, 278: height, 279: 1} | {
        int(tag[1:]): value for tag, value in more.items()
    }


def webp(*chunks: tuple[bytes, bytes]) -> bytes:
    body = b"".join(
        name + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2) for name, data in chunks
    )
    return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body


def vp8x(width: int, height: int, flags: int = 2) -> tuple[bytes, bytes]:
    sides = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return b"VP8X", bytes([flags, 0, 0, 0]) + sides


def vp8(width: int, height: int) -> tuple[bytes, bytes]:
    return b"VP8 ", b"\x10\0\0\x9d\1\x2a" + struct.pack("<2H", width, height) + bytes(8)


def vp8l(width: int, height: int) -> tuple[bytes, bytes]:
    return b"VP8L", b"\x2f" + struct.pack("<I", width - 1 | height - 1 << 14) + bytes(8)


def anmf(width: int, height: int, *chunks: tuple[bytes, bytes]) -> tuple[bytes, bytes]:
    head = bytes(6) + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little") + bytes(4)
    return b"ANMF", head + webp(*chunks)[12:]


S = 20_000  # px: 400 megapixels in a square
SMALL = strip(8, 8)
BOMBS: dict[str, bytes] = {
    "GIF frame": GIF + DISPOSED + HUGE_FRAME + b";",
    "GIF screen": GIF[:6] + b"\xff\xff\xff\xff" + GIF[10:] + DISPOSED + FRAME + b";",
    "GIF frame without a height": GIF + _gif_frame(65_535, 0) + b";",
    "GIF of a wide and a high frame": GIF + _gif_frame(40_000, 1) + _gif_frame(1, 40_000) + b";",
    "GIF second frame": GIF + FRAME + DISPOSED + HUGE_FRAME + b";",
    # Pillow takes an extension that ends at once for one that goes on: what follows is hidden from others.
    "GIF behind an empty extension": GIF + DISPOSED + b"!\xf9\0\1,\0" + HUGE_FRAME + b";",
    "GIF behind an empty loop": GIF + DISPOSED + b"!\xff\x0bNETSCAPE2.0\0\1,\0" + HUGE_FRAME + b";",
    "PNG": png(ihdr(2**31 - 1, 2**31 - 1)),
    "PNG second IHDR": png(ihdr(1, 1), ihdr(S, S)),
    "PNG frame": png(
        ihdr(1, 1), (b"acTL", struct.pack(">2I", 1, 0)), (b"fcTL", struct.pack(">5I6x", 0, S, S, 0, 0))
    ),
    "JPEG": SOI + sof(65_535, 65_535) + SOS,
    "JPEG progressive": SOI + sof(S, S, 0xC2) + SOS,
    "JPEG first of two": SOI + sof(S, S) + sof(8, 8) + SOS,
    "JPEG second of two": SOI + sof(8, 8) + b"\xff\xe1\0\5abc" + b"junk\xff\xff" + sof(S, S) + SOS,
    "BMP": bmp(40, struct.pack("<2i", S, S)),
    "BMP from the top": bmp(40, struct.pack("<2i", S, -S)),
    "BMP of Windows 98": bmp(124, struct.pack("<2i", S, S)),
    "BMP of OS/2": bmp(12, struct.pack("<2H", 65_535, 65_535)),
    "BMP of OS/2 2": bmp(64, struct.pack("<2i", S, S)),
    "TIFF": tiff(strip(S, S)),
    "TIFF of Motorola": tiff(strip(S, S), order=">"),
    "TIFF big": tiff(strip(S, S), big=True),
    "TIFF second page": tiff(SMALL, strip(S, S)),
    "TIFF within": tiff(SMALL | {330: 8 + 6 + 12 * 10}) + ifd(0, strip(S, S)),
    "TIFF tile": tiff({**strip(8, 8), 322: S, 323: S}),
    "TIFF pages in a ring": tiff(SMALL, SMALL, strip(S, S), loops=True),
    "WebP canvas": webp(vp8x(2**24, 2**24), anmf(1, 1, vp8(1, 1))),
    "WebP lossy": webp(vp8(16_383, 16_383)),
    "WebP lossless": webp(vp8l(16_384, 16_384)),
    "WebP larger than its canvas": webp(vp8x(8, 8, 0), vp8(16_383, 16_383)),
    "WebP frame": webp(vp8x(8, 8), anmf(2**24, 2**24, vp8(8, 8))),
    "WebP picture of a frame": webp(vp8x(8, 8), anmf(8, 8, vp8l(16_384, 16_384))),
    "HEIC": item(b"heic", b"hvc1", bytes(8), ispe(S, S), hvcc(sps(64, 64))),
    "HEIC coded larger": item(b"heic", b"hvc1", bytes(8), ispe(64, 64), hvcc(sps(S, S))),
    "HEIC coded larger in layers": item(b"heic", b"hvc1", bytes(8), ispe(64, 64), hvcc(sps(S, S, 2))),
    "HEIC coded larger in its data": item(
        b"heic", b"hvc1", struct.pack(">I", len(sps(S, S))) + sps(S, S), ispe(64, 64), hvcc(sps(64, 64))
    ),
    "HEIC grid": item(b"heic", b"grid", struct.pack(">4B2I", 0, 1, 0, 0, S, S), ispe(64, 64), inside=True)
    + hvcc(sps(64, 64)),
    "HEIC overlay": item(b"mif1", b"iovl", struct.pack(">BB8x2I8x", 0, 1, S, S), ispe(64, 64))
    + hvcc(sps(64, 64)),
    "AVIF": item(b"avif", b"av01", av1(64, 64), ispe(S, S), box(b"av1C", b"\x81\0\0\0")),
    "AVIF coded larger": item(b"avif", b"av01", av1(S, S), ispe(64, 64), box(b"av1C", b"\x81\0\0\0")),
    "AVIF coded larger by its configuration": item(
        b"avif", b"av01", b"", ispe(64, 64), box(b"av1C", b"\x81\0\0\0", av1(S, S))
    ),
    "AVIF coded larger by a frame": item(
        b"avif", b"av01", av1(64, 64, own=True), ispe(64, 64), box(b"av1C", b"\x81\0\0\0")
    ),
    "AVIF track": track(S, S, (64, 64), av1(64, 64)),
    "AVIF sample entry": track(64, 64, (S, S), av1(64, 64)),
    "AVIF track coded larger": track(64, 64, (64, 64), av1(S, S)),
}
# A picture that decodes, with contradictory sizes: which one is used depends on the reader.
_WHOLE = encoded(quadrants(8, 8), "JPEG")
BOMBS["JPEG whole, with a second frame header"] = _WHOLE[:2] + sof(S, S) + _WHOLE[2:]
