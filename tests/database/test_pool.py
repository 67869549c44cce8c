"""Threads share a pool of connections: queries run concurrently, and waits are bounded."""

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from http import HTTPStatus
from typing import Any

import pytest

from dropcap.database.connection import DatabaseUnavailable, connect, connect_to_schema
from dropcap.database.schema import repair
from dropcap.database.transactions import Database, Executor
from dropcap.errors import Rejected, SettingsError
from dropcap.settings import Settings
from tests.support.app import ROOT, Start
from tests.support.database.uploads import RACERS, record, upload

MOST = Settings().database_connections
PID = "SELECT pg_backend_pid()"


def opened(url: str) -> list[list[Any]]:
    """Return the process ids of the product's connections."""
    with closing(connect(f"{url}?application_name=outside")) as outside:
        return list(
            outside.run(
                "SELECT pid FROM pg_stat_activity WHERE datname = current_database() "
                "AND application_name = 'dropcap'"
            )
            or ()
        )


def at_once(number: int, work: Callable[[int], Any]) -> list[Any]:
    with ThreadPoolExecutor(number) as pool:
        return list(pool.map(work, range(number)))


def test_transactions_of_two_threads_run_concurrently(database: Database) -> None:
    """Each transaction waits for the other, so that they can not run one after the other."""
    meet = threading.Barrier(2, timeout=20)

    def work(run: Executor) -> list[list[Any]]:
        pid = run(PID)
        meet.wait()
        return pid

    first, second = at_once(2, lambda _: database.transaction(work))
    assert first != second


def test_two_slow_requests_of_the_gallery_run_concurrently(start: Start, database_url: str) -> None:
    """Both wait for a locked table; with one connection, the second would wait for the first."""
    app = start()
    app.gallery.get("/gallery/?user=ana")
    with closing(connect_to_schema(database_url)) as outside, ThreadPoolExecutor(2) as pool:
        outside.run("BEGIN; LOCK TABLE analyses")
        answers = [pool.submit(app.gallery.get, "/gallery/progress?user=ana") for _ in range(2)]
        waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'analyses'::regclass"
        ends = time.monotonic() + 8
        while outside.run(waiting) != [[2]]:
            assert time.monotonic() < ends, "only one of them asks"
            time.sleep(0.01)
        outside.run("ROLLBACK")
        assert [answer.result().status_code for answer in answers] == [200, 200]


def test_any_number_of_threads_opens_at_most_the_configured_connections(
    database: Database, database_url: str
) -> None:
    counts: list[int] = []

    def work(number: int) -> bool:
        for turn in range(3):
            assert record(database, upload(f"ana/{number}-{turn}.png"))
        counts.append(len(opened(database_url)))
        return True

    assert all(at_once(RACERS, work))
    assert len(opened(database_url)) <= MOST
    assert max(counts) <= MOST


def test_one_thread_opens_one_connection(database: Database, database_url: str) -> None:
    for number in range(3):
        assert record(database, upload(f"ana/{number}.png"))
    assert len(opened(database_url)) == 1


REFUSALS = (
    Rejected("code", "A problem.", "A remedy.", HTTPStatus.CONFLICT),
    SettingsError("A setting."),
    KeyError("a fault of ours"),
    KeyboardInterrupt(),
)


@pytest.mark.parametrize("refusal", REFUSALS, ids=lambda refusal: type(refusal).__name__)
def test_an_error_in_a_transaction_keeps_the_connection_and_changes_nothing(
    database: Database, refusal: BaseException
) -> None:
    before = database.query(PID)

    def work(run: Executor) -> None:
        run("INSERT INTO achievements (user_id, achievement_name) VALUES ('ana', 'x')")
        raise refusal

    for _ in range(3):
        with pytest.raises(type(refusal)):
            database.transaction(work)
    assert database.query("SELECT count(*) FROM achievements") == [[0]]
    assert database.query(PID) == before


