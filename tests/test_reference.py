"""Every kind of picture is shown as Chromium shows it on a white page, by every decoder that reads it."""

from typing import Any

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser

from tests.kinds import KINDS, clear
from tests.pictures import encoded
from tests.rendering import rendered
from tests.ways import WAYS, shown

MEAN = 2.0  # levels: two libraries round twice, once in linear light, and two of JPEG's differ by as much
AREA, LOCAL = 4, 12.0  # px, and levels in the mean of such an area: an edge that falls a little otherwise


def unlike(ours: Image.Image, wanted: Image.Image) -> str:
    """Return what is wrong with a picture; nothing where it is as wanted."""
    if ours.size != wanted.size:
        return f"{ours.size} for {wanted.size}"
    apart = np.abs(np.asarray(ours, np.float64) - np.asarray(wanted, np.float64))
    height, width = (side // AREA * AREA or side for side in apart.shape[:2])
    areas = apart[:height, :width].reshape(
        -1, min(AREA, height), width // min(AREA, width), min(AREA, width), 3
    )
    mean, local = apart.mean(), areas.mean(axis=(1, 3)).max()
    return f"{mean:.1f} in the mean, {local:.0f} in an area" if mean > MEAN or local > LOCAL else ""


def test_every_kind_is_shown_as_chromium_shows_it(chromium: Browser) -> None:
    files = {name: (mime, make()) for name, (mime, make) in KINDS.items()}
    wanted = rendered(chromium, files)
    wrong: dict[str, str] = {}
    for name, (_, data) in files.items():
        ways = {way: copy for way in WAYS if (copy := shown(data, way)) is not None}
        assert ways, name
        wrong |= {f"{name} by {way}": unlike(copy, wanted[name]) for way, copy in ways.items()}
    assert {name: why for name, why in wrong.items() if why} == {}


@pytest.mark.parametrize("options", [{}, {"alpha_premultiplied": True}])
def test_alpha_of_an_avif_is_laid_on_white(options: dict[str, Any]) -> None:
    """Computed: Chromium 156 takes what libaom codes for alpha of limited range, other decoders don't."""
    made = clear()
    wanted = Image.alpha_composite(Image.new("RGBA", made.size, "white"), made).convert("RGB")
    data = encoded(made, "AVIF", quality=95, subsampling="4:4:4", **options)
    copies = [copy for way in WAYS if (copy := shown(data, way)) is not None]
    assert [unlike(copy, wanted) for copy in copies] == [""] * max(1, len(copies))
