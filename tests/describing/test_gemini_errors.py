"""Every error of Gemini and of both packages is reported, and only transient ones are retried."""

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

from dropcap.describing import client, gemini
from dropcap.describing.response import NotDescribed
from dropcap.settings import Settings
from tests.support.describing import calls, describer, jpeg, refusal
from tests.support.gemini_faults import FaultyGemini

# Errors


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
def test_a_refusal_not_caused_by_the_picture_is_not_retried_now_but_later(
    stand_in: FaultyGemini, settings: dict[str, Any], model: str, problem: str
) -> None:
    error = refusal(settings, model)
    assert (error.problem, error.retryable, error.answered, error.unbilled) == (problem, True, False, True)
    assert len(calls(stand_in, settings)) == 1


@pytest.mark.parametrize(
    ("model", "problem", "unbilled"),
    [
        ("fault-image", "Gemini can't read the picture (HTTP 400 INVALID_ARGUMENT)", True),
        ("fault-invalid-image", "Gemini can't read the picture (HTTP 400 INVALID_ARGUMENT)", True),
        ("fault-blocked", "Gemini blocked the picture (SAFETY)", False),
        ("fault-finish-SAFETY", "Gemini stopped early (SAFETY)", False),
    ],
)
def test_an_error_caused_by_the_picture_is_never_retried(
    stand_in: FaultyGemini, settings: dict[str, Any], model: str, problem: str, unbilled: bool
) -> None:
    error = refusal(settings, model)
    assert (error.problem, error.unbilled) == (problem, unbilled)
    assert (error.retryable, error.answered) == (False, True)
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
def test_a_transient_error_is_retried_up_to_gemini_attempts(
    stand_in: FaultyGemini, settings: dict[str, Any], model: str, problem: str
) -> None:
    assert refusal(settings, model).problem == problem
    assert len(calls(stand_in, settings)) == 2


def test_one_attempt_means_one_request(stand_in: FaultyGemini, settings: dict[str, Any]) -> None:
    assert refusal(settings, "fault-503", gemini_attempts=1).problem.endswith(", after 1 try")
    assert len(calls(stand_in, settings)) == 1


def test_a_retry_after_a_transient_error_succeeds(stand_in: FaultyGemini, settings: dict[str, Any]) -> None:
    assert "red" in describer(settings, "fault-once-503").describe(jpeg()).description
    assert len(calls(stand_in, settings)) == 2


@pytest.mark.parametrize("model", ["fault-slow", "fault-drip"])
def test_the_deadline_of_an_attempt_covers_the_whole_response(
    stand_in: FaultyGemini, settings: dict[str, Any], model: str
) -> None:
    error = refusal(settings, model, gemini_timeout_s=0.5)
    assert error.problem == "Gemini did not answer within 0.5 s, after 2 tries"
    assert len(calls(stand_in, settings)) == 2


def test_a_broken_connection_is_retried(stand_in: FaultyGemini, settings: dict[str, Any]) -> None:
    error = refusal(settings, "fault-cut")
    assert error.problem.startswith("Gemini could not be reached (")
    assert error.problem.endswith("), after 2 tries")
    assert len(calls(stand_in, settings)) == 2


def test_a_timeout_below_googles_shortest_deadline_is_allowed(settings: dict[str, Any]) -> None:
    assert describer(settings, gemini_timeout_s=5.0).describe(jpeg())


def test_a_missing_server_is_reported(settings: dict[str, Any]) -> None:
    with FaultyGemini() as stopped:
        pass
    error = refusal(settings, "gemini-3.5-flash-lite", gemini_endpoint=stopped.url)
    assert error.problem.startswith("Gemini could not be reached (")


def test_an_error_of_a_proxy_is_reported(settings: dict[str, Any]) -> None:
    assert refusal(settings, "fault-proxy").problem.startswith("Gemini")


# Pauses


@pytest.mark.parametrize("how", ["after-0.8", "info-0.8", "date-2"])
def test_a_retry_waits_as_long_as_the_server_asks(
    stand_in: FaultyGemini, settings: dict[str, Any], how: str
) -> None:
    describer(settings, f"fault-once-429-{how}").describe(jpeg())
    first, second = calls(stand_in, settings)
    assert second.at - first.at > 0.75  # the package's own backoff would be at most 0.5 s


