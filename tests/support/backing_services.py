"""The services that a function needs: PostgreSQL, Cloud Storage and Gemini's stand-in, with new data."""

from collections.abc import Mapping
from contextlib import ExitStack, closing, redirect_stdout
from http import HTTPStatus
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import requests
from google.auth.credentials import AnonymousCredentials
from google.cloud.storage import Client

from dropcap import logs
from dropcap.database.transactions import Database
from dropcap.settings import SCHEMA, Settings
from infra.local import Part
from infra.local.postgres import Postgres
from infra.local.storage.server import Storage
from tests.support.gemini_faults import FaultyGemini


class BackingServices(Part):
    """The services; `environment` has the variables that lead a function to them.

    Objects are files, or in memory if `in_memory`; `options` are arguments of PostgreSQL.
    """

    def __init__(
        self, logs: Path, settings: Settings, in_memory: bool = False, options: tuple[str, ...] = ()
    ) -> None:
        self.logs = logs
        self.settings = settings
        self.environment: dict[str, str] = {}
        self._in_memory = in_memory
        self._options = options
        self._exit = ExitStack()

    def start(self) -> None:
        folder = Path(self._exit.enter_context(TemporaryDirectory(prefix="dropcap-")))
        objects = None if self._in_memory else folder / "objects"
        storage = self._exit.enter_context(Storage(objects, self.logs))
        for bucket in self.buckets:
            storage.create_bucket(bucket)
        self.postgres = self._exit.enter_context(Postgres(folder / "postgres", options=self._options))
        self.database_url = self.postgres.database("dropcap")
        database = Database(Settings(database_url=self.database_url))
        with closing(database), (self.logs / "schema.log").open("w") as log, redirect_stdout(log):
            logs.configure()
            database.prepare()  # new instances then find their tables, as nearly all do
        self.gemini = self._exit.enter_context(FaultyGemini())
        self.environment = {
            "DATABASE_URL": self.database_url,
            "DATABASE_SCHEMA": SCHEMA,
            "STORAGE_EMULATOR_HOST": storage.url,
            "GOOGLE_CLOUD_PROJECT": "dropcap-local",
            "GEMINI_API_KEY": "stand-in",
            "GEMINI_ENDPOINT": self.gemini.url,
        }
        self.client = Client(
            "dropcap-local", AnonymousCredentials(), client_options={"api_endpoint": storage.url}
        )

    def close(self) -> None:
        self._exit.close()

    @property
    def buckets(self) -> tuple[str, ...]:
        """Uploads, pictures, quarantine, and the archive if the settings name one."""
        settings = self.settings
        named = (settings.uploads_bucket, settings.pictures_bucket, settings.quarantine_bucket)
        return (*named, settings.archive_bucket) if settings.archive_bucket else named

    def put(self, name: str, content: bytes | Path) -> Mapping[str, Any]:
        """Put an object into the uploads bucket; return its resource, for its event."""
        blob = self.client.bucket(self.settings.uploads_bucket).blob(name)
        blob.metadata = {"tz": "Europe/Madrid"}
        if isinstance(content, Path):
            blob.upload_from_filename(content)
        else:
            blob.upload_from_string(content, content_type="application/octet-stream")
        facts = {"generation": str(blob.generation), "size": str(blob.size), "metadata": blob.metadata}
        return facts | {"bucket": blob.bucket.name, "name": blob.name, "contentType": blob.content_type}


def post_event(url: str, headers: Mapping[str, str], body: bytes, timeout_s: float) -> str:
    """Deliver an event once; return "answered", "busy", "refused", "late" or "broken off"."""
    try:
        status = requests.post(url, body, headers=dict(headers), timeout=timeout_s).status_code
    except requests.Timeout:
        return "late"
    except requests.ConnectionError:
        return "broken off"
    outcomes = {HTTPStatus.OK: "answered", HTTPStatus.SERVICE_UNAVAILABLE: "busy"}
    return outcomes.get(HTTPStatus(status), "refused")
