"""Analyses: commit a result with everything that is derived from it, and read it back."""

import uuid
from collections.abc import Sequence
from typing import Any

from pg8000.native import DatabaseError

from dropcap.database import daily_usage, progress, rollup
from dropcap.database.leases import commit_outcome
from dropcap.database.outcome_rows import OutcomeRow
from dropcap.database.transactions import NO_SUCH_ZONE, Database, Executor
from dropcap.domain.analysis import Analysis
from dropcap.domain.upload import Upload, UploadState

EXISTS = "SELECT 1 FROM analyses WHERE id = :id"
RESULT = "SELECT result FROM analyses WHERE id = :id"
# Let reconcile describe the picture later (deferred/worker.py).
DEFER_DESCRIPTION = "UPDATE analyses SET describe_after = now() WHERE id = :id"


class Analyses:
    """The table `analyses`. Methods raise DatabaseUnavailable, as `Database` does."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def record(self, analysis: Analysis, upload: Upload, token: str, rows: Sequence[OutcomeRow] = ()) -> bool:
        """Commit the result, the user's progress, the upload's state and `rows` in one transaction.

        Idempotent. Returns False, and changes nothing, if the lease with this token was lost.
        """
        limited = self._database.settings.has_budget

        def work(execute: Executor) -> bool:
            if not commit_outcome(execute, upload, token, UploadState.RECORDED, rows):
                return False
            user = analysis.user
            rollup.lock(execute, user)
            recorded_before = limited and execute(EXISTS, id=upload.id)
            complete = rollup.record(
                execute,
                user,
                id=upload.id,
                analyzed_at=analysis.analyzed_at,
                time_zone=_known_zone(execute, analysis.time_zone),
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
                progress.update_achievements(execute, user)
            if analysis.describe_later:
                execute(DEFER_DESCRIPTION, id=upload.id)
            if limited and analysis.usage and not recorded_before:
                daily_usage.count_picture(execute, analysis.usage)
            return True

        return self._database.transaction(work)

    def result(self, upload_id: uuid.UUID) -> dict[str, Any] | None:
        """Return the recorded result as JSON (`Analysis.to_json`), or None."""
        rows = self._database.query(RESULT, id=upload_id)
        return rows[0][0] if rows else None


def _known_zone(execute: Executor, zone: str | None) -> str | None:
    """Return the zone, or None if PostgreSQL does not know it: one such row would break all progress."""
    if zone is None:
        return None
    execute("SAVEPOINT zone")
    try:
        execute("SELECT now() AT TIME ZONE :zone", zone=zone)
    except DatabaseError as refused:
        if refused.args[0]["C"] != NO_SUCH_ZONE:
            raise
        execute("ROLLBACK TO SAVEPOINT zone")
        return None
    return zone
