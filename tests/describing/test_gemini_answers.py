"""An answer that is none is asked for again, then put off: it is never the last word, and nowhere kept."""

import uuid
from typing import Any

import pytest
from google.genai.types import BlockedReason, FinishReason

from dropcap.database import daily_usage
from dropcap.describing import gemini, moderation, prompt
from dropcap.describing.response import parse
from dropcap.domain.gemini_response import GeminiResponse
from tests.describing.test_budget import requests_of
from tests.describing.test_deferred import DONE, its_time_comes, redescribe, result
from tests.support.app import Start, rows, small_png
from tests.support.describing import calls, describer, refusal
from tests.support.describing import jpeg as picture
from tests.support.gemini_faults import FINISH_REASONS, FaultyGemini

# What came, and what is said of it.
UNFIT = {
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
ONCE = {"SIZES": "200", "GEMINI_ATTEMPTS": "1"}


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gemini, "FIRST_BACKOFF_S", 0.01)


@pytest.mark.parametrize("model", UNFIT)
def test_it_takes_the_remaining_tries_and_is_then_put_off(
    stand_in: FaultyGemini, settings: dict[str, Any], model: str
) -> None:
    told = refusal(settings, model)
    assert told.problem.startswith(UNFIT[model])
    assert told.problem.endswith(", after 2 tries")
    assert told.retryable
    assert told.response is None
    if model not in ("fault-page", "fault-nested"):
        assert told.answered
    assert len(calls(stand_in, settings)) == 2


@pytest.mark.parametrize("kind", KINDS)
def test_one_that_comes_once_costs_a_try_and_no_description(
    stand_in: FaultyGemini, settings: dict[str, Any], kind: str
) -> None:
    assert "red" in describer(settings, f"fault-once-{kind}").describe(picture()).description
    assert len(calls(stand_in, settings)) == 2


# SAFETY and its like are verdicts on the picture; all others, of any name, are no answer.
@pytest.mark.parametrize("reason", [each.value for each in FinishReason if each.name != "STOP"])
def test_each_reason_to_stop_means_the_same_over_both_packages(
    stand_in: FaultyGemini, settings: dict[str, Any], reason: str
) -> None:
    verdicts = ("SAFETY", "BLOCKLIST", "PROHIBITED_CONTENT", "IMAGE_SAFETY", "IMAGE_PROHIBITED_CONTENT")
    told = refusal(settings, f"fault-finish-{reason}", gemini_attempts=1, safety="low")
    final = reason in verdicts
    assert (told.retry_now, told.retryable, told.answered, told.response is not None) == (
        not final,
        not final,
        True,
        final,
    )
    assert told.verdict
    assert (told.verdict.blocked, told.verdict.level) == (final, "high" if final else "unknown")
    if reason in FINISH_REASONS[1:]:  # the others have no number, by which google-generativeai knows them
        assert told.problem.startswith(f"Gemini stopped early ({reason})")
    assert final is (reason in moderation.BLOCKED)


@pytest.mark.parametrize("reason", ["SAFETY", "OTHER", "BLOCKLIST", "PROHIBITED_CONTENT", "IMAGE_SAFETY"])
def test_each_reason_to_block_a_picture_is_final_over_both_packages(
    stand_in: FaultyGemini, settings: dict[str, Any], reason: str
) -> None:
    assert BlockedReason(reason)
    told = refusal(settings, f"fault-blocked-{reason}", safety="low")
    assert told.problem == f"Gemini blocked the picture ({reason})"
    assert (told.retry_now, told.retryable) == (False, False)
    assert told.verdict
    assert told.verdict.blocked is (reason != "OTHER")
    assert len(calls(stand_in, settings)) == 1


def test_a_fence_around_an_answer_costs_nothing(stand_in: FaultyGemini, settings: dict[str, Any]) -> None:
    assert "red" in describer(settings, "fault-fenced").describe(picture()).description
    assert len(calls(stand_in, settings)) == 1


@pytest.mark.parametrize("end", ["", "\n```", "```", "\n```\n"])
@pytest.mark.parametrize("begin", ["```json\n", "```\n", "```JSON ", "\n```json\n\n"])
def test_a_fence_of_any_form_is_taken_off(settings: dict[str, Any], begin: str, end: str) -> None:
    text = '{"description": "A ``` b.", "alt_text": "```", "tags": [], "text": ""}'
    answer = GeminiResponse(begin + text + end, "STOP", "", "v")
    assert parse(answer, "m").description == "A ``` b."


def test_the_next_request_says_what_is_wanted_and_the_first_does_not(
    stand_in: FaultyGemini, settings: dict[str, Any]
) -> None:
    assert "red" in describer(settings, "fault-talkative").describe(picture()).description
    first, second = (call.body["contents"][0]["parts"][1]["text"] for call in calls(stand_in, settings))
    assert (first, second) == (prompt.REQUEST, prompt.REQUEST + prompt.HINT)
    describer(settings, "fault-once-503").describe(picture())
    assert calls(stand_in, settings)[-1].body["contents"][0]["parts"][1]["text"] == prompt.REQUEST


