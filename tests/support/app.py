"""The five functions as a test meets them: real buckets, a real database, the framework's own client."""

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


def event_of(upload: Upload) -> bytes:
    """The body of the event that tells of an upload: a StorageObjectData."""
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
    """An instance that has just started, and the means to look at what it did from outside."""

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
        self.sweeper = self._client("sweep", "http")
        self.gallery = self._client("gallery", "http")

    @staticmethod
    def _client(target: str, signature: str) -> FlaskClient:
        path = sys.path.copy()
        client: FlaskClient = create_app(target, MAIN, signature).test_client()
        sys.path[:] = path  # it appends a folder each time, and each search for a module looks there
        return client

    def restarted(self, **settings: str) -> "App":
        """A new instance on the same buckets and database."""
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
        """Deliver the event that Eventarc would; the HTTP status of the answer."""
        return self.post_event(event_of(upload))

    def post_event(self, body: bytes) -> int:
        """Deliver an event with this body to the function in this process."""
        return self.on_upload.post("/", data=body, headers=EVENT).status_code

    def analyze(self, **request: Any) -> TestResponse:
        return self.http.post("/", **request)

    def sweep(self, **query: str) -> dict[str, Any]:
        """What a sweep found and did, with all that a count of zero says nothing of left out."""
        answer = self.sweeper.post("/", query_string={"min_age_s": "0"} | query)
        assert answer.status_code == 200, answer.text
        return {name: value for name, value in answer.get_json().items() if value}

    def stats(self, user: str) -> dict[str, Any]:
        answer = self.progress.get("/", query_string={"user": user})
        assert answer.status_code == 200, answer.text
        return dict(answer.get_json())

    def objects(self, bucket: str) -> dict[str, Blob]:
        return {blob.name: blob for blob in self.storage.list_blobs(bucket)}


@contextmanager
def app(storage_url: str, **settings: str) -> Iterator[App]:
    """An instance on four new buckets, with these settings; the environment is the caller's to restore."""
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
        # The buckets end with the test worker's storage server, in memory: to empty them costs more than most
        # tests do.
        instance.services.database.close()


Start = Callable[..., App]


def rows(query: str, **values: object) -> list[list[Any]]:
    """What the database says, asked beside the product."""
    with closing(connect_to_schema(os.environ["DATABASE_URL"])) as connection:
        return list(connection.run(query, **values) or ())


def hear_ctrl_c() -> None:
    """For `preexec_fn`: what a shell starts in the background ignores Ctrl-C, as do its children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def small_png() -> bytes:
    """A picture that costs no time."""
    out = io.BytesIO()
    Image.new("RGB", (60, 40), "red").save(out, "PNG")
    return out.getvalue()


def problem(answer: TestResponse, status: int) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.mimetype == "application/problem+json"
    body = dict(json.loads(answer.text))
    assert body["status"] == status
    assert body["title"]
    assert body["detail"].endswith(".")
    assert body["remedy"]
    assert "Traceback" not in answer.text
    return body
