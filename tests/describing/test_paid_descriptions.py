"""A description that is stored or paid for survives crashes at any step and concurrent requests."""

import datetime as dt
import uuid
from typing import Any

import pytest

from dropcap.database import search
from dropcap.database.response_cache import CacheEntry
from dropcap.database.transactions import Database
from dropcap.deferred import rows as pending_rows
from dropcap.describing.gemini import Describer
from dropcap.domain.gemini_response import GeminiResponse
from dropcap.storage.buckets import Buckets
from tests.support.app import App, Start, at_next_call, rows, small_png
from tests.support.describing import DONE, ONCE, make_due, new_key, redescribe, requests_of, result

OLD, NEW = "gemini-3.5-pro", "gemini-3.5-flash-lite"
TEXTS = ("caption", "description", "alt_text", "tags", "text", "provenance", "sources")


class Crash(BaseException):
    """A crash of the instance: nothing catches it."""


def described(start: Start, **settings: str) -> tuple[App, uuid.UUID]:
    """Return a picture that an older model described and that is marked to be described again."""
    app = start(**ONCE, GEMINI_MODEL=OLD, GEMINI_API_KEY=new_key(), **settings)
    upload = app.upload("ana/a.png", small_png())
    assert app.deliver(upload) == 200
    app = app.restarted(GEMINI_MODEL=NEW)
    assert redescribe(app, mark=True)["pictures"] == 1
    return app, upload.id


def key_of(app: App) -> str:
    return app.services.settings.gemini_api_key


# The step at which the instance crashes, and the number of requests until the picture is described.
STEPS: list[tuple[Any, str, int]] = [
    (Buckets, "read_published", 1),
    (Describer, "ask", 1),
    (CacheEntry, "store", 2),
    (pending_rows, "store", 1),
    (search, "remove", 1),
]


@pytest.mark.parametrize(("owner", "step", "requested"), STEPS, ids=[step for _, step, _ in STEPS])
def test_a_crash_at_any_step_keeps_the_old_description_until_the_new_one_is_stored(
    start: Start, gemini_url: str, monkeypatch: pytest.MonkeyPatch, owner: Any, step: str, requested: int
) -> None:
    app, id = described(start, DAILY_CALLS="100")
    before, calls = result(app, id), requests_of(gemini_url, key_of(app))

    def crash(*_: object, **__: object) -> None:
        raise Crash

    with monkeypatch.context() as crashing:
        crashing.setattr(owner, step, crash)
        with pytest.raises(Crash):
            app.reconcile()
    assert {name: result(app, id)[name] for name in TEXTS} == {name: before[name] for name in TEXTS}
    rows("UPDATE answers SET lease_until = now() WHERE answer IS NULL")
    make_due()
    assert app.reconcile() == DONE | {"described": 1}
    assert result(app, id)["provenance"]["gemini"]["model"] == NEW
    assert requests_of(gemini_url, key_of(app)) == calls + requested


@pytest.mark.parametrize(
    "model", ["fault-503", "fault-finish-RECITATION", "fault-blocked", "fault-image", "fault-key"]
)
def test_a_picture_without_a_new_description_keeps_the_old_one(start: Start, model: str) -> None:
    app, id = described(start)
    before = result(app, id)
    app = app.restarted(GEMINI_MODEL=model)
    while rows("SELECT 1 FROM analyses WHERE describe_after IS NOT NULL"):
        make_due()
        assert app.reconcile() == DONE | {"not_described": 1}
    assert {name: result(app, id)[name] for name in TEXTS} == {name: before[name] for name in TEXTS}


def change_row_while_describing(monkeypatch: pytest.MonkeyPatch, change: str) -> None:
    """Let another worker change the row while the picture is being described."""
    at_next_call(monkeypatch, Buckets, "read_published", lambda: rows(f"UPDATE analyses SET {change}"))  # noqa: S608


def test_a_paid_description_is_stored_after_the_lease_expired_and_the_row_stays_pending(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    app, id = described(start)
    change_row_while_describing(monkeypatch, "describe_after = now() + interval '1 hour', describe_tries = 3")
    assert app.reconcile() == DONE
    now = result(app, id)
    assert now["provenance"]["gemini"]["model"] == NEW
    assert now["describe_later"]
    assert rows("SELECT describe_after > now(), describe_tries FROM analyses") == [[True, 3]]
    make_due()
    assert app.reconcile() == DONE | {"described": 1}
    assert not result(app, id)["describe_later"]


@pytest.mark.parametrize(
    "change",
    [
        "describe_after = NULL",
        "describe_after = now() + interval '1 hour', result = result || '{\"pictures\": []}'",
    ],
    ids=["described meanwhile", "unpublished meanwhile"],
)
def test_a_description_that_is_no_longer_wanted_replaces_nothing(
    start: Start, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    app, id = described(start)
    before = result(app, id)
    change_row_while_describing(monkeypatch, change)
    assert app.reconcile() == DONE
    assert {name: result(app, id)[name] for name in TEXTS} == {name: before[name] for name in TEXTS}


def test_a_response_is_cached_after_its_lease_expired_but_never_replaces_another_or_outlives_the_picture(
    database: Database,
) -> None:
    at = dt.datetime(2026, 11, 30, tzinfo=dt.UTC)
    late, other = (CacheEntry("sha", "prompt", "model") for _ in range(2))
    answers = [GeminiResponse(text, "STOP", "", "v") for text in ("late", "other")]
    assert late.get_or_acquire(database, uuid.uuid4(), 0, 0) is None
    assert other.get_or_acquire(database, uuid.uuid4(), 60, 0) is None
    late.store(database, answers[0], at)
    other.store(database, answers[1], at)
    other.release(database)
    known = late.get_or_acquire(database, uuid.uuid4(), 60, 0)
    assert known
    assert known[0].text == "late"
    late.delete(database, at)
    late.store(database, answers[0], at)  # the entry was deleted with the picture
    assert database.query("SELECT count(*) FROM answers") == [[0]]


def test_redescribing_all_does_not_discard_a_response_in_progress(
    start: Start, gemini_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    app, id = described(start, DAILY_CALLS="100")
    calls = requests_of(gemini_url, key_of(app))
    at_next_call(monkeypatch, Describer, "ask", lambda: redescribe(app, mark=True, all=True))
    assert app.reconcile() == DONE | {"described": 1}
    assert requests_of(gemini_url, key_of(app)) == calls + 1
    assert result(app, id)["usage"]["reused"]
