"""The old web app's achievements are copied once, and its table stays as it is."""

import re
from contextlib import closing

import pytest
from pg8000.native import Connection

from dropcap.database.connection import connect
from dropcap.database.progress import stats
from dropcap.database.transactions import Database
from dropcap.settings import Settings
from tests.schema.conftest import Guest
from tests.support.app import log_lines
from tests.support.database.installations import start

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
def test_the_old_web_apps_achievements_are_copied_at_the_first_request(
    empty_database: str, owner: Connection, legacy: str
) -> None:
    owner.run(legacy)
    with closing(Database(Settings(database_url=empty_database))) as database:
        earned = stats(database, "1")["achievements"]
        assert [each["achievement_name"] for each in earned] == ["Collector", "Collector (2)", "Starter"]
        assert earned[0]["earned_at"] == "2020-05-01T10:00:00+00:00"
        assert [each["achievement_name"] for each in stats(database, "2")["achievements"]] == ["Collector"]
        database.query("INSERT INTO achievements (user_id, achievement_name) VALUES ('ana', 'x') RETURNING 1")


def test_achievements_without_a_name_are_copied_and_not_shown(empty_database: str, owner: Connection) -> None:
    owner.run("CREATE TABLE achievements (id serial, user_id integer, name text)")
    owner.run("INSERT INTO achievements (user_id, name) VALUES (1, ''), (1, NULL), (NULL, 'Starter')")
    with closing(Database(Settings(database_url=empty_database))) as database:
        assert stats(database, "1")["achievements"] == []
        rows = database.query("SELECT user_id, achievement_name FROM achievements ORDER BY 1, 2")
    assert rows == [["1", "unnamed"], ["1", "unnamed (2)"], ["anonymous", "Starter"]]


def allow_schema(owner: Connection, role: str) -> None:
    [[database]] = owner.run("SELECT quote_ident(current_database())")
    owner.run(f"GRANT CREATE ON DATABASE {database} TO {role}")


def earned(owner: Connection, user: str) -> list[str]:
    """Return the names of the user's achievements in our table."""
    sql = "SELECT achievement_name FROM dropcap.achievements WHERE user_id = :user ORDER BY earned_at, 1"
    return [name for [name] in owner.run(sql, user=user)]


# A table with its rows; xmin and ctid reveal an UPDATE that changes nothing.
ALL = """
SELECT (SELECT json_agg(json_build_array(xmin, ctid, to_jsonb(t))) FROM achievements AS t),
  to_jsonb(c), (SELECT json_agg(to_jsonb(a) ORDER BY attnum) FROM pg_attribute a WHERE attrelid = c.oid),
  (SELECT json_agg(to_jsonb(r)) FROM pg_constraint r WHERE conrelid = c.oid)
FROM pg_class c WHERE c.oid = 'public.achievements'::regclass
"""


@pytest.mark.parametrize("legacy", LEGACY.values(), ids=LEGACY)
def test_the_old_table_is_copied_once_and_never_changed(
    empty_database: str, owner: Connection, legacy: str, capsys: pytest.CaptureFixture[str]
) -> None:
    owner.run(legacy)
    before = owner.run(ALL)
    start(empty_database)
    assert "lacks 4 rows of public.achievements" in capsys.readouterr().out
    assert owner.run(ALL) == before
    owner.run("DELETE FROM dropcap.achievements")
    start(empty_database)
    assert earned(owner, "1") == []
    assert owner.run(ALL) == before


def test_numbers_that_make_names_unique_never_collide_with_existing_names(
    empty_database: str, owner: Connection
) -> None:
    owner.run("CREATE TABLE achievements (user_id text, name text, earned_at date)")
    names = ("C", "C", "C (2)", "C (2)", "C (4)", "C (2) (2)", "C (x)", "C")
    for day, name in enumerate(names, 1):
        owner.run(
            "INSERT INTO achievements VALUES ('1', :name, date '2020-01-01' + CAST(:day AS integer))",
            name=name,
            day=day,
        )
    start(empty_database)
    unique = ["C", "C (5)", "C (2)", "C (2) (3)", "C (4)", "C (2) (2)", "C (x)", "C (6)"]
    assert earned(owner, "1") == unique


