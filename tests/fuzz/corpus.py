"""Seeds of the fuzzers: small files of every format, and words that their parsers compare with."""

import io
import json
from collections.abc import Iterator
from functools import cache

import numpy as np
from PIL import Image

from infra import ROOT
from tests.support.images import bombs, mazes, ravenous, tiffs
from tests.support.images.kinds import KINDS
from tests.support.images.pictures import EXIF_FORMATS, FORMATS, encoded, exif, png, quadrants

MAX_BYTES = 70_000  # of a seed: with longer ones, less is tried
PHOTOGRAPHS = (ROOT / "tests" / "photographs", ROOT / "infra" / "samples")
OF_SUFFIX = {".jpg": "JPEG", ".png": "PNG", ".webp": "WEBP", ".gif": "GIF", ".heic": "HEIF", ".avif": "AVIF"}
TIFF_LAYOUTS = ((8, 1, 1, 1), (16, 1, 2, 3), (32, 3, 2, 3), (8, 2, 1, 1), (12, 1, 2, 3), (8, 1, 5, 4))
COMPRESSIONS = ("group3", "group4", "jpeg", "packbits", "tiff_adobe_deflate", "tiff_lzw", "zstd", "lzma")
# Bytes that the parsers compare with: markers, chunks, boxes and tags.
WORDS: dict[str, tuple[bytes, ...]] = {
    "JPEG": (
        *(bytes((0xFF, marker)) for marker in (0xC0, 0xC2, 0xC4, 0xC8, 0xD0, 0xD8, 0xD9, 0xDA, 0xDB, 0xDD)),
        *(b"\xff\xe0\0\x10JFIF\0", b"\xff\xe1\0\x20Exif\0\0", b"\xff\xe2\0\x20ICC_PROFILE\0", b"\xff\xee"),
        *(b"\xff\xda\0\x08\1\1\0\0\x3f\0", b"\xff\xff", b"MPF\0", b"Adobe\0", b"\xff\xfe\0\2"),
    ),
    "PNG": tuple(b"IHDR PLTE IDAT IEND tRNS cICP cLLI iCCP sRGB gAMA cHRM eXIf acTL fcTL fdAT iTXt".split()),
    "WEBP": (
        b"RIFF",
        b"WEBP",
        b"VP8 ",
        b"VP8L",
        b"VP8X",
        b"ANIM",
        b"ANMF",
        b"ALPH",
        b"ICCP",
        b"EXIF",
        b"\x2f",
    ),
    "GIF": (b"GIF87a", b"GIF89a", b"!\xf9\4", b"!\xff\x0bNETSCAPE2.0\3\1", b"!\xfe", b",", b";", b"\0,"),
    "TIFF": (
        *(b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"),
        *(
            tag.to_bytes(2, "little")
            for tag in (254, 255, 256, 257, 258, 259, 262, 273, 277, 278, 279, 284, 322, 323, 324, 325, 330)
        ),
        *(tag.to_bytes(2, "little") for tag in (320, 338, 339, 347, 274, 34675, 50706, 700, 34665, 65535)),
    ),
    "BMP": (
        b"BM",
        *(bytes((size, 0, 0, 0)) for size in (12, 40, 52, 56, 64, 108, 124)),
        b"DEBM",
        b"\0\0\1\0",
    ),
    "HEIF": tuple(
        b"ftyp heic heix mif1 meta hdlr pitm iloc iinf infe iprp ipco ipma ispe hvcC hvc1 grid iovl idat "
        b"mdat irot imir clap pixi auxC colr nclx prof Exif mime moov trak iref dimg mini".split()
    ),
    "AVIF": tuple(
        b"ftyp avif avis mif1 meta iloc iinf infe ipco ipma ispe av1C av01 grid iovl idat mdat irot imir "
        b"clap colr nclx prof auxC moov trak stsd stco stsz tkhd clli mini".split()
    ),
}
NUMBERS = (
    *(b"\0\0", b"\0\1", b"\x7f\xff", b"\x80\0", b"\xff\xff"),
    *(b"\0\0\0\0", b"\0\0\0\1", b"\1\0\0\0", b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f", b"\xff\xff\xff\xff"),
)


def _animations() -> Iterator[tuple[str, bytes]]:
    frames = [quadrants(24, 16).rotate(90 * turn) for turn in range(4)]
    for kind in ("GIF", "WEBP", "AVIF", "PNG", "TIFF"):
        yield kind, encoded(frames[0], kind, save_all=True, append_images=frames[1:], duration=40, loop=0)
    clear = [frame.convert("RGBA") for frame in frames]
    clear[1].putalpha(90)
    yield "WEBP", encoded(clear[0], "WEBP", save_all=True, append_images=clear[1:], duration=[20, 0, 5, 90])
    yield "GIF", encoded(frames[0], "GIF", save_all=True, append_images=frames[1:], disposal=2)


def _tiffs() -> Iterator[bytes]:
    values = np.arange(8 * 12 * 4).reshape(8, 12, 4)
    for bits, kind, photometric, channels in TIFF_LAYOUTS:
        for big in (False, True):
            yield tiffs.tiff(values[:, :, :channels] % 2 ** min(bits, 8), photometric, bits, kind, big=big)
    yield tiffs.tiff(values[:, :, :3] % 256, tiffs.RGB, 8, planar=True)
    for compression in COMPRESSIONS:
        image = quadrants(24, 16).convert("1" if compression.startswith("group") else "RGB")
        yield encoded(image, "TIFF", compression=compression)
    yield encoded(quadrants(24, 16).quantize(16), "TIFF")
    yield bombs.tiff(bombs.SMALL, bombs.SMALL, big=True)


def _small() -> Iterator[tuple[str, bytes]]:
    """Yield small files that decode: what a fuzzer of parsers begins with."""
    small = quadrants(24, 16)
    for kind in FORMATS:
        yield kind, encoded(small, kind)
        yield kind, encoded(small.convert("L"), kind)
    for kind in EXIF_FORMATS:
        yield kind, encoded(small, kind, exif=exif(6))
    clear = small.convert("RGBA")
    clear.putalpha(99)
    for kind in ("PNG", "WEBP", "TIFF", "HEIF", "AVIF"):
        yield kind, encoded(clear, kind)
    yield "JPEG", encoded(small, "JPEG", progressive=True)
    yield "JPEG", encoded(small.convert("CMYK"), "JPEG", subsampling=2)
    yield "WEBP", encoded(small, "WEBP", lossless=False)
    yield "PNG", png(3, 1, 16, 6, bytes(25))
    yield "PNG", png(8, 8, 8, 0, bytes(9 * 15))[:28] + b"\1" + png(8, 8, 8, 0, bytes(9 * 15))[29:]
    for data in _tiffs():
        yield "TIFF", data
    yield from _animations()


def _hostile() -> Iterator[tuple[str, bytes]]:
    for name, data in bombs.BOMBS.items():
        yield name, data
    for name, (_, make) in (*mazes.MAZES.items(), *ravenous.FILES.items()):
        yield name, make()


def _named(name: str) -> str:
    """Return the format that the name of a hostile file begins with."""
    return {"HEIC": "HEIF", "WebP": "WEBP"}.get(name.split()[0].strip(","), name.split()[0].strip(","))


@cache
def small() -> dict[str, tuple[bytes, ...]]:
    """Return small files by format, and the smallest hostile ones."""
    found: dict[str, dict[bytes, None]] = {kind: {} for kind in FORMATS}
    for kind, data in _small():
        found[kind][data] = None
    for name, data in bombs.BOMBS.items():
        found[_named(name)][data] = None
    return {kind: tuple(files) for kind, files in found.items()}


@cache
def all_files() -> dict[str, tuple[bytes, ...]]:
    """Return files of every format and kind, up to MAX_BYTES: it takes half a minute to make them."""
    found = {kind: dict.fromkeys(files) for kind, files in small().items()}
    for name, (_, make) in KINDS.items():
        found[_named(name)][make()] = None
    for folder in PHOTOGRAPHS:
        for file in sorted(folder.iterdir()):
            if file.suffix in OF_SUFFIX:
                found[OF_SUFFIX[file.suffix]][file.read_bytes()] = None
    for name, data in _hostile():
        found[_named(name)][data] = None
    with Image.open(io.BytesIO((ROOT / "infra/samples/garden.jpg").read_bytes())) as photograph:
        shown = photograph.convert("RGB").resize((160, 120))
    for kind in FORMATS:
        found[kind][encoded(shown, kind)] = None
    return {kind: tuple(data for data in files if len(data) <= MAX_BYTES) for kind, files in found.items()}


def pictures() -> list[bytes]:
    """Return the small files of all formats in one list."""
    return [data for files in small().values() for data in files]


def words() -> list[bytes]:
    """Return the words of all formats."""
    return [*dict.fromkeys(word for words in (*WORDS.values(), NUMBERS) for word in words)]


def json_lines(*values: object) -> bytes:
    """Return values as JSON, each in a line."""
    return b"\n".join(json.dumps(value).encode() for value in values)
