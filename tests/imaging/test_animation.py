"""ANIMATED=1: an animation is published as an animation, within limits of time and memory."""

import io
import json
import multiprocessing
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageDraw

from dropcap.imaging import animation, decoding
from dropcap.imaging.headers import properties
from dropcap.runtime import memory
from dropcap.sandbox import client
from dropcap.settings import Settings
from tests.memory.peak import peak_mb
from tests.memory.taken import NO_PEAK, begin_anew
from tests.support.app import Start, rows
from tests.support.children import fresh_python
from tests.support.images.peaks import frames_peak_and_need
from tests.support.images.pictures import DISPLAY_P3, OF_P3, SRGB_OF_P3, alike, corners, exif, quadrants

SETTINGS = Settings(animated=1, memory_limit_mb=32768, memory_warning_mb=32768, sizes=((60, 30),))
LASTS = [40, 0, 500, 100]  # ms


def frames(count: int = 4, mode: str = "RGB") -> list[Image.Image]:
    """Return frames of a square that moves to the right, on white or transparent."""
    made = []
    for index in range(count):
        frame = Image.new(mode, (120, 80), (255, 255, 255) if mode == "RGB" else (0, 0, 0, 0))
        at = 5 + 20 * (index % 4)
        ImageDraw.Draw(frame).rectangle((at, 20, at + 19, 39), (200, 0, 0, 255)[: len(mode)])
        made.append(frame)
    return made


def encoded(kind: str, images: list[Image.Image], **options: Any) -> bytes:
    out = io.BytesIO()
    images[0].save(out, kind, save_all=True, append_images=images[1:], **options)
    return out.getvalue()


def published(data: bytes, settings: Settings = SETTINGS) -> Image.Image | None:
    """Return the opened animation in the first size; None if it is still."""
    with decoding.open_picture(data, settings) as source:
        moving = animation.open_animation(
            data, source.facts, settings.sizes, client.admission(settings, memory.release)
        )
    made = moving.encode(settings.sizes[0], 90) if moving else None
    return Image.open(io.BytesIO(made.data)) if made else None


