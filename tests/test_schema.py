# ruff: noqa: S608  the SQL is made of this file's own words
"""A fresh worker finds sound tables, or makes them so without losing a row, or says what is to be done."""

import datetime as dt
import json
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pg8000.native import Connection, DatabaseError

from dropcap import rollup, schema
from dropcap.database import Database, connect
from dropcap.errors import SchemaError
from dropcap.gallery import search
from dropcap.progress import stats
from dropcap.settings import Settings
from dropcap.tables import INSTANT, TABLES, Column, Index, Table
from infra.local.postgres import Postgres

ID = "8c3f0e5e-0000-5000-8000-000000000001"
RESULT = {
    "id": ID,
    "user": "ana",
    "analyzed_at": "2026-02-03T04:05:06+00:00",
    "time_zone": "Europe/Madrid",
    "caption": "a crown",
    "description": "A golden crown.",
    "alt_text": "Crown",
    "tags": ["gold", "crown"],
    "text": "REX",
    "picture": {"format": "PNG", "bytes": 12, "width": 3, "height": 4},
}
ROWS = (
    f"INSERT INTO uploads VALUES ('{ID}', 'b', 'ana/x.png', 7, 'ana', 12, 'image/png', 'done', 2, 'h', "
    "'2026-02-03 04:05+00', '2026-02-03 04:05+00', '2026-02-03 04:06+00', 'no_picture', 'why')",
    f"INSERT INTO analyses VALUES ('{ID}', 'ana', '{RESULT['analyzed_at']}', 'Europe/Madrid', 'a crown', "
    f"'A golden crown.', 'Crown', '{{gold,crown}}', 'REX', 'PNG', 12, 3, 4, '{json.dumps(RESULT)}', true, "
    "'my crown', 'My crown', '2026-02-03 04:07+00', true)",
    f"INSERT INTO documents VALUES ('{ID}', 'ana', '{RESULT['analyzed_at']}', '''@ana'' ''golden''')",
    "INSERT INTO vocabulary VALUES ('ana', false, '', 0, '{}')",
    "INSERT INTO progress_totals VALUES ('ana', 1, 'infinity', 'UTC')",
    "INSERT INTO progress_days "
    "SELECT 'ana', at::date, 1, at, 1, at FROM (SELECT analyzed_at FROM analyses) AS analyzed (at)",
    "INSERT INTO progress_hours VALUES ('ana', 5, '2026-02-03 04:05:06+00')",
    "INSERT INTO achievements VALUES ('ana', 'first_picture', '2026-02-03 04:05:06+00')",
    "INSERT INTO analyze_calls VALUES ('ana', '2026-02-03 04:00:00+00', 5)",
)
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


def damages() -> Iterator[Damage]:
    for table in TABLES:
        for column in table.columns:
            yield from column_damages(table, column)
    for table in TABLES:
        yield from table_damages(table)


