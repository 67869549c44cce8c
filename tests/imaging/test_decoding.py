"""Supported formats are decoded correctly; other files are rejected with the reason."""

import hashlib
import re
import struct
from contextlib import suppress
from dataclasses import replace
from http import HTTPStatus

import pytest
from PIL import Image, ImageChops

from dropcap.errors import Rejected
from dropcap.imaging import decoding
from dropcap.runtime import memory
from dropcap.sandbox import client
from dropcap.settings import GEMINI_SIDE, Settings
from tests.support.images import pictures
from tests.support.images.bombs import with_chunks
from tests.support.images.pictures import QUADRANTS, alike, corners, encoded, exif, quadrants
from tests.support.sandbox import open_bytes

ROOM = Settings(memory_limit_mb=4096, memory_warning_mb=4096)


def opened(data: bytes, settings: Settings) -> decoding.Picture:
    return decoding.open_picture(data, settings, client.admission(settings, memory.release))


def shown(data: bytes, settings: Settings = ROOM) -> tuple[int, int, tuple[pictures.Colour, ...]]:
    """Return width, height and the quadrants' colours of a model's input."""
    with opened(data, settings) as source, source.resize(GEMINI_SIDE) as copy:
        assert copy.mode == "RGB"
        return (*copy.size, corners(copy))


def room_for(left_mib: int) -> Settings:
    """Return settings under which about this much memory is available."""
    memory.release()
    return Settings(memory_limit_mb=round(memory.rss_mb() / 1.048576) + left_mib)


def rejected(data: bytes, settings: Settings = ROOM) -> Rejected:
    with pytest.raises(Rejected) as caught:
        opened(data, settings).close()
    error = caught.value
    assert error.problem.endswith(".")
    assert error.remedy.endswith(".")
    assert HTTPStatus.BAD_REQUEST <= error.status < HTTPStatus.INTERNAL_SERVER_ERROR
    return error


# What it shows


@pytest.mark.parametrize("kind", pictures.FORMATS)
def test_every_format_keeps_its_colours(kind: str) -> None:
    data = encoded(quadrants(), kind)
    with decoding.open_picture(data, ROOM) as source:
        facts = source.facts
    assert (facts.format, facts.bytes, facts.width, facts.height) == (kind, len(data), 120, 80)
    with open_bytes(data, ROOM) as opened:
        assert opened.facts == replace(facts, sha256=hashlib.sha256(data).hexdigest())
    width, height, colours = shown(data)
    assert (width, height) == (120, 80)
    assert alike(colours, QUADRANTS, 10)


def test_a_1080_x_1920_png_yields_every_size_that_the_pipeline_needs() -> None:
    with decoding.open_picture(encoded(quadrants(1080, 1920)), Settings(memory_limit_mb=4096)) as source:
        assert (source.facts.width, source.facts.height, source.facts.decoder) == (1080, 1920, "pillow")
        for side, size in ((1600, (900, 1600)), (800, (450, 800)), (400, (225, 400)), (200, (112, 200))):
            with source.resize(side) as copy:
                assert copy.size == size
                assert alike(corners(copy), QUADRANTS)
        assert source.encode(800, "jpeg", 85)[1:] == (450, 800, "image/jpeg")


@pytest.mark.parametrize("kind", pictures.EXIF_FORMATS)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied_once(kind: str, orientation: int) -> None:
    stored = pictures.turned(quadrants(), orientation)
    width, height, colours = shown(encoded(stored, kind, exif=exif(orientation).tobytes()))
    assert (width, height) == (120, 80)
    assert alike(colours, QUADRANTS, 10)


def test_a_reduced_jpeg_is_rotated_and_its_facts_are_of_the_full_size() -> None:
    stored = pictures.turned(quadrants(4000, 2000), 6)
    with decoding.open_picture(
        encoded(stored, "JPEG", exif=exif(6)), Settings(memory_limit_mb=4096, sizes=(800,))
    ) as source:
        assert (source.facts.width, source.facts.height) == (4000, 2000)
        with source.resize(800) as copy:
            assert copy.size == (800, 400)
            assert alike(corners(copy), QUADRANTS)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
def test_a_damaged_exif_block_is_ignored(kind: str) -> None:
    data = encoded(quadrants(), kind, exif=b"Exif\0\0II*\0" + b"\xff" * 40)
    assert shown(data)[:2] == (120, 80)


def test_wide_gamut_colours_become_the_same_colours_in_srgb() -> None:
    colours = shown(encoded(quadrants(colours=pictures.OF_P3), icc_profile=pictures.DISPLAY_P3))[2]
    assert alike(colours, pictures.SRGB_OF_P3, 3)
    adobe = encoded(quadrants(colours=((180, 60, 60),) * 4), icc_profile=pictures.ADOBE_RGB)
    assert shown(adobe)[2][0][0] > 200  # the same numbers mean a stronger red there


