"""The daily budget: the cap holds for concurrent requests, and identical bytes are paid for once."""

import io
import json
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from http import HTTPStatus
from typing import Any

import pytest
from PIL import Image

from dropcap.budget import BudgetExhausted, GeminiBudget
from dropcap.database import daily_usage
from dropcap.database.analyses import Analyses
from dropcap.database.transactions import Database
from dropcap.describing import prompt
from dropcap.describing.response import NotDescribed
from dropcap.domain.upload import language_tag
from dropcap.errors import SettingsError
from dropcap.services import Services
from dropcap.settings import MOST_INPUT_TOKENS, PICTURE_TOKENS, Settings
from tests.support.app import Start, problem, rows, small_png
from tests.support.describing import jpeg, new_key, requests_of
from tests.support.issuer import Issuer

WITH_USAGE = {"spending": "1"}
OTHERS = {"SIZES": "200", "GEMINI_ATTEMPTS": "1"}


@contextmanager
def instances(number: int, **settings: Any) -> Iterator[list[Services]]:
    """Yield services like those of several instances, each with its own connection."""
    with ExitStack() as stack:
        made = Settings(**settings)
        yield [Services(made, stack.enter_context(closing(Database(made)))) for _ in range(number)]


def described(services: Services, sha256: str) -> str:
    try:
        return GeminiBudget(services, uuid.uuid4(), sha256).describe(jpeg(), "en").description
    except NotDescribed as unavailable:
        return str(unavailable)


def all_at_once(services: list[Services], *shas: str) -> list[str]:
    with ThreadPoolExecutor(len(services)) as pool:
        return list(pool.map(described, services, shas or [uuid.uuid4().hex for _ in services]))


def usual(database_url: str, gemini_url: str, **others: Any) -> dict[str, Any]:
    return {
        "database_url": database_url,
        "gemini_endpoint": gemini_url,
        "gemini_api_key": new_key(),
        "memory_limit_mb": 32_768,
    } | others


def test_concurrent_requests_and_retries_never_exceed_the_daily_cap(
    database_url: str, gemini_url: str
) -> None:
    settings = usual(database_url, gemini_url, daily_calls=13, gemini_model="fault-503", gemini_attempts=2)
    with instances(8, **settings) as services:
        outcomes = all_at_once(services)
        assert requests_of(gemini_url, settings["gemini_api_key"]) == 13
        assert any("budget for Gemini is spent" in each for each in outcomes)  # 16 requests without the cap
        assert "budget" in described(services[0], "")
        assert requests_of(gemini_url, settings["gemini_api_key"]) == 13
    with closing(Database(Settings(database_url=database_url))) as database:
        assert database.query("SELECT calls, micro_usd FROM spending") == [[13, 0]]


def test_the_highest_cost_is_reserved_and_the_rest_returned(database_url: str, gemini_url: str) -> None:
    with instances(8, **usual(database_url, gemini_url, daily_money=0.075)) as services:
        most = daily_usage.highest_cost(services[0].settings)
        assert 4 * most < 75_000 < 5 * most

        def reserve(each: Services) -> daily_usage.Reservation | None:
            return daily_usage.reserve(each.database, each.settings)

        with ThreadPoolExecutor(8) as pool:
            reserved = [each for each in pool.map(reserve, services) if each]
        assert len(reserved) == 4
        daily_usage.record_usage(services[0].database, reserved[0], 228, 260, 60)
        assert [reserve(each) is None for each in services[:2]] == [False, True]
        assert services[0].database.query("SELECT micro_usd, input_tokens, output_tokens FROM spending") == [
            [228 + 4 * most, 260, 60]
        ]


def test_a_request_of_unknown_cost_counts_as_the_highest_cost(database_url: str, gemini_url: str) -> None:
    settings = usual(database_url, gemini_url, daily_money=1.0, gemini_attempts=1, gemini_timeout_s=10)
    prices = {"gemini_input_price": 0.3, "gemini_output_price": 2.5}
    down = {"gemini_endpoint": "http://127.0.0.1:1"}
    cases: list[tuple[dict[str, Any], bool]] = [
        ({"gemini_model": "fault-cut"}, True),
        ({"gemini_model": "fault-502"}, True),
        ({"gemini_model": "fault-500"}, False),
        (down, False),
        (down | {"gemini_sdk": "google-genai"}, False),
    ]
    kept = 0
    for case, spent in cases:
        with instances(1, **settings | prices | case) as [services]:
            budget = GeminiBudget(services, uuid.uuid4(), "")
            with pytest.raises(NotDescribed):
                budget.describe(jpeg(), "en")
            most = daily_usage.highest_cost(services.settings)
            assert budget.usage(0).usd == (most / 1e6 if spent else 0)
            kept += most if spent else 0
            assert services.database.query("SELECT micro_usd FROM spending") == [[kept]]


def test_the_reserved_tokens_exceed_those_of_the_longest_prompt() -> None:
    most = Settings(safety="low")
    longest = language_tag("abc-defg-123")
    assert longest
    parts = [prompt.instruction(most), prompt.request(longest, hint=True), prompt.schema(most)]
    assert (
        len(json.dumps(parts).encode()) + 2 * max(PICTURE_TOKENS.values()) < MOST_INPUT_TOKENS
    )  # a token is at least one byte


def test_concurrent_uploads_of_the_same_bytes_are_paid_for_once(database_url: str, gemini_url: str) -> None:
    settings = usual(database_url, gemini_url, daily_calls=100)
    with instances(2, **settings) as services:
        one, other = all_at_once(services, "same", "same")
        assert one == other
        assert "stand-in" in one
    assert requests_of(gemini_url, settings["gemini_api_key"]) == 1


