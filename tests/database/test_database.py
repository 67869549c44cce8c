"""Whatever is delivered, raced, cut off or restarted: one winner, one result, nothing half done."""

import datetime as dt
import json
import re
import threading
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from dropcap.database import connection
from dropcap.database.analyses import Analyses
from dropcap.database.connection import DatabaseUnavailable, connect_to_schema
from dropcap.database.leases import Lease, Leases
from dropcap.database.progress import stats
from dropcap.database.schema import repair
from dropcap.database.schema.ownership import mark
from dropcap.database.transactions import Database
from dropcap.domain.analysis import Analysis, PictureFacts, Source
from dropcap.domain.upload import Upload, UploadState
from dropcap.errors import SchemaError, SettingsError
from dropcap.settings import SCHEMA, Settings
from infra.local.postgres import Postgres

RACERS = 16


def upload(name: str = "ana/x.png", generation: int = 1, **others: Any) -> Upload:
    return Upload("uploads", name, generation, 12, "image/png", **others)


def analysis(of: Upload, **others: Any) -> Analysis:
    fields: dict[str, Any] = {
        "id": of.id,
        "upload": of.to_json(),
        "user": of.user,
        "analyzed_at": dt.datetime(2026, 1, 1, 12, tzinfo=dt.UTC),
        "time_zone": of.time_zone,
        "picture": PictureFacts("PNG", 12, 3, 4, "pillow"),
        "caption": "a crown",
        "description": "A golden crown.",
        "alt_text": "Crown",
        "tags": ("gold", "crown"),
        "text": "REX",
        "sources": {"blip": Source(True, "blip", "1")},
        "pictures": (),
    }
    return Analysis(**fields | others)


def record(database: Database, of: Upload, **others: Any) -> bool:
    return Analyses(database).record(analysis(of, **others), of, Leases(database).acquire(of).token)


def expire(database: Database, of: Upload) -> None:
    database.query("UPDATE uploads SET lease_until = now() WHERE id = :id RETURNING id", id=of.id)


def race(url: str, work: Callable[[Database, int], Any]) -> list[Any]:
    """What `work` returns in each of several instances that begin at the same moment."""
    start = threading.Barrier(RACERS, timeout=60)  # so that one that fails does not hold up the others

    def run(number: int) -> Any:
        with closing(Database(Settings(database_url=url))) as database:
            database.query("SELECT 1")
            start.wait()
            return work(database, number)

    with ThreadPoolExecutor(RACERS) as pool:
        return list(pool.map(run, range(RACERS)))


def test_a_new_upload_is_claimed_once(database: Database) -> None:
    first, second = Leases(database).acquire(upload()), Leases(database).acquire(upload())
    assert (first.state, first.attempts, bool(first.token)) == ("claimed", 1, True)
    assert second == Lease(UploadState.BUSY, "", 1, "")


def test_another_generation_is_another_upload(database: Database) -> None:
    assert Leases(database).acquire(upload(generation=1)).state == "claimed"
    assert Leases(database).acquire(upload(generation=2)).state == "claimed"


def test_a_race_for_a_claim_has_one_winner(database_url: str) -> None:
    states = race(database_url, lambda database, _: Leases(database).acquire(upload()).state)
    assert sorted(states) == ["busy"] * (RACERS - 1) + ["claimed"]


def test_a_race_for_an_expired_claim_has_one_winner(database: Database, database_url: str) -> None:
    Leases(database).acquire(upload())
    expire(database, upload())
    acquired = race(database_url, lambda racer, _: Leases(racer).acquire(upload()))
    assert sorted(lease.state for lease in acquired) == ["busy"] * (RACERS - 1) + ["claimed"]
    assert {lease.attempts for lease in acquired} == {2}


def test_whoever_lost_the_claim_can_write_nothing(database: Database) -> None:
    late = Leases(database).acquire(upload())
    expire(database, upload())
    present = Leases(database).acquire(upload())
    assert present.attempts == 2
    assert not Analyses(database).record(analysis(upload()), upload(), late.token)
    assert not Leases(database).reject(upload(), late.token, "not_a_picture", "It is no picture.")
    Leases(database).release(upload(), late.token)
    Leases(database).discard(upload(), late.token)
    assert Leases(database).acquire(upload()).state == "busy"
    assert Analyses(database).result(upload().id) is None
    assert Analyses(database).record(analysis(upload()), upload(), present.token)


