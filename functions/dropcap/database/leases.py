# ruff: noqa: S608  the SQL is composed of this module's constants; values are parameters
"""Leases on uploads: at most one worker processes an upload, and another takes over after a crash.

Each upload, one generation of an object or one posted picture, has a row in `uploads`. Its event may be
delivered several times, at once or later, so a worker needs the upload's lease:

    acquire     Insert the row, or take over a lease that has expired or was released (`acquire_new` only
                inserts: before a takeover, the pipeline lists what is published). Of any number of
                concurrent workers one succeeds. It gets a random lease token, and LEASE_S seconds by the
                database's clock. The others see `busy`, raise LeaseHeld and are redelivered later.
    heartbeat   Sent at the start of each stage of the pipeline. It renews the lease, and stores the stage
                and the resident memory.
    outcome     `Analyses.record`, `reject` or `hold` commits the outcome. These statements, too, compare the
                lease token (fencing): a worker whose lease was taken over changes nothing.
    finish      After the source is disposed of, the upload is done.
    release     After a transient error, so that the retry need not wait until the lease expires.

Crash counting: a worker that crashed or hung sends no heartbeat, so its lease expires, and the next delivery
or reconcile acquires it. If it expired in one of HEAVY_STAGES, which decode, caption or encode, the upload is
likely the cause: `acquire` appends the stage to the column `deaths`, and the pipeline rejects the upload at
MAX_DEATHS. In any other stage the worker was waiting for the database or the network, which does not count.

While the database is unavailable, a worker can't release its lease. It does so before it acquires the next
one. If it acquires none before the lease expires and another worker takes over, an outage in a heavy stage
is counted as a crash.

Generations: an upload's id is derived from bucket, name and generation (domain/upload.py), so a replaced
object is another upload with a lease of its own.
"""

import logging
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from dropcap.database import receipts
from dropcap.database.outcome_rows import OutcomeRow, update_with_rows
from dropcap.database.transactions import Database, Executor
from dropcap.domain.records import read
from dropcap.domain.upload import Upload, UploadState
from dropcap.errors import Rejected, TransientError

logger = logging.getLogger(__name__)

HEAVY_STAGES = ("open", "resize", "encode", "caption")  # each may crash an instance
_HEAVY = ", ".join(f"'{stage}'" for stage in HEAVY_STAGES)
# For a row `u` whose lease has expired: whether its worker counts as crashed.
CRASHED = f"(u.holder IS NOT NULL AND u.stage IN ({_HEAVY}))"
# The row of a posted picture without a worker: only a client that posts it again has its bytes.
ABANDONED = f"(state = '{UploadState.LEASED}' AND bucket = '' AND lease_until <= now())"
# The outcome is committed, and the source is still to be disposed of.
COMMITTED = f"state IN ('{UploadState.RECORDED}', '{UploadState.REJECTED}')"

