# ruff: noqa: S608  the SQL is made of this file's own words
"""Any damage to our tables is repaired without losing a row, or refused with the remedy."""

import datetime as dt
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, TypeVar

import pytest
from pg8000.native import Connection

from dropcap.database import search
from dropcap.database.progress import stats
from dropcap.database.schema.tables import INSTANT, TABLES, Column, Index, Table
from dropcap.database.transactions import Database, Executor
from dropcap.errors import SchemaError
from dropcap.settings import SCHEMA, Settings
from tests.support.database.schemas import ID, RESULT, ROWS, check, copied, shape

DERIVED = {table.name for table in TABLES if table.derived}
NOW = dt.datetime(2026, 2, 3, 12, tzinfo=dt.UTC)
PROGRESS = {
    "user": "ana",
    "pictures_analyzed": 1,
    "this_week": 1,
    "current_streak": 1,
    "longest_streak": 1,
    "last_upload_at": RESULT["analyzed_at"],
    "achievements": [
        {"achievement_name": name, "earned_at": RESULT["analyzed_at"]}
        for name in ("early_bird", "first_picture")
    ],
}
NARROWER = {
    "bigint": "integer",
    "text": "character varying(900)",
    "text[]": "character varying(90)[]",
    "jsonb": "json",
    INSTANT: "timestamp without time zone",
}
WRONG = {
    "date": "integer USING 1",
    "boolean": "text",
    "text": "bytea USING convert_to({0}, 'UTF8')",
    "jsonb": "text",
    "text[]": "text",
    "uuid": "text",
}


@dataclass(frozen=True)
class Damage:
    """What is done to a sound database; `refused`: what the message must name where it can't be repaired."""

    name: str
    sql: str
    refused: tuple[str, ...] = ()
    filled: bool = True


def all_damages() -> Iterator[tuple[Table, Damage]]:
    for table in TABLES:
        for column in table.columns:
            yield from ((table, damage) for damage in column_damages(table, column))
        yield from ((table, damage) for damage in table_damages(table))


def repaired() -> Iterator[tuple[Damage, ...]]:
    """One damage of each table at a time."""
    found: dict[tuple[bool, str], list[Damage]] = {}
    for table, damage in all_damages():
        if not damage.refused:
            found.setdefault((damage.filled, table.name), []).append(damage)
    for filled in (True, False):
        of_tables = [some for (rows, _), some in found.items() if rows is filled]
        for some in zip_longest(*of_tables):
            yield tuple(filter(None, some))


def column_damages(table: Table, column: Column) -> Iterator[Damage]:
    name, change = f"{table.name}.{column.name}", f"ALTER TABLE {table.name} ALTER COLUMN {column.name}"
    drop = f"ALTER TABLE {table.name} DROP COLUMN {column.name}"
    recoverable = table.derived or bool(column.default or column.null or column.fill)
    missing = (name, "is missing", column.type)
    yield Damage(f"{name} dropped", drop, () if recoverable else missing)
    yield Damage(f"{name} dropped while empty", drop, filled=False)
    rename = f"ALTER TABLE {table.name} RENAME COLUMN {column.name} TO was"
    strict = not column.null and not column.default  # under its new name it would refuse our rows
    key = (f"{table.name}.was", "DROP NOT NULL") if recoverable else (name,)
    yield Damage(f"{name} renamed", rename, key if not recoverable or strict else ())
    if column.type in NARROWER:
        drop_default = f"{change} DROP DEFAULT; " if column.default else ""
        yield Damage(f"{name} narrower", f"{drop_default}{change} TYPE {NARROWER[column.type]}")
    if not (table.checks and column.type == "bigint"):
        wrong = WRONG.get(column.type, "text").format(column.name)
        mismatch = (name, f"is {wrong.split()[0]}", f"be {column.type}")
        drops = [f"{change} DROP DEFAULT; "] if column.default else []
        drops += [
            f"DROP INDEX {index_name(table, index)}; "
            for index in table.indexes
            if index.where or index.method != "btree"
        ]
        sql = f"{''.join(drops)}{change} TYPE {wrong}"
        yield Damage(f"{name} of a wrong type", sql, () if table.derived else mismatch)
    if column.null:
        yield Damage(f"{name} not nullable", f"{change} SET NOT NULL")
    elif column.name not in table.key:
        yield Damage(f"{name} nullable", f"{change} DROP NOT NULL")
        null = f"{change} DROP NOT NULL; UPDATE {table.name} SET {column.name} = NULL"
        refused = (name, "allows NULL", "NOT NULL")
        yield Damage(f"{name} holding NULL", null, () if table.derived else refused)
    if column.default:
        yield Damage(f"{name} without its default", f"{change} DROP DEFAULT")
        value = "now() - interval '1 day'" if column.type == INSTANT else "NULL"
        yield Damage(f"{name} with another default", f"{change} SET DEFAULT {value}")
    if column.name not in table.key and not column.fill:
        add = f"ALTER TABLE {table.name} ADD {column.name} {column.type} GENERATED ALWAYS AS (NULL) STORED"
        refused = (name, "is generated", column.type)
        yield Damage(f"{name} generated", f"{drop}; {add}", () if table.derived else refused)