def test_responses_that_are_invalid_or_lack_a_required_verdict_are_not_cached(
    database_url: str, gemini_url: str
) -> None:
    cases = {
        ("fault-missing-safety", "low"): 2,
        ("fault-malformed", "low"): 2,
        ("fault-finish-MAX_TOKENS", "low"): 2,
        ("fault-malformed", "off"): 2,
        ("fault-empty", "off"): 2,
        ("fault-ratedmalformed-HIGH", "low"): 2,
        ("fault-blocked", "low"): 1,
        ("fault-unsafe-high", "low"): 1,
    }
    for (model, level), expected in cases.items():
        settings = usual(database_url, gemini_url, daily_calls=100, gemini_model=model, safety=level)
        settings["gemini_attempts"] = 1
        with instances(1, **settings) as [services]:
            assert described(services, "same") == described(services, "same")
        assert requests_of(gemini_url, settings["gemini_api_key"]) == expected, model


def test_the_same_bytes_are_paid_for_once_even_if_an_instance_crashes_before_recording(
    start: Start, gemini_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = new_key()
    app = start(**OTHERS, DAILY_CALLS="100", GEMINI_API_KEY=key)
    first = app.upload("ana/a.png", small_png())
    with monkeypatch.context() as crashing:
        crashing.setattr(Analyses, "record", None)
        assert app.deliver(first) == HTTPStatus.INTERNAL_SERVER_ERROR
    assert app.deliver(first) == HTTPStatus.OK
    again = app.upload("bob/b.png", small_png())
    assert app.deliver(again) == HTTPStatus.OK
    assert requests_of(gemini_url, key) == 1
    one, other = (app.services.analyses.result(each.id) or {} for each in (first, again))
    assert one["description"] == other["description"] != ""
    assert one["provenance"]["gemini"] == other["provenance"]["gemini"]
    assert (other["usage"]["calls"], other["usage"]["reused"]) == (0, True)
    assert other["usage"]["gb_seconds"] > 0
    [today] = app.progress.get("/", query_string=WITH_USAGE).get_json()["days"]
    assert (today["calls"], today["pictures"], today["reused"]) == (1, 2, 2)
    assert today["usd"] == pytest.approx(
        (today["input_tokens"] * 0.3 + today["output_tokens"] * 2.5) / 1e6, abs=1e-6
    )

    # A picture that is not kept is not cached, and deleting a picture deletes its cached response.
    Image.new("RGB", (60, 40), "blue").save(blue := io.BytesIO(), "PNG")
    assert app.analyze(data=blue.getvalue()).get_json()["usage"]["calls"] == 1
    assert rows("SELECT count(*) FROM answers") == [[1]]
    assert app.delete(again.id, "bob").status_code == HTTPStatus.SEE_OTHER
    assert rows("SELECT count(*) FROM answers") == [[0]]


def test_over_the_cap_blips_caption_is_recorded_and_the_description_follows_on_another_day(
    start: Start, gemini_url: str
) -> None:
    key = new_key()
    app = start(**OTHERS, DAILY_CALLS="1", GEMINI_API_KEY=key)
    app.deliver(app.upload("ana/a.png", small_png()))
    Image.new("RGB", (60, 40), "blue").save(blue := io.BytesIO(), "PNG")
    late = app.upload("ana/b.png", blue.getvalue())
    assert app.deliver(late) == HTTPStatus.OK
    assert app.reconcile() == {"complete": True}
    result = app.services.analyses.result(late.id) or {}
    assert result["sources"]["gemini"]["problem"] == str(
        BudgetExhausted("the day's budget for Gemini is spent (DAILY_CALLS, DAILY_MONEY)")
    )
    assert result["alt_text"] == result["caption"] != ""
    assert rows("SELECT describe_tries FROM analyses WHERE describe_after IS NOT NULL") == [[0]]
    assert requests_of(gemini_url, key) == 1
    rows("UPDATE spending SET day = day - 1")
    assert app.reconcile() == {"described": 1, "complete": True}


def test_without_a_cap_no_usage_is_stored(start: Start) -> None:
    app = start(**OTHERS)
    answer = app.analyze(data=small_png(), query_string={"keep": "true", "user": "ana"}).get_json()
    assert answer["usage"]["usd"] > 0
    assert rows("SELECT count(*) FROM spending") == rows("SELECT count(*) FROM answers") == [[0]]


def test_only_operators_can_read_the_usage_of_all_pictures(start: Start, issuer: Issuer) -> None:
    app = start(**issuer.settings, OPERATORS="olga")
    assert problem(app.progress.get("/", query_string=WITH_USAGE), 401)
    refused = app.progress.get("/", query_string=WITH_USAGE, headers=issuer.signed_in("ana"))
    assert problem(refused, 403)["code"] == "operators_only"
    allowed = app.progress.get("/", query_string=WITH_USAGE, headers=issuer.signed_in("olga"))
    assert allowed.get_json() == {
        "daily_calls": 0,
        "daily_money": 0.0,
        "in_batches": 0,
        "days": [],
    }


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"DAILY_MONEY": "5", "GEMINI_MODEL": "gemini-9"}, "the price of gemini-9 is unknown"),
        ({"DAILY_MONEY": "0.01"}, "at least the 0.0153 US\\$ that one request may cost"),
    ],
)
def test_settings_refuse_a_money_cap_that_can_not_be_enforced(wrong: dict[str, str], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        Settings.read(wrong)
    prices = {"GEMINI_INPUT_PRICE": "1", "GEMINI_OUTPUT_PRICE": "2"}
    assert Settings.read(wrong | prices | {"DAILY_MONEY": "5"}).usd(1_000_000, 500_000) == 2
