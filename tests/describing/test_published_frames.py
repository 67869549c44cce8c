"""With SAFETY, everything that is published was part of the picture that was judged."""

import io

import pytest
from PIL import Image, ImageSequence

from dropcap.database.analyses import Analyses
from tests.imaging.test_animation import encoded
from tests.support.app import App, Start, log_lines, rows
from tests.support.describing import new_key, redescribe, requests_of

SEES_RED = {"GEMINI_MODEL": "fault-sees-red", "SAFETY": "low"}
MOVES = {"ANIMATED": "1", "SIZES": "20,40", "FORMAT": "webp,jpeg", "LAYOUT": "beside"}
SAFE = ("green", "blue", "yellow", "black")


def animation(kind: str, red_at: int | None) -> bytes:
    """Return an animation of four frames of one safe colour each, with a red frame inserted at `red_at`."""
    colours = list(SAFE)
    if red_at is not None:
        colours.insert(red_at, "red")
    frames = [Image.new("RGB", (60, 40), colour) for colour in colours]
    return encoded(kind, frames, duration=100, **({"lossless": True} if kind == "WEBP" else {}))


def published_frames(app: App) -> list[Image.Image]:
    """Return every frame of every published file, aliases included."""
    files = [Image.open(io.BytesIO(blob.download_as_bytes())) for blob in app.objects(app.pictures).values()]
    return [frame.convert("RGBA") for file in files for frame in ImageSequence.Iterator(file)]


def shows_red(frame: Image.Image) -> bool:
    """Return whether any pixel is red, including transparent ones."""
    data = frame.tobytes()
    return any(data[at] > 150 > 50 + max(data[at + 1 : at + 3]) for at in range(0, len(data), 4))


def test_without_safety_every_frame_is_published(start: Start) -> None:
    app = start(**MOVES)
    app.deliver(app.upload("ana/a.gif", animation("GIF", 2)))
    assert sum(map(shows_red, published_frames(app))) == 4  # two sizes, each with an alias


@pytest.mark.parametrize("kind", ["GIF", "WEBP"])
def test_only_the_judged_frame_is_published_wherever_the_unsafe_one_is(
    start: Start, kind: str, capfd: pytest.CaptureFixture[str]
) -> None:
    app = start(**MOVES, **SEES_RED)
    for position in range(len(SAFE) + 1):
        upload = app.upload(f"ana/{position}.{kind.lower()}", animation(kind, position))
        assert app.deliver(upload) == 200
    frames = published_frames(app)
    assert len(frames) == len(app.objects(app.pictures)) > 0  # no animations
    problems = [line["problem"] for line in log_lines(capfd) if line["event"] == "animation_not_published"]
    assert problems == ["with SAFETY only the frame that was judged is published"] * len(SAFE)
    assert not any(map(shows_red, frames))
    assert rows("SELECT name FROM uploads WHERE reason_code = 'held_unsafe'") == [[f"ana/0.{kind.lower()}"]]


def test_unjudged_renditions_of_a_crashed_delivery_are_unpublished(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = start(**MOVES)
    upload = app.upload("ana/a.gif", animation("GIF", 3))
    with monkeypatch.context() as crashing:
        crashing.setattr(Analyses, "record", None)
        assert app.deliver(upload) == 500
    assert any(map(shows_red, published_frames(app)))
    app = app.restarted(**SEES_RED, SIZES="20", FORMAT="jpeg", LAYOUT="id")
    assert app.deliver(upload) == 200
    assert list(app.objects(app.pictures)) == [f"{upload.id}/20.jpeg"]


def test_a_cached_verdict_applies_only_to_the_picture_that_was_judged(start: Start, gemini_url: str) -> None:
    key = new_key()
    app = start(SIZES="200", SAFETY="low", DAILY_CALLS="100", GEMINI_API_KEY=key)
    picture = encoded("PNG", [Image.linear_gradient("L").resize((300, 200))])
    for name in ("a", "b"):
        app.deliver(app.upload(f"ana/{name}.png", picture))
    assert requests_of(gemini_url, key) == 1
    later = app.upload("ana/c.png", picture)
    with pytest.MonkeyPatch.context() as shown:
        shown.setattr("dropcap.sandbox.client.GEMINI_SIDE", 100)
        assert app.deliver(later) == 200
    assert requests_of(gemini_url, key) == 2


def test_a_verdict_on_one_frame_leaves_a_published_animation_unknown(start: Start) -> None:
    app = start(**MOVES)
    moving = app.upload("ana/a.gif", animation("GIF", 2))
    still = app.upload("ana/b.gif", encoded("GIF", [Image.new("RGB", (60, 40), "blue")]))
    unsafe = app.upload("ana/c.gif", animation("GIF", 0))
    for upload in (moving, still, unsafe):
        assert app.deliver(upload) == 200
    app = app.restarted(**SEES_RED)
    assert redescribe(app, mark=True)["pictures"] == 3
    assert app.reconcile() == {"described": 2, "not_described": 1, "complete": True}
    levels = [(app.services.analyses.result(each.id) or {})["safety"]["level"] for each in (moving, still)]
    assert levels == ["unknown", "none"]
    assert not any(str(unsafe.id) in name for name in app.objects(app.pictures))


def hidden() -> dict[str, bytes]:
    """Return pictures with red under transparency, which is invisible on a white background."""
    blue = Image.new("RGBA", (60, 40), (0, 0, 255, 255))
    blue.paste((255, 0, 0, 0), (0, 0, 60, 30))
    palette = Image.new("P", (60, 40), 1)
    palette.putpalette([0, 0, 255, 255, 0, 0])
    palette.paste(0, (0, 30, 60, 40))
    plain = Image.new("RGB", (60, 40), "red")
    plain.paste("blue", (0, 30, 60, 40))
    return {
        "rgba.png": encoded("PNG", [blue]),
        "palette.png": encoded("PNG", [palette], transparency=1),
        "key.png": encoded("PNG", [plain], transparency=(255, 0, 0)),
        "b.webp": encoded("WEBP", [blue], lossless=True, exact=True),
        "c.gif": encoded("GIF", [palette], transparency=1),
        "d.tiff": encoded("TIFF", [blue]),
        "e.avif": encoded("AVIF", [blue], quality=100),
    }


def test_colours_hidden_by_transparency_are_not_published(start: Start) -> None:
    app = start(**MOVES | {"SIZES": "40", "FORMAT": "webp,png"}, **SEES_RED)
    for name, data in hidden().items():
        assert app.deliver(app.upload(f"ana/{name}", data)) == 200
    frames = published_frames(app)
    assert len(frames) == 4 * len(hidden())
    assert not any(map(shows_red, frames))
    assert all(frame.getpixel((20, 5)) == pytest.approx((255, 255, 255, 255), abs=3) for frame in frames)
