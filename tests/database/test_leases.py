"""Leases: one worker per upload, fencing by the lease token, crash counting, and the states of an upload."""

import datetime as dt
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from dropcap.database.analyses import Analyses
from dropcap.database.leases import Lease, Leases
from dropcap.database.transactions import Database, Executor
from dropcap.domain.upload import UploadState
from dropcap.settings import Settings
from tests.support.database.uploads import RACERS, analysis, expire, race, upload


def test_a_new_upload_is_leased_once(leases: Leases) -> None:
    first, second = leases.acquire(upload()), leases.acquire(upload())
    assert (first.state, first.attempts, bool(first.token)) == ("claimed", 1, True)
    assert second == Lease(UploadState.BUSY, "", 1, "")


def test_another_generation_is_another_upload(leases: Leases) -> None:
    assert leases.acquire(upload(generation=1)).state == "claimed"
    assert leases.acquire(upload(generation=2)).state == "claimed"


def test_one_of_many_concurrent_workers_acquires_the_lease(database_url: str) -> None:
    states = race(database_url, lambda database, _: Leases(database).acquire(upload()).state)
    assert sorted(states) == ["busy"] * (RACERS - 1) + ["claimed"]


def test_one_of_many_concurrent_workers_acquires_an_expired_lease(
    database: Database, database_url: str, leases: Leases
) -> None:
    leases.acquire(upload())
    expire(database, upload())
    acquired = race(database_url, lambda racer, _: Leases(racer).acquire(upload()))
    assert sorted(lease.state for lease in acquired) == ["busy"] * (RACERS - 1) + ["claimed"]
    assert {lease.attempts for lease in acquired} == {2}


def test_a_worker_after_losing_its_lease_changes_nothing(
    database: Database, leases: Leases, analyses: Analyses
) -> None:
    late = leases.acquire(upload())
    expire(database, upload())
    present = leases.acquire(upload())
    assert present.attempts == 2
    assert not analyses.record(analysis(upload()), upload(), late.token)
    assert not leases.reject(upload(), late.token, "not_a_picture", "It is no picture.")
    leases.release(upload(), late.token)
    leases.discard(upload(), late.token)
    assert leases.acquire(upload()).state == "busy"
    assert analyses.result(upload().id) is None
    assert analyses.record(analysis(upload()), upload(), present.token)


def test_an_expired_lease_that_was_not_taken_over_is_still_valid(
    database: Database, leases: Leases, analyses: Analyses
) -> None:
    lease = leases.acquire(upload())
    expire(database, upload())
    assert analyses.record(analysis(upload()), upload(), lease.token)


def test_a_worker_without_a_lease_changes_nothing(leases: Leases, analyses: Analyses) -> None:
    leases.acquire(upload())
    leases.release(upload(), "")
    for token in ("", "another"):
        assert not analyses.record(analysis(upload()), upload(), token)


def test_a_released_lease_can_be_acquired_at_once(leases: Leases, analyses: Analyses) -> None:
    lease = leases.acquire(upload())
    leases.release(upload(), lease.token)
    again = leases.acquire(upload())
    assert (again.state, again.attempts) == ("claimed", 2)
    assert not analyses.record(analysis(upload()), upload(), lease.token)


def test_a_discarded_upload_keeps_only_its_crashes(database: Database, leases: Leases) -> None:
    leases.discard(upload(), leases.acquire(upload()).token)
    lease = leases.acquire(upload())
    assert lease.attempts == 1
    leases.heartbeat(upload(), lease.token, "open", 100)
    expire(database, upload())
    for attempts in (2, 3):
        lease = leases.acquire(upload())
        assert (lease.attempts, len(lease.crashes)) == (attempts, 1)
        leases.discard(upload(), lease.token)


def test_a_takeover_that_commits_during_a_discard_keeps_its_row(database: Database, leases: Leases) -> None:
    late = leases.acquire(upload()).token
    with ThreadPoolExecutor(1) as pool:

        def take_over(execute: Executor) -> Future[None]:
            execute("UPDATE uploads SET holder = 'another' RETURNING id")
            discarding = pool.submit(leases.discard, upload(), late)
            while execute("SELECT count(*) FROM pg_locks WHERE NOT granted") == [[0]]:
                assert not discarding.done()
            return discarding

        database.transaction(take_over).result()
    assert database.query("SELECT holder FROM uploads") == [["another"]]


def test_a_crash_is_counted_with_the_stage_of_the_last_heartbeat(database: Database, leases: Leases) -> None:
    lease = leases.acquire(upload())
    assert leases.heartbeat(upload(), lease.token, "resize", 123.4)
    [[began]] = database.query("SELECT date_trunc('second', stage_at) FROM uploads")
    expire(database, upload())
    [crash] = leases.acquire(upload()).crashes
    assert (crash.stage, crash.rss_mb, dt.datetime.fromisoformat(crash.at)) == ("resize", 123, began)
    expire(database, upload())
    again = leases.acquire(upload())  # acquiring the lease is no heavy stage
    assert [each.stage for each in again.crashes] == ["resize"]
    leases.heartbeat(upload(), again.token, "encode", 100)
    expire(database, upload())
    assert [each.stage for each in leases.acquire(upload()).crashes] == ["resize", "encode"]


LIGHT = ("claim", "wait", "read", "describe", "publish", "record", "quarantine", "delete the source", "tell")


@pytest.mark.parametrize("stage", LIGHT)
def test_an_expired_lease_in_a_light_stage_is_no_crash(
    database: Database, stage: str, leases: Leases
) -> None:
    leases.heartbeat(upload(), leases.acquire(upload()).token, stage, 100)
    expire(database, upload())
    assert leases.acquire(upload()).crashes == ()


