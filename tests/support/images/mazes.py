"""Small files that make a reader allocate much memory or keep it busy for minutes.

`main` opens them one after the other in a new process, and prints for each the rejection code or `shown`,
and the growth of the peak in MB.
"""

import json
import struct
import sys
import zlib
from collections.abc import Callable

from PIL import Image

from dropcap.imaging.headers import boxes
from tests.support.images import bombs
from tests.support.images.pictures import encoded, quadrants

BROKEN, SHOWN = "broken_picture", "shown"
HEIC, AVIF = (
    bombs.box(b"ftyp", b"heic", bytes(4), b"mif1heic"),
    bombs.box(b"ftyp", b"avif", bytes(4), b"avif"),
)
CPU_S = 60  # for all of them, most of it to make them; each took as long, or for ever


def full(name: bytes, body: bytes, version: int = 0) -> bytes:
    return bombs.box(name, bytes([version, 0, 0, 0]), body)


def meta(*parts: bytes) -> bytes:
    return full(b"meta", b"".join(parts))


def infe(item: int, kind: bytes) -> bytes:
    return full(b"infe", struct.pack(">HH", item, 0) + kind + b"\0", 2)


def iinf(*items: bytes) -> bytes:
    return full(b"iinf", struct.pack(">H", len(items)) + b"".join(items))


def iloc(locations: int, body: bytes, offset_bytes: int = 0) -> bytes:
    """Return an item location table of the maximum length (version 2)."""
    return full(b"iloc", struct.pack(">BBI", offset_bytes * 17, 0, locations) + body, 2)


def nested(depth: int) -> bytes:
    body = bytes(4_000_000)
    for _ in range(depth):
        body = full(b"iinf", b"\0\1" + body)
    return HEIC + meta(body)


def shared(kind: bytes, items: int, data: bytes) -> bytes:
    """Return an AVIF whose items all have the same location."""
    table = iloc(items, b"".join(struct.pack(">IHHHII", n, 0, 0, 1, 0, len(data)) for n in range(items)), 4)
    return AVIF + meta(iinf(*(infe(number, kind) for number in range(items))), table) + data


def samples(tracks: int) -> bytes:
    """Return a sequence that lists the location of one long sample many times."""
    entry = full(b"stsd", struct.pack(">I", 1) + bombs.box(b"hvc1", bytes(78)))
    where = full(b"stco", struct.pack(">2I", 1, 0)) + full(b"stsz", struct.pack(">3I", 0, 1, 2**24))
    stbl = bombs.box(b"stbl", entry, where * tracks)
    track = bombs.box(b"trak", bombs.box(b"mdia", bombs.box(b"minf", stbl)))
    return HEIC + bombs.box(b"moov", track) + bytes(4_000_000)


def with_metadata() -> bytes:
    """Return a HEIC with 900 EXIF blocks in the same megabyte: libheif copies each."""
    data = bytearray(encoded(quadrants(64, 48), "HEIF"))
    parts = {box.name: bytes(data[box.start - 8 : box.end]) for box in boxes.boxes(bytes(data))}
    at = data.index(parts[b"meta"])
    [start, length] = struct.unpack(">2I", parts[b"iloc"][-8:])
    data[at + 4 : at + 8] = b"free"
    locations = [struct.pack(">HHHII", 1, 0, 1, start, length)]
    locations += [struct.pack(">HHHII", 100 + n, 0, 1, len(data) + 8, 1_000_000) for n in range(900)]
    table = full(b"iloc", b"\x44\0" + struct.pack(">H", len(locations)) + b"".join(locations))
    items = iinf(infe(1, b"hvc1"), *(infe(100 + number, b"Exif") for number in range(900)))
    links = (bombs.box(b"cdsc", struct.pack(">3H", 100 + number, 1, 1)) for number in range(900))
    body = meta(parts[b"hdlr"], parts[b"pitm"], table, items, parts[b"iprp"], full(b"iref", b"".join(links)))
    return bytes(data) + bombs.box(b"mdat", bytes(1_000_000)) + body


