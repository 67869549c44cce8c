"""Gemini budget: one row per day of TIME_ZONE, in which each request is reserved before it is made.

    reserve          A single statement, so concurrent workers can't exceed the cap: PostgreSQL serializes
                     updates of the row and checks the condition again for each. A reservation is the highest
                     cost that a request can have.
    reserve_batch    The same for all requests of a batch; settle_batch returns the unused part to that day.
    record_usage     Returns the unused part of a reservation. A worker that crashes before returns nothing,
                     because the money may have been spent.
    count_picture    Other usage of a picture, as the last statement of the transaction that records it,
                     because it locks the row for all workers.

Without DAILY_CALLS and DAILY_MONEY nothing is stored here; usage is in the log and in each result.
"""

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dropcap.database.transactions import Database, Executor
from dropcap.domain.analysis import Usage
from dropcap.domain.gemini_response import Tokens
from dropcap.settings import MOST_INPUT_TOKENS, MOST_OUTPUT_TOKENS, Settings

REPORT_DAYS = 30  # before today
# Reserve requests and their highest cost, unless that exceeds a cap (0: no cap).
RESERVE = """
INSERT INTO spending AS s (day, calls, micro_usd, batched)
SELECT current_date, requests, most, CAST(:batched AS bigint)
FROM (SELECT CAST(:requests AS bigint) AS requests, CAST(:most AS bigint) AS most) AS asked
WHERE (:calls = 0 OR requests <= :calls) AND (:money = 0 OR most <= :money)
ON CONFLICT (day) DO UPDATE SET calls = s.calls + excluded.calls,
  micro_usd = s.micro_usd + excluded.micro_usd, batched = s.batched + excluded.batched
WHERE (:calls = 0 OR s.calls + excluded.calls <= :calls)
  AND (:money = 0 OR s.micro_usd + excluded.micro_usd <= :money)
RETURNING day
"""
# How many more requests of this cost fit into today; NULL: any number.
AFFORDABLE = """
SELECT least(
  CASE WHEN :calls > 0 THEN greatest(0, :calls - coalesce(sum(calls), 0)) END,
  CASE WHEN :money > 0 THEN greatest(0, floor((:money - coalesce(sum(micro_usd), 0)) / :most)) END
)::bigint FROM spending WHERE day = current_date
"""
# Return the unused part of a reservation, and return what the day has cost so far.
RECORD_USAGE = """
UPDATE spending SET micro_usd = micro_usd - :unused, input_tokens = input_tokens + :input,
  output_tokens = output_tokens + :output
WHERE day = :day RETURNING micro_usd
"""
# Add a picture's other usage.
COUNT_PICTURE = """
INSERT INTO spending AS s (day, pictures, reused, gb_ms) VALUES (current_date, :pictures, :reused, :gb_ms)
ON CONFLICT (day) DO UPDATE SET pictures = s.pictures + excluded.pictures,
  reused = s.reused + excluded.reused, gb_ms = s.gb_ms + excluded.gb_ms
"""
# Usage of the last :days days, newest first.
REPORT = """
SELECT day, pictures, calls, batched, reused, input_tokens, output_tokens, micro_usd, gb_ms
FROM spending WHERE day >= current_date - CAST(:days AS int) ORDER BY day DESC
"""


@dataclass(frozen=True, slots=True)
class Reservation:
    """A request counted for a day, and the micro-US$ reserved for it."""

    day: dt.date
    micro_usd: int


def highest_cost(settings: Settings, *, batch: bool = False) -> int:
    """Return the highest cost of one request, in micro-US$."""
    return round(settings.usd(MOST_INPUT_TOKENS, MOST_OUTPUT_TOKENS, batch=batch) * 1e6)


def reserve(database: Database, settings: Settings) -> Reservation | None:
    """Reserve one request today, or return None if a cap is reached. A retry may reserve twice."""
    cost = highest_cost(settings)
    rows = database.query(RESERVE, requests=1, most=cost, batched=0, **_caps(settings))
    return Reservation(rows[0][0], cost) if rows else None


def reserve_batch(run: Executor, settings: Settings, requests: int) -> dt.date | None:
    """Reserve the requests of a batch at half the price; return the day, or None if a cap is reached."""
    most = requests * highest_cost(settings, batch=True)
    rows = run(RESERVE, requests=requests, most=most, batched=requests, **_caps(settings))
    return rows[0][0] if rows else None


def affordable(database: Database, settings: Settings, most: int) -> int:
    """Return how many requests a batch may have today, at most `most`."""
    if not settings.has_budget:
        return most
    cost = max(1, highest_cost(settings, batch=True))
    [[number]] = database.query(AFFORDABLE, most=cost, **_caps(settings))
    return most if number is None else min(most, number)


def settle_batch(
    run: Executor, settings: Settings, reserved: tuple[dt.date, int], used: Tokens, micro_usd: int
) -> None:
    """Replace the reservation of a batch, a day and a number of requests, by what it cost."""
    day, requests = reserved
    unused = requests * highest_cost(settings, batch=True) - micro_usd
    run(RECORD_USAGE, day=day, unused=unused, input=used.input, output=used.output)


def _caps(settings: Settings) -> dict[str, int]:
    return {"calls": settings.daily_calls, "money": round(settings.daily_money * 1e6)}


def record_usage(
    database: Database, reservation: Reservation, micro_usd: int, input_tokens: int, output_tokens: int
) -> float | None:
    """Replace a reservation by the actual usage, at most once; return what the day has cost so far, in US$.

    After a lost connection it returns None, and the reservation stays: the commit may have succeeded.
    """
    attempted = False

    def work(run: Executor) -> list[list[int]]:
        nonlocal attempted
        if attempted:  # the connection was lost, perhaps during the commit
            return []
        attempted = True
        unused = reservation.micro_usd - micro_usd
        return run(RECORD_USAGE, day=reservation.day, unused=unused, input=input_tokens, output=output_tokens)

    rows = database.transaction(work)
    return rows[0][0] / 1e6 if rows else None


def count_picture(run: Executor, usage: Usage, pictures: int = 1) -> None:
    """Add a picture and its GB-seconds to the day on which it is recorded."""
    gb_ms = round(usage.gb_seconds * 1000)
    run(COUNT_PICTURE, pictures=pictures, reused=int(usage.reused), gb_ms=gb_ms)


def report(database: Database, settings: Settings) -> Mapping[str, Any]:
    """Return the caps, the pictures in batches, and the usage of the last days, newest first, for JSON."""
    names = ("pictures", "calls", "batched", "reused", "input_tokens", "output_tokens")
    days = [
        {"day": day.isoformat()}
        | dict(zip(names, counts, strict=True))
        | {"usd": micro_usd / 1e6 if settings.prices else None, "gb_seconds": gb_ms / 1000}
        for day, *counts, micro_usd, gb_ms in database.query(REPORT, days=REPORT_DAYS)
    ]
    caps = {"daily_calls": settings.daily_calls, "daily_money": settings.daily_money}
    [[in_batches]] = database.query("SELECT count(*) FROM batch_requests")
    return {**caps, "in_batches": in_batches, "days": days}
