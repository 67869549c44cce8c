# ruff: noqa: S608  the SQL is made of this file's own words
"""Tables of versions without a schema of their own are moved into it; tables of other apps are left alone."""

import json
import re
from contextlib import closing

import pytest
from pg8000.native import Connection

from dropcap.database.connection import connect
from dropcap.database.progress import stats
from dropcap.database.schema import diff, ownership
from dropcap.settings import SCHEMA
from tests.schema.conftest import Guest
from tests.schema.test_revisions import git
from tests.support.database import released
from tests.support.database.installations import NAMES, contents, installed, refused, start, tables

FOREIGN = "CREATE TABLE public.documents (id serial, body text); INSERT INTO documents VALUES (1, 'x')"


def test_the_tables_of_a_version_without_a_schema_are_moved_unchanged(
    empty_database: str, owner: Connection, capsys: pytest.CaptureFixture[str]
) -> None:
    installed(empty_database, owner)
    before = contents(owner, "public")
    capsys.readouterr()
    with closing(start(empty_database)) as database:
        assert contents(owner, SCHEMA) == before
        assert tables(owner, "public") == []
        assert stats(database, "ana")["pictures_analyzed"] == 1
    logged = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {f"schema changed, as Table public.{name} is Dropcap's, but outside" for name in NAMES} == {
        each["message"].partition(" its")[0] for each in logged if "outside" in each["message"]
    }
    assert not [each for each in logged if "emptied" in each["message"]]


def test_a_view_in_the_old_place_says_where_the_tables_are_until_it_is_dropped(
    empty_database: str, owner: Connection
) -> None:
    installed(empty_database, owner)
    start(empty_database)
    [[note, comment]] = owner.run(
        "SELECT note, obj_description('public.uploads'::regclass) FROM public.uploads"
    )
    assert note == comment
    assert SCHEMA in note
    owner.run("DROP VIEW public.uploads")
    start(empty_database)
    assert owner.run("SELECT to_regclass('public.uploads')") == [[None]]


def test_tables_are_found_by_the_search_path_of_the_role(empty_database: str, owner: Connection) -> None:
    [[name]] = owner.run("SELECT current_database()")
    installed(empty_database, owner, "app")
    owner.run(FOREIGN)
    before = contents(owner, "public"), contents(owner, "app")
    owner.run(f"ALTER DATABASE {name} SET search_path = app, public")
    start(empty_database)
    assert (contents(owner, "public"), contents(owner, SCHEMA)) == before
    assert tables(owner, "app") == []


def test_tables_in_our_schema_stay_and_the_schema_is_marked(empty_database: str, owner: Connection) -> None:
    installed(empty_database, owner, SCHEMA)
    owner.run("CREATE TABLE dropcap.notes (n integer)")
    before = contents(owner, SCHEMA)
    start(empty_database)
    assert contents(owner, SCHEMA) == before


def test_a_table_of_unknown_shape_beside_ours_is_refused_with_the_sql_for_either_case(
    empty_database: str, owner: Connection
) -> None:
    for whose in ("Dropcap's", "another app's"):
        owner.run("DROP SCHEMA IF EXISTS dropcap CASCADE; DROP SCHEMA public CASCADE; CREATE SCHEMA public")
        installed(empty_database, owner)
        owner.run("ALTER TABLE public.documents ADD mine text, DROP COLUMN document")
        before = contents(owner, "public")
        message = refused(empty_database)
        assert message.startswith("Table public.documents is beside tables of Dropcap")
        assert contents(owner, "public") == before
        assert owner.run("SELECT to_regnamespace('dropcap')") == [[None]]
        [sql] = re.findall(rf"where it is {whose}: (.*?)(?:; where it is|$)", message)
        owner.run(sql)
        with closing(start(empty_database)) as database:
            assert stats(database, "ana")["pictures_analyzed"] == 1
        ours = whose == "Dropcap's"
        assert tables(owner, "public") == ([] if ours else ["documents"])
        kept = owner.run("SELECT attrelid::regclass::text FROM pg_attribute WHERE attname = 'mine'")
        assert kept == [["dropcap.documents" if ours else "documents"]]


