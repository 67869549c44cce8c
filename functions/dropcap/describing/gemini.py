"""Describe a picture with Gemini: retries, deadlines and the translation of errors.

    Describer.describe(jpeg) ─▶ Description, or raises NotDescribed: BLIP's caption is then shown alone

GEMINI_SDK selects google-genai, the default, or google-generativeai, whose support ended on 2025-11-30. Each
has an adapter in a module of its own, so that only the selected package is imported, and only when there is a
key and a picture. docs/gemini.md has the memory and the seconds that each takes.

A failed attempt, or an invalid response (response.InvalidResponse), is retried within the limits of attempts,
time and money. What still fails is deferred (deferred/worker.py).
"""

import datetime as dt
import email.utils
import importlib
import logging
import math
import random
import re
import threading
import time
import traceback
from dataclasses import replace
from typing import Any, Protocol

from dropcap.describing import moderation, prompt
from dropcap.describing.response import NotDescribed, parse
from dropcap.describing.token_usage import UNLIMITED, RequestBudget
from dropcap.domain.analysis import ENGLISH, Description
from dropcap.domain.gemini_response import GeminiResponse, Tokens
from dropcap.runtime.timeouts import run_with_timeout
from dropcap.settings import Settings

logger = logging.getLogger(__name__)

KEY = re.compile(r"[A-Za-z0-9._~+/=-]+")  # no character that a header, a repr or JSON would escape
RETRIED = frozenset({429, 500, 502, 503, 504})
# Google does not charge for 400 and 500 (ai.google.dev/gemini-api/docs/billing) and refuses the others before
# any work. 502 and 504 are not among them: the model may have answered after the gateway stopped waiting.
UNBILLED = frozenset({400, 401, 403, 404, 429, 500, 503})
FIRST_BACKOFF_S = 0.5
# HTTP 400 caused by the picture: "Unable to process input image." (google-gemini/gemini-cli #5064,
# 2025-07-28), "Provided image is not valid." (#27244, 2026-05-19). A wrong key also gives 400, with another
# message.
BAD_PICTURE = re.compile(r"(input|provided) image\b", re.IGNORECASE)

# One module for each package, imported on first use.
ADAPTERS = {
    "google-generativeai": "dropcap.describing.google_generativeai",
    "google-genai": "dropcap.describing.google_genai",
}


