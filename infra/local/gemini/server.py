"""A stand-in for the Gemini API on 127.0.0.1.

It speaks the wire protocol of both Python packages (`POST /v1beta/models/MODEL:generateContent`), parses
requests and builds responses with Google's own message definitions, decodes the picture that it received,
and describes what a program can see in it: size, format, main colours. Its texts and `modelVersion` say that
it is a stand-in. It accepts any non-empty key, in `x-goog-api-key` or `?key=`.

`GET /_calls` returns the number of requests by key. Batches (batches.py) are described as well.
"""

import json
import re
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

from google.protobuf import json_format

from infra.local.gemini.batches import Batches
from infra.local.gemini.description import describe
from infra.local.gemini.errors import INVALID_KEY, ApiError
from infra.local.gemini.messages import VERSION, definition, parse, picture_in, picture_tokens, response_to

PATH = re.compile(r"/v1beta/models/([\w.-]+):(generateContent|batchGenerateContent)")
BATCH = re.compile(r"/v1beta/(batches/[\w-]+)(:cancel)?")
BATCHES = "/v1beta/batches"
BATCH_S = 5.0  # after which a batch has succeeded; Google says within 24 hours
MAX_BODY = 20 * 2**20  # ai.google.dev/gemini-api/docs/image-understanding: a request with inline data
SHORTEST_DEADLINE_S = 10


@dataclass(frozen=True, slots=True)
class Call:
    """A received request: `body` is its JSON, `at` its arrival in seconds of a monotonic clock."""

    model: str
    key: str
    at: float
    body: Any


