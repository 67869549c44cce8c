"""Transactions: atomic, idempotent, safe for any text, and resilient to restarts and schema changes."""

import json
import re
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from dropcap.database import connection
from dropcap.database.analyses import Analyses
from dropcap.database.connection import DatabaseUnavailable, connect_to_schema
from dropcap.database.leases import Leases
from dropcap.database.progress import stats
from dropcap.database.schema import repair
from dropcap.database.schema.ownership import mark
from dropcap.database.transactions import Database
from dropcap.domain.analysis import PictureFacts
from dropcap.domain.upload import Upload
from dropcap.errors import SchemaError, SettingsError
from dropcap.settings import SCHEMA, Settings
from infra.local.postgres import Postgres
from tests.support.database.uploads import RACERS, analysis, race, record, upload


def test_a_result_is_read_as_it_was_recorded(database: Database, analyses: Analyses) -> None:
    madrid = upload(metadata={"tz": "Europe/Madrid"})
    assert record(database, madrid)
    assert analyses.result(madrid.id) == json.loads(json.dumps(analysis(madrid).to_json()))
    assert analyses.result(uuid.uuid4()) is None


def test_a_result_recorded_twice_is_stored_and_counted_once(
    database: Database, leases: Leases, analyses: Analyses
) -> None:
    lease = leases.acquire(upload())
    for _ in range(2):
        assert analyses.record(analysis(upload()), upload(), lease.token)
    assert database.query("SELECT count(*) FROM analyses") == [[1]]
    assert stats(database, "ana")["pictures_analyzed"] == 1
    assert database.query("SELECT user_id, achievement_name FROM achievements") == [["ana", "first_picture"]]


def test_a_failed_transaction_changes_nothing(database: Database, leases: Leases, analyses: Analyses) -> None:
    lease = leases.acquire(upload())
    impossible = analysis(upload(), picture=PictureFacts("PNG", 12, -1, 4, "pillow"))
    with pytest.raises(DatabaseUnavailable, match="analyses_picture"):
        analyses.record(impossible, upload(), lease.token)
    assert database.query("SELECT state FROM uploads") == [["claimed"]]
    assert database.query("SELECT count(*) FROM achievements") == [[0]]
    assert analyses.record(analysis(upload()), upload(), lease.token)


def test_concurrent_results_of_one_user_are_all_counted(database: Database, database_url: str) -> None:
    recorded = race(database_url, lambda racer, n: record(racer, upload(f"ana/{n}.png")))
    assert all(recorded)
    earned = database.query("SELECT achievement_name FROM achievements ORDER BY 1")
    assert earned == [["first_picture"], ["ten_pictures"]]


def test_threads_share_the_connections(database: Database) -> None:
    with ThreadPoolExecutor(RACERS) as pool:
        assert all(pool.map(lambda n: record(database, upload(f"ana/{n}.png")), range(RACERS)))
    assert stats(database, "ana")["pictures_analyzed"] == RACERS


@pytest.mark.parametrize(
    "text", ["nul\x00nul", "half\ud800", "'; DROP TABLE uploads; --", "\\', :name $1 %s", "🎉" * 250]
)
def test_hostile_text_is_stored_or_replaced_but_never_run(
    database: Database, text: str, analyses: Analyses
) -> None:
    hostile = Upload("uploads", f"ana/{text}" if text.isprintable() else f"ana/{text!r}\x00", 1, 12)
    assert record(database, hostile, caption=text, tags=(text,), text=text, upload={"name": text})
    plain = re.sub("[\x00\ud800]", "\ufffd", text)
    assert database.query("SELECT caption, tags FROM analyses") == [[plain, [plain]]]
    result = analyses.result(hostile.id)
    assert result is not None
    assert (result["text"], result["upload"]["name"]) == (plain, plain)
    assert database.query("SELECT name FROM uploads") == [[hostile.name.replace("\x00", "\ufffd")]]


def test_an_upload_with_a_time_zone_unknown_to_postgresql_is_counted(database: Database) -> None:
    assert record(database, upload(), time_zone="Mars/Olympus_Mons")
    assert database.query("SELECT time_zone FROM analyses") == [[None]]
    assert stats(database, "ana")["pictures_analyzed"] == 1


