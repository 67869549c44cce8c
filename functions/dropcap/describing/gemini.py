"""Gemini's description of a picture: one seam, two adapters, and never a reason to lose the caption.

    Describer.describe(jpeg) ─▶ Description, or raises NotDescribed: BLIP's caption then stands alone

GEMINI_SDK selects google-genai, the default, or google-generativeai, whose support ended on 2025-11-30. Each
has an adapter, which is a module of its own: only the package in use is imported, and only when there is a
key and a picture. docs/gemini.md has the memory and seconds of each.

A failed attempt, or an invalid answer (response.InvalidResponse), is retried within the limits of attempts,
time and money. What still fails is deferred (deferred.py).
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

KEY = re.compile(r"[A-Za-z0-9._~+/=-]+")  # nothing that a header, a repr or a JSON text would escape
RETRIED = frozenset({429, 500, 502, 503, 504})
# What fails with 400 or 500 is not charged (ai.google.dev/gemini-api/docs/billing), the others are refused
# before any work. Not so 502 and 504: the model may have answered whoever did not wait for it.
UNPAID = frozenset({400, 401, 403, 404, 429, 500, 503})
FIRST_BACKOFF_S = 0.5
# HTTP 400 caused by the picture: "Unable to process input image." (google-gemini/gemini-cli #5064,
# 2025-07-28), "Provided image is not valid." (#27244, 2026-05-19). A wrong key also gives 400, with another
# message.
BAD_PICTURE = re.compile(r"(input|provided) image\b", re.IGNORECASE)

# One module for each package, imported when it is needed.
ADAPTERS = {
    "google-generativeai": "dropcap.describing.google_generativeai",
    "google-genai": "dropcap.describing.google_genai",
}


class Describer:
    """Asks Gemini for descriptions. Safe to share between threads; make one an instance."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._key = settings.gemini_api_key.strip()  # a secret that was piped in ends with a newline
        self._lock = threading.Lock()
        self._client: GeminiClient | None = None
        self.prompt = prompt.digest(settings)

    def describe(
        self, jpeg: bytes, language: str = ENGLISH, budget: RequestBudget = UNLIMITED
    ) -> Description:
        """The description of a JPEG, in the language of a BCP 47 tag, every field within its limits.

        Raises NotDescribed.
        """
        return self.ask(jpeg, language, budget)[1]

    def parse(self, answer: GeminiResponse, language: str, at: dt.datetime) -> Description:
        """Return an answer, given at this instant, as a Description.

        Raises NotDescribed; that is final if the answer says that the picture must not be shown.
        """
        settings = self._settings
        try:
            description = parse(answer, settings.gemini_model, language, judged=settings.safety != "off")
        except NotDescribed as unfit:
            if unfit.verdict and moderation.unsafe(unfit.verdict, settings):
                unfit.retry_now = unfit.retryable = False
            raise
        return replace(description, prompt=self.prompt, at=at.isoformat())

    def ask(
        self, jpeg: bytes, language: str = ENGLISH, budget: RequestBudget = UNLIMITED
    ) -> tuple[GeminiResponse, Description]:
        """Return Gemini's answer, and the description in it.

        Takes at most (2 x GEMINI_ATTEMPTS - 1) x GEMINI_TIMEOUT_S seconds, as no pause between two attempts
        is longer than an attempt. Raises NotDescribed.
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
                answer = self._ask(client, jpeg, prompt.request(language, hint=hint))
            except NotDescribed as none:
                failed = none
                budget.record_usage(Tokens() if failed.unbilled else None)
            else:
                budget.record_usage(answer.tokens)
                try:
                    return answer, self.parse(answer, language, dt.datetime.now(dt.UTC))
                except NotDescribed as unfit:
                    failed = unfit
            if not failed.retry_now:
                raise failed
            if failed.retry_after_s > longest_wait:
                raise failed.append(f"; it asks to wait {failed.retry_after_s:.0f} s")
            if attempt == attempts:
                tries = "1 try" if attempts == 1 else f"{attempts} tries"
                raise failed.append(f", after {tries}")
            logger.warning(
                failed.problem,
                extra={
                    "event": "gemini_attempt_failed",
                    "stage": "describe",
                    "attempt": attempt,
                    "attempts": attempts,
                },
            )
            # Full jitter spreads instances that failed together
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
                except Exception as error:  # foreign code with no closed list of errors; BLIP can go on
                    raise NotDescribed(f"{name} can't be used ({type(error).__name__})") from self._safe(
                        error
                    )
            return self._client

    def _ask(self, client: "GeminiClient", jpeg: bytes, request: str) -> GeminiResponse:
        """Make one attempt. Only this method translates the packages' errors into ours."""
        timeout = self._settings.gemini_timeout_s
        try:
            return run_with_timeout(timeout, lambda: client.ask(jpeg, request))
        except TimeoutError as error:
            raise timeout_error(timeout) from self._safe(error)
        # No closed list here either: google-api-core raises AttributeError over an error body that is
        # not an object. What the adapter does not know is not tried again.
        except Exception as error:
            raise client.translate_error(error) from self._safe(error)

    def _safe(self, error: Exception) -> Exception | None:
        """The error as a cause, unless it quotes the key, as Google does in the message for a suspended one
        (google/generative-ai-docs #356): causes end in logs."""
        return None if self._key in "".join(traceback.format_exception(error)) else error


