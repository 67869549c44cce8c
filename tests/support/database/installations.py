# ruff: noqa: S608  the SQL is made of this file's own words
"""Installations of Dropcap in new databases, and their contents."""

import pytest
from pg8000.native import Connection

from dropcap.database.schema.tables import TABLES
from dropcap.database.transactions import Database
from dropcap.errors import SchemaError
from dropcap.settings import SCHEMA, Settings
from tests.support.database.schemas import ROWS

NAMES = [table.name for table in TABLES]
TABLES_IN = "SELECT tablename FROM pg_tables WHERE schemaname = '{}' ORDER BY 1"


def start(url: str, schema: str = SCHEMA, timeout_s: float = 10) -> Database:
    """Return an instance after its cold start."""
    database = Database(Settings(database_url=url, database_schema=schema, database_timeout_s=timeout_s))
    database.prepare()
    return database


def installed(url: str, outside: Connection, where: str = "public") -> None:
    """Have `where` hold tables and rows as a version without a schema left them: of the shape of today."""
    start(url)
    if where == SCHEMA:
        outside.run(f"COMMENT ON SCHEMA {SCHEMA} IS NULL")
    else:
        outside.run(f"CREATE SCHEMA IF NOT EXISTS {where}")
        outside.run(";".join(f"ALTER TABLE {SCHEMA}.{name} SET SCHEMA {where}" for name in NAMES))
        outside.run(f"DROP SCHEMA {SCHEMA}")
    outside.run(f"SET search_path = {where}")
    for statement in ROWS:
        outside.run(statement)
    outside.run("RESET search_path")


def tables(outside: Connection, schema: str) -> list[str]:
    return [name for [name] in outside.run(TABLES_IN.format(schema))]


def contents(outside: Connection, schema: str) -> dict[str, object]:
    """Return all rows of all tables of a schema, and their files, which change if a table is rewritten."""
    return {
        name: outside.run(
            f"SELECT pg_relation_filenode('{schema}.{name}'), json_agg(t) FROM {schema}.{name} AS t"
        )
        for name in tables(outside, schema)
    }


def refused(url: str, schema: str = SCHEMA) -> str:
    """Return the one line with which a cold start fails."""
    with pytest.raises(SchemaError) as raised:
        start(url, schema)
    assert "\n" not in str(raised.value)
    return str(raised.value)
