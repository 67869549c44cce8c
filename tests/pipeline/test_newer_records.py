"""Records of a newer revision, with unknown keys, can be read after a rollback."""

import datetime as dt
import io
import json
import os
import shutil
import uuid
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from google.cloud.storage import Client
from PIL import Image
from rich.console import Console

from dropcap.captioning.blip import Card
from dropcap.database import leases
from dropcap.domain import analysis
from dropcap.domain.analysis import Analysis, PictureFacts, Rendition, Source
from dropcap.domain.gemini_response import GeminiResponse, Tokens
from dropcap.domain.records import read
from dropcap.domain.upload import Upload
from dropcap.settings import MODEL_FOLDER
from infra.local.results import Results
from infra.local.show import outcome
from tests.gallery.test_export import export
from tests.support.app import App, Start, expire_leases, rows

EVERYTHING = {
    "SIZES": "40,20",
    "GEMINI_ATTEMPTS": "1",
    "RECEIPTS": "1",
    "DAILY_CALLS": "1000",
    "SAFETY": "low",
    "SAFETY_UNKNOWN": "publish",
    "LAYOUT": "beside",
    "EVENTS": "projects/dropcap/topics/done",
    "PUBSUB_EMULATOR_HOST": "127.0.0.1:9",  # events stay pending
}
UNKNOWN = {"newer": {"newer": [1, None, "x", {"newer": 1}]}}
DOWN, UP = "fault-503", "gemini-3.5-flash-lite"
# Their schema is a setting.
JSON_COLUMNS = """
SELECT table_schema, table_name, column_name FROM information_schema.columns
WHERE data_type = 'jsonb' AND table_schema NOT IN ('pg_catalog', 'information_schema')
"""


def newer(value: Any) -> Any:
    """Return the value with one more key in each object, at every depth."""
    if isinstance(value, dict):
        return {name: newer(each) for name, each in value.items()} | UNKNOWN
    return [newer(each) for each in value] if isinstance(value, list) else value


def add_unknown_keys(app: App) -> set[str]:
    """Add keys to all JSON in the database and all objects' metadata; return the columns that had any."""
    changed = set()
    for schema, table, column in rows(JSON_COLUMNS):
        full_name = f'"{schema}"."{table}"'
        found = rows(f"SELECT ctid::text, {column} FROM {full_name} WHERE {column} IS NOT NULL")  # noqa: S608
        for ctid, value in found:
            sql = f"UPDATE {full_name} SET {column} = CAST(:value AS jsonb) WHERE ctid = CAST(:ctid AS tid)"  # noqa: S608
            rows(sql, value=json.dumps(newer(value)), ctid=ctid)
            if newer(value) != value:
                changed.add(f"{table}.{column}")
    for bucket in (app.uploads, app.pictures, app.quarantine):
        for blob in app.objects(bucket).values():
            blob.metadata = (blob.metadata or {}) | {"dropcap-newer": json.dumps(UNKNOWN)}
            blob.patch()
    return changed


def described(app: App, name: str, color: str) -> Upload:
    upload = app.upload(f"ana/{name}", picture(color), tz="Europe/Madrid", album="spring")
    assert app.deliver(upload) == 200
    return upload


def picture(color: str) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (60, 40), color).save(out, "PNG")
    return out.getvalue()


