"""Measure the cost of each database operation of an instance."""

from __future__ import annotations

import datetime as dt
import statistics
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from pg8000.native import Connection

from dropcap import reconcile
from dropcap.database import progress, prune
from dropcap.database.analyses import Analyses
from dropcap.database.leases import Leases
from dropcap.database.schema import catalogue
from dropcap.database.transactions import Database
from dropcap.domain.analysis import Analysis, PictureFacts, Source
from dropcap.domain.upload import Upload
from dropcap.settings import SCHEMA, Settings
from tests.bench.database import rows

BOUND_MS = 5.0
PAGE = 1000  # names in a page of a listing, as Cloud Storage gives them
WARM_UP = 3
CONTROL = ("BEGIN", "COMMIT", "ROLLBACK", "SAVEPOINT")


@dataclass(slots=True)
class Explained:
    """A connection that explains each statement before it runs it."""

    connection: Connection
    ms: float = 0.0  # planning and execution since the last look
    pages: int = 0  # of 8 KiB that were looked at since then
    plans: dict[str, Any] = field(default_factory=dict)  # the latest of each statement

    def run(self, sql: str, **values: Any) -> Any:
        if not sql.startswith(CONTROL):
            self.connection.run("SAVEPOINT explained")
            [[[plan]]] = self.connection.run(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {sql}", **values)
            self.connection.run("ROLLBACK TO SAVEPOINT explained")
            self.ms += plan["Planning Time"] + plan["Execution Time"]
            self.pages += sum(plan["Plan"][f"Shared {kind} Blocks"] for kind in ("Hit", "Read"))
            self.plans[" ".join(sql.split())] = plan
        return self.connection.run(sql, **values)

    def close(self) -> None:
        self.connection.close()


@dataclass(frozen=True, slots=True)
class Figure:
    """Milliseconds: of the database, and of the client from call to answer, without EXPLAIN.

    How many pages are looked at says most of what becomes of it when there are more rows, on any machine.
    """

    operation: str
    database: tuple[float, float]  # median, 95th percentile
    client: tuple[float, float]
    pages: float  # median
    plans: dict[str, Any]
    bound_ms: float = BOUND_MS

    @property
    def over(self) -> bool:
        return self.database[0] > self.bound_ms


class Bench:
    """Two clients of one database, one of which explains."""

    def __init__(self, url: str, rounds: int) -> None:
        settings = Settings(database_url=url, database_timeout_s=300)
        self.rounds = rounds
        self.plain, self.explaining = Database(settings), Database(settings)
        for each in (self.plain, self.explaining):
            each.query("SELECT 1")
        connection, _ = self.explaining._pool.acquire()
        self.explained = Explained(connection)
        self.explaining._pool.release(self.explained)

    def measure(
        self,
        operation: str,
        work: Callable[[Database], object],
        before: Callable[[Database], object] = lambda _: None,
        bound_ms: float = BOUND_MS,
    ) -> Figure:
        """Measure `work` several times on both clients, each time after `before`, which is not measured."""
        client, database, pages = [], [], []
        for _ in range(WARM_UP + self.rounds):
            before(self.plain)
            began = time.perf_counter()
            work(self.plain)
            client.append((time.perf_counter() - began) * 1000)
            before(self.plain)
            self.explained.ms, self.explained.pages = 0.0, 0
            self.explained.plans.clear()
            work(self.explaining)
            database.append(self.explained.ms)
            pages.append(self.explained.pages)
        in_database, in_client = (spread(each[WARM_UP:]) for each in (database, client))
        plans = dict(self.explained.plans)
        median = statistics.median(pages[WARM_UP:])
        return Figure(operation, in_database, in_client, median, plans, bound_ms)

    def close(self) -> None:
        for each in (self.plain, self.explaining):
            each.close()


def spread(values: Sequence[float]) -> tuple[float, float]:
    return statistics.median(values), statistics.quantiles(values, n=20)[-1]


class Picture:
    """One of a user's pictures after the other, on its way through the database."""

    def __init__(self, user: str) -> None:
        self.user = user

    def acquire(self, database: Database) -> None:
        self.upload = _upload(self.user)
        self.token = Leases(database).acquire(self.upload).token

    def heartbeat(self, database: Database) -> None:
        assert Leases(database).heartbeat(self.upload, self.token, "open", 100)

    def record(self, database: Database) -> None:
        assert Analyses(database).record(analysis_of(self.upload), self.upload, self.token)

    def acquire_and_record(self, database: Database) -> None:
        self.acquire(database)
        self.record(database)

    def finish(self, database: Database) -> None:
        Leases(database).finish(self.upload)

    def stats(self, database: Database) -> None:
        progress.stats(database, self.user)


def operations(bench: Bench, users: Sequence[rows.User]) -> Iterator[Figure]:
    """Measure everything that an instance asks of the database."""
    for user in users:
        yield bench.measure(f"stats, {user.about}", Picture(user.name).stats)
    for user in users:
        picture = Picture(user.name)
        yield bench.measure(f"record, {user.about}", picture.record, picture.acquire)
    picture = Picture("user7")
    yield bench.measure("acquire", picture.acquire)
    yield bench.measure("heartbeat", picture.heartbeat, picture.acquire)
    yield bench.measure("finish", picture.finish, picture.acquire_and_record)
    bucket, ids = rows.BUCKET, _ids(bench.plain)
    some = {"bucket": bucket, "rows": reconcile.ROWS}
    yield bench.measure("reconcile: unfinished rows", lambda d: d.query(reconcile.UNFINISHED, **some))
    for name in (bucket, "another-bucket"):
        yield bench.measure(f"reconcile: where to begin in {name}", partial(_begin, name))
    known = f"reconcile: a page of {PAGE:,} names"
    yield bench.measure(known, lambda d: d.query(reconcile.KNOWN, ids=ids))
    kept = {"most": prune.BATCH, **prune.days(bench.plain.settings)}
    yield bench.measure("reconcile: rows that have served their time", lambda d: d.query(prune.PRUNE, **kept))
    yield bench.measure("schema check at a cold start", lambda d: d.query(catalogue.snapshot(SCHEMA)))


def _begin(bucket: str, database: Database) -> None:
    database.query(reconcile.ANY_NAME, id=uuid.uuid4(), bucket=bucket)


def _upload(user: str) -> Upload:
    return Upload(rows.BUCKET, f"{user}/{uuid.uuid4()}.jpg", 1, 12, "image/jpeg", {"tz": "Europe/Madrid"})


def analysis_of(upload: Upload) -> Analysis:
    return Analysis(
        id=upload.id,
        upload=upload.to_json(),
        user=upload.user,
        analyzed_at=dt.datetime.now(dt.UTC),
        time_zone=upload.time_zone,
        picture=PictureFacts("JPEG", 12, 3, 4, "pillow"),
        caption="a crown",
        description="A golden crown.",
        alt_text="Crown",
        tags=("gold", "crown"),
        text="",
        sources={"blip": Source(True, "blip", "1")},
        pictures=(),
    )


def _ids(database: Database) -> list[str]:
    ids = database.query(f"SELECT id FROM uploads WHERE id >= :id ORDER BY id LIMIT {PAGE}", id=uuid.uuid4())  # noqa: S608
    return [str(each) for [each] in ids]
