"""Every outcome is delivered to the consumer, effectively once, despite crashes and outages."""

import base64
import datetime as dt
import os
import socket
import sqlite3
import sys
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import requests
from cloudevents.http import from_http
from google.auth.exceptions import DefaultCredentialsError

from dropcap.database.analyses import Analyses
from dropcap.database.connection import DatabaseUnavailable
from dropcap.database.leases import Leases
from dropcap.database.transactions import Database
from dropcap.domain.analysis import Analysis
from dropcap.domain.outcome import Outcome
from dropcap.errors import Rejected
from dropcap.outbox.dispatcher import Dispatcher
from dropcap.outbox.event import Event
from dropcap.outbox.publishers import PublishError, Webhook, signed
from dropcap.outcomes import rows_of
from dropcap.settings import Settings
from infra.local.process import START_S, Process
from tests.support.app import CAPTION, NAME, PICTURE, ROOT, Start, expire_leases, log_lines, rows, small_png
from tests.support.database.uploads import analysis, upload
from tests.support.listener import Listener

KEY = b"a secret of twenty-four bytes"
SECRET = f"whsec_{base64.b64encode(KEY).decode()}"
TOPIC = "projects/my-project/topics/done"
REJECTION = Rejected("not_a_picture", "It is none.", "Upload one.", 415)  # type: ignore[arg-type]


def make_due() -> None:
    rows("UPDATE events SET next_at = now(), sent_at = NULL")


CONSUMER = str(ROOT / "docs" / "reference" / "consumer.py")
# It is killed after its commit, before its answer.
CRASHING = f"""
import os, runpy, signal
from http.server import BaseHTTPRequestHandler
answer = BaseHTTPRequestHandler.send_response
def send_response(self, status, *more):
    if status == 204:
        os.kill(os.getpid(), signal.SIGKILL)
    answer(self, status, *more)
BaseHTTPRequestHandler.send_response = send_response
runpy.run_path({CONSUMER!r}, run_name="__main__")
"""


@contextmanager
def consumer(folder: Path, port: int, *program: str) -> Iterator[None]:
    """Run the consumer of the documentation in a process of its own."""
    command = [sys.executable, *program, str(port)]
    environment = os.environ | {"EVENTS_SECRET": SECRET, "CONSUMER_STATE": str(folder / "state")}
    with Process("consumer", command, folder / "log", environment, folder) as process:
        deadline = time.monotonic() + START_S
        while True:
            process.check()
            try:
                requests.get(f"http://127.0.0.1:{port}", timeout=5)
                break
            except requests.ConnectionError:
                assert time.monotonic() < deadline
                time.sleep(0.05)
        yield


@pytest.fixture
def port() -> Iterator[int]:
    """A port that nobody listens on, reserved for this test."""
    with socket.socket() as reserved:
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the consumer's server does
        reserved.bind(("127.0.0.1", 0))
        yield reserved.getsockname()[1]


def processed(folder: Path) -> list[tuple[str, str, str]]:
    """Return what the consumer did: type, upload and text of each event."""
    with closing(sqlite3.connect(folder / "state")) as state:
        return state.execute("SELECT type, upload, text FROM handled ORDER BY type").fetchall()


def test_the_documented_consumer_acts_once_on_each_outcome_despite_a_crash_and_repeated_events(
    start: Start, tmp_path: Path, port: int
) -> None:
    url = f"http://127.0.0.1:{port}/"
    app = start(EVENTS=url, EVENTS_SECRET=SECRET)
    good, bad = app.upload(f"ana/{NAME}", PICTURE), app.upload("ana/b.jpg", b"no picture")
    analyzed = ("dev.dropcap.upload.analyzed", str(good.id), CAPTION)
    with consumer(tmp_path, port, "-c", CRASHING):
        assert app.deliver(good) == 200
    assert processed(tmp_path) == [analyzed]
    assert rows("SELECT attempts, sent_at FROM events") == [[1, None]]
    assert app.deliver(bad) == 200  # though the consumer is down
    make_due()
    assert app.reconcile() == {"untold": 2, "complete": True}
    with consumer(tmp_path, port, CONSUMER):
        make_due()
        assert app.reconcile() == {"told": 2, "complete": True}
        make_due()
        assert app.reconcile() == {"told": 2, "complete": True}
        assert app.reconcile() == {"complete": True}
        body = b'{"id": "of mine"}'
        now, others = int(time.time()), b"another secret, as long as that"
        for headers in ({}, signed([KEY], "1", now - 600, body), signed([others], "1", now, body)):
            assert requests.post(url, body, headers=headers, timeout=5).status_code == 401
    assert processed(tmp_path) == [
        analyzed,
        ("dev.dropcap.upload.rejected", str(bad.id), "The upload is not a picture."),
    ]


