# ruff: noqa: S608  the SQL is made of this file's own words
"""The schema that is Dropcap's own, what may be in its place, and tables of versions that had none."""

import json
import re
import uuid
from collections.abc import Iterator
from contextlib import closing, suppress

import pytest
from pg8000.native import Connection

from dropcap import faults, ownership
from dropcap.database import Database, connect, connect_inside
from dropcap.errors import SchemaError, SettingsError
from dropcap.progress import stats
from dropcap.settings import SCHEMA, Settings
from dropcap.tables import TABLES
from infra import released
from tests.schemas import ROWS
from tests.test_revisions import git

NAMES = [table.name for table in TABLES]
TABLES_IN = "SELECT tablename FROM pg_tables WHERE schemaname = '{}' ORDER BY 1"
FOREIGN = "CREATE TABLE public.documents (id serial, body text); INSERT INTO documents VALUES (1, 'x')"


@pytest.fixture
def outside(empty_database: str) -> Iterator[Connection]:
    """A connection of the administrator to a database with nothing in it."""
    with closing(connect(empty_database)) as connection:
        yield connection


def start(url: str, schema: str = SCHEMA, timeout_s: float = 10) -> Database:
    """An instance after its cold start."""
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
    """All rows of all tables of a schema, and the files they are in: nobody rewrote them."""
    return {
        name: outside.run(
            f"SELECT pg_relation_filenode('{schema}.{name}'), json_agg(t) FROM {schema}.{name} AS t"
        )
        for name in tables(outside, schema)
    }


def refused(url: str, schema: str = SCHEMA) -> str:
    """The one line with which a cold start is refused."""
    with pytest.raises(SchemaError) as raised:
        start(url, schema)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_the_tables_of_a_version_without_a_schema_are_moved_as_they_are(
    empty_database: str, outside: Connection, capsys: pytest.CaptureFixture[str]
) -> None:
    installed(empty_database, outside)
    before = contents(outside, "public")
    capsys.readouterr()
    with closing(start(empty_database)) as database:
        assert contents(outside, SCHEMA) == before
        assert tables(outside, "public") == []
        assert stats(database, "ana")["pictures_analyzed"] == 1
    logged = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {f"schema changed, as Table public.{name} is Dropcap's and outside" for name in NAMES} == {
        each["message"].partition(" of its")[0] for each in logged if "outside" in each["message"]
    }
    assert not [each for each in logged if "emptied" in each["message"]]


def test_where_they_were_a_view_says_where_they_are_until_it_is_dropped(
    empty_database: str, outside: Connection
) -> None:
    installed(empty_database, outside)
    start(empty_database)
    [[note, comment]] = outside.run(
        "SELECT note, obj_description('public.uploads'::regclass) FROM public.uploads"
    )
    assert note == comment
    assert SCHEMA in note
    outside.run("DROP VIEW public.uploads")
    start(empty_database)
    assert outside.run("SELECT to_regclass('public.uploads')") == [[None]]


def test_they_are_found_where_the_roles_search_path_had_put_them(
    empty_database: str, outside: Connection
) -> None:
    [[name]] = outside.run("SELECT current_database()")
    installed(empty_database, outside, "app")
    outside.run(FOREIGN)
    before = contents(outside, "public"), contents(outside, "app")
    outside.run(f"ALTER DATABASE {name} SET search_path = app, public")
    start(empty_database)
    assert (contents(outside, "public"), contents(outside, SCHEMA)) == before
    assert tables(outside, "app") == []


def test_tables_that_are_in_our_schema_already_stay_there_and_it_becomes_ours(
    empty_database: str, outside: Connection
) -> None:
    installed(empty_database, outside, SCHEMA)
    outside.run("CREATE TABLE dropcap.notes (n integer)")
    before = contents(outside, SCHEMA)
    start(empty_database)
    assert contents(outside, SCHEMA) == before


def test_a_table_of_unknown_shape_beside_ours_stops_the_start_with_the_sql_for_either_case(
    empty_database: str, outside: Connection
) -> None:
    for whose in ("Dropcap's", "another app's"):
        outside.run("DROP SCHEMA IF EXISTS dropcap CASCADE; DROP SCHEMA public CASCADE; CREATE SCHEMA public")
        installed(empty_database, outside)
        outside.run("ALTER TABLE public.documents ADD mine text, DROP COLUMN document")
        before = contents(outside, "public")
        said = refused(empty_database)
        assert said.startswith("Table public.documents lies beside tables of Dropcap")
        assert contents(outside, "public") == before
        assert outside.run("SELECT to_regnamespace('dropcap')") == [[None]]
        [sql] = re.findall(rf"where it is {whose}: (.*?)(?:; where it is|$)", said)
        outside.run(sql)
        with closing(start(empty_database)) as database:
            assert stats(database, "ana")["pictures_analyzed"] == 1
        ours = whose == "Dropcap's"
        assert tables(outside, "public") == ([] if ours else ["documents"])
        kept = outside.run("SELECT attrelid::regclass::text FROM pg_attribute WHERE attname = 'mine'")
        assert kept == [["dropcap.documents" if ours else "documents"]]