def test_a_damaged_profile_is_ignored() -> None:
    data = encoded(quadrants(), icc_profile=pictures.DISPLAY_P3[:200])
    assert alike(shown(data)[2], QUADRANTS)


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_cmyk_without_a_profile_keeps_its_colours(kind: str) -> None:
    assert alike(shown(encoded(quadrants().convert("CMYK"), kind))[2], QUADRANTS, 10)


def test_cmyk_with_a_profile_of_another_kind_is_still_decoded() -> None:
    data = encoded(quadrants().convert("CMYK"), "JPEG", icc_profile=pictures.DISPLAY_P3)
    assert alike(shown(data)[2], QUADRANTS, 10)


@pytest.mark.parametrize("mode", ["1", "L", "P", "LAB", "YCbCr"])
def test_every_mode_keeps_its_colours(mode: str) -> None:
    grey = mode in ("1", "L")
    colours: tuple[pictures.Colour, ...] = ((255,) * 3, (0,) * 3, (0,) * 3, (255,) * 3) if grey else QUADRANTS
    source = quadrants(colours=colours)
    image = (
        pictures.lab(source)
        if mode == "LAB"
        else source.quantize(16)
        if mode == "P"
        else source.convert(mode)
    )
    assert alike(shown(encoded(image, "TIFF"))[2], colours, 12)


@pytest.mark.parametrize(
    ("kind", "mode"),
    [
        ("PNG", "RGBA"),
        ("PNG", "LA"),
        ("PNG", "P"),
        ("GIF", "P"),
        ("TIFF", "RGBA"),
        ("WEBP", "RGBA"),
        ("AVIF", "RGBA"),
        ("HEIF", "RGBA"),
    ],
)
def test_alpha_is_composited_on_white(kind: str, mode: str) -> None:
    image = Image.new("RGBA", (120, 80), (0, 0, 0, 255))
    image.paste((0, 0, 0, 0), (0, 0, 60, 40))
    image.paste((0, 0, 0, 255 if mode == "P" else 128), (60, 0, 120, 40))
    data = encoded(
        image.quantize(8) if (kind, mode) == ("PNG", "P") else image.convert("RGBA" if mode == "P" else mode),
        kind,
    )
    half = (0,) * 3 if mode == "P" else (127,) * 3
    assert alike(shown(data)[2], ((255,) * 3, half, (0,) * 3, (0,) * 3))


def test_a_transparent_colour_without_alpha_channel_becomes_white() -> None:
    assert shown(encoded(quadrants(), transparency=pictures.RED))[2][0] == (255, 255, 255)
    row = b"\0" + struct.pack(">3H", 40_000, 300, 700) * 4
    assert (
        shown(pictures.png(4, 4, 16, 2, row * 4, (b"tRNS", struct.pack(">3H", 40_000, 300, 700))))[2][0]
        == (255,) * 3
    )
    row = b"\0" + struct.pack(">H", 40_000) * 4
    assert shown(pictures.png(4, 4, 16, 0, row * 4, (b"tRNS", struct.pack(">H", 40_000))))[2][0] == (255,) * 3


def sixteen_bits(fmt: str) -> Image.Image:
    ramp = b"".join(struct.pack(fmt, value * 257) for value in range(256))
    mode = "I;16B" if fmt[0] == ">" else "I;16"
    return Image.frombytes(mode, (256, 8), ramp * 8)


@pytest.mark.parametrize(("kind", "fmt"), [("PNG", "<H"), ("TIFF", "<H"), ("TIFF", ">H")])
def test_16_bit_grey_is_scaled_not_clipped(kind: str, fmt: str) -> None:
    with decoding.open_picture(encoded(sixteen_bits(fmt), kind), ROOM) as source, source.resize(800) as copy:
        for value in range(256):
            assert copy.getpixel((value, 4)) == (value,) * 3


def test_16_bits_per_colour_are_scaled() -> None:
    row = b"\0" + struct.pack(">3H", 51_400, 7_710, 10_280) * 40
    assert alike(shown(pictures.png(40, 40, 16, 2, row * 40))[2], ((200, 30, 40),) * 4, 1)


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (0.0, 255.0), (0.0, 65535.0), (-3.0, 9.0)])
def test_a_float_tiff_is_scaled_from_black_to_white(low: float, high: float) -> None:
    image = Image.new("F", (120, 80), low)
    image.paste(high, (60, 0, 120, 80))
    assert alike(shown(encoded(image, "TIFF"))[2], ((0,) * 3, (255,) * 3) * 2, 1)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF", "AVIF", "HEIF"])