def tags(*entries: tuple[int, int, int, int], times: int = 1) -> bytes:
    """Return a TIFF of a small picture and these (tag, type, count, value), the last one `times` times."""
    plain = [
        (tag, 4, 1, value) for tag, value in bombs.strip(8, 8).items() if tag not in {e[0] for e in entries}
    ]
    made = sorted([*plain, *entries]) + [entries[-1]] * (times - 1)
    body = b"".join(struct.pack("<HHII", *entry) for entry in made)
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(made)) + body + bytes(4000)


def directories(pages: int) -> bytes:
    """Return a TIFF of pages that each lead to 256 others."""
    made = bytearray(b"II*\0\x08\0\0\0")
    for number in range(pages):
        entry = struct.pack("<HHII", 330, 4, 256, 8 + 18 * (number % 1000))
        made += struct.pack("<H", 1) + entry + struct.pack("<I", 8 + 18 * (number + 1))
    return bytes(made + bytes(2000))


def strips() -> bytes:
    """Return a TIFF whose 390,000 strips are one JPEG of endless segments."""
    jpeg = b"\xff\xd8" + b"\xff\xe0\0\2" * 100
    wanted = {256: 8, 257: 8, 258: 8, 259: 7, 262: 1, 277: 1, 278: 8}
    locations = {273: (390_000, 1000), 279: (390_000, 1000)}
    entries = sorted(
        [(tag, 4, 1, value) for tag, value in wanted.items()] + [(t, 4, *v) for t, v in locations.items()]
    )
    body = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return (b"II*\0\x08\0\0\0" + body).ljust(500, b"\0") + jpeg.ljust(500) + struct.pack("<I", 500) * 390_000


def with_texts(name: bytes, body: bytes, side: int) -> bytes:
    data = encoded(Image.new("RGB", (side, side)), "PNG", compress_level=1)
    return bombs.with_chunks(data, *((name, b"%d" % number + body) for number in range(60)))


def with_segments(body: bytes, times: int) -> bytes:
    data = encoded(quadrants(64, 48), "JPEG")
    return data[:2] + (b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body) * times + data[2:]


def resolution() -> bytes:
    """Return EXIF of several segments whose resolution has a million numbers."""
    tag = struct.pack("<HHII", 0x11A, 5, 500_000, 100) + struct.pack("<HHII", 0x128, 3, 1, 2)
    block = (b"II*\0\x08\0\0\0" + struct.pack("<H", 2) + tag).ljust(100, b"\0") + bytes(
        [1, 0, 0, 0]
    ) * 1_000_000
    data = encoded(quadrants(64, 48), "JPEG")
    parts = (b"Exif\0\0" + block[at : at + 65_000] for at in range(0, len(block), 65_000))
    return data[:2] + b"".join(b"\xff\xe1" + struct.pack(">H", len(p) + 2) + p for p in parts) + data[2:]


def scans(progressive: bool) -> bytes:
    """Return a JPEG with many scans that add no bits."""
    data = encoded(Image.effect_noise((1500, 1500), 1), "JPEG", progressive=True)
    if progressive:
        at, more = data.rindex(b"\xff\xda"), b"\xff\xda\0\x08\1\1\0\1\x3f\x10"
    else:
        data = encoded(quadrants(1500, 1500), "JPEG")
        at, more = data.rindex(b"\xff\xda"), b"\xff\xda\0\x08\1\1\0\0\x3f\0"
    return data[:at] + more * 30_000 + data[at:]


def cut_jpeg(tail: bytes) -> bytes:
    return encoded(Image.effect_noise((64, 64), 40), "JPEG")[:-200] + tail


