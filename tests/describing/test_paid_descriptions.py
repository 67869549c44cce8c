"""A description that is there, or paid for, is not lost, whatever dies at whatever step, whoever asks."""

import datetime as dt
import uuid
from typing import Any

import pytest

from dropcap.database import search
from dropcap.database.response_cache import CacheEntry
from dropcap.database.transactions import Database
from dropcap.deferred import rows as pending_rows
from dropcap.describing.gemini import Describer
from dropcap.domain.analysis import Rendition
from dropcap.domain.gemini_response import GeminiResponse
from dropcap.storage.buckets import Buckets
from tests.describing.test_budget import new_key, requests_of
from tests.describing.test_deferred import DONE, its_time_comes, redescribe, result
from tests.support.app import App, Start, rows, small_png

OLD, NEW = "gemini-3.5-pro", "gemini-3.5-flash-lite"
ONCE = {"SIZES": "200", "GEMINI_ATTEMPTS": "1"}
WORDS = ("caption", "description", "alt_text", "tags", "text", "provenance", "sources")


class Killed(BaseException):
    """The instance is gone: nothing catches this."""


def described(start: Start, **settings: str) -> tuple[App, uuid.UUID]:
    """A picture that an older model described, which is to be described by the present one."""
    app = start(**ONCE, GEMINI_MODEL=OLD, GEMINI_API_KEY=new_key(), **settings)
    upload = app.upload("ana/a.png", small_png())
    assert app.deliver(upload) == 200
    app = app.restarted(GEMINI_MODEL=NEW)
    assert redescribe(app, mark=True)["pictures"] == 1
    return app, upload.id


def key_of(app: App) -> str:
    return app.services.settings.gemini_api_key


# The step at which the instance dies, and how often Gemini is then asked until the picture is described.
STEPS: list[tuple[Any, str, int]] = [
    (Buckets, "read_published", 1),
    (Describer, "ask", 1),
    (CacheEntry, "store", 2),
    (pending_rows, "store", 1),
    (search, "remove", 1),
]


@pytest.mark.parametrize(("owner", "step", "asked"), STEPS, ids=[step for _, step, _ in STEPS])
def test_whoever_dies_at_any_step_leaves_the_old_description_and_the_new_one_comes(
    start: Start, gemini_url: str, monkeypatch: pytest.MonkeyPatch, owner: Any, step: str, asked: int
) -> None:
    app, id = described(start, DAILY_CALLS="100")
    before, calls = result(app, id), requests_of(gemini_url, key_of(app))

    def killed(*_: object, **__: object) -> None:
        raise Killed

    with monkeypatch.context() as dying:
        dying.setattr(owner, step, killed)
        with pytest.raises(Killed):
            app.sweep()
    assert {name: result(app, id)[name] for name in WORDS} == {name: before[name] for name in WORDS}
    rows("UPDATE answers SET lease_until = now() WHERE answer IS NULL")
    its_time_comes()
    assert app.sweep() == DONE | {"described": 1}
    assert result(app, id)["provenance"]["gemini"]["model"] == NEW
    assert requests_of(gemini_url, key_of(app)) == calls + asked


@pytest.mark.parametrize(
    "model", ["fault-503", "fault-finish-RECITATION", "fault-blocked", "fault-image", "fault-key"]
)
def test_a_picture_that_gets_no_new_description_keeps_the_old_one(start: Start, model: str) -> None:
    app, id = described(start)
    before = result(app, id)
    app = app.restarted(GEMINI_MODEL=model)
    while rows("SELECT 1 FROM analyses WHERE describe_after IS NOT NULL"):
        its_time_comes()
        assert app.sweep() == DONE | {"not_described": 1}
    assert {name: result(app, id)[name] for name in WORDS} == {name: before[name] for name in WORDS}


def meanwhile(monkeypatch: pytest.MonkeyPatch, change: str) -> None:
    """While the first picture is being described, somebody else changes its row."""
    read = Buckets.read_published

    def changed(self: Buckets, published: Rendition) -> bytes:
        monkeypatch.setattr(Buckets, "read_published", read)
        rows(f"UPDATE analyses SET {change}")  # noqa: S608
        return read(self, published)

    monkeypatch.setattr(Buckets, "read_published", changed)


def test_what_is_paid_is_stored_also_where_the_lease_ran_out_and_the_row_stays_due(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    app, id = described(start)
    meanwhile(monkeypatch, "describe_after = now() + interval '1 hour', describe_tries = 3")
    assert app.sweep() == DONE
    now = result(app, id)
    assert now["provenance"]["gemini"]["model"] == NEW
    assert now["describe_later"]
    assert rows("SELECT describe_after > now(), describe_tries FROM analyses") == [[True, 3]]
    its_time_comes()
    assert app.sweep() == DONE | {"described": 1}
    assert not result(app, id)["describe_later"]


@pytest.mark.parametrize(
    "change",
    [
        "describe_after = NULL",
        "describe_after = now() + interval '1 hour', result = result || '{\"pictures\": []}'",
    ],
    ids=["it has another one", "it is taken back"],
)
def test_what_came_too_late_replaces_nothing(
    start: Start, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    app, id = described(start)
    before = result(app, id)
    meanwhile(monkeypatch, change)
    assert app.sweep() == DONE
    assert {name: result(app, id)[name] for name in WORDS} == {name: before[name] for name in WORDS}


def test_an_answer_is_kept_also_where_its_lease_ran_out_but_not_beside_another_or_for_nobody(
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
    late.store(database, answers[0], at)  # whoever deleted the picture took it along
    assert database.query("SELECT count(*) FROM answers") == [[0]]


def test_who_asks_for_all_anew_takes_no_answer_from_one_who_is_asking(
    start: Start, gemini_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    app, id = described(start, DAILY_CALLS="100")
    ask, calls = Describer.ask, requests_of(gemini_url, key_of(app))

    def beside_a_wish(self: Describer, *given: Any) -> Any:
        monkeypatch.setattr(Describer, "ask", ask)
        redescribe(app, mark=True, all=True)
        return ask(self, *given)

    monkeypatch.setattr(Describer, "ask", beside_a_wish)
    assert app.sweep() == DONE | {"described": 1}
    assert requests_of(gemini_url, key_of(app)) == calls + 1
    assert result(app, id)["usage"]["reused"]
