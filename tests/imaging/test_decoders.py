"""Every decoder produces the same picture, takes no more memory than estimated, and is chosen by need."""

import gc
import io
import multiprocessing
import struct
import subprocess
import sys
import weakref
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache, partial
from http import HTTPStatus
from math import inf, isinf
from pathlib import Path
from typing import Any

import pytest
import pyvips
from PIL import Image, ImageChops, ImageStat

from dropcap.errors import Rejected
from dropcap.imaging import decoding, rasters
from dropcap.imaging.decoders import ranking
from dropcap.imaging.decoders.ranking import DECODERS, Decoder
from dropcap.runtime import memory
from dropcap.sandbox import client
from dropcap.settings import Settings
from tests.memory.taken import NO_PEAK, peak_and_need
from tests.support.app import CAPTION, PICTURE, Start, rows
from tests.support.images import pictures
from tests.support.images.pictures import QUADRANTS, alike, corners, encoded, exif, quadrants

ROOM = Settings(memory_limit_mb=4096, memory_warning_mb=4096)
PILLOW, LIBVIPS, LIBHEIF = DECODERS


@pytest.fixture
def only(monkeypatch: pytest.MonkeyPatch) -> Callable[[Decoder], None]:
    """Use only one decoder, even for small pictures."""

    def use(decoder: Decoder) -> None:
        monkeypatch.setattr(ranking, "rank_decoders", lambda *header: [(0.0, decoder)])

    return use


@cache
def scene() -> Image.Image:
    """Soft and hard edges, 600 x 450 px."""
    image = Image.merge("RGB", [Image.linear_gradient("L").rotate(turn) for turn in (0, 90, 200)])
    image = image.resize((600, 450), Image.Resampling.BICUBIC)
    image.paste(quadrants(300, 200), (150, 120))
    return image


def second() -> Image.Image:
    """Return a picture of colours that must stay invisible."""
    return quadrants(600, 450, QUADRANTS[::-1])


def clear(mode: str = "RGBA") -> Image.Image:
    """Return the scene with every degree of alpha, and colours in transparent px."""
    alpha = Image.linear_gradient("L").resize((600, 450))
    alpha.paste(0, (100, 100, 200, 200))
    alpha.paste(255, (200, 200, 400, 400))
    image = scene().convert(mode)
    image.putalpha(alpha)
    return image


def by_libvips(suffix: str, image: Image.Image, deep: bool = False, **options: Any) -> bytes:
    """Return files that Pillow can't write: 16 bits per channel, interlaced rows, tiles."""
    source = pyvips.Image.new_from_memory(image.tobytes(), *image.size, len(image.getbands()), "uchar")
    colours = "srgb" if len(image.getbands()) > 2 else "b-w"
    if deep:
        source, colours = (source.cast("ushort") * 257).cast("ushort"), colours.replace("srgb", "rgb16")
    source = source.copy(interpretation=colours.replace("b-w", "grey16" if deep else "b-w"))
    return bytes(source.write_to_buffer(suffix, **options))


