"""The interface of the adapters to Google's packages, and the translation of errors that they share."""

import datetime as dt
import email.utils
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from dropcap.describing.response import NotDescribed
from dropcap.domain.gemini_response import GeminiResponse

BATCH_TIMEOUT_S = 60.0  # of a request that creates a batch: 7 MB at 1 Mbit/s
RETRIED = frozenset({429, 500, 502, 503, 504})
# Google does not charge for 400 and 500 (ai.google.dev/gemini-api/docs/billing) and refuses the others before
# any work. 502 and 504 are not among them: the model may have answered after the gateway stopped waiting.
UNBILLED = frozenset({400, 401, 403, 404, 429, 500, 503})
# HTTP 400 caused by the picture: "Unable to process input image." (google-gemini/gemini-cli #5064,
# 2025-07-28), "Provided image is not valid." (#27244, 2026-05-19). A wrong key also gives 400, with another
# message.
BAD_PICTURE = re.compile(r"(input|provided) image\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class BatchedRequest:
    """A request of a batch: `key` identifies it, and Gemini copies it into its response."""

    key: str
    jpeg: bytes = field(repr=False)
    request: str


@dataclass(frozen=True, slots=True)
class BatchStatus:
    """The state of a batch (`SUCCEEDED`, `EXPIRED`, ...), and its responses, in any order, once it has ended.

    `failed` is the number of requests that Gemini refused one by one.
    """

    state: str
    responses: Sequence[GeminiResponse] = ()
    failed: int = 0

    @property
    def ended(self) -> bool:
        return self.state in ("SUCCEEDED", "PARTIALLY_SUCCEEDED", "FAILED", "CANCELLED", "EXPIRED")


class GeminiClient(Protocol):
    """The interface of an adapter to one of the packages. All methods may raise any error of the package."""

    def ask(self, jpeg: bytes, request: str) -> GeminiResponse:
        """Make one request, without retries."""

    def create_batch(self, display_name: str, requests: Sequence[BatchedRequest]) -> str:
        """Create a batch and return its name. Not idempotent."""

    def find_batch(self, display_name: str) -> str | None:
        """Return the name of the batch with this display name; None if there is none."""

    def batch(self, name: str) -> BatchStatus | None:
        """Return the status of a batch; None if there is no batch of this name."""

    def delete_batch(self, name: str, *, cancel: bool = False) -> None:
        """Delete a batch with its pictures and responses, if it exists; `cancel` it before if it runs."""

    def translate_error(self, error: Exception) -> NotDescribed:
        """Return an error of the package as a NotDescribed."""


def safety_ratings(*lists: Any) -> tuple[tuple[str, str], ...]:
    """Return the category and probability of each rating, from lists of either package, or None."""
    listed = (rating for ratings in lists for rating in ratings or ())
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
    refused = NotDescribed(problem, retry_now=code in RETRIED, unbilled=code in UNBILLED)
    refused.retry_after_s = wait_s
    refused.quota = code == 429
    return refused


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
