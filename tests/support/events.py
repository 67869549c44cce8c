"""A listener for the events of the local storage, and Google's client for that storage."""

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from google.auth.credentials import AnonymousCredentials
from google.cloud.storage import Client

from infra.local.storage.server import Storage

WATCHED = "uploads"  # the bucket whose events are sent
WAIT_S = 20


class Receiver(BaseHTTPRequestHandler):
    """Where events go: notes each, and answers 500 to as many as it was told to."""

    server: "Functions"

    def do_POST(self) -> None:
        data = json.loads(self.rfile.read(int(self.headers["content-length"])))
        with self.server.lock:
            self.server.received.append(({key.lower(): value for key, value in self.headers.items()}, data))
            refuse = self.server.refusals > 0
            self.server.refusals -= refuse
        self.send_response(500 if refuse else 200)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


class Functions(ThreadingHTTPServer):
    """An address that takes events, as the functions' would."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Receiver)
        self.lock = threading.Lock()
        self.received: list[tuple[dict[str, str], dict[str, Any]]] = []
        self.refusals = 0

    def events(self, name: str, count: int = 1) -> list[tuple[dict[str, str], dict[str, Any]]]:
        """Return the first `count` events for objects of that name; wait for them."""
        deadline = time.monotonic() + WAIT_S
        while time.monotonic() < deadline:
            found = [each for each in self.received if each[1]["name"] == name]
            if len(found) >= count:
                return found
            time.sleep(0.02)
        raise AssertionError(f"{count} events for {name} did not come: {self.received}")


@pytest.fixture(scope="module")
def functions() -> Iterator[Functions]:
    """Start one listener for each test module."""
    with Functions() as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture(scope="module")
def watched_storage(functions: Functions, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Storage]:
    """Start a storage server with files, as `make run` has it; events of one of its buckets are sent."""
    folder = tmp_path_factory.mktemp("storage")
    url = f"http://127.0.0.1:{functions.server_port}/"
    with Storage(folder / "objects", folder / "logs", events_to=url, watch=[WATCHED]) as storage:
        storage.create_bucket(WATCHED)
        yield storage


def client_of(storage: Storage) -> Client:
    return Client("demo", AnonymousCredentials(), client_options={"api_endpoint": storage.url})