def column_damages(table: Table, column: Column) -> Iterator[Damage]:
    name, change = f"{table.name}.{column.name}", f"ALTER TABLE {table.name} ALTER COLUMN {column.name}"
    drop = f"ALTER TABLE {table.name} DROP COLUMN {column.name}"
    tells = table.derived or bool(
        column.default or column.null or column.fill or column.name == "achievement_name"
    )
    missing = (name, "is missing", column.type)
    yield Damage(f"{name} dropped", drop, () if tells else missing)
    yield Damage(f"{name} dropped while empty", drop, filled=False)
    rename = f"ALTER TABLE {table.name} RENAME COLUMN {column.name} TO was"
    key = f"{table.name}.was" if tells else name
    yield Damage(f"{name} renamed", rename, (key,) if not tells or column.name in table.key else ())
    if column.type in NARROWER:
        drop_default = f"{change} DROP DEFAULT; " if column.default else ""
        yield Damage(f"{name} narrower", f"{drop_default}{change} TYPE {NARROWER[column.type]}")
    if not (table.checks and column.type == "bigint"):
        wrong = WRONG.get(column.type, "text").format(column.name)
        seen = (name, f"is {wrong.split()[0]}", f"be {column.type}")
        drops = [f"{change} DROP DEFAULT; "] if column.default else []
        drops += [
            f"DROP INDEX {index_name(table, index)}; "
            for index in table.indexes
            if index.where or index.method != "btree"
        ]
        sql = f"{''.join(drops)}{change} TYPE {wrong}"
        yield Damage(f"{name} of a wrong type", sql, () if table.derived else seen)
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
    yield Damage(f"{name} renamed", f"{alter} RENAME TO was")
    yield Damage(
        f"{name} is a view", f"{alter} RENAME TO was; CREATE VIEW {name} AS TABLE was", (name, "a view")
    )
    yield Damage(f"{name} is a sequence", f"DROP TABLE {name}; CREATE SEQUENCE {name}", (name, "a sequence"))
    yield Damage(f"{name} without key", f"{alter} DROP CONSTRAINT {name}_pkey")
    twice = f"{alter} DROP CONSTRAINT {name}_pkey; INSERT INTO {name} TABLE {name}"
    refused = (name, ", ".join(table.key), "unique")
    yield Damage(f"{name} with duplicates", twice, () if table.derived else refused)
    deferred = f"{alter} DROP CONSTRAINT {name}_pkey, ADD UNIQUE ({', '.join(table.key)}) DEFERRABLE"
    yield Damage(f"{name} with a deferrable key", deferred)
    yield Damage(
        f"{name} with a column of others", f"{alter} ADD other text, ADD more integer NOT NULL DEFAULT 1"
    )
    strict = f"{alter} ADD other text NOT NULL DEFAULT 1; {alter} ALTER other DROP DEFAULT"
    yield Damage(f"{name} with a strict column of others", strict)
    refer = f"CREATE TABLE users (id text PRIMARY KEY); INSERT INTO users VALUES ('ana'); {alter} ADD "
    yield Damage(f"{name} bound to users", f"{refer} FOREIGN KEY (user_id) REFERENCES users")
    for wanted in table.indexes:
        columns = ", ".join(wanted.columns)
        index = index_name(table, wanted)
        yield Damage(f"{name} without {index}", f"DROP INDEX {index}")
        on = f"{name} USING {wanted.method} ({columns})"
        other = f"DROP INDEX {index}; CREATE INDEX {index} ON {on} WHERE user_id = 'bob'"
        yield Damage(f"{name} with {index} of other rows", other)
    for rule, text in table.checks:
        yield Damage(f"{name} without {rule}", f"{alter} DROP CONSTRAINT {rule}")
        again = f"{alter} DROP CONSTRAINT {rule}, ADD CONSTRAINT {rule} CHECK ({text}) NOT VALID"
        yield Damage(f"{name} with {rule} never validated", again)
        broken = f"{alter} DROP CONSTRAINT {rule}; UPDATE {name} SET {text.split()[0]} = -1"
        yield Damage(f"{name} against {rule}", broken, (name, rule, text))


@dataclass(frozen=True)
class Here:
    """The product's questions, asked on a connection as it is."""

    connection: Connection

    def query(self, sql: str, **values: Any) -> list[list[Any]]:
        return list(self.connection.run(sql, **values) or ())

    def count(self, user: str) -> None:
        assert rollup.count(self.query, user)


@pytest.fixture(scope="module")
def outside(postgres: Postgres) -> Iterator[Connection]:
    """A connection to a database in which each test has a schema of its own."""
    with closing(connect(postgres.database("damages"))) as connection:
        yield connection


@pytest.fixture
def sound(outside: Connection) -> Iterator[Connection]:
    """The same connection, its current schema a new one that has the tables."""
    name = f'"a schema {uuid.uuid4().hex[:8]}"'
    outside.run(f"CREATE SCHEMA {name}; SET search_path = {name}")
    schema.check(outside)
    yield outside
    outside.run("RESET ROLE; RESET SESSION AUTHORIZATION; RESET default_transaction_read_only")
    outside.run(f"SET client_min_messages = warning; DROP SCHEMA {name} CASCADE")


