"""Gemini's description of a picture: one seam, two adapters, and never a reason to lose the caption.

    Describer.describe(jpeg) ─▶ Description, or raises Unavailable: BLIP's caption then stands alone

google-generativeai is the default, over REST: its gRPC channel costs 18 MB more. Its support ended on
2025-11-30, so google-genai is one setting away. Each has an adapter, which is a module of its own: only the
package in use is imported, and only when there is a key and a picture.

Everything that comes back is data. It is bounded and checked here, and stays untrusted: whoever shows it
as HTML escapes it, whoever gives it to a model calls it content.
"""

import datetime as dt
import email.utils
import importlib
import json
import math
import random
import re
import threading
import time
import traceback
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

from dropcap import logs, prompt, safety, words
from dropcap.analysis import ENGLISH, Description, Verdict
from dropcap.deadline import within
from dropcap.errors import DropcapError
from dropcap.meter import FREE, Meter, Tokens
from dropcap.settings import Settings

T = TypeVar("T")

MAX_ANSWER = 32_768  # characters of JSON: all fields at their limits, every character escaped
MAX_CAPTION, MAX_DESCRIPTION, MAX_ALT_TEXT, MAX_TEXT, MAX_TAGS, MAX_TAG = 100, 1000, 150, 2000, 20, 40
# Control characters (PostgreSQL refuses NUL), lone surrogates (not UTF-8), and the marks that turn the
# direction of writing: with them a text can show something else than it holds (CVE-2021-42574).
UNWANTED = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\ud800-\udfff\u202a-\u202e\u2066-\u2069]")

KEY = re.compile(r"[A-Za-z0-9._~+/=-]+")  # nothing that a header, a repr or a JSON text would escape
RETRIED = frozenset({429, 500, 502, 503, 504})
# What fails with 400 or 500 is not charged (ai.google.dev/gemini-api/docs/billing), the others are refused
# before any work. Not so 502 and 504: the model may have answered whoever did not wait for it.
UNPAID = frozenset({400, 401, 403, 404, 429, 500, 503})
FIRST_BACKOFF_S = 0.5

# One module for each package, imported when it is needed.
ADAPTERS = {"google-generativeai": "dropcap.gemini_generativeai", "google-genai": "dropcap.gemini_genai"}


class Unavailable(DropcapError):
    """Gemini did not describe this picture.

    `problem` is one line for the record, without the key and without anything that the server wrote but
    status words. `again` tells whether another try may help, `wait_s` how long the server asked to wait.
    `unpaid`: Google did nothing for it. `later`: not the picture's fault, so it may work on another day.
    `verdict` is what an answer without words says of safety.
    """

    def __init__(
        self, problem: str, *, again: bool = False, wait_s: float = 0.0, unpaid: bool = False
    ) -> None:
        super().__init__(problem)
        self.verdict: Verdict | None = None
        self.problem = problem
        self.again = again
        self.wait_s = wait_s
        self.unpaid = unpaid
        self.later = True


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
        return self.checked(self.ask(jpeg, language, meter), language, dt.datetime.now(dt.UTC))

    def checked(self, answer: "Answer", language: str, at: dt.datetime) -> Description:
        """What was answered at this instant as a Description, or Unavailable for good."""
        try:
            description = checked(answer, self._settings.gemini_model, language)
        except Unavailable as unfit:
            unfit.later = False
            raise
        return replace(description, prompt=self.prompt, at=at.isoformat())

    def ask(self, jpeg: bytes, language: str = ENGLISH, meter: Meter = FREE) -> "Answer":
        """What Gemini answers, unchecked.

        Returns within (2 x GEMINI_ATTEMPTS - 1) x GEMINI_TIMEOUT_S seconds: no pause between two tries
        is longer than a try. Raises Unavailable.
        """
        if not self._key:
            raise Unavailable("GEMINI_API_KEY is not set")
        if not KEY.fullmatch(self._key):
            raise Unavailable("GEMINI_API_KEY is not a key: it holds characters that no key has")
        sdk = self._load()
        attempts, longest_wait = self._settings.gemini_attempts, self._settings.gemini_timeout_s
        for attempt in range(1, attempts + 1):
            meter.reserve()
            try:
                answer = self._ask(sdk, jpeg, language)
            except Unavailable as failed:
                meter.settle(Tokens() if failed.unpaid else None)
                if not failed.again:
                    raise
                if failed.wait_s > longest_wait:
                    asked = f"{failed.problem}; it asks to wait {failed.wait_s:.0f} s"
                    raise Unavailable(asked) from failed.__cause__
                if attempt == attempts:
                    tries = "1 try" if attempts == 1 else f"{attempts} tries"
                    raise Unavailable(f"{failed.problem}, after {tries}") from failed.__cause__
                logs.write("WARNING", failed.problem, stage="describe", attempt=attempt, attempts=attempts)
                # Full jitter spreads instances that failed together
                # (aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter).
                backoff = random.uniform(0, FIRST_BACKOFF_S * 2 ** (attempt - 1))  # noqa: S311  no secret
                time.sleep(min(failed.wait_s + backoff, longest_wait))
            else:
                meter.settle(answer.tokens)
                return answer
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

    def _ask(self, sdk: "Sdk", jpeg: bytes, language: str) -> "Answer":
        """One try. The only place where errors of the packages become ours."""
        timeout = self._settings.gemini_timeout_s
        try:
            return within(timeout, lambda: sdk.ask(jpeg, prompt.request(language)))
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


