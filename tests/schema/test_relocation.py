# ruff: noqa: S608  the SQL is made of this file's own words
"""Tables of versions that had no schema of their own are moved, those of others are left alone."""

import json
import re
import uuid
from collections.abc import Iterator
from contextlib import closing

import pytest
from pg8000.native import Connection

from dropcap.database.connection import connect
from dropcap.database.progress import stats
from dropcap.database.schema import diff, ownership
from dropcap.settings import SCHEMA
from tests.schema.test_revisions import git
from tests.support.database import released
from tests.support.database.installations import NAMES, contents, installed, refused, start, tables

FOREIGN = "CREATE TABLE public.documents (id serial, body text); INSERT INTO documents VALUES (1, 'x')"


@pytest.fixture
def outside(empty_database: str) -> Iterator[Connection]:
    """A connection of the administrator to a database with nothing in it."""
    with closing(connect(empty_database)) as connection:
        yield connection


@pytest.fixture
def guest(outside: Connection, empty_database: str) -> Iterator[str]:
    """The address of a login that may do nothing but what is granted."""
    role = f"guest_{uuid.uuid4().hex[:8]}"
    outside.run(f"CREATE ROLE {role} LOGIN PASSWORD 'secret'")
    yield re.sub(r"//[^@]*@", f"//{role}:secret@", empty_database)
    outside.run(f"REASSIGN OWNED BY {role} TO CURRENT_USER; DROP OWNED BY {role}; DROP ROLE {role}")


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
    assert {f"schema changed, as Table public.{name} is Dropcap's, but outside" for name in NAMES} == {
        each["message"].partition(" its")[0] for each in logged if "outside" in each["message"]
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
        assert said.startswith("Table public.documents is beside tables of Dropcap")
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


@pytest.mark.parametrize("made_by_hand", ["", f"CREATE SCHEMA {SCHEMA}; {ownership.mark(SCHEMA)}"])
def test_ours_that_somebody_holds_are_a_passing_fault(
    empty_database: str, outside: Connection, made_by_hand: str
) -> None:
    """Nobody else waits behind us for long."""
    installed(empty_database, outside)
    outside.run(made_by_hand)
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
            columns = [diff._definition(column) for column in table.columns]
            outside.run(
                f"CREATE TABLE {table.name} ({', '.join(columns)}, PRIMARY KEY ({', '.join(table.key)}))"
            )
        with closing(start(empty_database)) as database:
            assert stats(database, "ana")["pictures_analyzed"] == 0
        assert tables(outside, "public") == []
        outside.run(f"DROP SCHEMA {SCHEMA} CASCADE; DROP VIEW public.uploads")


def test_tables_that_another_role_owns_are_moved_by_it(
    empty_database: str, outside: Connection, guest: str
) -> None:
    installed(empty_database, outside)
    outside.run(f"GRANT CREATE ON DATABASE {empty_database.rpartition('/')[2]} TO PUBLIC")
    assert "must be owner of table uploads" in refused(guest)
    assert tables(outside, "public") == sorted(NAMES)