def test_two_sets_of_tables_are_refused_until_one_is_chosen(empty_database: str, owner: Connection) -> None:
    [[name]] = owner.run("SELECT current_database()")
    installed(empty_database, owner)
    start(empty_database)
    owner.run("DROP VIEW public.uploads; ALTER SCHEMA dropcap RENAME TO app; COMMENT ON SCHEMA app IS NULL")
    installed(empty_database, owner)
    owner.run(f"ALTER DATABASE {name} SET search_path = app, public")
    message = refused(empty_database)
    assert message.startswith("Table app.uploads is Dropcap's, as is public.uploads")
    owner.run(message.partition("go on with: ")[2])
    before = contents(owner, "public")
    start(empty_database)
    assert contents(owner, "public") == before
    assert tables(owner, "app") == []


def test_locked_tables_of_other_apps_are_not_waited_for(empty_database: str, owner: Connection) -> None:
    """In whatever mode another session has locked them."""
    for name in NAMES:
        owner.run(f"CREATE TABLE public.{name} (id integer, name text); INSERT INTO {name} VALUES (1)")
    with closing(connect(empty_database)) as other:
        other.run("BEGIN")
        for name in NAMES:
            other.run(f"LOCK TABLE public.{name} IN ACCESS EXCLUSIVE MODE")
        with closing(start(empty_database, timeout_s=1)) as database:
            assert stats(database, "ana")["pictures_analyzed"] == 0
    assert tables(owner, SCHEMA) == sorted(NAMES)


@pytest.mark.parametrize("made_by_hand", ["", f"CREATE SCHEMA {SCHEMA}; {ownership.mark(SCHEMA)}"])
def test_a_lock_on_our_tables_is_a_transient_error(
    empty_database: str, owner: Connection, made_by_hand: str
) -> None:
    """Our own wait must not block other sessions for long."""
    installed(empty_database, owner)
    owner.run(made_by_hand)
    with closing(connect(empty_database)) as other:
        other.run("BEGIN; LOCK TABLE public.analyses IN ACCESS SHARE MODE")
        with pytest.raises(Exception, match="55P03"):
            start(empty_database, timeout_s=0.3)
        assert tables(owner, "public") == sorted(NAMES)
    start(empty_database)
    assert tables(owner, SCHEMA) == sorted(NAMES)


def test_the_released_fingerprints_are_those_of_the_history() -> None:
    git("cat-file", "-e", released.LAST)
    assert json.loads(ownership.RELEASED.read_text()) == released.released()


def test_the_tables_of_every_released_version_are_recognised_and_migrated(
    empty_database: str, owner: Connection
) -> None:
    git("cat-file", "-e", released.LAST)
    versions = {repr(declared): declared for declared in released.versions()}
    assert len(versions) >= 8
    for declared in versions.values():
        for table in declared:
            columns = [diff._definition(column) for column in table.columns]
            owner.run(
                f"CREATE TABLE {table.name} ({', '.join(columns)}, PRIMARY KEY ({', '.join(table.key)}))"
            )
        with closing(start(empty_database)) as database:
            assert stats(database, "ana")["pictures_analyzed"] == 0
        assert tables(owner, "public") == []
        owner.run(f"DROP SCHEMA {SCHEMA} CASCADE; DROP VIEW public.uploads")


def test_tables_of_another_owner_are_not_moved(empty_database: str, owner: Connection, guest: Guest) -> None:
    installed(empty_database, owner)
    owner.run(f"GRANT CREATE ON DATABASE {empty_database.rpartition('/')[2]} TO PUBLIC")
    assert "must be owner of table uploads" in refused(guest.url)
    assert tables(owner, "public") == sorted(NAMES)


def test_a_table_whose_name_is_taken_in_our_schema_is_not_moved(
    empty_database: str, owner: Connection
) -> None:
    installed(empty_database, owner)
    start(empty_database)
    owner.run("DROP VIEW public.uploads; CREATE TABLE public.analyses (LIKE dropcap.analyses INCLUDING ALL)")
    owner.run("DROP INDEX dropcap.uploads_created_at_idx")  # a repair looks for tables to move
    with closing(start(empty_database)) as database:
        assert stats(database, "ana")["pictures_analyzed"] == 1
    assert tables(owner, "public") == ["analyses"]
