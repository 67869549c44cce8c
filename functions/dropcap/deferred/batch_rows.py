# ruff: noqa: S608  the SQL is composed of this module's constants
"""Rows of `batches` and `batch_requests`: which pictures are in which batch of requests to Gemini.

A batch holds the lease of each of its pictures (rows.py): their `describe_after` is moved beyond the longest
life of a batch, so that they become due again by themselves if all is lost. Opening a batch moves the leases,
reserves its cost and stores both rows in one transaction, before the batch is created at Google. A crash
after that leaves a batch without a name, which reconcile finds at Google by its display name, or gives up.

Settling a batch returns the unused part of its reservation, once; then it is deleted at Google and here.
"""

import datetime as dt
import uuid
from collections.abc import Sequence
from dataclasses import dataclass

from dropcap.database import daily_usage
from dropcap.database.transactions import Database, Executor
from dropcap.deferred.rows import BACKOFF_S, BATCH_TRIES, COUNT, DUE, PendingDescription
from dropcap.domain.gemini_response import Tokens
from dropcap.settings import Settings

# "JOB_STATE_EXPIRED: the job has been running or pending for more than 48 hours":
# ai.google.dev/gemini-api/docs/batch-api, 2026-11.
ABANDON_S = 49 * 3600
HELD_S = 50 * 3600
# Move the leases of these pictures, and store their requests. A picture that lost its lease is left out.
HOLD = f"""
WITH sent AS (
  SELECT * FROM unnest(CAST(:ids AS uuid[]), CAST(:leases AS timestamptz[]), CAST(:languages AS text[]),
    CAST(:digests AS text[]), CAST(:prompts AS text[])) AS sent (id, lease, language, sha256, prompt)
), held AS (
  UPDATE analyses SET describe_after = now() + make_interval(secs => {HELD_S}) FROM sent
  WHERE analyses.id = sent.id AND describe_after = lease
  RETURNING analyses.id, describe_after, language, sent.sha256, prompt
)
INSERT INTO batch_requests AS r (upload_id, batch_id, lease_until, language, sha256, prompt)
SELECT id, CAST(:batch AS uuid), describe_after, language, sha256, prompt FROM held
ON CONFLICT (upload_id) DO UPDATE SET batch_id = excluded.batch_id, lease_until = excluded.lease_until,
  language = excluded.language, sha256 = excluded.sha256, prompt = excluded.prompt
RETURNING upload_id
"""
OPEN = """
INSERT INTO batches (id, model, prompt, requests, day)
VALUES (:id, :model, :prompt, :requests, CAST(:day AS date))
"""
COLUMNS = "id, name, model, prompt, requests, settled, extract(epoch FROM now() - created_at)::float8"
# Acquire the lease on the batch that was polled first, unless it was polled after :begun.
ACQUIRE = f"""
UPDATE batches SET poll_after = now() + make_interval(secs => :lease) WHERE id = (
  SELECT id FROM batches WHERE poll_after <= :begun ORDER BY poll_after LIMIT 1 FOR UPDATE SKIP LOCKED
) RETURNING {COLUMNS}
"""
RELEASE = "UPDATE batches SET name = :name, poll_after = now() WHERE id = :id RETURNING 1"
REQUESTS = "SELECT upload_id, lease_until, language, sha256, prompt FROM batch_requests WHERE batch_id = :id"
DUPLICATE = "SELECT 1 FROM batch_requests WHERE sha256 = :sha256 AND prompt = :prompt LIMIT 1"
REMOVE = "DELETE FROM batch_requests WHERE upload_id = :upload AND batch_id = :batch RETURNING 1"
SETTLE = "UPDATE batches SET settled = true WHERE id = :id AND NOT settled RETURNING day"
# Give the pictures of a batch back to reconcile: untried, or tried with the usual backoff, or to be described
# alone now.
RETURN = f"""
WITH returned AS (DELETE FROM batch_requests WHERE batch_id = :id RETURNING upload_id, lease_until)
UPDATE analyses SET
  describe_tries = CASE WHEN :alone THEN greatest(describe_tries, {BATCH_TRIES})
    ELSE describe_tries - :untried END,
  describe_after = CASE WHEN :alone OR :untried = 1 THEN now()
    ELSE now() + make_interval(secs => {BACKOFF_S.format(tries="(describe_tries - 1)")}) END
FROM returned WHERE id = upload_id AND describe_after = lease_until
"""
# Whether there are batches, and pictures that are due, and how many of these may go into a batch.
LOOK = f"SELECT EXISTS (SELECT FROM batches), EXISTS (SELECT FROM analyses AS due WHERE {DUE}), ({COUNT})"
IN_BATCHES = "SELECT count(*) FROM batch_requests"


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch: `name` is Google's, and empty until it is known; `age_s` is its age when it was read."""

    id: uuid.UUID
    name: str
    model: str
    prompt: str
    requests: int
    settled: bool
    age_s: float

    @property
    def display_name(self) -> str:
        """Return the name by which Google finds a batch whose creation was not answered."""
        return f"dropcap-{self.id.hex}"