def test_a_statement_that_postgresql_refuses_keeps_the_connection(database: Database) -> None:
    before = database.query(PID)
    for wrong, values in (("SELECT 1 / 0", {}), ("SELECT CAST(:x AS int)", {"x": "x"}), ("SELEC", {})):
        with pytest.raises(DatabaseUnavailable, match="PostgreSQL refused"):
            database.query(wrong, **values)
    assert database.query(PID) == before


def test_a_connection_interrupted_within_a_response_is_not_reused(database: Database) -> None:
    before = database.query(PID)

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    database._pool._idle[0].message_types[b"D"] = interrupted
    with pytest.raises(KeyboardInterrupt):
        database.query("SELECT generate_series(1, 10)")
    assert database.query("SELECT 1") == [[1]]
    assert database.query(PID) != before


def test_idle_connections_that_were_terminated_are_replaced_without_an_error(
    database: Database, database_url: str
) -> None:
    meet = threading.Barrier(MOST, timeout=20)
    at_once(MOST, lambda _: database.transaction(lambda run: (run(PID), meet.wait())))
    terminated = opened(database_url)
    assert len(terminated) == MOST
    with closing(connect(database_url)) as outside:
        for [process] in terminated:
            outside.run("SELECT pg_terminate_backend(:process, 5000)", process=process)
    assert all(at_once(RACERS, lambda n: record(database, upload(f"ana/{n}.png"))))
    assert not {pid for [pid] in terminated} & {pid for [pid] in opened(database_url)}


def test_a_wait_for_a_connection_is_bounded_by_database_timeout_s(database_url: str) -> None:
    settings = Settings(database_url=database_url, database_connections=1, database_timeout_s=0.3)
    acquired, over = threading.Event(), threading.Event()
    with closing(Database(settings)) as database, ThreadPoolExecutor(1) as pool:
        database.query("SELECT 1")

        def work(run: Executor) -> list[list[Any]]:
            acquired.set()
            over.wait(20)
            return []

        other = pool.submit(database.transaction, work)
        acquired.wait(20)
        began = time.monotonic()
        with pytest.raises(DatabaseUnavailable, match=r"No connection to PostgreSQL was free for 0\.3 s"):
            database.query("SELECT 1")
        assert time.monotonic() - began < 10
        over.set()
        assert other.result() == []
        assert database.query("SELECT 1") == [[1]]


def test_the_schema_is_checked_once_a_process(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    checks: list[int] = []
    real = repair.check

    def slow(*arguments: Any) -> None:
        checks.append(1)
        time.sleep(0.1)
        real(*arguments)

    monkeypatch.setattr(repair, "check", slow)
    at_once(MOST, lambda _: database.query("SELECT 1"))
    assert checks == [1]


FORK = """
import os, sys
from dropcap.database.transactions import Database
from dropcap.settings import Settings

database, pid = Database(Settings(database_url=sys.argv[1])), "SELECT pg_backend_pid()"
database.prepare()
[connection] = database._pool._idle
print(connection.run(pid), flush=True)
if worker := os.fork():
    os.waitpid(worker, 0)
print(database.query(pid), flush=True)
"""


def test_a_forked_worker_takes_over_the_connection_that_checked_the_schema(database_url: str) -> None:
    """The parent opens another when it needs one: the worker's end has not ended its session."""
    words = [sys.executable, "-c", FORK, database_url]
    done = subprocess.run(words, cwd=ROOT / "functions", capture_output=True, text=True, check=True)
    before, worker, parent = done.stdout.split()
    assert before == worker != parent


def test_a_lease_of_one_thread_is_never_released_by_another(database: Database) -> None:
    """`acquire` releases the leases that failed to be released before, but none of a thread at work."""
    assert all(
        at_once(RACERS, lambda n: all(record(database, upload(f"u{n}/{turn}.png")) for turn in range(5)))
    )