def test_a_released_lease_is_no_crash(database: Database, leases: Leases) -> None:
    for _ in range(5):
        lease = leases.acquire(upload())
        leases.heartbeat(upload(), lease.token, "open", 100)
        leases.release(upload(), lease.token)
    expire(database, upload())
    assert leases.acquire(upload()).crashes == ()


def test_concurrent_workers_count_a_crash_once(database: Database, database_url: str, leases: Leases) -> None:
    leases.heartbeat(upload(), leases.acquire(upload()).token, "open", 100)
    expire(database, upload())
    acquired = race(database_url, lambda racer, _: Leases(racer).acquire(upload()))
    assert sorted(len(lease.crashes) for lease in acquired) == [0] * (RACERS - 1) + [1]


def test_each_heartbeat_renews_the_lease(database: Database, leases: Leases) -> None:
    lease = leases.acquire(upload())
    expire(database, upload())
    assert leases.heartbeat(upload(), lease.token, "open", 100)
    [[left]] = database.query("SELECT extract(epoch FROM lease_until - stage_at)::int FROM uploads")
    assert left == Settings().lease_s
    assert leases.acquire(upload()).state == "busy"


def test_a_heartbeat_fails_after_the_lease_is_lost(database: Database, leases: Leases) -> None:
    late = leases.acquire(upload())
    expire(database, upload())
    leases.acquire(upload())
    assert not leases.heartbeat(upload(), late.token, "resize", 100)
    assert database.query("SELECT stage FROM uploads") == [["claim"]]


# How the first revision acquires a lease; a revision without crash counting may run beside this one.
FIRST_ACQUIRE = """
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


def test_the_first_released_revision_and_this_one_respect_each_others_leases(
    database: Database, leases: Leases
) -> None:
    def first_revision(token: str) -> list[list[Any]]:
        return database.query(FIRST_ACQUIRE, id=upload().id, holder=token)

    assert first_revision("first") == [["claimed", "first", 1, ""]]
    assert leases.acquire(upload()).state == "busy"
    expire(database, upload())
    ours = leases.acquire(upload())
    assert (ours.state, ours.crashes) == ("claimed", ())  # the first revision stores no stage
    assert first_revision("second") == [["claimed", ours.token, 2, ""]]
    expire(database, upload())
    assert first_revision("third") == [["claimed", "third", 3, ""]]
    assert not leases.heartbeat(upload(), ours.token, "open", 100)


def test_the_lease_lasts_lease_s_by_the_databases_clock(database: Database, leases: Leases) -> None:
    leases.acquire(upload())
    [[lease]] = database.query("SELECT extract(epoch FROM lease_until - created_at)::int FROM uploads")
    assert lease == Settings().lease_s


def test_an_upload_is_leased_then_recorded_then_done(leases: Leases, analyses: Analyses) -> None:
    lease = leases.acquire(upload())
    leases.finish(upload())
    assert leases.acquire(upload()).state == "busy"
    assert analyses.record(analysis(upload()), upload(), lease.token)
    assert leases.acquire(upload()) == Lease(UploadState.RECORDED, "", 1, "")
    leases.finish(upload())
    assert leases.acquire(upload()) == Lease(UploadState.DONE, "", 1, "")


def test_a_rejected_upload_keeps_its_reason(database: Database, leases: Leases, analyses: Analyses) -> None:
    lease = leases.acquire(upload())
    assert leases.reject(upload(), lease.token, "not_a_picture", "It is no picture.")
    assert leases.acquire(upload()) == Lease(UploadState.REJECTED, "", 1, "It is no picture.")
    leases.finish(upload())
    assert leases.acquire(upload()) == Lease(UploadState.DONE, "", 1, "It is no picture.")
    assert database.query("SELECT reason_code FROM uploads") == [["not_a_picture"]]
    assert not analyses.record(analysis(upload()), upload(), lease.token)


def test_a_new_upload_is_acquired_in_one_statement_and_another_worker_is_told_why_not(
    database: Database, leases: Leases
) -> None:
    ours = leases.acquire_new(upload())
    assert ours
    assert (ours.state, ours.attempts, ours.crashes) == (UploadState.LEASED, 1, ())
    assert leases.heartbeat(upload(), ours.token, "open", 100)
    busy = leases.acquire_new(upload())
    assert busy
    assert (busy.state, busy.token) == (UploadState.BUSY, "")
    leases.release(upload(), ours.token)
    assert leases.acquire_new(upload()) is None  # `acquire` takes it over
    for state in (UploadState.RECORDED, UploadState.REJECTED, UploadState.DELETED, UploadState.DONE):
        database.query("UPDATE uploads SET state = :state, reason = 'why'", state=state.value)
        found = leases.acquire_new(upload())
        assert found
        assert (found.state, found.token, found.reason) == (state, "", "why")
    hold = "UPDATE uploads SET state = 'held', lease_until = now() + make_interval(secs => :more)"
    database.query(hold, more=100)
    held = leases.acquire_new(upload())
    assert held
    assert held.state is UploadState.HELD
    database.query(hold, more=-1)
    assert leases.acquire_new(upload()) is None


def test_of_many_workers_one_acquires_a_new_upload(leases: Leases) -> None:
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: leases.acquire_new(upload()), range(16)))
    assert [bool(each and each.token) for each in found].count(True) == 1
    assert {each.state for each in found if each} <= {UploadState.LEASED, UploadState.BUSY}
