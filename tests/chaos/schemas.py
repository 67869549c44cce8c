# ruff: noqa: S608  the SQL is made of the names in tables.py and of this file's own words
"""Tables damaged at random, and many processes that start at once on an old database.

A damaged schema is repaired without losing a row, or refused with one line that says what is and what should
be.
"""

import logging
import random
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from typing import Any
from unittest import mock

from pg8000.native import Connection, DatabaseError

from dropcap.database.connection import connect
from dropcap.database.schema import repair
from dropcap.database.schema.tables import TABLES, Column, Table
from dropcap.errors import SchemaError
from dropcap.settings import SCHEMA
from infra import ROOT
from tests.chaos.report import Scene

MOST = 4  # damages of one schema
ROWS = 3  # in each table
OTHER_TYPES = (
    "integer",
    "text",
    "character varying(900)",
    "json",
    "bytea",
    "timestamp without time zone",
    "date",
)
VALUES = {  # of row :n, by type
    "uuid": "('00000000-0000-5000-8000-' || lpad({n}::text, 12, '0'))::uuid",
    "text": "'word {n}'",
    "bigint": "{n}",
    "text[]": "ARRAY['{n}']",
    "jsonb": "'{{\"n\": {n}}}'::jsonb",
    "timestamp with time zone": "timestamptz '2026-02-03 04:05:06+00'",
    "date": "date '2026-02-0{n}'",
    "boolean": "true",
    "tsvector": "to_tsvector('simple', 'word {n}')",
}
DERIVED = {table.name for table in TABLES if table.derived}  # are made anew where they can't be repaired
OLD = """
CREATE TABLE achievements (id serial PRIMARY KEY, user_id integer, name varchar(80) NOT NULL,
                           earned_at timestamp DEFAULT now());
INSERT INTO achievements (user_id, name) VALUES (1, 'Collector'), (1, 'Collector'), (2, 'Starter');
"""
NOTE_DDL = """
CREATE TABLE ddl (tag text);
CREATE FUNCTION note() RETURNS event_trigger LANGUAGE plpgsql AS
  $$BEGIN INSERT INTO ddl VALUES (tg_tag); END$$;
CREATE EVENT TRIGGER note ON ddl_command_end EXECUTE FUNCTION note();
"""
COLD_START = """
import sys
from dropcap.database.transactions import Database
from dropcap.settings import Settings
print("ready", flush=True)
for url in sys.stdin.readline().split():
    Database(Settings(database_url=url, database_timeout_s=60)).prepare()
"""


def damaged(scene: Scene, damages: int) -> None:
    """Test this many damaged schemas, one after the other."""
    chance, outcomes = scene.world.chance, {"repaired": 0, "refused": 0}
    scene.total(damages)
    quiet = mock.patch.object(logging.Logger, "handle")  # what was repaired, of every one of them
    with quiet, closing(connect(scene.world.database_url)) as connection:
        connection.run("CREATE ROLE stranger; CREATE SCHEMA elsewhere")
        for number in range(damages):
            name = f"damaged_{number}"
            connection.run(
                f"SET client_min_messages = warning; CREATE SCHEMA {name}; SET search_path = {name}"
            )
            repair.check(connection, name)
            _fill(connection)
            done = list(_damage(connection, name, chance))
            before = _contents(connection, name)
            try:
                repair.check(connection, name)
                outcomes["repaired"] += 1
                problem = _lost(before, _contents(connection, name)) or _unsound(connection, name)
            except SchemaError as refused:
                outcomes["refused"] += 1
                problem = _unclear(str(refused)) or _lost(before, _contents(connection, name), exactly=True)
            except DatabaseError as failed:
                problem = f"it failed with {failed.args[0]['C']} {failed.args[0]['M']}"
            if problem:
                scene.problems.append(f"{'; '.join(done)}: {problem}")
            connection.run(f"RESET ROLE; DROP SCHEMA {name} CASCADE")
            connection.run("DROP SCHEMA elsewhere CASCADE; CREATE SCHEMA elsewhere")
            scene.step()
    scene.facts |= outcomes


def started_at_once(scene: Scene, processes: int) -> None:
    """Start many processes at once, and check that DDL runs once.

    On an empty database, on the old web app's, and on one whose tables are moved from `public`.
    """
    urls = empty, old, moved = [scene.world.postgres.database(name) for name in ("empty", "old", "moved")]
    for url in urls:
        with closing(connect(url)) as connection:
            if url == moved:
                repair.check(connection, SCHEMA)
                connection.run(
                    ";".join(f"ALTER TABLE {SCHEMA}.{table.name} SET SCHEMA public" for table in TABLES)
                )
                connection.run(f"DROP SCHEMA {SCHEMA}")
            connection.run(NOTE_DDL + (OLD if url == old else ""))
            connection.run("TRUNCATE ddl")
    once = {"CREATE SCHEMA": 1, "CREATE TABLE": len(TABLES), "ALTER TABLE": 0, "CREATE VIEW": 0}
    wanted = {
        empty: once,
        old: once,
        moved: once | {"CREATE TABLE": 0, "ALTER TABLE": len(TABLES), "CREATE VIEW": 1},
    }
    command = [sys.executable, "-c", COLD_START]
    pipe = subprocess.PIPE
    starts = [
        subprocess.Popen(command, cwd=ROOT / "functions", stdin=pipe, stdout=pipe, stderr=pipe, text=True)
        for _ in range(processes)
    ]
    scene.total(processes)
    for start in starts:
        assert start.stdout is not None
        start.stdout.readline()
    for start in starts:
        assert start.stdin is not None
        start.stdin.write(f"{' '.join(urls)}\n")
        start.stdin.flush()
    for start in starts:
        _, errors = start.communicate()
        if start.returncode:
            scene.problems.append(f"A cold start failed: {errors.strip().splitlines()[-1:]}")
        scene.step()
    for url in urls:
        with closing(connect(url)) as connection:
            made = dict(connection.run("SELECT tag, count(*) FROM ddl GROUP BY tag") or ())
        if {tag: made.get(tag, 0) for tag in once} != wanted[url]:
            scene.problems.append(f"{url.rpartition('/')[2]}: DDL ran as {made}")


