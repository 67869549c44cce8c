"""What no delivery finishes, a sweep finds and finishes; what is done or in other hands it leaves alone."""

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
from tests.pipeline.test_healing import instance, lease_runs_out
from tests.support.app import NAME, PICTURE, App, Start, problem, rows, small_png

NOTHING = {"complete": True}
QUICK = {"SIZES": "40"}
ONE_DONE = {"found": 1, "done": 1, "complete": True}


def test_an_object_whose_event_never_came_is_found_and_analyzed_as_an_upload_is(start: Start) -> None:
    app = start()
    upload = app.upload(f"ana/{NAME}", PICTURE, tz="Europe/Madrid", album="spring")
    assert app.sweep() == ONE_DONE
    assert rows("SELECT id, time_zone FROM analyses") == [[upload.id, "Europe/Madrid"]]
    assert {blob.metadata["album"] for blob in app.objects(app.pictures).values()} == {"spring"}
    assert app.objects(app.uploads) == {}
    assert app.sweep() == NOTHING


def test_a_younger_object_than_the_lease_is_left_to_its_event(start: Start) -> None:
    app = start()
    app.upload("ana/a.png", small_png())
    answer = app.sweeper.post("/").get_json()
    counts = ("found", "done", "quarantined", "failed", "left", "stuck")
    assert answer == dict.fromkeys(counts, 0) | {"complete": True}


def test_a_killed_upload_is_finished_when_its_lease_has_run_out_and_not_before(start: Start) -> None:
    app = start()
    upload = app.upload("ana/a.png", small_png(), tz="Europe/Madrid")
    app.services.leases.acquire(upload)
    assert app.sweep() == NOTHING
    lease_runs_out()
    assert app.sweep() == ONE_DONE
    assert rows("SELECT id, time_zone FROM analyses") == [[upload.id, "Europe/Madrid"]]


@pytest.mark.parametrize("source", ["there", "gone"])
def test_a_source_that_was_recorded_but_never_disposed_of_is_finished(start: Start, source: str) -> None:
    app = start(SOURCE="keep")
    app.deliver(app.upload("ana/a.png", small_png()))
    app.deliver(app.upload("ana/b.png", b"no picture"))
    rows("UPDATE uploads SET state = CASE reason_code WHEN '' THEN 'recorded' ELSE 'rejected' END")
    lease_runs_out()
    for blob in app.objects(app.uploads).values():
        if source == "gone":
            blob.delete()
    app = app.restarted(SOURCE="delete")
    assert app.sweep() == {"found": 2, "done": 1, "quarantined": 1, "complete": True}
    assert app.objects(app.uploads) == {}
    assert rows("SELECT DISTINCT state FROM uploads") == [["done"]]


def test_a_leased_upload_whose_source_was_deleted_is_finished(start: Start) -> None:
    app = start()
    upload = app.upload("ana/a.png", small_png())
    app.services.leases.acquire(upload)
    lease_runs_out()
    app.objects(app.uploads)["ana/a.png"].delete()
    assert app.sweep() == ONE_DONE
    assert rows("SELECT state, reason_code FROM uploads") == [["done", "gone"]]
    assert app.objects(app.quarantine) == {}


def test_a_leased_upload_whose_source_was_replaced_is_finished_and_the_newer_one_analyzed(
    start: Start,
) -> None:
    app = start()
    older = app.upload("ana/a.png", small_png())
    app.services.leases.acquire(older)
    lease_runs_out()
    newer = app.upload("ana/a.png", small_png())
    assert app.sweep() == {"found": 2, "done": 2, "complete": True}
    assert rows("SELECT id FROM analyses") == [[newer.id]]
    assert rows("SELECT reason_code FROM uploads WHERE id = :id", id=older.id) == [["gone"]]


def test_of_a_posted_picture_what_is_recorded_is_finished_and_the_rest_ended(start: Start) -> None:
    app = start()
    app.analyze(data=small_png(), query_string={"keep": "true", "user": "ana"})
    rows("UPDATE uploads SET state = 'recorded'")
    app.services.leases.acquire(posted(PICTURE, "ana", ""))
    lease_runs_out()
    assert app.sweep() == {"found": 2, "done": 2, "complete": True}
    assert rows("SELECT state FROM uploads") == [["done"]]


