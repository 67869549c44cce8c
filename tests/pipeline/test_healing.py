"""An instance may die at any moment: the next delivery finishes, and what kills each time is taken out."""

import os
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path

import pytest
import requests

from dropcap.database.connection import connect_to_schema
from dropcap.domain.upload import Upload, posted
from dropcap.storage.buckets import Buckets
from infra.local.process import Process, free_port
from tests.memory.limit import Limit, kernel_limit
from tests.support.app import EVENT, ROOT, Start, event_of, problem, rows, small_png
from tests.support.children import FUNCTIONS, python_path

DIED = 0  # in place of an HTTP status
WAIT_S = 60
BOUNDARIES = ("acquire", "read", "open_picture", "publish", "record", "check", "dispose", "finish")
BOUNDARIES_OF_A_REJECTION = ("quarantine", "reject", "dispose", "finish")


@dataclass
class Instance:
    """The functions in a process of their own that can die."""

    url: str
    log: Path
    deadly: Path

    def deliver(self, upload: Upload) -> int:
        """The HTTP status of one delivery, or DIED."""
        try:
            return requests.post(self.url, event_of(upload), headers=EVENT, timeout=WAIT_S).status_code
        except requests.ConnectionError:
            return DIED

    def die_after(self, boundary: str, upload: Upload) -> None:
        """Deliver, and die at this boundary."""
        self.deadly.write_text(f"after {boundary}")
        assert self.deliver(upload) == DIED, boundary
        assert not self.deadly.exists(), boundary

    @property
    def decodings(self) -> int:
        return self.log.read_text().count("a decoder at work")


@contextmanager
def instance(folder: Path, limit: Limit | None = None, **settings: str) -> Iterator[Instance]:
    """functions-framework with the functions that can die, on what the environment names."""
    port, log = free_port(), folder / "log"
    command = [str(Path(sys.executable).with_name("functions-framework")), "--target", "on_upload"]
    command += ["--source", str(ROOT / "tests" / "support" / "deadly.py"), "--signature-type", "cloudevent"]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    own = {"PYTHONPATH": python_path(FUNCTIONS), "DEADLY": str(folder / "deadly")}
    environment = os.environ | own | settings
    command = limit.command(*command) if limit else command
    with Process("functions", command, log, environment, ROOT) as functions:
        functions.wait_until_answers(f"http://127.0.0.1:{port}")
        yield Instance(f"http://127.0.0.1:{port}", log, folder / "deadly")


def lease_runs_out() -> None:
    rows("UPDATE uploads SET lease_until = now()")


def test_a_kill_at_any_boundary_is_finished_by_the_next_delivery(start: Start, tmp_path: Path) -> None:
    app = start()
    with instance(tmp_path) as function:
        for boundary in BOUNDARIES:
            upload = app.upload("ana/a.png", small_png())
            function.die_after(boundary, upload)
            lease_runs_out()
            assert function.deliver(upload) == HTTPStatus.OK, boundary
            assert app.objects(app.uploads) == {}, boundary
            assert len([name for name in app.objects(app.pictures) if name.startswith(str(upload.id))]) == 3
    assert rows("SELECT count(*), count(DISTINCT id) FROM analyses") == [[len(BOUNDARIES)] * 2]
    died = rows("SELECT deaths FROM uploads WHERE deaths <> '[]' ORDER BY created_at")
    assert [death["stage"] for [deaths] in died for death in deaths] == ["open", "publish"]
    assert rows("SELECT DISTINCT state, reason_code FROM uploads") == [["done", ""]]