def _fill(connection: Connection) -> None:
    for table in TABLES:
        for n in range(1, ROWS + 1):
            values = ", ".join(VALUES[column.type].format(n=n) for column in table.columns)
            connection.run(f"INSERT INTO {table.name} VALUES ({values})")


def _damage(connection: Connection, name: str, chance: random.Random) -> Iterator[str]:
    """Damage it, and say how; what one damage makes impossible for another is left out."""
    for _ in range(chance.randint(1, MOST)):
        table = chance.choice(TABLES)
        statement = chance.choice(list(_damages(table, chance.choice(table.columns), chance)))
        try:
            connection.run(statement)
            yield statement
        except DatabaseError:
            continue
    if chance.random() < 0.1:
        connection.run(f"GRANT USAGE ON SCHEMA {name} TO stranger; SET ROLE stranger")
        yield "SET ROLE stranger"


def _damages(table: Table, column: Column, chance: random.Random) -> Iterator[str]:
    alter, name = f"ALTER TABLE {table.name}", column.name
    other = chance.choice(OTHER_TYPES)
    yield f"{alter} DROP COLUMN {name} CASCADE"
    yield f"{alter} RENAME COLUMN {name} TO was_{name}"
    yield f"{alter} ALTER {name} DROP DEFAULT, ALTER {name} TYPE {other} USING {name}::text::{other}"
    yield f"{alter} ALTER {name} DROP NOT NULL"
    yield f"{alter} ALTER {name} DROP NOT NULL; UPDATE {table.name} SET {name} = NULL"
    yield f"{alter} ALTER {name} SET NOT NULL"
    yield f"{alter} ALTER {name} DROP DEFAULT"
    yield f"{alter} ALTER {name} SET DEFAULT NULL"
    yield f"{alter} DROP CONSTRAINT {table.name}_pkey"
    yield f"{alter} DROP CONSTRAINT {table.name}_pkey; INSERT INTO {table.name} TABLE {table.name}"
    for rule, _ in table.checks:
        yield f"{alter} DROP CONSTRAINT {rule}"
    for index in table.indexes:
        yield f"DROP INDEX {table.name}_{'_'.join(index.columns)}_idx"
    yield f"{alter} ADD extra text"
    yield f"{alter} ADD strict text NOT NULL DEFAULT 1; {alter} ALTER strict DROP DEFAULT"
    yield f"{alter} ADD made integer GENERATED ALWAYS AS (1) STORED"
    yield f"{alter} SET SCHEMA elsewhere"
    yield f"{alter} RENAME TO was_{table.name}"
    yield f"{alter} OWNER TO stranger"
    yield f"{alter} RENAME TO was_{table.name}; CREATE VIEW {table.name} AS TABLE was_{table.name}"
    yield f"DROP TABLE {table.name}"


Contents = dict[str, list[dict[str, Any]]]


def _contents(connection: Connection, name: str) -> Contents:
    """Return the rows of all tables, here and elsewhere."""
    [[role]] = connection.run("SELECT current_user")
    connection.run("RESET ROLE")
    found = connection.run(
        "SELECT schemaname || '.' || tablename FROM pg_tables WHERE schemaname IN (:name, 'elsewhere')",
        name=name,
    )
    rows = {
        table: [row for [row] in connection.run(f"SELECT to_jsonb(t) FROM {table} AS t") or ()]
        for [table] in found or ()
    }
    connection.run(f"SET ROLE {role}")
    return rows


def _lost(before: Contents, after: Contents, exactly: bool = False) -> str:
    """Return the rows that changed or are missing, as text; empty if none."""
    if exactly and before != after:
        return "it was refused, and yet changed"
    for table, rows in before.items():
        if table.rpartition(".")[2] in DERIVED:
            continue
        if len(after.get(table, ())) != len(rows):
            return f"{table} had {len(rows)} rows and has {len(after.get(table, ()))}"
        for old in rows:
            kept = {key: _plain(value) for key, value in old.items() if value is not None}.items()
            if not any(
                kept <= {key: _plain(value) for key, value in new.items()}.items() for new in after[table]
            ):
                return f"{table} lost {old}"
    return ""


def _plain(value: Any) -> str:
    """Return a value independent of its type's name: a widened one prints alike, except for the zone."""
    return str(value).removesuffix("+00:00").removesuffix("T00:00:00")


def _unsound(connection: Connection, name: str) -> str:
    """Return what does not work with a repaired schema; empty if everything does."""
    try:
        repair.check(connection, name)
    except (SchemaError, DatabaseError) as still:
        return f"a second check found {still}"
    return ""


def _unclear(message: str) -> str:
    """Return what a refusal lacks for a person; empty if nothing."""
    names = (*(table.name for table in TABLES), "database", "Schema")
    clear = "\n" not in message and any(each in message for each in names) and "; it should " in message
    return "" if clear else f"its refusal says not enough: {message}"
