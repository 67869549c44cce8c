"""Reconcile finishes what no delivery finished, and leaves alone what is done or leased."""

import threading
import time
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest

from dropcap import pipeline, reconcile
from dropcap.database.transactions import Database
from dropcap.domain.upload import Upload, posted
from dropcap.services import Services
from dropcap.storage import buckets
from dropcap.storage.buckets import Buckets
from dropcap.storage.gcs import NotStored
from tests.support.app import NAME, PICTURE, App, Start, expire_leases, problem, rows, small_png
from tests.support.instances import instance

NOTHING = {"complete": True}
QUICK = {"SIZES": "40"}
ONE_DONE = {"found": 1, "done": 1, "complete": True}


def test_an_object_whose_event_was_lost_is_analyzed_like_any_upload(start: Start) -> None:
    app = start()
    upload = app.upload(f"ana/{NAME}", PICTURE, tz="Europe/Madrid", album="spring")
    assert app.reconcile() == ONE_DONE
    assert rows("SELECT id, time_zone FROM analyses") == [[upload.id, "Europe/Madrid"]]
    assert {blob.metadata["album"] for blob in app.objects(app.pictures).values()} == {"spring"}
    assert app.objects(app.uploads) == {}
    assert app.reconcile() == NOTHING


def test_an_object_younger_than_the_lease_is_left_to_its_event(start: Start) -> None:
    app = start()
    app.upload("ana/a.png", small_png())
    answer = app.sweep.post("/").get_json()
    counts = ("found", "done", "quarantined", "failed", "left", "stuck")
    assert answer == dict.fromkeys(counts, 0) | {"complete": True}


def test_a_crashed_upload_is_finished_after_its_lease_expires_and_not_before(start: Start) -> None:
    app = start()
    upload = app.upload("ana/a.png", small_png(), tz="Europe/Madrid")
    app.services.leases.acquire(upload)
    assert app.reconcile() == NOTHING
    expire_leases()
    assert app.reconcile() == ONE_DONE
    assert rows("SELECT id, time_zone FROM analyses") == [[upload.id, "Europe/Madrid"]]


@pytest.mark.parametrize("source", ["stored", "gone"])
def test_a_recorded_upload_whose_source_was_not_disposed_of_is_finished(start: Start, source: str) -> None:
    app = start(SOURCE="keep")
    app.deliver(app.upload("ana/a.png", small_png()))
    app.deliver(app.upload("ana/b.png", b"no picture"))
    rows("UPDATE uploads SET state = CASE reason_code WHEN '' THEN 'recorded' ELSE 'rejected' END")
    expire_leases()
    for blob in app.objects(app.uploads).values():
        if source == "gone":
            blob.delete()
    app = app.restarted(SOURCE="delete")
    assert app.reconcile() == {"found": 2, "done": 1, "quarantined": 1, "complete": True}
    assert app.objects(app.uploads) == {}
    assert rows("SELECT DISTINCT state FROM uploads") == [["done"]]


def test_an_upload_whose_source_was_deleted_is_finished(start: Start) -> None:
    app = start()
    upload = app.upload("ana/a.png", small_png())
    app.services.leases.acquire(upload)
    expire_leases()
    app.objects(app.uploads)["ana/a.png"].delete()
    assert app.reconcile() == ONE_DONE
    assert rows("SELECT state, reason_code FROM uploads") == [["done", "gone"]]
    assert app.objects(app.quarantine) == {}


def test_an_upload_whose_source_was_replaced_is_finished_and_the_newer_one_analyzed(start: Start) -> None:
    app = start()
    older = app.upload("ana/a.png", small_png())
    app.services.leases.acquire(older)
    expire_leases()
    newer = app.upload("ana/a.png", small_png())
    assert app.reconcile() == {"found": 2, "done": 2, "complete": True}
    assert rows("SELECT id FROM analyses") == [[newer.id]]
    assert rows("SELECT reason_code FROM uploads WHERE id = :id", id=older.id) == [["gone"]]


def test_a_posted_picture_is_finished_if_it_is_recorded_and_removed_otherwise(start: Start) -> None:
    app = start()
    app.analyze(data=small_png(), query_string={"keep": "true", "user": "ana"})
    rows("UPDATE uploads SET state = 'recorded'")
    app.services.leases.acquire(posted(PICTURE, "ana", ""))
    expire_leases()
    assert app.reconcile() == {"found": 2, "done": 2, "complete": True}
    assert rows("SELECT state FROM uploads") == [["done"]]