def test_an_event_is_signed_as_standard_webhooks_specifies() -> None:
    key = base64.b64decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")  # the example of its own libraries
    headers = signed([key], "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')
    assert headers["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    assert signed([KEY, key], "1", 2, b"")["webhook-signature"].count("v1,") == 2


def test_a_webhook_receives_a_cloudevent_with_the_renditions(start: Start) -> None:
    with Listener() as listener:
        app = start(EVENTS=f"http://{listener.host}/hook", EVENTS_SECRET=SECRET)
        sent = app.upload("ana/\x01<b>.png", small_png())
        assert app.deliver(sent) == 200
        assert app.deliver(sent) == 200  # done: no other event
    [received] = listener.received
    assert received.headers["content-type"] == "application/cloudevents+json"
    event = from_http(received.headers, received.body)
    assert event["type"] == "dev.dropcap.upload.analyzed"
    assert event["subject"] == "ana/\ufffd<b>.png"
    assert event["id"] == received.headers["webhook-id"]
    data = event.data
    assert (data["id"], data["user"], data["name"]) == (str(sent.id), "ana", sent.name)
    stored = app.objects(app.pictures)
    assert {each["object"]: each["md5"] for each in data["pictures"]} == {
        name: blob.md5_hash for name, blob in stored.items()
    }
    assert {each["bucket"] for each in data["pictures"]} == {app.pictures}


def test_a_pub_sub_topic_receives_cloudevents_in_binary_mode_and_all_pending_ones_in_one_request(
    start: Start,
) -> None:
    with Listener(topics=()) as listener:
        app = start(EVENTS=TOPIC, PUBSUB_EMULATOR_HOST=listener.host)
        uploads = [app.upload(f"ana/{n}.jpg", f"no picture {n}".encode()) for n in range(3)]
        assert {app.deliver(each) for each in uploads} == {200}  # though there is no such topic
        assert listener.received == []
        listener.topics = ("done",)
        make_due()
        assert app.reconcile() == {"told": 3, "complete": True}
    assert {received.path for received in listener.received} == {f"/v1/{TOPIC}:publish"}
    events = [
        from_http({key.lower(): value for key, value in received.headers.items()}, received.body)
        for received in listener.received
    ]
    assert {event.data["id"] for event in events} == {str(each.id) for each in uploads}
    assert {event["type"] for event in events} == {"dev.dropcap.upload.rejected"}
    assert {event.data["code"] for event in events} == {"not_a_picture"}


def test_missing_credentials_for_a_topic_fail_neither_an_upload_nor_reconcile(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nowhere(**_: object) -> None:
        raise DefaultCredentialsError("There are none.")

    monkeypatch.setattr("google.auth.default", nowhere)
    app = start(EVENTS=TOPIC)
    upload = app.upload("ana/a.jpg", b"no picture")
    assert app.deliver(upload) == 200
    make_due()
    app.upload("ana/b.jpg", b"no picture")
    assert app.reconcile() == {"untold": 1, "found": 1, "quarantined": 1, "complete": True}


@pytest.fixture
def settings(database_url: str) -> Settings:
    os.environ["DATABASE_URL"] = database_url
    return Settings(database_url=database_url, events_secret=(SECRET,), events_timeout_s=10)


def reject(database: Database, settings: Settings, number: int = 1, disposed: bool = True) -> None:
    """Reject an upload, whose event is then pending; `disposed` if its source is disposed of."""
    bad, leases = upload(f"ana/{number}.png"), Leases(database)
    token = leases.acquire(bad).token
    events = rows_of(
        Outcome(bad, rejection=REJECTION), token, replace(settings, events="https://example.com")
    )
    assert leases.reject(bad, token, REJECTION.code, str(REJECTION), events)
    if disposed:
        leases.finish(bad)


def test_an_outcome_and_its_event_are_committed_together_or_not_at_all(
    database: Database, settings: Settings
) -> None:
    picture, chosen = upload(), replace(settings, events=TOPIC, receipts=1)
    token = Leases(database).acquire(picture).token

    def record(result: Analysis, token: str) -> bool:
        outcome = rows_of(Outcome(picture, result), token, chosen)
        return Analyses(database).record(result, picture, token, outcome)

    good = analysis(picture)
    stored = "SELECT (SELECT count(*) FROM events), (SELECT count(*) FROM receipts)"
    with pytest.raises(DatabaseUnavailable):
        record(replace(good, picture=replace(good.picture, width=-1)), token)
    assert not record(good, "another")
    assert rows(stored) == [[0, 0]]
    for _ in range(2):  # the first response was lost
        assert record(good, token)
    assert rows(stored) == [[1, 1]]


def test_the_event_id_depends_on_the_outcome_and_not_on_the_worker() -> None:
    picture, chosen = upload(), Settings(events=TOPIC)
    rejected = Outcome(picture, rejection=REJECTION)
    outcomes = (Outcome(picture, analysis(picture)), replace(rejected, waits=True), rejected)
    ids = [
        {row.values["id"] for token in ("one", "another") for row in rows_of(outcome, token, chosen)}
        for outcome in outcomes
    ]
    assert [len(each) for each in ids] == [1, 1, 1]
    assert len(set.union(*ids)) == 3


def test_a_held_upload_has_an_event_and_its_final_outcome_another(start: Start) -> None:
    def delivered() -> list[tuple[str, str]]:
        return [
            (each.event["type"].rpartition(".")[2], each.event["data"]["code"]) for each in listener.received
        ]

    with Listener() as listener:
        events = {"EVENTS": f"http://{listener.host}", "EVENTS_SECRET": SECRET}
        app = start(**events, SAFETY="low", GEMINI_MODEL="fault-404")
        assert app.deliver(app.upload("ana/a.png", small_png())) == 200
        app = app.restarted(GEMINI_MODEL="fault-unsafe-high")
        expire_leases()
        app.reconcile()
        assert delivered() == [("held", "held_no_verdict"), ("rejected", "held_unsafe")]
        assert app.deliver(app.upload("ana/b.png", small_png())) == 200
        assert delivered()[2:] == [("rejected", "held_unsafe")]  # it was never held
        app = app.restarted(GEMINI_MODEL="fault-404")
        assert app.deliver(app.upload("ana/c.png", small_png())) == 200
        rows("UPDATE uploads SET created_at = now() - interval '3 days'")
        expire_leases()
        app.reconcile()
        assert delivered()[3:] == [("held", "held_no_verdict"), ("rejected", "held_no_verdict")]


def test_the_subject_of_an_event_fits_an_attribute_of_pub_sub() -> None:
    name = f"ana/{chr(1) * 1020}"
    event = Event(uuid.uuid4(), "analyzed", uuid.uuid4(), dt.datetime.now(dt.UTC), {"name": name}, 0, False)
    assert event.attributes["subject"] == f"ana/{chr(0xFFFD) * 340}"


def test_concurrent_dispatchers_publish_each_event_once(database_url: str, settings: Settings) -> None:
    with Listener(wait_s=0.01) as listener, closing(Database(settings)) as database:
        chosen = replace(settings, events=f"http://{listener.host}")
        for number in range(12):
            reject(database, chosen, number)

        def send(_: int) -> int:
            with closing(Database(chosen)) as own:
                return Dispatcher(chosen, own).dispatch_due(time.monotonic() + 30)["told"]

        with ThreadPoolExecutor(2) as pool:
            assert sum(pool.map(send, range(2))) == 12
    assert set(Counter(received.event["id"] for received in listener.received).values()) == {1}
    assert len(listener.received) == 12


@pytest.mark.parametrize(
    ("status", "wait_s", "problem"),
    [(302, 0, "HTTP 302"), (500, 0, "HTTP 500"), (204, 60, "no answer within 0.5 s")],
)
def test_an_undelivered_event_is_retried_with_exponential_backoff_then_dead_lettered(
    database: Database,
    settings: Settings,
    capsys: pytest.CaptureFixture[str],
    status: int,
    wait_s: float,
    problem: str,
) -> None:
    def retry() -> list[Any]:
        [row] = rows(
            "SELECT extract(epoch FROM next_at - now())::float8, attempts, sent_at FROM events"
            if not rows("SELECT 1 FROM events WHERE next_at = 'infinity'")
            else "SELECT NULL, attempts, sent_at FROM events"
        )
        return list(row)

    with Listener(status, wait_s) as listener:
        timeout_s = 0.5 if wait_s else 10
        chosen = replace(settings, events=f"http://{listener.host}/a", events_timeout_s=timeout_s)
        dispatcher = Dispatcher(chosen, database)
        reject(database, settings)
        assert dispatcher.dispatch_due(time.monotonic() + 5) == {"told": 0, "untold": 1}
        assert 50 < retry()[0] < 95
        assert dispatcher.dispatch_due(time.monotonic() + 5) == {"told": 0, "untold": 0}  # it is not due
        rows("UPDATE events SET next_at = now(), attempts = 5")
        dispatcher.dispatch_due(time.monotonic() + 5)
        assert 60 * 2**5 - 10 < retry()[0] < 60 * 2**5 * 1.5 + 5
        rows("UPDATE events SET next_at = now(), at = now() - interval '8 days'")
        dispatcher.dispatch_due(time.monotonic() + 5)
        assert retry() == [None, 7, None]
    assert {received.path for received in listener.received} == {"/a"}  # nowhere else
    logged = [line for line in log_lines(capsys) if "problem" in line]
    failed, dead_lettered = ("WARNING", "event not delivered"), ("ERROR", "event dead-lettered")
    assert [(line["severity"], line["message"]) for line in logged] == [failed, failed, dead_lettered]
    assert {line["problem"] for line in logged} == {problem}


def test_an_event_is_dispatched_after_the_source_is_disposed_of(
    database: Database, settings: Settings
) -> None:
    with Listener() as listener:
        dispatcher = Dispatcher(replace(settings, events=f"http://{listener.host}"), database)
        reject(database, settings, disposed=False)
        assert dispatcher.dispatch_due(time.monotonic() + 5) == {"told": 0, "untold": 0}
        Leases(database).finish(upload("ana/1.png"))
        assert dispatcher.dispatch_due(time.monotonic() + 5) == {"told": 1, "untold": 0}


def test_an_event_whose_dispatcher_crashed_at_the_last_try_is_dead_lettered_at_the_next_and_logged(
    database: Database,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def failing(*_: object) -> None:
        raise failure

    monkeypatch.setattr(Webhook, "publish", failing)
    dispatcher = Dispatcher(replace(settings, events="http://127.0.0.1:1"), database)
    reject(database, settings)
    rows("UPDATE events SET at = now() - interval '8 days'")
    failure: BaseException = SystemExit()
    with pytest.raises(SystemExit):
        dispatcher.dispatch_due(time.monotonic() + 5)
    rows("UPDATE events SET next_at = now() WHERE next_at < 'infinity'")
    failure = PublishError("HTTP 500")
    dispatcher.dispatch_due(time.monotonic() + 5)
    assert "event dead-lettered" in capsys.readouterr().out
    assert rows("SELECT attempts, next_at = 'infinity' FROM events") == [[2, True]]


def test_a_picture_deleted_and_posted_again_during_a_dispatch_has_another_event(
    database: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = list[uuid.UUID]()

    def publish(_: Webhook, events: Sequence[Event]) -> None:
        if not sent:
            rows("UPDATE events SET id = gen_random_uuid(), next_at = now()")
        sent.extend(each.id for each in events)

    monkeypatch.setattr(Webhook, "publish", publish)
    dispatcher = Dispatcher(replace(settings, events="http://127.0.0.1:1"), database)
    reject(database, settings)
    dispatcher.dispatch_due(time.monotonic() + 5)
    assert len({*sent}) == 2
    assert rows("SELECT id = :id, sent_at IS NULL FROM events", id=str(sent[-1])) == [[True, False]]


def test_uploads_do_not_wait_for_a_consumer_that_is_down(start: Start) -> None:
    with Listener(wait_s=60) as listener:
        app = start(EVENTS=f"http://{listener.host}", EVENTS_SECRET=SECRET, EVENTS_TIMEOUT_S="1")
        for name in ("a", "b", "c"):
            assert app.deliver(app.upload(f"ana/{name}.jpg", b"no picture")) == 200
        assert len(listener.received) == 1
        listener.wait_s = 0
        assert app.reconcile() == {"told": 2, "complete": True}
        assert app.deliver(app.upload("ana/d.jpg", b"no picture")) == 200
    assert rows("SELECT count(*) FROM events WHERE sent_at IS NULL") == [[1]]