INSERT = """
INSERT INTO uploads AS u (id, bucket, name, generation, user_id, size, content_type,
                          holder, lease_until, stage, stage_at)
VALUES (:id, :bucket, :name, :generation, :user, :size, :content_type,
        :token, now() + make_interval(secs => :lease_s), 'claim', now())
"""
# Insert the row, or return the row that is there and whether its lease is free.
ACQUIRE_NEW = f"""
WITH made AS ({INSERT} ON CONFLICT (id) DO NOTHING RETURNING id)
SELECT (SELECT count(*) FROM made), u.state, u.holder, u.attempts, u.reason,
       u.state IN ('{UploadState.LEASED}', '{UploadState.HELD}') AND u.lease_until <= now()
FROM (SELECT) AS one LEFT JOIN uploads AS u ON u.id = :id
"""
# Insert the row, or take over a free lease and count the crash; otherwise return the row unchanged.
ACQUIRE = f"""{INSERT}
ON CONFLICT (id) DO UPDATE
SET (state, reason_code, reason,
     attempts, holder, lease_until, stage, stage_at, rss_mb, deaths) = (
  SELECT '{UploadState.LEASED}', '', u.reason, u.attempts + 1, excluded.holder, excluded.lease_until,
         excluded.stage, excluded.stage_at, excluded.rss_mb,
         CASE WHEN {CRASHED} THEN u.deaths || jsonb_build_object(
           'stage', u.stage, 'at', date_trunc('second', u.stage_at), 'rss_mb', u.rss_mb)
         ELSE u.deaths END
  WHERE u.state IN ('{UploadState.LEASED}', '{UploadState.HELD}') AND u.lease_until <= now()
  UNION ALL
  SELECT u.state, u.reason_code, u.reason,
         u.attempts, u.holder, u.lease_until, u.stage, u.stage_at, u.rss_mb, u.deaths
  WHERE u.state NOT IN ('{UploadState.LEASED}', '{UploadState.HELD}') OR u.lease_until > now()
)
RETURNING state, holder, attempts, reason, deaths,
          CAST(extract(epoch FROM now() - created_at) AS float8)
"""
# Renew the lease at the start of a stage.
HEARTBEAT = """
UPDATE uploads SET stage = :stage, stage_at = now(), rss_mb = :rss_mb,
  lease_until = now() + make_interval(secs => :lease_s)
WHERE id = :id AND holder = :token RETURNING id
"""
# Commit the outcome of the lease's worker. The row stays locked until the transaction ends.
COMMIT_OUTCOME = f"""
UPDATE uploads SET state = :state, reason_code = :code, reason = :reason
WHERE id = :id AND holder = :token AND state IN ('{UploadState.LEASED}', :state) RETURNING id
"""
# Give up the lease, and let nobody acquire it for :retry_s seconds.
HOLD = f"""
UPDATE uploads SET state = '{UploadState.HELD}', holder = NULL, reason_code = :code, reason = :reason,
  stage = 'held', stage_at = now(), rss_mb = 0, lease_until = now() + make_interval(secs => :retry_s)
WHERE id = :id AND holder = :token AND state = '{UploadState.LEASED}' RETURNING id
"""
# Give up the lease, so that it can be acquired at once.
RELEASE = f"""
UPDATE uploads SET holder = NULL, lease_until = now()
WHERE id = :id AND holder = :token AND state = '{UploadState.LEASED}' RETURNING id
"""
# Delete the row and its cached response, but keep a row that counts crashes.
DISCARD = f"""
WITH ours AS (
  SELECT id, deaths FROM uploads
  WHERE id = :id AND holder = :token AND state = '{UploadState.LEASED}' FOR UPDATE
), discarded AS (
  DELETE FROM uploads AS u USING ours WHERE u.id = ours.id AND ours.deaths = '[]'
), released AS (
  UPDATE uploads AS u SET holder = NULL, lease_until = now()
  FROM ours WHERE u.id = ours.id AND ours.deaths <> '[]'
)
DELETE FROM answers AS a USING ours WHERE a.upload_id = ours.id RETURNING 1
"""
# Mark the upload as done after its source was disposed of.
FINISH = f"""
UPDATE uploads SET state = '{UploadState.DONE}', finished_at = now(),
  source_kept = CASE WHEN CAST(:disposition AS text) <> '' THEN CAST(:disposition AS text) = 'kept' END
WHERE id = :id AND {COMMITTED} RETURNING id
"""
# `held`, or the code of a rejection; empty if the upload is analyzed or leased.
OUTCOME = "SELECT CASE state WHEN 'held' THEN state ELSE reason_code END FROM uploads WHERE id = :id"


class LeaseHeld(TransientError):
    """Transient error: another worker holds the lease. Redeliver, in case that one crashes."""


@dataclass(frozen=True, slots=True)
class Crash:
    """A crashed worker's last heartbeat: the stage that began, when (ISO 8601), and resident MB then."""

    stage: str
    at: str
    rss_mb: int

    def __str__(self) -> str:
        return f"{self.stage} ({self.rss_mb} MB, {self.at})"


@dataclass(frozen=True, slots=True)
class Lease:
    """The result of `acquire`: the lease if `state` is LEASED, otherwise why it was not acquired.

    `token` is empty without a lease. `reason` is that of a rejection, or of the hold before this lease.
    """

    state: UploadState
    token: str
    attempts: int
    reason: str
    crashes: tuple[Crash, ...] = ()
    age_s: float = 0.0  # since the upload was first acquired


