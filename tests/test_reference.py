"""Every kind of picture is shown as Chromium shows it on a white page, by every decoder that reads it."""

from typing import Any

import pytest
from PIL import Image
from playwright.sync_api import Browser

from tests.kinds import KINDS, clear
from tests.pictures import encoded
from tests.rendering import rendered, unlike
from tests.ways import WAYS, shown


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