KINDS: dict[str, Callable[[], bytes]] = {
    "JPEG": lambda: encoded(scene(), "JPEG"),
    "JPEG 4:2:0": lambda: encoded(scene(), "JPEG", subsampling=2),
    "JPEG progressive": lambda: encoded(scene(), "JPEG", progressive=True),
    "JPEG grey": lambda: encoded(scene().convert("L"), "JPEG"),
    "JPEG CMYK": lambda: encoded(scene().convert("CMYK"), "JPEG"),
    "JPEG wide gamut": lambda: encoded(scene(), "JPEG", icc_profile=pictures.DISPLAY_P3),
    "JPEG several": lambda: encoded(scene(), "MPO", save_all=True, append_images=[second()], quality=95),
    "PNG": lambda: encoded(scene()),
    "PNG black and white": lambda: encoded(scene().convert("1", dither=Image.Dither.NONE)),
    "PNG grey": lambda: encoded(scene().convert("L")),
    "PNG grey alpha": lambda: encoded(clear("LA")),
    "PNG alpha": lambda: encoded(clear()),
    "PNG palette": lambda: encoded(scene().quantize(32)),
    "PNG palette alpha": lambda: encoded(clear().quantize(32)),
    "PNG palette colour clear": lambda: encoded(scene().quantize(16), transparency=3),
    "PNG colour clear": lambda: encoded(scene(), transparency=pictures.RED),
    "PNG grey clear": lambda: encoded(scene().convert("L").point(lambda v: v // 64 * 64), transparency=64),
    "PNG wide gamut": lambda: encoded(scene(), icc_profile=pictures.DISPLAY_P3),
    "PNG 16 bits": lambda: by_libvips(".png", scene(), deep=True),
    "PNG 16 bits alpha": lambda: by_libvips(".png", clear(), deep=True),
    "PNG 16 bits grey": lambda: by_libvips(".png", scene().convert("L"), deep=True),
    "PNG interlaced": lambda: by_libvips(".png", scene(), interlace=True),
    "PNG interlaced 16 bits alpha": lambda: by_libvips(".png", clear(), deep=True, interlace=True),
    "WebP": lambda: encoded(scene(), "WEBP", lossless=False, quality=90),
    "WebP alpha": lambda: encoded(clear(), "WEBP", lossless=False, quality=90),
    "WebP lossless": lambda: encoded(scene(), "WEBP"),
    "WebP lossless alpha": lambda: encoded(clear(), "WEBP", exact=True),
    "WebP wide gamut": lambda: encoded(scene(), "WEBP", icc_profile=pictures.DISPLAY_P3),
    "TIFF": lambda: encoded(scene(), "TIFF"),
    "TIFF grey": lambda: encoded(scene().convert("L"), "TIFF", compression="packbits"),
    "TIFF alpha": lambda: encoded(clear(), "TIFF", compression="tiff_adobe_deflate"),
    "TIFF palette": lambda: encoded(scene().quantize(32), "TIFF", compression="tiff_lzw"),
    "TIFF LZW": lambda: encoded(scene(), "TIFF", compression="tiff_lzw"),
    "TIFF LZW predictor": lambda: by_libvips(".tif", scene(), compression="lzw", predictor="horizontal"),
    "TIFF JPEG": lambda: encoded(scene(), "TIFF", compression="jpeg", quality=95),
    "TIFF CMYK": lambda: encoded(scene().convert("CMYK"), "TIFF"),
    "TIFF wide gamut": lambda: encoded(scene(), "TIFF", icc_profile=pictures.DISPLAY_P3),
    "TIFF tiles": lambda: by_libvips(".tif", scene(), tile=True, compression="deflate"),
    "TIFF 16 bits": lambda: by_libvips(".tif", scene(), deep=True, compression="lzw"),
    "TIFF 16 bits alpha": lambda: by_libvips(".tif", clear(), deep=True, tile=True),
    "TIFF 16 bits grey": lambda: by_libvips(".tif", scene().convert("L"), deep=True),
    "TIFF float": lambda: encoded(scene().convert("F"), "TIFF"),
    "TIFF pages": lambda: encoded(scene(), "TIFF", save_all=True, append_images=[second()]),
    "HEIC": lambda: encoded(scene(), "HEIF"),
    "HEIC 4:2:0": lambda: encoded(scene(), "HEIF", chroma=420),
    "HEIC tiles": lambda: encoded(scene(), "HEIF", chroma=420, tile_size=256),
    "HEIC alpha": lambda: encoded(clear(), "HEIF"),
    "HEIC grey": lambda: encoded(scene().convert("L"), "HEIF"),
    "HEIC wide gamut": lambda: encoded(scene(), "HEIF", icc_profile=pictures.DISPLAY_P3),
}


def one(data: bytes, decoder: Decoder, side: int) -> Image.Image:
    """Return a decoder's picture on white, without orientation applied."""
    with Image.open(io.BytesIO(data)) as header:
        return rasters.flatten_to_srgb(decoder.decode(header, data, side), None)


def differences(one: Image.Image, other: Image.Image) -> tuple[float, int]:
    """Return the mean and the largest difference of two pictures, in levels."""
    found = ImageStat.Stat(ImageChops.difference(one.convert("RGB"), other.convert("RGB")))
    return max(found.mean), max(int(high) for _, high in found.extrema)


@pytest.mark.parametrize("kind", KINDS)
def test_every_decoder_produces_the_same_picture(kind: str, only: Callable[[Decoder], None]) -> None:
    data, copies = KINDS[kind](), []
    for decoder in (PILLOW, LIBHEIF if kind.startswith("HEIC") else LIBVIPS):
        only(decoder)
        with decoding.open_picture(data, ROOM) as source:
            assert source.facts.decoder == decoder.name
            copies.append(source.resize(600))
    assert differences(*copies)[1] <= 1


@pytest.mark.parametrize(("side", "mean", "edge"), [(400, 1, 24), (130, 1.5, 40)])
@pytest.mark.parametrize("kind", [kind for kind in KINDS if not kind.startswith("HEIC")])
def test_every_decoder_downscales_alike(kind: str, side: int, mean: float, edge: int) -> None:
    """At 400 px the two LANCZOS implementations differ; at 130 px JPEG and WebP are reduced while loading."""
    data = KINDS[kind]()
    assert differences(one(data, PILLOW, side), one(data, LIBVIPS, side)) <= (mean, edge)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "HEIF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied_once(
    kind: str, orientation: int, only: Callable[[Decoder], None]
) -> None:
    only(LIBHEIF if kind == "HEIF" else LIBVIPS)
    stored = pictures.turned(quadrants(), orientation)
    data = encoded(stored, kind, exif=exif(orientation).tobytes())
    with decoding.open_picture(data, ROOM) as source, source.resize(200) as copy:
        assert copy.size == (120, 80)
        assert alike(corners(copy), QUADRANTS, 10)


def test_exif_after_the_pixels_of_a_png_is_applied_without_decoding_twice(
    only: Callable[[Decoder], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, body = encoded(pictures.turned(quadrants(), 6)), exif(6).tobytes().removeprefix(b"Exif\0\0")
    [_, chunk] = pictures.png(1, 1, 8, 0, b"\0\0", (b"eXIf", body)).split(b"IHDR", 1)
    chunk = chunk[17 : 17 + 12 + len(body)]  # behind what IHDR holds and its checksum
    data = plain[:-12] + chunk + plain[-12:]
    only(LIBVIPS)
    monkeypatch.setattr(Image.Image, "load", lambda image: pytest.fail("Pillow decodes"))
    with Image.open(io.BytesIO(data)) as header:
        LIBVIPS.decode(header, data, 200)
        assert header.getexif()[0x0112] == 6


@pytest.mark.parametrize(
    ("kind", "image", "options"),
    [
        ("GIF", scene().quantize(32), {}),
        ("BMP", scene(), {}),
        ("AVIF", scene(), {}),
        ("WEBP", scene(), {"save_all": True, "append_images": [second()]}),
        ("TIFF", scene().convert("1"), {}),
        ("TIFF", scene().convert("YCbCr"), {"compression": "tiff_lzw"}),
        ("TIFF", pictures.lab(scene()), {}),
        ("TIFF", scene().convert("L").convert("I"), {}),
        ("TIFF", scene(), {"compression": "zstd"}),
    ],
)
def test_pillow_decodes_what_libvips_would_decode_differently(
    kind: str, image: Image.Image, options: dict[str, Any]
) -> None:
    data = encoded(image, kind, **options)
    with Image.open(io.BytesIO(data)) as header:
        assert isinf(LIBVIPS.need_mb(header, data, 200))
        assert isinf(LIBHEIF.need_mb(header, data, 200))
        assert PILLOW.need_mb(header, data, 200) < inf


# What it refuses


@pytest.mark.filterwarnings("ignore")  # Pillow warns of damaged tags on its way to refusing them
@pytest.mark.parametrize("kind", ["JPEG", "JPEG progressive", "PNG", "WebP", "TIFF", "TIFF LZW", "HEIC"])
def test_a_truncated_picture_is_rejected(kind: str, only: Callable[[Decoder], None]) -> None:
    only(LIBHEIF if kind == "HEIC" else LIBVIPS)
    data = KINDS[kind]()
    for step in range(1, 24):
        with pytest.raises(Rejected) as caught:
            decoding.open_picture(data[: len(data) * step // 24], ROOM).close()
        assert caught.value.code in ("broken_picture", "not_a_picture")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "HEIF"])
def test_changed_bytes_are_either_rejected_or_decoded(kind: str, only: Callable[[Decoder], None]) -> None:
    only(LIBHEIF if kind == "HEIF" else LIBVIPS)
    data = encoded(quadrants(40, 30), kind, exif=exif(6))
    for at in range(0, min(len(data), 600), 3):
        for value in (0x00, 0x7F, 0xFF):
            with suppress(Rejected):
                decoding.open_picture(data[:at] + bytes([value]) + data[at + 1 :], ROOM).close()


# What it takes


def large(name: str) -> bytes:
    """Return files of 12 MP that are fast to encode; HEIC is slow and has 3 MP."""
    image = quadrants(2000, 1500) if name.startswith("HEIC") else quadrants(4000, 3000)
    if name.endswith("alpha"):
        image.putalpha(200)
    slow = {"preset": "slow"}  # as x265 writes it unasked: in the largest blocks
    return {
        "JPEG": lambda: encoded(image, "JPEG"),
        "JPEG progressive": lambda: encoded(image, "JPEG", progressive=True, subsampling=2),
        "JPEG CMYK": lambda: encoded(image.convert("CMYK"), "JPEG"),
        "PNG": lambda: encoded(image, compress_level=1),
        "PNG alpha": lambda: encoded(image, compress_level=1),
        "PNG 16 bits": lambda: by_libvips(".png", image, deep=True, compression=1),
        "PNG interlaced": lambda: by_libvips(".png", image, interlace=True, compression=1),
        "WebP": lambda: encoded(image, "WEBP", lossless=False, method=0),
        "WebP alpha": lambda: encoded(image, "WEBP", lossless=False, method=0),
        "WebP lossless": lambda: encoded(image, "WEBP", method=0, quality=0),
        "TIFF": lambda: encoded(image, "TIFF", compression="tiff_lzw"),
        "TIFF tiles": lambda: by_libvips(".tif", image, tile=True, compression="lzw"),
        "TIFF one strip": lambda: encoded(image, "TIFF", compression="tiff_lzw", tiffinfo={278: 3000}),
        "HEIC": lambda: encoded(image, "HEIF", chroma=420, quality=30, enc_params=slow),
        "HEIC 4:4:4": lambda: encoded(image, "HEIF", quality=30, enc_params=slow),
    }[name]()


@pytest.fixture(scope="module")
def fresh() -> Iterator[Callable[..., tuple[float, float]]]:
    """Call peak_and_need in a new process each time, with only the imports of every instance."""
    if NO_PEAK:
        pytest.skip(NO_PEAK)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.memory.taken"])
    with context.Pool(1, maxtasksperchild=1) as pool:
        yield partial(pool.apply, peak_and_need)


@pytest.mark.parametrize(
    "name",
    [
        *("JPEG", "JPEG progressive", "JPEG CMYK"),
        *("PNG", "PNG alpha", "PNG 16 bits", "PNG interlaced"),
        *("WebP", "WebP alpha", "WebP lossless"),
        *("TIFF", "TIFF tiles", "TIFF one strip"),
        *("HEIC", "HEIC 4:4:4"),
    ],
)
def test_decoding_takes_no_more_memory_than_estimated(
    name: str, fresh: Callable[..., tuple[float, float]], tmp_path: Path
) -> None:
    (tmp_path / "picture").write_bytes(large(name))
    for decoder in (PILLOW, LIBHEIF if name.startswith("HEIC") else LIBVIPS):
        peak, need = fresh((str(tmp_path / "picture"), decoder.name, 1600))
        assert need / 3 < peak <= need, decoder.name


# Which is chosen


def best(kind: str, width: int, height: int, side: int = 1600, **options: Any) -> str:
    data = encoded(quadrants(), kind, **options)
    with Image.open(io.BytesIO(data)) as header:
        header._size = (width, height)  # a large one would take long to write
        return ranking.rank_decoders(header, data, side)[0][1].name


def test_pillow_decodes_small_pictures_and_libvips_is_not_imported() -> None:
    assert best("PNG", 1080, 1920) == "pillow"
    assert best("JPEG", 1080, 1920) == "pillow"
    code = "import sys; from dropcap import pipeline; sys.exit('pyvips' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_large_pictures_go_to_the_decoder_with_the_least_need() -> None:
    for kind in ("JPEG", "PNG", "WEBP", "TIFF"):
        assert best(kind, 4000, 3000) == "libvips"
    assert best("JPEG", 4000, 3000, side=400) == "pillow"
    assert best("HEIF", 8000, 6000, chroma=420) == "libheif"
    assert best("AVIF", 8000, 6000) == "pillow"


def test_the_decoder_that_ran_is_in_the_record(start: Start) -> None:
    app = start()
    for name, data, decoder in (
        ("ana/small.jpg", PICTURE, "pillow"),
        ("ana/large.jpg", encoded(quadrants(4000, 3000), "JPEG"), "libvips"),
    ):
        assert app.deliver(app.upload(name, data)) == HTTPStatus.OK
        query = "SELECT result -> 'picture' ->> 'decoder' FROM analyses JOIN uploads USING (id)"
        assert rows(f"{query} WHERE name = :name", name=name) == [[decoder]]


# Room


def test_memory_is_freed_before_a_picture_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    data, left = encoded(quadrants(1200, 900)), [0.0]
    monkeypatch.setattr(memory, "left_mb", lambda limit: left[0])
    with pytest.raises(Rejected, match="MB are left"):
        decoding.open_picture(data, ROOM, client.admission(ROOM, lambda: None))
    admit = client.admission(ROOM, lambda: left.append(left.pop() + 500))
    with decoding.open_picture(data, ROOM, admit) as source:
        assert source.facts.decoder == "pillow"
    with decoding.open_picture(data, ROOM, client.admission(ROOM, lambda: pytest.fail("there is room"))):
        assert left == [500]


def test_memory_is_freed_before_a_picture_exceeds_the_warning_level(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data, used = encoded(quadrants(1200, 900)), [390.0]
    monkeypatch.setattr(memory, "rss_mb", lambda: used[0])
    settings = Settings(memory_limit_mb=512, memory_warning_mb=400)
    admit = client.admission(settings, lambda: used.append(used.pop() - 100))
    with decoding.open_picture(data, settings, admit):
        assert used == [290]
    used[0] = 410.0  # and no room can be made, but there is some below the limit
    with decoding.open_picture(data, settings, client.admission(settings, lambda: None)) as source:
        assert source.facts.width == 1200


def test_a_picture_that_fits_only_without_the_model_is_still_captioned(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = start()
    assert app.deliver(app.upload("ana/first.jpg", PICTURE)) == HTTPStatus.OK
    model = weakref.ref(app.services.captioner)

    def left(limit: int) -> float:
        gc.collect()
        return 0.0 if model() else 4096.0

    monkeypatch.setattr(memory, "left_mb", left)
    assert app.deliver(app.upload("ana/second.jpg", PICTURE)) == HTTPStatus.OK
    assert model() is None
    assert rows("SELECT caption FROM analyses") == [[CAPTION], [CAPTION]]


def test_a_16_bit_transparent_colour_becomes_white(only: Callable[[Decoder], None]) -> None:
    only(LIBVIPS)
    row = b"\0" + struct.pack(">3H", 40_000, 300, 700) * 4
    data = pictures.png(4, 4, 16, 2, row * 4, (b"tRNS", struct.pack(">3H", 40_000, 300, 700)))
    with decoding.open_picture(data, ROOM) as source, source.resize(4) as copy:
        assert corners(copy)[0] == (255, 255, 255)
