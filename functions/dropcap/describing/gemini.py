"""Gemini's description of a picture: one seam, two adapters, and never a reason to lose the caption.

    Describer.describe(jpeg) ─▶ Description, or raises Unavailable: BLIP's caption then stands alone

GEMINI_SDK selects google-genai, the default, or google-generativeai, whose support ended on 2025-11-30. Each
has an adapter, which is a module of its own: only the package in use is imported, and only when there is a
key and a picture. docs/gemini.md has the memory and seconds of each.

A failed attempt, or an invalid answer (response.Unfit), is retried within the limits of attempts, time and
money. What still fails is deferred (deferred.py).
"""

import datetime as dt
import email.utils
import importlib
import math
import random
import re
import threading
import time
import traceback
from dataclasses import replace
from typing import Any, Protocol

from dropcap import logs
from dropcap.describing import moderation, prompt
from dropcap.describing.response import Unavailable, checked
from dropcap.describing.token_usage import FREE, Meter
from dropcap.domain.analysis import ENGLISH, Description
from dropcap.domain.answer import Answer, Tokens
from dropcap.runtime.timeouts import run_with_timeout
from dropcap.settings import Settings

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
        self._sdk: Sdk | None = None
        self.prompt = prompt.digest(settings)

    def describe(self, jpeg: bytes, language: str = ENGLISH, meter: Meter = FREE) -> Description:
        """The description of a JPEG, in the language of a BCP 47 tag, every field within its limits.

        Raises Unavailable.
        """
        return self.ask(jpeg, language, meter)[1]

    def checked(self, answer: Answer, language: str, at: dt.datetime) -> Description:
        """Return an answer, given at this instant, as a Description.

        Raises Unavailable; that is final if the answer says that the picture must not be shown.
        """
        settings = self._settings
        try:
            description = checked(answer, settings.gemini_model, language, judged=settings.safety != "off")
        except Unavailable as unfit:
            if unfit.verdict and moderation.unsafe(unfit.verdict, settings):
                unfit.again = unfit.retryable = False
            raise
        return replace(description, prompt=self.prompt, at=at.isoformat())

    def ask(self, jpeg: bytes, language: str = ENGLISH, meter: Meter = FREE) -> tuple[Answer, Description]:
        """Return Gemini's answer, and the description in it.

        Takes at most (2 x GEMINI_ATTEMPTS - 1) x GEMINI_TIMEOUT_S seconds, as no pause between two attempts
        is longer than an attempt. Raises Unavailable.
        """
        if not self._key:
            raise Unavailable("GEMINI_API_KEY is not set")
        if not KEY.fullmatch(self._key):
            raise Unavailable("GEMINI_API_KEY is not a key: it holds characters that no key has")
        sdk = self._load()
        attempts, longest_wait = self._settings.gemini_attempts, self._settings.gemini_timeout_s
        failed: Unavailable | None = None
        for attempt in range(1, attempts + 1):
            try:
                meter.reserve()
            except Unavailable as refused:  # the day's budget ran out between two attempts
                raise (failed.ending(f"; {refused}") if failed else refused) from refused.__cause__
            hint = bool(failed and failed.answered)
            try:
                answer = self._ask(sdk, jpeg, prompt.request(language, hint=hint))
            except Unavailable as none:
                failed = none
                meter.settle(Tokens() if failed.unpaid else None)
            else:
                meter.settle(answer.tokens)
                try:
                    return answer, self.checked(answer, language, dt.datetime.now(dt.UTC))
                except Unavailable as unfit:
                    failed = unfit
            if not failed.again:
                raise failed
            if failed.wait_s > longest_wait:
                raise failed.ending(f"; it asks to wait {failed.wait_s:.0f} s")
            if attempt == attempts:
                tries = "1 try" if attempts == 1 else f"{attempts} tries"
                raise failed.ending(f", after {tries}")
            logs.write("WARNING", failed.problem, stage="describe", attempt=attempt, attempts=attempts)
            # Full jitter spreads instances that failed together
            # (aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter).
            backoff = random.uniform(0, FIRST_BACKOFF_S * 2 ** (attempt - 1))  # noqa: S311  no secret
            time.sleep(min(failed.wait_s + backoff, longest_wait))
        raise AssertionError("unreachable")

    def _load(self) -> "Sdk":
        with self._lock:
            if self._sdk is None:
                name = self._settings.gemini_sdk
                try:
                    adapter = importlib.import_module(ADAPTERS[name]).Adapter
                    self._sdk = adapter(self._settings, self._key)
                except Exception as error:  # foreign code with no closed list of errors; BLIP can go on
                    raise Unavailable(f"{name} can't be used ({type(error).__name__})") from self._safe(error)
            return self._sdk

    def _ask(self, sdk: "Sdk", jpeg: bytes, request: str) -> Answer:
        """Make one attempt. Only this method translates the packages' errors into ours."""
        timeout = self._settings.gemini_timeout_s
        try:
            return run_with_timeout(timeout, lambda: sdk.ask(jpeg, request))
        except TimeoutError as error:
            raise too_slow(timeout) from self._safe(error)
        # No closed list here either: google-api-core raises AttributeError over an error body that is
        # not an object. What the adapter does not know is not tried again.
        except Exception as error:
            raise sdk.unavailable(error) from self._safe(error)

    def _safe(self, error: Exception) -> Exception | None:
        """The error as a cause, unless it quotes the key, as Google does in the message for a suspended one
        (google/generative-ai-docs #356): causes end in logs."""
        return None if self._key in "".join(traceback.format_exception(error)) else error


