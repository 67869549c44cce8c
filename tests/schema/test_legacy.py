"""The old web app's achievements are copied once, and its table stays as it is."""

import json
import re
import uuid
from collections.abc import Iterator
from contextlib import closing

import pytest
from pg8000.native import Connection

from dropcap.database.connection import connect
from dropcap.database.progress import stats
from dropcap.database.transactions import Database
from dropcap.settings import Settings

LEGACY = {
    "as it was": """
        CREATE TABLE achievements (id serial PRIMARY KEY, user_id integer, name varchar(80) NOT NULL,
                                   earned_at timestamp DEFAULT now());
        INSERT INTO achievements (user_id, name, earned_at) VALUES
          (1, 'Collector', '2020-05-01 10:00'),
          (1, 'Collector', '2020-05-02'), (1, 'Starter', '2020-05-03'), (2, 'Collector', NULL);
    """,
    "with a title and a date of creation": """
        CREATE TABLE achievements (id serial PRIMARY KEY, user_id integer NOT NULL, title text,
                                   created_at timestamp with time zone);
        INSERT INTO achievements (user_id, title, created_at) VALUES
          (1, 'Collector', '2020-05-01 10:00+00'),
          (1, 'Collector', '2020-05-02 10:00+00'), (1, 'Starter', '2020-05-03'),
          (2, 'Collector', '2020-05-03');
    """,
    "bound to its users": """
        CREATE TABLE users (id integer PRIMARY KEY); INSERT INTO users VALUES (1), (2);
        CREATE TABLE achievements (id serial PRIMARY KEY, user_id integer NOT NULL REFERENCES users,
                                   badge text NOT NULL, earned_at timestamp NOT NULL,
                                   UNIQUE (user_id, badge));
        INSERT INTO achievements (user_id, badge, earned_at) VALUES
          (1, 'Collector', '2020-05-01 10:00'),
          (1, 'Collector (2)', '2020-05-02'), (1, 'Starter', '2020-05-03'), (2, 'Collector', '2020-05-03');
    """,
}


@pytest.mark.parametrize("legacy", LEGACY.values(), ids=LEGACY)
def test_the_old_web_apps_achievements_are_kept_and_progress_works_right_after(
    empty_database: str, legacy: str
) -> None:
    with closing(connect(empty_database)) as outside:
        outside.run(legacy)
    with closing(Database(Settings(database_url=empty_database))) as database:
        earned = stats(database, "1")["achievements"]
        assert [each["achievement_name"] for each in earned] == ["Collector", "Collector (2)", "Starter"]
        assert earned[0]["earned_at"] == "2020-05-01T10:00:00+00:00"
        assert [each["achievement_name"] for each in stats(database, "2")["achievements"]] == ["Collector"]
        database.query("INSERT INTO achievements (user_id, achievement_name) VALUES ('ana', 'x') RETURNING 1")


def test_a_row_that_has_lost_its_name_comes_along_and_is_not_shown(empty_database: str) -> None:
    with closing(connect(empty_database)) as outside:
        outside.run("CREATE TABLE achievements (id serial, user_id integer, name text)")
        outside.run("INSERT INTO achievements (user_id, name) VALUES (1, ''), (1, NULL), (NULL, 'Starter')")
    with closing(Database(Settings(database_url=empty_database))) as database:
        assert stats(database, "1")["achievements"] == []
        rows = database.query("SELECT user_id, achievement_name FROM achievements ORDER BY 1, 2")
    assert rows == [["1", "unnamed"], ["1", "unnamed (2)"], ["anonymous", "Starter"]]


@pytest.fixture
def outside(empty_database: str) -> Iterator[Connection]:
    """A connection of the administrator to a database with nothing in it."""
    with closing(connect(empty_database)) as connection:
        yield connection


def start(url: str, timeout_s: float = 10) -> Database:
    """An instance after its cold start."""
    database = Database(Settings(database_url=url, database_timeout_s=timeout_s))
    database.prepare()
    return database


