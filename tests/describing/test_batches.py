"""Batches: what waits for Gemini is described at half the price, whatever happens to a batch."""

import io
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from http import HTTPStatus
from typing import Any

import pytest
from google import genai
from PIL import Image

from dropcap.database import daily_usage
from dropcap.database.transactions import Database
from dropcap.deferred import batch_rows, batches
from dropcap.deferred import rows as rows_of_pictures
from dropcap.deferred.worker import describe_pending
from dropcap.describing import prompt
from dropcap.describing.gemini import DEFERRED, Describer
from dropcap.describing.google_genai import Adapter
from dropcap.domain.upload import Upload
from dropcap.services import Services
from dropcap.settings import Settings
from tests.support.app import App, Start, at_next_call, log_lines, rows
from tests.support.describing import DONE, DOWN, ONCE, UP, make_due, new_key, redescribe, requests_of, result

COLOURS = ("red", "lime", "blue")
BATCHED = {"batched": len(COLOURS)}


Waiting = tuple[App, dict[str, Upload]]


class Crash(BaseException):
    """The end of the process, which no code handles."""


def picture(colour: str) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (60, 40), colour).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def waiting(start: Start) -> Waiting:
    """Pictures by colour that wait for a description, and an instance for which Gemini answers."""
    app = start(**ONCE, GEMINI_MODEL=DOWN, GEMINI_BATCH="2", GEMINI_API_KEY=new_key())
    uploads = {}
    for colour in COLOURS:
        uploads[colour] = app.upload(f"ana/{colour}.png", picture(colour))
        assert app.deliver(uploads[colour]) == HTTPStatus.OK
    return app.restarted(GEMINI_MODEL=UP), uploads


def described_as(app: App, uploads: dict[str, Upload]) -> dict[str, bool]:
    """Return whether each picture has the description of its own colour."""
    names = {"lime": "green"}
    texts = {colour: result(app, upload.id)["description"] for colour, upload in uploads.items()}
    return {colour: names.get(colour, colour) in text for colour, text in texts.items()}


def jobs(app: App) -> list[genai.types.BatchJob]:
    """Return the batches that Google has for the key of this instance."""
    settings = app.services.settings
    client = Adapter(settings, settings.gemini_api_key)._client
    return [*client.batches.list()]


def in_database() -> int:
    [[number]] = rows("SELECT (SELECT count(*) FROM batches) + (SELECT count(*) FROM batch_requests)")
    return int(number)


ALL = dict.fromkeys(COLOURS, True)


def test_pictures_that_wait_are_described_in_one_batch(waiting: Waiting) -> None:
    app, uploads = waiting
    assert app.reconcile() == DONE | BATCHED
    assert described_as(app, uploads) == dict.fromkeys(COLOURS, False)
    assert all(result(app, upload.id)["describe_later"] for upload in uploads.values())
    assert len(jobs(app)) == 1
    assert app.reconcile() == DONE | {"described": 3}
    assert described_as(app, uploads) == ALL
    assert app.reconcile() == DONE
    assert jobs(app) == []  # Google keeps neither pictures nor answers
    assert in_database() == 0
    then = result(app, uploads["red"].id)
    assert not then["describe_later"]
    assert then["provenance"]["gemini"]["model"] == UP
    assert then["provenance"]["gemini"]["prompt"] == app.services.describer.prompt
    assert redescribe(app)["pictures"] == 0


def test_fewer_pictures_than_the_setting_are_described_at_once(
    waiting: Waiting,
) -> None:
    app, uploads = waiting
    app = app.restarted(GEMINI_BATCH="4")
    assert app.reconcile() == DONE | {"described": 3}
    assert described_as(app, uploads) == ALL


@pytest.mark.parametrize("settings", [{"GEMINI_BATCH": "0"}, {"GEMINI_SDK": "google-generativeai"}])
def test_without_batches_all_are_described_at_once(waiting: Waiting, settings: dict[str, str]) -> None:
    app = waiting[0].restarted(**settings)
    assert app.reconcile() == DONE | {"described": 3}


@pytest.mark.parametrize("model", ["fault-batch-nokeys", "fault-batch-mixed"])
def test_each_picture_gets_its_own_description_whatever_order_and_metadata_say(
    waiting: Waiting, model: str
) -> None:
    app, uploads = waiting
    app = app.restarted(GEMINI_MODEL=model)
    assert app.reconcile() == DONE | BATCHED
    assert app.reconcile() == DONE | {"described": 3}
    assert described_as(app, uploads) == ALL