def test_one_failing_upload_does_not_block_the_others(start: Start) -> None:
    app = start(SOURCE="keep")
    lost = app.upload("ana/a.png", small_png())
    app.deliver(lost)
    rows("UPDATE uploads SET state = 'recorded'")
    expire_leases()
    app.objects(app.pictures)[f"{lost.id}/200.webp"].delete()
    app.upload("ana/b.png", b"no picture")
    app.upload("ana/c.png", small_png())
    app = app.restarted(SOURCE="delete")
    counted = {"found": 3, "failed": 1, "quarantined": 1, "done": 1, "complete": True}
    assert app.reconcile() == counted
    assert list(app.objects(app.uploads)) == ["ana/a.png"]


def test_an_upload_that_crashed_instances_is_quarantined(start: Start) -> None:
    app = start(MAX_DEATHS="1")
    upload = app.upload("ana/a.png", small_png())
    lease = app.services.leases.acquire(upload)
    app.services.leases.heartbeat(upload, lease.token, "open", 321)
    expire_leases()
    assert app.reconcile() == {"found": 1, "quarantined": 1, "complete": True}
    assert len(app.objects(app.quarantine)) == 1


def test_kept_sources_that_are_done_cost_one_query_a_page_and_are_not_processed_again(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(buckets, "PAGE", 3)
    app = start(SOURCE="keep")
    for number in range(7):
        assert app.deliver(app.upload(f"ana/{number}.png", small_png())) == HTTPStatus.OK
    orphan = app.upload("ana/x.png", small_png())
    assert app.reconcile() == ONE_DONE
    assert rows("SELECT state FROM uploads WHERE id = :id", id=orphan.id) == [["done"]]
    queries: list[str] = []
    query = Database.query

    def counted(database: Database, sql: str, **values: Any) -> list[list[Any]]:
        queries.append(sql)
        return query(database, sql, **values)

    monkeypatch.setattr(Database, "query", counted)
    assert app.reconcile() == NOTHING
    # Unfinished rows, the starting point, pruning, deferred descriptions; and at most four pages of three
    # objects, as 8 objects are listed in two parts.
    assert len(queries) <= 4 + 4
    assert rows("SELECT DISTINCT attempts FROM uploads") == [[1]]


def test_objects_are_listed_once_from_any_starting_point(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(buckets, "PAGE", 2)
    app = start()
    names = [f"{user}/{number}.png" for user in ("ana", "bob", "zoé") for number in range(2)]
    for name in names:
        app.services.leases.acquire(Upload(app.uploads, name, 1, 1))  # a possible starting point
        app.upload(name, small_png())
    assert app.reconcile() == {"found": len(names), "done": len(names), "complete": True}


def test_excluded_objects_are_ignored(start: Start) -> None:
    app = start(INCLUDE="ana/*", EXCLUDE="*/skip/*")
    for name in ("bob/a.png", "ana/skip/a.png", "ana/"):
        app.upload(name, small_png())
    assert app.reconcile() == NOTHING
    assert rows("SELECT count(*) FROM uploads") == [[0]]


def test_no_upload_is_started_after_sweep_s_and_the_answer_is_incomplete(start: Start) -> None:
    app = start(SWEEP_S="0")
    for name in ("ana/a.png", "ana/b.png"):
        app.services.leases.acquire(app.upload(name, small_png()))
    expire_leases()
    assert app.reconcile() == {"found": 2, "left": 2}
    assert rows("SELECT DISTINCT state FROM uploads") == [["claimed"]]


def test_held_uploads_do_not_block_others_while_gemini_is_unavailable(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    app, processed = start(SAFETY="low", GEMINI_MODEL="fault-404"), list[str]()

    def recorded(upload: Upload, services: Services) -> None:
        processed.append(upload.name)
        pipeline.process(upload, services)

    monkeypatch.setattr(reconcile, "process", recorded)
    held = [f"ana/{number}.png" for number in range(5)]
    for name in held:
        assert app.deliver(app.upload(name, small_png())) == HTTPStatus.OK
    app.services.leases.acquire(app.upload("ana/crashed.png", b"no picture"))
    rows("UPDATE uploads SET lease_until = now() - CASE state WHEN 'held' THEN interval '1 s' ELSE '0 s' END")
    app.upload("ana/orphan.png", b"no picture")
    assert app.reconcile() == {"found": 7, "quarantined": 2, "left": 5, "complete": True}
    assert processed[:2] == ["ana/crashed.png", "ana/orphan.png"]
    assert len(processed) == 2 + reconcile.MAX_HELD_AGAIN
    assert app.reconcile() == {"found": 2, "left": 2, "complete": True}
    assert sorted(processed[2:]) == held
    expire_leases()
    app = app.restarted(GEMINI_MODEL="gemini-3.5-flash-lite")
    assert app.reconcile() == {"found": 5, "done": 5, "complete": True}


def test_reconcile_and_concurrent_deliveries_record_each_upload_once(start: Start, tmp_path: Path) -> None:
    app = start()
    uploads = [app.upload(f"ana/{number}.png", small_png()) for number in range(12)]
    with instance(tmp_path) as function:
        deliveries = threading.Thread(target=lambda: [function.deliver(each) for each in reversed(uploads)])
        deliveries.start()
        app.reconcile()
        deliveries.join()
    app.reconcile()
    assert rows("SELECT count(*), count(DISTINCT id) FROM analyses") == [[12, 12]]
    assert rows("SELECT DISTINCT state, attempts, deaths FROM uploads") == [["done", 1, []]]
    assert app.objects(app.uploads) == {}


@pytest.mark.parametrize("age", ["old", "-1", "nan", "1e99"])
def test_an_invalid_age_is_a_problem_with_a_remedy(start: Start, age: str) -> None:
    answer = start().sweep.post("/", query_string={"min_age_s": age})
    assert problem(answer, 400)["code"] == "bad_age"


def with_deferred_description(start: Start, sweep_s: str = "5", **settings: str) -> App:
    """Return an instance with one deferred description, after Gemini is available again."""
    app = start(**QUICK, GEMINI_MODEL="fault-503", GEMINI_ATTEMPTS="1", **settings)
    assert app.deliver(app.upload("ana/due.png", small_png())) == HTTPStatus.OK
    return app.restarted(GEMINI_MODEL="gemini-3.5-flash-lite", SWEEP_S=sweep_s)


def test_an_endless_listing_does_not_block_held_uploads_and_deferred_descriptions(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = with_deferred_description(start, sweep_s="12")  # of which descriptions have 1.2 s
    held = app.upload("ana/held.png", small_png())
    app.services.leases.acquire(held)
    rows("UPDATE uploads SET state = 'held', holder = NULL WHERE id = :id", id=held.id)
    expire_leases()

    def endless(*_: object) -> Iterator[list[Upload]]:
        while True:
            time.sleep(0.01)
            yield []

    monkeypatch.setattr(Buckets, "pages", endless)
    assert app.reconcile() == {"found": 1, "done": 1, "described": 1}


def test_slow_rows_do_not_block_objects_and_deferred_descriptions(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = with_deferred_description(start)
    slow = [app.upload(f"ana/slow-{number}.png", small_png()) for number in range(30)]
    for each in slow:
        app.services.leases.acquire(each)
    expire_leases()
    orphan = app.upload("ana/orphan.png", small_png())

    def process(upload: Upload, services: Services) -> None:
        if "slow" in upload.name:
            time.sleep(0.1)
            raise NotStored("It takes its time.")
        pipeline.process(upload, services)

    monkeypatch.setattr(reconcile, "process", process)
    answer = app.reconcile()
    assert answer["failed"] + answer["left"] == len(slow)
    assert min(answer["failed"], answer["left"]) > 0
    assert (answer["done"], answer["described"]) == (1, 1)
    assert "complete" not in answer
    assert rows("SELECT state FROM uploads WHERE id = :id", id=orphan.id) == [["done"]]


@pytest.mark.parametrize("begun", ["deleted", "posted and recorded", "posted and abandoned"])
def test_deletions_and_posted_pictures_are_finished_whatever_include_and_exclude_choose(
    start: Start, begun: str
) -> None:
    app = start(**QUICK)
    if begun == "deleted":
        app.deliver(app.upload("ana/a.png", small_png()))
        rows("UPDATE uploads SET state = 'deleted', reason_code = 'deleted'")
        rows("DELETE FROM analyses")
    else:
        app.analyze(data=small_png(), query_string={"keep": "true", "user": "ana"})
        rows("UPDATE uploads SET state = :state", state="recorded" if "recorded" in begun else "claimed")
    expire_leases()
    app = app.restarted(INCLUDE="zoe/*", EXCLUDE="ana/*")
    assert app.reconcile() == ONE_DONE
    assert rows("SELECT state FROM uploads") == ([] if "abandoned" in begun else [["done"]])
    assert (app.objects(app.pictures) == {}) == ("recorded" not in begun)
