"""Dropcap has a schema of its own: its name, its owner, and refusals of a schema of another app."""

import re
from contextlib import closing, suppress

import pytest
from pg8000.native import Connection

from dropcap.database.connection import connect_to_schema
from dropcap.database.progress import stats
from dropcap.database.schema import ownership
from dropcap.database.transactions import Database
from dropcap.errors import SchemaError, SettingsError
from dropcap.settings import SCHEMA, Settings
from tests.schema.conftest import Guest
from tests.support.database.installations import NAMES, refused, start, tables
from tests.support.database.schemas import ROWS

FOREIGN_OBJECTS = {
    "a table": ("CREATE TABLE {}.things (n integer)", "table {}.things"),
    "a table under one of our names": ("CREATE TABLE {}.documents (n integer)", "table {}.documents"),
    "a view": ("CREATE VIEW {}.things AS SELECT 1", "view {}.things"),
    "a sequence": ("CREATE SEQUENCE {}.things", "sequence {}.things"),
    "a function": ("CREATE FUNCTION {}.f() RETURNS int LANGUAGE sql AS 'SELECT 1'", "function {}.f()"),
    "a type": ("CREATE TYPE {}.mood AS ENUM ('ok')", "type {}.mood"),
    "only achievements like ours": (
        "CREATE TABLE {}.achievements (user_id text NOT NULL, achievement_name text NOT NULL, "
        "earned_at timestamptz NOT NULL, PRIMARY KEY (user_id, achievement_name))",
        "table {}.achievements",
    ),
}


@pytest.mark.parametrize(("sql", "named"), FOREIGN_OBJECTS.values(), ids=FOREIGN_OBJECTS)
def test_a_schema_of_another_app_is_refused_and_another_name_is_accepted(
    empty_database: str, owner: Connection, sql: str, named: str
) -> None:
    owner.run(f"CREATE SCHEMA {SCHEMA}; {sql.format(SCHEMA)}")
    message = refused(empty_database)
    assert message.startswith(f"Schema {SCHEMA} holds {named.format(SCHEMA)}, ")
    assert message.endswith("set DATABASE_SCHEMA to another name")
    start(empty_database, "other")
    assert tables(owner, "other") == sorted(NAMES)
    assert owner.run(f"SELECT obj_description('{SCHEMA}'::regnamespace)") == [[None]]


def test_an_empty_schema_is_used_and_marked_as_ours(empty_database: str, owner: Connection) -> None:
    rights = f"ALTER DEFAULT PRIVILEGES IN SCHEMA {SCHEMA} GRANT SELECT ON TABLES TO PUBLIC"
    owner.run(f"CREATE SCHEMA {SCHEMA}; {rights}")
    start(empty_database)
    assert owner.run(f"SELECT obj_description('{SCHEMA}'::regnamespace)") == [[ownership.MARK]]
    assert tables(owner, SCHEMA) == sorted(NAMES)


STATEMENT = re.compile(r"(?:refused the repair \(.*?\)|does not change that itself): (.*)")


def follow_refusals(owner: Connection, address: str) -> None:
    """Start, and run the statement of each refusal as the administrator; at most two are needed."""
    for _ in range(2):
        with suppress(SchemaError):
            start(address)
            break
        found = STATEMENT.search(refused(address))
        assert found
        owner.run(found[1])
    start(address)
    assert tables(owner, SCHEMA) == sorted(NAMES)


@pytest.mark.parametrize(
    ("before", "statement"),
    [
        ("SELECT 1", "CREATE SCHEMA dropcap AUTHORIZATION guest_"),
        ("CREATE SCHEMA dropcap", "ALTER SCHEMA dropcap OWNER TO guest_"),
        (
            f"CREATE SCHEMA dropcap; {ownership.mark('dropcap')}",
            "GRANT USAGE, CREATE ON SCHEMA dropcap TO guest_",
        ),
    ],
    ids=["may not create a schema", "owns not the schema", "may not use the schema"],
)
def test_a_refusal_for_a_missing_right_has_the_statement_that_grants_it(
    empty_database: str, owner: Connection, guest: Guest, before: str, statement: str
) -> None:
    owner.run(before)
    assert statement in refused(guest.url)
    follow_refusals(owner, guest.url)


@pytest.mark.parametrize("name", ["user", "_2", "x" * 63, "select"])
def test_any_plain_name_is_accepted_as_schema(empty_database: str, owner: Connection, name: str) -> None:
    settings = Settings.read({"DATABASE_URL": empty_database, "DATABASE_SCHEMA": name})
    with closing(Database(settings)) as database:
        assert stats(database, "ana")["pictures_analyzed"] == 0
    with closing(connect_to_schema(empty_database, name)) as inside:
        assert inside.run("SELECT count(*) FROM uploads") == [[0]]
    assert tables(owner, name) == sorted(NAMES)


@pytest.mark.parametrize(
    "name",
    ["public", "information_schema", "pg_x", "Dropcap", "a-b", "a.b", "1a", "x" * 64, 'a"b', "ü", "a\n"],
)
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(SettingsError, match="DATABASE_SCHEMA"):
        Settings.read({"DATABASE_SCHEMA": name})


def test_two_installations_in_one_database_are_independent(empty_database: str) -> None:
    with closing(start(empty_database, "one")) as one, closing(start(empty_database, "two")) as two:
        for statement in ROWS:
            one.query(f"{statement} RETURNING 1")
        assert stats(one, "ana")["pictures_analyzed"] == 1
        assert stats(two, "ana")["pictures_analyzed"] == 0
        one.query("ALTER TABLE analyses DROP COLUMN counted")
        assert stats(one, "ana")["pictures_analyzed"] == 1  # repaired and recounted
        assert two.query("SELECT count(*) FROM analyses") == [[0]]


def test_a_temporary_table_of_the_same_name_is_not_used(database_url: str) -> None:
    with closing(Database(Settings(database_url=database_url))) as database:
        database.query("CREATE TEMP TABLE analyses (n integer)")
        assert stats(database, "ana")["pictures_analyzed"] == 0
        assert database.query("SELECT count(result) FROM analyses") == [[0]]