def test_a_response_without_the_key_of_its_request_is_not_used(
    waiting: Waiting,
) -> None:
    app, uploads = waiting
    app = app.restarted(GEMINI_MODEL="fault-missing-request_key")
    assert app.reconcile() == DONE | BATCHED
    assert app.reconcile() == DONE | {"not_described": 3}
    assert described_as(app, uploads) == dict.fromkeys(COLOURS, False)


@pytest.mark.parametrize("model", ["fault-batch-error-400", "fault-batch-some"])
def test_a_picture_that_a_batch_does_not_describe_is_retried_and_then_described_alone(
    waiting: Waiting, model: str
) -> None:
    app, uploads = waiting
    app = app.restarted(GEMINI_MODEL=model)
    assert app.reconcile() == DONE | BATCHED
    assert app.reconcile() == DONE | {"described": 2, "not_described": 1}
    assert sum(described_as(app, uploads).values()) == 2
    assert app.reconcile() == DONE  # the next try is not due
    make_due()
    assert app.reconcile() == DONE | {"described": 1}  # fewer than GEMINI_BATCH
    assert described_as(app, uploads) == ALL


@pytest.mark.parametrize("state", ["failed", "expired", "cancelled"])
def test_a_batch_without_results_returns_its_pictures_which_are_described_alone_after_two_failures(
    waiting: Waiting, state: str
) -> None:
    app, uploads = waiting
    app = app.restarted(GEMINI_MODEL=f"fault-batch-{state}")
    for _ in range(2):
        assert app.reconcile() == DONE | BATCHED
        assert app.reconcile() == DONE | {"not_described": 3}
        assert (in_database(), jobs(app)) == (0, [])
        problem = result(app, uploads["red"].id)["sources"]["gemini"]["problem"]
        assert problem == f"Gemini's batch has no description of it ({state.upper()})"
        make_due()
    assert app.reconcile() == DONE | {"described": 3}
    assert described_as(app, uploads) == ALL


@pytest.mark.parametrize("state", ["pending", "running"])
def test_a_batch_that_runs_is_awaited_and_one_that_never_ends_is_given_up(
    waiting: Waiting, state: str
) -> None:
    app, _ = waiting
    app = app.restarted(GEMINI_MODEL=f"fault-batch-{state}")
    assert app.reconcile() == DONE | BATCHED
    for _ in range(2):
        assert app.reconcile() == DONE
    assert rows("SELECT count(*) FROM analyses WHERE describe_after > now() + interval '49 hours'") == [[3]]
    rows("UPDATE batches SET created_at = now() - interval '49 hours'")
    assert app.reconcile() == DONE | {"not_described": 3}
    assert (in_database(), jobs(app)) == (0, [])


def test_a_batch_that_google_has_deleted_returns_its_pictures(
    waiting: Waiting, monkeypatch: pytest.MonkeyPatch
) -> None:
    app, _ = waiting
    assert app.reconcile() == DONE | BATCHED
    app = app.restarted(GEMINI_API_KEY=new_key())  # which does not see the batches of another
    assert app.reconcile() == DONE | {"not_described": 3}
    assert in_database() == 0


def test_a_project_without_batches_has_its_pictures_described_alone_at_once(
    waiting: Waiting, capsys: pytest.CaptureFixture[str]
) -> None:
    app, uploads = waiting
    app = app.restarted(GEMINI_MODEL="fault-batch-none")
    capsys.readouterr()
    assert app.reconcile() == DONE | {"described": 3}
    assert described_as(app, uploads) == ALL
    [line] = [line for line in log_lines(capsys) if line.get("event") == "batch_failed"]
    assert line["problem"] == "Gemini refused (HTTP 400 FAILED_PRECONDITION)"


def test_while_googles_queue_is_full_the_others_wait_for_half_the_price(
    waiting: Waiting, monkeypatch: pytest.MonkeyPatch
) -> None:
    app, uploads = waiting
    monkeypatch.setattr(batches, "MOST_REQUESTS", 1)
    app = app.restarted(GEMINI_MODEL="fault-batch-full", GEMINI_BATCH="1")
    assert app.reconcile() == DONE | {"batched": 1}
    assert rows("SELECT count(*) FROM analyses WHERE describe_after <= now() AND describe_tries = 0") == [[2]]
    assert app.reconcile() == DONE | {"described": 1, "batched": 1}
    assert app.reconcile() == DONE | {"described": 1, "batched": 1}
    assert app.reconcile() == DONE | {"described": 1}
    assert described_as(app, uploads) == ALL