FOREIGN = {
    "no user_id": "CREATE TABLE achievements (id int, name text); INSERT INTO achievements VALUES (1, 'x')",
    "no name": "CREATE TABLE achievements (user_id int, points int); INSERT INTO achievements VALUES (1, 5)",
    "a view": "CREATE VIEW achievements AS SELECT 1 AS user_id, 'x' AS name",
}


@pytest.mark.parametrize("sql", FOREIGN.values(), ids=FOREIGN)
def test_tables_and_views_of_other_apps_are_not_copied(
    empty_database: str, owner: Connection, sql: str, capsys: pytest.CaptureFixture[str]
) -> None:
    owner.run(sql)
    with closing(connect(empty_database)) as other:
        other.run("BEGIN; LOCK TABLE achievements IN ACCESS EXCLUSIVE MODE")
        start(empty_database, timeout_s=1)
    assert owner.run("SELECT count(*) FROM dropcap.achievements") == [[0]]
    assert "copied" not in capsys.readouterr().out


def test_a_table_repaired_by_an_earlier_version_is_copied(empty_database: str, owner: Connection) -> None:
    owner.run("""
        CREATE TABLE achievements (id serial PRIMARY KEY, user_id text NOT NULL, name varchar(80),
          earned_at timestamptz NOT NULL DEFAULT now(), achievement_name text NOT NULL,
          UNIQUE (user_id, achievement_name));
        INSERT INTO achievements (user_id, name, achievement_name, earned_at) VALUES
          ('1', 'Collector', 'Collector', '2020-05-01'), ('1', 'Collector', 'Collector (2)', '2020-05-02'),
          ('ana', NULL, 'first_picture', '2026-05-02');
    """)
    start(empty_database)
    assert earned(owner, "1") == ["Collector", "Collector (2)"]
    assert earned(owner, "ana") == ["first_picture"]


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
def test_an_unreadable_table_is_a_warning_and_is_copied_once_it_can_be_read(
    owner: Connection, guest: Guest, before: str, remedy: str, capsys: pytest.CaptureFixture[str]
) -> None:
    role, url = guest
    allow_schema(owner, role)
    owner.run("CREATE TABLE achievements (user_id int, name text)")
    owner.run("INSERT INTO achievements VALUES (1, 'Collector')")
    owner.run(before.format(role))
    for _ in range(2):
        with closing(start(url)) as database:
            assert stats(database, "1")["achievements"] == []
        warnings = [line for line in log_lines(capsys) if line["severity"] == "WARNING"]
        assert {line["message"][:55] for line in warnings} == {
            "The achievements in public.achievements can't be copied"
        }
    owner.run(remedy.format(role))
    with closing(start(url)) as database:
        assert [each["achievement_name"] for each in stats(database, "1")["achievements"]] == ["Collector"]
    start(url)
    assert not capsys.readouterr().out.count("can't be copied")


def test_a_locked_table_is_copied_at_a_later_start(empty_database: str, owner: Connection) -> None:
    owner.run(LEGACY["as it was"])
    with closing(connect(empty_database)) as other:
        other.run("BEGIN; LOCK TABLE achievements IN ACCESS EXCLUSIVE MODE")
        start(empty_database, timeout_s=0.4)
    assert earned(owner, "1") == []
    # What was earned meanwhile stays, and of the two instants the earlier one.
    owner.run(
        "INSERT INTO dropcap.achievements VALUES ('1', 'Starter', '2026-01-01'), ('1', 'new', '2026-01-01')"
    )
    start(empty_database)
    assert earned(owner, "1") == ["Collector", "Collector (2)", "Starter", "new"]


def test_the_logged_statement_ends_the_attempts_to_copy(
    owner: Connection, guest: Guest, capsys: pytest.CaptureFixture[str]
) -> None:
    owner.run(LEGACY["as it was"])
    allow_schema(owner, guest.role)
    start(guest.url)
    [statement] = re.findall(r"COMMENT ON TABLE \S+ IS NULL", capsys.readouterr().out)
    owner.run(statement)
    start(guest.url)
    assert "copied" not in capsys.readouterr().out