def test_an_expired_claim_that_nobody_took_over_still_counts(database: Database) -> None:
    lease = Leases(database).acquire(upload())
    expire(database, upload())
    assert Analyses(database).record(analysis(upload()), upload(), lease.token)


def test_who_never_had_a_claim_can_write_nothing(database: Database) -> None:
    Leases(database).acquire(upload())
    Leases(database).release(upload(), "")
    for holder in ("", "somebody"):
        assert not Analyses(database).record(analysis(upload()), upload(), holder)


def test_a_claim_given_back_can_be_taken_at_once(database: Database) -> None:
    lease = Leases(database).acquire(upload())
    Leases(database).release(upload(), lease.token)
    again = Leases(database).acquire(upload())
    assert (again.state, again.attempts) == ("claimed", 2)
    assert not Analyses(database).record(analysis(upload()), upload(), lease.token)


def test_a_claim_is_forgotten_but_for_its_deaths(database: Database) -> None:
    Leases(database).discard(upload(), Leases(database).acquire(upload()).token)
    lease = Leases(database).acquire(upload())
    assert lease.attempts == 1
    Leases(database).heartbeat(upload(), lease.token, "open", 100)
    expire(database, upload())
    for attempts in (2, 3):
        lease = Leases(database).acquire(upload())
        assert (lease.attempts, len(lease.crashes)) == (attempts, 1)
        Leases(database).discard(upload(), lease.token)


def test_a_holder_that_died_or_hung_is_known_by_its_last_stage(database: Database) -> None:
    lease = Leases(database).acquire(upload())
    assert Leases(database).heartbeat(upload(), lease.token, "resize", 123.4)
    [[began]] = database.query("SELECT date_trunc('second', stage_at) FROM uploads")
    expire(database, upload())
    [death] = Leases(database).acquire(upload()).crashes
    assert (death.stage, death.rss_mb, dt.datetime.fromisoformat(death.at)) == ("resize", 123, began)
    expire(database, upload())
    again = Leases(database).acquire(upload())  # a claim alone is nothing that takes an instance down
    assert [each.stage for each in again.crashes] == ["resize"]
    Leases(database).heartbeat(upload(), again.token, "publish", 100)
    expire(database, upload())
    assert [each.stage for each in Leases(database).acquire(upload()).crashes] == ["resize", "publish"]


@pytest.mark.parametrize("stage", ["claim", "read", "record", "quarantine", "delete the source", "tell"])
def test_whoever_waited_for_database_or_network_has_not_died(database: Database, stage: str) -> None:
    Leases(database).heartbeat(upload(), Leases(database).acquire(upload()).token, stage, 100)
    expire(database, upload())
    assert Leases(database).acquire(upload()).crashes == ()


def test_a_claim_given_back_is_no_death(database: Database) -> None:
    for _ in range(5):
        lease = Leases(database).acquire(upload())
        Leases(database).heartbeat(upload(), lease.token, "open", 100)
        Leases(database).release(upload(), lease.token)
    expire(database, upload())
    assert Leases(database).acquire(upload()).crashes == ()


def test_a_racer_that_comes_too_late_counts_no_death(database: Database, database_url: str) -> None:
    Leases(database).heartbeat(upload(), Leases(database).acquire(upload()).token, "open", 100)
    expire(database, upload())
    acquired = race(database_url, lambda racer, _: Leases(racer).acquire(upload()))
    assert sorted(len(lease.crashes) for lease in acquired) == [0] * (RACERS - 1) + [1]


def test_each_stage_begins_the_lease_anew(database: Database) -> None:
    lease = Leases(database).acquire(upload())
    expire(database, upload())
    assert Leases(database).heartbeat(upload(), lease.token, "open", 100)
    [[left]] = database.query("SELECT extract(epoch FROM lease_until - stage_at)::int FROM uploads")
    assert left == Settings().lease_s
    assert Leases(database).acquire(upload()).state == "busy"


def test_whoever_lost_the_claim_is_told_at_the_next_stage(database: Database) -> None:
    late = Leases(database).acquire(upload())
    expire(database, upload())
    Leases(database).acquire(upload())
    assert not Leases(database).heartbeat(upload(), late.token, "resize", 100)
    assert database.query("SELECT stage FROM uploads") == [["claim"]]


