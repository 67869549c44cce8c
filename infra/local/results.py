"""Outcomes of uploads, read from PostgreSQL as a user's own program would."""

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

from pg8000.native import DatabaseError, InterfaceError

from dropcap.database.connection import connect_to_schema
from dropcap.domain.analysis import Analysis
from dropcap.domain.records import read
from dropcap.settings import SCHEMA
from infra.local import StackError

FINISHED = """
SELECT u.id, u.bucket, u.name, u.reason, a.result, u.state = 'held', at
FROM uploads u LEFT JOIN analyses a USING (id),
     LATERAL (SELECT CASE state WHEN 'done' THEN finished_at WHEN 'held' THEN stage_at END) AS ended (at)
WHERE at >= :since::timestamptz
ORDER BY at
"""
LATEST = "SELECT coalesce(max(finished_at), '-infinity')::text FROM uploads"
ANALYZED = (
    "SELECT EXISTS (SELECT FROM uploads WHERE name = ANY(:names) AND state = 'done' AND reason_code = '')"
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """A finished upload: its analysis, or the reason and remedy if it was rejected or held."""

    id: UUID
    bucket: str
    name: str
    reason: str
    analysis: Analysis | None
    held: bool = False


def _outcome(id: UUID, bucket: str, name: str, reason: str, result: Any, held: bool) -> Outcome:
    """Return an Outcome from a row of FINISHED."""
    return Outcome(id, bucket, name, reason, read(Analysis, result) if result else None, held)


class Results:
    """Return each outcome once, from the creation of this object on.

    Raises StackError if PostgreSQL, whose log is at `log`, does not answer.
    """

    def __init__(self, database_url: str, log: Path, schema: str = SCHEMA) -> None:
        self._url = database_url
        self._schema = schema
        self._log = log
        [[self._since]] = self._run(LATEST)
        self._returned = {(row[0], row[-1]) for row in self._run(FINISHED, since=self._since)}

    def new(self) -> list[Outcome]:
        """Return the outcomes since the last call, oldest first."""
        rows = self._run(FINISHED, since=self._since)
        fresh = [row for row in rows if (row[0], row[-1]) not in self._returned]
        if fresh:
            self._since = fresh[-1][-1].isoformat()
            self._returned.update((row[0], row[-1]) for row in fresh)
        return [_outcome(*row[:-1]) for row in fresh]

    def analyzed(self, names: list[str]) -> bool:
        """Return whether an object of one of these names was analyzed."""
        [[known]] = self._run(ANALYZED, names=names)
        return bool(known)

    def _run(self, sql: str, **values: Any) -> list[list[Any]]:
        try:
            with closing(connect_to_schema(self._url, self._schema)) as connection:
                rows: list[list[Any]] | None = connection.run(sql, **values)
                return rows or []
        except (InterfaceError, DatabaseError, OSError) as failed:
            raise StackError(f"PostgreSQL does not answer: {failed} (log: {self._log})") from failed
