"""The five functions as tests call them: real buckets, a real database, the framework's own client."""

import io
import json
import os
import shutil
import signal
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient
from functions_framework import create_app
from google.cloud.storage import Blob, Client
from PIL import Image
from werkzeug.test import TestResponse

from dropcap import services
from dropcap.database.connection import connect_to_schema
from dropcap.domain.upload import Upload

# Without gcloud, what needs it is skipped by name; in CI it must not be, and fails.
NO_GCLOUD = not shutil.which("gcloud") and "CI" not in os.environ
ROOT = Path(__file__).parents[2]
MAIN = str(ROOT / "functions" / "main.py")
SAMPLES = ROOT / "infra" / "samples"
EXPECTED: dict[str, str] = json.loads((SAMPLES / "samples.json").read_text())
NAME, CAPTION = next(iter(EXPECTED.items()))
PICTURE = (SAMPLES / NAME).read_bytes()

EVENT = {
    "ce-specversion": "1.0",
    "ce-id": "1",
    "ce-type": "google.cloud.storage.object.v1.finalized",
    "ce-source": "//storage.googleapis.com/projects/_/buckets/uploads",
    "content-type": "application/json",
}

OWN = {"Sec-Fetch-Site": "same-origin"}  # what a browser sends from the gallery's own pages
JSON = {"Accept": "application/json"}
OWN_JSON = OWN | JSON


def event_of(upload: Upload) -> bytes:
    """Return the body of an upload's event: a StorageObjectData."""
    data = {
        "bucket": upload.bucket,
        "name": upload.name,
        "generation": str(upload.generation),
        "size": str(upload.size),
        "contentType": upload.content_type,
        "metadata": dict(upload.metadata),
    }
    return json.dumps(data).encode()


@dataclass
class App:
    """An instance that has just started, and what it stored."""

    storage: Client
    uploads: str
    pictures: str
    quarantine: str

    def __post_init__(self) -> None:
        services.start.cache_clear()  # a new instance reads its settings anew
        self.services = services.start()
        self.on_upload = self._client("on_upload", "cloudevent")
        self.http = self._client("analyze", "http")
        self.progress = self._client("get_progress_stats", "http")
        self.sweep = self._client("sweep", "http")
        self.gallery = self._client("gallery", "http")

    @staticmethod
    def _client(target: str, signature: str) -> FlaskClient:
        path = sys.path.copy()
        client: FlaskClient = create_app(target, MAIN, signature).test_client()
        sys.path[:] = path  # it appends a folder each time, and each search for a module looks there
        return client

    def restarted(self, **settings: str) -> "App":
        """Return a new instance on the same buckets and database."""
        self.services.database.close()
        os.environ.update(settings)
        return App(self.storage, self.uploads, self.pictures, self.quarantine)

    def upload(self, name: str, data: bytes, content_type: str = "image/jpeg", **metadata: str) -> Upload:
        """Put an object into the uploads bucket with the real client."""
        blob = self.storage.bucket(self.uploads).blob(name)
        blob.metadata = metadata
        blob.upload_from_string(data, content_type=content_type)
        return Upload(self.uploads, name, int(blob.generation), len(data), content_type, metadata)

    def deliver(self, upload: Upload) -> int:
        """Deliver the upload's event as Eventarc does; return the HTTP status."""
        return self.post_event(event_of(upload))

    def post_event(self, body: bytes) -> int:
        """Deliver an event with this body; return the HTTP status."""
        return self.on_upload.post("/", data=body, headers=EVENT).status_code

    def analyze(self, **request: Any) -> TestResponse:
        return self.http.post("/", **request)

    def reconcile(self, **query: str) -> dict[str, Any]:
        """Call the function `sweep` and return its counts, without those that are zero."""
        answer = self.sweep.post("/", query_string={"min_age_s": "0"} | query)
        assert answer.status_code == 200, answer.text
        return {name: value for name, value in answer.get_json().items() if value}

    def delete(self, picture: object, user: str = "ana") -> TestResponse:
        """Delete a picture as a program does in the gallery."""
        path = f"/gallery/picture/{picture}/delete"
        return self.gallery.post(path, query_string={"user": user}, headers=OWN_JSON)

    def stats(self, user: str) -> dict[str, Any]:
        answer = self.progress.get("/", query_string={"user": user})
        assert answer.status_code == 200, answer.text
        return dict(answer.get_json())

    def objects(self, bucket: str) -> dict[str, Blob]:
        return {blob.name: blob for blob in self.storage.list_blobs(bucket)}


@contextmanager
def app(storage_url: str, **settings: str) -> Iterator[App]:
    """Start an instance on four new buckets with these settings; the caller restores the environment."""
    os.environ.update(STORAGE_EMULATOR_HOST=storage_url, GOOGLE_CLOUD_PROJECT="dropcap")
    client = Client()
    suffix = uuid.uuid4().hex[:12]
    names = [f"{word}-{suffix}" for word in ("uploads", "pictures", "quarantine", "archive")]
    for name in names:
        client.create_bucket(name)
    variables = ("UPLOADS_BUCKET", "PICTURES_BUCKET", "QUARANTINE_BUCKET", "ARCHIVE_BUCKET")
    os.environ.update(zip(variables, names, strict=True))
    os.environ.update(settings)
    instance = App(client, *names[:3])
    try:
        yield instance
    finally:
        # The buckets are in the memory of the test worker's storage server: emptying them takes longer than
        # most tests.
        instance.services.database.close()


Start = Callable[..., App]


def rows(query: str, **values: object) -> list[list[Any]]:
    """Query the database on a connection of the test's own."""
    with closing(connect_to_schema(os.environ["DATABASE_URL"])) as connection:
        return list(connection.run(query, **values) or ())


def hear_ctrl_c() -> None:
    """Let a `preexec_fn` child handle Ctrl-C, which background processes of a shell ignore."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def expire_leases() -> None:
    rows("UPDATE uploads SET lease_until = now()")


def log_lines(captured: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    """Return the JSON log lines printed since the last call."""
    return [json.loads(line) for line in captured.readouterr().out.splitlines() if line.startswith("{")]


def at_next_call(
    monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, action: Callable[[], object], after: bool = False
) -> None:
    """Run `action` once, right before or `after` the next call of `owner.name`."""
    original = getattr(owner, name)

    def patched(*arguments: Any, **options: Any) -> Any:
        monkeypatch.setattr(owner, name, original)
        if after:
            result = original(*arguments, **options)
            action()
            return result
        action()
        return original(*arguments, **options)

    monkeypatch.setattr(owner, name, patched)


def small_png() -> bytes:
    """Return a picture that takes no time to decode."""
    out = io.BytesIO()
    Image.new("RGB", (60, 40), "red").save(out, "PNG")
    return out.getvalue()


class UnreadBody(io.BytesIO):
    """A request body that fails the test when it is read."""

    def read(self, size: int | None = -1) -> bytes:
        raise AssertionError("the body was read")


def problem(answer: TestResponse, status: int) -> dict[str, Any]:
    """Check that an answer is a problem document with this status, and return it."""
    assert answer.status_code == status, answer.text
    assert answer.mimetype == "application/problem+json"
    body = dict(json.loads(answer.text))
    assert body["status"] == status
    assert body["title"]
    assert body["detail"].endswith(".")
    assert body["remedy"]
    assert "Traceback" not in answer.text
    return body
