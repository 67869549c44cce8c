"""What a day costs: a row a day of TIME_ZONE, in which each request to Gemini is reserved before it is made.

    reserve    one statement, so that however many ask at one time, no more get through than the cap allows:
               PostgreSQL lets them change the row one after the other, and each looks at it anew. The money
               reserved is the most that a request can cost
    settle     gives back what was not used of it. Whoever dies in between gives back nothing: what may have
               been spent counts as spent
    tally      what a picture took beside Gemini, in the transaction that records it, as its last statement,
               as everybody waits for this row

Nothing is kept here while there is neither DAILY_CALLS nor DAILY_MONEY: the log and each result tell then.
"""

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dropcap.database.leases import Run
from dropcap.database.transactions import Transactions
from dropcap.domain.analysis import Usage
from dropcap.settings import MOST_INPUT_TOKENS, MOST_OUTPUT_TOKENS, Settings

DAYS = 30  # of a report, beside today
RESERVE = """
INSERT INTO spending AS s (day, calls, micro_usd) VALUES (current_date, 1, :most)
ON CONFLICT (day) DO UPDATE SET calls = s.calls + 1, micro_usd = s.micro_usd + excluded.micro_usd
WHERE (:calls = 0 OR s.calls < :calls) AND (:money = 0 OR s.micro_usd + excluded.micro_usd <= :money)
RETURNING day
"""
SETTLE = """
UPDATE spending SET micro_usd = micro_usd - :unused, input_tokens = input_tokens + :input,
  output_tokens = output_tokens + :output
WHERE day = :day RETURNING micro_usd
"""
TALLY = """
INSERT INTO spending AS s (day, pictures, reused, gb_ms) VALUES (current_date, :pictures, :reused, :gb_ms)
ON CONFLICT (day) DO UPDATE SET pictures = s.pictures + excluded.pictures,
  reused = s.reused + excluded.reused, gb_ms = s.gb_ms + excluded.gb_ms
"""
REPORT = """
SELECT day, pictures, calls, reused, input_tokens, output_tokens, micro_usd, gb_ms
FROM spending WHERE day >= current_date - CAST(:days AS int) ORDER BY day DESC
"""


@dataclass(frozen=True, slots=True)
class Reserved:
    """One request's place in a day, and the millionths of a US$ that are put aside for it."""

    day: dt.date
    micro_usd: int


def most(settings: Settings) -> int:
    """The most that one request can cost, in millionths of a US$."""
    return round(settings.usd(MOST_INPUT_TOKENS, MOST_OUTPUT_TOKENS) * 1e6)


def reserve(database: Transactions, settings: Settings) -> Reserved | None:
    """Room for one request today; None where a cap is reached. May reserve twice, never none."""
    money = round(settings.daily_money * 1e6)
    rows = database.query(RESERVE, most=most(settings), calls=settings.daily_calls, money=money)
    return Reserved(rows[0][0], most(settings)) if rows else None


def settle(
    database: Transactions, reserved: Reserved, micro_usd: int, input_tokens: int, output_tokens: int
) -> float | None:
    """Give back what was not used, once at most: where it isn't known whether it was, it was.

    What is spent on that day so far, US$, where that is known.
    """
    begun = False

    def work(run: Run) -> list[list[int]]:
        nonlocal begun
        if begun:  # the connection was lost, perhaps at the commit
            return []
        begun = True
        unused = reserved.micro_usd - micro_usd
        return run(SETTLE, day=reserved.day, unused=unused, input=input_tokens, output=output_tokens)

    rows = database.transaction(work)
    return rows[0][0] / 1e6 if rows else None


def tally(run: Run, usage: Usage, pictures: int = 1) -> None:
    """Count a picture, and its GB-seconds, on the day on which it is recorded."""
    run(TALLY, pictures=pictures, reused=int(usage.reused), gb_ms=round(usage.gb_seconds * 1000))


def report(database: Transactions, settings: Settings) -> Mapping[str, Any]:
    """Today and the 30 days before, the newest first, ready for JSON; and the caps."""
    names = ("pictures", "calls", "reused", "input_tokens", "output_tokens")
    days = [
        {"day": day.isoformat()}
        | dict(zip(names, counts, strict=True))
        | {"usd": micro_usd / 1e6 if settings.prices else None, "gb_seconds": gb_ms / 1000}
        for day, *counts, micro_usd, gb_ms in database.query(REPORT, days=DAYS)
    ]
    return {"daily_calls": settings.daily_calls, "daily_money": settings.daily_money, "days": days}
