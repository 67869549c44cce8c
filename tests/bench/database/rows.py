# ruff: noqa: S608  the SQL is made of this file's own numbers
"""Generate millions of rows, as in a deployment of some years, from before the rollup existed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

from pg8000.native import Connection, literal

CHUNK = 100_000
TEN_YEARS, THREE_YEARS = 3652, 1096  # days
BUCKET = "dropcap-uploads"
NEWEST = "date_trunc('hour', now()) - interval '1 hour'"
UNFINISHED = 500  # uploads, in all states but done, whose lease ran out

# The tables as they were before, but for what only costs time while rows are loaded.
BEFORE = """
DROP TABLE progress_totals, progress_days, progress_hours;
ALTER TABLE analyses DROP COLUMN counted;
ALTER TABLE analyses DROP COLUMN searchable;
DROP INDEX analyses_user_id_analyzed_at_idx, uploads_created_at_idx;
"""
AFTER = "CREATE INDEX ON analyses (user_id, analyzed_at)"

RESULT = {  # as `Analysis.to_json` gives it; the description is made as long as is wanted
    "user": "ana",
    "caption": "a crown on a table",
    "alt_text": "Crown",
    "tags": ["gold", "crown", "table", "museum"],
    "text": "",
    "picture": {"format": "JPEG", "bytes": 3_145_728, "width": 4032, "height": 3024, "decoder": "libvips"},
    "sources": {"blip": {"ok": True, "model": "blip", "version": "1"}},
    "pictures": [{"size": size, "name": f"{'0' * 36}/{size}.webp"} for size in (1600, 800, 200)],
}


@dataclass(frozen=True, slots=True)
class User:
    """`pictures` of one user; `instant` is that of number n, in SQL, as is the zone."""

    name: str
    about: str
    pictures: int
    instant: str
    zone: str = "NULL"


def users(analyses: int) -> list[User]:
    """Return the measured users; all other pictures belong to ordinary users."""
    million = analyses // 10
    spread = f"{NEWEST} - interval '{TEN_YEARS} days' * (1 - n::float8 / {max(1, million - 1)})"
    daily = f"{NEWEST} - ({TEN_YEARS - 1} - n) * interval '1 day'"
    burst = f"{NEWEST} - interval '400 days' + n * interval '1 millisecond'"
    return [
        User("decade", f"{million:,} pictures over ten years", million, spread),
        User("daily", "one a day for ten years", TEN_YEARS, daily, "'Europe/Madrid'"),
        User("burst", f"{million // 2:,} in one day", million // 2, burst),
        User("new", "one picture", 1, NEWEST),
    ]


def ordinary(analyses: int) -> int:
    """Return the number of ordinary users."""
    return max(10, analyses // 2000)


def load(connection: Connection, analyses: int, result_bytes: int) -> Iterator[int]:
    """Fill the tables of `repair.py`, and say after each chunk how many rows that was."""
    connection.run(f"SET synchronous_commit = off; {BEFORE}")
    result = literal(_result(result_bytes))
    special = users(analyses)
    for user in special:
        row = f"{literal(user.name)}, {user.instant}, {user.zone}"
        yield from _analyses(connection, user.pictures, user.name, row, result)
    # Few have very many: by a cube, the first hundredth of them has a fifth of the pictures.
    who = f"'user' || floor({ordinary(analyses)} * power(random(), 3))::int"
    when = f"{NEWEST} - floor(random() * {THREE_YEARS}) * interval '1 day' - random() * interval '15 hours'"
    zone = "(ARRAY[NULL, 'Europe/Madrid', 'America/New_York', 'Asia/Kolkata'])[1 + n % 4]"
    rest = analyses - sum(user.pictures for user in special)
    yield from _analyses(connection, rest, "ordinary", f"{who}, {when}, {zone}", result)
    connection.run(AFTER)
    yield from _uploads(connection, analyses)


def _analyses(connection: Connection, count: int, salt: str, row: str, result: str) -> Iterator[int]:
    columns = "id, user_id, analyzed_at, time_zone, caption, format, bytes, width, height, result"
    rest = f"'a crown on a table', 'JPEG', 3145728, 4032, 3024, {result}::jsonb"
    for first, last in _chunks(count):
        connection.run(
            f"INSERT INTO analyses ({columns}) SELECT md5('{salt}' || n)::uuid, {row}, {rest} "
            f"FROM generate_series({first}, {last}) AS n"
        )
        yield last + 1 - first


def _uploads(connection: Connection, count: int) -> Iterator[int]:
    columns = "id, bucket, name, generation, user_id, size, state, lease_until, created_at, finished_at"
    unfinished = "(ARRAY['claimed', 'recorded', 'rejected'])[1 + n % 3]"
    state = f"CASE WHEN n % {max(1, count // UNFINISHED)} = 0 THEN {unfinished} ELSE 'done' END"
    at = "now() - interval '1 day' - n * interval '1 second'"
    for first, last in _chunks(count):
        connection.run(
            f"INSERT INTO uploads ({columns}) SELECT md5('upload' || n)::uuid, '{BUCKET}', "
            "'user' || n % 5000 || '/' || n || '.jpg', n, 'user' || n % 5000, 3145728, "
            "state, at, at, CASE state WHEN 'done' THEN at END "
            f"FROM (SELECT n, {at} AS at, {state} AS state "
            f"FROM generate_series({first}, {last}) AS n) AS made"
        )
        yield last + 1 - first


def _chunks(count: int) -> Iterator[tuple[int, int]]:
    """Yield the first and the last number of each chunk."""
    for first in range(0, count, CHUNK):
        yield first, min(first + CHUNK, count) - 1


def _result(size: int) -> str:
    """Return a result that takes about this many bytes as jsonb."""
    bare = len(json.dumps(RESULT))
    return json.dumps(RESULT | {"description": "A golden crown. " * max(1, (size - bare) // 16)})
