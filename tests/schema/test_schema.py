"""A cold start checks the schema with one query, and repairs it if needed."""

import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from pg8000.native import Connection, DatabaseError

from dropcap.database.connection import connect, connect_to_schema
from dropcap.database.schema import repair
from dropcap.database.schema.tables import TABLES
from dropcap.errors import SchemaError
from infra.local.postgres import Postgres
from tests.schema.test_legacy import LEGACY
from tests.support.app import log_lines
from tests.support.database.schemas import ID, ROWS, check


def test_a_sound_schema_costs_one_query(sound: Connection, postgres: Postgres) -> None:
    [[process, name]] = sound.run("SELECT pg_backend_pid(), current_schema()")
    sound.run("SET log_statement = 'all'")
    before = len(postgres.log.read_text())
    repair.check(sound, name)
    logged = postgres.log.read_text()[before:]
    sound.run("RESET log_statement")
    assert logged.count(f"[{process}] LOG:  statement:") == 1


def test_tables_columns_and_indexes_of_others_are_left_alone(sound: Connection) -> None:
    sound.run("CREATE TABLE visitors (n integer); ALTER TABLE uploads ADD note text")
    sound.run("CREATE INDEX mine ON uploads (note); DROP INDEX analyses_user_id_analyzed_at_idx")
    check(sound)
    assert sound.run("SELECT count(note) FROM uploads, visitors") == [[0]]
    assert sound.run("SELECT to_regclass('mine') IS NOT NULL") == [[True]]


def test_an_index_with_more_columns_than_ours_is_sufficient(sound: Connection) -> None:
    sound.run(
        "DROP INDEX analyses_user_id_analyzed_at_idx; CREATE INDEX i ON analyses (user_id, analyzed_at, id)"
    )
    made = "SELECT count(*) FROM pg_index WHERE indrelid = 'analyses'::regclass"
    before = sound.run(made)
    check(sound)
    assert sound.run(made) == before


def test_an_index_of_another_method_is_not_sufficient(sound: Connection) -> None:
    sound.run(
        "DROP INDEX documents_document_idx; CREATE INDEX documents_document_idx ON documents (document)"
    )
    check(sound)
    methods = (
        "SELECT amname FROM pg_index JOIN pg_class c ON c.oid = indexrelid JOIN pg_am m ON m.oid = relam "
        "WHERE indrelid = 'documents'::regclass AND relname LIKE 'documents_document%' ORDER BY 1"
    )
    assert sound.run(methods) == [["btree"], ["gin"]]


def test_derived_tables_are_emptied_with_their_source_and_no_others(
    sound: Connection, capsys: pytest.CaptureFixture[str]
) -> None:
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
        capsys.readouterr()
        check(sound)
        logged = log_lines(capsys)
        severities = [line["severity"] for line in logged if "; emptied, to be rebuilt: " in line["message"]]
        assert severities == (["WARNING"] if damage != "DROP TABLE vocabulary" else []), damage
        assert sound.run(rows) == [left], damage
        sound.run("INSERT INTO vocabulary VALUES ('ana', false, '', 0, '{}') ON CONFLICT DO NOTHING")
        sound.run("INSERT INTO progress_totals VALUES ('ana', 1, 'infinity', 'UTC') ON CONFLICT DO NOTHING")


@pytest.mark.parametrize(
    ("user", "damage"),
    [
        ("CREATE TABLE notes (of uuid REFERENCES documents)", "ALTER TABLE documents DROP COLUMN document"),
        (
            "CREATE VIEW notes AS SELECT day FROM progress_days",
            "ALTER TABLE progress_days ALTER day TYPE text",
        ),
    ],
    ids=["a key", "a view"],
)
def test_objects_that_depend_on_a_derived_table_stop_its_repair_and_are_named(
    sound: Connection, user: str, damage: str
) -> None:
    for statement in ROWS:
        sound.run(statement)
    if "VIEW" in user:
        sound.run(damage)
    sound.run(user)
    if "VIEW" not in user:
        sound.run(damage)
    before = sound.run("SELECT * FROM notes")
    with pytest.raises(SchemaError, match=r"PostgreSQL refused the repair \(cannot .*notes"):
        check(sound)
    assert sound.run("SELECT * FROM notes") == before


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
    check(sound)


def test_a_missing_privilege_is_named(sound: Connection, guest: str) -> None:
    sound.run(f"REVOKE INSERT ON analyses FROM {guest}; SET SESSION AUTHORIZATION {guest}")
    with pytest.raises(SchemaError, match=r"analyses does not allow us INSERT.*GRANT"):
        check(sound)


def test_a_repair_that_another_owner_must_make_has_its_statement(sound: Connection, guest: str) -> None:
    sound.run(f"ALTER TABLE analyses ALTER caption DROP DEFAULT; SET SESSION AUTHORIZATION {guest}")
    with pytest.raises(SchemaError, match=r"analyses.caption.*must be owner of table analyses.*SET DEFAULT"):
        check(sound)


def test_a_missing_right_to_create_a_table_has_its_statement(sound: Connection, guest: str) -> None:
    sound.run(f"DROP TABLE analyses; SET SESSION AUTHORIZATION {guest}")
    with pytest.raises(SchemaError, match=rf"analyses is missing.*permission denied.*: GRANT .* TO {guest}$"):
        check(sound)


