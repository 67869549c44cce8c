"""Every decoder renders every kind of picture as Chromium does on a white page."""

import io
from dataclasses import replace
from typing import Any

import pytest
from PIL import Image
from playwright.sync_api import Browser

from dropcap.imaging import animation, decoding
from tests.support.images.kinds import KINDS, clear, gif
from tests.support.images.pictures import encoded
from tests.support.images.rendering import frames_rendered, rendered, unlike
from tests.support.images.ways import ROOM, WAYS, shown


def test_every_kind_looks_as_in_chromium(chromium: Browser) -> None:
    files = {name: (mime, make()) for name, (mime, make) in KINDS.items()}
    wanted = rendered(chromium, files)
    wrong: dict[str, str] = {}
    for name, (_, data) in files.items():
        ways = {way: copy for way in WAYS if (copy := shown(data, way)) is not None}
        assert ways, name
        wrong |= {f"{name} by {way}": unlike(copy, wanted[name]) for way, copy in ways.items()}
    assert {name: why for name, why in wrong.items() if why} == {}


WHOLE, SMALL, LEFT, DOWN = (0, 0, 60, 60), (20, 20, 40, 40), (0, 0, 30, 60), (0, 30, 60, 60)
BLUE, RED, GREEN = 0, 1, 2
KEPT, CLEARED, RESTORED = 1, 2, 3  # what becomes of a frame; 0: nothing is said
# No frame looks like the one before, which an encoder would leave out.
MOVING: dict[str, list[tuple[tuple[int, int, int, int], int, int, bool]]] = {
    "bare": [(SMALL, RED, 0, False), (DOWN, GREEN, 0, False)],
    "bare, cleared": [(SMALL, RED, CLEARED, False), (DOWN, GREEN, CLEARED, False), (SMALL, BLUE, 0, False)],
    "bare, restored": [(SMALL, RED, RESTORED, False), (DOWN, GREEN, 0, False), (LEFT, BLUE, 0, False)],
    "cleared": [(WHOLE, RED, CLEARED, False), (SMALL, GREEN, CLEARED, False), (LEFT, BLUE, 0, False)],
    "kept, cleared": [(WHOLE, RED, KEPT, False), (LEFT, GREEN, CLEARED, False), (SMALL, BLUE, 0, False)],
    "kept, restored": [(WHOLE, RED, KEPT, False), (LEFT, BLUE, RESTORED, False), (DOWN, GREEN, 0, False)],
    "restored at once": [(WHOLE, RED, RESTORED, False), (LEFT, BLUE, 0, False)],
    "clear": [(WHOLE, GREEN, CLEARED, True), (LEFT, RED, CLEARED, True), (DOWN, BLUE, 0, True)],
    "clear, kept": [(SMALL, RED, 0, True), (DOWN, BLUE, CLEARED, True), (LEFT, RED, 0, True)],
    "nothing said": [(LEFT, RED, CLEARED, False), (DOWN, BLUE, 0, False), (SMALL, GREEN, 0, False)],
}


def test_every_frame_looks_as_in_chromium(chromium: Browser) -> None:
    files = {name: gif(frames) for name, frames in MOVING.items()}
    asked = {name: ("image/gif", data, len(MOVING[name])) for name, data in files.items()}
    wanted = frames_rendered(chromium, asked)
    settings = replace(ROOM, animated=1, sizes=(60,))
    wrong = {}
    for name, data in files.items():
        with decoding.open_picture(data, settings) as source:
            moving = animation.open_animation(data, source.facts, settings.sizes, decoding.admit_first)
        assert moving is not None, name
        made = moving.encode(60, 100)
        assert made is not None, name
        with Image.open(io.BytesIO(made.data)) as ours:
            for index, frame in enumerate(wanted[name]):
                ours.seek(index)
                white = Image.new("RGBA", ours.size, "white")
                on_white = Image.alpha_composite(white, ours.convert("RGBA")).convert("RGB")
                # Its edges, all at multiples of 10 px, are not sharp: it is lossy.
                wrong[f"{name} {index}"] = unlike(on_white.reduce(10), frame.reduce(10))
    assert {name: why for name, why in wrong.items() if why} == {}


@pytest.mark.parametrize("options", [{}, {"alpha_premultiplied": True}])
def test_avif_alpha_is_composited_on_white(options: dict[str, Any]) -> None:
    """Computed: Chromium 156 takes what libaom codes for alpha of limited range, other decoders don't."""
    made = clear()
    wanted = Image.alpha_composite(Image.new("RGBA", made.size, "white"), made).convert("RGB")
    data = encoded(made, "AVIF", quality=95, subsampling="4:4:4", **options)
    copies = [copy for way in WAYS if (copy := shown(data, way)) is not None]
    assert [unlike(copy, wanted) for copy in copies] == [""] * max(1, len(copies))
