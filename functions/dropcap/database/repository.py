"""PostgreSQL: claims, results and what is derived from them."""

import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from pg8000.native import DatabaseError

from dropcap.database import daily_usage, leases, progress, receipts, rollup
from dropcap.database.connection import DatabaseUnavailable as DatabaseUnavailable
from dropcap.database.connection import connect as connect
from dropcap.database.connection import connect_to_schema as connect_to_schema
from dropcap.database.leases import Claim as Claim
from dropcap.database.leases import Row, Run
from dropcap.database.transactions import NO_SUCH_ZONE, Transactions
from dropcap.domain.analysis import Analysis
from dropcap.domain.upload import Upload
from dropcap.settings import Settings


class Database(Transactions):
    """Uploads and their results in PostgreSQL, one method a transaction."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        # Claims still to be released, by holder: a process that could not while the database was down is
        # alive.
        self._owed: dict[str, Upload] = {}

    def claim(self, upload: Upload) -> Claim:
        """Take the upload for LEASE_S seconds, if nobody has it: one wins."""
        with suppress(KeyError):  # raised when the dictionary is empty: one thread releases the claims of all
            while True:
                holder, owed = self._owed.popitem()
                self.release(owed, holder)
        holder = uuid.uuid4().hex  # the same where the transaction is repeated: the claim may be ours already
        with self._owing(upload, holder):  # in case the answer gets lost
            return self.transaction(lambda run: leases.take(run, upload, holder, self.settings.lease_s))

    def mark(self, upload: Upload, holder: str, stage: str, rss_mb: float) -> bool:
        """Say what stage begins at how many resident MB; the lease begins anew.

        False, and nothing is changed, where the claim is no longer `holder`'s.
        """
        lease_s = self.settings.lease_s
        return self.transaction(lambda run: leases.mark(run, upload, holder, stage, rss_mb, lease_s))

    def record(self, analysis: Analysis, upload: Upload, holder: str, rows: Sequence[Row] = ()) -> bool:
        """Store the result, the user's sums and achievements, the upload's state and `rows`, all or nothing.

        False, and nothing is changed, where the claim is no longer `holder`'s. Repeating it changes nothing.
        """

        def work(run: Run) -> bool:
            if not leases.move(run, upload, holder, "recorded", rows=rows):
                return False
            user = analysis.user
            rollup.lock(run, user)
            known = self.settings.brake and run("SELECT 1 FROM analyses WHERE id = :id", id=upload.id)
            complete = rollup.record(
                run,
                user,
                id=upload.id,
                analyzed_at=analysis.analyzed_at,
                time_zone=_known_zone(run, analysis.time_zone),
                caption=analysis.caption,
                description=analysis.description,
                alt_text=analysis.alt_text,
                tags=list(analysis.tags),
                picture_text=analysis.text,
                format=analysis.picture.format,
                bytes=analysis.picture.bytes,
                width=analysis.picture.width,
                height=analysis.picture.height,
                result=analysis.to_json(),
            )
            if complete:
                progress.achieve(run, user)
            if analysis.describe_later:
                run("UPDATE analyses SET describe_after = now() WHERE id = :id", id=upload.id)
            if self.settings.brake and analysis.usage and not known:
                daily_usage.count_picture(run, analysis.usage)
            return True

        return self.transaction(work)

    def count(self, user: str) -> None:
        """Count what of the user's pictures is not counted yet (rollup.py); achievements follow.

        Raises DatabaseUnavailable where it takes longer than the setting; the next call goes on from there.
        """
        ends = time.monotonic() + self.settings.database_timeout_s

        def work(run: Run) -> bool:
            rollup.lock(run, user)
            complete = rollup.count(run, user)
            if complete:
                progress.achieve(run, user)
            return complete

        while not self.transaction(work):
            if time.monotonic() > ends:
                raise DatabaseUnavailable("The user's pictures are still being counted: ask again.")

    def reject(self, upload: Upload, holder: str, code: str, reason: str, rows: Sequence[Row] = ()) -> bool:
        """Store why the upload can't be used. False, and nothing is changed, where the claim is another's."""
        return self.transaction(lambda run: leases.move(run, upload, holder, "rejected", code, reason, rows))

    def hold(
        self,
        upload: Upload,
        holder: str,
        code: str,
        reason: str,
        again_s: int,
        rows: Sequence[Row] = (),
    ) -> bool:
        """Store why the upload has to wait, for `again_s` seconds. False, and no change, as in `reject`."""
        return self.transaction(lambda run: leases.hold(run, upload, holder, code, reason, again_s, rows))

    def release(self, upload: Upload, holder: str) -> None:
        """Release the lease after a transient fault, so that the next delivery can start at once.

        If that fails, this process releases it before its next claim.
        """
        with self._owing(upload, holder):
            self.transaction(lambda run: leases.release(run, upload, holder))

    @contextmanager
    def _owing(self, upload: Upload, holder: str) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self._owed[holder] = upload
            raise

    def forget(self, upload: Upload, holder: str) -> None:
        """Give the claim on a posted picture that is refused back, and keep nothing of it.

        But its row where it took instances down, which is to be known when it is posted again.
        """
        with self._owing(upload, holder):
            self.query(
                """
                WITH ours AS (
                  SELECT id, deaths FROM uploads
                  WHERE id = :id AND holder = :holder AND state = 'claimed' FOR UPDATE
                ), gone AS (
                  DELETE FROM uploads AS u USING ours WHERE u.id = ours.id AND ours.deaths = '[]'
                ), released AS (
                  UPDATE uploads AS u SET holder = NULL, lease_until = now()
                  FROM ours WHERE u.id = ours.id AND ours.deaths <> '[]'
                )
                DELETE FROM answers AS a USING ours WHERE a.upload_id = ours.id RETURNING 1
                """,
                id=upload.id,
                holder=holder,
            )

    def finish(self, upload: Upload, fate: str = "") -> None:
        """Mark an upload as done after its source was disposed of. The reason of a rejection stays.

        `fate` is what became of the source, for the receipt; empty if it is not known.
        """
        done = (
            "UPDATE uploads SET state = 'done', finished_at = now(), "
            "source_kept = CASE WHEN CAST(:fate AS text) <> '' THEN CAST(:fate AS text) = 'kept' END "
            "WHERE id = :id AND state IN ('recorded', 'rejected') RETURNING id"
        )
        if self.settings.receipts:
            self.query(receipts.completed(done), id=upload.id, fate=fate)
        else:
            self.query(done, id=upload.id, fate=fate)

    def analysis(self, upload_id: uuid.UUID) -> dict[str, Any] | None:
        """The recorded result as `Analysis.to_json` gave it, or None."""
        rows = self.query("SELECT result FROM analyses WHERE id = :id", id=upload_id)
        return rows[0][0] if rows else None


def _known_zone(run: Run, zone: str | None) -> str | None:
    """The zone, or None where PostgreSQL's own list lacks it: one row must not break all progress."""
    if zone is None:
        return None
    run("SAVEPOINT zone")
    try:
        run("SELECT now() AT TIME ZONE :zone", zone=zone)
    except DatabaseError as refused:
        if refused.args[0]["C"] != NO_SUCH_ZONE:
            raise
        run("ROLLBACK TO SAVEPOINT zone")
        return None
    return zone
