"""A receipt proves what became of an upload: what came in, what was made of it, by what, where it went."""

import hashlib
import json
import os
import re
import subprocess
from contextlib import closing
from http import HTTPStatus
from typing import Any

import pytest

from dropcap.database.connection import connect_to_schema
from tests.gallery.test_edits import OWN, delete
from tests.gallery.test_export import export, table
from tests.pipeline.test_healing import lease_runs_out
from tests.support.app import NAME, PICTURE, ROOT, App, Start, rows, small_png

LETTER = b"Dear diary, today I was a JPEG."


def receipts(app: App, user: str = "ana") -> dict[str, dict[str, Any]]:
    """All of a user's, as the gallery gives them away, by id."""
    lines = export(app, "receipts", user).data.splitlines()
    return {each["id"]: each for each in map(json.loads, lines)}


def test_a_receipt_tells_of_source_outputs_code_models_and_when_the_source_was_gone(start: Start) -> None:
    app = start(RECEIPTS="1", K_REVISION="dropcap-on-upload-abc1234-0")
    upload = app.upload(f"ana/{NAME}", PICTURE)
    assert app.deliver(upload) == 200
    [receipt] = receipts(app).values()
    what = ("id", "user_id", "bucket", "name", "generation", "bytes", "sha256", "outcome", "source_fate")
    assert [receipt[each] for each in what] == [
        *(str(upload.id), "ana", upload.bucket, upload.name, upload.generation, len(PICTURE)),
        *(hashlib.sha256(PICTURE).hexdigest(), "analyzed", "deleted"),
    ]
    assert {each["object"]: each["md5"] for each in receipt["outputs"]} == {
        name: blob.md5_hash for name, blob in app.objects(app.pictures).items()
    }
    assert receipt["recorded_at"] < receipt["source_gone_at"]
    [[result]] = rows("SELECT result FROM analyses")
    assert receipt["models"] == {
        name: {"model": each["model"], "version": each["version"]} for name, each in result["sources"].items()
    }
    assert receipt["code"]["revision"] == "dropcap-on-upload-abc1234-0"
    page = (ROOT / "docs" / "events.md").read_text()
    [command] = re.findall(r"^cd functions && (.*?)^```", page, re.DOTALL | re.MULTILINE)
    said = subprocess.run(command, shell=True, cwd=ROOT / "functions", capture_output=True, check=True)  # noqa: S602  the page's
    assert said.stdout.decode().split()[0] == receipt["code"]["sha256"]


def test_it_is_returned_shown_and_exported_and_to_nobody_else(start: Start) -> None:
    app = start(RECEIPTS="1")
    answer = app.analyze(data=PICTURE, query_string={"keep": "true", "user": "ana"}).get_json()
    receipt = answer["receipt"]
    assert (receipt["source_fate"], receipt["sha256"]) == (
        "never stored",
        hashlib.sha256(PICTURE).hexdigest(),
    )
    assert receipts(app) == {answer["id"]: receipt}
    assert json.loads(table(export(app, "csv").data)[0]["receipt"]) == receipt
    assert json.loads(export(app, "jsonl").data)["receipt"] == receipt
    page = app.gallery.get(f"/gallery/picture/{answer['id']}?user=ana").text
    assert receipt["sha256"] in page
    assert receipts(app, "bob") == {}
    elsewhere = [export(app, kind, "bob").data for kind in ("csv", "jsonl")]
    answer = app.gallery.get(f"/gallery/picture/{answer['id']}?user=bob")
    assert answer.status_code == 404
    assert not [shown for shown in (*elsewhere, answer.data) if receipt["sha256"].encode() in shown]


FATES = {
    "not read": (bytes(1_100_000), {"MAX_MB": "1"}, "too_many_bytes", "quarantined"),
    "no picture": (LETTER, {}, "not_a_picture", "quarantined"),
    "kept": (small_png(), {"SOURCE": "keep"}, "analyzed", "kept"),
    "archived": (small_png(), {"SOURCE": "archive"}, "analyzed", "archived"),
}


