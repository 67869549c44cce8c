# ruff: noqa: S608  what is put into the SQL is this file's own
"""Telling a consumer what became of each upload: one CloudEvent for each outcome.

    row      the event is written by the very statement that commits the outcome (outcome.py), so that there
             is never one without the other
    tell     when the source is gone, the upload's event is sent; where that fails, nothing else does
    sweep    sends what is unsent and due, if the source is gone, and forgets what was sent long ago

An event may be sent more than once, when an answer is lost or a sender dies, and always with the same id: who
remembers ids acts once. Whoever takes an event to send it puts it off in the same statement, so that two
never send the same one at once, and one that nobody took is due again later and later. When a try after
EVENTS_DAYS has failed it is given up: `next_at` is infinity, and the row stays.
"""

import time
import uuid
from collections.abc import Sequence
from dataclasses import asdict
from functools import cached_property
from typing import Any

from dropcap import logs
from dropcap.database.connection import Unreachable
from dropcap.database.leases import Row
from dropcap.database.repository import Database
from dropcap.domain import texts
from dropcap.domain.outcome import Outcome
from dropcap.domain.upload import Upload
from dropcap.outbox.event import Event
from dropcap.outbox.publishers import Sender, Unsent, sender
from dropcap.settings import Settings

FIRST_S = 60  # until the second try, which is more than EVENTS_TIMEOUT_S
LONGEST_S = 3600  # between later ones
REST_S = 60.0  # after a failure, in which uploads do not wait for a consumer that is away
PATIENCE = 3  # failures in a row after which a sweep leaves the rest to the next
TAKE = """
WITH due AS (
  SELECT upload_id, type FROM events AS e
  WHERE sent_at IS NULL AND next_at <= now() AND (CAST(:upload AS uuid) IS NULL OR upload_id = :upload)
    AND NOT EXISTS (SELECT FROM uploads WHERE id = e.upload_id AND state IN ('recorded', 'rejected'))
  ORDER BY next_at LIMIT :most FOR UPDATE SKIP LOCKED
)
UPDATE events AS e SET attempts = attempts + 1,
  next_at = now() + make_interval(
    secs => least(:longest, :first * 2 ^ least(attempts, 20)) * (1 + random() / 2))
FROM due WHERE (e.upload_id, e.type) = (due.upload_id, due.type)
RETURNING e.upload_id, e.type, e.id, e.at, e.data, e.attempts, e.at < now() - make_interval(days => :days)
"""
# By their ids, too: a picture that was posted, deleted and posted again has another event in that row.
THESE = """
(upload_id, type, id) IN (
  SELECT * FROM unnest(CAST(:uploads AS uuid[]), CAST(:kinds AS text[]), CAST(:ids AS uuid[])))
RETURNING 1
"""
SENT = f"UPDATE events SET sent_at = now() WHERE {THESE}"
GIVEN_UP = f"UPDATE events SET next_at = 'infinity' WHERE {THESE}"


def row(outcome: Outcome, holder: str, pictures_bucket: str) -> Row:
    """The event of an outcome. Its id is the same however often this outcome comes about.

    Only what was posted can come again when its user has deleted it: then `holder` is another.
    """
    upload, analysis, rejection = outcome.upload, outcome.analysis, outcome.rejection
    data: dict[str, Any] = {"id": str(upload.id), "user": upload.user, **upload.to_json()}
    if analysis:
        data |= {"caption": analysis.caption, "alt_text": analysis.alt_text}
        data["notice"] = texts.notice(analysis.sources, analysis.provenance)
        data["pictures"] = [{"bucket": pictures_bucket} | asdict(each) for each in analysis.pictures]
    if rejection:
        data |= {"code": rejection.code, "problem": rejection.problem, "remedy": rejection.remedy}
    name = outcome.word if upload.in_bucket else f"{outcome.word} {holder}"
    values = {"upload_id": upload.id, "type": outcome.word, "user_id": upload.user, "data": data}
    return Row("events", "upload_id, type", values | {"id": uuid.uuid5(upload.id, name)})


class Teller:
    """Sends events to whom EVENTS names, and remembers for a while when that is in vain."""

    def __init__(self, settings: Settings, database: Database) -> None:
        self._settings = settings
        self._database = database
        self._rests_until = 0.0

    @cached_property
    def _sender(self) -> Sender:
        return sender(self._settings)

    def tell(self, upload: Upload) -> None:
        """Send what is due of an upload. Where that fails the log says so, and the sweep goes on."""
        if time.monotonic() < self._rests_until:
            return
        try:
            self._send(1, upload.id)
        except Unreachable as failed:
            logs.write("WARNING", "not told", upload=str(upload.id), problem=str(failed))

    def sweep(self, ends: float) -> dict[str, int]:
        """Send what is due until the instant `ends` of the monotonic clock: how many were `told` and not."""
        told = untold = in_vain = 0
        while in_vain < PATIENCE:
            sent, unsent = self._send(self._sender.at_once)
            told, untold = told + sent, untold + unsent
            in_vain = in_vain + 1 if unsent else 0
            if sent + unsent == 0 or time.monotonic() > ends:
                break
        return {"told": told, "untold": untold}

    def _send(self, most: int, upload: uuid.UUID | None = None) -> tuple[int, int]:
        """Send some that are due, of this upload or of any: how many were sent, and how many in vain."""
        bounds = {"days": self._settings.events_days, "first": FIRST_S, "longest": LONGEST_S}
        events = [Event(*row) for row in self._database.query(TAKE, upload=upload, most=most, **bounds)]
        if not events:
            return 0, 0
        try:
            self._sender.send(events)
        except Unsent as failed:
            self._rests_until = time.monotonic() + REST_S
            self._say(events, str(failed))  # first: who dies here tries it once more, and says so then
            self._note(GIVEN_UP, [each for each in events if each.given_up])
            return 0, len(events)
        self._rests_until = 0.0
        self._note(SENT, events)
        return len(events), 0

    def _note(self, sql: str, events: Sequence[Event]) -> None:
        if events:
            ids = {"uploads": [str(each.upload) for each in events], "ids": [str(each.id) for each in events]}
            self._database.query(sql, kinds=[each.type for each in events], **ids)

    def _say(self, events: Sequence[Event], problem: str) -> None:
        for each in events:
            facts = {"upload": str(each.upload), "event": each.type, "attempts": each.attempts}
            if each.given_up:
                logs.write("ERROR", "given up telling", **facts, problem=problem)
            else:
                logs.write("WARNING", "not told", **facts, problem=problem)
