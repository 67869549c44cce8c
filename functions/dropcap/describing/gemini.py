"""Describe a picture with Gemini, with deadlines and retries.

    Describer.describe(jpeg) ─▶ Description, or raises NotDescribed: BLIP's caption is then shown alone

GEMINI_SDK selects google-genai, the default, or google-generativeai, whose support ended on 2025-11-30. Each
has an adapter in a module of its own, so that only the selected package is imported, and only when there is a
key and a picture. docs/gemini.md has the memory and the seconds that each takes.

A failed attempt, or an invalid response (response.InvalidResponse), is retried within the limits of attempts,
time and money. What still fails is deferred (deferred/worker.py).
"""

import datetime as dt
import importlib
import logging
import random
import re
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from functools import partial
from typing import TypeVar

from dropcap.describing import moderation, prompt
from dropcap.describing.client import GeminiClient, timeout_error
from dropcap.describing.response import NotDescribed, parse
from dropcap.describing.token_usage import UNLIMITED, RequestBudget
from dropcap.domain.analysis import ENGLISH, NO_KEY, Description
from dropcap.domain.gemini_response import GeminiResponse, Tokens
from dropcap.domain.upload import Upload
from dropcap.runtime.timeouts import run_with_timeout
from dropcap.settings import Settings

logger = logging.getLogger(__name__)

T = TypeVar("T")
DEFERRED = "it waits for a batch, as describe=later allows"
KEY = re.compile(r"[A-Za-z0-9._~+/=-]+")  # no character that a header, a repr or JSON would escape
FIRST_BACKOFF_S = 0.5
# One module for each package, imported on first use.
ADAPTERS = {
    "google-generativeai": "dropcap.describing.google_generativeai",
    "google-genai": "dropcap.describing.google_genai",
}


# Set while an upload is processed whose description may wait; threads inherit it (runtime/timeouts.py).
_waits: ContextVar[bool] = ContextVar("waits", default=False)


@contextmanager
def deferring(upload: Upload, settings: Settings) -> Iterator[None]:
    """Let Gemini not be asked now if the upload's metadata allows it: the description is deferred."""
    token = _waits.set(upload.describe_later and settings.defers)
    try:
        yield
    finally:
        _waits.reset(token)


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
        if _waits.get():
            raise NotDescribed(DEFERRED)
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
                request = prompt.request(language, hint=hint)
                response = self._run(client, partial(client.ask, jpeg, request))
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

    def batches(self, work: Callable[[GeminiClient], T], timeout_s: float = 0.0) -> T:
        """Return what `work` on batches returns, within GEMINI_TIMEOUT_S, or `timeout_s`.

        Raises NotDescribed. Call it only if Settings.can_batch.
        """
        client = self._load()
        return self._run(client, lambda: work(client), timeout_s)

    def _load(self) -> GeminiClient:
        if not self._key:
            raise NotDescribed(NO_KEY)
        if not KEY.fullmatch(self._key):
            raise NotDescribed("GEMINI_API_KEY is not a key: it holds characters that no key has")
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

    def _run(self, client: GeminiClient, work: Callable[[], T], timeout_s: float = 0.0) -> T:
        """Run a request. The only place that translates errors of the packages."""
        timeout = max(timeout_s, self._settings.gemini_timeout_s)
        try:
            return run_with_timeout(timeout, work)
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