WIDE_TEXT = zlib.compress(("\U0001f600" + "a" * 1_000_000).encode(), 9)  # 4 bytes a character in Python
LONG_TEXT = zlib.compress(bytes(7_900_000).replace(b"\0", b"a"), 9)
MAZES: dict[str, tuple[str, Callable[[], bytes]]] = {
    # First, because a rejection must not be taken for a transient error while nothing is loaded yet.
    "HEIC of too many boxes": (BROKEN, lambda: HEIC + meta(full(b"free", b"") * 250_000)),
    "AVIF of too many boxes": (BROKEN, lambda: AVIF + meta(full(b"free", b"") * 250_000)),
    "HEIC of lists in lists": (BROKEN, lambda: nested(60)),
    "HEIC of endless lists in lists": (BROKEN, lambda: nested(990)),
    "HEIC of too many places": (BROKEN, lambda: HEIC + meta(iloc(500_000, bytes(10) * 500_000))),
    "HEIC of too many parts": (
        BROKEN,
        lambda: HEIC + meta(iloc(50, (struct.pack(">IHHH", 1, 0, 0, 65_535) + bytes(131_070)) * 50, 1)),
    ),
    "HEIC of data boxes times places": (
        BROKEN,
        lambda: (
            HEIC
            + meta(iinf(infe(1, b"hvc1")), iloc(30_000, struct.pack(">IHHH", 1, 1, 0, 0) * 30_000))
            + meta(bombs.box(b"idat") * 30_000)
        ),
    ),
    "HEIC of samples": (BROKEN, lambda: samples(30_000)),
    "HEIC of arrays": (BROKEN, lambda: HEIC + bombs.box(b"hvcC", bytes(22), b"\xff") * 30_000),
    "HEIC of metadata": (BROKEN, with_metadata),
    "AVIF of units": (BROKEN, lambda: shared(b"av01", 3000, b"\x12\0" * 19_000)),
    "AVIF of configurations": (BROKEN, lambda: AVIF + bombs.box(b"av1C", b"\x12\0" * 2000) * 2000),
    "TIFF of one tag": (BROKEN, lambda: tags((330, 4, 256, 8), times=60_000)),
    "TIFF of one short tag": (SHOWN, lambda: tags((256, 4, 1, 8), times=60_000)),
    "TIFF of directories": (BROKEN, lambda: directories(60_000)),
    "TIFF of numbers": (BROKEN, lambda: tags((282, 5, 500_000, 500)) + bytes(4_000_000)),
    "TIFF of strips": (BROKEN, strips),
    "PNG of packed texts": (SHOWN, lambda: with_texts(b"iTXt", b"\0\1\0\0\0" + WIDE_TEXT, 64)),
    "PNG of packed texts, large": (SHOWN, lambda: with_texts(b"iTXt", b"\0\1\0\0\0" + WIDE_TEXT, 4200)),
    "PNG of long packed texts, large": (SHOWN, lambda: with_texts(b"zTXt", b"\0\0" + LONG_TEXT, 4200)),
    "JPEG of EXIF": (BROKEN, lambda: with_segments(b"Exif\0\0" + bytes(70), 100_000)),
    "JPEG of a resolution": (SHOWN, resolution),
    "JPEG of scans": (BROKEN, lambda: scans(progressive=True)),
    "JPEG of plain scans": (BROKEN, lambda: scans(progressive=False)),
    "JPEG cut, of filling": (BROKEN, lambda: cut_jpeg(b"\xff" * 8_000_000)),
    "BMP of runs": (SHOWN, lambda: bombs.bmp_of_runs(4000, 4000)),
}


def main() -> None:
    import resource
    from pathlib import Path

    from dropcap.errors import Rejected
    from dropcap.imaging import decoding
    from dropcap.settings import Settings
    from tests.memory.peak import peak_mb

    settings = Settings(memory_limit_mb=1024, memory_warning_mb=1024)
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_S, CPU_S))
    resource.setrlimit(resource.RLIMIT_AS, (3 * 2**30, 3 * 2**30))
    came = {}
    for name, (_, made) in MAZES.items():
        data = made()
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew (proc(5))
        before = peak_mb()
        try:
            with decoding.open_picture(data, settings):
                outcome = SHOWN
        except Rejected as refused:
            outcome = refused.code
        except Exception as error:
            outcome = f"{type(error).__name__}: {error}"
        came[name] = outcome, round(peak_mb() - before)
        print(name, *came[name], file=sys.stderr)
    print(json.dumps(came))


if __name__ == "__main__":
    main()
