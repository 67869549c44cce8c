# ruff: noqa: S608  the SQL is composed of this module's constants
"""Delete expired rows. Each run deletes at most some thousand rows per rule, found by an index.

    uploads          rejected or deleted RETENTION_DAYS ago. Until then a late event finds its row; Pub/Sub
                     retains events for at most 31 days
                     (docs.cloud.google.com/pubsub/docs/subscription-properties, 2026-11). Two kinds stay:
                     the row of an existing picture, which a late event, `make backfill` or its deletion
                     needs; and that of a kept source, which would otherwise be processed again
    events           delivered EVENTS_DAYS ago; not delivered EVENTS_DAYS + RETENTION_DAYS ago
    answers          given RETENTION_DAYS ago; the same bytes are then described, and paid for, again
    spending         of days RETENTION_DAYS ago
    batches          not polled for a week, and their requests: without a key, reconcile polls none
    analyze_calls    of hours more than a day ago

Analyses and receipts belong to the user, and are deleted with the picture.
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

BATCH, ROUNDS = 1000, 10  # rows per rule and statement, and statements per run


@dataclass(frozen=True, slots=True)
class Rule:
    """The rows of a table to delete, in the order of the column `since`."""

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


def _days_ago(days: str) -> str:
    return f"now() - make_interval(days => {days})"


RULES = (
    Rule(
        "uploads",
        "finished_at",
        f"reason_code <> '' AND NOT source_kept AND finished_at < {_days_ago(':kept')} AND state = 'done' "
        "AND NOT EXISTS (SELECT FROM analyses WHERE id = old.id)",
    ),
    Rule("events", "sent_at", f"sent_at < {_days_ago(':delivered')}"),
    Rule(
        "events",
        "at",
        f"sent_at IS NULL AND at < {_days_ago('CAST(:delivered AS int) + CAST(:kept AS int)')} "
        f"AND NOT EXISTS (SELECT FROM uploads WHERE id = upload_id AND {COMMITTED})",
    ),
    Rule("answers", "asked_at", f"asked_at < {_days_ago(':kept')} AND lease_until < now()"),
    Rule("spending", "day", "day < current_date - CAST(:kept AS int)"),
    Rule("batches", "poll_after", f"poll_after < {_days_ago('7')}"),
    Rule("batch_requests", "lease_until", f"lease_until < {_days_ago('7')}"),
    Rule("analyze_calls", "hour", f"hour < {_days_ago('1')}"),
)
PRUNE = (
    "WITH "
    + ", ".join(f"rule{number} AS ({rule.sql})" for number, rule in enumerate(RULES))
    + " SELECT "
    + ", ".join(f"(SELECT count(*) FROM rule{number})" for number in range(len(RULES)))
)


def days(settings: Settings) -> Mapping[str, int]:
    """Return the parameters of PRUNE from the settings."""
    return {"kept": settings.retention_days, "delivered": settings.events_days}


def prune(database: Database, settings: Settings, ends: float) -> None:
    """Delete expired rows until the monotonic clock reaches `ends`, and log how many."""
    deleted = dict.fromkeys((rule.table for rule in RULES), 0)
    for _ in range(ROUNDS):
        [counts] = database.query(PRUNE, most=BATCH, **days(settings))
        for rule, count in zip(RULES, counts, strict=True):
            deleted[rule.table] += count
        if max(counts) < BATCH or time.monotonic() > ends:
            break
    if any(deleted.values()):
        logger.info("pruned", extra={"event": "rows_pruned", **deleted})