@dataclass(frozen=True, slots=True)
class BatchRow:
    """A picture in a batch, with its lease, and what the response cache needs."""

    id: uuid.UUID
    lease_until: dt.datetime
    language: str
    sha256: str
    prompt: str

    @property
    def key(self) -> str:
        """What identifies the request in its batch; short, because Gemini copies it."""
        return request_key(self.id)


def request_key(id: uuid.UUID) -> str:
    """Return the key of a picture's request: ids are hashes, so 48 bits differ within a batch."""
    return id.hex[:12]


def open_batch(
    database: Database,
    settings: Settings,
    prompt: str,
    sent: Sequence[tuple[PendingDescription, BatchRow]],
) -> tuple[Batch, set[uuid.UUID]] | None:
    """Store a batch of these pictures; return it with the ids of those that it holds.

    Returns None if the day's budget does not suffice.
    """
    batch = Batch(uuid.uuid4(), "", settings.gemini_model, prompt, len(sent), False, 0.0)
    rows = [row for _, row in sent]

    def work(run: Executor) -> set[uuid.UUID] | None:
        day = daily_usage.reserve_batch(run, settings, batch.requests) if settings.has_budget else None
        if settings.has_budget and day is None:
            return None
        held = run(
            HOLD,
            batch=batch.id,
            ids=[str(row.id) for row in rows],
            leases=[row.lease_until.isoformat() for row in rows],
            languages=[row.language for row in rows],
            digests=[row.sha256 for row in rows],
            prompts=[row.prompt for row in rows],
        )
        run(OPEN, id=batch.id, model=batch.model, prompt=prompt, requests=batch.requests, day=day)
        return {id for [id] in held}

    held = database.transaction(work)
    return None if held is None else (batch, held)


def look(database: Database, most: int, *, unjudged: bool) -> tuple[bool, bool, int]:
    """Return whether there are batches, and due pictures, and how many of these may go into a batch, at most
    `most`."""
    [[exist, due, waiting]] = database.query(LOOK, most=most, unjudged=unjudged)
    return exist, due, waiting


def now(database: Database) -> dt.datetime:
    """Return the time of the database."""
    [[instant]] = database.query("SELECT now()")
    assert isinstance(instant, dt.datetime)
    return instant


def acquire(database: Database, begun: dt.datetime, lease_s: float) -> Batch | None:
    """Acquire the lease on a batch that was not polled since `begun`; return None if there is none."""
    rows = database.query(ACQUIRE, begun=begun, lease=lease_s)
    return Batch(*rows[0]) if rows else None


def release(database: Database, batch: Batch, name: str) -> None:
    """Store the name of a batch, and release the lease."""
    database.query(RELEASE, id=batch.id, name=name)


def requests(database: Database, batch: Batch) -> list[BatchRow]:
    """Return the pictures of a batch that are not described or returned yet."""
    return [BatchRow(*row) for row in database.query(REQUESTS, id=batch.id)]


def is_duplicate(database: Database, sha256: str, prompt: str) -> bool:
    """Return whether the same bytes are in a batch with the same prompt."""
    return bool(database.query(DUPLICATE, sha256=sha256, prompt=prompt))


def remove(database: Database, batch: Batch, row: BatchRow) -> None:
    """Remove a picture from its batch."""
    database.query(REMOVE, upload=row.id, batch=batch.id)


def settle(database: Database, settings: Settings, batch: Batch, used: Tokens, micro_usd: int) -> None:
    """Replace the reservation of a batch by what it cost, once. Its pictures must have been removed."""

    def work(run: Executor) -> None:
        for [day] in run(SETTLE, id=batch.id):
            if day is not None:
                daily_usage.settle_batch(run, settings, (day, batch.requests), used, micro_usd)

    database.transaction(work)


def give_up(
    database: Database, settings: Settings, batch: Batch, *, untried: bool = False, alone: bool = False
) -> None:
    """Delete a batch that Google does not have, and return its pictures and its reservation.

    They are due again after the usual backoff; at once if `untried`, or to be described `alone`.
    """

    def work(run: Executor) -> None:
        run(RETURN, id=batch.id, untried=int(untried), alone=alone)
        for [day] in run(SETTLE, id=batch.id):
            if day is not None:
                daily_usage.settle_batch(run, settings, (day, batch.requests), Tokens(), 0)
        run("DELETE FROM batches WHERE id = :id", id=batch.id)

    database.transaction(work)


def forget(database: Database, batch: Batch) -> None:
    """Delete a batch that is settled."""
    database.query("DELETE FROM batches WHERE id = :id AND settled RETURNING 1", id=batch.id)


def in_batches(database: Database) -> int:
    """Return the number of pictures in batches."""
    [[number]] = database.query(IN_BATCHES)
    return int(number)