class Describer:
    """Requests descriptions from Gemini. Thread-safe; one per instance is enough."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._key = settings.gemini_api_key.strip()  # a piped secret ends with a newline
        self._lock = threading.Lock()
        self._client: GeminiClient | None = None
        self.prompt = prompt.digest(settings)

    def describe(
        self, jpeg: bytes, language: str = ENGLISH, budget: RequestBudget = UNLIMITED
    ) -> Description:
        """Return the description of a JPEG in `language`, a BCP 47 tag, with every field within its limits.

        Raises NotDescribed.
        """
        return self.ask(jpeg, language, budget)[1]

    def parse(self, response: GeminiResponse, language: str, at: dt.datetime) -> Description:
        """Return a response that was received at this instant as a Description.

        Raises NotDescribed, which is not retryable if the response says that the picture is unsafe.
        """
        settings = self._settings
        try:
            description = parse(response, settings.gemini_model, language, judged=settings.safety != "off")
        except NotDescribed as error:
            if error.verdict and moderation.unsafe(error.verdict, settings):
                error.retry_now = error.retryable = False
            raise
        return replace(description, prompt=self.prompt, at=at.isoformat())

    def ask(
        self, jpeg: bytes, language: str = ENGLISH, budget: RequestBudget = UNLIMITED
    ) -> tuple[GeminiResponse, Description]:
        """Return Gemini's response, and the description in it; retry with exponential backoff.

        Takes at most (2 x GEMINI_ATTEMPTS - 1) x GEMINI_TIMEOUT_S seconds, because no pause between two
        attempts is longer than an attempt. Raises NotDescribed.
        """
        if not self._key:
            raise NotDescribed("GEMINI_API_KEY is not set")
        if not KEY.fullmatch(self._key):
            raise NotDescribed("GEMINI_API_KEY is not a key: it holds characters that no key has")
        client = self._load()
        attempts, longest_wait = self._settings.gemini_attempts, self._settings.gemini_timeout_s
        failed: NotDescribed | None = None
        for attempt in range(1, attempts + 1):
            try:
                budget.reserve()
            except NotDescribed as refused:  # the day's budget ran out between two attempts
                raise (failed.append(f"; {refused}") if failed else refused) from refused.__cause__
            hint = bool(failed and failed.answered)
            try:
                response = self._attempt(client, jpeg, prompt.request(language, hint=hint))
            except NotDescribed as error:
                failed = error
                budget.record_usage(Tokens() if failed.unbilled else None)
            else:
                budget.record_usage(response.tokens)
                try:
                    return response, self.parse(response, language, dt.datetime.now(dt.UTC))
                except NotDescribed as error:
                    failed = error
            if not failed.retry_now:
                raise failed
            if failed.retry_after_s > longest_wait:
                raise failed.append(f"; it asks to wait {failed.retry_after_s:.0f} s")
            if attempt == attempts:
                tries = "1 try" if attempts == 1 else f"{attempts} tries"
                raise failed.append(f", after {tries}")
            fields = {"stage": "describe", "attempt": attempt, "attempts": attempts}
            logger.warning(failed.problem, extra={"event": "gemini_attempt_failed", **fields})
            # Full jitter spreads the retries of instances that failed at the same time
            # (aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter).
            backoff = random.uniform(0, FIRST_BACKOFF_S * 2 ** (attempt - 1))  # noqa: S311  no secret
            time.sleep(min(failed.retry_after_s + backoff, longest_wait))
        raise AssertionError("unreachable")

    def _load(self) -> "GeminiClient":
        with self._lock:
            if self._client is None:
                name = self._settings.gemini_sdk
                try:
                    adapter = importlib.import_module(ADAPTERS[name]).Adapter
                    self._client = adapter(self._settings, self._key)
                except Exception as error:  # the package may raise anything; BLIP can go on
                    problem = f"{name} can't be used ({type(error).__name__})"
                    raise NotDescribed(problem) from self._without_key(error)
            return self._client

    def _attempt(self, client: "GeminiClient", jpeg: bytes, request: str) -> GeminiResponse:
        """Make one request. The only place that translates errors of the packages."""
        timeout = self._settings.gemini_timeout_s
        try:
            return run_with_timeout(timeout, lambda: client.ask(jpeg, request))
        except TimeoutError as error:
            raise timeout_error(timeout) from self._without_key(error)
        # The packages may raise anything: google-api-core raises AttributeError for an error body that is not
        # an object. An error that the adapter does not know is not retried now.
        except Exception as error:
            raise client.translate_error(error) from self._without_key(error)

    def _without_key(self, error: Exception) -> Exception | None:
        """Return the error as a cause, or None if its text quotes the key, because causes are logged.

        Google quotes a suspended key in its message (google/generative-ai-docs #356).
        """
        return None if self._key in "".join(traceback.format_exception(error)) else error


class GeminiClient(Protocol):
    """The interface of an adapter to one of the packages."""

    def ask(self, jpeg: bytes, request: str) -> GeminiResponse:
        """Make one request, without retries. Raises any error of the package."""

    def translate_error(self, error: Exception) -> NotDescribed:
        """Return an error of the package as a NotDescribed."""


def safety_ratings(*given: Any) -> tuple[tuple[str, str], ...]:
    """Return the category and probability of each rating, from lists of either package, or None."""
    listed = (rating for ratings in given for rating in ratings or ())
    return tuple((enum_name(rating.category), enum_name(rating.probability)) for rating in listed)


def timeout_error(seconds: float) -> NotDescribed:
    """Return the error for a request that took longer than `seconds`."""
    return NotDescribed(f"Gemini did not answer within {seconds:g} s", retry_now=True)


def connection_error(error: Exception, *, connected: bool) -> NotDescribed:
    """Return the error for a failed connection; `connected` if the request may have been sent before."""
    problem = f"Gemini could not be reached ({type(error).__name__})"
    return NotDescribed(problem, retry_now=True, unbilled=not connected)


def parse_error(error: Exception, *, retry_now: bool = False) -> NotDescribed:
    """Return the error for an unreadable response; a retry may help if its status was 200 (a proxy)."""
    return NotDescribed(f"Gemini's answer could not be read ({type(error).__name__})", retry_now=retry_now)


def http_error(code: int | None, response: Any) -> NotDescribed:
    """Return the error for an HTTP status; `response` is one of `requests` or `httpx2`."""
    try:
        error = response.json()["error"]
        details = [detail for detail in error.get("details", ()) if isinstance(detail, dict)]
        words = [error.get("status"), *(detail.get("reason") for detail in details)]
        delays = [detail["retryDelay"].removesuffix("s") for detail in details if "retryDelay" in detail]
        message = str(error.get("message"))
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):  # such as a page of a proxy
        words, delays, message = [], [], ""
    delays += filter(None, [response.headers.get("Retry-After")])
    status = " ".join([f"HTTP {code}", *filter(None, map(enum_name, words))])
    if code == 400 and BAD_PICTURE.search(message):
        return NotDescribed(
            f"Gemini can't read the picture ({status})", unbilled=True, answered=True, retryable=False
        )
    problem = f"Gemini's quota is used up ({status})" if code == 429 else f"Gemini refused ({status})"
    wait_s = max(map(_seconds, delays), default=0.0)
    return NotDescribed(problem, retry_now=code in RETRIED, retry_after_s=wait_s, unbilled=code in UNBILLED)


def _seconds(delay: str) -> float:
    """Return the seconds of a `Retry-After` (RFC 9110, 10.2.3: number or date) or RetryInfo; 0 if invalid."""
    try:
        seconds = float(delay)
    except ValueError:
        try:
            seconds = (email.utils.parsedate_to_datetime(delay) - dt.datetime.now(dt.UTC)).total_seconds()
        except (ValueError, TypeError):  # TypeError: a date without its zone
            return 0.0
    return max(0.0, seconds) if math.isfinite(seconds) else 0.0


def enum_name(name: Any) -> str:
    """Return the name of a Google enumeration value (`SAFETY`), given as enumeration or name; else empty."""
    text = str(getattr(name, "name", name) or "")
    return text if re.fullmatch(r"[A-Z0-9_]{1,60}", text) and not text.endswith("_UNSPECIFIED") else ""