def test_no_failure_of_one_keeps_the_others_waiting(start: Start) -> None:
    app = start(SOURCE="keep")
    lost = app.upload("ana/a.png", small_png())
    app.deliver(lost)
    rows("UPDATE uploads SET state = 'recorded'")
    lease_runs_out()
    app.objects(app.pictures)[f"{lost.id}/200.webp"].delete()
    app.upload("ana/b.png", b"no picture")
    app.upload("ana/c.png", small_png())
    app = app.restarted(SOURCE="delete")
    counted = {"found": 3, "failed": 1, "quarantined": 1, "done": 1, "complete": True}
    assert app.sweep() == counted
    assert list(app.objects(app.uploads)) == ["ana/a.png"]


def test_what_took_instances_down_is_quarantined_by_a_sweep_too(start: Start) -> None:
    app = start(MAX_DEATHS="1")
    upload = app.upload("ana/a.png", small_png())
    lease = app.services.leases.acquire(upload)
    app.services.leases.heartbeat(upload, lease.token, "open", 321)
    lease_runs_out()
    assert app.sweep() == {"found": 1, "quarantined": 1, "complete": True}
    assert len(app.objects(app.quarantine)) == 1


def test_done_sources_that_are_kept_cost_one_query_a_page_and_are_not_taken_again(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(buckets, "PAGE", 3)
    app = start(SOURCE="keep")
    for number in range(7):
        assert app.deliver(app.upload(f"ana/{number}.png", small_png())) == HTTPStatus.OK
    orphan = app.upload("ana/x.png", small_png())
    assert app.sweep() == ONE_DONE
    assert rows("SELECT state FROM uploads WHERE id = :id", id=orphan.id) == [["done"]]
    asked: list[str] = []
    query = Database.query

    def counted(database: Database, sql: str, **values: Any) -> list[list[Any]]:
        asked.append(sql)
        return query(database, sql, **values)

    monkeypatch.setattr(Database, "query", counted)
    assert app.sweep() == NOTHING
    # What is unfinished, where to begin, what is to be pruned, what is to be described; and 8 objects in two
    # parts are at most four pages of three.
    assert len(asked) <= 4 + 4
    assert rows("SELECT DISTINCT attempts FROM uploads") == [[1]]


def test_wherever_it_begins_every_object_is_seen_once(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(buckets, "PAGE", 2)
    app = start()
    names = [f"{user}/{number}.png" for user in ("ana", "bob", "zoé") for number in range(2)]
    for name in names:
        app.services.leases.acquire(Upload(app.uploads, name, 1, 1))  # any of these may be where it begins
        app.upload(name, small_png())
    assert app.sweep() == {"found": len(names), "done": len(names), "complete": True}


def test_names_that_are_not_chosen_are_left_alone(start: Start) -> None:
    app = start(INCLUDE="ana/*", EXCLUDE="*/skip/*")
    for name in ("bob/a.png", "ana/skip/a.png", "ana/"):
        app.upload(name, small_png())
    assert app.sweep() == NOTHING
    assert rows("SELECT count(*) FROM uploads") == [[0]]


def test_when_its_time_is_over_a_sweep_begins_no_other_and_says_so(start: Start) -> None:
    app = start(SWEEP_S="0")
    for name in ("ana/a.png", "ana/b.png"):
        app.services.leases.acquire(app.upload(name, small_png()))
    lease_runs_out()
    assert app.sweep() == {"found": 2, "left": 2}
    assert rows("SELECT DISTINCT state FROM uploads") == [["claimed"]]


def test_what_is_held_keeps_nothing_else_waiting_while_gemini_is_away(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    app, tried = start(SAFETY="low", GEMINI_MODEL="fault-404"), list[str]()

    def noted(upload: Upload, services: Services) -> None:
        tried.append(upload.name)
        pipeline.process(upload, services)

    monkeypatch.setattr(reconcile, "process", noted)
    held = [f"ana/{number}.png" for number in range(5)]
    for name in held:
        assert app.deliver(app.upload(name, small_png())) == HTTPStatus.OK
    app.services.leases.acquire(app.upload("ana/crashed.png", b"no picture"))
    rows("UPDATE uploads SET lease_until = now() - CASE state WHEN 'held' THEN interval '1 s' ELSE '0 s' END")
    app.upload("ana/orphan.png", b"no picture")
    assert app.sweep() == {"found": 7, "quarantined": 2, "left": 5, "complete": True}
    assert tried[:2] == ["ana/crashed.png", "ana/orphan.png"]
    assert len(tried) == 2 + reconcile.MAX_HELD_AGAIN
    assert app.sweep() == {"found": 2, "left": 2, "complete": True}
    assert sorted(tried[2:]) == held
    lease_runs_out()
    assert app.restarted(GEMINI_MODEL="gemini-3.5-flash-lite").sweep() == {
        "found": 5,
        "done": 5,
        "complete": True,
    }


def test_beside_deliveries_in_another_instance_each_upload_is_recorded_once(
    start: Start, tmp_path: Path
) -> None:
    app = start()
    uploads = [app.upload(f"ana/{number}.png", small_png()) for number in range(12)]
    with instance(tmp_path) as function:
        deliveries = threading.Thread(target=lambda: [function.deliver(each) for each in reversed(uploads)])
        deliveries.start()
        app.sweep()
        deliveries.join()
    app.sweep()
    assert rows("SELECT count(*), count(DISTINCT id) FROM analyses") == [[12, 12]]
    assert rows("SELECT DISTINCT state, attempts, deaths FROM uploads") == [["done", 1, []]]
    assert app.objects(app.uploads) == {}


@pytest.mark.parametrize("age", ["old", "-1", "nan", "1e99"])
def test_an_age_that_is_none_is_a_problem_with_a_remedy(start: Start, age: str) -> None:
    answer = start().sweeper.post("/", query_string={"min_age_s": age})
    assert problem(answer, 400)["code"] == "bad_age"


def test_a_sweep_is_posted(start: Start) -> None:
    answer = start().sweeper.get("/")
    assert problem(answer, 405)["code"] == "wrong_method"


def due_for_a_description(start: Start, **settings: str) -> App:
    """An instance of which one picture waits for Gemini, which is there again."""
    app = start(**QUICK, GEMINI_MODEL="fault-503", GEMINI_ATTEMPTS="1", **settings)
    assert app.deliver(app.upload("ana/due.png", small_png())) == HTTPStatus.OK
    return app.restarted(GEMINI_MODEL="gemini-3.5-flash-lite", SWEEP_S="5")


def test_a_listing_without_end_keeps_no_sweep_from_what_is_held_and_what_is_to_be_described(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = due_for_a_description(start)
    held = app.upload("ana/held.png", small_png())
    app.services.leases.acquire(held)
    rows("UPDATE uploads SET state = 'held', holder = NULL WHERE id = :id", id=held.id)
    lease_runs_out()

    def endless(*_: object) -> Iterator[list[Upload]]:
        while True:
            time.sleep(0.01)
            yield []

    monkeypatch.setattr(Buckets, "pages", endless)
    assert app.sweep() == {"found": 1, "done": 1, "described": 1}


def test_rows_that_take_all_the_time_keep_no_sweep_from_the_rest(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = due_for_a_description(start)
    slow = [app.upload(f"ana/slow-{number}.png", small_png()) for number in range(30)]
    for each in slow:
        app.services.leases.acquire(each)
    lease_runs_out()
    orphan = app.upload("ana/orphan.png", small_png())

    def process(upload: Upload, services: Services) -> None:
        if "slow" in upload.name:
            time.sleep(0.1)
            raise NotStored("It takes its time.")
        pipeline.process(upload, services)

    monkeypatch.setattr(reconcile, "process", process)
    answer = app.sweep()
    assert answer["failed"] + answer["left"] == len(slow)
    assert min(answer["failed"], answer["left"]) > 0
    assert (answer["done"], answer["described"]) == (1, 1)
    assert "complete" not in answer
    assert rows("SELECT state FROM uploads WHERE id = :id", id=orphan.id) == [["done"]]


@pytest.mark.parametrize("begun", ["deleted", "posted and recorded", "posted and abandoned"])
def test_what_is_begun_and_no_choice_of_objects_is_about_is_finished_whatever_they_are(
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
    lease_runs_out()
    app = app.restarted(INCLUDE="zoe/*", EXCLUDE="ana/*")
    assert app.sweep() == ONE_DONE
    assert rows("SELECT state FROM uploads") == ([] if "abandoned" in begun else [["done"]])
    assert (app.objects(app.pictures) == {}) == ("recorded" not in begun)