def test_without_a_queue_for_batches_the_quota_counts_as_a_failure(
    waiting: Waiting,
) -> None:
    app = waiting[0].restarted(GEMINI_MODEL="fault-429")
    assert app.reconcile() == DONE
    assert in_database() == 0
    assert rows("SELECT describe_tries FROM analyses WHERE describe_after > now()") == [[1]] * 3


def test_while_gemini_is_down_a_batch_is_polled_later(waiting: Waiting) -> None:
    app, _ = waiting
    assert app.reconcile() == DONE | BATCHED
    app = app.restarted(GEMINI_ENDPOINT="http://127.0.0.1:1")
    assert app.reconcile() == DONE
    assert in_database() == 4


# Crashes


CRASHES: list[tuple[Any, str, bool, bool]] = [
    (batch_rows, "open_batch", False, False),  # what, at which call, after it, whether the batch exists
    (batch_rows, "open_batch", True, False),
    (Adapter, "create_batch", False, False),
    (Adapter, "create_batch", True, True),
    (batch_rows, "release", True, True),
]


@pytest.mark.parametrize(("owner", "name", "after", "exists"), CRASHES)
def test_a_crash_while_a_batch_is_submitted_neither_loses_nor_repeats_it(
    waiting: Waiting,
    gemini_url: str,
    monkeypatch: pytest.MonkeyPatch,
    owner: Any,
    name: str,
    after: bool,
    exists: bool,
) -> None:
    app, uploads = waiting
    crash(app, monkeypatch, owner, name, after=after)
    app = app.restarted(GEMINI_MODEL=UP)
    assert len(jobs(app)) == exists
    rows("UPDATE analyses SET describe_after = now() WHERE describe_after < now() + interval '1 hour'")
    if exists:
        assert app.reconcile() == DONE | {"described": 3}
    elif rows("SELECT count(*) FROM batches") == [[1]]:
        assert app.reconcile() == DONE  # Google's list may be late
        rows("UPDATE batches SET created_at = now() - interval '1 hour'")
        assert app.reconcile() == DONE  # given up, with the usual backoff
        make_due()
    if not exists:
        assert app.reconcile() == DONE | BATCHED
        assert app.reconcile() == DONE | {"described": 3}
    assert described_as(app, uploads) == ALL
    assert requests_of(gemini_url, app.services.settings.gemini_api_key) == 3 + 1  # one batch
    assert (in_database(), jobs(app)) == (0, [])