def contents(connection: Connection) -> dict[str, dict[str, object]]:
    """The rows of all our tables and of `was`, each as JSON, one a table."""
    found = {}
    for table in [*(table.name for table in TABLES), "was"]:
        kind = f"SELECT 1 FROM pg_class WHERE oid = to_regclass('{table}') AND relkind IN ('r', 'v')"
        if connection.run(kind):
            for [row] in connection.run(f"SELECT to_jsonb({table}) FROM {table}"):
                found[table] = row
    return found


def told(row: dict[str, object], damage: Damage) -> dict[str, object]:
    """The row without a lost column that no other tells."""
    name, _, done = damage.name.partition(" ")
    lost = {f"analyses.{column.name}" for table in TABLES for column in table.columns if not column.fill}
    gone = name.partition(".")[2] if name in lost and done in ("dropped", "renamed") else ""
    return {column: value for column, value in row.items() if column != gone}


def found(here: Here, word: str) -> list[str]:
    """The ids of ana's pictures that a search finds."""
    while search.index(here.query, "ana")[1]:
        pass
    asked = search.query(here.query, "ana", word, "")
    return [str(id) for id in search.newest(here.query, "ana", asked.text, 9, "", {})]


@pytest.mark.parametrize("damage", list(damages()), ids=lambda damage: damage.name)
def test_damage_is_repaired_without_losing_a_row_or_refused_with_its_name(
    sound: Connection, damage: Damage
) -> None:
    for statement in ROWS if damage.filled else ():
        sound.run(statement)
    before = contents(sound)
    sound.run("SET TimeZone = 'UTC'")
    sound.run(damage.sql)
    damaged = contents(sound)
    if damage.refused:
        with pytest.raises(SchemaError) as refused:
            schema.check(sound)
        for word in damage.refused:
            assert word in str(refused.value)
        assert "\n" not in str(refused.value)
        assert contents(sound) == damaged
        return
    schema.check(sound)
    after = contents(sound)
    kept = {name: row for name, row in damaged.items() if name not in DERIVED}
    for name, row in kept.items():
        for column, value in row.items():
            assert str(after[name][column]).removesuffix("+00:00") == str(value).removesuffix("+00:00")
    if damage.name.startswith("analyses.") and damage.filled and "result" not in damage.name:
        assert after["analyses"].items() >= told(before["analyses"], damage).items()
    schema.check(sound)
    if "renamed" not in damage.name and "dropped" not in damage.name:
        assert after.keys() - DERIVED == before.keys() - DERIVED
    if damage.filled and damage.name.startswith(("progress_", "analyses.counted")):
        assert stats(Here(sound), "ana", NOW) == PROGRESS
    if damage.filled and damage.name.startswith(("vocabulary", "documents", "analyses.searchable")):
        assert found(Here(sound), "golden") == [ID]


def test_a_sound_schema_costs_one_query(sound: Connection, postgres: Postgres) -> None:
    [[process]] = sound.run("SELECT pg_backend_pid()")
    sound.run("SET log_statement = 'all'")
    before = len(postgres.log.read_text())
    schema.check(sound)
    logged = postgres.log.read_text()[before:]
    sound.run("RESET log_statement")
    assert logged.count(f"[{process}] LOG:  statement:") == 1


def test_what_is_not_ours_is_left_alone(sound: Connection) -> None:
    sound.run("CREATE TABLE visitors (n integer); ALTER TABLE uploads ADD note text")
    sound.run("CREATE INDEX mine ON uploads (note); DROP INDEX analyses_user_id_analyzed_at_idx")
    schema.check(sound)
    assert sound.run("SELECT count(note) FROM uploads, visitors") == [[0]]
    assert sound.run("SELECT to_regclass('mine') IS NOT NULL") == [[True]]


