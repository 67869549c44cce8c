"""The next delivery finishes an upload after a crash; a picture that keeps crashing is quarantined."""

import os
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from http import HTTPStatus
from pathlib import Path

import pytest

from dropcap.database.connection import connect_to_schema
from dropcap.domain.upload import posted
from dropcap.storage.buckets import Buckets
from tests.memory.limit import kernel_limit
from tests.support.app import Start, at_next_call, expire_leases, problem, rows, small_png
from tests.support.instances import CRASHED, WAIT_S, instance

OUTCOME = "SELECT DISTINCT state, reason_code FROM uploads"
TOOK_DOWN = [["done", "took_the_instance_down"]]
STEPS = {
    "": ("acquire_new", "read", "open_picture", "publish", "record", "check", "dispose", "finish"),
    "not_a_picture": ("quarantine", "reject", "dispose", "finish"),
}


@pytest.mark.parametrize("code", STEPS, ids=["analysis", "rejection"])
def test_the_next_delivery_finishes_after_a_crash_at_any_step(
    start: Start, tmp_path: Path, code: str
) -> None:
    app = start(**{"GEMINI_API_KEY": ""} if code else {})
    with instance(tmp_path) as function:
        for step in STEPS[code]:
            upload = app.upload("ana/a.png", b"no picture" if code else small_png())
            function.crash_after(step, upload)
            expire_leases()
            assert function.deliver(upload) == HTTPStatus.OK, step
            assert app.objects(app.uploads) == {}, step
            published = [name for name in app.objects(app.pictures) if name.startswith(str(upload.id))]
            assert len(published) == (0 if code else 3)
    assert rows(OUTCOME) == [["done", code]]
    assert len(app.objects(app.quarantine)) == (len(STEPS[code]) if code else 0)
    analyses = 0 if code else len(STEPS[code])
    assert rows("SELECT count(*), count(DISTINCT id) FROM analyses") == [[analyses] * 2]
    crashes = rows("SELECT deaths FROM uploads WHERE deaths <> '[]' ORDER BY created_at")
    assert [crash["stage"] for [each] in crashes for crash in each] == ([] if code else ["open"])


def test_a_picture_that_crashes_its_instance_is_quarantined_after_three_crashes_and_never_decoded_again(
    start: Start, tmp_path: Path
) -> None:
    app = start(GEMINI_API_KEY="")
    data = small_png() + b"kill"
    upload = app.upload("ana/a.png", data)
    with instance(tmp_path) as function:
        for _ in range(3):
            assert function.deliver(upload) == CRASHED
            assert function.deliver(upload) == HTTPStatus.SERVICE_UNAVAILABLE  # until the lease expires
            expire_leases()
        assert [function.deliver(upload) for _ in range(2)] == [HTTPStatus.OK, HTTPStatus.OK]
        assert function.decodings == 3
        assert function.deliver(app.upload("ana/b.png", small_png())) == HTTPStatus.OK
    [blob] = app.objects(app.quarantine).values()
    assert blob.download_as_bytes() == data
    assert blob.metadata["dropcap-reason"] == "took_the_instance_down"
    assert blob.metadata["dropcap-problem"].startswith(
        "The instance crashed or hung while processing this upload"
    )
    [[state, code, reason, crashes]] = rows(
        "SELECT state, reason_code, reason, deaths FROM uploads WHERE id = :id", id=upload.id
    )
    assert [[state, code]] == TOOK_DOWN
    assert str(reason).startswith(blob.metadata["dropcap-problem"])
    assert [crash["stage"] for crash in crashes] == ["open"] * 3
    for crash in crashes:
        assert 20 < crash["rss_mb"] < 1000
        assert f"{crash['rss_mb']} MB, {crash['at']}" in str(reason)
    assert app.objects(app.uploads) == {}


@pytest.mark.usefixtures("memory_limit")
def test_a_picture_for_which_the_kernel_kills_instances_is_quarantined(start: Start, tmp_path: Path) -> None:
    app = start(GEMINI_API_KEY="")
    upload = app.upload("ana/a.png", small_png() + b"grow")
    for answer in (CRASHED, CRASHED, CRASHED, HTTPStatus.OK):
        with kernel_limit(512) as limit, instance(tmp_path, limit) as function:
            assert function.deliver(upload) == answer
            assert function.decodings == (1 if answer == CRASHED else 0)
        expire_leases()
    assert rows(OUTCOME) == TOOK_DOWN


