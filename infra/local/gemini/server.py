"""A stand-in for the Gemini API on 127.0.0.1.

It speaks the wire protocol of both Python packages (`POST /v1beta/models/MODEL:generateContent`), parses
requests and builds responses with Google's own message definitions, decodes the picture that it received,
and describes what a program can see in it: size, format, main colours. Its texts and `modelVersion` say that
it is a stand-in. It accepts any non-empty key, in `x-goog-api-key` or `?key=`.

`GET /_calls` returns the number of requests by key.
"""

import importlib
import io
import json
import re
import sys
import threading
import time
from collections import Counter, deque
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import parse_qs, urlsplit

from google.protobuf import json_format
from PIL import Image, UnidentifiedImageError

from infra.local.gemini.description import describe
from infra.local.gemini.errors import INVALID_KEY, ApiError

if TYPE_CHECKING:  # takes a second, which `make run` need not wait for: the first picture loads it
    from google.ai.generativelanguage_v1beta.types import GenerateContentRequest

VERSION = "dropcap-stand-in"
PATH = re.compile(r"/v1beta/models/([\w.-]+):generateContent")
MAX_BODY = 20 * 2**20  # ai.google.dev/gemini-api/docs/image-understanding: a request with inline data
SHORTEST_DEADLINE_S = 10
# Newer than our copy of Google's definitions.
NEWER_FIELDS = {"propertyOrdering", "property_ordering", "mediaResolution", "media_resolution"}
# Tokens of a picture with Gemini 3: ai.google.dev/gemini-api/docs/media-resolution, as of 2026-11.
PICTURE_TOKENS = {
    f"MEDIA_RESOLUTION_{name}": tokens
    for name, tokens in (("UNSPECIFIED", 1120), ("LOW", 280), ("MEDIUM", 560), ("HIGH", 1120))
}


@dataclass(frozen=True, slots=True)
class Call:
    """A received request: `body` is its JSON, `at` its arrival in seconds of a monotonic clock."""

    model: str
    key: str
    at: float
    body: Any


class GeminiStandIn:
    """The stand-in, in threads of this process; `port` 0 takes a free one.

    `calls` holds the latest requests, oldest first. `model`, once set, replaces the model in each request.
    Subclasses override the methods from `resolve` to `deliver` to misbehave.
    """

    def __init__(self, port: int = 0) -> None:
        self.model = ""
        self.calls: deque[Call] = deque(maxlen=50)
        self.counts: Counter[str] = Counter()
        self.closing = threading.Event()
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
        _definition("GenerateContentRequest")  # loaded before the first request of a test
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
        request = _parse(fields)
        picture = _picture(request)
        self.check(model, key)
        prompt = next((part.text for content in request.contents for part in content.parts if part.text), "")
        asked = request.generation_config.response_schema.properties
        described = {name: value for name, value in describe(picture, prompt).items() if name in asked}
        # A text of which the schema allows one value alone: a model can only copy it.
        described |= {name: field.enum[0] for name, field in asked.items() if len(field.enum) == 1}
        read = _picture_tokens(fields) + len(prompt) // 4
        response = json_format.MessageToDict(
            _response(self.text(model, described, prompt), read), use_integers_for_enums=numeric
        )
        return self.response(model, response, numeric)

    def text(self, model: str, fields: dict[str, Any], prompt: str) -> str:
        """Return the text of the response: `fields` as JSON."""
        return json.dumps(fields)

    def response(self, model: str, response: dict[str, Any], numeric: bool) -> dict[str, Any]:
        """Return the response to send; its enums are numbers if `numeric`, as google-generativeai asks."""
        return response

    def deliver(self, model: str, body: bytes, handler: "Handler") -> None:
        """Send the response."""
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
            self.send(HTTPStatus.NOT_FOUND, ApiError(404).body)

    def do_POST(self) -> None:
        with suppress(ConnectionError):  # the client disconnected
            try:
                self._generate()
            except ApiError as error:
                self.send(error.code, error.body, error.headers)

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing: a URL may hold a key."""

    def _generate(self) -> None:
        address = urlsplit(self.path)
        query = parse_qs(address.query)
        length = int(self.headers.get("Content-Length", 0))
        if length > MAX_BODY:
            self.close_connection = True  # the rest of the body is not read
            raise ApiError(400, f"Request payload size exceeds the limit: {MAX_BODY} bytes.")
        body = self.rfile.read(length)
        key = self.headers.get("x-goog-api-key") or query.get("key", [""])[0]
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


def _without_newer(value: Any) -> Any:
    """Return JSON without NEWER_FIELDS."""
    if isinstance(value, dict):
        return {name: _without_newer(field) for name, field in value.items() if name not in NEWER_FIELDS}
    return [_without_newer(each) for each in value] if isinstance(value, list) else value


def _definition(name: str) -> Any:
    """Return one of Google's message definitions."""
    return getattr(importlib.import_module("google.ai.generativelanguage_v1beta.types"), name)


def _parse(fields: Any) -> "GenerateContentRequest":
    """Parse a request by Google's definition: camelCase or snake_case, enums as words or numbers."""
    definition = _definition("GenerateContentRequest")
    request: GenerateContentRequest = definition()
    if not isinstance(fields, dict):
        raise ApiError(400, "Invalid JSON payload received. Expected an object.")
    try:
        json_format.ParseDict(_without_newer(fields), definition.pb(request))
    except json_format.ParseError as wrong:
        raise ApiError(400, f"Invalid JSON payload received. {wrong}") from wrong
    if not any(content.parts for content in request.contents):
        raise ApiError(400, "* GenerateContentRequest.contents: contents is not specified")
    return request


def _picture(request: "GenerateContentRequest") -> Image.Image:
    """Return the first picture of a request, decoded."""
    for content in request.contents:
        for part in content.parts:
            if part.inline_data.data:
                try:
                    image = Image.open(io.BytesIO(part.inline_data.data))
                    image.load()
                except (UnidentifiedImageError, OSError) as wrong:
                    raise ApiError(400, "Unable to process input image.") from wrong
                return image
    raise ApiError(400, "The stand-in describes pictures alone, and this request has none.")


def _picture_tokens(fields: dict[str, Any]) -> int:
    """Return the tokens of a picture at the request's media resolution. Raises ApiError if it is unknown."""
    configuration = fields.get("generationConfig") or fields.get("generation_config") or {}
    resolution = configuration.get("mediaResolution", "MEDIA_RESOLUTION_UNSPECIFIED")
    if resolution not in PICTURE_TOKENS:
        raise ApiError(400, f"Invalid value at 'generation_config.media_resolution': {resolution!r}")
    return PICTURE_TOKENS[resolution]


def _response(text: str, read: int) -> Any:
    """Return the protobuf message of a complete response with this text to a prompt of `read` tokens."""
    tokens = {"prompt_token_count": read, "candidates_token_count": len(text) // 4}
    fields: dict[str, Any] = {
        "model_version": VERSION,
        "usage_metadata": tokens | {"total_token_count": sum(tokens.values())},
        "candidates": [{"content": {"role": "model", "parts": [{"text": text}]}, "finish_reason": "STOP"}],
    }
    definition = _definition("GenerateContentResponse")
    return definition.pb(definition(fields))