@dataclass(frozen=True, slots=True)
class Answer:
    """What both packages answer: the text, why the model stopped, why the prompt was blocked, which model.

    `ratings` are the probabilities that Google's own filter gives (`NEGLIGIBLE` to `HIGH`), by category;
    `tokens` is None where it does not tell.
    """

    text: str
    finish: str
    blocked: str
    version: str
    ratings: tuple[tuple[str, str], ...] = ()
    tokens: Tokens | None = None


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


def unreadable(error: Exception) -> Unavailable:
    return Unavailable(f"Gemini's answer could not be read ({type(error).__name__})")


def refused(code: int | None, response: Any) -> Unavailable:
    """From an HTTP status and its response, of `requests` or `httpx2`: alike in what is used here."""
    try:
        error = response.json()["error"]
        details = [detail for detail in error.get("details", ()) if isinstance(detail, dict)]
        words = [error.get("status"), *(detail.get("reason") for detail in details)]
        delays = [detail["retryDelay"].removesuffix("s") for detail in details if "retryDelay" in detail]
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):  # a proxy's page, say
        words, delays = [], []
    delays += filter(None, [response.headers.get("Retry-After")])
    said = " ".join([f"HTTP {code}", *filter(None, map(word, words))])
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


def checked(answer: Answer, model: str, language: str = ENGLISH) -> Description:
    """The answer as a Description, or Unavailable with what is wrong with it. Unknown fields are dropped.

    Either has what the answer says of safety: an answer without words may have a verdict.
    """
    try:
        return _described(_fields(answer), answer, model, language)
    except Unavailable as failed:
        failed.verdict = safety.read(None, answer.ratings, answer.blocked or answer.finish)
        raise


def _fields(answer: Answer) -> dict[str, Any]:
    """The fields of an answer that is one."""
    if answer.blocked:
        raise Unavailable(f"Gemini blocked the picture ({answer.blocked})")
    if answer.finish not in ("STOP", ""):
        raise Unavailable(f"Gemini stopped early ({answer.finish})")
    if not answer.text:
        raise Unavailable("Gemini's answer is empty")
    if len(answer.text) > MAX_ANSWER:
        raise Unavailable(f"Gemini's answer is malformed: {len(answer.text)} characters are too many")
    try:
        fields = json.loads(answer.text)
    except (ValueError, RecursionError) as wrong:
        raise Unavailable("Gemini's answer is malformed: it is not JSON") from wrong
    if not isinstance(fields, dict):
        raise Unavailable("Gemini's answer is malformed: it is not an object")
    return fields


def _described(fields: dict[str, Any], answer: Answer, model: str, language: str) -> Description:
    for name in ("description", "alt_text", "text"):
        if not isinstance(fields.get(name), str):
            raise Unavailable(f"Gemini's answer is malformed: {name} is not a text")
    tags = fields.get("tags")
    if not isinstance(tags, list) or not all(isinstance(tag, str) for tag in tags):
        raise Unavailable("Gemini's answer is malformed: tags is not a list of texts")
    description = _line(fields["description"], MAX_DESCRIPTION)
    alt_text = _cut(words.plain(_line(fields["alt_text"], 2 * MAX_ALT_TEXT)), MAX_ALT_TEXT)
    caption = fields.get("caption")  # no reason to do without the rest
    if not description or not alt_text:
        raise Unavailable("Gemini's answer is malformed: description or alt_text is empty")
    lines = (" ".join(line.split()) for line in UNWANTED.sub(" ", fields["text"]).split("\n"))
    return Description(
        description=description,
        alt_text=alt_text,
        tags=tuple(dict.fromkeys(filter(None, (_line(tag, MAX_TAG) for tag in tags))))[:MAX_TAGS],
        text=_cut("\n".join(filter(None, lines)), MAX_TEXT),
        model=model,
        version=_line(answer.version, 100),
        caption=_line(caption, MAX_CAPTION) if isinstance(caption, str) else "",
        language=language,
        safety=safety.read(fields.get(safety.FIELD), answer.ratings, answer.finish),
    )


def _line(text: str, limit: int) -> str:
    """One line of at most `limit` characters; more are cut, not refused: models don't count characters."""
    return _cut(" ".join(UNWANTED.sub(" ", text).split()), limit)


def _cut(text: str, limit: int) -> str:
    """At most `limit` characters, the last of them an ellipsis where more are cut: behind a word, if one ends
    in the second half."""
    if len(text) <= limit:
        return text
    end = text[:limit].rfind(" ")  # also the one that would be the ellipsis
    return text[: end if end > limit // 2 else limit - 1].rstrip() + "…"
