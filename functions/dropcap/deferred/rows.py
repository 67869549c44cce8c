# ruff: noqa: S608  the SQL is composed of this module's constants
"""Rows of `analyses` whose description is pending: acquire one, store its description, or schedule a retry.

`describe_after` is the time of the next try, or NULL if nothing is pending; a partial index covers it. A
worker acquires the lease on a row by moving that time beyond the longest that the work may take, and may
change the row only while the time is still the one that it set. So a picture that its user deletes meanwhile
stays deleted, and two runs never describe one picture twice. The exception is a description, because it
has been paid for: it is stored even after the lease expired, if the row still needs one.

The columns of a person's own caption and alt text are separate and never changed here.
"""

import datetime as dt
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dropcap.database import daily_usage, search
from dropcap.database.transactions import Database, Executor
from dropcap.domain.analysis import Analysis, Usage
from dropcap.domain.records import read
from dropcap.domain.upload import Upload

# Delay before the next try, which doubles; reconcile runs every ten minutes.
FIRST_DELAY_S, LONGEST_DELAY_S = 300, 86_400
BACKOFF_S = f"least({FIRST_DELAY_S} * 2 ^ {{tries}}, {LONGEST_DELAY_S})"
# A row is not due before its source has been disposed of: until then, a delivery may still publish.
DUE = """describe_after <= now()
    AND coalesce((SELECT state FROM uploads WHERE uploads.id = due.id), 'done') = 'done'"""
# Rows that may go into a batch: after two failures a row is described alone, and with SAFETY a picture
# without a verdict does not wait for one. An interrupted unpublish, without pictures, needs no description.
BATCH_TRIES = 2
BATCHABLE = f"""(describe_tries < {BATCH_TRIES} AND jsonb_typeof(result->'pictures'->0) = 'object'
    AND (:unjudged OR coalesce(result->'safety'->>'level', 'unknown') <> 'unknown'))"""
# Acquire the lease on the row that is due first.
ACQUIRE = f"""
UPDATE analyses SET describe_tries = describe_tries + 1,
  describe_after = now() + make_interval(secs => greatest(:lease, {BACKOFF_S.format(tries="describe_tries")}))
WHERE id = (
  SELECT id FROM analyses AS due WHERE {DUE} AND (:any OR :batchable = {BATCHABLE})
  ORDER BY describe_after LIMIT 1 FOR UPDATE OF due SKIP LOCKED
)
RETURNING id, user_id, describe_after, describe_tries, result
"""
COUNT = f"SELECT count(*) FROM (SELECT FROM analyses AS due WHERE {DUE} AND {BATCHABLE} LIMIT :most) AS due"
READ = "SELECT user_id, describe_tries, result FROM analyses WHERE id = :id AND describe_after IS NOT NULL"
LEASED = "id = :id AND describe_after = :lease_until"
# Release the lease of a row that was not tried.
RELEASE = f"""
UPDATE analyses SET describe_tries = describe_tries - 1,
  describe_after = now() + make_interval(secs => :delay)
WHERE {LEASED} RETURNING id
"""
# Store a paid description, even if the lease expired or the row was marked again meanwhile, provided that the
# row still needs one. In that case the row stays pending, and the next worker replaces the description.
STORE = """
UPDATE analyses SET caption = :caption, description = :description, alt_text = :alt_text, tags = :tags,
  picture_text = :text, describe_after = nullif(describe_after, :lease_until),
  describe_tries = CASE WHEN describe_after = :lease_until THEN 0 ELSE describe_tries END,
  result = result || CAST(:result AS jsonb)
    || jsonb_build_object('describe_later', describe_after <> :lease_until)
WHERE id = :id AND describe_after IS NOT NULL AND jsonb_typeof(result->'pictures'->0) = 'object'
RETURNING describe_after
"""
# Update the result under the lease; then finish the row, schedule its next try, or keep the lease.
UPDATE = f"""
UPDATE analyses SET result = result || CAST(:result AS jsonb),
  describe_tries = describe_tries + :extra_tries,
  describe_after = CASE
    WHEN :finish THEN NULL
    WHEN :retry THEN now()
      + make_interval(secs => {BACKOFF_S.format(tries="(describe_tries + :extra_tries - 1)")})
    ELSE describe_after END
WHERE {LEASED} RETURNING id
"""
# Delete the cached response of a picture that was deleted meanwhile: the deletion could not find it yet.
DELETE_ORPHANED_RESPONSE = """
DELETE FROM answers WHERE upload_id = :id AND NOT EXISTS (SELECT FROM analyses WHERE id = :id) RETURNING 1
"""


