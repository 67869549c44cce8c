"""The budget brake: what one picture asks of Gemini, within the day's cap, and what all of it costs.

With neither DAILY_CALLS nor DAILY_MONEY it counts in memory alone: no query, no wait.
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
    """The day's cap is reached: no request was made."""


class GeminiBudget:
    """A token_usage.RequestBudget for one picture. `sha256` is of its bytes; empty: nothing is cached."""

    def __init__(self, services: Services, upload: uuid.UUID, sha256: str) -> None:
        self._services, self._settings = services, services.settings
        self._upload, self._sha256 = upload, sha256
        self._reserved: daily_usage.Reservation | None = None
        self._calls, self._tokens, self._micro_usd, self._reused = 0, Tokens(), 0, False
        self._spent: float | None = None  # of the day, by all, US$

    def describe(self, jpeg: bytes, language: str) -> Description:
        """Gemini's description in this language, or what it said of the same bytes before.

        Raises NotDescribed.
        """
        services, settings, describer = self._services, self._settings, self._services.describer
        if not (settings.has_budget and self._sha256 and settings.gemini_api_key):
            return describer.describe(jpeg, language, self)
        asked = f"{describer.prompt} {language}"
        if settings.safety != "off":
            # A verdict holds only for the picture that Gemini saw, not for another size, frame or page.
            asked += f" {hashlib.sha256(jpeg).hexdigest()}"
        entry = CacheEntry(self._sha256, asked, settings.gemini_model)
        wait_s = min(settings.gemini_timeout_s, (settings.lease_s - settings.gemini_s) / 2)
        try:
            while known := entry.get_or_acquire(
                services.database, self._upload, settings.gemini_s + SPARE_S, wait_s
            ):
                answer, at = known
                self._reused = True
                try:
                    return describer.parse(answer, language, at)
                except NotDescribed as unfit:
                    if unfit.response:
                        raise
                self._reused = False
                entry.delete(services.database, at)  # an earlier release stored invalid answers
        except TimeoutError as busy:
            raise NotDescribed("another upload of the same bytes is being described") from busy
        kept, at = None, dt.datetime.now(dt.UTC)
        try:
            kept, description = describer.ask(jpeg, language, self)
            at = dt.datetime.fromisoformat(description.at)
            return description
        except NotDescribed as unavailable:
            kept = unavailable.response
            raise
        finally:
            with suppress(DatabaseUnavailable):  # the answer is paid for; the lease expires by itself
                if kept:
                    entry.store(services.database, kept, at)
                else:
                    entry.release(services.database)

    def reserve(self) -> None:
        """Reserve a request in the day's budget. Raises BudgetExhausted and DatabaseUnavailable."""
        if self._settings.has_budget:
            self._reserved = daily_usage.reserve(self._services.database, self._settings)
            if not self._reserved:
                raise BudgetExhausted("the day's budget for Gemini is spent (DAILY_CALLS, DAILY_MONEY)")
        self._calls += 1

    def record_usage(self, tokens: Tokens | None) -> None:
        """Count what it cost: where nobody knows, the most that it can have cost."""
        settings = self._settings
        used = tokens or Tokens()
        most = daily_usage.highest_cost(settings)
        cost = most if tokens is None else round(settings.usd(*used) * 1e6)
        self._micro_usd += cost
        self._tokens = Tokens(self._tokens.input + used.input, self._tokens.output + used.output)
        if self._reserved and (cost != most or any(used)):
            with suppress(DatabaseUnavailable):  # what is reserved then stays spent
                self._spent = daily_usage.record_usage(self._services.database, self._reserved, cost, *used)

    def usage(self, seconds: float) -> Usage:
        """What the picture cost, of which stages took so many seconds until now."""
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
        """What a log line tells of it, and of the day; what is not known is left out."""
        known = {
            "tokens": usage.input_tokens + usage.output_tokens,
            "gb_seconds": usage.gb_seconds,
            "usd": usage.usd,
            "spent_usd": self._spent if self._settings.prices else None,
        }
        return {name: value for name, value in known.items() if value is not None}
