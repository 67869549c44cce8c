"""The receipt: one row that proves what became of an upload.

It is written with the outcome, in the same statement, and completed when the source is gone. It tells what
came in (name, generation, bytes, SHA-256), what was made of it (each output with its MD5), which code and
which models did it, and what became of the source and when:

    deleted         this generation is no longer in the bucket, live or noncurrent, whoever deleted it
    archived        the same, and a copy is in the archive
    quarantined     the same, and a copy is in quarantine
    kept            it stays in place, because of SOURCE=keep, or because it has unpublished pages
    gone            somebody else had deleted or replaced it before it was read
    never stored    it was posted

`code.revision` is Cloud Run's, which `make deploy` names for the commit, `code.sha256` of the files that run:

    find main.py requirements.txt dropcap -name __pycache__ -prune -o -type f -print \\
        | LC_ALL=C sort | xargs sha256sum | sha256sum

in `functions`. A receipt goes with its picture, when a user deletes that: erasure.py.
"""

import datetime as dt
import hashlib
import json
import os
import uuid
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

from dropcap.database.outcome_rows import OutcomeRow
from dropcap.database.transactions import Database
from dropcap.domain.outcome import Outcome

FUNCTIONS = Path(__file__).parents[2]
COLUMNS = (
    *("id", "user_id", "bucket", "name", "generation", "bytes", "sha256", "outcome", "outputs"),
    *("code", "models", "recorded_at", "source_fate", "source_gone_at"),
)
SELECT = f"SELECT {', '.join(COLUMNS)} FROM receipts"  # noqa: S608  our own
IN_ORDER, PAGE = "ORDER BY recorded_at, id LIMIT :most", 500
EARLIEST = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
# An archived picture was found unsafe later, and its original moves to quarantine.
MOVED = "UPDATE receipts SET source_fate = 'quarantined' WHERE id = :id AND source_fate = 'archived'"
DELETE = f"DELETE FROM receipts WHERE id = :id RETURNING {', '.join(COLUMNS)}, now()"  # noqa: S608


def row(outcome: Outcome) -> OutcomeRow:
    """The receipt of an outcome whose source is still there."""
    upload, analysis, rejection = outcome.upload, outcome.analysis, outcome.rejection
    facts = ("label", "object", "bytes", "content_type", "md5")
    outputs = (
        [{name: getattr(each, name) for name in facts} for each in analysis.pictures] if analysis else []
    )
    models = {
        name: {"model": each.model, "version": each.version}
        for name, each in (analysis.sources if analysis else {}).items()
        if each.answered
    }
    return OutcomeRow(
        "receipts",
        "id",
        {
            "id": upload.id,
            "user_id": upload.user,
            **upload.to_json(),
            "bytes": analysis.picture.bytes if analysis else upload.size,
            "sha256": analysis.picture.sha256 if analysis else outcome.sha256,
            "outcome": rejection.code if rejection else outcome.word,
            "outputs": json.dumps(outputs),  # a list would be an array
            "code": {"revision": os.environ.get("K_REVISION", ""), "sha256": code()},
            "models": models,
        },
        replace=True,  # what was held is analyzed later
        reset=("recorded_at",),
    )


@cache
def code() -> str:
    """The SHA-256 of the SHA-256 of each file that runs, as `sha256sum` prints them."""
    found = [FUNCTIONS / "main.py", FUNCTIONS / "requirements.txt", *(FUNCTIONS / "dropcap").rglob("*")]
    files = [path for path in found if path.is_file() and "__pycache__" not in path.parts]
    lines = sorted(
        (path.relative_to(FUNCTIONS).as_posix(), hashlib.sha256(path.read_bytes()).hexdigest())
        for path in files
    )
    return hashlib.sha256("".join(f"{digest}  {name}\n" for name, digest in lines).encode()).hexdigest()


def completed(done: str) -> str:
    """The statement `done`, which closes an upload and returns its id, with what became of its source."""
    return (
        f"WITH done AS ({done}) UPDATE receipts AS r SET source_fate = :fate, "  # noqa: S608  our own
        "source_gone_at = CASE WHEN :fate <> 'kept' THEN now() END "
        "FROM done WHERE r.id = done.id RETURNING r.id"
    )


def of(database: Database, ids: Iterable[uuid.UUID]) -> dict[uuid.UUID, dict[str, Any]]:
    """The receipts of some uploads as JSON, by id; none, without a query, where RECEIPTS says so."""
    if not database.settings.receipts:
        return {}
    wanted = [str(id) for id in ids]
    rows = database.query(f"{SELECT} WHERE id = ANY(CAST(:ids AS uuid[]))", ids=wanted)
    return {row[0]: to_json(row) for row in rows}


def all_of(database: Database, user: str) -> Iterator[dict[str, Any]]:
    """All receipts of a user as JSON, the oldest first; the first of them are read at once."""
    sql = f"{SELECT} WHERE user_id = :user AND (recorded_at, id) > (:at, CAST(:id AS uuid)) {IN_ORDER}"

    def page(at: dt.datetime, id: uuid.UUID) -> list[list[Any]]:
        return database.query(sql, user=user, at=at, id=id, most=PAGE)

    def each(rows: list[list[Any]]) -> Iterator[dict[str, Any]]:
        while rows:
            yield from map(to_json, rows)
            rows = page(rows[-1][COLUMNS.index("recorded_at")], rows[-1][0])

    return each(page(EARLIEST, uuid.UUID(int=0)))


def to_json(row: Iterable[Any]) -> dict[str, Any]:
    """A row of COLUMNS; instants in ISO 8601 with their offset."""
    return {name: _plain(value) for name, value in zip(COLUMNS, row, strict=True)}


def _plain(value: Any) -> Any:
    if isinstance(value, dt.datetime):
        return value.isoformat()
    return str(value) if isinstance(value, uuid.UUID) else value
