"""Records of revisions without the demo field are marked as demonstration captions when read."""

import json
from typing import Any

import pytest

from tests.captioning.test_demonstration import DEMO, DOWN, NOTICE, UP, Texts, pages
from tests.gallery.test_export import export, table
from tests.support.app import CAPTION, NAME, PICTURE, App, Start, rows

OLDER: dict[str, Any] = {
    "alt_text": CAPTION,
    "agreement": {"score": 0.25, "contradictions": [], "contradicts": False},
}


@pytest.fixture
def app(start: Start) -> App:
    """Return an instance with one record written before the demo field existed, while Gemini was down."""
    app = start(**DEMO, SIZES="200", GEMINI_MODEL=DOWN, GEMINI_ATTEMPTS="1")
    app.deliver(app.upload(f"ana/{NAME}", PICTURE))
    rows("UPDATE analyses SET describe_after = now(), alt_text = caption")
    for key in ("demo", "notice", "confidence", "low_confidence", "removed"):
        rows(f"UPDATE analyses SET result = result #- '{{sources,blip,{key}}}'")  # noqa: S608
    rows(f"UPDATE analyses SET result = result || '{json.dumps(OLDER)}'")  # noqa: S608
    texts = '["caption", "alt_text"]'
    rows(f"UPDATE analyses SET result = jsonb_set(result, '{{provenance,blip,texts}}', '{texts}')")  # noqa: S608
    return app


def test_the_gallery_shows_the_notice_and_no_alt_text(app: App) -> None:
    wall, page = pages(app)
    for each in (wall, page):
        assert "knows 60 drawn objects" in each
        texts = Texts(each)
        assert NAME in texts.alts
        assert not [text for text in texts.alts + texts.copied if CAPTION in text]
    assert "Demonstration caption" in wall
    assert "Both agree" not in page


def test_exports_have_the_notice_and_no_alt_text(app: App) -> None:
    [row] = table(export(app, "csv").data)
    assert (row["caption"], row["alt_text"], row["model_alt_text"], row["notice"]) == (
        CAPTION,
        "",
        "",
        NOTICE,
    )
    line = json.loads(export(app, "jsonl").data)
    assert (line["alt_text"], line["agreement"]) == ("", None)
    assert (line["sources"]["blip"]["demo"], line["sources"]["blip"]["notice"]) == (True, NOTICE)


def test_a_user_alt_text_is_kept(app: App) -> None:
    rows("UPDATE analyses SET own_alt_text = 'Our garden'")
    assert table(export(app, "csv").data)[0]["alt_text"] == "Our garden"


def test_gemini_replaces_it_as_caption_and_alt_text(app: App) -> None:
    assert app.restarted(GEMINI_MODEL=UP).reconcile()["described"] == 1
    [row] = table(export(app, "csv").data)
    assert CAPTION not in (row["caption"], row["alt_text"])
    assert row["alt_text"]
    assert row["notice"] == ""


def test_a_demonstration_caption_is_not_a_title(app: App) -> None:
    *_, page = pages(app)
    title = page.split("<title>")[1].split("</title>")[0]
    assert NAME in title
    assert CAPTION not in title
