# ruff: noqa: S608  the SQL is composed of this module's constants
"""Transactional outbox: deliver one CloudEvent for each outcome of an upload.

    row             The event is written by the statement that commits the outcome, so neither exists without
                    the other.
    dispatch        Once the source is disposed of, the upload's event is published. A failure does not fail
                    the upload.
    dispatch_due    Reconcile publishes pending events whose source is disposed of. `prune.py` deletes
                    delivered events after EVENTS_DAYS.

Delivery is at least once: a lost response or a crash repeats an event, always with the same id, by which
consumers deduplicate. Selecting an event also postpones it, in the same statement, so that two dispatchers
never publish it at the same time. Retries use exponential backoff with jitter. An event whose retry fails
after EVENTS_DAYS is dead-lettered: its `next_at` becomes infinity, and the row stays.
"""

import logging
import time
import uuid
from collections.abc import Sequence
from dataclasses import asdict
from functools import cached_property
from typing import Any

from dropcap.database.connection import DatabaseUnavailable
from dropcap.database.leases import COMMITTED
from dropcap.database.outcome_rows import OutcomeRow
from dropcap.database.transactions import Database
from dropcap.domain import texts
from dropcap.domain.outcome import Outcome
from dropcap.domain.upload import Upload
from dropcap.outbox.event import Event
from dropcap.outbox.publishers import Publisher, PublishError, create
from dropcap.settings import Settings

logger = logging.getLogger(__name__)

BACKOFF_S = 60  # before the first retry; longer than EVENTS_TIMEOUT_S
MAX_BACKOFF_S = 3600
PAUSE_S = 60.0  # after a failure, uploads do not wait for a consumer that is down
MAX_FAILURES = 3  # in a row, after which a run leaves the rest to the next one
# Select due events, of one upload or of all, and postpone them.
TAKE_DUE = f"""
WITH due AS (
  SELECT upload_id, type FROM events AS e
  WHERE sent_at IS NULL AND next_at <= now() AND (CAST(:upload AS uuid) IS NULL OR upload_id = :upload)
    AND NOT EXISTS (SELECT FROM uploads WHERE id = e.upload_id AND {COMMITTED})
  ORDER BY next_at LIMIT :most FOR UPDATE SKIP LOCKED
)
UPDATE events AS e SET attempts = attempts + 1,
  next_at = now() + make_interval(
    secs => least(:max_backoff, :backoff * 2 ^ least(attempts, 20)) * (1 + random() / 2))
FROM due WHERE (e.upload_id, e.type) = (due.upload_id, due.type)
RETURNING e.upload_id, e.type, e.id, e.at, e.data, e.attempts, e.at < now() - make_interval(days => :days)
"""
# The id is compared too: after a posted picture is deleted and posted again, its row holds another event.
THESE = """
(upload_id, type, id) IN (
  SELECT * FROM unnest(CAST(:uploads AS uuid[]), CAST(:event_types AS text[]), CAST(:ids AS uuid[])))
RETURNING 1
"""
MARK_SENT = f"UPDATE events SET sent_at = now() WHERE {THESE}"
DEAD_LETTER = f"UPDATE events SET next_at = 'infinity' WHERE {THESE}"


def row(outcome: Outcome, lease_token: str, pictures_bucket: str) -> OutcomeRow:
    """Return the event of an outcome, with the same id however often this outcome is committed.

    A posted picture can be posted again after its user has deleted it. The lease token, which is new then,
    makes that a different event.
    """
    upload, analysis, rejection = outcome.upload, outcome.analysis, outcome.rejection
    data: dict[str, Any] = {"id": str(upload.id), "user": upload.user, **upload.to_json()}
    if analysis:
        data |= {"caption": analysis.caption, "alt_text": analysis.alt_text}
        data["notice"] = texts.notice(analysis.sources, analysis.provenance)
        data["pictures"] = [{"bucket": pictures_bucket} | asdict(each) for each in analysis.pictures]
    if rejection:
        data |= {"code": rejection.code, "problem": rejection.problem, "remedy": rejection.remedy}
    name = outcome.word if upload.in_bucket else f"{outcome.word} {lease_token}"
    values = {"upload_id": upload.id, "type": outcome.word, "user_id": upload.user, "data": data}
    return OutcomeRow("events", "upload_id, type", values | {"id": uuid.uuid5(upload.id, name)})


class Dispatcher:
    """Publishes events to the consumer in EVENTS; after a failure, uploads skip dispatching for PAUSE_S."""

    def __init__(self, settings: Settings, database: Database) -> None:
        self._settings = settings
        self._database = database
        self._paused_until = 0.0

    @cached_property
    def _publisher(self) -> Publisher:
        return create(self._settings)

    def dispatch(self, upload: Upload) -> None:
        """Publish an upload's due event. A failure is logged, and left to reconcile."""
        if time.monotonic() < self._paused_until:
            return
        try:
            self._publish(1, upload.id)
        except DatabaseUnavailable as failed:
            logger.warning(
                "event not delivered",
                extra={"event": "event_not_delivered", "upload": str(upload.id), "problem": str(failed)},
            )

    def dispatch_due(self, ends: float) -> dict[str, int]:
        """Publish all due events until the monotonic clock reaches `ends`.

        Returns the number of events that were delivered (`told`) and not delivered (`untold`).
        """
        delivered = undelivered = failures = 0
        while failures < MAX_FAILURES:
            sent, failed = self._publish(self._publisher.batch_size)
            delivered, undelivered = delivered + sent, undelivered + failed
            failures = failures + 1 if failed else 0
            if sent + failed == 0 or time.monotonic() > ends:
                break
        return {"told": delivered, "untold": undelivered}

    def _publish(self, most: int, upload: uuid.UUID | None = None) -> tuple[int, int]:
        """Publish one batch of due events, of this upload or of any; return the numbers sent and not sent."""
        bounds = {"days": self._settings.events_days, "backoff": BACKOFF_S, "max_backoff": MAX_BACKOFF_S}
        events = [Event(*row) for row in self._database.query(TAKE_DUE, upload=upload, most=most, **bounds)]
        if not events:
            return 0, 0
        try:
            self._publisher.publish(events)
        except PublishError as failed:
            self._paused_until = time.monotonic() + PAUSE_S
            # Log before dead-lettering: if this process dies in between, the next try logs it again.
            self._log(events, str(failed))
            self._update(DEAD_LETTER, [event for event in events if event.last_try])
            return 0, len(events)
        self._paused_until = 0.0
        self._update(MARK_SENT, events)
        return len(events), 0

    def _update(self, sql: str, events: Sequence[Event]) -> None:
        if events:
            self._database.query(
                sql,
                uploads=[str(event.upload) for event in events],
                event_types=[event.type for event in events],
                ids=[str(event.id) for event in events],
            )

    def _log(self, events: Sequence[Event], problem: str) -> None:
        for event in events:
            facts = {"upload": str(event.upload), "event_type": event.type, "attempts": event.attempts}
            if event.last_try:
                logger.error(
                    "event dead-lettered", extra={"event": "event_dead_lettered", **facts, "problem": problem}
                )
            else:
                logger.warning(
                    "event not delivered", extra={"event": "event_not_delivered", **facts, "problem": problem}
                )
