"""What is outside of the limit: database, storage and Gemini's stand-in, and whoever looks at what became of
an upload."""

from collections.abc import Mapping
from contextlib import ExitStack, closing, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import UUID

from google.auth.credentials import AnonymousCredentials
from google.cloud.storage import Client

from dropcap.database import Database, connect
from dropcap.settings import Settings
from infra.local import Part
from infra.local.gemini import GeminiStandIn
from infra.local.postgres import Postgres
from infra.local.storage import Storage
from infra.prove.uploads import Sample

ROWS = """
SELECT u.id, u.state, u.reason_code, u.reason, a.result
FROM uploads u LEFT JOIN analyses a USING (id) WHERE u.name = :name
"""


@dataclass(frozen=True, slots=True)
class Fate:
    """What became of an upload: `analyzed`, `rejected` with its code, or `lost`; and why."""

    state: str
    code: str = ""
    why: str = ""
    decoder: str = ""


class Outside(Part):
    """The parts around a function, with new data; `environment` is how the function finds them."""

    def __init__(self, logs: Path) -> None:
        self.logs = logs
        self.environment: dict[str, str] = {}
        self._settings = Settings.read()
        self._exit = ExitStack()

    def start(self) -> None:
        folder = Path(self._exit.enter_context(TemporaryDirectory(prefix="dropcap-prove-")))
        storage = self._exit.enter_context(Storage(folder / "objects", self.logs))
        for bucket in self._buckets():
            storage.create_bucket(bucket)
        self._database_url = self._exit.enter_context(Postgres(folder / "postgres")).database("dropcap")
        database = Database(Settings(database_url=self._database_url))
        with closing(database), (self.logs / "schema.log").open("w") as log, redirect_stdout(log):
            database.prepare()  # a new instance finds its tables, as nearly all do
        self.environment = {
            "DATABASE_URL": self._database_url,
            "STORAGE_EMULATOR_HOST": storage.url,
            "GOOGLE_CLOUD_PROJECT": "dropcap-local",
            "GEMINI_API_KEY": "stand-in",
            "GEMINI_ENDPOINT": self._exit.enter_context(GeminiStandIn()).url,
        }
        self._client = Client(
            "dropcap-local", AnonymousCredentials(), client_options={"api_endpoint": storage.url}
        )

    def close(self) -> None:
        self._exit.close()

    def upload(self, sample: Sample) -> Mapping[str, Any]:
        """Put a file into the bucket; the object's resource, for its event."""
        blob = self._client.bucket(self._settings.uploads_bucket).blob(sample.name)
        blob.metadata = {"tz": "Europe/Madrid"}
        blob.upload_from_filename(sample.path)
        facts = {"generation": str(blob.generation), "size": str(blob.size), "metadata": blob.metadata}
        return facts | {"bucket": blob.bucket.name, "name": blob.name, "contentType": blob.content_type}

    def let_leases_run_out(self) -> None:
        """What a killed instance held is free again, as it would be in a while."""
        with closing(connect(self._database_url)) as connection:
            connection.run("UPDATE uploads SET lease_until = now()")

    def fate(self, sample: Sample) -> Fate:
        """What became of an upload, by the database's word and by what lies in the buckets."""
        with closing(connect(self._database_url)) as connection:
            rows = connection.run(ROWS, name=sample.name) or []
        if [row[1] for row in rows] != ["done"]:
            return Fate("lost", why=f"in the database it is {[row[1] for row in rows] or 'unknown'}")
        [[upload, _, code, reason, result]] = rows
        missing = self._missing(upload, sample, code, result)
        if missing:
            return Fate("lost", code, missing)
        if code:
            return Fate("rejected", code, reason)
        return Fate("analyzed", decoder=result["picture"]["decoder"])

    def naive_fate(self, sample: Sample, answered: bool) -> Fate:
        """What became of an upload to naive.py, which writes its smallest picture last."""
        if not answered:
            return Fate("lost", why="it was never acknowledged")
        published = self._client.bucket(self._settings.pictures_bucket).get_blob(f"{sample.name}/200.webp")
        return Fate("analyzed" if published else "rejected")

    def _missing(self, upload: UUID, sample: Sample, code: str, result: Mapping[str, Any] | None) -> str:
        """What is not as it should be, or nothing."""
        uploads, pictures, quarantine = map(self._client.bucket, self._buckets())
        if uploads.get_blob(sample.name):
            return "its source is still there"
        if code:
            kept = quarantine.get_blob(f"{upload}/{sample.name}")
            whole = kept and kept.size == sample.path.stat().st_size and kept.metadata["reason"] == code
            return "" if whole else "it is not in quarantine with its reason"
        for each in result["pictures"] if result else ():
            blob = pictures.get_blob(each["object"])
            if blob is None or (blob.size, blob.md5_hash) != (each["bytes"], each["md5"]):
                return f"{each['object']} is not as it was written"
        return "" if result and result["pictures"] else "nothing was published"

    def _buckets(self) -> tuple[str, str, str]:
        settings = self._settings
        return settings.uploads_bucket, settings.pictures_bucket, settings.quarantine_bucket
