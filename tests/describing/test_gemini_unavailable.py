"""Whatever Gemini does, nothing is lost: it is told why, and only what may pass is tried again."""

import email.utils
import functools
import importlib
import time
from typing import Any

import google.api_core.exceptions
import google.genai.errors
import httpx2
import pytest
import requests

from dropcap.describing import gemini
from dropcap.describing.response import NotDescribed
from dropcap.settings import Settings
from tests.support.describing import calls, describer, jpeg, refusal
from tests.support.gemini_faults import FaultyGemini

# Why it did not answer


@pytest.mark.parametrize(
    ("model", "problem"),
    [
        ("fault-400", "Gemini refused (HTTP 400 INVALID_ARGUMENT)"),
        ("fault-key", "Gemini refused (HTTP 400 INVALID_ARGUMENT API_KEY_INVALID)"),
        ("fault-region", "Gemini refused (HTTP 400 FAILED_PRECONDITION)"),
        ("fault-401", "Gemini refused (HTTP 401 UNAUTHENTICATED)"),
        ("fault-403", "Gemini refused (HTTP 403 PERMISSION_DENIED)"),
        ("fault-suspended", "Gemini refused (HTTP 403 PERMISSION_DENIED CONSUMER_SUSPENDED)"),
        ("fault-404", "Gemini refused (HTTP 404 NOT_FOUND)"),
        ("no-such-model", "Gemini refused (HTTP 404 NOT_FOUND)"),
    ],
)
def test_a_refusal_that_is_not_the_pictures_fault_is_not_repeated_at_once_but_on_another_day(
    stand_in: FaultyGemini, settings: dict[str, Any], model: str, problem: str
) -> None:
    told = refusal(settings, model)
    assert (told.problem, told.retryable, told.answered, told.unbilled) == (problem, True, False, True)
    assert len(calls(stand_in, settings)) == 1


@pytest.mark.parametrize(
    ("model", "problem", "unbilled"),
    [
        ("fault-image", "Gemini can't read the picture (HTTP 400 INVALID_ARGUMENT)", True),
        ("fault-invalid-image", "Gemini can't read the picture (HTTP 400 INVALID_ARGUMENT)", True),
        ("fault-blocked", "Gemini blocked the picture (SAFETY)", False),
        ("fault-blocked-PROHIBITED_CONTENT", "Gemini blocked the picture (PROHIBITED_CONTENT)", False),
        ("fault-finish-SAFETY", "Gemini stopped early (SAFETY)", False),
    ],
)
def test_what_is_the_pictures_fault_is_told_and_never_repeated(
    stand_in: FaultyGemini, settings: dict[str, Any], model: str, problem: str, unbilled: bool
) -> None:
    told = refusal(settings, model)
    assert (told.problem, told.retryable, told.answered, told.unbilled) == (problem, False, True, unbilled)
    assert len(calls(stand_in, settings)) == 1


@pytest.mark.parametrize(
    ("model", "problem"),
    [
        ("fault-429", "Gemini's quota is used up (HTTP 429 RESOURCE_EXHAUSTED), after 2 tries"),
        ("fault-500", "Gemini refused (HTTP 500 INTERNAL), after 2 tries"),
        ("fault-502", "Gemini refused (HTTP 502 UNAVAILABLE), after 2 tries"),
        ("fault-503", "Gemini refused (HTTP 503 UNAVAILABLE), after 2 tries"),
        ("fault-504", "Gemini refused (HTTP 504 DEADLINE_EXCEEDED), after 2 tries"),
    ],
)
def test_a_passing_fault_is_tried_again_as_often_as_the_setting_says(
    stand_in: FaultyGemini, settings: dict[str, Any], model: str, problem: str
) -> None:
    assert refusal(settings, model).problem == problem
    assert len(calls(stand_in, settings)) == 2


def test_one_try_means_one_request(stand_in: FaultyGemini, settings: dict[str, Any]) -> None:
    assert refusal(settings, "fault-503", gemini_attempts=1).problem.endswith(", after 1 try")
    assert len(calls(stand_in, settings)) == 1


def test_a_fault_that_passes_costs_nothing(stand_in: FaultyGemini, settings: dict[str, Any]) -> None:
    assert "red" in describer(settings, "fault-once-503").describe(jpeg()).description
    assert len(calls(stand_in, settings)) == 2


@pytest.mark.parametrize("model", ["fault-slow", "fault-drip"])
def test_each_try_has_one_deadline_from_its_first_byte_to_its_last(
    stand_in: FaultyGemini, settings: dict[str, Any], model: str
) -> None:
    told = refusal(settings, model, gemini_timeout_s=0.5)
    assert told.problem == "Gemini did not answer within 0.5 s, after 2 tries"
    assert len(calls(stand_in, settings)) == 2


def test_a_connection_that_breaks_is_tried_again(stand_in: FaultyGemini, settings: dict[str, Any]) -> None:
    told = refusal(settings, "fault-cut")
    assert told.problem.startswith("Gemini could not be reached (")
    assert told.problem.endswith("), after 2 tries")
    assert len(calls(stand_in, settings)) == 2


def test_a_timeout_below_googles_shortest_deadline_is_allowed(settings: dict[str, Any]) -> None:
    assert describer(settings, gemini_timeout_s=5.0).describe(jpeg())