def test_two_sets_of_tables_are_told_apart_by_a_person(empty_database: str, outside: Connection) -> None:
    [[name]] = outside.run("SELECT current_database()")
    installed(empty_database, outside)
    start(empty_database)
    outside.run("DROP VIEW public.uploads; ALTER SCHEMA dropcap RENAME TO app; COMMENT ON SCHEMA app IS NULL")
    installed(empty_database, outside)
    outside.run(f"ALTER DATABASE {name} SET search_path = app, public")
    said = refused(empty_database)
    assert said.startswith("Table app.uploads is Dropcap's, as is public.uploads")
    outside.run(said.partition("go on with: ")[2])
    before = contents(outside, "public")
    start(empty_database)
    assert contents(outside, "public") == before
    assert tables(outside, "app") == []


def test_tables_of_others_are_not_waited_for(empty_database: str, outside: Connection) -> None:
    """Whoever holds them, in whatever mode: they are no business of ours."""
    for name in NAMES:
        outside.run(f"CREATE TABLE public.{name} (id integer, name text); INSERT INTO {name} VALUES (1)")
    with closing(connect(empty_database)) as holder:
        holder.run("BEGIN")
        for name in NAMES:
            holder.run(f"LOCK TABLE public.{name} IN ACCESS EXCLUSIVE MODE")
        with closing(start(empty_database, timeout_s=1)) as database:
            assert stats(database, "ana")["pictures_analyzed"] == 0
    assert tables(outside, SCHEMA) == sorted(NAMES)


def test_ours_that_somebody_holds_are_a_passing_fault(empty_database: str, outside: Connection) -> None:
    installed(empty_database, outside)
    with closing(connect(empty_database)) as holder:
        holder.run("BEGIN; LOCK TABLE public.analyses IN ACCESS SHARE MODE")
        with pytest.raises(Exception, match="55P03"):
            start(empty_database, timeout_s=0.3)
        assert tables(outside, "public") == sorted(NAMES)
    start(empty_database)
    assert tables(outside, SCHEMA) == sorted(NAMES)


def test_what_was_released_is_what_the_history_says() -> None:
    git("cat-file", "-e", released.LAST)
    assert json.loads(ownership.RELEASED.read_text()) == released.released()


def test_the_tables_of_every_version_are_known_again_and_become_those_of_today(
    empty_database: str, outside: Connection
) -> None:
    git("cat-file", "-e", released.LAST)
    versions = {repr(declared): declared for declared in released.versions()}
    assert len(versions) >= 8
    for declared in versions.values():
        for table in declared:
            columns = [faults._definition(column) for column in table.columns]
            outside.run(
                f"CREATE TABLE {table.name} ({', '.join(columns)}, PRIMARY KEY ({', '.join(table.key)}))"
            )
        with closing(start(empty_database)) as database:
            assert stats(database, "ana")["pictures_analyzed"] == 0
        assert tables(outside, "public") == []
        outside.run(f"DROP SCHEMA {SCHEMA} CASCADE; DROP VIEW public.uploads")


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


STATEMENT = re.compile(r"(?:refused the repair \(.*?\)|leaves that to a person): (.*)")


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


def test_tables_that_another_role_owns_are_moved_by_it(
    empty_database: str, outside: Connection, guest: str
) -> None:
    installed(empty_database, outside)
    outside.run(f"GRANT CREATE ON DATABASE {empty_database.rpartition('/')[2]} TO PUBLIC")
    assert "must be owner of table uploads" in refused(guest)
    assert tables(outside, "public") == sorted(NAMES)


@pytest.mark.parametrize("name", ["user", "_2", "x" * 63, "select"])
def test_any_plain_name_will_do(empty_database: str, outside: Connection, name: str) -> None:
    given = Settings.read({"DATABASE_URL": empty_database, "DATABASE_SCHEMA": name})
    with closing(Database(given)) as database:
        assert stats(database, "ana")["pictures_analyzed"] == 0
    with closing(connect_inside(empty_database, name)) as inside:
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