def test_so_is_a_kill_at_any_boundary_of_a_rejection(start: Start, tmp_path: Path) -> None:
    app = start(GEMINI_API_KEY="")
    with instance(tmp_path) as function:
        for boundary in BOUNDARIES_OF_A_REJECTION:
            upload = app.upload("ana/a.png", b"no picture")
            function.die_after(boundary, upload)
            lease_runs_out()
            assert function.deliver(upload) == HTTPStatus.OK, boundary
            assert app.objects(app.uploads) == {}, boundary
    assert len(app.objects(app.quarantine)) == len(BOUNDARIES_OF_A_REJECTION)
    assert rows("SELECT DISTINCT state, reason_code FROM uploads") == [["done", "not_a_picture"]]


def test_a_picture_that_kills_its_instance_is_quarantined_at_the_third_time_and_never_decoded_again(
    start: Start, tmp_path: Path
) -> None:
    app = start(GEMINI_API_KEY="")
    data = small_png() + b"kill"
    upload = app.upload("ana/a.png", data)
    with instance(tmp_path) as function:
        for _ in range(3):
            assert function.deliver(upload) == DIED
            assert function.deliver(upload) == HTTPStatus.SERVICE_UNAVAILABLE  # until the lease has run out
            lease_runs_out()
        assert [function.deliver(upload) for _ in range(2)] == [HTTPStatus.OK, HTTPStatus.OK]
        assert function.decodings == 3
        assert function.deliver(app.upload("ana/b.png", small_png())) == HTTPStatus.OK
    [blob] = app.objects(app.quarantine).values()
    assert blob.download_as_bytes() == data
    assert blob.metadata["dropcap-reason"] == "took_the_instance_down"
    assert blob.metadata["dropcap-problem"].startswith("At this upload the instance died, or hung")
    [[state, code, reason, deaths]] = rows(
        "SELECT state, reason_code, reason, deaths FROM uploads WHERE id = :id", id=upload.id
    )
    assert (state, code) == ("done", "took_the_instance_down")
    assert str(reason).startswith(blob.metadata["dropcap-problem"])
    assert isinstance(deaths, list)
    assert [death["stage"] for death in deaths] == ["open"] * 3
    for death in deaths:
        assert 20 < death["rss_mb"] < 1000
        assert f"{death['rss_mb']} MB, {death['at']}" in str(reason)
    assert app.objects(app.uploads) == {}


@pytest.mark.usefixtures("memory_limit")
def test_so_is_one_for_which_the_kernel_kills_one_instance_after_the_other(
    start: Start, tmp_path: Path
) -> None:
    app = start(GEMINI_API_KEY="")
    upload = app.upload("ana/a.png", small_png() + b"grow")
    for answer in (DIED, DIED, DIED, HTTPStatus.OK):
        with kernel_limit(512) as limit, instance(tmp_path, limit) as function:
            assert function.deliver(upload) == answer
            assert function.decodings == (1 if answer == DIED else 0)
        lease_runs_out()
    assert rows("SELECT state, reason_code FROM uploads") == [["done", "took_the_instance_down"]]


def test_a_picture_that_hangs_ends_its_process_within_the_lease_and_the_log_says_where(
    start: Start, tmp_path: Path
) -> None:
    app = start(GEMINI_API_KEY="")
    upload = app.upload("ana/a.png", small_png() + b"hang")
    with instance(tmp_path, LEASE_S="3", MAX_DEATHS="1") as function:
        began = time.monotonic()
        assert function.deliver(upload) == DIED
        assert 2 < time.monotonic() - began < WAIT_S
        assert 'deadly.py", line' in function.log.read_text()
        while (answer := function.deliver(upload)) == HTTPStatus.SERVICE_UNAVAILABLE:
            assert time.monotonic() - began < WAIT_S
        assert answer == HTTPStatus.OK
        assert function.decodings == 1
    assert rows("SELECT state, reason_code FROM uploads") == [["done", "took_the_instance_down"]]


def test_a_picture_whose_stages_are_each_within_the_lease_may_not_take_for_ever(
    start: Start, tmp_path: Path
) -> None:
    app = start(GEMINI_API_KEY="")
    upload = app.upload("ana/a.png", small_png() + b"hang")
    with instance(tmp_path, TIMEOUT_S="2") as function:
        began = time.monotonic()
        assert function.deliver(upload) == DIED
        assert 1 < time.monotonic() - began < WAIT_S