def test_unknown_keys_in_every_stored_record_are_ignored_and_kept(start: Start) -> None:
    app = start(**EVERYTHING, SOURCE="keep", GEMINI_MODEL=DOWN)
    late = described(app, "late.png", "red")
    app = app.restarted(GEMINI_MODEL=UP)
    done, undisposed = described(app, "done.png", "blue"), described(app, "undisposed.png", "green")
    rows("UPDATE uploads SET state = 'recorded' WHERE id = :id", id=undisposed.id)
    letter = app.upload("ana/letter.png", b"Dear diary")
    assert app.deliver(letter) == 200
    killed = app.upload("ana/killed.png", picture("white"))
    lease = app.services.leases.acquire(killed)
    app.services.leases.heartbeat(killed, lease.token, "open", 321)
    expire_leases()
    app.services.leases.acquire(killed)
    expire_leases()
    answer = app.analyze(data=picture("black"), query_string={"keep": "true", "user": "ana"})
    posted = answer.get_json()["id"]
    results = Results(os.environ["DATABASE_URL"], Path("log"))
    results._since = "-infinity"
    results._returned = set()

    assert add_unknown_keys(app) == {
        *("uploads.deaths", "analyses.result", "answers.answer", "events.data"),
        *("receipts.outputs", "receipts.code", "receipts.models"),
    }
    uploads = (late, done, undisposed, letter)
    assert [app.deliver(upload) for upload in uploads] == [200] * len(uploads)
    again = app.upload("ana/again.png", picture("blue"))
    assert app.deliver(again) == 200  # its response is cached
    reused = "SELECT (result->'usage'->'reused')::bool FROM analyses WHERE id = :id"
    assert rows(reused, id=again.id) == [[True]]
    rows("UPDATE events SET next_at = now()")
    counts = app.reconcile()
    assert {name: counts.get(name) for name in ("done", "described", "failed", "not_described")} == {
        "done": 1, "described": 1, "failed": None, "not_described": None,
    }  # fmt: skip
    assert counts["untold"]
    shows_all(app, [late.id, done.id, undisposed.id, killed.id, again.id, uuid.UUID(posted)])
    [[caption, unknown]] = rows(
        "SELECT description, result->'newer' IS NOT NULL FROM analyses WHERE id = :id", id=late.id
    )
    assert "stand-in" in caption
    assert unknown  # the newer revision's keys are kept

    answer = app.sweep.post("/", json={"redescribe": {"all": True, "mark": True}})
    assert answer.get_json()["pictures"] == 6
    assert app.reconcile()["described"] == 6
    add_unknown_keys(app)
    shows_all(app, [late.id])
    printed = io.StringIO()
    for each in results.new():
        outcome(Console(file=printed, width=200), Client(), each, app.pictures, "kept")
    assert printed.getvalue().count("Source: kept") == 6
    for id in (late.id, done.id, undisposed.id, killed.id, again.id, uuid.UUID(posted), letter.id):
        answer = app.delete(id)
        assert answer.status_code == 200, answer.text
        assert answer.get_json()["receipt"]["erased_at"]
    assert app.objects(app.pictures) == app.objects(app.quarantine) == app.objects(app.uploads) == {}


def shows_all(app: App, ids: list[uuid.UUID]) -> None:
    """Request every page of the gallery and every download, of all pictures."""
    paths = ["/", "/?q=stand-in", "/?state=rejected", "/?state=working", "/progress"]
    paths += [f"/picture/{id}" for id in ids]
    for path in paths:
        separator = "&" if "?" in path else "?"
        answer = app.gallery.get(f"/gallery{path}{separator}user=ana")
        assert answer.status_code == 200, (path, answer.text)
    for kind in ("csv", "jsonl", "zip", "receipts"):
        assert export(app, kind).data
    assert len(export(app, "jsonl").data.splitlines()) >= len(ids)
    uploads = rows("SELECT name, generation FROM uploads WHERE generation > 0")
    query = {"user": "ana", "upload": [f"{generation}:{name}" for name, generation in uploads]}
    headers = {"Accept": "application/json"}
    answer = app.gallery.get("/gallery/status", query_string=query, headers=headers)
    assert len(answer.get_json()["uploads"]) == len(uploads)
    for id in ids:
        assert app.gallery.get(f"/gallery/image/{id}/40?user=ana").status_code == 200
    assert app.stats("ana")["pictures_analyzed"] >= len(ids)
    assert app.progress.get("/?spending=1").status_code == 200


