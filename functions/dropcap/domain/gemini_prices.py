"""Prices of the Gemini API's live models: one table for the daily budget, the estimates and the cost page.

US$ per million tokens, text and pictures in, text and thoughts out. The page is
ai.google.dev/gemini-api/docs/pricing; each row is as of the day on which somebody transcribed it:

    2026-11-19    apidog.com/blog/gemini-4-neon-api
    2026-11-16    github.com/TrazumAPP/Trazum, release 2.7.9
    2026-10-07    github.com/api-evangelist/deepmind, plans/deepmind-plans-pricing.yml
    2026-08-13    github.com/pydantic/genai-prices, prices/providers/google.yml (also the two older days)

Not listed are models that are shut down: since 2026-12-01 Google answers for gemini-2.5-flash with
gemini-3.5-flash-lite, and for gemini-2.5-pro with gemini-3.8-flash, at their prices
(dev.to/aideprecations, 2026-11-10).
"""

import datetime as dt
from dataclasses import dataclass

PAGE = "ai.google.dev/gemini-api/docs/pricing"
# "Batch API usage is priced at 50% of the standard interactive API cost for the equivalent model":
# ai.google.dev/gemini-api/docs/batch-api, 2026-11.
BATCH_SHARE = 0.5


@dataclass(frozen=True, slots=True)
class Price:
    """US$ per million input and output tokens, read on the day `as_of`, in effect from `starts` on."""

    input: float
    output: float
    as_of: str
    starts: dt.date = dt.date.min


_NEXT_YEAR = dt.date(2027, 1, 1)
_FLASH = (0.75, 3.75), (1.50, 7.50)  # until the end of 2026, and after it
# By model, in the order of `starts`.
PRICES: dict[str, tuple[Price, ...]] = {
    "gemini-3.5-flash-lite": (Price(0.30, 2.50, "2026-11-16"),),
    "gemini-3.1-flash-lite": (Price(0.25, 1.50, "2026-05-12"),),
    "gemini-2.5-flash-lite": (Price(0.10, 0.40, "2025-10-31"),),
    "gemini-3.8-flash": (Price(*_FLASH[0], "2026-10-07"), Price(*_FLASH[1], "2026-10-07", _NEXT_YEAR)),
    "gemini-3.7-flash": (Price(*_FLASH[0], "2026-08-13"), Price(*_FLASH[1], "2026-08-13", _NEXT_YEAR)),
    "gemini-3.6-flash": (Price(*_FLASH[0], "2026-08-13"), Price(*_FLASH[1], "2026-08-13", _NEXT_YEAR)),
    "gemini-3.5-flash": (Price(1.50, 9.00, "2026-10-07"),),
    "gemini-4-hydrogen": (Price(1.50, 7.50, "2026-11-16"),),
    "gemini-4-neon": (Price(3.00, 15.00, "2026-11-19"),),
    "gemini-3.1-pro-preview": (Price(2.00, 12.00, "2026-10-07"),),
    "gemini-4-argon": (Price(4.00, 20.00, "2026-11-16"),),
}


def price(model: str, day: dt.date) -> Price | None:
    """Return the price of a model on this day; None if it is not in the table."""
    return next((row for row in reversed(PRICES.get(model, ())) if row.starts <= day), None)