@pytest.mark.parametrize(("data", "settings", "outcome", "fate"), FATES.values(), ids=FATES)
def test_it_tells_where_the_source_went(
    start: Start, data: bytes, settings: dict[str, str], outcome: str, fate: str
) -> None:
    app = start(RECEIPTS="1", **settings)
    assert app.deliver(app.upload("ana/a.png", data)) == 200
    [receipt] = receipts(app).values()
    assert (receipt["outcome"], receipt["source_fate"]) == (outcome, fate)
    assert receipt["sha256"] == ("" if outcome == "too_many_bytes" else hashlib.sha256(data).hexdigest())
    assert (receipt["source_gone_at"] is None) == (app.objects(app.uploads) != {})


def test_it_tells_when_what_was_held_was_analyzed(start: Start) -> None:
    app = start(RECEIPTS="1", SAFETY="low", GEMINI_MODEL="fault-404")
    upload = app.upload("ana/a.png", small_png())
    assert app.deliver(upload) == 200
    told = "SELECT outcome, recorded_at > now() - interval '1 day' FROM receipts"
    assert rows(told) == [["held_no_verdict", True]]
    rows("UPDATE receipts SET recorded_at = now() - interval '3 days'")
    lease_runs_out()
    assert app.restarted(GEMINI_MODEL="gemini-3.5-flash-lite").deliver(upload) == 200
    assert rows(told) == [["analyzed", True]]


def test_receipts_are_exported_without_a_look_at_pictures_and_not_while_the_database_is_away(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dropcap.database.receipts.PAGE", 1)
    app = start(RECEIPTS="1", DATABASE_TIMEOUT_S="0.3")
    for name in ("a", "b"):
        app.deliver(app.upload(f"ana/{name}.png", LETTER))
    with closing(connect_to_schema(os.environ["DATABASE_URL"])) as other:
        other.run("BEGIN; LOCK TABLE analyses IN ACCESS EXCLUSIVE MODE")
        assert len(receipts(app)) == 2
        other.run("LOCK TABLE receipts IN ACCESS EXCLUSIVE MODE")
        answer = app.gallery.get("/gallery/export/receipts?user=ana")
        assert answer.status_code == HTTPStatus.SERVICE_UNAVAILABLE


def test_what_somebody_else_deleted_is_in_no_archive_and_gone_where_it_was_never_read(start: Start) -> None:
    app = start(RECEIPTS="1", SOURCE="keep")
    early, late = app.upload("ana/a.png", small_png()), app.upload("ana/b.png", small_png())
    assert app.deliver(late) == 200
    rows("UPDATE uploads SET state = 'recorded'")
    lease_runs_out()
    for blob in app.objects(app.uploads).values():
        blob.delete()
    app = app.restarted(SOURCE="archive")
    for each in (early, late):
        assert app.deliver(each) == 200
    fates = {id: each["source_fate"] for id, each in receipts(app).items()}
    assert fates == {str(early.id): "gone", str(late.id): "deleted"}


@pytest.mark.parametrize("data", [small_png(), LETTER], ids=["analyzed", "rejected"])
def test_a_deletion_gives_it_one_last_time_and_leaves_nothing_to_tell(start: Start, data: bytes) -> None:
    app = start(RECEIPTS="1", EVENTS="projects/my-project/topics/t00", PUBSUB_EMULATOR_HOST="127.0.0.1:1")
    uploads = [app.upload(f"ana/{name}.png", data) for name in ("a", "b")]
    for upload in uploads:
        assert app.deliver(upload) == 200
    known = receipts(app)
    answer = delete(app, uploads[0].id).get_json()["receipt"]
    assert answer.pop("erased_at") > answer["source_gone_at"]
    assert answer == known[str(uploads[0].id)]
    page = app.gallery.post(f"/gallery/picture/{uploads[1].id}/delete?user=ana", headers=OWN)
    assert known[str(uploads[1].id)]["sha256"] in page.text
    assert receipts(app) == {}
    assert rows("SELECT (SELECT count(*) FROM receipts), (SELECT count(*) FROM events)") == [[0, 0]]


def test_none_is_kept_unless_it_is_asked_for(start: Start) -> None:
    app = start()
    answer = app.analyze(data=small_png(), query_string={"keep": "true", "user": "ana"}).get_json()
    assert "receipt" not in answer
    assert export(app, "receipts").data == b""
    assert rows("SELECT count(*) FROM receipts") == [[0]]