def test_an_index_that_does_more_than_ours_will_do(sound: Connection) -> None:
    sound.run(
        "DROP INDEX analyses_user_id_analyzed_at_idx; CREATE INDEX i ON analyses (user_id, analyzed_at, id)"
    )
    made = "SELECT count(*) FROM pg_index WHERE indrelid = 'analyses'::regclass"
    before = sound.run(made)
    schema.check(sound)
    assert sound.run(made) == before


def test_an_index_of_another_method_is_not_taken_for_ours(sound: Connection) -> None:
    sound.run(
        "DROP INDEX documents_document_idx; CREATE INDEX documents_document_idx ON documents (document)"
    )
    schema.check(sound)
    methods = (
        "SELECT amname FROM pg_index JOIN pg_class c ON c.oid = indexrelid JOIN pg_am m ON m.oid = relam "
        "WHERE indrelid = 'documents'::regclass AND relname LIKE 'documents_document%' ORDER BY 1"
    )
    assert sound.run(methods) == [["btree"], ["gin"]]


def test_what_is_derived_is_emptied_with_what_it_came_from_and_nothing_else_is(sound: Connection) -> None:
    for statement in ROWS:
        sound.run(statement)
    rows = "SELECT (SELECT count(*) FROM progress_totals), (SELECT count(*) FROM vocabulary)"
    for damage, left in (
        ("DROP TABLE vocabulary", [1, 0]),
        ("ALTER TABLE analyses DROP COLUMN counted", [0, 1]),
        ("ALTER TABLE analyses DROP COLUMN searchable", [1, 0]),
        ("DROP TABLE documents", [1, 0]),
    ):
        sound.run(damage)
        schema.check(sound)
        assert sound.run(rows) == [left], damage
        sound.run("INSERT INTO vocabulary VALUES ('ana', false, '', 0, '{}') ON CONFLICT DO NOTHING")
        sound.run("INSERT INTO progress_totals VALUES ('ana', 1, 'infinity', 'UTC') ON CONFLICT DO NOTHING")


