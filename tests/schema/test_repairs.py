"""What a cold start leaves alone, and how its repairs run: limits, transactions, connections, the log."""

import logging
from contextlib import closing

import pytest
from pg8000.native import Connection, DatabaseError

from dropcap import logs
from dropcap.database.connection import connect
from dropcap.database.schema import diff, repair
from dropcap.database.schema.tables import Column
from dropcap.errors import SchemaError
from dropcap.settings import SCHEMA
from infra.local.postgres import Postgres
from tests.support.database.installations import installed, start
from tests.support.database.schemas import ROWS, check, shape

KEY = (
    "SELECT pg_get_constraintdef(oid) FROM pg_constraint "
    "WHERE conrelid = 'uploads'::regclass AND contype IN ('p', 'u') ORDER BY 1"
)


@pytest.mark.parametrize(
    "change",
    [
        "CREATE TABLE mine (n bigint PRIMARY KEY); ALTER TABLE uploads ADD mine bigint REFERENCES mine",
        "ALTER TABLE uploads ADD mine bigint UNIQUE DEFERRABLE",
        "ALTER TABLE uploads ADD mine bigint GENERATED ALWAYS AS IDENTITY",
        "ALTER TABLE uploads ADD mine bigint NOT NULL GENERATED ALWAYS AS (size + 1) STORED",
        "ALTER TABLE uploads ADD mine bigint NOT NULL DEFAULT 0",
        "ALTER TABLE uploads ADD mine bigint",
        "ALTER TABLE uploads ADD CONSTRAINT mine CHECK (size >= 0)",
        "CREATE UNIQUE INDEX mine ON uploads (bucket, name, generation) WHERE bucket <> ''",
        "CREATE TABLE mine (id uuid REFERENCES uploads)",
    ],
)
def test_additions_that_accept_our_rows_are_no_difference(sound: Connection, change: str) -> None:
    sound.run(change)
    before = shape(sound)
    [[name]] = sound.run("SELECT current_schema()")
    assert diff.find(sound, name, "") == []
    check(sound)
    assert shape(sound) == before


@pytest.mark.parametrize(
    ("change", "keys"),
    [
        ("CREATE UNIQUE INDEX mine ON uploads (id) WHERE size > 0", ["PRIMARY KEY (id)"]),
        ("CREATE INDEX mine ON uploads (id)", ["PRIMARY KEY (id)"]),
        ("CREATE UNIQUE INDEX mine ON uploads (id, size)", ["PRIMARY KEY (id)"]),
        ("ALTER TABLE uploads ADD PRIMARY KEY (id, size)", ["PRIMARY KEY (id, size)", "UNIQUE (id)"]),
        ("CREATE UNIQUE INDEX mine ON uploads (id)", []),
    ],
)
def test_only_a_unique_index_on_all_rows_is_a_key(sound: Connection, change: str, keys: list[str]) -> None:
    sound.run(f"ALTER TABLE uploads DROP CONSTRAINT uploads_pkey; {change}")
    check(sound)
    assert [key for [key] in sound.run(KEY)] == keys


def test_a_key_is_added_without_emptying_and_a_derived_table_is_emptied(sound: Connection) -> None:
    for statement in ROWS:
        sound.run(statement)
    for table in ("uploads", "documents"):
        sound.run(f"ALTER TABLE {table} DROP CONSTRAINT {table}_pkey")
    check(sound)
    assert sound.run("SELECT (SELECT count(*) FROM uploads), (SELECT count(*) FROM documents)") == [[1, 0]]


def test_a_missing_column_is_filled_if_all_its_sources_are_there() -> None:
    filled = Column("c", "text", "''::text", fill="concat(a, b)", source=("a", "b"))
    for present in ({"a", "b"}, {"a", "b", "d"}):
        repairs = diff._missing_column("t", filled, present).repair
        assert repairs == (
            "ALTER TABLE t ADD COLUMN c text",
            "UPDATE t SET c = coalesce(concat(a, b), ''::text)",
        )
    constant = ("ALTER TABLE t ADD COLUMN c text DEFAULT ''::text NOT NULL",)
    assert diff._missing_column("t", filled, {"a"}).repair == constant


def test_every_revision_uses_the_same_advisory_lock() -> None:
    assert int.from_bytes(b"Dropcap", "big") == repair.LOCK


def test_statements_and_waits_for_locks_are_limited_in_milliseconds() -> None:
    limits = repair._limits(200.0, 0.25)
    assert "SET LOCAL statement_timeout = 200000; SET LOCAL lock_timeout = 125;" in limits
    assert "lock_timeout = 1;" in repair._limits(200.0, 0.0001)  # 0 would be no limit
    assert "statement_timeout = 2;" in repair._limits(0.0015, 1)


