"""Texts are embedded in an encoded picture without encoding it again, and every reader finds them."""

import io
import random

import pytest
import pyvips
from PIL import Image

from dropcap.domain import xmp
from dropcap.domain.embedding import embed
from dropcap.domain.naming import CONTENT_TYPES, Encoded
from dropcap.domain.texts import Texts
from dropcap.imaging import decoding
from dropcap.imaging.animation import open_animation
from dropcap.imaging.decoding import admit_first
from dropcap.settings import Settings
from tests.fuzz.inputs import png_xmp
from tests.support.images.pictures import encoded, quadrants

PACKETS = [
    xmp.packet(Texts("A dog", "A dog runs.", "A dog", ("dog",) * tags, "", "en")) for tags in (1, 2, 3, 900)
]
SIZES = ((64, 48), (63, 1), (1, 1), (201, 133))


def made(kind: str, size: tuple[int, int]) -> Encoded:
    with decoding.open_picture(encoded(quadrants(*size)), Settings()) as source:
        return source.encode(400, kind, 80)


def pixels(data: bytes) -> list[bytes]:
    """Return the pixels of each frame."""
    with Image.open(io.BytesIO(data)) as image:
        frames = []
        for index in range(getattr(image, "n_frames", 1)):
            image.seek(index)
            frames.append(image.convert("RGBA").tobytes())
        return frames


def packet_in(data: bytes, kind: str) -> bytes:
    """Return the packet that Pillow finds, or in a PNG, whose texts it skips here, our own reader."""
    with Image.open(io.BytesIO(data)) as image:
        return png_xmp(data) if kind == "png" else image.info.get("xmp", b"")


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", CONTENT_TYPES)
def test_readers_find_the_packet_and_the_same_pixels(kind: str, size: tuple[int, int]) -> None:
    before = made(kind, size)
    for packet in PACKETS:
        after = embed(before, packet)
        assert after[1:] == before[1:]
        assert packet_in(after.data, kind) == packet
        assert pixels(after.data) == pixels(before.data)
        vips = pyvips.Image.new_from_buffer(after.data, "")  # libvips reads with libraries of its own
        assert (vips.width, vips.height) == size
        if kind != "png" or "png-comment-0-XML:com.adobe.xmp" not in vips.get_fields():
            assert bytes(vips.get("xmp-data")) == packet


@pytest.mark.parametrize("kind", CONTENT_TYPES)
def test_without_texts_the_picture_is_unchanged(kind: str) -> None:
    before = made(kind, (64, 48))
    assert embed(before, b"") is before


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_an_animation_keeps_its_frames_its_transparency_and_its_loops(mode: str) -> None:
    frames = [Image.effect_noise((64, 48), 90).convert(mode) for _ in range(3)]
    data = encoded(frames[0], "WEBP", save_all=True, append_images=frames[1:], duration=100, loop=3)
    settings = Settings(animated=True)
    with decoding.open_picture(data, settings) as source:
        animation = open_animation(data, source.facts, settings.sizes, admit_first)
    assert animation
    before = animation.encode(64, 80)
    assert before
    after = embed(before, PACKETS[0])
    assert packet_in(after.data, "webp") == PACKETS[0]
    assert pixels(after.data) == pixels(before.data)
    assert len(pixels(after.data)) == 3
    for name in ("loop", "background"):
        with Image.open(io.BytesIO(before.data)) as one, Image.open(io.BytesIO(after.data)) as other:
            assert one.info[name] == other.info[name]


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_a_lossless_webp_keeps_its_transparency(mode: str) -> None:
    picture = Image.effect_noise((64, 48), 90).convert(mode)
    if mode == "RGBA":
        picture.putalpha(100)
    before = Encoded(encoded(picture, "WEBP", lossless=True), 64, 48, "image/webp")
    after = embed(before, PACKETS[0])
    assert packet_in(after.data, "webp") == PACKETS[0]
    assert pixels(after.data) == pixels(before.data)


def test_a_packet_that_no_segment_of_a_jpeg_holds_is_an_error() -> None:
    assert embed(made("jpeg", (64, 48)), b"x" * 65_504)
    with pytest.raises(ValueError, match="too large"):
        embed(made("jpeg", (64, 48)), b"x" * 65_505)


@pytest.mark.parametrize("kind", CONTENT_TYPES)
def test_any_other_file_is_a_value_error_or_a_file(kind: str) -> None:
    """The process that encodes may have been taken over by the picture."""
    chance = random.Random(7)  # noqa: S311  no secret
    whole = made(kind, (64, 48)).data
    for _ in range(500):
        data = bytearray(whole)
        for _ in range(chance.randint(1, 8)):
            data[chance.randrange(min(len(data), 400))] = chance.randrange(256)
        broken = bytes(data[: chance.choice((len(data), chance.randrange(len(data))))])
        try:
            after = embed(Encoded(broken, 64, 48, CONTENT_TYPES[kind]), PACKETS[0])
        except ValueError:
            continue
        assert len(after.data) < len(broken) + len(PACKETS[0]) + 300


def test_an_avif_of_another_encoder_is_an_error() -> None:
    data = encoded(quadrants(), "AVIF", xmp=b"<x/>")
    with pytest.raises(ValueError, match="more than one item"):
        embed(Encoded(data, 120, 80, "image/avif"), PACKETS[0])