@pytest.fixture
def guest(sound: Connection) -> Iterator[str]:
    """A role that owns nothing but may use the schema."""
    role = f"guest_{uuid.uuid4().hex[:8]}"
    [[name]] = sound.run("SELECT quote_ident(current_schema())")
    sound.run(f"CREATE ROLE {role}; GRANT USAGE ON SCHEMA {name} TO {role}")
    sound.run(f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {name} TO {role}")
    yield role
    sound.run(f"RESET SESSION AUTHORIZATION; DROP OWNED BY {role}; DROP ROLE {role}")


def test_a_role_that_owns_nothing_can_use_a_sound_schema(sound: Connection, guest: str) -> None:
    sound.run(f"SET SESSION AUTHORIZATION {guest}")
    schema.check(sound)


def test_a_missing_privilege_is_named(sound: Connection, guest: str) -> None:
    sound.run(f"REVOKE INSERT ON analyses FROM {guest}; SET SESSION AUTHORIZATION {guest}")
    with pytest.raises(SchemaError, match=r"analyses does not allow us INSERT.*GRANT"):
        schema.check(sound)


def test_a_repair_that_another_owner_must_make_is_spelled_out(sound: Connection, guest: str) -> None:
    sound.run(f"ALTER TABLE analyses ALTER caption DROP DEFAULT; SET SESSION AUTHORIZATION {guest}")
    with pytest.raises(SchemaError, match=r"analyses.caption.*must be owner of table analyses.*SET DEFAULT"):
        schema.check(sound)


def test_a_table_that_may_not_be_made_is_named(sound: Connection, guest: str) -> None:
    sound.run(f"DROP TABLE analyses; SET SESSION AUTHORIZATION {guest}")
    with pytest.raises(SchemaError, match=r"analyses is missing.*permission denied.*CREATE TABLE"):
        schema.check(sound)


def test_a_read_only_database_is_refused(sound: Connection) -> None:
    sound.run("SET default_transaction_read_only = on")
    with pytest.raises(SchemaError, match="is read-only"):
        schema.check(sound)


def test_a_search_path_without_a_schema_is_refused(sound: Connection) -> None:
    [[name]] = sound.run("SELECT quote_ident(current_schema())")
    sound.run("SET search_path = nowhere")
    with pytest.raises(SchemaError, match="search_path"):
        schema.check(sound)
    sound.run(f"SET search_path = {name}")


def test_a_table_that_somebody_holds_is_a_passing_fault(sound: Connection, postgres: Postgres) -> None:
    sound.run("ALTER TABLE analyses ALTER caption DROP DEFAULT")
    [[name]] = sound.run("SELECT quote_ident(current_schema())")
    with closing(connect(postgres.database("damages"))) as other:
        other.run(f"BEGIN; LOCK TABLE {name}.analyses")
        with pytest.raises(DatabaseError) as refused:
            schema.check(sound, timeout_s=0.2)
    assert refused.value.args[0]["C"] == "55P03"
    schema.check(sound)


@contextmanager
def writing(sound: Connection, postgres: Postgres) -> Iterator[Connection]:
    """Another connection, in the middle of a transaction that has written to `analyses`."""
    [[name]] = sound.run("SELECT quote_ident(current_schema())")
    with closing(connect(postgres.database("damages"))) as other:
        other.run(f"SET search_path = {name}; BEGIN")
        other.run(
            "INSERT INTO analyses (id, user_id, analyzed_at, result) VALUES (:id, '', now(), '{}')", id=ID
        )
        yield other


def test_indexes_come_last_when_all_else_is_repaired_and_one_by_one(
    sound: Connection, postgres: Postgres
) -> None:
    sound.run("DROP INDEX analyses_user_id_analyzed_at_idx, uploads_created_at_idx")
    sound.run("ALTER TABLE uploads ALTER size DROP DEFAULT")
    with writing(sound, postgres), pytest.raises(DatabaseError) as refused:
        schema.check(sound, timeout_s=0.2)
    assert refused.value.args[0]["C"] == "55P03"
    sound.run(
        "INSERT INTO uploads (id, bucket, name, generation, user_id) VALUES (:id, '', '', 0, '')", id=ID
    )
    made = "SELECT to_regclass('uploads_created_at_idx'), to_regclass('analyses_user_id_analyzed_at_idx')"
    assert sound.run(made) == [["uploads_created_at_idx", None]]
    schema.check(sound)
    assert sound.run(made) == [["uploads_created_at_idx", "analyses_user_id_analyzed_at_idx"]]


def test_an_index_that_takes_too_long_is_spelled_out_for_a_person(
    sound: Connection, postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    sound.run("DROP INDEX analyses_user_id_idx")
    monkeypatch.setattr(schema, "REPAIR_S", 0.3)
    said = r"CREATE INDEX CONCURRENTLY ON .*analyses \(user_id\) WHERE \(NOT"
    with writing(sound, postgres), pytest.raises(SchemaError, match=said):
        schema.check(sound)


def test_who_comes_while_another_repairs_waits_for_it_longer_than_for_a_table(
    sound: Connection, postgres: Postgres
) -> None:
    sound.run("ALTER TABLE uploads ALTER size DROP DEFAULT")
    with closing(connect(postgres.database("damages"))) as other, ThreadPoolExecutor(1) as pool:
        other.run(f"BEGIN; SELECT pg_advisory_xact_lock({schema.LOCK})")
        repaired = pool.submit(schema.check, sound, 0.1)
        time.sleep(0.4)
        assert not repaired.done()
        other.run("COMMIT")
        repaired.result()


def test_a_new_column_that_is_the_same_for_all_rows_rewrites_none(sound: Connection) -> None:
    for statement in ROWS:
        sound.run(statement)
    sound.run("ALTER TABLE analyses DROP COLUMN counted")
    file = "SELECT pg_relation_filenode('analyses')"
    before = sound.run(file)
    schema.check(sound)
    assert sound.run("SELECT counted FROM analyses") == [[True]]
    sound.run(
        "INSERT INTO analyses (id, user_id, analyzed_at, result) VALUES (gen_random_uuid(), '', now(), '{}')"
    )
    assert sound.run("SELECT counted FROM analyses ORDER BY 1") == [[False], [True]]
    assert sound.run(file) == before


ANCESTORS = {
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


@pytest.mark.parametrize("ancestor", ANCESTORS.values(), ids=ANCESTORS)
def test_the_old_web_apps_achievements_are_kept_and_progress_works_right_after(
    empty_database: str, ancestor: str
) -> None:
    with closing(connect(empty_database)) as outside:
        outside.run(ancestor)
    with closing(Database(Settings(database_url=empty_database))) as database:
        earned = stats(database, "1")["achievements"]
        assert [each["achievement_name"] for each in earned] == ["Collector", "Collector (2)", "Starter"]
        assert earned[0]["earned_at"] == "2020-05-01T10:00:00+00:00"
        assert [each["achievement_name"] for each in stats(database, "2")["achievements"]] == ["Collector"]
        database.query("INSERT INTO achievements (user_id, achievement_name) VALUES ('ana', 'x') RETURNING 1")


def test_an_old_table_without_any_name_keeps_its_rows_and_shows_none_without_a_name(
    empty_database: str,
) -> None:
    with closing(connect(empty_database)) as outside:
        outside.run("CREATE TABLE achievements (id serial, user_id integer, points integer)")
        outside.run("INSERT INTO achievements (user_id, points) VALUES (1, 5), (1, 6), (NULL, 7)")
    with closing(Database(Settings(database_url=empty_database))) as database:
        assert stats(database, "1")["achievements"] == []
        rows = database.query("SELECT user_id, points FROM achievements ORDER BY points")
    assert rows == [["1", 5], ["1", 6], ["anonymous", 7]]


COLD_START = """
import sys
from dropcap.database import Database
from dropcap.settings import Settings
print("ready", flush=True)
for url in sys.stdin.readline().split():
    Database(Settings(database_url=url)).prepare()
"""


def test_ten_cold_starts_at_once_change_an_empty_and_an_old_database_once(
    postgres: Postgres, empty_database: str
) -> None:
    old = postgres.database(f"old_{uuid.uuid4().hex}")
    count = """
        CREATE TABLE ddl (tag text);
        CREATE FUNCTION note() RETURNS event_trigger LANGUAGE plpgsql AS
          $$BEGIN INSERT INTO ddl VALUES (tg_tag); END$$;
        CREATE EVENT TRIGGER note ON ddl_command_end EXECUTE FUNCTION note();
    """
    for url in (empty_database, old):
        with closing(connect(url)) as outside:
            outside.run(ANCESTORS["as it was"] if url == old else "SELECT 1")
            outside.run(count)
    functions = Path(schema.__file__).parent.parent
    starts = [
        subprocess.Popen(
            [sys.executable, "-c", COLD_START],
            cwd=functions,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(10)
    ]
    for start in starts:
        assert start.stdout is not None
        assert start.stdout.readline() == "ready\n"
    for start in starts:
        assert start.stdin is not None
        start.stdin.write(f"{empty_database} {old}\n")
        start.stdin.flush()
    for start in starts:
        _, errors = start.communicate(timeout=60)
        assert start.returncode == 0, errors
    made = {}
    for url in (empty_database, old):
        with closing(connect(url)) as outside:
            made[url] = dict(outside.run("SELECT tag, count(*) FROM ddl GROUP BY tag"))
    indexes = sum(len(table.indexes) for table in TABLES)
    assert made[empty_database] == {"CREATE TABLE": len(TABLES), "CREATE INDEX": indexes}
    assert made[old]["CREATE TABLE"] == len(TABLES) - 1
    with closing(connect(old)) as outside:
        assert outside.run("SELECT count(*) FROM achievements") == [[4]]
    with closing(connect(postgres.url)) as outside:
        outside.run(f"DROP DATABASE {old.rsplit('/', 1)[1]} WITH (FORCE)")
