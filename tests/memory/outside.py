"""Determine the outcome of an upload from outside the limit, by database and buckets."""

from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

from dropcap.database.connection import connect_to_schema
from dropcap.settings import Settings
from tests.memory.uploads import Sample
from tests.support.backing_services import BackingServices

ROWS = """
SELECT u.id, u.state, u.reason_code, u.reason, a.result
FROM uploads u LEFT JOIN analyses a USING (id) WHERE u.name = :name
"""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of an upload: `analyzed`, `rejected` with its code, or `lost`; and why."""

    state: str
    code: str = ""
    why: str = ""
    decoder: str = ""


class Outside(BackingServices):
    """The parts around a function, with new data; `environment` is how the function finds them."""

    def __init__(self, logs: Path) -> None:
        super().__init__(logs, Settings.read())

    def upload(self, sample: Sample) -> Mapping[str, Any]:
        """Put a file into the bucket; the object's resource, for its event."""
        return self.put(sample.name, sample.path)

    def let_leases_run_out(self) -> None:
        """Expire the leases of killed instances, instead of waiting."""
        with closing(connect_to_schema(self.database_url)) as connection:
            connection.run("UPDATE uploads SET lease_until = now()")

    def outcome(self, sample: Sample) -> Outcome:
        """Return the outcome of an upload, from the database and the buckets."""
        with closing(connect_to_schema(self.database_url)) as connection:
            rows = connection.run(ROWS, name=sample.name) or []
        if [row[1] for row in rows] != ["done"]:
            return Outcome("lost", why=f"in the database it is {[row[1] for row in rows] or 'unknown'}")
        [[upload, _, code, reason, result]] = rows
        missing = self._missing(upload, sample, code, result)
        if missing:
            return Outcome("lost", code, missing)
        if code:
            return Outcome("rejected", code, reason)
        return Outcome("analyzed", decoder=result["picture"]["decoder"])

    def naive_outcome(self, sample: Sample, answered: bool) -> Outcome:
        """Return the outcome of an upload to naive.py, which writes its smallest picture last."""
        if not answered:
            return Outcome("lost", why="it was never acknowledged")
        published = self.client.bucket(self.settings.pictures_bucket).get_blob(f"{sample.name}/200.webp")
        return Outcome("analyzed" if published else "rejected")

    def _missing(self, upload: UUID, sample: Sample, code: str, result: Mapping[str, Any] | None) -> str:
        """Return what is not as expected; empty if everything is."""
        uploads, pictures, quarantine = map(self.client.bucket, self.buckets[:3])
        if uploads.get_blob(sample.name):
            return "its source is still there"
        if code:
            kept = quarantine.get_blob(f"{upload}/{sample.name}")
            whole = kept and kept.size == sample.path.stat().st_size
            known = whole and kept.metadata["dropcap-reason"] == code
            return "" if known else "it is not in quarantine with its reason"
        for each in result["pictures"] if result else ():
            blob = pictures.get_blob(each["object"])
            if blob is None or (blob.size, blob.md5_hash) != (each["bytes"], each["md5"]):
                return f"{each['object']} is not as it was written"
        return "" if result and result["pictures"] else "nothing was published"