def index_name(table: Table, index: Index) -> str:
    """As PostgreSQL calls it: those of `tables.py` differ in their columns."""
    return f"{table.name}_{'_'.join(index.columns)}_idx"


def table_damages(table: Table) -> Iterator[Damage]:
    name, alter = table.name, f"ALTER TABLE {table.name}"
    yield Damage(f"{name} dropped", f"DROP TABLE {name}")
    yield Damage(f"{name} renamed", f"{alter} RENAME TO was_{name}")
    yield Damage(
        f"{name} is a view", f"{alter} RENAME TO was; CREATE VIEW {name} AS TABLE was", (name, "a view")
    )
    yield Damage(f"{name} is a sequence", f"DROP TABLE {name}; CREATE SEQUENCE {name}", (name, "a sequence"))
    yield Damage(f"{name} without key", f"{alter} DROP CONSTRAINT {name}_pkey")
    twice = f"{alter} DROP CONSTRAINT {name}_pkey; INSERT INTO {name} TABLE {name}"
    refused: tuple[str, ...] = (name, ", ".join(table.key), "unique")
    yield Damage(f"{name} with duplicates", twice, () if table.derived else refused)
    deferred = f"{alter} DROP CONSTRAINT {name}_pkey, ADD UNIQUE ({', '.join(table.key)}) DEFERRABLE"
    refused = (name, "unique at once", f"{name} DROP CONSTRAINT")
    yield Damage(f"{name} with a deferrable key", deferred, refused)
    yield Damage(
        f"{name} with a column of others", f"{alter} ADD other text, ADD more integer NOT NULL DEFAULT 1"
    )
    strict = f"{alter} ADD other text NOT NULL DEFAULT 1; {alter} ALTER other DROP DEFAULT"
    refused = (f"{name}.other", f'{name} ALTER COLUMN "other" DROP NOT NULL')
    yield Damage(f"{name} with a strict column of others", strict, refused)
    if any(column.name == "user_id" for column in table.columns):
        users = f"users_of_{name}"
        made = f"CREATE TABLE {users} (id text PRIMARY KEY); INSERT INTO {users} VALUES ('ana')"
        bound = f"{made}; {alter} ADD FOREIGN KEY (user_id) REFERENCES {users}"
        refused = (f"{name}.user_id", f'{name} DROP CONSTRAINT "{name}_user_id_fkey"')
        yield Damage(f"{name} bound to users", bound, refused)
    for wanted in table.indexes:
        columns = ", ".join(wanted.columns)
        index = index_name(table, wanted)
        yield Damage(f"{name} without {index}", f"DROP INDEX {index}")
        on = f"{name} USING {wanted.method} ({columns})"
        other = f"DROP INDEX {index}; CREATE INDEX {index} ON {on} WHERE {table.key[0]} IS NULL"
        yield Damage(f"{name} with {index} of other rows", other)
    for rule, text in table.checks:
        yield Damage(f"{name} without {rule}", f"{alter} DROP CONSTRAINT {rule}")
        again = f"{alter} DROP CONSTRAINT {rule}, ADD CONSTRAINT {rule} CHECK ({text}) NOT VALID"
        yield Damage(f"{name} with {rule} never validated", again)
        broken = f"{alter} DROP CONSTRAINT {rule}; UPDATE {name} SET {text.split()[0]} = -1"
        yield Damage(f"{name} against {rule}", broken, (name, rule, text))


T = TypeVar("T")


class Here(Database):
    """The product's queries, on a connection as it is."""

    def __init__(self, connection: Connection) -> None:
        super().__init__(Settings())
        self.connection = connection

    def query(self, sql: str, **values: Any) -> list[list[Any]]:
        return list(self.connection.run(sql, **values) or ())

    def transaction(self, work: Callable[[Executor], T]) -> T:
        return work(self.query)


