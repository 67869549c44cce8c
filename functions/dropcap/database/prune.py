# ruff: noqa: S608  what is put into the SQL is this file's own
"""Delete expired rows: each sweep deletes some thousand of them, found by an index.

    uploads          rejected or deleted RETENTION_DAYS ago. Until then an event that is delivered late finds
                     its row; Pub/Sub retains events for at most 31 days
                     (docs.cloud.google.com/pubsub/docs/subscription-properties, 2026-11). Two kinds stay:
                     the row of an existing picture, which a late event, `make backfill` or its user's
                     deletion needs; and that of a kept source, or the sweep would process it again
    events           delivered EVENTS_DAYS ago; given up, or never tried, EVENTS_DAYS + RETENTION_DAYS ago
    answers          asked RETENTION_DAYS ago: the same bytes are then described, and paid for, once more
    spending         of days longer ago than that
    analyze_calls    of hours that ended more than a day ago

Analyses and receipts belong to the user: they are deleted with the picture.
"""

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass

from dropcap.database.leases import COMMITTED
from dropcap.database.schema.tables import TABLES
from dropcap.database.transactions import Database
from dropcap.settings import Settings

logger = logging.getLogger(__name__)

BATCH, ROUNDS = 1000, 10  # rows in one statement, and statements for each rule in one sweep


@dataclass(frozen=True, slots=True)
class Rule:
    """Which rows of a table to delete, in the order of `since`."""

    table: str
    since: str
    condition: str

    @property
    def sql(self) -> str:
        [key] = [", ".join(table.key) for table in TABLES if table.name == self.table]
        return f"""
DELETE FROM {self.table} WHERE ({key}) IN (
  SELECT {key} FROM {self.table} AS old WHERE {self.condition}
  ORDER BY {self.since} LIMIT :most FOR UPDATE SKIP LOCKED
) RETURNING 1"""


def _before(days: str) -> str:
    return f"now() - make_interval(days => {days})"


RULES = (
    Rule(
        "uploads",
        "finished_at",
        f"reason_code <> '' AND NOT source_kept AND finished_at < {_before(':kept')} AND state = 'done' "
        "AND NOT EXISTS (SELECT FROM analyses WHERE id = old.id)",
    ),
    Rule("events", "sent_at", f"sent_at < {_before(':told')}"),
    Rule(
        "events",
        "at",
        f"sent_at IS NULL AND at < {_before('CAST(:told AS int) + CAST(:kept AS int)')} "
        f"AND NOT EXISTS (SELECT FROM uploads WHERE id = upload_id AND {COMMITTED})",
    ),
    Rule("answers", "asked_at", f"asked_at < {_before(':kept')} AND lease_until < now()"),
    Rule("spending", "day", "day < current_date - CAST(:kept AS int)"),
    Rule("analyze_calls", "hour", f"hour < {_before('1')}"),
)
PRUNE = (
    "WITH "
    + ", ".join(f"rule{number} AS ({rule.sql})" for number, rule in enumerate(RULES))
    + " SELECT "
    + ", ".join(f"(SELECT count(*) FROM rule{number})" for number in range(len(RULES)))
)


def days(settings: Settings) -> Mapping[str, int]:
    """Return the parameters of PRUNE from the settings."""
    return {"kept": settings.retention_days, "told": settings.events_days}


def prune(database: Database, settings: Settings, ends: float) -> None:
    """Delete expired rows until the monotonic clock reaches `ends`, and log how many."""
    gone = dict.fromkeys((rule.table for rule in RULES), 0)
    for _ in range(ROUNDS):
        [counts] = database.query(PRUNE, most=BATCH, **days(settings))
        for rule, count in zip(RULES, counts, strict=True):
            gone[rule.table] += count
        if max(counts) < BATCH or time.monotonic() > ends:
            break
    if any(gone.values()):
        logger.info("pruned", extra={"event": "rows_pruned", **gone})
