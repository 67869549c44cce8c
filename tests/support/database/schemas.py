# ruff: noqa: S608  the SQL is made of this file's own words
"""Schemas that have our tables, each for one test, and rows to fill them."""

import json
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import pytest
from pg8000.native import Connection, literal

from dropcap.database.connection import connect
from dropcap.database.schema import repair
from dropcap.database.schema.ownership import mark
from dropcap.database.schema.tables import TABLES
from dropcap.settings import SCHEMA
from infra.local.postgres import Postgres

ID = "8c3f0e5e-0000-5000-8000-000000000001"
RESULT = {
    "id": ID,
    "user": "ana",
    "analyzed_at": "2026-02-03T04:05:06+00:00",
    "time_zone": "Europe/Madrid",
    "caption": "a crown",
    "description": "A golden crown.",
    "alt_text": "Crown",
    "tags": ["gold", "crown"],
    "text": "REX",
    "picture": {"format": "PNG", "bytes": 12, "width": 3, "height": 4},
}
ROWS = (
    f"INSERT INTO uploads VALUES ('{ID}', 'b', 'ana/x.png', 7, 'ana', 12, 'image/png', 'done', 2, 'h', "
    "'2026-02-03 04:05+00', '2026-02-03 04:05+00', '2026-02-03 04:06+00', 'no_picture', 'why', "
    "'record', '2026-02-03 04:05+00', 99, '[]', 1, '2026-02-03 04:07+00', true)",
    f"INSERT INTO analyses VALUES ('{ID}', 'ana', '{RESULT['analyzed_at']}', 'Europe/Madrid', 'a crown', "
    f"'A golden crown.', 'Crown', '{{gold,crown}}', 'REX', 'PNG', 12, 3, 4, '{json.dumps(RESULT)}', true, "
    "'my crown', 'My crown', '2026-02-03 04:07+00', true, '2026-02-03 04:08+00', 1)",
    f"INSERT INTO documents VALUES ('{ID}', 'ana', '{RESULT['analyzed_at']}', '''@ana'' ''golden''')",
    "INSERT INTO vocabulary VALUES ('ana', false, '', 0, '{}')",
    "INSERT INTO progress_totals VALUES ('ana', 1, 'infinity', 'UTC')",
    "INSERT INTO progress_days "
    "SELECT 'ana', at::date, 1, at, 1, at FROM (SELECT analyzed_at FROM analyses) AS analyzed (at)",
    "INSERT INTO progress_hours VALUES ('ana', 5, '2026-02-03 04:05:06+00')",
    "INSERT INTO achievements VALUES ('ana', 'first_picture', '2026-02-03 04:05:06+00')",
    "INSERT INTO analyze_calls VALUES ('ana', '2026-02-03 04:00:00+00', 5)",
    f"INSERT INTO receipts VALUES ('{ID}', 'ana', 'b', 'ana/x.png', 7, 12, 'ab', 'analyzed', '[{{}}]', "
    "'{\"sha256\": \"cd\"}', '{\"blip\": {}}', '2026-02-03 04:06+00', 'deleted', '2026-02-03 04:07+00')",
    f"INSERT INTO events VALUES ('{ID}', 'analyzed', '{ID}', 'ana', '2026-02-03 04:06+00', '{{}}', "
    "'2026-02-03 04:07+00', 1, '2026-02-03 04:06+00')",
    "INSERT INTO spending VALUES ('2026-02-03', 1, 1378, 120, 712, 1, 0, 900)",
    f"INSERT INTO batches VALUES ('{ID}', 'batches/1', 'gemini', 'cd', 1, '2026-02-03 04:05+00', "
    "'2026-02-03 04:06+00', '2026-02-03', false)",
    f"INSERT INTO batch_requests VALUES ('{ID}', '{ID}', '2026-02-05 04:05+00', 'en', 'ab', 'cd en')",
    f"INSERT INTO answers VALUES ('ab', 'cd', 'gemini', '{ID}', 'h', '2026-02-03 04:05+00', '{{}}', "
    "'2026-02-03 04:06+00')",
)


@pytest.fixture(scope="module")
def outside(postgres: Postgres) -> Iterator[Connection]:
    """Return a connection to a database with the tables, in which each test has its own schema."""
    with closing(connect(postgres.database("damages"))) as connection:
        repair.check(connection, SCHEMA)
        yield connection


@pytest.fixture
def sound(outside: Connection) -> Iterator[Connection]:
    """Return the same connection, with a new schema that has the tables as its current one."""
    with copied(outside, *(table.name for table in TABLES)) as connection:
        yield connection


@contextmanager
def copied(outside: Connection, *tables: str) -> Iterator[Connection]:
    """The same connection, its current schema a new one of Dropcap's, with copies of these tables.

    To copy them takes half the time of having them made by `schema.check`.
    """
    name = f'"a schema {uuid.uuid4().hex[:8]}"'
    outside.run(
        f"CREATE SCHEMA {name}; {mark(name)}; SET search_path = {name};"
        + ";".join(f"CREATE TABLE {table} (LIKE {SCHEMA}.{table} INCLUDING ALL)" for table in tables)
    )
    yield outside
    outside.run("RESET ROLE; RESET SESSION AUTHORIZATION; RESET default_transaction_read_only")
    outside.run(f"SET client_min_messages = warning; DROP SCHEMA {name} CASCADE; RESET search_path")


def check(connection: Connection, timeout_s: float = 10.0) -> None:
    """Run the schema check of a cold start, with the current schema as DATABASE_SCHEMA."""
    [[name]] = connection.run("SELECT current_schema()")
    repair.check(connection, name, timeout_s)


SHAPE = f"""
WITH ours AS (SELECT c.oid, relname::text AS name FROM pg_class c
    WHERE relnamespace = quote_ident(current_schema())::regnamespace AND relkind = 'r'
    AND relname IN ({", ".join(literal(table.name) for table in TABLES)}))
SELECT 'column', name, attname::text, format_type(atttypid, atttypmod), pg_get_expr(adbin, adrelid),
    attnotnull, attgenerated = '' AND attidentity = ''
FROM ours JOIN pg_attribute ON attrelid = ours.oid AND attnum > 0 AND NOT attisdropped
LEFT JOIN pg_attrdef ON adrelid = ours.oid AND adnum = attnum
UNION ALL
SELECT 'rule', name, conname, contype::text, pg_get_constraintdef(r.oid), convalidated, NOT condeferrable
FROM ours JOIN pg_constraint r ON conrelid = ours.oid AND contype IN ('c', 'f', 'x')
UNION ALL
SELECT 'index', name, '', '', split_part(pg_get_indexdef(indexrelid), ' USING ', 2),
    indisvalid AND indimmediate, indisunique
FROM ours JOIN pg_index ON indrelid = ours.oid
"""


def shape(connection: Connection) -> set[tuple[Any, ...]]:
    """All columns, rules and indexes of our tables in the current schema, as the catalogue has them.

    It is asked beside the product, which judges by a query of its own.
    """
    return {tuple(row) for row in connection.run(SHAPE) or ()}