class GeminiClient(Protocol):
    """What an adapter does for Describer."""

    def ask(self, jpeg: bytes, request: str) -> GeminiResponse:
        """One request, no repetition; whatever the package raises goes to `translate_error`."""

    def translate_error(self, error: Exception) -> NotDescribed:
        """The package's error as ours."""


def safety_ratings(*given: Any) -> tuple[tuple[str, str], ...]:
    """Lists of the packages' safety ratings, or None, as words; alike in what is used here."""
    return tuple(
        (enum_name(each.category), enum_name(each.probability)) for some in given for each in some or ()
    )


def timeout_error(seconds: float) -> NotDescribed:
    return NotDescribed(f"Gemini did not answer within {seconds:g} s", retry_now=True)


def connection_error(error: Exception, *, connected: bool) -> NotDescribed:
    """`connected`: the request may have been sent before the connection was lost."""
    problem = f"Gemini could not be reached ({type(error).__name__})"
    return NotDescribed(problem, retry_now=True, unbilled=not connected)


def parse_error(error: Exception, *, retry_now: bool = False) -> NotDescribed:
    """Return the error; `retry_now` if the answer had HTTP 200, perhaps from a proxy: a retry may help."""
    return NotDescribed(f"Gemini's answer could not be read ({type(error).__name__})", retry_now=retry_now)


def http_error(code: int | None, response: Any) -> NotDescribed:
    """From an HTTP status and its response, of `requests` or `httpx2`: alike in what is used here."""
    try:
        error = response.json()["error"]
        details = [detail for detail in error.get("details", ()) if isinstance(detail, dict)]
        words = [error.get("status"), *(detail.get("reason") for detail in details)]
        delays = [detail["retryDelay"].removesuffix("s") for detail in details if "retryDelay" in detail]
        message = str(error.get("message"))
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):  # a proxy's page, say
        words, delays, message = [], [], ""
    delays += filter(None, [response.headers.get("Retry-After")])
    said = " ".join([f"HTTP {code}", *filter(None, map(enum_name, words))])
    if code == 400 and BAD_PICTURE.search(message):
        return NotDescribed(
            f"Gemini can't read the picture ({said})", unbilled=True, answered=True, retryable=False
        )
    problem = f"Gemini's quota is used up ({said})" if code == 429 else f"Gemini refused ({said})"
    wait_s = max(map(_seconds, delays), default=0.0)
    return NotDescribed(problem, retry_now=code in RETRIED, retry_after_s=wait_s, unbilled=code in UNPAID)


def _seconds(delay: str) -> float:
    """Seconds from `Retry-After` (RFC 9110, 10.2.3: a number or a date) or from RetryInfo; 0 for neither."""
    try:
        seconds = float(delay)
    except ValueError:
        try:
            seconds = (email.utils.parsedate_to_datetime(delay) - dt.datetime.now(dt.UTC)).total_seconds()
        except (ValueError, TypeError):  # TypeError: a date without its zone
            return 0.0
    return max(0.0, seconds) if math.isfinite(seconds) else 0.0


def enum_name(name: Any) -> str:
    """A status word of Google's (`SAFETY`, `API_KEY_INVALID`), by enumeration, number or name; else empty."""
    word = str(getattr(name, "name", name) or "")
    return word if re.fullmatch(r"[A-Z0-9_]{1,60}", word) and not word.endswith("_UNSPECIFIED") else ""