@pytest.mark.parametrize("how", ["after-3600", "info-3600"])
def test_a_pause_longer_than_an_attempt_ends_the_retries(
    stand_in: FaultyGemini, settings: dict[str, Any], how: str
) -> None:
    error = refusal(settings, f"fault-429-{how}")
    problem = "Gemini's quota is used up (HTTP 429 RESOURCE_EXHAUSTED); it asks to wait 3600 s"
    assert error.problem == problem
    assert len(calls(stand_in, settings)) == 1


@pytest.mark.parametrize(
    ("delay", "seconds"),
    [("7", 7), ("0.25", 0.25), ("-3", 0), ("soon", 0), ("nan", 0), ("inf", 0), ("1 Jan 2001 00:00:00", 0)],
)
def test_an_invalid_pause_counts_as_none(delay: str, seconds: float) -> None:
    response = requests.Response()
    response.headers["Retry-After"] = delay
    assert client.http_error(503, response).retry_after_s == seconds


def test_a_pause_may_be_a_date() -> None:
    response = requests.Response()
    response.headers["Retry-After"] = email.utils.formatdate(time.time() + 3600, usegmt=True)
    assert 3500 < client.http_error(503, response).retry_after_s <= 3600


def test_errors_of_gateways_count_as_billed() -> None:
    statuses = (400, 401, 403, 404, 418, 429, 500, 502, 503, 504)
    paid = [status for status in statuses if not client.http_error(status, requests.Response()).unbilled]
    assert paid == [418, 502, 504]


# The translation of errors is complete


def errors_of(module: Any, *ignored: type[BaseException]) -> list[type[Exception]]:
    found = [kind for kind in vars(module).values() if isinstance(kind, type) and issubclass(kind, Exception)]
    return [kind for kind in found if not issubclass(kind, (Warning, *ignored))]


@functools.cache
def adapter(sdk: str) -> client.GeminiClient:
    made: client.GeminiClient = importlib.import_module(gemini.ADAPTERS[sdk]).Adapter(
        Settings(gemini_sdk=sdk), "key"
    )
    return made


def translate(sdk: str, error: Exception) -> NotDescribed:
    return adapter(sdk).translate_error(error)


@pytest.mark.parametrize("kind", errors_of(google.api_core.exceptions), ids=lambda kind: kind.__name__)
def test_every_error_of_google_api_core_is_translated(kind: Any) -> None:
    has_status = issubclass(kind, google.api_core.exceptions.GoogleAPICallError)
    error = kind("x", response=requests.Response()) if has_status else kind.__new__(kind)
    translated = translate("google-generativeai", error)
    assert translated.retry_now is (getattr(kind, "code", None) in {429, 500, 502, 503, 504})


@pytest.mark.parametrize("kind", errors_of(requests.exceptions), ids=lambda kind: kind.__name__)
def test_every_error_of_requests_is_translated_and_network_errors_are_retried(kind: type[Exception]) -> None:
    unreadable = (requests.exceptions.ChunkedEncodingError, requests.exceptions.ContentDecodingError)
    transient = (requests.ConnectionError, requests.Timeout, *unreadable)
    error = kind.__new__(kind)
    assert translate("google-generativeai", error).retry_now is issubclass(kind, transient)


@pytest.mark.parametrize("kind", errors_of(google.genai.errors), ids=lambda kind: kind.__name__)
def test_every_error_of_google_genai_is_translated(kind: type[Exception]) -> None:
    if issubclass(kind, google.genai.errors.APIError):
        translated = translate("google-genai", kind(503, {}, httpx2.Response(503)))
        assert (translated.problem, translated.retry_now) == ("Gemini refused (HTTP 503)", True)
    else:
        unreadable = issubclass(kind, ValueError)  # an unreadable response
        assert translate("google-genai", kind("x")).retry_now is unreadable


@pytest.mark.parametrize("kind", errors_of(httpx2), ids=lambda kind: kind.__name__)
def test_every_error_of_httpx_is_translated_and_network_errors_are_retried(kind: type[Exception]) -> None:
    error = kind.__new__(kind)
    transient = (httpx2.TransportError, httpx2.DecodingError)
    assert translate("google-genai", error).retry_now is issubclass(kind, transient)