def earned(outside: Connection, user: str) -> list[str]:
    """The names of all that the user has in our table."""
    sql = "SELECT achievement_name FROM dropcap.achievements WHERE user_id = :user ORDER BY earned_at, 1"
    return [name for [name] in outside.run(sql, user=user)]


# All that is known of a table and its rows; xmin and ctid show an UPDATE that changes nothing.
ALL = """
SELECT (SELECT json_agg(json_build_array(xmin, ctid, to_jsonb(t))) FROM achievements AS t),
  to_jsonb(c), (SELECT json_agg(to_jsonb(a) ORDER BY attnum) FROM pg_attribute a WHERE attrelid = c.oid),
  (SELECT json_agg(to_jsonb(r)) FROM pg_constraint r WHERE conrelid = c.oid)
FROM pg_class c WHERE c.oid = 'public.achievements'::regclass
"""


@pytest.mark.parametrize("legacy", LEGACY.values(), ids=LEGACY)
def test_the_old_table_stays_as_it_is_and_is_read_once(
    empty_database: str, outside: Connection, legacy: str, capsys: pytest.CaptureFixture[str]
) -> None:
    outside.run(legacy)
    before = outside.run(ALL)
    start(empty_database)
    assert "lacks 4 rows of public.achievements" in capsys.readouterr().out
    assert outside.run(ALL) == before
    outside.run("DELETE FROM dropcap.achievements")
    start(empty_database)
    assert earned(outside, "1") == []
    assert outside.run(ALL) == before


def test_numbers_of_equal_names_do_not_meet_a_name_that_is_there(
    empty_database: str, outside: Connection
) -> None:
    outside.run("CREATE TABLE achievements (user_id text, name text, earned_at date)")
    names = ("C", "C", "C (2)", "C (2)", "C (4)", "C (2) (2)", "C (x)", "C")
    for day, name in enumerate(names, 1):
        outside.run(
            "INSERT INTO achievements VALUES ('1', :name, date '2020-01-01' + CAST(:day AS integer))",
            name=name,
            day=day,
        )
    start(empty_database)
    assert earned(outside, "1") == [
        "C",
        "C (5)",
        "C (2)",
        "C (2) (3)",
        "C (4)",
        "C (2) (2)",
        "C (x)",
        "C (6)",
    ]


FOREIGN = {
    "no user_id": "CREATE TABLE achievements (id int, name text); INSERT INTO achievements VALUES (1, 'x')",
    "no name": "CREATE TABLE achievements (user_id int, points int); INSERT INTO achievements VALUES (1, 5)",
    "a view": "CREATE VIEW achievements AS SELECT 1 AS user_id, 'x' AS name",
}


@pytest.mark.parametrize("sql", FOREIGN.values(), ids=FOREIGN)
def test_what_is_not_the_old_web_apps_is_not_read(
    empty_database: str, outside: Connection, sql: str, capsys: pytest.CaptureFixture[str]
) -> None:
    outside.run(sql)
    with closing(connect(empty_database)) as holder:
        holder.run("BEGIN; LOCK TABLE achievements IN ACCESS EXCLUSIVE MODE")
        start(empty_database, timeout_s=1)
    assert outside.run("SELECT count(*) FROM dropcap.achievements") == [[0]]
    assert "copied" not in capsys.readouterr().out


def test_a_table_that_an_earlier_version_had_repaired_in_place_is_copied(
    empty_database: str, outside: Connection
) -> None:
    outside.run("""
        CREATE TABLE achievements (id serial PRIMARY KEY, user_id text NOT NULL, name varchar(80),
          earned_at timestamptz NOT NULL DEFAULT now(), achievement_name text NOT NULL,
          UNIQUE (user_id, achievement_name));
        INSERT INTO achievements (user_id, name, achievement_name, earned_at) VALUES
          ('1', 'Collector', 'Collector', '2020-05-01'), ('1', 'Collector', 'Collector (2)', '2020-05-02'),
          ('ana', NULL, 'first_picture', '2026-05-02');
    """)
    start(empty_database)
    assert earned(outside, "1") == ["Collector", "Collector (2)"]
    assert earned(outside, "ana") == ["first_picture"]