def contents(connection: Connection) -> dict[str, dict[str, object]]:
    """The rows of all our tables, each as JSON, one a table; also where it has another name now."""
    found = {}
    for name in (f"{before}{table.name}" for table in TABLES for before in ("", "was_")):
        kind = f"SELECT 1 FROM pg_class WHERE oid = to_regclass('{name}') AND relkind IN ('r', 'v')"
        if connection.run(kind):
            for [row] in connection.run(f"SELECT to_jsonb({name}) FROM {name}"):
                found[name] = row
    return found


def lost(damages: tuple[Damage, ...]) -> set[str]:
    """Return the columns of `analyses` that are gone and can not be recovered from others."""
    unrecoverable = {
        f"analyses.{column.name}" for table in TABLES for column in table.columns if not column.fill
    }
    gone = {each.name.partition(" ")[0] for each in damages if each.name.endswith(("dropped", "renamed"))}
    return {name.partition(".")[2] for name in unrecoverable & gone}


def found(here: Here, word: str) -> list[str]:
    """The ids of ana's pictures that a search finds."""
    while search.index(here.query, "ana")[1]:
        pass
    query = search.query(here.query, "ana", word, "")
    return [str(id) for id in search.newest(here.query, "ana", query.text, 9, "", {})]


@contextmanager
def filled_copy(filled: Connection, table: Table) -> Iterator[Connection]:
    """The same connection, its current schema one with a copy of `table` and, borrowed, all others."""
    with copied(filled, table.name) as connection:
        [[name]] = connection.run("SELECT quote_ident(current_schema())")
        moves = [f"ALTER TABLE {{}}.{each.name} SET SCHEMA {{}}" for each in TABLES if each is not table]
        connection.run(f"INSERT INTO {table.name} TABLE {SCHEMA}.{table.name}")
        connection.run(";".join(moves).format(*(SCHEMA, name) * len(moves)))
        try:
            yield connection
        finally:
            connection.run(";".join(moves).format(*(name, SCHEMA) * len(moves)))


REFUSED = [(table, damage) for table, damage in all_damages() if damage.refused]


@pytest.fixture(scope="module")
def filled(outside: Connection) -> Connection:
    """The connection whose tables, outside of any test's schema, hold rows; a worker may set it up again."""
    names = ", ".join(table.name for table in TABLES)
    outside.run(";".join((f"SET search_path = {SCHEMA}; TRUNCATE {names}", *ROWS, "RESET search_path")))
    return outside


@pytest.mark.parametrize(("table", "damage"), REFUSED, ids=[damage.name for _, damage in REFUSED])
def test_damage_that_can_not_be_repaired_is_refused_with_its_name_and_nothing_changes(
    filled: Connection, table: Table, damage: Damage
) -> None:
    with filled_copy(filled, table) as connection:
        connection.run(damage.sql)
        damaged = contents(connection)
        with pytest.raises(SchemaError) as refused:
            check(connection)
        for word in damage.refused:
            assert word in str(refused.value)
        assert "\n" not in str(refused.value)
        assert contents(connection) == damaged


def ids(damages: tuple[Damage, ...]) -> str:
    return damages[0].name + (f" and {len(damages) - 1} others" if len(damages) > 1 else "")


@pytest.mark.parametrize("damages", list(repaired()), ids=ids)
def test_damage_is_repaired_without_losing_a_row(sound: Connection, damages: tuple[Damage, ...]) -> None:
    with_rows, names = damages[0].filled, [each.name for each in damages]
    for statement in ROWS if with_rows else ():
        sound.run(statement)
    before, sound_shape = contents(sound), shape(sound)
    sound.run("SET TimeZone = 'UTC'")
    for damage in damages:
        sound.run(damage.sql)
    damaged = contents(sound)
    check(sound)
    now = shape(sound)
    assert sound_shape <= now, names
    for kind, _, _, _, default, strict, _ in now - sound_shape:  # columns of others accept our rows
        assert kind == "index" or (kind == "column" and not (strict and default is None)), names
    after = contents(sound)
    kept = {name: row for name, row in damaged.items() if name not in DERIVED}
    for name, row in kept.items():
        for column, value in row.items():
            assert str(after[name][column]).removesuffix("+00:00") == str(value).removesuffix("+00:00"), names
    if with_rows and "analyses" in kept and not any("analyses.result" in name for name in names):
        expected = {name: value for name, value in before["analyses"].items() if name not in lost(damages)}
        assert after["analyses"].items() >= expected.items(), names
    check(sound)
    if with_rows and "analyses" in kept:
        assert stats(Here(sound), "ana", NOW) == PROGRESS, names
        assert found(Here(sound), "golden") == [ID], names
