"""A demonstration model's caption is shown with its notice and replaces no other caption."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from dropcap.captioning.blip import Card
from dropcap.domain import texts, xmp
from dropcap.domain.analysis import Caption, Description, Provenance, Source
from dropcap.settings import MODEL_FOLDER
from tests.gallery.test_export import export, table, unpacked
from tests.support.app import CAPTION, MAIN, NAME, PICTURE, App, Start, rows
from tests.support.models import no_demo as no_demonstration

NOTICE = Card.read(MODEL_FOLDER).notice
DEMO = {"MODEL_FOLDER": str(MODEL_FOLDER), "EVENTS": "projects/dropcap/topics/done"}
DEMO |= {"PUBSUB_EMULATOR_HOST": "127.0.0.1:9"}  # nobody is there
DOWN, UP = "fault-503", "gemini-3.5-flash-lite"
DOG = Description("A dog runs.", "A dog on a beach", (), "", "gemini", "1", caption="Dog on a beach")


@pytest.fixture
def app(start: Start) -> App:
    """Return an instance with the shipped model, while Gemini is down."""
    return start(**DEMO, SIZES="200", GEMINI_MODEL=DOWN, GEMINI_ATTEMPTS="1")


def result() -> dict[str, Any]:
    [[found]] = rows("SELECT result FROM analyses")
    return dict(found)


class Texts(HTMLParser):
    """Return the `alt` of each picture of a page, and the texts that its buttons copy."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.alts: list[str] = []
        self.copied: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        self.alts += [attributes["alt"] or ""] if tag == "img" and "alt" in attributes else []
        self.copied += [attributes["data-copy"] or ""] if "data-copy" in attributes else []


def pages(app: App) -> Iterator[str]:
    """The wall and the page of each picture."""
    yield app.gallery.get("/gallery/?user=ana").text
    for [id] in rows("SELECT id FROM analyses"):
        yield app.gallery.get(f"/gallery/picture/{id}?user=ana").text


def test_the_shipped_model_has_a_notice_with_the_remedy() -> None:
    assert NOTICE.startswith("demonstration captioner: knows 60 drawn objects; `make model` installs")
    assert "\n" not in NOTICE


def test_a_demonstration_caption_is_not_preferred_compared_or_embedded_beside_gemini(
    start: Start,
) -> None:
    app = start(**DEMO, SIZES="200")
    app.deliver(app.upload(f"ana/{NAME}", PICTURE))
    known = result()
    assert known["caption"] == known["captions"]["gemini"]
    assert known["captions"]["blip"] == CAPTION
    assert known["agreement"] is None
    assert known["provenance"]["blip"]["texts"] == []
    assert (known["sources"]["blip"]["demo"], known["sources"]["blip"]["notice"]) == (True, NOTICE)
    [blob] = app.objects(app.pictures).values()
    data = blob.download_as_bytes()
    assert CAPTION.encode() not in data
    assert known["caption"].encode() in data


def test_without_gemini_a_demonstration_caption_has_a_notice_and_is_not_the_alt_text(app: App) -> None:
    app.deliver(app.upload(f"ana/{NAME}", PICTURE))
    known = result()
    assert (known["caption"], known["alt_text"]) == (CAPTION, "")
    assert known["provenance"]["blip"]["texts"] == ["caption"]
    assert known["sources"]["blip"]["notice"] == NOTICE
    [blob] = app.objects(app.pictures).values()
    assert b"xmpmeta" not in blob.download_as_bytes()
    assert rows("SELECT caption, alt_text FROM analyses") == [[CAPTION, ""]]
    [[event]] = rows("SELECT data FROM events")
    texts = {name: event[name] for name in ("caption", "alt_text", "notice")}
    assert texts == {"caption": CAPTION, "alt_text": "", "notice": NOTICE}


def test_the_answer_to_a_posted_picture_has_the_notice(app: App) -> None:
    posted = app.analyze(data=PICTURE).get_json()
    assert (posted["caption"], posted["alt_text"]) == (CAPTION, "")
    assert posted["sources"]["blip"]["notice"] == NOTICE