def test_a_decoder_that_hangs_is_ended_before_the_lease_expires_and_the_log_has_its_stack(
    start: Start, tmp_path: Path
) -> None:
    app = start(GEMINI_API_KEY="")
    upload = app.upload("ana/a.png", small_png() + b"hang")
    with instance(tmp_path, LEASE_S="3", MAX_DEATHS="1") as function:
        began = time.monotonic()
        assert function.deliver(upload) == CRASHED
        assert 2 < time.monotonic() - began < WAIT_S
        assert 'crashing.py", line' in function.log.read_text()
        while (answer := function.deliver(upload)) == HTTPStatus.SERVICE_UNAVAILABLE:
            assert time.monotonic() - began < WAIT_S
        assert answer == HTTPStatus.OK
        assert function.decodings == 1
    assert rows(OUTCOME) == TOOK_DOWN


def test_a_delivery_ends_after_timeout_s_even_if_stages_renew_the_lease(start: Start, tmp_path: Path) -> None:
    app = start(GEMINI_API_KEY="")
    upload = app.upload("ana/a.png", small_png() + b"hang")
    with instance(tmp_path, TIMEOUT_S="2") as function:
        began = time.monotonic()
        assert function.deliver(upload) == CRASHED
        assert 1 < time.monotonic() - began < WAIT_S


def test_time_waiting_for_other_pictures_does_not_count_towards_timeout_s(
    start: Start, tmp_path: Path
) -> None:
    app = start(GEMINI_API_KEY="", SIZES="200")
    uploads = [app.upload(f"ana/{number}.png", small_png() + b"slow") for number in range(4)]
    with instance(tmp_path, TIMEOUT_S="3", THREADS="4") as function, ThreadPoolExecutor(4) as pool:
        began = time.monotonic()
        assert list(pool.map(function.deliver, uploads)) == [HTTPStatus.OK] * 4
        assert time.monotonic() - began > 4  # longer than TIMEOUT_S: one picture is processed at a time
    assert rows("SELECT DISTINCT attempts, deaths FROM uploads") == [[1, []]]


def test_a_posted_picture_that_crashed_its_instance_is_refused_with_its_crashes(start: Start) -> None:
    app = start(MAX_DEATHS="2")
    data = small_png()
    upload = posted(data, "ana", "")
    for stage in ("open", "resize"):
        lease = app.services.leases.acquire(upload)
        app.services.leases.heartbeat(upload, lease.token, stage, 321)
        expire_leases()
    for _ in range(2):
        answer = app.analyze(data=data, query_string={"keep": "true", "user": "ana"})
        assert problem(answer, 422)["code"] == "took_the_instance_down"
        assert "open (321 MB, " in answer.text
        assert "resize (321 MB, " in answer.text
    assert app.analyze(data=data, query_string={"keep": "true", "user": "bob"}).status_code == HTTPStatus.OK


@pytest.mark.parametrize("missing", ["PICTURES_BUCKET", "QUARANTINE_BUCKET"])
def test_a_missing_bucket_is_a_transient_error_that_keeps_the_source_and_counts_no_crash(
    start: Start, missing: str
) -> None:
    app = start()
    upload = app.upload("ana/a.png", small_png() if missing == "PICTURES_BUCKET" else b"no picture")
    bucket = os.environ[missing]
    app = app.restarted(**{missing: "not-there"})
    assert [app.deliver(upload) for _ in range(4)] == [HTTPStatus.INTERNAL_SERVER_ERROR] * 4
    assert list(app.objects(app.uploads)) == ["ana/a.png"]
    assert rows("SELECT name FROM uploads WHERE deaths <> '[]'") == []
    assert app.restarted(**{missing: bucket}).deliver(upload) == HTTPStatus.OK


def test_a_worker_without_its_lease_stops_at_the_next_stage(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = start()
    upload = app.upload("ana/a.png", small_png())

    def lose_the_lease() -> None:
        expire_leases()
        assert app.services.leases.acquire(upload).state == "claimed"  # by another worker

    at_next_call(monkeypatch, Buckets, "read", lose_the_lease)
    assert app.deliver(upload) == HTTPStatus.SERVICE_UNAVAILABLE
    assert rows("SELECT stage FROM uploads") == [["claim"]]
    assert app.objects(app.pictures) == {}


def test_a_heartbeat_timeout_is_a_transient_error(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    app = start(DATABASE_TIMEOUT_S="0.2")
    upload = app.upload("ana/a.png", small_png())
    with closing(connect_to_schema(os.environ["DATABASE_URL"])) as other:
        at_next_call(monkeypatch, Buckets, "read", lambda: other.run("BEGIN; LOCK TABLE uploads"))
        assert app.deliver(upload) == HTTPStatus.INTERNAL_SERVER_ERROR
    expire_leases()
    assert app.deliver(upload) == HTTPStatus.OK