# The claim of the revision before this one, which may run beside it while it is deployed.
CLAIM_OF_BEFORE = """
INSERT INTO uploads AS u (id, bucket, name, generation, user_id, size, content_type, holder, lease_until)
VALUES (:id, 'uploads', 'ana/x.png', 1, 'ana', 12, 'image/png', :holder, now() + make_interval(secs => 600))
ON CONFLICT (id) DO UPDATE SET (attempts, holder, lease_until) = (
  SELECT u.attempts + 1, excluded.holder, excluded.lease_until
  WHERE u.state = 'claimed' AND u.lease_until <= now()
  UNION ALL
  SELECT u.attempts, u.holder, u.lease_until
  WHERE u.state <> 'claimed' OR u.lease_until > now()
)
RETURNING state, holder, attempts, reason
"""


def test_the_code_of_before_claims_on_this_schema_and_both_heed_each_other(database: Database) -> None:
    def before(holder: str) -> list[list[Any]]:
        return database.query(CLAIM_OF_BEFORE, id=upload().id, holder=holder)

    assert before("first") == [["claimed", "first", 1, ""]]
    assert Leases(database).acquire(upload()).state == "busy"
    expire(database, upload())
    ours = Leases(database).acquire(upload())
    assert (ours.state, ours.crashes) == ("claimed", ())  # nobody knows at what stage that one was
    assert before("second") == [["claimed", ours.token, 2, ""]]
    expire(database, upload())
    assert before("third") == [["claimed", "third", 3, ""]]
    assert not Leases(database).heartbeat(upload(), ours.token, "open", 100)


def test_the_lease_is_as_long_as_the_setting_by_the_databases_clock(database: Database) -> None:
    Leases(database).acquire(upload())
    [[lease]] = database.query("SELECT extract(epoch FROM lease_until - created_at)::int FROM uploads")
    assert lease == Settings().lease_s


def test_an_upload_goes_from_claimed_to_recorded_to_done(database: Database) -> None:
    lease = Leases(database).acquire(upload())
    Leases(database).finish(upload())
    assert Leases(database).acquire(upload()).state == "busy"
    assert Analyses(database).record(analysis(upload()), upload(), lease.token)
    assert Leases(database).acquire(upload()) == Lease(UploadState.RECORDED, "", 1, "")
    Leases(database).finish(upload())
    assert Leases(database).acquire(upload()) == Lease(UploadState.DONE, "", 1, "")


def test_a_rejected_upload_keeps_its_reason(database: Database) -> None:
    lease = Leases(database).acquire(upload())
    assert Leases(database).reject(upload(), lease.token, "not_a_picture", "It is no picture.")
    assert Leases(database).acquire(upload()) == Lease(UploadState.REJECTED, "", 1, "It is no picture.")
    Leases(database).finish(upload())
    assert Leases(database).acquire(upload()) == Lease(UploadState.DONE, "", 1, "It is no picture.")
    assert database.query("SELECT reason_code FROM uploads") == [["not_a_picture"]]
    assert not Analyses(database).record(analysis(upload()), upload(), lease.token)


def test_a_result_is_read_as_it_was_recorded(database: Database) -> None:
    of = upload(metadata={"tz": "Europe/Madrid"})
    assert record(database, of)
    assert Analyses(database).result(of.id) == json.loads(json.dumps(analysis(of).to_json()))
    assert Analyses(database).result(uuid.uuid4()) is None


def test_a_result_recorded_twice_is_there_once(database: Database) -> None:
    lease = Leases(database).acquire(upload())
    for _ in range(2):
        assert Analyses(database).record(analysis(upload()), upload(), lease.token)
    assert database.query("SELECT count(*) FROM analyses") == [[1]]
    assert stats(database, "ana")["pictures_analyzed"] == 1
    assert database.query("SELECT user_id, achievement_name FROM achievements") == [["ana", "first_picture"]]


def test_a_result_that_cant_be_stored_leaves_no_trace(database: Database) -> None:
    lease = Leases(database).acquire(upload())
    impossible = analysis(upload(), picture=PictureFacts("PNG", 12, -1, 4, "pillow"))
    with pytest.raises(DatabaseUnavailable, match="analyses_picture"):
        Analyses(database).record(impossible, upload(), lease.token)
    assert database.query("SELECT state FROM uploads") == [["claimed"]]
    assert database.query("SELECT count(*) FROM achievements") == [[0]]
    assert Analyses(database).record(analysis(upload()), upload(), lease.token)


