"""The schema that is Dropcap's own: its name, its owner, and what may be in its place."""

import re
import uuid
from collections.abc import Iterator
from contextlib import closing, suppress

import pytest
from pg8000.native import Connection

from dropcap.database.connection import connect, connect_to_schema
from dropcap.database.progress import stats
from dropcap.database.schema import ownership
from dropcap.database.transactions import Database
from dropcap.errors import SchemaError, SettingsError
from dropcap.settings import SCHEMA, Settings
from tests.support.database.installations import NAMES, refused, start, tables
from tests.support.database.schemas import ROWS


@pytest.fixture
def outside(empty_database: str) -> Iterator[Connection]:
    """A connection of the administrator to a database with nothing in it."""
    with closing(connect(empty_database)) as connection:
        yield connection


IN_THE_WAY = {
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


@pytest.mark.parametrize(("sql", "named"), IN_THE_WAY.values(), ids=IN_THE_WAY)
def test_a_schema_of_another_app_is_refused_and_another_name_helps(
    empty_database: str, outside: Connection, sql: str, named: str
) -> None:
    outside.run(f"CREATE SCHEMA {SCHEMA}; {sql.format(SCHEMA)}")
    said = refused(empty_database)
    assert said.startswith(f"Schema {SCHEMA} holds {named.format(SCHEMA)}, ")
    assert said.endswith("set DATABASE_SCHEMA to another name")
    start(empty_database, "other")
    assert tables(outside, "other") == sorted(NAMES)
    assert outside.run(f"SELECT obj_description('{SCHEMA}'::regnamespace)") == [[None]]


def test_an_empty_schema_is_taken_and_marked(empty_database: str, outside: Connection) -> None:
    rights = f"ALTER DEFAULT PRIVILEGES IN SCHEMA {SCHEMA} GRANT SELECT ON TABLES TO PUBLIC"
    outside.run(f"CREATE SCHEMA {SCHEMA}; {rights}")
    start(empty_database)
    assert outside.run(f"SELECT obj_description('{SCHEMA}'::regnamespace)") == [[ownership.MARK]]
    assert tables(outside, SCHEMA) == sorted(NAMES)


@pytest.fixture
def guest(outside: Connection, empty_database: str) -> Iterator[str]:
    """The address of a login that may do nothing but what is granted."""
    role = f"guest_{uuid.uuid4().hex[:8]}"
    outside.run(f"CREATE ROLE {role} LOGIN PASSWORD 'secret'")
    yield re.sub(r"//[^@]*@", f"//{role}:secret@", empty_database)
    outside.run(f"REASSIGN OWNED BY {role} TO CURRENT_USER; DROP OWNED BY {role}; DROP ROLE {role}")


STATEMENT = re.compile(r"(?:refused the repair \(.*?\)|does not change that itself): (.*)")


def helped(outside: Connection, address: str) -> None:
    """Start, doing what each refusal says, as the administrator; at most two are needed."""
    for _ in range(2):
        with suppress(SchemaError):
            start(address)
            break
        found = STATEMENT.search(refused(address))
        assert found
        outside.run(found[1])
    start(address)
    assert tables(outside, SCHEMA) == sorted(NAMES)


@pytest.mark.parametrize(
    ("before", "says"),
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
def test_the_refusal_has_the_statement_that_a_missing_right_takes(
    empty_database: str, outside: Connection, guest: str, before: str, says: str
) -> None:
    outside.run(before)
    assert says in refused(guest)
    helped(outside, guest)


@pytest.mark.parametrize("name", ["user", "_2", "x" * 63, "select"])
def test_any_plain_name_will_do(empty_database: str, outside: Connection, name: str) -> None:
    given = Settings.read({"DATABASE_URL": empty_database, "DATABASE_SCHEMA": name})
    with closing(Database(given)) as database:
        assert stats(database, "ana")["pictures_analyzed"] == 0
    with closing(connect_to_schema(empty_database, name)) as inside:
        assert inside.run("SELECT count(*) FROM uploads") == [[0]]
    assert tables(outside, name) == sorted(NAMES)


@pytest.mark.parametrize(
    "name",
    ["public", "information_schema", "pg_x", "Dropcap", "a-b", "a.b", "1a", "x" * 64, 'a"b', "ü", "a\n"],
)
def test_other_names_are_not_allowed(name: str) -> None:
    with pytest.raises(SettingsError, match="DATABASE_SCHEMA"):
        Settings.read({"DATABASE_SCHEMA": name})


def test_two_installations_share_a_database_and_know_nothing_of_each_other(empty_database: str) -> None:
    with closing(start(empty_database, "one")) as one, closing(start(empty_database, "two")) as two:
        for statement in ROWS:
            one.query(f"{statement} RETURNING 1")
        assert stats(one, "ana")["pictures_analyzed"] == 1
        assert stats(two, "ana")["pictures_analyzed"] == 0
        one.query("ALTER TABLE analyses DROP COLUMN counted")
        assert stats(one, "ana")["pictures_analyzed"] == 1  # repaired, and counted anew
        assert two.query("SELECT count(*) FROM analyses") == [[0]]


def test_a_temporary_table_is_not_taken_for_ours(database_url: str) -> None:
    with closing(Database(Settings(database_url=database_url))) as database:
        database.query("CREATE TEMP TABLE analyses (n integer)")
        assert stats(database, "ana")["pictures_analyzed"] == 0
        assert database.query("SELECT count(result) FROM analyses") == [[0]]