def test_who_waits_for_a_turn_is_not_ended_however_long_the_queue(start: Start, tmp_path: Path) -> None:
    app = start(GEMINI_API_KEY="", SIZES="200")
    uploads = [app.upload(f"ana/{number}.png", small_png() + b"slow") for number in range(4)]
    with instance(tmp_path, TIMEOUT_S="3", THREADS="4") as function, ThreadPoolExecutor(4) as pool:
        began = time.monotonic()
        assert list(pool.map(function.deliver, uploads)) == [HTTPStatus.OK] * 4
        assert time.monotonic() - began > 4  # longer than TIMEOUT_S, as there is one turn after the other
    assert rows("SELECT DISTINCT attempts, deaths FROM uploads") == [[1, []]]


def test_a_posted_picture_that_killed_its_instance_is_refused_with_what_is_known(start: Start) -> None:
    app = start(MAX_DEATHS="2")
    data = small_png()
    upload = posted(data, "ana", "")
    for stage in ("open", "resize"):
        lease = app.services.leases.acquire(upload)
        app.services.leases.heartbeat(upload, lease.token, stage, 321)
        lease_runs_out()
    for _ in range(2):
        answer = app.analyze(data=data, query_string={"keep": "true", "user": "ana"})
        assert problem(answer, 422)["code"] == "took_the_instance_down"
        assert "open (321 MB, " in answer.text
        assert "resize (321 MB, " in answer.text
    assert app.analyze(data=data, query_string={"keep": "true", "user": "bob"}).status_code == HTTPStatus.OK


@pytest.mark.parametrize("bucket", ["PICTURES_BUCKET", "QUARANTINE_BUCKET"])
def test_a_fault_that_lasts_is_no_death_however_often_it_comes(start: Start, bucket: str) -> None:
    app = start()
    upload = app.upload("ana/a.png", small_png() if bucket == "PICTURES_BUCKET" else b"no picture")
    app = app.restarted(**{bucket: "not-there"})
    assert [app.deliver(upload) for _ in range(4)] == [HTTPStatus.INTERNAL_SERVER_ERROR] * 4
    assert rows("SELECT name FROM uploads WHERE deaths <> '[]'") == []
    assert (
        app.restarted(**{bucket: getattr(app, bucket.split("_")[0].lower())}).deliver(upload) == HTTPStatus.OK
    )


def test_a_worker_that_lost_its_lease_stops_at_the_next_stage(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = start()
    upload, read = app.upload("ana/a.png", small_png()), Buckets.read

    def slowly(buckets: Buckets, of: Upload) -> bytes:
        lease_runs_out()
        assert app.services.leases.acquire(of).state == "claimed"  # another's
        return read(buckets, of)

    monkeypatch.setattr(Buckets, "read", slowly)
    assert app.deliver(upload) == HTTPStatus.SERVICE_UNAVAILABLE
    assert rows("SELECT stage FROM uploads") == [["claim"]]
    assert app.objects(app.pictures) == {}


def test_a_database_that_is_busy_as_a_stage_begins_is_a_passing_fault(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = start(DATABASE_TIMEOUT_S="0.2")
    upload, read = app.upload("ana/a.png", small_png()), Buckets.read
    with closing(connect_to_schema(os.environ["DATABASE_URL"])) as other:

        def read_meanwhile(buckets: Buckets, of: Upload) -> bytes:
            other.run("BEGIN; LOCK TABLE uploads")
            return read(buckets, of)

        monkeypatch.setattr(Buckets, "read", read_meanwhile)
        assert app.deliver(upload) == HTTPStatus.INTERNAL_SERVER_ERROR
    monkeypatch.undo()
    lease_runs_out()
    assert app.deliver(upload) == HTTPStatus.OK