@pytest.fixture
def guest(outside: Connection, empty_database: str) -> Iterator[tuple[str, str]]:
    """A login that may make a schema, and its address."""
    role = f"guest_{uuid.uuid4().hex[:8]}"
    outside.run(f"CREATE ROLE {role} LOGIN PASSWORD 'secret'")
    outside.run(f"GRANT CREATE ON DATABASE {empty_database.rpartition('/')[2]} TO {role}")
    yield role, re.sub(r"//[^@]*@", f"//{role}:secret@", empty_database)
    outside.run(f"DROP OWNED BY {role} CASCADE; DROP ROLE {role}")


UNREADABLE = {
    "no right to it": ("SELECT 1", "GRANT SELECT ON achievements TO {}"),
    "policies that hide rows": (
        "ALTER TABLE achievements ENABLE ROW LEVEL SECURITY; GRANT SELECT ON achievements TO {}",
        "ALTER TABLE achievements DISABLE ROW LEVEL SECURITY",
    ),
    "no right to its schema": (
        "GRANT SELECT ON achievements TO {}; REVOKE USAGE ON SCHEMA public FROM PUBLIC",
        "GRANT USAGE ON SCHEMA public TO {}",
    ),
    "a name that is too long for an index": (
        "GRANT SELECT ON achievements TO {}; UPDATE achievements SET name = "
        "(SELECT string_agg(md5(n::text), '') FROM generate_series(1, 999) n)",
        "UPDATE achievements SET name = 'Collector'",
    ),
}


@pytest.mark.parametrize(("before", "remedy"), UNREADABLE.values(), ids=UNREADABLE)
def test_what_can_not_be_read_is_said_stops_no_start_and_is_copied_once_it_can(
    outside: Connection, guest: tuple[str, str], before: str, remedy: str, capsys: pytest.CaptureFixture[str]
) -> None:
    role, url = guest
    outside.run("CREATE TABLE achievements (user_id int, name text)")
    outside.run("INSERT INTO achievements VALUES (1, 'Collector')")
    outside.run(before.format(role))
    for _ in range(2):
        with closing(start(url)) as database:
            assert stats(database, "1")["achievements"] == []
        logged = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        said = {each["message"][:55] for each in logged if each["severity"] == "WARNING"}
        assert said == {"The achievements in public.achievements can't be copied"}
    outside.run(remedy.format(role))
    with closing(start(url)) as database:
        assert [each["achievement_name"] for each in stats(database, "1")["achievements"]] == ["Collector"]
    start(url)
    assert not capsys.readouterr().out.count("can't be copied")


def test_a_locked_table_is_waited_for_as_long_as_for_any_other_and_copied_later(
    empty_database: str, outside: Connection
) -> None:
    outside.run(LEGACY["as it was"])
    with closing(connect(empty_database)) as holder:
        holder.run("BEGIN; LOCK TABLE achievements IN ACCESS EXCLUSIVE MODE")
        start(empty_database, timeout_s=0.4)
    assert earned(outside, "1") == []
    # What was earned meanwhile stays, and of the two instants the earlier one.
    outside.run(
        "INSERT INTO dropcap.achievements VALUES ('1', 'Starter', '2026-01-01'), ('1', 'new', '2026-01-01')"
    )
    start(empty_database)
    assert earned(outside, "1") == ["Collector", "Collector (2)", "Starter", "new"]


def test_a_person_may_have_them_left(
    outside: Connection, guest: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    outside.run(LEGACY["as it was"])
    start(guest[1])
    [statement] = re.findall(r"COMMENT ON TABLE \S+ IS NULL", capsys.readouterr().out)
    outside.run(statement)
    start(guest[1])
    assert "copied" not in capsys.readouterr().out