def test_a_time_zone_setting_unknown_to_postgresql_is_refused_by_name(database_url: str) -> None:
    settings = Settings(database_url=database_url, time_zone="Mars/Olympus_Mons")
    with (
        closing(Database(settings)) as database,
        pytest.raises(SettingsError, match="TIME_ZONE='Mars/Olympus_Mons'"),
    ):
        Leases(database).acquire(upload())


@pytest.mark.parametrize(
    "damage",
    [
        "ALTER TABLE analyses DROP COLUMN caption",
        "ALTER TABLE uploads DROP COLUMN reason_code",
        "ALTER TABLE uploads DROP CONSTRAINT uploads_pkey",
        "DROP TABLE achievements",
        "ALTER TABLE achievements DROP COLUMN achievement_name",
        "ALTER TABLE analyses DROP COLUMN counted",
        "DROP TABLE progress_totals",
        "DROP TABLE progress_days",
        "ALTER TABLE progress_hours DROP CONSTRAINT progress_hours_pkey",
    ],
)
def test_a_running_instance_repairs_its_schema(database: Database, database_url: str, damage: str) -> None:
    assert record(database, upload("ana/before.png"))
    with closing(connect_to_schema(database_url)) as outside:
        outside.run(damage)
    assert stats(database, "ana")["pictures_analyzed"] == 1
    assert record(database, upload("ana/after.png"))
    assert database.query("SELECT caption FROM analyses") == [["a crown"], ["a crown"]]


def test_this_revision_works_on_a_later_schema(database_url: str) -> None:
    with closing(connect_to_schema(database_url)) as outside:
        outside.run("ALTER TABLE uploads ADD sha256 text, ADD priority integer NOT NULL DEFAULT 0")
        outside.run(
            "ALTER TABLE analyses ADD agreement real; CREATE TABLE albums (id uuid REFERENCES uploads)"
        )
    with closing(Database(Settings(database_url=database_url))) as older:
        assert record(older, upload())
        Leases(older).finish(upload())
        assert stats(older, "ana")["pictures_analyzed"] == 1


def test_a_stopped_server_is_a_transient_error_and_a_restarted_one_is_used_again(tmp_path: Path) -> None:
    with (
        Postgres(tmp_path) as server,
        closing(Database(Settings(database_url=server.database("restarted")))) as database,
    ):
        lease = Leases(database).acquire(upload())
        server.close()
        with pytest.raises(DatabaseUnavailable, match="does not answer"):
            Analyses(database).record(analysis(upload()), upload(), lease.token)
        server.start()
        assert Analyses(database).record(analysis(upload()), upload(), lease.token)
        server.close()
        server.start()
        assert Leases(database).acquire(upload()).state == "recorded"


def test_a_failed_schema_check_is_repeated(empty_database: str) -> None:
    with (
        closing(connect_to_schema(empty_database)) as outside,
        closing(Database(Settings(database_url=empty_database))) as database,
    ):
        outside.run(f"CREATE SCHEMA {SCHEMA}; {mark(SCHEMA)}; CREATE VIEW {SCHEMA}.uploads AS SELECT 1")
        for _ in range(2):
            with pytest.raises(SchemaError, match="uploads is a view"):
                Leases(database).acquire(upload())
        outside.run("DROP VIEW uploads")
        assert record(database, upload())


def test_a_cold_start_waits_for_another_repair_beyond_the_statement_timeout(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "NETWORK_S", 0.2)
    starting = Database(Settings(database_url=database_url, database_timeout_s=0.2))
    with closing(connect_to_schema(database_url)) as outside, ThreadPoolExecutor(1) as pool:
        outside.run("ALTER TABLE uploads ALTER size DROP DEFAULT")
        outside.run(f"BEGIN; SELECT pg_advisory_xact_lock({repair.LOCK})")
        started = pool.submit(starting.prepare)
        time.sleep(0.8)
        assert not started.done()
        outside.run("COMMIT")
        started.result()


def test_database_timeout_s_limits_a_wait(database_url: str) -> None:
    settings = Settings(database_url=database_url, database_timeout_s=0.2)
    with closing(Database(settings)) as database, closing(connect_to_schema(database_url)) as outside:
        database.query("SELECT 1")
        outside.run("BEGIN; LOCK TABLE uploads")
        with pytest.raises(DatabaseUnavailable, match="57014"):
            Leases(database).acquire(upload())
        outside.run("ROLLBACK")
        assert Leases(database).acquire(upload()).state == "claimed"
