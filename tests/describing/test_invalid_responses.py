"""An invalid response is retried, then deferred, and never cached."""

from typing import Any

import pytest
from google.genai.types import BlockedReason, FinishReason

from dropcap.database import daily_usage
from dropcap.describing import gemini, moderation, prompt
from dropcap.describing.response import parse
from dropcap.domain.gemini_response import GeminiResponse
from dropcap.settings import PICTURE_TOKENS
from tests.support.app import Start, rows, small_png
from tests.support.describing import (
    DONE,
    ONCE,
    calls,
    describer,
    make_due,
    new_key,
    redescribe,
    refusal,
    requests_of,
    result,
)
from tests.support.describing import jpeg as picture
from tests.support.gemini_faults import FINISH_REASONS, FaultyGemini

# The problem that each invalid response is reported as.
PROBLEMS = {
    "fault-no-candidate": "Gemini's answer is empty",
    "fault-empty": "Gemini's answer is empty",
    "fault-ok-error": "Gemini's answer is empty",
    "fault-finish-RECITATION": "Gemini stopped early (RECITATION)",
    "fault-finish-MAX_TOKENS": "Gemini stopped early (MAX_TOKENS)",
    "fault-cut-text": "Gemini stopped early (MAX_TOKENS)",
    "fault-malformed": "Gemini's answer is malformed: it is not JSON",
    "fault-nested": "Gemini's answer ",  # google-genai can't read it
    "fault-array": "Gemini's answer is malformed: it is not an object",
    "fault-huge": "Gemini's answer is malformed: 10",
    "fault-missing-description": "Gemini's answer is malformed: description is not a text",
    "fault-missing-alt_text": "Gemini's answer is malformed: alt_text is not a text",
    "fault-missing-tags": "Gemini's answer is malformed: tags is not a list of texts",
    "fault-missing-text": "Gemini's answer is malformed: text is not a text",
    "fault-type-description": "Gemini's answer is malformed: description is not a text",
    "fault-type-tags": "Gemini's answer is malformed: tags is not a list of texts",
    "fault-blank": "Gemini's answer is malformed: description or alt_text is empty",
    "fault-page": "Gemini's answer could not be read (",
}
KINDS = ("no-candidate", "empty", "ok-error", "finish-RECITATION", "finish-MAX_TOKENS", "cut-text", "page")


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gemini, "FIRST_BACKOFF_S", 0.01)


@pytest.mark.parametrize("model", PROBLEMS)
def test_an_invalid_response_uses_the_remaining_tries_and_is_then_deferred(
    stand_in: FaultyGemini, settings: dict[str, Any], model: str
) -> None:
    error = refusal(settings, model)
    assert error.problem.startswith(PROBLEMS[model])
    assert error.problem.endswith(", after 2 tries")
    assert error.retryable
    assert error.response is None
    if model not in ("fault-page", "fault-nested"):
        assert error.answered
    assert len(calls(stand_in, settings)) == 2


@pytest.mark.parametrize("kind", KINDS)
def test_a_single_invalid_response_costs_one_try_only(
    stand_in: FaultyGemini, settings: dict[str, Any], kind: str
) -> None:
    assert "red" in describer(settings, f"fault-once-{kind}").describe(picture()).description
    assert len(calls(stand_in, settings)) == 2


# SAFETY and similar reasons are verdicts on the picture; all others are invalid responses.
@pytest.mark.parametrize("reason", [each.value for each in FinishReason if each.name != "STOP"])
def test_each_finish_reason_has_the_same_effect_with_both_packages(
    stand_in: FaultyGemini, settings: dict[str, Any], reason: str
) -> None:
    verdicts = ("SAFETY", "BLOCKLIST", "PROHIBITED_CONTENT", "IMAGE_SAFETY", "IMAGE_PROHIBITED_CONTENT")
    error = refusal(settings, f"fault-finish-{reason}", gemini_attempts=1, safety="low")
    final = reason in verdicts
    assert (error.retry_now, error.retryable, error.answered) == (not final, not final, True)
    assert (error.response is not None) is final
    assert error.verdict
    assert (error.verdict.blocked, error.verdict.level) == (final, "high" if final else "unknown")
    if reason in FINISH_REASONS[1:]:  # google-generativeai has numbers for these only
        assert error.problem.startswith(f"Gemini stopped early ({reason})")
    assert final is (reason in moderation.BLOCKED)


