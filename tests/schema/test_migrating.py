"""The steps of docs/migrating.md, on a database as the old web app left it."""

import re
from collections.abc import Iterator
from contextlib import closing, contextmanager

import pytest
from pg8000.native import Connection, DatabaseError, identifier

from dropcap.database.connection import connect
from dropcap.database.progress import stats
from dropcap.database.schema.legacy import INSTANTS, NAMES
from dropcap.database.transactions import Database
from dropcap.settings import Settings
from tests.support.database.installations import contents, installed, start
from tests.support.pages import DOCS

PAGE = (DOCS / "migrating.md").read_text()
BACK, TAKE_OVER = re.findall(r"^```sql\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
ROLE, USERS = re.findall(r"^   ```sql\n(.*?)^   ```", PAGE, re.MULTILINE | re.DOTALL)
OLD = """
CREATE TABLE users (id serial PRIMARY KEY, google_id text NOT NULL);
INSERT INTO users (google_id) VALUES ('107'), ('');
CREATE TABLE uploads (id serial PRIMARY KEY, path text NOT NULL);
INSERT INTO uploads (path) VALUES ('/var/pictures/1.jpg');
CREATE TABLE achievements (id serial PRIMARY KEY, user_id integer NOT NULL REFERENCES users,
                           title text NOT NULL, created_at timestamp NOT NULL DEFAULT now());
INSERT INTO achievements (user_id, title, created_at) VALUES
  (1, 'Collector', '2020-05-01 10:00'), (2, 'Starter', '2020-05-03');
"""


@pytest.fixture
def old(empty_database: str) -> Iterator[Connection]:
    """A connection of the database's owner to what the old app left."""
    with closing(connect(empty_database)) as connection:
        connection.run(OLD)
        yield connection


@contextmanager
def dropcap(old: Connection, address: str, *steps: str) -> Iterator[Database]:
    """Start Dropcap on that database after these steps, as a role of this test."""
    [[database]] = old.run("SELECT current_database()")
    role = f"dropcap_{database}"
    try:
        for step in steps:
            ours = step.replace("DATABASE photos", f"DATABASE {identifier(database)}")
            old.run(re.sub(r"\b(ROLE|TO|AUTHORIZATION) dropcap\b", rf"\1 {role}", ours))
        url = re.sub(r"//[^@]*@", f"//{role}:secret@", address)
        with closing(Database(Settings(database_url=url))) as client:
            client.prepare()
            yield client
    finally:
        old.run(f"DROP OWNED BY {role} CASCADE; DROP ROLE {role}")


def names(database: Database, user: str) -> list[str]:
    return [each["achievement_name"] for each in stats(database, user)["achievements"]]


def test_achievements_are_copied_and_the_old_app_is_unchanged(old: Connection, empty_database: str) -> None:
    before = old.run("SELECT to_jsonb(a) FROM achievements a ORDER BY id")
    with dropcap(old, empty_database, ROLE) as database:
        assert names(database, "1") == ["Collector"]
        assert stats(database, "1")["achievements"][0]["earned_at"] == "2020-05-01T10:00:00+00:00"
        assert old.run("SELECT path FROM public.uploads") == [["/var/pictures/1.jpg"]]
        assert old.run("SELECT to_jsonb(a) FROM achievements a ORDER BY id") == before
        old.run(USERS)
        assert names(database, "107") == ["Collector"]
        assert names(database, "1") == []
        assert names(database, "2") == ["Starter"]  # the old app does not know whose it is


def test_the_rollback_leaves_tables_of_other_apps_alone(old: Connection, empty_database: str) -> None:
    with dropcap(old, empty_database, ROLE):
        before = old.run(
            "SELECT relname::text, oid FROM pg_class WHERE relnamespace = 'public'::regnamespace"
        )
        with pytest.raises(DatabaseError, match='"uploads" already exists'):
            old.run(BACK)
        assert before == old.run(
            "SELECT relname::text, oid FROM pg_class WHERE relnamespace = 'public'::regnamespace"
        )
        old.run("DROP TABLE uploads")
        old.run(BACK)
        assert old.run("SELECT title FROM public.achievements ORDER BY 1") == [["Collector"], ["Starter"]]
        assert old.run("SELECT tablename FROM pg_tables WHERE schemaname = 'dropcap'") == [["achievements"]]


def test_the_page_names_every_column_that_a_name_or_date_is_taken_from() -> None:
    named = set(re.findall(r"`(\w+)`", PAGE))
    assert set(NAMES) <= named
    assert set(INSTANTS) <= named


def test_results_that_an_older_revision_left_in_public_are_logged_and_can_be_taken_over(
    empty_database: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The older revision ran after the view that stops it was dropped."""
    with closing(connect(empty_database)) as owner:
        installed(empty_database, owner)
        owner.run("ALTER SCHEMA public RENAME TO later; CREATE SCHEMA public")
        start(empty_database)
        owner.run("DROP SCHEMA public; ALTER SCHEMA later RENAME TO public")
        assert "which alone is used" not in capsys.readouterr().out
        before = contents(owner, "public")
        with closing(start(empty_database)) as database:
            logged = capsys.readouterr().out
            assert "Table public.analyses is Dropcap's and so is dropcap.analyses, which alone" in logged
            assert stats(database, "ana")["pictures_analyzed"] == 0
            for _ in range(2):
                owner.run(TAKE_OVER)
                assert stats(database, "ana")["pictures_analyzed"] == 1
        assert contents(owner, "public") == before