def test_a_repair_uses_a_patient_connection_and_closes_it(sound: Connection, postgres: Postgres) -> None:
    opened: list[Connection] = []

    def patient() -> Connection:
        opened.append(connect(postgres.database("damages")))
        return opened[-1]

    [[name]] = sound.run("SELECT current_schema()")
    repair.check(sound, name, 10, patient)
    assert opened == []  # a sound schema needs none
    sound.run("ALTER TABLE uploads ALTER size DROP DEFAULT; DROP INDEX uploads_created_at_idx")
    before = shape(sound)
    repair.check(sound, name, 10, patient)
    assert len(shape(sound) - before) == 2
    [other] = opened
    with pytest.raises(Exception, match="closed"):
        other.run("SELECT 1")


@pytest.mark.parametrize(
    ("damage", "error"),
    [
        ("ALTER TABLE uploads ALTER size DROP DEFAULT, ALTER size TYPE text", "No safe repair is known"),
        ("ALTER TABLE uploads ALTER rss_mb DROP NOT NULL; INSERT INTO uploads (id, bucket, name, generation, "
         "user_id, rss_mb) VALUES (gen_random_uuid(), '', '', 0, '', NULL)", "PostgreSQL refused"),
    ],
    ids=["before the database is asked", "by the database"],
)  # fmt: skip
def test_a_refused_repair_is_rolled_back_and_the_connection_is_usable(
    sound: Connection, damage: str, error: str
) -> None:
    sound.run(f"{damage}; ALTER TABLE analyses ALTER caption DROP DEFAULT")
    before = shape(sound)
    with pytest.raises(SchemaError, match=error):
        check(sound)
    assert sound.run("SELECT pg_current_xact_id_if_assigned() IS NULL") == [[True]]
    assert sound.run("SHOW lock_timeout") == [["0"]]  # SET LOCAL has ended
    assert sound.run(
        "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()"
    ) == [[0]]
    assert shape(sound) == before


def test_a_repair_that_achieves_nothing_ends(sound: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    sound.run("ALTER TABLE uploads ALTER size DROP DEFAULT")
    monkeypatch.setattr(repair, "_apply", lambda *_: None)
    with pytest.raises(SchemaError, match=r"uploads.size has no default.*did not achieve"):
        check(sound)


def test_each_repair_is_logged_once(sound: Connection, caplog: pytest.LogCaptureFixture) -> None:
    for statement in ROWS:
        sound.run(statement)
    sound.run("DROP INDEX uploads_created_at_idx, analyses_user_id_idx; DROP TABLE progress_days, events")
    with caplog.at_level(logging.DEBUG, repair.__name__):
        check(sound)
    logged = [(each.levelname, each.getMessage().split("; ")[0].split(" (")[0]) for each in caplog.records]
    assert {vars(each)["event"] for each in caplog.records} == {"schema_changed"}
    assert len(set(logged)) == len(logged)
    found = sorted((level, message.split('."')[-1].split(".")[-1]) for level, message in logged)
    assert [level for level, _ in found] == ["INFO", "WARNING", "WARNING", "WARNING"]
    emptied = [
        each.getMessage() for each in caplog.records if "; emptied, to be rebuilt: " in each.getMessage()
    ]
    assert len(emptied) == 1
    assert "progress_days is missing" in emptied[0]


def test_results_beside_ours_are_logged_once(
    empty_database: str, owner: Connection, caplog: pytest.LogCaptureFixture
) -> None:
    installed(empty_database, owner)
    start(empty_database).close()
    owner.run("DROP VIEW public.uploads")
    owner.run("CREATE TABLE public.analyses (LIKE dropcap.analyses INCLUDING ALL)")
    owner.run("CREATE TABLE public.documents (LIKE dropcap.documents INCLUDING ALL)")
    logs.once.cache_clear() if hasattr(logs.once, "cache_clear") else None
    with caplog.at_level(logging.WARNING, diff.__name__):
        start(empty_database).close()
    duplicates = [each for each in caplog.records if vars(each).get("event") == "duplicate_tables_found"]
    assert [each.getMessage().partition(",")[0] for each in duplicates] == [
        f"Table public.analyses is Dropcap's and so is {SCHEMA}.analyses"
    ]


def test_results_of_another_app_are_not_logged(
    empty_database: str, owner: Connection, caplog: pytest.LogCaptureFixture
) -> None:
    owner.run("CREATE TABLE public.analyses (n integer)")
    with caplog.at_level(logging.WARNING, diff.__name__):
        start(empty_database).close()
        start(empty_database).close()
    assert not [each for each in caplog.records if vars(each).get("event") == "duplicate_tables_found"]


def test_a_transient_error_is_passed_on_and_rolled_back(sound: Connection, postgres: Postgres) -> None:
    sound.run("ALTER TABLE analyses ALTER caption DROP DEFAULT")
    [[name]] = sound.run("SELECT quote_ident(current_schema())")
    with closing(connect(postgres.database("damages"))) as other:
        other.run(f"BEGIN; LOCK TABLE {name}.analyses")
        with pytest.raises(DatabaseError):
            check(sound, timeout_s=0.1)
    assert sound.run("SHOW lock_timeout") == [["0"]]