def test_ratings_above_safety_are_a_verdict_also_without_an_answer(
    stand_in: FaultyGemini, settings: dict[str, Any]
) -> None:
    told = refusal(settings, "fault-ratedmalformed-HIGH", safety="low")
    assert told.verdict
    assert (told.verdict.rated, told.retryable, told.response) == ("high", False, None)
    assert len(calls(stand_in, settings)) == 1
    assert refusal(settings, "fault-ratedmalformed-LOW", safety="low").retryable
    assert len(calls(stand_in, settings)) == 3


# In the function


@pytest.mark.parametrize(
    "model", ["fault-empty", "fault-finish-RECITATION", "fault-ok-error", "fault-cut-text"]
)
def test_it_is_kept_nowhere_and_the_picture_is_described_when_gemini_answers(
    start: Start, gemini_url: str, model: str
) -> None:
    key = f"key-{uuid.uuid4().hex}"
    prices = {"GEMINI_INPUT_PRICE": "0.3", "GEMINI_OUTPUT_PRICE": "2.5"}
    asked = {"GEMINI_ATTEMPTS": "2", "GEMINI_MODEL": model, "GEMINI_API_KEY": key}
    app = start(**ONCE | asked, **prices, DAILY_CALLS="100")
    upload = app.upload("ana/a.png", small_png())
    assert app.deliver(upload) == 200
    assert requests_of(gemini_url, key) == 2
    now = result(app, upload.id)
    assert (now["describe_later"], now["usage"]["calls"], now["usage"]["reused"]) == (True, 2, False)
    assert rows("SELECT count(*) FROM answers") == [[0]]
    [[calls, micro_usd, tokens]] = rows("SELECT calls, micro_usd, input_tokens FROM spending")
    cost = (2 * 258 * 0.3, 2 * 500)
    if model == "fault-ok-error":  # nobody knows
        cost = (2 * daily_usage.highest_cost(app.services.settings),) * 2
    assert calls == 2
    assert cost[0] <= micro_usd <= cost[1]
    assert tokens == (0 if model == "fault-ok-error" else 2 * 258)
    assert now["usage"]["usd"] == pytest.approx(micro_usd / 1e6)
    assert app.sweep() == DONE | {"not_described": 1}
    its_time_comes()
    app = app.restarted(GEMINI_MODEL="gemini-3.5-flash-lite")
    assert app.sweep() == DONE | {"described": 1}
    assert "red" in result(app, upload.id)["description"]


def test_what_an_older_release_kept_is_asked_for_anew(start: Start, gemini_url: str) -> None:
    key = f"key-{uuid.uuid4().hex}"
    app = start(**ONCE, DAILY_CALLS="100", GEMINI_API_KEY=key)
    first, again, third = (app.upload(f"ana/{name}.png", small_png()) for name in "abc")
    app.deliver(first)
    useless = (
        '{"text": "", "finish": "RECITATION", "blocked": "", "version": "", "ratings": [], "tokens": null}'
    )
    rows("UPDATE answers SET answer = CAST(:useless AS jsonb)", useless=useless)
    for upload in (again, third):
        app.deliver(upload)
        assert "red" in result(app, upload.id)["description"]
    assert requests_of(gemini_url, key) == 2


def test_the_cap_holds_between_two_tries_and_what_was_wrong_is_told(start: Start, gemini_url: str) -> None:
    key = f"key-{uuid.uuid4().hex}"
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


def test_a_picture_that_gemini_can_not_read_is_described_by_blip_for_good(start: Start) -> None:
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


def test_unfit_answers_end_after_fewer_tries_as_each_is_paid_and_keep_what_there_was(start: Start) -> None:
    app = start(**ONCE)
    upload = app.upload("ana/a.png", small_png())
    app.deliver(upload)
    before = result(app, upload.id)
    app = app.restarted(GEMINI_MODEL="fault-finish-RECITATION")
    assert redescribe(app, mark=True)["pictures"] == 1
    rows(
        "UPDATE analyses SET describe_tries = 9"
    )  # of days on which Gemini was away: one unfit answer is no end
    assert app.sweep() == DONE | {"not_described": 1}
    assert result(app, upload.id)["describe_later"]
    rows("UPDATE analyses SET describe_tries = 0, describe_after = now()")
    tries = 0
    while app.sweep() == DONE | {"not_described": 1}:
        tries += 1
        its_time_comes()
    assert tries == 5
    after = result(app, upload.id)
    for name in ("description", "alt_text", "tags", "provenance", "sources"):
        assert after[name] == before[name]