@pytest.mark.parametrize("reason", ["SAFETY", "OTHER", "BLOCKLIST", "PROHIBITED_CONTENT", "IMAGE_SAFETY"])
def test_each_block_reason_is_permanent_with_both_packages(
    stand_in: FaultyGemini, settings: dict[str, Any], reason: str
) -> None:
    assert BlockedReason(reason)
    error = refusal(settings, f"fault-blocked-{reason}", safety="low")
    assert error.problem == f"Gemini blocked the picture ({reason})"
    assert (error.retry_now, error.retryable) == (False, False)
    assert error.verdict
    assert error.verdict.blocked is (reason != "OTHER")
    assert (error.verdict.level == "high") is error.verdict.blocked
    assert len(calls(stand_in, settings)) == 1


def test_a_fenced_response_needs_no_retry(stand_in: FaultyGemini, settings: dict[str, Any]) -> None:
    assert "red" in describer(settings, "fault-fenced").describe(picture()).description
    assert len(calls(stand_in, settings)) == 1


@pytest.mark.parametrize("end", ["", "\n```", "```", "\n```\n"])
@pytest.mark.parametrize("begin", ["```json\n", "```\n", "```JSON ", "\n```json\n\n"])
def test_a_fence_of_any_form_is_removed(settings: dict[str, Any], begin: str, end: str) -> None:
    text = '{"description": "A ``` b.", "alt_text": "```", "tags": [], "text": ""}'
    answer = GeminiResponse(begin + text + end, "STOP", "", "v")
    assert parse(answer, "m").description == "A ``` b."


def test_only_a_retry_after_an_invalid_response_has_the_hint(
    stand_in: FaultyGemini, settings: dict[str, Any]
) -> None:
    assert "red" in describer(settings, "fault-talkative").describe(picture()).description
    first, second = (call.body["contents"][0]["parts"][1]["text"] for call in calls(stand_in, settings))
    assert (first, second) == (prompt.REQUEST, prompt.REQUEST + prompt.HINT)
    describer(settings, "fault-once-503").describe(picture())
    assert calls(stand_in, settings)[-1].body["contents"][0]["parts"][1]["text"] == prompt.REQUEST


def test_ratings_above_safety_are_a_permanent_verdict_even_for_an_invalid_response(
    stand_in: FaultyGemini, settings: dict[str, Any]
) -> None:
    error = refusal(settings, "fault-ratedmalformed-HIGH", safety="low")
    assert error.verdict
    assert (error.verdict.rated, error.retryable, error.response) == ("high", False, None)
    assert len(calls(stand_in, settings)) == 1
    assert refusal(settings, "fault-ratedmalformed-LOW", safety="low").retryable
    assert len(calls(stand_in, settings)) == 3


# In the pipeline


@pytest.mark.parametrize("model", ["fault-empty", "fault-ok-error"])  # of known and of unknown cost
def test_an_invalid_response_is_never_cached_and_the_picture_is_described_later(
    start: Start, gemini_url: str, model: str
) -> None:
    key = new_key()
    prices = {"GEMINI_INPUT_PRICE": "0.3", "GEMINI_OUTPUT_PRICE": "2.5"}
    gemini = {"GEMINI_ATTEMPTS": "2", "GEMINI_MODEL": model, "GEMINI_API_KEY": key}
    app = start(**ONCE | gemini, **prices, DAILY_CALLS="100")
    upload = app.upload("ana/a.png", small_png())
    assert app.deliver(upload) == 200
    assert requests_of(gemini_url, key) == 2
    now = result(app, upload.id)
    assert (now["describe_later"], now["usage"]["calls"], now["usage"]["reused"]) == (True, 2, False)
    assert rows("SELECT count(*) FROM answers") == [[0]]
    [[calls, micro_usd, tokens]] = rows("SELECT calls, micro_usd, input_tokens FROM spending")
    cost = (2 * PICTURE_TOKENS["medium"] * 0.3, 2 * 600)
    if model == "fault-ok-error":
        cost = (2 * daily_usage.highest_cost(app.services.settings),) * 2
    assert calls == 2
    assert cost[0] <= micro_usd <= cost[1]
    least = 0 if model == "fault-ok-error" else 2 * PICTURE_TOKENS["medium"]
    assert least <= tokens <= least + 100
    assert now["usage"]["usd"] == pytest.approx(micro_usd / 1e6)
    assert app.reconcile() == DONE | {"not_described": 1}
    make_due()
    app = app.restarted(GEMINI_MODEL="gemini-3.5-flash-lite")
    assert app.reconcile() == DONE | {"described": 1}
    assert "red" in result(app, upload.id)["description"]


