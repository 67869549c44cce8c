"""Gemini budget: describe one picture within the day's cap, and account for what it costs.

Without DAILY_CALLS and DAILY_MONEY, usage is counted in memory only: no query, no wait.
"""

import datetime as dt
import hashlib
import uuid
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from dropcap.database import daily_usage
from dropcap.database.connection import DatabaseUnavailable
from dropcap.database.response_cache import CacheEntry
from dropcap.describing.response import NotDescribed
from dropcap.domain.analysis import Description, Usage
from dropcap.domain.gemini_response import Tokens
from dropcap.runtime import memory
from dropcap.services import Services

SPARE_S = 10  # of a lease, beyond the longest that Gemini may take


class BudgetExhausted(NotDescribed):
    """Transient error: the day's cap is reached, and no request was made."""


class GeminiBudget:
    """The budget and the usage of one picture; a token_usage.RequestBudget.

    `sha256` is the digest of the upload's bytes, the key of the response cache. If it is empty, nothing is
    cached, because the picture is not kept.
    """

    def __init__(self, services: Services, upload: uuid.UUID, sha256: str) -> None:
        self._services, self._settings = services, services.settings
        self._upload, self._sha256 = upload, sha256
        self._reservation: daily_usage.Reservation | None = None
        self._calls, self._tokens, self._micro_usd, self._reused = 0, Tokens(), 0, False
        self._day_usd: float | None = None  # what all pictures have cost today

    def describe(self, jpeg: bytes, language: str) -> Description:
        """Return Gemini's description in `language`, from the response cache if the bytes are known.

        Raises NotDescribed.
        """
        services, describer = self._services, self._services.describer
        entry = self.cache_entry(jpeg, language)
        if not entry:
            return describer.describe(jpeg, language, self)
        if cached := self._cached(entry, language):
            return cached
        response, at = None, dt.datetime.now(dt.UTC)
        try:
            response, description = describer.ask(jpeg, language, self)
            at = dt.datetime.fromisoformat(description.at)
            return description
        except NotDescribed as error:
            response = error.response
            raise
        finally:
            with suppress(DatabaseUnavailable):  # the response is paid for; the lease expires by itself
                if response:
                    entry.store(services.database, response, at)
                else:
                    entry.release(services.database)

    def cache_entry(self, jpeg: bytes, language: str) -> CacheEntry | None:
        """Return the entry of the response cache for this picture; None if its response is not cached."""
        settings = self._settings
        if not (settings.has_budget and self._sha256 and settings.gemini_api_key):
            return None
        prompt = f"{self._services.describer.prompt} {language}"
        if settings.safety != "off":
            # A verdict holds only for the picture that Gemini saw, not for another size, frame or page.
            prompt += f" {hashlib.sha256(jpeg).hexdigest()}"
        return CacheEntry(self._sha256, prompt, settings.gemini_model)

    def _cached(self, entry: CacheEntry, language: str) -> Description | None:
        """Return the description in the cache, or None after acquiring the lease on its entry.

        Raises NotDescribed if the cached response blocks the picture, or another worker keeps the lease.
        """
        services, settings = self._services, self._settings
        lease_s = settings.gemini_s + SPARE_S
        wait_s = min(settings.gemini_timeout_s, (settings.lease_s - settings.gemini_s) / 2)
        try:
            while cached := entry.get_or_acquire(services.database, self._upload, lease_s, wait_s):
                response, at = cached
                self._reused = True
                try:
                    return services.describer.parse(response, language, at)
                except NotDescribed as error:
                    if error.response:
                        raise
                self._reused = False
                entry.delete(services.database, at)  # an earlier release stored invalid responses
        except TimeoutError as error:
            raise NotDescribed("another upload of the same bytes is being described") from error
        return None

    def reserve(self) -> None:
        """Reserve a request in the day's budget. Raises BudgetExhausted and DatabaseUnavailable."""
        if self._settings.has_budget:
            self._reservation = daily_usage.reserve(self._services.database, self._settings)
            if not self._reservation:
                raise BudgetExhausted("the day's budget for Gemini is spent (DAILY_CALLS, DAILY_MONEY)")
        self._calls += 1

    def record_usage(self, tokens: Tokens | None) -> None:
        """Record what the request cost, or the highest cost possible if `tokens` is None."""
        settings = self._settings
        used = tokens or Tokens()
        highest = daily_usage.highest_cost(settings)
        cost = highest if tokens is None else round(settings.usd(*used) * 1e6)
        self._micro_usd += cost
        self._tokens = Tokens(self._tokens.input + used.input, self._tokens.output + used.output)
        if self._reservation and (cost != highest or any(used)):
            with suppress(DatabaseUnavailable):  # the reservation then counts as spent
                self._day_usd = daily_usage.record_usage(
                    self._services.database, self._reservation, cost, *used
                )

    def usage(self, seconds: float) -> Usage:
        """Return what the picture has cost, if its stages took so many `seconds` until now."""
        limit_gb = memory.limit_mb(self._settings.memory_limit_mb) / 1000
        return Usage(
            calls=self._calls,
            input_tokens=self._tokens.input,
            output_tokens=self._tokens.output,
            usd=self._micro_usd / 1e6 if self._settings.prices else None,
            gb_seconds=round(limit_gb * seconds, 3),
            reused=self._reused,
        )

    def log_fields(self, usage: Usage) -> Mapping[str, Any]:
        """Return the known costs of the picture, and of the day, as fields of a log line."""
        fields = {
            "tokens": usage.input_tokens + usage.output_tokens,
            "gb_seconds": usage.gb_seconds,
            "usd": usage.usd,
            "spent_usd": self._day_usd if self._settings.prices else None,
        }
        return {name: value for name, value in fields.items() if value is not None}