class GeminiStandIn:
    """The stand-in, in threads of this process; `port` 0 takes a free one.

    `calls` holds the latest requests, oldest first. `model`, once set, replaces the model in each request;
    `latency_s` is how long each response takes, s.
    Subclasses override the methods from `resolve` to `deliver` to misbehave.
    """

    def __init__(self, port: int = 0) -> None:
        self.model, self.latency_s = "", 0.0
        self.calls: deque[Call] = deque(maxlen=50)
        self.counts: Counter[str] = Counter()
        self.closing = threading.Event()
        self.batches = Batches(self)
        handler = type("Handler", (Handler,), {"stand_in": self})
        self._server = _Server(("127.0.0.1", port), handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def serve(self) -> None:
        """Serve until `close` is called or the thread is interrupted."""
        self._server.serve_forever(poll_interval=0.1)

    def close(self) -> None:
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()

    def __enter__(self) -> Self:
        definition("GenerateContentRequest")  # loaded before the first request of a test
        threading.Thread(target=self.serve, name="gemini-stand-in", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def resolve(self, model: str, key: str) -> str:
        """Return the model that serves this request. Raises ApiError if there is none of that name."""
        if not model.startswith("gemini-"):
            raise ApiError(404)
        return model

    def check(self, model: str, key: str) -> None:
        """Raise ApiError if this model refuses a valid request."""

    def generate(self, model: str, key: str, fields: Any, numeric: bool = False) -> dict[str, Any]:
        """Return the response to a GenerateContentRequest, given as JSON. Raises ApiError."""
        self.closing.wait(self.latency_s)
        request = parse(fields)
        picture = picture_in(request)
        self.check(model, key)
        prompt = next((part.text for content in request.contents for part in content.parts if part.text), "")
        asked = request.generation_config.response_schema.properties
        described = {name: value for name, value in describe(picture, prompt).items() if name in asked}
        # A text of which the schema allows one value alone: a model can only copy it.
        described |= {name: field.enum[0] for name, field in asked.items() if len(field.enum) == 1}
        read = picture_tokens(fields) + len(prompt) // 4
        response = json_format.MessageToDict(
            response_to(self.text(model, described, prompt), read), use_integers_for_enums=numeric
        )
        return self.response(model, response, numeric)

    def text(self, model: str, fields: dict[str, Any], prompt: str) -> str:
        """Return the text of the response: `fields` as JSON."""
        return json.dumps(fields)

    def response(self, model: str, response: dict[str, Any], numeric: bool) -> dict[str, Any]:
        """Return the response to send; its enums are numbers if `numeric`, as google-generativeai asks."""
        return response

    def check_batch(self, model: str, key: str) -> None:
        """Raise ApiError if a batch of this model is refused."""
        self.check(model, key)

    def batch_state(self, model: str, age_s: float) -> str:
        """Return the state of a batch that was created so many seconds ago and not cancelled."""
        return "SUCCEEDED" if age_s >= BATCH_S else "RUNNING"

    def batch_responses(self, model: str, responses: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return the responses of a batch."""
        return responses

    def deliver(self, model: str, body: bytes, handler: "Handler") -> None:
        """Send the response, or a batch that was created."""
        handler.send(HTTPStatus.OK, body)


class _Server(ThreadingHTTPServer):
    request_queue_size = 128  # the usual 5 turns away a burst of pictures

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log nothing if the client disconnected (a test may have killed it), else the stack trace."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = VERSION
    stand_in: GeminiStandIn

    def do_GET(self) -> None:
        if self.path == "/_calls":
            self.send(HTTPStatus.OK, self.stand_in.counts)
        else:
            self._answer(self._read_batches)

    def do_POST(self) -> None:
        self._answer(self._cancel if self.path.partition("?")[0].endswith(":cancel") else self._generate)

    def do_DELETE(self) -> None:
        self._answer(lambda: self._send_batch(self.stand_in.batches.delete))

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing: a URL may hold a key."""

    def _answer(self, work: Callable[[], None]) -> None:
        with suppress(ConnectionError):  # the client disconnected
            try:
                work()
            except ApiError as error:
                self.send(error.code, error.body, error.headers)

    def _key(self) -> str:
        query = parse_qs(urlsplit(self.path).query)
        return str(self.headers.get("x-goog-api-key") or query.get("key", [""])[0])

    def _read_batches(self) -> None:
        address = urlsplit(self.path)
        if address.path == BATCHES:
            query = {name: values[0] for name, values in parse_qs(address.query).items()}
            page = int(query.get("pageSize", 0)), query.get("pageToken", "")
            self.send(HTTPStatus.OK, self.stand_in.batches.page(self._key(), *page))
        else:
            self._send_batch(self.stand_in.batches.get)

    def _cancel(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self._send_batch(self.stand_in.batches.cancel)

    def _send_batch(self, work: Callable[[str, str], dict[str, Any]]) -> None:
        """Send what the work on the batch in the URL returns."""
        found = BATCH.fullmatch(urlsplit(self.path).path)
        if not found:
            raise ApiError(404)
        self.send(HTTPStatus.OK, work(found[1], self._key()))

    def _generate(self) -> None:
        address = urlsplit(self.path)
        query = parse_qs(address.query)
        length = int(self.headers.get("Content-Length", 0))
        if length > MAX_BODY:
            self.close_connection = True  # the rest of the body is not read
            raise ApiError(400, f"Request payload size exceeds the limit: {MAX_BODY} bytes.")
        body = self.rfile.read(length)
        key = self._key()
        path = PATH.fullmatch(address.path)
        model = self.stand_in.model or (path[1] if path else "")
        self.stand_in.counts[key] += 1
        fields = _json(body)
        self.stand_in.calls.append(Call(model, key, time.monotonic(), fields))
        model = self.stand_in.resolve(model, key)
        if not key.strip():
            raise INVALID_KEY
        if 0 < float(self.headers.get("X-Server-Timeout", 0)) < SHORTEST_DEADLINE_S:
            raise ApiError(400, "Manually set deadline is too short. Minimum allowed deadline is 10s.")
        if path and path[2] == "batchGenerateContent":
            response = self.stand_in.batches.create(model, key, fields)
        else:
            numeric = "enum-encoding=int" in query.get("$alt", [""])[0]
            response = self.stand_in.generate(model, key, fields, numeric)
        self.stand_in.deliver(model, json.dumps(response).encode(), self)

    def send(self, code: int, body: Any, headers: dict[str, str] | None = None) -> None:
        """Send a whole response; a body that is not bytes is sent as JSON."""
        content = body if isinstance(body, bytes) else json.dumps(body, indent=2).encode()
        self.send_head(code, len(content), headers)
        self.wfile.write(content)

    def send_head(self, code: int, length: int, headers: dict[str, str] | None = None) -> None:
        """Send status and headers."""
        usual = {"Content-Type": "application/json; charset=UTF-8", "Content-Length": str(length)}
        self.send_response(code)
        for name, value in (usual | (headers or {})).items():
            self.send_header(name, value)
        self.end_headers()


def _json(body: bytes) -> Any:
    """Return the parsed body; None if it is not JSON."""
    try:
        return json.loads(body)
    except ValueError:
        return None