def test_an_animation_is_decoded_as_its_first_frame(kind: str) -> None:
    others = [quadrants(colours=QUADRANTS[::-1]), quadrants(colours=(QUADRANTS[1],) * 4)]
    data = encoded(quadrants(), kind, save_all=True, append_images=others)
    assert alike(shown(data)[2], QUADRANTS, 10)


def test_a_jpeg_of_several_pictures_is_decoded_as_its_first() -> None:
    other = quadrants(colours=QUADRANTS[::-1])
    data = encoded(quadrants(), "MPO", save_all=True, append_images=[other], quality=95, subsampling=0)
    with decoding.open_picture(data, ROOM) as source:
        assert source.facts.format == "JPEG"
    assert alike(shown(data)[2], QUADRANTS, 10)


def test_strips_leave_no_seam() -> None:
    image = Image.linear_gradient("L").rotate(30).resize((2900, 2600), Image.Resampling.BICUBIC)
    with decoding.open_picture(encoded(image, compress_level=1), ROOM) as source, source.resize(1600) as copy:
        whole = image.resize(copy.size, Image.Resampling.LANCZOS)
        differences = ImageChops.difference(copy.getchannel("R"), whole).histogram()
        assert sum(differences[2:]) == 0


def test_a_picture_is_never_enlarged() -> None:
    with decoding.open_picture(encoded(quadrants(30, 20)), ROOM) as source:
        assert source.encode(1600, "webp", 80)[1:3] == (30, 20)
        assert source.encode(800, "jpeg", 85)[1:3] == (30, 20)


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 1), (4999, 3)])
def test_a_thin_picture_keeps_at_least_one_pixel(size: tuple[int, int]) -> None:
    for kind in ("JPEG", "PNG"):
        with (
            decoding.open_picture(encoded(Image.new("RGB", size), kind), ROOM) as source,
            source.resize(400) as copy,
        ):
            assert min(copy.size) >= 1
            assert max(copy.size) <= 400


# What it publishes


def test_the_quality_setting_is_applied() -> None:
    noise = Image.effect_noise((200, 200), 80)
    with decoding.open_picture(encoded(noise), ROOM) as source:
        for kind in ("webp", "jpeg", "avif"):
            assert len(source.encode(200, kind, 20).data) < len(source.encode(200, kind, 90).data)


def test_gemini_gets_a_smaller_copy_when_memory_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    with open_bytes(encoded(quadrants(900, 900)), ROOM) as source:
        assert source.for_gemini().width == GEMINI_SIDE
        with monkeypatch.context() as short:
            short.setattr(memory, "left_mb", lambda limit: client.SHORT_MB - 1)
            assert source.for_gemini().width == client.GEMINI_SIDE_SHORT


def test_a_closed_picture_can_not_be_resized() -> None:
    with decoding.open_picture(encoded(quadrants()), ROOM) as source:
        pass
    with pytest.raises(ValueError, match="closed"):
        source.resize(400)


# What it refuses


@pytest.mark.parametrize(
    ("data", "code", "status"),
    [
        (b"", "empty_picture", HTTPStatus.UNPROCESSABLE_ENTITY),
        (b"hello", "not_a_picture", HTTPStatus.UNSUPPORTED_MEDIA_TYPE),
        (b"BMW is a maker of cars, not a bitmap", "not_a_picture", HTTPStatus.UNSUPPORTED_MEDIA_TYPE),
        (b"\0" * 1000, "not_a_picture", HTTPStatus.UNSUPPORTED_MEDIA_TYPE),
        (b"<!DOCTYPE html><html><svg></svg></html>", "not_a_picture", HTTPStatus.UNSUPPORTED_MEDIA_TYPE),
        (b"\0\1\0\0\0\x0fGSUB", "not_a_picture", HTTPStatus.UNSUPPORTED_MEDIA_TYPE),
        (b"%PDF-1.7", "unsupported_format", HTTPStatus.UNSUPPORTED_MEDIA_TYPE),
        (b"%!PS-Adobe-3.0 EPSF-3.0", "unsupported_format", HTTPStatus.UNSUPPORTED_MEDIA_TYPE),
        (
            b'\n <svg xmlns="http://www.w3.org/2000/svg"/>',
            "unsupported_format",
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
        ),
        (b"<?xml version='1.0'?><svg/>", "unsupported_format", HTTPStatus.UNSUPPORTED_MEDIA_TYPE),
        (b"\0\0\1\0\1\0", "unsupported_format", HTTPStatus.UNSUPPORTED_MEDIA_TYPE),
        (b"8BPS\0\1", "unsupported_format", HTTPStatus.UNSUPPORTED_MEDIA_TYPE),
        (b"\0\0\0\x18ftypmp42\0\0\0\0isommp42", "unsupported_format", HTTPStatus.UNSUPPORTED_MEDIA_TYPE),
        (b"\xff\xd8\xff", "broken_picture", HTTPStatus.UNPROCESSABLE_ENTITY),
        (b"RIFF\0\0\0\0WEBP", "broken_picture", HTTPStatus.UNPROCESSABLE_ENTITY),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "broken_picture", HTTPStatus.UNPROCESSABLE_ENTITY),
        (b"\0\0\0\x18ftypavif\0\0\0\0mif1avif", "broken_picture", HTTPStatus.UNPROCESSABLE_ENTITY),
    ],
)
def test_other_files_are_rejected_by_their_first_bytes(data: bytes, code: str, status: HTTPStatus) -> None:
    error = rejected(data)
    assert (error.code, error.status) == (code, status)