class Sdk(Protocol):
    """What an adapter does for Describer."""

    def ask(self, jpeg: bytes, request: str) -> Answer:
        """One request, no repetition; whatever the package raises goes to `unavailable`."""

    def unavailable(self, error: Exception) -> Unavailable:
        """The package's error as ours."""


def ratings(*given: Any) -> tuple[tuple[str, str], ...]:
    """Lists of the packages' safety ratings, or None, as words; alike in what is used here."""
    return tuple((word(each.category), word(each.probability)) for some in given for each in some or ())


def too_slow(seconds: float) -> Unavailable:
    return Unavailable(f"Gemini did not answer within {seconds:g} s", again=True)


def unreachable(error: Exception, *, connected: bool) -> Unavailable:
    """`connected`: the request may have been sent before the connection was lost."""
    problem = f"Gemini could not be reached ({type(error).__name__})"
    return Unavailable(problem, again=True, unpaid=not connected)


def unreadable(error: Exception, *, again: bool = False) -> Unavailable:
    """Return the error; `again` if the answer had HTTP 200, perhaps from a proxy: a retry may help."""
    return Unavailable(f"Gemini's answer could not be read ({type(error).__name__})", again=again)


def refused(code: int | None, response: Any) -> Unavailable:
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
    said = " ".join([f"HTTP {code}", *filter(None, map(word, words))])
    if code == 400 and BAD_PICTURE.search(message):
        return Unavailable(
            f"Gemini can't read the picture ({said})", unpaid=True, answered=True, retryable=False
        )
    problem = f"Gemini's quota is used up ({said})" if code == 429 else f"Gemini refused ({said})"
    wait_s = max(map(_seconds, delays), default=0.0)
    return Unavailable(problem, again=code in RETRIED, wait_s=wait_s, unpaid=code in UNPAID)


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


def word(name: Any) -> str:
    """A status word of Google's (`SAFETY`, `API_KEY_INVALID`), by enumeration, number or name; else empty."""
    word = str(getattr(name, "name", name) or "")
    return word if re.fullmatch(r"[A-Z0-9_]{1,60}", word) and not word.endswith("_UNSPECIFIED") else ""