def test_a_read_only_database_is_refused(sound: Connection) -> None:
    sound.run("SET default_transaction_read_only = on")
    with pytest.raises(SchemaError, match="is read-only"):
        check(sound)


def test_the_search_path_of_the_session_is_ignored(sound: Connection) -> None:
    [[name]] = sound.run("SELECT current_schema()")
    sound.run("ALTER TABLE uploads ALTER size DROP DEFAULT; SET search_path = nowhere")
    repair.check(sound, name)
    sound.run(f'SET search_path = "{name}"')
    sound.run(
        "INSERT INTO uploads (id, bucket, name, generation, user_id) VALUES (:id, '', '', 0, '')", id=ID
    )
    assert sound.run("SELECT size FROM uploads") == [[0]]


def test_a_locked_table_is_a_transient_error(sound: Connection, postgres: Postgres) -> None:
    sound.run("ALTER TABLE analyses ALTER caption DROP DEFAULT")
    [[name]] = sound.run("SELECT quote_ident(current_schema())")
    with closing(connect(postgres.database("damages"))) as other:
        other.run(f"BEGIN; LOCK TABLE {name}.analyses")
        with pytest.raises(DatabaseError) as refused:
            check(sound, timeout_s=0.2)
    assert refused.value.args[0]["C"] == "55P03"
    check(sound)


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


def test_indexes_are_created_last_one_transaction_each(sound: Connection, postgres: Postgres) -> None:
    sound.run("DROP INDEX analyses_user_id_analyzed_at_idx, uploads_created_at_idx")
    sound.run("ALTER TABLE uploads ALTER size DROP DEFAULT")
    with writing(sound, postgres), pytest.raises(DatabaseError) as refused:
        check(sound, timeout_s=0.2)
    assert refused.value.args[0]["C"] == "55P03"
    sound.run(
        "INSERT INTO uploads (id, bucket, name, generation, user_id) VALUES (:id, '', '', 0, '')", id=ID
    )
    made = "SELECT to_regclass('uploads_created_at_idx'), to_regclass('analyses_user_id_analyzed_at_idx')"
    assert sound.run(made) == [["uploads_created_at_idx", None]]
    check(sound)
    assert sound.run(made) == [["uploads_created_at_idx", "analyses_user_id_analyzed_at_idx"]]


def test_an_index_that_takes_too_long_has_a_statement_for_a_person(
    sound: Connection, postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    sound.run("DROP INDEX analyses_user_id_idx")
    monkeypatch.setattr(repair, "REPAIR_S", 0.3)
    statement = r"CREATE INDEX CONCURRENTLY ON .*analyses \(user_id\) WHERE \(NOT"
    with writing(sound, postgres), pytest.raises(SchemaError, match=statement):
        check(sound)


def test_a_cold_start_waits_for_another_repair_longer_than_for_a_table(
    sound: Connection, postgres: Postgres
) -> None:
    sound.run("ALTER TABLE uploads ALTER size DROP DEFAULT")
    with closing(connect(postgres.database("damages"))) as other, ThreadPoolExecutor(1) as pool:
        other.run(f"BEGIN; SELECT pg_advisory_xact_lock({repair.LOCK})")
        repaired = pool.submit(check, sound, 0.1)
        time.sleep(0.4)
        assert not repaired.done()
        other.run("COMMIT")
        repaired.result()


def test_a_new_column_with_a_constant_rewrites_no_row(sound: Connection) -> None:
    for statement in ROWS:
        sound.run(statement)
    sound.run("ALTER TABLE analyses DROP COLUMN counted")
    file = "SELECT pg_relation_filenode('analyses')"
    before = sound.run(file)
    check(sound)
    assert sound.run("SELECT counted FROM analyses") == [[True]]
    sound.run(
        "INSERT INTO analyses (id, user_id, analyzed_at, result) VALUES (gen_random_uuid(), '', now(), '{}')"
    )
    assert sound.run("SELECT counted FROM analyses ORDER BY 1") == [[False], [True]]
    assert sound.run(file) == before


COLD_START = """
import sys
from dropcap.database.transactions import Database
from dropcap.settings import Settings
print("ready", flush=True)
for url in sys.stdin.readline().split():
    Database(Settings(database_url=url)).prepare()
"""


def test_ten_concurrent_cold_starts_change_an_empty_and_an_old_database_once(
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
            outside.run(LEGACY["as it was"] if url == old else "SELECT 1")
            outside.run(count)
    functions = Path(repair.__file__).parents[3]
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
    # COMMENT: the mark of the schema; that the old achievements are to be copied, and that they are.
    once = {"CREATE SCHEMA": 1, "COMMENT": 3, "CREATE TABLE": len(TABLES), "CREATE INDEX": indexes}
    assert made == {empty_database: once, old: once}
    with closing(connect_to_schema(old)) as outside:
        assert outside.run("SELECT count(*) FROM achievements") == [[4]]
    with closing(connect(postgres.url)) as outside:
        outside.run(f"DROP DATABASE {old.rsplit('/', 1)[1]} WITH (FORCE)")
