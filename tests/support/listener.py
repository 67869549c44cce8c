"""A stand-in for the consumer of events: a web server that records its requests and answers as configured.

At `/v1/projects/P/topics/T:publish` it follows the rules of Pub/Sub's REST API for publishing; it delivers
nothing.
"""

import base64
import json
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

PUBLISH = re.compile(r"/v1/projects/[a-z-]+/topics/(\w+):publish")
MOST, LONGEST = 1000, 1024  # messages of a request, bytes of an attribute: cloud.google.com/pubsub/quotas


@dataclass(frozen=True, slots=True)
class Received:
    """A request, or a Pub/Sub message, whose attributes are `headers`."""

    path: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def event(self) -> Any:
        return json.loads(self.body)


@dataclass
class Listener:
    """A server on 127.0.0.1 in threads of this process, which answers `status` after `wait_s`."""

    status: int = 204
    wait_s: float = 0.0
    topics: tuple[str, ...] = ("done",)
    received: list[Received] = field(default_factory=list)

    def __enter__(self) -> Self:
        self.over = threading.Event()
        self._server = _Server(("127.0.0.1", 0), type("H", (_Handler,), {"listener": self}))
        self.host = f"127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.over.set()  # ends all waits
        self._server.shutdown()
        self._server.server_close()

    def publish(self, path: str, topic: str, body: bytes) -> int:
        """Accept all messages or none, as Pub/Sub does; return the HTTP status."""
        if topic not in self.topics:
            return 404
        messages = json.loads(body)["messages"]
        if not 0 < len(messages) <= MOST:
            return 400
        for each in messages:
            if not all(0 < len(value.encode()) <= LONGEST for value in each["attributes"].values()):
                return 400
        for each in messages:
            self.received.append(
                Received(path, each["attributes"], base64.b64decode(each["data"], validate=True))
            )
        return 200


class _Server(ThreadingHTTPServer):
    def handle_error(self, *_: object) -> None:
        """Ignore clients that have disconnected."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    listener: Listener

    def do_POST(self) -> None:
        listener, status = self.listener, self.listener.status
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if found := PUBLISH.fullmatch(self.path):
            status = listener.publish(self.path, found[1], body)
        else:
            listener.received.append(Received(self.path, dict(self.headers), body))
        listener.over.wait(listener.wait_s)
        self.send_response(status)
        if 300 <= status < 400:
            self.send_header("Location", "/elsewhere")
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_POST

    def log_message(self, *_: object) -> None:
        """Ignore: tests check what was received."""