def where_red(image: Image.Image) -> int | None:
    """Return the leftmost red column at half the height of the square."""
    colours = image.convert("RGBA")
    for at in range(colours.width):
        pixel = colours.getpixel((at, colours.height * 3 // 8))
        assert isinstance(pixel, tuple)
        red, green, _, alpha = pixel
        if red > 150 and green < 90 and alpha > 200:
            return at
    return None


@pytest.mark.parametrize(
    ("kind", "mode"), [("GIF", "RGB"), ("GIF", "RGBA"), ("WEBP", "RGB"), ("WEBP", "RGBA")]
)
def test_frames_durations_and_transparency_are_kept(kind: str, mode: str) -> None:
    options = {"disposal": 2} if kind == "GIF" else {"lossless": True}
    data = encoded(kind, frames(mode=mode), duration=LASTS, loop=0, **options)
    image = published(data)
    assert image is not None
    assert (image.format, image.size, image.n_frames) == ("WEBP", (45, 30), 4)  # type: ignore[attr-defined]
    assert image.info["loop"] == 0
    lasted, reds = [], []
    for index in range(4):
        image.seek(index)
        image.load()
        lasted.append(image.info["duration"])
        reds.append(where_red(image))
        outside = image.convert("RGBA").getpixel((44, 2))
        assert isinstance(outside, tuple)
        assert (outside[3] == 0) if mode == "RGBA" else (min(outside) > 245)
    assert lasted == [40, 100, 500, 100]  # browsers show what is to last nothing for 100 ms
    assert reds == [pytest.approx((5 + 20 * index) * 45 / 120, abs=1) for index in range(4)]


@pytest.mark.parametrize(("loop", "plays"), [(None, 1), (0, 0), (3, 4)])
def test_the_number_of_loops_is_kept(loop: int | None, plays: int) -> None:
    image = published(encoded("GIF", frames(), duration=100, **({} if loop is None else {"loop": loop})))
    assert image is not None
    assert image.info["loop"] == plays


def test_an_animation_is_upright_in_srgb_and_without_metadata() -> None:
    images = [quadrants(colours=colours) for colours in (OF_P3, OF_P3[::-1])]
    data = encoded("WEBP", images, duration=100, exif=exif(6), icc_profile=DISPLAY_P3, lossless=True)
    image = published(data)
    assert image is not None
    assert image.size == (20, 30)
    for frame, colours in enumerate((SRGB_OF_P3, SRGB_OF_P3[::-1])):
        image.seek(frame)
        assert alike(corners(image), tuple(colours[index] for index in (2, 0, 3, 1)), 8)
    assert not {"exif", "icc_profile", "xmp"} & {*image.info}


def test_the_pipeline_publishes_an_animation_and_a_still_first_frame_otherwise(
    start: Start,
) -> None:
    app = start(ANIMATED="1", SIZES="200x100,60", FORMAT="original,jpeg")
    data = encoded("GIF", frames(), duration=LASTS, loop=0)
    for name, each in {"a": data, "b": encoded("GIF", frames(1)), "c": data[:-150]}.items():
        assert app.deliver(app.upload(f"ana/{name}.gif", each, "image/gif")) == 200
    made = {}
    for blob in app.objects(app.pictures).values():
        with Image.open(io.BytesIO(blob.download_as_bytes())) as image:
            made[blob.name] = (blob.content_type, image.size, getattr(image, "n_frames", 1))
            assert where_red(image) == pytest.approx(5 * image.width / 120, abs=1)
    results = [result for [result] in rows("SELECT result FROM analyses ORDER BY analyzed_at")]
    counts = [[made[each["object"]][2] for each in dict(result)["pictures"]] for result in results]
    assert counts == [[4, 1, 4, 1], [1, 1, 1, 1], [1, 1, 1, 1]]
    assert {(kind, size) for kind, size, _ in made.values()} == {
        (f"image/{kind}", size) for kind in ("webp", "jpeg") for size in ((120, 80), (60, 40))
    }


def test_without_animated_nothing_is_animated_and_no_decoder_is_imported(tmp_path: Path) -> None:
    (tmp_path / "a.gif").write_bytes(encoded("GIF", frames(), duration=100))
    program = f"""
import io, sys
from pathlib import Path
from PIL import Image
from dropcap import pipeline, renditions
from dropcap.domain.body import Body
from dropcap.sandbox import client
from dropcap.settings import Settings
from dropcap.domain.upload import Upload
settings = Settings(sizes=(60,))
data = Path("{tmp_path}/a.gif").read_bytes()
with client.open_picture(Body(lambda: data), settings) as source:
    [made] = renditions.encode(source, Upload("", "a.gif", 1, 9), settings)
    print(Image.open(io.BytesIO(made.picture.data)).n_frames)
print(sorted(set(sys.modules).intersection(["dropcap.imaging", "pyvips", "pillow_heif"])))
"""
    assert fresh_python(program) == "1\n[]\n"


def gif_with(after: bytes) -> bytes:
    """Return an animation whose end is replaced."""
    return encoded("GIF", frames(), duration=100)[:-1] + after + b";"


LARGER = b"!\xf9\x04\x08\0\0\0\0" + b",\0\0\0\0\x10\x27\x10\x27\0" + b"\x02\x01\0\0"


DAMAGED = [
    (encoded("GIF", frames(), duration=100)[:-150], "a frame can't be read"),
    (gif_with(LARGER), ""),  # a frame of 10,000 x 10,000 px, for which a decoder would enlarge the canvas
    (gif_with(b"," + bytes(9) + b"\x02\x00"), "a frame can't be read"),
    (gif_with(b"!\xfe\x00" * 50_000), ""),
]


@pytest.mark.parametrize(("data", "why"), DAMAGED)
def test_a_damaged_animation_is_still_and_the_reason_is_logged(
    data: bytes, why: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert published(data) is None
    lines = [json.loads(line) for line in capfd.readouterr().out.splitlines() if line.startswith("{")]
    assert [each["message"] for each in lines] == ["the animation is published as its first frame"] * bool(
        why
    )
    assert all(why in each["problem"] for each in lines)


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("MAX_FRAMES", 3, "4 frames"),
        ("MAX_PX", 40_000, "0 megapixels"),
        ("need_mb", lambda *of: 1e9, "MB of memory"),
    ],
)
def test_an_animation_beyond_the_limits_is_still_and_the_reason_is_logged(
    name: str, value: Any, why: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(animation, name, value)
    assert published(encoded("GIF", frames(), duration=100)) is None
    assert why in capfd.readouterr().out


def test_frames_are_counted_without_decoding_up_to_a_limit() -> None:
    data = encoded("GIF", frames(9), duration=100, loop=0)
    assert [properties.count_gif_frames(data, most) for most in (100, 9, 5)] == [9, 9, 6]
    assert properties.count_gif_frames(data[:-200], 100) <= 9
    for end in range(0, len(data), 7):
        assert 0 <= properties.count_gif_frames(data[:end], 100) <= 9


@pytest.mark.skipif(bool(NO_PEAK), reason=NO_PEAK)
def test_a_damaged_animation_takes_no_memory() -> None:
    for data, _ in DAMAGED:
        begin_anew()
        before = peak_mb()
        assert published(data) is None
        assert peak_mb() < before + 50


@pytest.mark.skipif(bool(NO_PEAK), reason=NO_PEAK)
def test_one_frame_at_a_time_is_in_memory_within_the_estimate(tmp_path: Path) -> None:
    side, count, made = 600, 60, []
    for index in range(count):
        made.append(Image.linear_gradient("L").resize((side, side)))
        ImageDraw.Draw(made[-1]).ellipse((8 * index, 5 * index, 8 * index + 90, 5 * index + 90), 1)
    (tmp_path / "a.gif").write_bytes(encoded("GIF", made, duration=50))
    context = multiprocessing.get_context("forkserver")
    with context.Pool(1) as pool:
        peak, need = pool.apply(frames_peak_and_need, (str(tmp_path / "a.gif"), 1600))
    assert need / 3 < peak <= need < count * side * side * 4 / 1e6 / 2
