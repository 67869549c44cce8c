"""A posted picture that is not finished: only who posts it again has its bytes, so nothing waits for it."""

import json
from http import HTTPStatus
from typing import Any
from urllib.parse import urlsplit

import pytest
from werkzeug.test import TestResponse

from dropcap import erasure
from dropcap.domain.analysis import Rendition
from dropcap.domain.upload import posted
from dropcap.storage.buckets import Buckets
from dropcap.storage.gcs import NotStored
from tests.chaos.proxy import Fault, Proxy
from tests.pipeline.test_healing import lease_runs_out
from tests.support.app import App, Start, problem, rows, small_png

QUICK = {"SIZES": "40,20", "GEMINI_API_KEY": ""}
DATA = small_png()
UPLOAD = posted(DATA, "ana", "")


def post(app: App) -> TestResponse:
    return app.analyze(data=DATA, query_string={"keep": "true", "user": "ana"})


def wall(app: App) -> str:
    return app.gallery.get("/gallery/?user=ana").text


def delete(app: App) -> TestResponse:
    headers = {"Sec-Fetch-Site": "same-origin", "Accept": "application/json"}
    return app.gallery.post(f"/gallery/picture/{UPLOAD.id}/delete?user=ana", headers=headers)


@pytest.fixture
def failed(start: Start) -> App:
    """An instance that met a fault at the second of the pictures that it published."""
    app = start(**QUICK)
    publish, calls = Buckets.publish, []

    def at_the_second(*arguments: Any) -> Rendition:
        calls.append(arguments)
        if len(calls) == 2:
            raise NotStored("The bucket is away.")
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


def test_a_fault_is_shown_at_once_and_the_sweep_removes_all_that_there_was(failed: App) -> None:
    shown = wall(failed)
    assert "not_finished" in shown
    assert "Post it again." in shown
    assert "pending working" not in shown
    assert failed.sweep() == {"found": 1, "done": 1, "complete": True}
    nothing_is_left(failed)
    assert failed.sweep() == {"complete": True}


def test_its_user_can_delete_it_before_the_sweep_comes(failed: App) -> None:
    assert delete(failed).status_code == HTTPStatus.SEE_OTHER
    nothing_is_left(failed)


@pytest.mark.parametrize("swept", [False, True])
def test_who_posts_the_same_bytes_again_succeeds_exactly_once(failed: App, swept: bool) -> None:
    if swept:
        failed.sweep()
    answers = [post(failed) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [HTTPStatus.OK] * 2
    assert answers[0].get_json()["id"] == answers[1].get_json()["id"] == str(UPLOAD.id)
    assert failed.sweep() == {"complete": True}
    assert rows("SELECT state, attempts FROM uploads") == [["done", 1 if swept else 2]]
    assert rows("SELECT count(*) FROM analyses") == [[1]]
    assert len(failed.objects(failed.pictures)) == 2
    assert failed.stats("ana")["pictures_analyzed"] == 1


def test_what_is_in_work_is_shown_so_and_ended_when_its_lease_is_over(start: Start) -> None:
    app = start(**QUICK)
    app.services.leases.acquire(UPLOAD)
    assert app.sweep() == {"complete": True}
    assert "pending working" in wall(app)
    assert problem(delete(app), 409)["code"] == "still_in_work"
    lease_runs_out()
    assert app.sweep() == {"found": 1, "done": 1, "complete": True}
    nothing_is_left(app)


def test_one_that_took_its_instance_down_is_remembered_and_its_user_can_delete_it(start: Start) -> None:
    app = start(**QUICK)
    lease = app.services.leases.acquire(UPLOAD)
    app.services.leases.heartbeat(UPLOAD, lease.token, "open", 321)
    lease_runs_out()
    assert app.sweep() == {"found": 1, "done": 1, "complete": True}
    assert app.sweep() == {"complete": True}
    assert rows("SELECT jsonb_array_length(deaths) FROM uploads") == [[1]]
    assert "not_finished" in wall(app)
    assert delete(app).status_code == HTTPStatus.SEE_OTHER
    nothing_is_left(app)


def test_while_somebody_else_is_at_work_it_is_asked_for_later_and_nothing_is_an_error(
    start: Start, capfd: pytest.CaptureFixture[str]
) -> None:
    app = start(**QUICK)
    app.services.leases.acquire(UPLOAD)
    capfd.readouterr()
    answer = post(app)
    assert problem(answer, 409)["code"] == "being_analyzed"
    assert int(answer.headers["Retry-After"]) > 0
    logged = [json.loads(line) for line in capfd.readouterr().out.splitlines() if line.startswith("{")]
    assert {line["severity"] for line in logged} == {"INFO"}
    assert not any("stack_trace" in line for line in logged)


def test_who_posts_it_while_it_is_being_deleted_is_to_come_again_and_then_succeeds(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = start(**QUICK)
    assert post(app).status_code == HTTPStatus.OK

    def broken(*_: Any) -> None:
        raise NotStored("The bucket is away.")

    with monkeypatch.context() as breaking:
        breaking.setattr(erasure, "finish", broken)
        assert problem(delete(app), 503)["code"] == "try_again"
    assert problem(post(app), 409)["code"] == "being_analyzed"
    assert app.objects(app.pictures) == {}
    assert post(app).status_code == HTTPStatus.OK
    assert len(app.objects(app.pictures)) == 2


def test_a_rejected_one_leaves_nothing_of_what_one_who_died_had_published(start: Start) -> None:
    app = start(**QUICK, MAX_DEATHS="1")
    lease = app.services.leases.acquire(UPLOAD)
    app.services.leases.heartbeat(UPLOAD, lease.token, "publish", 321)
    app.storage.bucket(app.pictures).blob(f"{UPLOAD.id}/40.webp").upload_from_string(b"half")
    lease_runs_out()
    assert problem(post(app), 422)["code"] == "took_the_instance_down"
    assert app.objects(app.pictures) == {}


def test_a_database_that_is_away_is_one_line_in_the_log(
    start: Start, database_url: str, capfd: pytest.CaptureFixture[str]
) -> None:
    port = urlsplit(database_url).port
    assert port
    with Proxy(port) as proxy:
        app = start(**QUICK, DATABASE_URL=database_url.replace(f":{port}", f":{proxy.port}"))
        capfd.readouterr()
        proxy.set(Fault("refuse"))
        answers = [post(app), app.progress.get("/?user=ana"), app.sweeper.post("/")]
        for answer in answers:
            assert problem(answer, 503)["code"] == "try_again"
            assert answer.headers["Retry-After"]
    logged = [json.loads(line) for line in capfd.readouterr().out.splitlines() if line.startswith("{")]
    errors = [line for line in logged if line["severity"] == "ERROR"]
    assert len(errors) == len(answers)
    for line in errors:
        assert line["problem"].startswith("PostgreSQL does not answer")
        assert "stack_trace" not in line