def test_a_side_that_is_too_long_is_rejected_from_the_header_alone() -> None:
    error = rejected(pictures.png(50_001, 10, 8, 2, b""))
    assert (error.code, error.status) == ("side_too_long", HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
    assert "50,001" in error.problem
    assert "50,000" in error.problem


def test_a_decompression_bomb_is_rejected_from_the_header_alone() -> None:
    bomb = pictures.png(60_000, 60_000, 8, 2, b"")
    assert len(bomb) < 100
    error = rejected(bomb, Settings(memory_limit_mb=4096, max_side=65_535))
    assert error.code == "too_many_pixels"
    assert "3,600.0 megapixels" in error.problem
    webp = b"RIFF\x1e\0\0\0WEBPVP8X\x0a\0\0\0\x10\0\0\0" + b"\xff\x3f\0" * 2
    assert rejected(webp).code == "too_many_pixels"


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "HEIF", "AVIF", "TIFF", "BMP"])
def test_a_picture_that_needs_too_much_memory_is_rejected_with_both_figures(kind: str) -> None:
    data = encoded(Image.new("RGB", (1200, 900)), kind)
    error = rejected(data, room_for(20))
    assert (error.code, error.status) == ("needs_too_much_memory", HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
    assert re.search(r"1,200 x 900 px needs \d+ MB of memory, and \d+ MB are left", error.problem)
    assert shown(data, room_for(400))[:2] == (800, 600)


def test_a_large_jpeg_is_streamed_when_memory_is_short() -> None:
    data = encoded(quadrants(4000, 3000), "JPEG")
    with opened(data, room_for(80)) as source, source.resize(1600) as copy:
        assert source.facts.decoder == "libvips"
        assert copy.size == (1600, 1200)
        assert alike(corners(copy), QUADRANTS)


def test_a_progressive_jpeg_needs_more_memory_than_a_plain_one() -> None:
    image = quadrants(4000, 3000)
    plain, progressive = encoded(image, "JPEG"), encoded(image, "JPEG", progressive=True)
    several = encoded(image, "MPO", save_all=True, append_images=[image], subsampling=0)
    image.close()
    assert rejected(progressive, room_for(90)).code == "needs_too_much_memory"
    for data in (plain, several):
        opened(data, room_for(90)).close()


@pytest.mark.filterwarnings("ignore")  # Pillow warns of damaged tags on its way to refusing them
@pytest.mark.parametrize("kind", pictures.FORMATS)
def test_a_truncated_picture_is_either_rejected_or_decoded(kind: str) -> None:
    data = encoded(quadrants(), kind)
    outcomes = []
    for step in range(1, 24):
        part = data[: len(data) * step // 24]
        try:
            decoding.open_picture(part, ROOM).close()
            outcomes.append("shown")
        except Rejected as error:
            outcomes.append(error.code)
    assert set(outcomes) <= {"broken_picture", "not_a_picture", "shown"}
    assert "broken_picture" in outcomes


@pytest.mark.parametrize("cut", range(13))
def test_a_png_that_ends_within_its_end_chunk_is_repaired(cut: int) -> None:
    whole = with_chunks(encoded(quadrants()), (b"gAMA", b"\0\0\xb1\x8f"))
    damaged = whole.replace(b"\0\0\xb1\x8f", b"\0\0\xb1\x8e")  # another checksum, so that a repair is needed
    opened(damaged[: len(damaged) - cut], ROOM).close()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", pictures.FORMATS)
def test_changed_bytes_are_either_rejected_or_decoded(kind: str) -> None:
    data = encoded(quadrants(40, 30), kind, **({"exif": exif(6)} if kind in pictures.EXIF_FORMATS else {}))
    for at in range(0, min(len(data), 600), 3):
        for value in (0x00, 0x7F, 0xFF):
            changed = data[:at] + bytes([value]) + data[at + 1 :]
            with suppress(Rejected):
                decoding.open_picture(changed, ROOM).close()