def crash(
    app: App, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, *, after: bool, skip: int = 0
) -> None:
    """Let reconcile end as a killed process does, at the call of this function after `skip` others."""
    real, calls = getattr(owner, name), 0

    def crashing(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls <= skip:
            return real(*arguments, **options)
        if after:
            real(*arguments, **options)
        raise Crash

    with monkeypatch.context() as patched:
        patched.setattr(owner, name, crashing)
        with pytest.raises(Crash):
            describe_pending(app.services, float("inf"))


@pytest.mark.parametrize(
    ("owner", "name", "after", "skip"),
    [
        (Adapter, "batch", True, 0),
        (rows_of_pictures, "store", False, 0),
        (rows_of_pictures, "store", True, 1),
        (batch_rows, "remove", True, 0),
        (batch_rows, "settle", False, 0),
        (batch_rows, "settle", True, 0),
        (Adapter, "delete_batch", False, 0),
        (Adapter, "delete_batch", True, 0),
        (batch_rows, "forget", True, 0),
    ],
)
def test_a_crash_while_a_batch_is_collected_loses_no_description_and_pays_none_twice(
    waiting: Waiting,
    gemini_url: str,
    monkeypatch: pytest.MonkeyPatch,
    owner: Any,
    name: str,
    after: bool,
    skip: int,
) -> None:
    app, uploads = waiting
    app = app.restarted(DAILY_CALLS="100")
    assert app.reconcile() == DONE | BATCHED
    crash(app, monkeypatch, owner, name, after=after, skip=skip)
    app = app.restarted(GEMINI_MODEL=UP)
    rows("UPDATE batches SET poll_after = now()")  # the lease of the crashed run has expired
    app.reconcile()
    assert described_as(app, uploads) == ALL
    assert requests_of(gemini_url, app.services.settings.gemini_api_key) == 3 + 1
    assert (in_database(), jobs(app)) == (0, [])
    assert all(result(app, upload.id)["usage"]["calls"] == 2 for upload in uploads.values())
    [[calls, batched, micro_usd]] = rows("SELECT calls, batched, micro_usd FROM spending")
    assert (calls, batched) == (3, 3)
    assert micro_usd == 1e6 * sum(result(app, upload.id)["usage"]["usd"] for upload in uploads.values())


def test_concurrent_runs_submit_and_collect_a_picture_once(waiting: Waiting, gemini_url: str) -> None:
    app, uploads = waiting
    settings = app.services.settings
    with ExitStack() as stack, ThreadPoolExecutor(2) as pool:
        workers = [Services(settings, stack.enter_context(closing(Database(settings)))) for _ in range(2)]
        for _ in range(3):
            list(pool.map(lambda each: describe_pending(each, float("inf")), workers))
    assert described_as(app, uploads) == ALL
    assert rows("SELECT (result->'usage'->>'calls')::int FROM analyses") == [[2]] * 3


# Money


def test_a_batch_costs_half_and_is_in_the_days_usage(waiting: Waiting) -> None:
    app, uploads = waiting
    app = app.restarted(DAILY_MONEY="1")
    settings = app.services.settings
    assert app.reconcile() == DONE | BATCHED
    half = daily_usage.highest_cost(settings, batch=True)
    assert half == pytest.approx(daily_usage.highest_cost(settings) / 2, abs=1)
    assert rows("SELECT calls, batched, micro_usd FROM spending") == [[3, 3, 3 * half]]
    answer = app.progress.get("/", query_string={"spending": "1"}).get_json()
    assert answer["in_batches"] == 3
    assert app.reconcile() == DONE | {"described": 3}
    answer = app.progress.get("/", query_string={"spending": "1"}).get_json()
    assert answer["in_batches"] == 0
    [today] = answer["days"]
    assert (today["calls"], today["batched"]) == (3, 3)
    full = settings.usd(today["input_tokens"], today["output_tokens"])
    assert today["usd"] == pytest.approx(full / 2, abs=3e-6)
    used = result(app, uploads["red"].id)["usage"]
    alone = settings.usd(used["input_tokens"], used["output_tokens"])
    assert used["usd"] == pytest.approx(alone / 2, abs=1e-6)
    assert rows("SELECT count(*) FROM answers WHERE answer IS NOT NULL") == [[3]]


@pytest.mark.parametrize(
    ("settings", "first"),
    [
        ({"DAILY_CALLS": "2"}, 2),
        ({"DAILY_MONEY": "0.016"}, 2),
        ({"DAILY_CALLS": "1", "GEMINI_BATCH": "1"}, 1),
    ],
)
def test_a_batch_has_no_more_requests_than_the_day_allows(
    waiting: Waiting, settings: dict[str, str], first: int
) -> None:
    app, _ = waiting
    app = app.restarted(**settings)
    assert app.reconcile() == DONE | {"batched": first}
    assert rows("SELECT calls FROM spending") == [[first]]
    assert rows("SELECT count(*) FROM analyses WHERE describe_after <= now()") == [[3 - first]]
    assert app.reconcile()["described"] >= first  # what the batch did not cost may pay for another one


@pytest.mark.parametrize(("state", "spent"), [("failed", 0), ("expired", 3)])
def test_what_may_have_been_paid_for_counts_as_spent(waiting: Waiting, state: str, spent: int) -> None:
    app, _ = waiting
    app = app.restarted(DAILY_CALLS="3", GEMINI_MODEL=f"fault-batch-{state}", GEMINI_INPUT_PRICE="1")
    assert app.reconcile() == DONE | BATCHED
    assert app.reconcile() == DONE | {"not_described": 3}
    most = daily_usage.highest_cost(app.services.settings, batch=True)
    assert rows("SELECT calls, micro_usd FROM spending") == [[3, spent * most]]


def test_a_batch_that_was_refused_costs_nothing(waiting: Waiting) -> None:
    app = waiting[0].restarted(DAILY_CALLS="3", GEMINI_MODEL="fault-batch-none", GEMINI_INPUT_PRICE="1")
    app.reconcile()
    assert rows("SELECT micro_usd, input_tokens > 0 FROM spending") != [[0, True]]
    most = daily_usage.highest_cost(app.services.settings, batch=True)
    assert rows("SELECT micro_usd FROM spending")[0][0] < most  # the reservation of the batch is returned


def test_identical_bytes_are_paid_for_once(start: Start, gemini_url: str) -> None:
    key = new_key()
    app = start(**ONCE, GEMINI_MODEL=DOWN, GEMINI_BATCH="2", GEMINI_API_KEY=key, DAILY_CALLS="100")
    uploads = [app.upload(f"{user}/a.png", picture("red")) for user in ("ana", "bob", "cid")]
    for upload in uploads:
        app.deliver(upload)
    app = app.restarted(GEMINI_MODEL=UP)
    assert app.reconcile() == DONE | {"batched": 1}
    assert app.reconcile() == DONE | {"described": 1}
    make_due()
    assert app.reconcile() == DONE | {"described": 2}
    assert requests_of(gemini_url, key) == 3 + 1
    assert [result(app, upload.id)["usage"]["reused"] for upload in uploads].count(True) == 2
    assert rows("SELECT calls FROM spending") == [[3 + 1]]


# People


def test_a_picture_deleted_meanwhile_stays_deleted_and_leaves_nothing(
    waiting: Waiting,
) -> None:
    app, uploads = waiting
    app = app.restarted(DAILY_CALLS="100")
    assert app.reconcile() == DONE | BATCHED
    gone = uploads.pop("red")
    assert app.delete(gone.id).status_code == HTTPStatus.SEE_OTHER
    assert rows("SELECT count(*) FROM batch_requests") == [[2]]
    assert app.reconcile() == DONE | {"described": 2}
    assert app.services.analyses.result(gone.id) is None
    assert described_as(app, uploads) == {"lime": True, "blue": True}
    assert rows("SELECT count(*) FROM answers") == [[2]]


@pytest.mark.parametrize(("owner", "name"), [(Describer, "parse"), (rows_of_pictures, "store")])
def test_a_picture_deleted_while_a_batch_is_collected_stays_deleted(
    waiting: Waiting, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str
) -> None:
    app, uploads = waiting
    app = app.restarted(DAILY_CALLS="100")
    assert app.reconcile() == DONE | BATCHED
    # Answers come in reverse order: the last request is recorded first.
    last = uploads[COLOURS[-1]]
    at_next_call(monkeypatch, owner, name, lambda: app.delete(last.id))
    assert app.reconcile() == DONE | {"described": 2}
    assert app.services.analyses.result(last.id) is None
    assert rows(f"SELECT count(*) FROM answers WHERE upload_id = '{last.id}'") == [[0]]  # noqa: S608


def test_marking_pictures_that_are_in_a_batch_does_not_pay_for_them_again(
    waiting: Waiting, gemini_url: str
) -> None:
    app, _ = waiting
    assert app.reconcile() == DONE | BATCHED
    assert redescribe(app, all=True, mark=True)["pictures"] == 0
    assert app.reconcile() == DONE | {"described": 3}
    assert redescribe(app, all=True, mark=True)["pictures"] == 3
    assert app.reconcile() == DONE | BATCHED
    assert app.reconcile() == DONE | {"described": 3}
    assert requests_of(gemini_url, app.services.settings.gemini_api_key) == 3 + 2


def test_a_batch_is_described_in_the_language_of_each_upload(start: Start) -> None:
    app = start(**ONCE, GEMINI_MODEL=DOWN, GEMINI_BATCH="2")
    german = app.upload("ana/a.png", picture("red"), language="de")
    english = app.upload("ana/b.png", picture("blue"))
    for upload in (german, english):
        app.deliver(upload)
    app = app.restarted(GEMINI_MODEL=UP)
    app.reconcile()
    app = app.restarted(LANGUAGE="fr")  # in the meantime
    assert app.reconcile() == DONE | {"described": 2}
    assert [result(app, upload.id)["language"] for upload in (german, english)] == ["de", "en"]


# Safety


def test_a_batch_with_an_unsafe_verdict_unpublishes_the_picture(
    waiting: Waiting,
) -> None:
    app, uploads = waiting
    app = app.restarted(SAFETY="low")
    rows("UPDATE analyses SET describe_after = NULL")
    assert redescribe(app, mark=True)["pictures"] == 3
    assert app.reconcile() == DONE | {"described": 3}  # without a verdict they do not wait
    app = app.restarted(GEMINI_MODEL="fault-unsafe-high")
    assert redescribe(app, mark=True)["pictures"] == 3
    assert app.reconcile() == DONE | BATCHED
    assert len(app.objects(app.pictures)) == 3
    assert app.reconcile() == DONE | {"not_described": 3}
    assert app.objects(app.pictures) == {}
    assert len(app.objects(app.quarantine)) == 3
    assert result(app, uploads["red"].id)["safety"]["level"] == "high"


def test_a_picture_that_a_batch_blocks_is_judged_alone(waiting: Waiting) -> None:
    app, _ = waiting
    app = app.restarted(GEMINI_MODEL="fault-blocked")
    assert app.reconcile() == DONE | BATCHED
    assert app.reconcile() == DONE | {"not_described": 3}
    assert rows("SELECT count(*) FROM analyses WHERE describe_after IS NULL") == [[0]]
    rows("UPDATE analyses SET describe_tries = 2")
    make_due()
    assert app.reconcile() == DONE | {"not_described": 3}
    assert rows("SELECT count(*) FROM analyses WHERE describe_after IS NULL") == [[3]]


# Uploads that wait


def test_an_upload_that_may_wait_gets_blips_caption_at_once_and_its_description_by_batch(
    start: Start, gemini_url: str
) -> None:
    key = new_key()
    app = start(**ONCE, GEMINI_MODEL=UP, GEMINI_BATCH="2", GEMINI_API_KEY=key)
    uploads = {
        colour: app.upload(f"ana/{colour}.png", picture(colour), describe="later")
        for colour in ("red", "blue")
    }
    assert app.deliver(uploads["red"]) == HTTPStatus.OK
    assert app.reconcile() == DONE | {"found": 1, "done": 1, "batched": 2}  # the event of blue was lost
    now = result(app, uploads["red"].id)
    assert (now["describe_later"], now["usage"]["calls"]) == (True, 0)
    assert now["alt_text"] == now["caption"] != ""
    assert now["sources"]["gemini"]["problem"] == DEFERRED
    assert requests_of(gemini_url, key) == 1
    assert app.reconcile() == DONE | {"described": 2}
    assert described_as(app, uploads) == {"red": True, "blue": True}
    assert result(app, uploads["red"].id)["usage"]["calls"] == 1


@pytest.mark.parametrize(
    ("settings", "metadata"),
    [
        ({"GEMINI_BATCH": "0"}, "later"),
        ({"SAFETY": "low"}, "later"),
        ({"GEMINI_SDK": "google-generativeai"}, "later"),
        ({}, "now"),
    ],
)
def test_an_upload_that_can_not_wait_is_described_at_once(
    start: Start, settings: dict[str, str], metadata: str
) -> None:
    app = start(**ONCE, GEMINI_MODEL=UP, **settings)
    upload = app.upload("ana/a.png", picture("red"), describe=metadata)
    assert app.deliver(upload) == HTTPStatus.OK
    assert result(app, upload.id)["description"]


# Requests


def test_each_request_of_a_batch_has_a_key_that_its_response_must_copy() -> None:
    schema = prompt.schema(Settings(), "0123456789ab")
    assert schema["properties"]["request_key"]["enum"] == ["0123456789ab"]
    assert "request_key" in schema["required"]
    assert "request_key" not in prompt.SCHEMA["properties"]
    assert prompt.request("de", key="0123456789ab").endswith("Copy into request_key: 0123456789ab.")


def test_a_batch_is_as_large_as_google_and_the_memory_allow(monkeypatch: pytest.MonkeyPatch) -> None:
    assert batches.MOST_BYTES * 4 / 3 + batches.MOST_REQUESTS * 10_000 < 20_000_000


def test_a_batch_ends_at_its_size(waiting: Waiting, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "MOST_BYTES", 1)
    app = waiting[0].restarted(GEMINI_BATCH="1")
    assert app.reconcile() == DONE | BATCHED
    assert len(jobs(app)) == 3
    assert app.reconcile() == DONE | {"described": 3}