class Leases:
    """Acquire, renew and end leases on uploads. Methods raise DatabaseUnavailable, as `Database` does."""

    def __init__(self, database: Database) -> None:
        self._database = database
        # Leases by token that could not be released while the database was unavailable.
        self._unreleased: dict[str, Upload] = {}

    def acquire_new(self, upload: Upload) -> Lease | None:
        """Acquire the lease of an upload without a row, or return why that is not possible.

        Returns None if there is a row whose lease `acquire` can take over.
        """
        token, [made, state, present, attempts, reason, free] = self._insert(ACQUIRE_NEW, upload)
        if made or present == token:
            return Lease(UploadState.LEASED, token, 1, "")
        if free or state is None:  # None: another worker has just inserted it
            return None
        found = UploadState(state)
        return Lease(UploadState.BUSY if found is UploadState.LEASED else found, "", attempts, reason)

    def acquire(self, upload: Upload) -> Lease:
        """Acquire the upload's lease for LEASE_S seconds, or return why that is not possible."""
        token, [state, present, attempts, reason, deaths, age_s] = self._insert(ACQUIRE, upload)
        if state != UploadState.LEASED:
            return Lease(UploadState(state), "", attempts, reason)
        if present != token:
            return Lease(UploadState.BUSY, "", attempts, reason)
        return Lease(UploadState.LEASED, token, attempts, reason, read(tuple[Crash, ...], deaths), age_s)

    def _insert(self, sql: str, upload: Upload) -> tuple[str, list[Any]]:
        """Execute a statement that acquires the lease; return the lease token, and the row of the result."""
        with suppress(KeyError):  # raised by popitem when the dictionary is empty, also by another thread
            while True:
                token, unreleased = self._unreleased.popitem()
                self.release(unreleased, token)
        token = uuid.uuid4().hex  # one for all retries of the transaction: an earlier one may have committed
        with self._released_later(upload, token):  # the response may be lost
            [row] = self._database.query(
                sql,
                id=upload.id,
                bucket=upload.bucket,
                name=upload.name,
                generation=upload.generation,
                user=upload.user,
                size=upload.size,
                content_type=upload.content_type,
                token=token,
                lease_s=self._database.settings.lease_s,
            )
        return token, row

    def heartbeat(self, upload: Upload, token: str, stage: str, rss_mb: float) -> bool:
        """Renew the lease as `stage` begins. Returns False, and changes nothing, if the lease was lost."""
        lease_s, rounded = self._database.settings.lease_s, round(rss_mb)
        return bool(
            self._database.query(
                HEARTBEAT, id=upload.id, token=token, stage=stage, rss_mb=rounded, lease_s=lease_s
            )
        )

    def reject(
        self, upload: Upload, token: str, code: str, reason: str, rows: Sequence[OutcomeRow] = ()
    ) -> bool:
        """Commit a rejection and `rows`. Returns False, and changes nothing, if the lease was lost."""
        return self._database.transaction(
            lambda execute: commit_outcome(
                execute, upload, token, UploadState.REJECTED, rows, code=code, reason=reason
            )
        )

    def hold(
        self,
        upload: Upload,
        token: str,
        code: str,
        reason: str,
        retry_s: int,
        rows: Sequence[OutcomeRow] = (),
    ) -> bool:
        """Hold the upload for `retry_s` seconds, and commit `rows`. Returns False if the lease was lost."""
        values = {"id": upload.id, "token": token, "code": code, "reason": reason, "retry_s": retry_s}
        return self._database.transaction(lambda execute: update_with_rows(execute, HOLD, rows, **values))

    def release(self, upload: Upload, token: str) -> None:
        """Release the lease after a transient error, or before the next `acquire` if that fails now."""
        with self._released_later(upload, token):
            self._database.query(RELEASE, id=upload.id, token=token)

    def discard(self, upload: Upload, token: str) -> None:
        """Delete the row of a rejected posted picture, or only release its lease if crashes are counted."""
        with self._released_later(upload, token):
            self._database.query(DISCARD, id=upload.id, token=token)

    def finish(self, upload: Upload, disposition: str = "") -> None:
        """Mark an upload as done after its source was disposed of. The reason of a rejection stays.

        `disposition` is what became of the source (receipts.py); empty if it is not known.
        """
        sql = receipts.completed(FINISH) if self._database.settings.receipts else FINISH
        self._database.query(sql, id=upload.id, disposition=disposition)

    @contextmanager
    def _released_later(self, upload: Upload, token: str) -> Iterator[None]:
        """Release the lease before the next `acquire` if the block fails."""
        try:
            yield
        except BaseException:  # also an interrupt: the answer may be lost, and the statement committed
            self._unreleased[token] = upload
            raise


def commit_outcome(
    execute: Executor,
    upload: Upload,
    token: str,
    state: UploadState,
    rows: Sequence[OutcomeRow],
    code: str = "",
    reason: str = "",
) -> bool:
    """Move a leased upload to `state`, and insert `rows`. Returns False if the lease was lost."""
    values = {"id": upload.id, "token": token, "state": state.value, "code": code, "reason": reason}
    return update_with_rows(execute, COMMIT_OUTCOME, rows, **values)


def lost(upload: Upload) -> LeaseHeld:
    """Return the error of a worker whose lease expired and was acquired by another."""
    return LeaseHeld(f"The lease on upload {upload.id} expired, and another delivery acquired it.")


def check_crashes(lease: Lease, upload: Upload, most: int) -> None:
    """Log the crashes of an upload's earlier workers, and raise Rejected if there are `most` or more."""
    if not lease.crashes:
        return
    problem = "The instance crashed or hung while processing this upload, at: "
    problem += "; ".join(map(str, lease.crashes)) + "."
    count, stage = len(lease.crashes), lease.crashes[-1].stage
    logger.warning(
        problem,
        extra={"event": "instance_crashed", "upload": str(upload.id), "deaths": count, "stage": stage},
    )
    if count < most:
        return
    raise Rejected(
        "took_the_instance_down",
        problem,
        "Look into the function's log at these times; a smaller file, or another format, may work.",
        HTTPStatus.UNPROCESSABLE_ENTITY,
    )


def not_finished() -> Rejected:
    """Return the rejection of a posted picture that hit a transient error and was not posted again."""
    return Rejected(
        "not_finished",
        "The posted picture was not finished, and its bytes are no longer there.",
        "Post it again.",
        HTTPStatus.GONE,
    )