def test_an_invalid_response_cached_by_an_older_release_is_not_used(start: Start, gemini_url: str) -> None:
    key = new_key()
    app = start(**ONCE, DAILY_CALLS="100", GEMINI_API_KEY=key)
    first, again, third = (app.upload(f"ana/{name}.png", small_png()) for name in "abc")
    app.deliver(first)
    invalid = (
        '{"text": "", "finish": "RECITATION", "blocked": "", "version": "", "ratings": [], "tokens": null}'
    )
    rows("UPDATE answers SET answer = CAST(:invalid AS jsonb)", invalid=invalid)
    for upload in (again, third):
        app.deliver(upload)
        assert "red" in result(app, upload.id)["description"]
    assert requests_of(gemini_url, key) == 2


def test_the_cap_applies_between_tries_and_the_problem_has_both_causes(start: Start, gemini_url: str) -> None:
    key = new_key()
    app = start(
        **ONCE | {"GEMINI_ATTEMPTS": "5"}, DAILY_CALLS="2", GEMINI_MODEL="fault-empty", GEMINI_API_KEY=key
    )
    upload = app.upload("ana/a.png", small_png())
    app.deliver(upload)
    assert requests_of(gemini_url, key) == 2
    now = result(app, upload.id)
    assert now["sources"]["gemini"]["problem"] == (
        "Gemini's answer is empty; the day's budget for Gemini is spent (DAILY_CALLS, DAILY_MONEY)"
    )
    assert now["describe_later"]


def test_a_picture_that_gemini_can_not_read_keeps_blips_caption(start: Start) -> None:
    app = start(**ONCE, GEMINI_MODEL="fault-image")
    upload = app.upload("ana/a.png", small_png())
    assert app.deliver(upload) == 200
    now = result(app, upload.id)
    assert now["caption"]
    assert not now["describe_later"]
    assert rows("SELECT count(*) FROM analyses WHERE describe_after IS NOT NULL") == [[0]]
    app = app.restarted(GEMINI_MODEL="fault-key")
    wrong = app.upload("ana/b.png", small_png())
    app.deliver(wrong)
    assert result(app, wrong.id)["describe_later"]


def test_invalid_responses_count_as_several_tries_and_the_old_description_stays(start: Start) -> None:
    app = start(**ONCE)
    upload = app.upload("ana/a.png", small_png())
    app.deliver(upload)
    before = result(app, upload.id)
    app = app.restarted(GEMINI_MODEL="fault-finish-RECITATION")
    assert redescribe(app, mark=True)["pictures"] == 1
    # Nine tries from days on which Gemini was down: one more invalid response does not end the retries.
    rows("UPDATE analyses SET describe_tries = 9")
    assert app.reconcile() == DONE | {"not_described": 1}
    assert result(app, upload.id)["describe_later"]
    rows("UPDATE analyses SET describe_tries = 0, describe_after = now()")
    tries = 0
    while app.reconcile() == DONE | {"not_described": 1}:
        tries += 1
        make_due()
    assert tries == 5
    after = result(app, upload.id)
    for name in ("description", "alt_text", "tags", "provenance", "sources"):
        assert after[name] == before[name]