def test_unknown_keys_in_a_model_card_are_ignored(tmp_path: Path) -> None:
    shutil.copytree(MODEL_FOLDER, tmp_path / "model")
    known = Card.read(MODEL_FOLDER)
    path = tmp_path / "model" / "model.json"
    card = json.loads(path.read_text())
    files = {name: newer(file) for name, file in card["files"].items()}
    path.write_text(json.dumps(newer(card) | {"files": files}))
    assert Card.read(tmp_path / "model") == known


KINDS = (
    *(analysis.Analysis, analysis.Verdict, analysis.Provenance, analysis.Usage, analysis.Agreement),
    *(leases.Crash, GeminiResponse, Upload, Rendition, Source, PictureFacts, Tokens),
)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("stored", [None, {}, [], "text", 7, True, UNKNOWN, [UNKNOWN]])
def test_any_stored_json_becomes_a_record(kind: type, stored: object) -> None:
    assert isinstance(read(kind, stored), kind)


def test_missing_fields_and_fields_of_another_type_have_their_defaults() -> None:
    stored = {
        "id": "6f0e1a52-3b1c-5a63-9c4e-0a0a0a0a0a0a",
        "analyzed_at": "2026-01-31T12:00:00+01:00",
        "caption": "a dog",
        "description": None,
        "tags": ["dog", 7, "key"],
        "sources": {"blip": {"answered": True, "model": 7}, "other": "text"},
        "pictures": [{"label": "200", "object": "x", "width": 200, "bytes": "many"}, "x"],
        "agreement": {"score": 1, "contradictions": [["thing", "dog", "cat"], ["colour"]]},
        "usage": {"calls": True, "usd": 0.5},
        "memory": {"open": 12.5, "read": None, "claim": 3},
    }
    known = read(Analysis, stored)
    assert known.id == uuid.UUID(str(stored["id"]))
    assert known.analyzed_at == dt.datetime(2026, 1, 31, 11, tzinfo=dt.UTC)
    assert (known.caption, known.description, known.tags) == ("a dog", "", ("dog", "key"))
    assert known.sources == {"blip": Source(True)}
    assert known.pictures == (Rendition("200", "x", 200, 0, 0, "", ""),)
    assert known.agreement == analysis.Agreement(1, (("thing", "dog", "cat"),), False)
    assert known.usage == analysis.Usage(usd=0.5)
    assert known.memory == {"open": 12.5, "claim": 3}
    assert known.picture == PictureFacts("", 0, 0, 0, "")


def test_a_stored_record_is_read_as_it_was_written() -> None:
    whole = Analysis(
        id=uuid.uuid4(),
        upload={"bucket": "b", "name": "n", "generation": 1},
        user="ana",
        analyzed_at=dt.datetime.now(dt.UTC),
        time_zone="Europe/Madrid",
        picture=PictureFacts("PNG", 1, 2, 3, "pillow", "abc"),
        caption="a",
        description="b",
        alt_text="c",
        tags=("d",),
        text="e",
        sources={"blip": Source(True, "m", "v", "", -0.5, True, True, "a demonstration")},
        pictures=(Rendition("200", "o", 1, 2, 3, "image/webp", "md5"),),
        agreement=analysis.Agreement(None, (("thing", "x", "y"),), True),
        captions={"blip": "a"},
        safety=analysis.Verdict("low", ("other",), "r"),
        named_language="de",
        provenance={"blip": analysis.Provenance(("caption",), "m", "v", "", "now")},
        usage=analysis.Usage(1, 2, 3, 0.5, 1.5, True),
        memory={"open": 1.0},
        timings={"open": 1.0},
    )
    assert read(Analysis, json.loads(json.dumps(whole.to_json()))) == whole
    answer = GeminiResponse("t", "STOP", "", "v", (("HARM", "LOW"),), Tokens(1, 2))
    assert read(GeminiResponse, json.loads(json.dumps(asdict(answer)))) == answer
