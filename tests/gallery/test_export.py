"""Users can export all their pictures, whatever their names and number."""

import csv
import datetime as dt
import io
import json
import re
import tracemalloc
import uuid
import zipfile
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from werkzeug.test import TestResponse

from dropcap.database.connection import DatabaseUnavailable, connect_to_schema
from dropcap.gallery.archive import Archive
from tests.support.app import App, Start, rows, small_png

PAGES = 450  # pictures: more than two pages of rows
HOSTILE = (
    *(
        "../../etc/passwd",
        "/absolute.png",
        "C:\\Windows\\win.ini",
        "CON.png",
        "a\nb\x1b[31m.png",
        "\u202egnp.exe",
    ),
    *(".. ", "/", "x" * 900 + ".png", "雨" * 300, "same.png", "same.png", "Same.png"),
)


def record(number: int = 1, user: str = "ana", name: str = "beach.png", **facts: Any) -> list[uuid.UUID]:
    """Record pictures in the database only, the last one the newest; `facts` go into the result."""
    ids = [uuid.uuid4() for _ in range(number)]
    result = {"upload": {"bucket": "uploads", "name": f"{user}/{name}", "generation": 1}} | facts
    rows(
        "INSERT INTO analyses (id, user_id, analyzed_at, caption, alt_text, description, tags, result) "
        "SELECT id, :user, timestamptz '2026-01-31Z' + n * interval '1 minute', :caption, 'A beach', "
        "repeat('Waves. ', 60), '{sea,sand}', CAST(:result AS jsonb) "
        "FROM unnest(CAST(:ids AS uuid[])) WITH ORDINALITY AS new (id, n)",
        ids=[str(each) for each in ids],
        user=user,
        caption=facts.get("caption", "the sea"),
        result=json.dumps(result),
    )
    return ids


def published(app: App, data: bytes, times: int = 1) -> dict[str, Any]:
    """Store an object in the pictures bucket; return it as facts of a picture."""
    name = f"{uuid.uuid4()}/1600.webp"
    app.storage.bucket(app.pictures).blob(name).upload_from_string(data, content_type="image/webp")
    facts = {"label": "1600", "object": name, "width": 60, "height": 40, "bytes": len(data)}
    return {"pictures": [facts | {"content_type": "image/webp", "md5": ""}] * times}


def export(app: App, kind: str, user: str = "ana", **options: Any) -> TestResponse:
    answer = app.gallery.get(f"/gallery/export/{kind}", query_string={"user": user}, **options)
    assert answer.status_code == 200
    return answer


def table(data: bytes) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(data.decode("utf-8-sig"), newline=""), strict=True))


def unpacked(app: App, user: str = "ana") -> zipfile.ZipFile:
    archive = zipfile.ZipFile(io.BytesIO(export(app, "zip", user).data))
    assert archive.testzip() is None
    return archive


def test_a_user_without_pictures_gets_files_without_pictures(start: Start) -> None:
    app = start()
    record(user="bob")
    assert table(export(app, "csv").data) == []
    assert export(app, "jsonl").data == b""
    assert unpacked(app).namelist() == ["index.csv"]


def test_the_file_name_contains_the_date(start: Start) -> None:
    answer = export(start(), "jsonl")
    pattern = r'attachment; filename="dropcap-\d{4}-\d\d-\d\d\.jsonl"'
    assert re.fullmatch(pattern, answer.headers["Content-Disposition"])


def test_a_picture_is_exported_with_all_its_facts(start: Start) -> None:
    app = start()
    upload = app.upload("ana/beach.png", small_png(), tz="Europe/Madrid")
    app.deliver(upload)
    rows("UPDATE analyses SET own_caption = 'Ours', edited_at = now()")
    [row] = table(export(app, "csv").data)
    [line] = export(app, "jsonl").data.splitlines()
    known = json.loads(line)
    assert (row["id"], row["name"], row["caption"]) == (str(upload.id), "beach.png", "Ours")
    assert (known["id"], known["caption"]) == (str(upload.id), "Ours")
    assert row["model_caption"] == known["model_caption"] != "Ours"
    assert (row["width"], row["height"], row["format"]) == ("60", "40", "PNG")
    assert sorted(row["published"].split()) == sorted(app.objects(app.pictures))
    assert known["sources"]["blip"]["answered"]
    assert set(known["memory"]) >= {"open", "caption"} <= set(known["timings"])
    archive = unpacked(app)
    picture, sidecar, index = archive.namelist()
    assert index == "index.csv"
    assert sidecar == picture.removesuffix(".webp") + ".json"
    assert "beach" in picture
    largest = f"{upload.id}/{app.services.settings.sizes[0]}.webp"
    assert archive.read(picture) == app.objects(app.pictures)[largest].download_as_bytes()
    assert json.loads(archive.read(sidecar)) == known
    assert table(archive.read(index)) == [{"file": picture} | row]