def test_a_server_that_is_not_there_is_told(settings: dict[str, Any]) -> None:
    with FaultyGemini() as gone:
        pass
    told = refusal(settings, "gemini-3.5-flash-lite", gemini_endpoint=gone.url)
    assert told.problem.startswith("Gemini could not be reached (")


def test_an_error_that_is_none_of_googles_is_told(settings: dict[str, Any]) -> None:
    assert refusal(settings, "fault-proxy").problem.startswith("Gemini")


# How long it waits


@pytest.mark.parametrize("how", ["after-0.8", "info-0.8", "date-2"])
def test_a_pause_that_the_server_asks_for_is_kept(
    stand_in: FaultyGemini, settings: dict[str, Any], how: str
) -> None:
    describer(settings, f"fault-once-429-{how}").describe(jpeg())
    first, second = calls(stand_in, settings)
    assert second.at - first.at > 0.75  # the package's own backoff would be at most 0.5 s


@pytest.mark.parametrize("how", ["after-3600", "info-3600"])
def test_a_pause_longer_than_a_try_is_not_waited_for(
    stand_in: FaultyGemini, settings: dict[str, Any], how: str
) -> None:
    told = refusal(settings, f"fault-429-{how}")
    said = "Gemini's quota is used up (HTTP 429 RESOURCE_EXHAUSTED); it asks to wait 3600 s"
    assert told.problem == said
    assert len(calls(stand_in, settings)) == 1


@pytest.mark.parametrize(
    ("delay", "seconds"),
    [("7", 7), ("0.25", 0.25), ("-3", 0), ("soon", 0), ("nan", 0), ("inf", 0), ("1 Jan 2001 00:00:00", 0)],
)
def test_a_pause_that_makes_no_sense_is_none(delay: str, seconds: float) -> None:
    response = requests.Response()
    response.headers["Retry-After"] = delay
    assert gemini.http_error(503, response).retry_after_s == seconds


def test_a_pause_may_be_a_date() -> None:
    response = requests.Response()
    response.headers["Retry-After"] = email.utils.formatdate(time.time() + 3600, usegmt=True)
    assert 3500 < gemini.http_error(503, response).retry_after_s <= 3600


def test_a_gateway_that_gave_up_waiting_does_not_know_whether_it_is_paid() -> None:
    statuses = (400, 401, 403, 404, 418, 429, 500, 502, 503, 504)
    paid = [status for status in statuses if not gemini.http_error(status, requests.Response()).unbilled]
    assert paid == [418, 502, 504]


# Whether the mapping of errors is complete


def errors_of(module: Any, *ignored: type[BaseException]) -> list[type[Exception]]:
    found = [kind for kind in vars(module).values() if isinstance(kind, type) and issubclass(kind, Exception)]
    return [kind for kind in found if not issubclass(kind, (Warning, *ignored))]


@functools.cache
def adapter(sdk: str) -> gemini.GeminiClient:
    made: gemini.GeminiClient = importlib.import_module(gemini.ADAPTERS[sdk]).Adapter(
        Settings(gemini_sdk=sdk), "key"
    )
    return made


def mapped(sdk: str, error: Exception) -> NotDescribed:
    return adapter(sdk).translate_error(error)


@pytest.mark.parametrize("kind", errors_of(google.api_core.exceptions), ids=lambda kind: kind.__name__)
def test_every_error_of_google_api_core_becomes_unavailable(kind: Any) -> None:
    told_by_status = issubclass(kind, google.api_core.exceptions.GoogleAPICallError)
    error = kind("x", response=requests.Response()) if told_by_status else kind.__new__(kind)
    told = mapped("google-generativeai", error)
    assert told.retry_now is (getattr(kind, "code", None) in {429, 500, 502, 503, 504})


@pytest.mark.parametrize("kind", errors_of(requests.exceptions), ids=lambda kind: kind.__name__)
def test_every_error_of_requests_becomes_unavailable_and_those_of_the_network_are_tried_again(
    kind: type[Exception],
) -> None:
    unreadable = (requests.exceptions.ChunkedEncodingError, requests.exceptions.ContentDecodingError)
    passing = (requests.ConnectionError, requests.Timeout, *unreadable)
    error = kind.__new__(kind)
    assert mapped("google-generativeai", error).retry_now is issubclass(kind, passing)


@pytest.mark.parametrize("kind", errors_of(google.genai.errors), ids=lambda kind: kind.__name__)
def test_every_error_of_google_genai_becomes_unavailable(kind: type[Exception]) -> None:
    if issubclass(kind, google.genai.errors.APIError):
        told = mapped("google-genai", kind(503, {}, httpx2.Response(503)))
        assert (told.problem, told.retry_now) == ("Gemini refused (HTTP 503)", True)
    else:
        assert mapped("google-genai", kind("x")).retry_now is issubclass(kind, ValueError)  # it can't be read


@pytest.mark.parametrize("kind", errors_of(httpx2), ids=lambda kind: kind.__name__)
def test_every_error_of_httpx_becomes_unavailable_and_those_of_the_network_are_tried_again(
    kind: type[Exception],
) -> None:
    error = kind.__new__(kind)
    passing = (httpx2.TransportError, httpx2.DecodingError)
    assert mapped("google-genai", error).retry_now is issubclass(kind, passing)