def test_a_deferred_description_replaces_a_demonstration_caption(app: App) -> None:
    app.deliver(app.upload(f"ana/{NAME}", PICTURE))
    rows("UPDATE analyses SET describe_after = now()")
    app = app.restarted(GEMINI_MODEL=UP)
    assert app.reconcile()["described"] == 1
    known = result()
    assert known["caption"] == known["captions"]["gemini"] != CAPTION
    assert known["agreement"] is None
    assert known["provenance"]["blip"]["texts"] == []
    assert known["sources"]["blip"]["notice"] == NOTICE
    assert rows("SELECT caption FROM analyses") == [[known["caption"]]]


def test_results_without_the_demo_field_are_recognized_by_the_model_name(app: App) -> None:
    app.deliver(app.upload(f"ana/{NAME}", PICTURE))
    rows("UPDATE analyses SET describe_after = now(), result = result #- '{sources,blip,demo}'")
    assert app.restarted(GEMINI_MODEL=UP).reconcile()["described"] == 1
    assert result()["caption"] != CAPTION


def test_the_gallery_shows_the_notice_and_no_alt_text_for_a_demonstration_caption(
    app: App,
) -> None:
    app.deliver(app.upload(f"ana/{NAME}", PICTURE))
    for page in pages(app):
        assert CAPTION in page
        assert "knows 60 drawn objects" in page
        page_texts = Texts(page)
        assert NAME in page_texts.alts
        assert not [each for each in page_texts.alts + page_texts.copied if CAPTION in each]


def test_exported_tables_have_the_notice(app: App) -> None:
    app.deliver(app.upload(f"ana/{NAME}", PICTURE))
    [row] = table(export(app, "csv").data)
    assert (row["caption"], row["alt_text"], row["notice"]) == (CAPTION, "", NOTICE)
    line = json.loads(export(app, "jsonl").data)
    assert (line["caption"], line["sources"]["blip"]["notice"]) == (CAPTION, NOTICE)
    archive = unpacked(app)
    [each] = [name for name in archive.namelist() if name.endswith(".json")]
    assert json.loads(archive.read(each))["sources"]["blip"]["notice"] == NOTICE


def test_a_user_caption_has_no_notice_and_may_be_the_alt_text(app: App) -> None:
    app.deliver(app.upload(f"ana/{NAME}", PICTURE))
    rows("UPDATE analyses SET own_caption = 'Our garden'")
    [row] = table(export(app, "csv").data)
    assert (row["caption"], row["notice"]) == ("Our garden", "")
    for page in pages(app):
        assert "Our garden" in Texts(page).alts


@pytest.mark.parametrize("demo", [False, True])
def test_a_low_confidence_caption_is_ignored(demo: bool) -> None:
    caption = Caption("a bear", "m", "1", confidence=-3.2, low_confidence=True, demo=demo)
    for description in (DOG, None):
        assert texts.select(description, caption) == texts.select(description, None)
        assert texts.captions(description, caption) == texts.captions(description, None)
        assert "a bear" not in str(xmp.packet(texts.select(description, texts.trusted(caption))))
    assert texts.trusted(caption) is None


def all_texts(app: App) -> str:
    """Return everything that the database, the buckets and the gallery store for the user, as text."""
    texts = [json.dumps(result())]
    for [name] in rows(
        "SELECT format('%I.%I', schemaname, tablename) FROM pg_tables WHERE schemaname = 'dropcap'"
    ):
        texts += [str(row) for row in rows(f"SELECT t::text FROM {name} AS t")]  # noqa: S608
    for bucket in (app.pictures, app.quarantine):
        texts += [f"{each.metadata} {each.download_as_bytes()!r}" for each in app.objects(bucket).values()]
    texts += [*pages(app), export(app, "csv").text, export(app, "jsonl").text]
    archive = unpacked(app)
    texts += [archive.read(name).decode("utf-8", "replace") for name in archive.namelist()]
    return "\n".join(texts)


