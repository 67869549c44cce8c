"""Gemini, as functions/dropcap/gemini.py asks it: its quotas, and what a refusal costs."""

from __future__ import annotations

import math
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

import numpy as np
import simpy

from dropcap.gemini import FIRST_BACKOFF_S
from infra.scaling import facts

MINUTE_S, DAY_S = 60.0, 86_400.0


@dataclass(slots=True)
class Quota:
    """Requests that a minute and the day still have. Minutes begin at full minutes (facts.TIERS).

    Assumed: a refusal asks to wait for the next minute, one for the day for longer than the function would.
    One that was seen asked for 19 s (discuss.ai.google.dev/t/97746).
    """

    a_minute: float
    left_today: float
    _minute: int = -1
    _left: float = 0.0

    def wait(self, now: float) -> float:
        """0, and one is taken, where there is one; else the seconds until there may be one."""
        if self.left_today < 1:
            return math.inf
        minute = int(now // MINUTE_S)
        if minute != self._minute:
            self._minute, self._left = minute, self.a_minute
        if self._left < 1:
            return (minute + 1) * MINUTE_S - now
        self._left -= 1
        self.left_today -= 1
        return 0.0


@dataclass(frozen=True, slots=True)
class Gemini:
    """Requests and input tokens a minute, requests a day; the settings of the function; its latency, s.

    It is log-normal around `median_s`.
    """

    requests: float = math.inf
    tokens: float = math.inf
    a_day: float = math.inf
    attempts: int = facts.GEMINI_ATTEMPTS
    timeout_s: float = facts.GEMINI_TIMEOUT_S
    median_s: float = facts.GEMINI_S
    spread: float = facts.GEMINI_SPREAD

    @property
    def a_minute(self) -> float:
        """Pictures that a minute's quota allows."""
        return min(self.requests, self.tokens // facts.INPUT_TOKENS)

    @property
    def most(self) -> float:
        """Pictures a second that it can describe all day."""
        return min(self.a_minute / MINUTE_S, self.a_day / DAY_S)

    def quota_of(self, seconds: float) -> Quota:
        """The quota of a run: the day's in proportion, as the run stands for a day."""
        return Quota(self.a_minute, self.a_day * seconds / DAY_S)

    def latencies(self, chance: np.random.Generator, number: int) -> np.ndarray[Any, Any]:
        drawn = chance.lognormal(math.log(self.median_s), self.spread, number)
        return np.minimum(drawn, self.timeout_s)

    def ask(
        self, env: simpy.Environment, quota: Quota, chance: np.random.Generator
    ) -> Generator[simpy.Event, Any, bool]:
        """Wait as Describer.describe does until there is quota; False where it gives up."""
        for attempt in range(1, self.attempts + 1):
            wait_s = quota.wait(env.now)
            if not wait_s:
                return True
            if wait_s > self.timeout_s or attempt == self.attempts:
                return False
            back_off = chance.uniform(0, FIRST_BACKOFF_S * 2 ** (attempt - 1))
            yield env.timeout(min(wait_s + back_off, self.timeout_s))
        return False
