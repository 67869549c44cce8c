"""Receipts: one row that proves what became of an upload, if RECEIPTS is set.

A receipt is written in the statement that commits the outcome, and completed once the source is disposed of.
It records the upload (name, generation, bytes, SHA-256), each output with its MD5, the code and the models
that produced it, and what became of the source:

    deleted         this generation is no longer in the bucket, live or noncurrent, whoever deleted it
    archived        the same, and a copy is in the archive
    quarantined     the same, and a copy is in quarantine
    kept            it stays in place, because of SOURCE=keep, or because it has unpublished pages
    gone            it was deleted or replaced by somebody else before it was read
    never stored    it was posted

`code.revision` is Cloud Run's, which `make deploy` derives from the commit. `code.sha256` is, in `functions`:

    find main.py requirements.txt dropcap -name __pycache__ -prune -o -type f -print \\
        | LC_ALL=C sort | xargs sha256sum | sha256sum

When a user deletes a picture, its receipt is deleted too (erasure.py).
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
SELECT = f"SELECT {', '.join(COLUMNS)} FROM receipts"  # noqa: S608  our columns
BY_ID = f"{SELECT} WHERE id = ANY(CAST(:ids AS uuid[]))"
# A page of a user's receipts after a key, oldest first.
NEXT_PAGE = (
    f"{SELECT} WHERE user_id = :user AND (recorded_at, id) > (:at, CAST(:id AS uuid)) "
    "ORDER BY recorded_at, id LIMIT :most"
)
PAGE = 500
EARLIEST = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
# An archived picture was found to be unsafe, and its original was moved to quarantine.
MOVED_TO_QUARANTINE = (
    "UPDATE receipts SET source_fate = 'quarantined' WHERE id = :id AND source_fate = 'archived'"
)
DELETE = f"DELETE FROM receipts WHERE id = :id RETURNING {', '.join(COLUMNS)}, now()"  # noqa: S608


def row(outcome: Outcome) -> OutcomeRow:
    """Return the receipt of an outcome. The columns about the source are set by `completed`."""
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
            "outputs": json.dumps(outputs),  # pg8000 would send a list as an array
            "code": {"revision": os.environ.get("K_REVISION", ""), "sha256": code()},
            "models": models,
        },
        replace=True,  # a held upload is decided later
        reset=("recorded_at",),
    )


@cache
def code() -> str:
    """Return the SHA-256 over the `sha256sum` output for all files of the functions."""
    found = [FUNCTIONS / "main.py", FUNCTIONS / "requirements.txt", *(FUNCTIONS / "dropcap").rglob("*")]
    files = [path for path in found if path.is_file() and "__pycache__" not in path.parts]
    lines = sorted(
        (path.relative_to(FUNCTIONS).as_posix(), hashlib.sha256(path.read_bytes()).hexdigest())
        for path in files
    )
    return hashlib.sha256("".join(f"{digest}  {name}\n" for name, digest in lines).encode()).hexdigest()


def completed(finish: str) -> str:
    """Return the statement `finish`, extended so that it also completes the receipt with :disposition."""
    return (
        f"WITH done AS ({finish}) UPDATE receipts AS r SET source_fate = :disposition, "  # noqa: S608  our columns
        "source_gone_at = CASE WHEN :disposition <> 'kept' THEN now() END "
        "FROM done WHERE r.id = done.id RETURNING r.id"
    )


def by_upload(database: Database, ids: Iterable[uuid.UUID]) -> dict[uuid.UUID, dict[str, Any]]:
    """Return the receipts of some uploads as JSON, by id. Without RECEIPTS it is empty, without a query."""
    if not database.settings.receipts:
        return {}
    rows = database.query(BY_ID, ids=[str(id) for id in ids])
    return {row[0]: to_json(row) for row in rows}


def by_user(database: Database, user: str) -> Iterator[dict[str, Any]]:
    """Return all receipts of a user as JSON, oldest first. The first page is read at once."""

    def page(at: dt.datetime, id: uuid.UUID) -> list[list[Any]]:
        return database.query(NEXT_PAGE, user=user, at=at, id=id, most=PAGE)

    def pages(rows: list[list[Any]]) -> Iterator[dict[str, Any]]:
        while rows:
            yield from map(to_json, rows)
            rows = page(rows[-1][COLUMNS.index("recorded_at")], rows[-1][0])

    return pages(page(EARLIEST, uuid.UUID(int=0)))


def to_json(row: Iterable[Any]) -> dict[str, Any]:
    """Return a row of COLUMNS as JSON, with instants in ISO 8601."""
    return {name: plain(value) for name, value in zip(COLUMNS, row, strict=True)}


def plain(value: Any) -> Any:
    """Return a value of a row as JSON has it: instants in ISO 8601, ids as text."""
    if isinstance(value, dt.datetime):
        return value.isoformat()
    return str(value) if isinstance(value, uuid.UUID) else value