@pytest.mark.parametrize("model", [UP, DOWN])
@pytest.mark.parametrize("demo", [False, True])
def test_a_low_confidence_caption_is_stored_nowhere_and_the_record_has_the_reason(
    start: Start, tmp_path: Path, capsys: pytest.CaptureFixture[str], model: str, demo: bool
) -> None:
    # A confidence is 0 at most: the model is sure of nothing.
    folder = no_demonstration.copy(tmp_path / "model", demo=demo, confidence={"threshold": 1})
    settings = {"SIZES": "200", "GEMINI_MODEL": model, "GEMINI_ATTEMPTS": "1", "RECEIPTS": "1"}
    app = start(**DEMO | settings | {"MODEL_FOLDER": str(folder)})
    app.deliver(app.upload(f"ana/{NAME}", PICTURE))
    known = result()
    blip = known["sources"]["blip"]
    assert (blip["answered"], blip["low_confidence"], blip["demo"]) == (True, True, demo)
    assert blip["confidence"] <= 0
    assert known["agreement"] is None
    assert "blip" not in known["captions"]
    assert "blip" not in known["provenance"]
    if model == UP:
        assert known["caption"] == known["captions"]["gemini"]
    else:
        assert known["caption"] == known["alt_text"] == ""
        rows("UPDATE analyses SET describe_after = now()")
        app = app.restarted(GEMINI_MODEL=UP)
        assert app.reconcile()["described"] == 1
    assert "too low for the caption to be shown" in [*pages(app)][1]
    [row] = table(export(app, "csv").data)
    assert (row["confidence"], row["low_confidence"], row["notice"]) == (str(blip["confidence"]), "true", "")
    assert CAPTION not in all_texts(app) + capsys.readouterr().out
    assert "elephant" not in all_texts(app)
    assert str(known["id"]) not in app.gallery.get("/gallery/?user=ana&q=elephant").text


def test_an_instance_logs_once_at_start_that_its_model_is_a_demonstration(
    database_url: str, no_demo: str, tmp_path: Path
) -> None:
    def logged(target: str, folder: object) -> tuple[list[str], bool]:
        """What the start of a function logs, and whether it has loaded ONNX Runtime."""
        kind = "cloudevent" if target == "on_upload" else "http"
        script = f"""
import sys
from functions_framework import create_app
create_app({target!r}, {MAIN!r}, {kind!r})
print("onnxruntime" in sys.modules)
"""
        environment = {"DATABASE_URL": database_url, "MODEL_FOLDER": str(folder)}
        buckets = ("UPLOADS_BUCKET", "PICTURES_BUCKET", "QUARANTINE_BUCKET")
        environment |= {name: name.lower().replace("_", "-") for name in buckets}
        command = [sys.executable, "-c", script]
        ran = subprocess.run(
            command,
            env=os.environ | environment,
            cwd=Path(MAIN).parent,
            capture_output=True,
            text=True,
            check=True,
        )
        *lines, loaded = ran.stdout.splitlines()
        return [json.loads(line)["message"] for line in lines], loaded == "True"

    assert logged("on_upload", MODEL_FOLDER) == ([NOTICE], False)
    assert logged("analyze", MODEL_FOLDER) == ([NOTICE], False)
    assert logged("gallery", MODEL_FOLDER) == ([], False)
    assert logged("on_upload", no_demo) == ([], False)
    assert logged("on_upload", tmp_path / "none") == ([], False)


def test_the_notice_belongs_to_the_shown_caption() -> None:
    blip = Source(True, "m", "1", demo=True, notice="a demonstration")
    mine, theirs = (Provenance(each, "m", "1", "", "") for each in (("caption",), ()))
    assert texts.notice({"blip": blip}, {"blip": mine}) == "a demonstration"
    assert texts.notice({"blip": blip}, {"blip": theirs}) == ""
    assert texts.notice({"blip": blip}, {}) == ""
    assert texts.notice({}, {"blip": mine}) == ""