@dataclass(frozen=True, slots=True)
class PendingDescription:
    """A row that this worker has leased until `lease_until`, for its n-th try.

    `result` is the Analysis as JSON, kept unchanged, including keys that a newer revision wrote; `analysis`
    holds the fields that this revision knows.
    """

    id: uuid.UUID
    user: str
    lease_until: dt.datetime
    tries: int
    result: Mapping[str, Any]

    @property
    def analysis(self) -> Analysis:
        return read(Analysis, self.result)

    @property
    def upload(self) -> Upload:
        return read(Upload, self.result.get("upload"))


def acquire(
    database: Database, lease_s: float, *, batchable: bool | None = None, unjudged: bool = True
) -> PendingDescription | None:
    """Acquire the lease on the row that is due first; return None if no row is due.

    Only rows that may go into a batch if `batchable`, only others if it is False. `unjudged`: pictures
    without a verdict may.
    """
    options = {"any": batchable is None, "batchable": bool(batchable), "unjudged": unjudged}
    rows = database.query(ACQUIRE, lease=lease_s, **options)
    return PendingDescription(*rows[0]) if rows else None


def count_batchable(database: Database, most: int, *, unjudged: bool) -> int:
    """Return how many due rows may go into a batch, at most `most`."""
    [[number]] = database.query(COUNT, most=most, unjudged=unjudged)
    return int(number)


def pending(database: Database, id: uuid.UUID, lease_until: dt.datetime) -> PendingDescription | None:
    """Return a row that still needs a description, as one leased until this time; None if there is none."""
    for user, tries, result in database.query(READ, id=id):
        return PendingDescription(id, user, lease_until, tries, result)
    return None


def release(database: Database, pending: PendingDescription, delay_s: float = 0) -> None:
    """Release the lease of a row that was not tried; it is due again after the delay."""
    database.query(RELEASE, id=pending.id, lease_until=pending.lease_until, delay=delay_s)


def store(
    database: Database,
    pending: PendingDescription,
    changes: Mapping[str, Any],
    tags: tuple[str, ...],
    usage: Usage | None,
) -> bool:
    """Store the `changes` of the result and, unless None, count the `usage`; return whether the row is done.

    It is not if the picture was deleted, or marked again, while it was being described.
    """
    columns = {name: changes[name] for name in ("caption", "description", "alt_text", "text")}
    lease = {"id": pending.id, "lease_until": pending.lease_until}

    def work(run: Executor) -> bool:
        search.remove(run, pending.user, pending.id)  # first, as in all transactions: a fixed lock order
        rows = run(STORE, **lease, tags=list(tags), result=changes, **columns)
        if rows and usage:
            daily_usage.count_picture(run, usage, pictures=0)
        return rows == [[None]]

    done = database.transaction(work)
    if not done:
        database.query(DELETE_ORPHANED_RESPONSE, id=pending.id)
    return done


def update(
    database: Database, pending: PendingDescription, changes: Mapping[str, Any], *, finish: bool = False
) -> bool:
    """Change the result and, if `finish`, end the pending state; return whether the lease is still held."""
    return _update(database, pending, changes, finish=finish, retry=False, extra_tries=0)


def fail(
    database: Database,
    pending: PendingDescription,
    changes: Mapping[str, Any],
    *,
    finish: bool,
    extra_tries: int,
) -> None:
    """Record a failure, which counts as 1 + `extra_tries` tries. Retry with backoff unless `finish`."""
    if not _update(database, pending, changes, finish=finish, retry=True, extra_tries=extra_tries):
        database.query(DELETE_ORPHANED_RESPONSE, id=pending.id)


def _update(
    database: Database, pending: PendingDescription, changes: Mapping[str, Any], **options: bool | int
) -> bool:
    lease = {"id": pending.id, "lease_until": pending.lease_until}
    return bool(database.query(UPDATE, **lease, result=changes, **options))