def test_an_export_of_several_pages_has_every_picture_once_newest_first(start: Start) -> None:
    app = start()
    ids = [str(each) for each in reversed(record(PAGES))]
    record(3, user="bob")
    assert [row["id"] for row in table(export(app, "csv").data)] == ids
    assert [json.loads(line)["id"] for line in export(app, "jsonl").data.splitlines()] == ids


@pytest.mark.parametrize("start_of_cell", ["=", "+", "-", "@", "\t", "\r", "\uff1d"])
def test_no_cell_can_be_a_formula(start: Start, start_of_cell: str) -> None:
    app = start()
    record(caption=f'{start_of_cell}HYPERLINK("https://evil.example")')
    [row] = table(export(app, "csv").data)
    assert row["caption"].startswith("'" + start_of_cell)


def test_every_picture_gets_a_unique_file_name_within_the_folder(start: Start) -> None:
    app = start()
    facts = published(app, b"picture")
    for name in HOSTILE:
        record(name=name, **facts)
    names = unpacked(app).namelist()
    assert len({name.casefold() for name in names}) == 2 * len(HOSTILE) + 1
    for name in names[:-1]:
        assert name.startswith("2026-01-31 ")
        assert name.isprintable()
        assert not {*name} & {*'/\\:*?"<>|'}
        assert len(name.encode()) <= 255


def test_a_missing_picture_is_omitted_and_its_file_is_empty_in_the_index(start: Start) -> None:
    app = start()
    record(name="stored.png", **published(app, b"picture"))
    gone = published(app, b"picture")
    record(name="gone.png", **gone)
    record(name="never.png")
    app.storage.bucket(app.pictures).blob(gone["pictures"][0]["object"]).delete()
    archive = unpacked(app)
    files = {row["name"]: row["file"] for row in table(archive.read("index.csv"))}
    assert files == {"gone.png": "", "never.png": "", "stored.png": archive.namelist()[0]}
    assert len(archive.namelist()) == 3


@pytest.mark.parametrize("kind", ["csv", "jsonl", "zip"])
def test_a_failure_midway_aborts_the_download(start: Start, database_url: str, kind: str) -> None:
    app = start(DATABASE_TIMEOUT_S="0.3")
    record(PAGES, **(published(app, bytes(1000)) if kind == "zip" else {}))
    parts = export(app, kind, buffered=False).iter_encoded()
    next(parts)
    with closing(connect_to_schema(database_url)) as other:
        other.run("BEGIN; LOCK TABLE analyses IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(DatabaseUnavailable):
            list(parts)


def test_a_large_export_needs_no_more_memory_than_a_small_one(start: Start) -> None:
    app = start()
    record(40, **published(app, bytes(2_000_000)))
    tracemalloc.start()
    sent = sum(map(len, export(app, "zip", buffered=False).iter_encoded()))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert sent > 80_000_000
    assert peak < 10_000_000


def test_a_zip_may_have_more_than_65535_files(tmp_path: Path) -> None:
    archive, numbers = Archive(), range(65_600)
    with (tmp_path / "a.zip").open("wb") as file:
        for number in numbers:
            with archive.entry(f"{number} é", dt.datetime(2026, 1, 31, 23, 59, 58), 1) as entry:
                entry.write(b"x")
            file.write(archive.take())
        archive.close()
        file.write(archive.take())
    with zipfile.ZipFile(tmp_path / "a.zip") as read:
        assert read.namelist() == [f"{number} é" for number in numbers]
        last = read.infolist()[-1]
        assert (read.read(last), last.date_time) == (b"x", (2026, 1, 31, 23, 59, 58))
