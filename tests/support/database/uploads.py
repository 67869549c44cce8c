"""Uploads and analyses for tests, and several instances that start at the same moment."""

import datetime as dt
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

from dropcap.database.analyses import Analyses
from dropcap.database.leases import Leases
from dropcap.database.transactions import Database
from dropcap.domain.analysis import Analysis, PictureFacts, Source
from dropcap.domain.upload import Upload
from dropcap.settings import Settings

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
    """Return the results of `work` in several instances that start at the same moment."""
    start = threading.Barrier(RACERS, timeout=60)  # so that one that fails does not hold up the others

    def run(number: int) -> Any:
        with closing(Database(Settings(database_url=url))) as database:
            database.query("SELECT 1")
            start.wait()
            return work(database, number)

    with ThreadPoolExecutor(RACERS) as pool:
        return list(pool.map(run, range(RACERS)))
