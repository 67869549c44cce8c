"""An unfinished posted picture is removed, because only its poster has the bytes."""

from http import HTTPStatus
from typing import Any

import pytest
from werkzeug.test import TestResponse

from dropcap import erasure
from dropcap.domain.analysis import Rendition
from dropcap.domain.upload import posted
from dropcap.storage.buckets import Buckets
from dropcap.storage.gcs import NotStored
from tests.support.app import App, Start, expire_leases, log_lines, problem, rows, small_png

QUICK = {"SIZES": "40,20", "GEMINI_API_KEY": ""}
DATA = small_png()
UPLOAD = posted(DATA, "ana", "")


def post(app: App) -> TestResponse:
    return app.analyze(data=DATA, query_string={"keep": "true", "user": "ana"})


def wall(app: App) -> str:
    return app.gallery.get("/gallery/?user=ana").text


@pytest.fixture
def failed(start: Start) -> App:
    """An instance that failed when it published the second of two renditions."""
    app = start(**QUICK)
    publish, calls = Buckets.publish, []

    def at_the_second(*arguments: Any) -> Rendition:
        calls.append(arguments)
        if len(calls) == 2:
            raise NotStored("The bucket is unavailable.")
        return publish(*arguments)

    with pytest.MonkeyPatch.context() as breaking:
        breaking.setattr(Buckets, "publish", at_the_second)
        assert problem(post(app), 503)["code"] == "try_again"
    assert len(app.objects(app.pictures)) == 1
    return app


def nothing_is_left(app: App) -> None:
    assert app.objects(app.pictures) == {}
    assert rows("SELECT count(*) FROM uploads") == [[0]]
    assert str(UPLOAD.id) not in wall(app)


def test_an_error_is_reported_immediately_and_reconcile_removes_all_traces(failed: App) -> None:
    shown = wall(failed)
    assert "not_finished" in shown
    assert "Post it again." in shown
    assert "pending working" not in shown
    assert failed.reconcile() == {"found": 1, "done": 1, "complete": True}
    nothing_is_left(failed)
    assert failed.reconcile() == {"complete": True}


def test_a_user_can_delete_an_unfinished_picture_before_reconcile_runs(failed: App) -> None:
    assert failed.delete(UPLOAD.id).status_code == HTTPStatus.SEE_OTHER
    nothing_is_left(failed)


@pytest.mark.parametrize("reconciled", [False, True])
def test_posting_the_same_bytes_again_succeeds_exactly_once(failed: App, reconciled: bool) -> None:
    if reconciled:
        failed.reconcile()
    answers = [post(failed) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [HTTPStatus.OK] * 2
    assert answers[0].get_json()["id"] == answers[1].get_json()["id"] == str(UPLOAD.id)
    assert failed.reconcile() == {"complete": True}
    assert rows("SELECT state, attempts FROM uploads") == [["done", 1 if reconciled else 2]]
    assert rows("SELECT count(*) FROM analyses") == [[1]]
    assert len(failed.objects(failed.pictures)) == 2
    assert failed.stats("ana")["pictures_analyzed"] == 1


def test_an_upload_in_work_is_shown_as_such_until_its_lease_expires(start: Start) -> None:
    app = start(**QUICK)
    app.services.leases.acquire(UPLOAD)
    assert app.reconcile() == {"complete": True}
    assert "pending working" in wall(app)
    assert problem(app.delete(UPLOAD.id), 409)["code"] == "still_in_work"
    expire_leases()
    assert app.reconcile() == {"found": 1, "done": 1, "complete": True}
    nothing_is_left(app)


def test_an_upload_that_crashed_its_instance_is_recorded_and_can_be_deleted(start: Start) -> None:
    app = start(**QUICK)
    lease = app.services.leases.acquire(UPLOAD)
    app.services.leases.heartbeat(UPLOAD, lease.token, "open", 321)
    expire_leases()
    assert app.reconcile() == {"found": 1, "done": 1, "complete": True}
    assert app.reconcile() == {"complete": True}
    assert rows("SELECT jsonb_array_length(deaths) FROM uploads") == [[1]]
    assert "not_finished" in wall(app)
    assert app.delete(UPLOAD.id).status_code == HTTPStatus.SEE_OTHER
    nothing_is_left(app)


def test_while_another_worker_has_the_lease_a_post_is_answered_with_409_and_retry_after(
    start: Start, capfd: pytest.CaptureFixture[str]
) -> None:
    app = start(**QUICK)
    app.services.leases.acquire(UPLOAD)
    capfd.readouterr()
    answer = post(app)
    assert problem(answer, 409)["code"] == "being_analyzed"
    assert int(answer.headers["Retry-After"]) > 0
    logged = log_lines(capfd)
    assert {line["severity"] for line in logged} == {"INFO"}
    assert not any("stack_trace" in line for line in logged)


def test_a_post_during_a_deletion_is_answered_with_409_and_its_retry_succeeds(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = start(**QUICK)
    assert post(app).status_code == HTTPStatus.OK

    def broken(*_: Any) -> None:
        raise NotStored("The bucket is unavailable.")

    with monkeypatch.context() as breaking:
        breaking.setattr(erasure, "erase", broken)
        assert problem(app.delete(UPLOAD.id), 503)["code"] == "try_again"
    assert problem(post(app), 409)["code"] == "being_analyzed"
    assert app.objects(app.pictures) == {}
    assert post(app).status_code == HTTPStatus.OK
    assert len(app.objects(app.pictures)) == 2


def test_a_rejection_removes_renditions_of_a_crashed_delivery(start: Start) -> None:
    app = start(**QUICK, MAX_DEATHS="1")
    lease = app.services.leases.acquire(UPLOAD)
    app.services.leases.heartbeat(UPLOAD, lease.token, "encode", 321)
    app.storage.bucket(app.pictures).blob(f"{UPLOAD.id}/40.webp").upload_from_string(b"half")
    expire_leases()
    assert problem(post(app), 422)["code"] == "took_the_instance_down"
    assert app.objects(app.pictures) == {}
