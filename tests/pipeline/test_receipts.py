"""A receipt records an upload's source, outputs, code, models, and the disposal of the source."""

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
from tests.gallery.test_export import export, table
from tests.support.app import NAME, OWN, PICTURE, ROOT, App, Start, expire_leases, rows, small_png

LETTER = b"Dear diary, today I was a JPEG."


def receipts(app: App, user: str = "ana") -> dict[str, dict[str, Any]]:
    """Return the user's exported receipts by id."""
    lines = export(app, "receipts", user).data.splitlines()
    return {each["id"]: each for each in map(json.loads, lines)}


def test_a_receipt_has_source_outputs_code_models_and_the_time_of_the_sources_deletion(start: Start) -> None:
    app = start(RECEIPTS="1", K_REVISION="dropcap-on-upload-abc1234-0")
    upload = app.upload(f"ana/{NAME}", PICTURE)
    assert app.deliver(upload) == 200
    [receipt] = receipts(app).values()
    fields = ("id", "user_id", "bucket", "name", "generation", "bytes", "sha256", "outcome", "source_fate")
    assert [receipt[each] for each in fields] == [
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
    printed = subprocess.run(command, shell=True, cwd=ROOT / "functions", capture_output=True, check=True)  # noqa: S602  the page's
    assert printed.stdout.decode().split()[0] == receipt["code"]["sha256"]


def test_a_receipt_is_returned_shown_and_exported_to_its_user_only(start: Start) -> None:
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


DISPOSALS = {
    "not read": (bytes(1_100_000), {"MAX_MB": "1"}, "too_many_bytes", "quarantined"),
    "no picture": (LETTER, {}, "not_a_picture", "quarantined"),
    "kept": (small_png(), {"SOURCE": "keep"}, "analyzed", "kept"),
    "archived": (small_png(), {"SOURCE": "archive"}, "analyzed", "archived"),
}


@pytest.mark.parametrize(("data", "settings", "outcome", "disposal"), DISPOSALS.values(), ids=DISPOSALS)
def test_a_receipt_records_the_disposal_of_the_source(
    start: Start, data: bytes, settings: dict[str, str], outcome: str, disposal: str
) -> None:
    app = start(RECEIPTS="1", **settings)
    assert app.deliver(app.upload("ana/a.png", data)) == 200
    [receipt] = receipts(app).values()
    assert (receipt["outcome"], receipt["source_fate"]) == (outcome, disposal)
    assert receipt["sha256"] == ("" if outcome == "too_many_bytes" else hashlib.sha256(data).hexdigest())
    assert (receipt["source_gone_at"] is None) == (app.objects(app.uploads) != {})


def test_the_receipt_of_a_held_upload_is_updated_when_it_is_analyzed(start: Start) -> None:
    app = start(RECEIPTS="1", SAFETY="low", GEMINI_MODEL="fault-404")
    upload = app.upload("ana/a.png", small_png())
    assert app.deliver(upload) == 200
    stored = "SELECT outcome, recorded_at > now() - interval '1 day' FROM receipts"
    assert rows(stored) == [["held_no_verdict", True]]
    rows("UPDATE receipts SET recorded_at = now() - interval '3 days'")
    expire_leases()
    assert app.restarted(GEMINI_MODEL="gemini-3.5-flash-lite").deliver(upload) == 200
    assert rows(stored) == [["analyzed", True]]


def test_the_export_of_receipts_reads_no_analyses_and_is_a_503_without_the_database(
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


def test_a_source_deleted_by_another_is_not_recorded_as_archived(start: Start) -> None:
    app = start(RECEIPTS="1", SOURCE="keep")
    early, late = app.upload("ana/a.png", small_png()), app.upload("ana/b.png", small_png())
    assert app.deliver(late) == 200
    rows("UPDATE uploads SET state = 'recorded'")
    expire_leases()
    for blob in app.objects(app.uploads).values():
        blob.delete()
    app = app.restarted(SOURCE="archive")
    for each in (early, late):
        assert app.deliver(each) == 200
    disposals = {id: each["source_fate"] for id, each in receipts(app).items()}
    assert disposals == {str(early.id): "gone", str(late.id): "deleted"}


@pytest.mark.parametrize("data", [small_png(), LETTER], ids=["analyzed", "rejected"])
def test_a_deletion_returns_the_receipt_and_leaves_no_receipt_or_event(start: Start, data: bytes) -> None:
    app = start(RECEIPTS="1", EVENTS="projects/my-project/topics/t00", PUBSUB_EMULATOR_HOST="127.0.0.1:1")
    uploads = [app.upload(f"ana/{name}.png", data) for name in ("a", "b")]
    for upload in uploads:
        assert app.deliver(upload) == 200
    known = receipts(app)
    answer = app.delete(uploads[0].id).get_json()["receipt"]
    assert answer.pop("erased_at") > answer["source_gone_at"]
    assert answer == known[str(uploads[0].id)]
    page = app.gallery.post(f"/gallery/picture/{uploads[1].id}/delete?user=ana", headers=OWN)
    assert known[str(uploads[1].id)]["sha256"] in page.text
    assert receipts(app) == {}
    assert rows("SELECT (SELECT count(*) FROM receipts), (SELECT count(*) FROM events)") == [[0, 0]]


def test_without_the_setting_no_receipt_is_stored(start: Start) -> None:
    app = start()
    answer = app.analyze(data=small_png(), query_string={"keep": "true", "user": "ana"}).get_json()
    assert "receipt" not in answer
    assert export(app, "receipts").data == b""
    assert rows("SELECT count(*) FROM receipts") == [[0]]