def test_results_of_one_user_recorded_at_once_are_all_counted(database: Database, database_url: str) -> None:
    recorded = race(database_url, lambda racer, n: record(racer, upload(f"ana/{n}.png")))
    assert all(recorded)
    earned = database.query("SELECT achievement_name FROM achievements ORDER BY 1")
    assert earned == [["first_picture"], ["ten_pictures"]]


def test_threads_share_the_connection_in_turns(database: Database) -> None:
    with ThreadPoolExecutor(RACERS) as pool:
        assert all(pool.map(lambda n: record(database, upload(f"ana/{n}.png")), range(RACERS)))
    assert stats(database, "ana")["pictures_analyzed"] == RACERS


@pytest.mark.parametrize(
    "text", ["nul\x00nul", "half\ud800", "'; DROP TABLE uploads; --", "\\', :name $1 %s", "🎉" * 250]
)
def test_hostile_text_is_stored_or_replaced_but_never_run(database: Database, text: str) -> None:
    of = Upload("uploads", f"ana/{text}" if text.isprintable() else f"ana/{text!r}\x00", 1, 12)
    assert record(database, of, caption=text, tags=(text,), text=text, upload={"name": text})
    plain = re.sub("[\x00\ud800]", "\ufffd", text)
    assert database.query("SELECT caption, tags FROM analyses") == [[plain, [plain]]]
    result = Analyses(database).result(of.id)
    assert result is not None
    assert (result["text"], result["upload"]["name"]) == (plain, plain)
    assert database.query("SELECT name FROM uploads") == [[of.name.replace("\x00", "\ufffd")]]


def test_a_zone_that_only_python_knows_does_not_break_progress(database: Database) -> None:
    assert record(database, upload(), time_zone="Mars/Olympus_Mons")
    assert database.query("SELECT time_zone FROM analyses") == [[None]]
    assert stats(database, "ana")["pictures_analyzed"] == 1


def test_a_zone_in_the_setting_that_postgresql_does_not_know_is_named(database_url: str) -> None:
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
def test_an_instance_that_runs_while_the_schema_breaks_goes_on(
    database: Database, database_url: str, damage: str
) -> None:
    assert record(database, upload("ana/before.png"))
    with closing(connect_to_schema(database_url)) as outside:
        outside.run(damage)
    assert stats(database, "ana")["pictures_analyzed"] == 1
    assert record(database, upload("ana/after.png"))
    assert database.query("SELECT caption FROM analyses") == [["a crown"], ["a crown"]]


def test_code_from_before_a_later_schema_still_works(database_url: str) -> None:
    with closing(connect_to_schema(database_url)) as outside:
        outside.run("ALTER TABLE uploads ADD sha256 text, ADD priority integer NOT NULL DEFAULT 0")
        outside.run(
            "ALTER TABLE analyses ADD agreement real; CREATE TABLE albums (id uuid REFERENCES uploads)"
        )
    with closing(Database(Settings(database_url=database_url))) as older:
        assert record(older, upload())
        Leases(older).finish(upload())
        assert stats(older, "ana")["pictures_analyzed"] == 1


def test_a_connection_that_died_is_replaced(database: Database, database_url: str) -> None:
    [[process]] = database.query("SELECT pg_backend_pid()")
    with closing(connect_to_schema(database_url)) as outside:
        outside.run("SELECT pg_terminate_backend(:process, 5000)", process=process)
    assert record(database, upload())


def test_a_restarted_server_is_found_again_and_a_stopped_one_is_a_passing_fault(tmp_path: Path) -> None:
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


def test_a_failed_check_of_the_schema_is_not_remembered(empty_database: str) -> None:
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


def test_a_cold_start_waits_for_another_that_repairs_longer_than_for_any_answer(
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


def test_a_wait_is_bounded_by_the_setting(database_url: str) -> None:
    settings = Settings(database_url=database_url, database_timeout_s=0.2)
    with closing(Database(settings)) as database, closing(connect_to_schema(database_url)) as outside:
        database.query("SELECT 1")
        outside.run("BEGIN; LOCK TABLE uploads")
        with pytest.raises(DatabaseUnavailable, match="57014"):
            Leases(database).acquire(upload())
        outside.run("ROLLBACK")
        assert Leases(database).acquire(upload()).state == "claimed"
