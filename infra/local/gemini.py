"""A stand-in for the Gemini API, for machines that can't or need not reach Google's servers.

It speaks the wire protocol of both Python packages (`POST /v1beta/models/MODEL:generateContent`), reads
requests and writes answers by Google's own message definitions, decodes the picture that it really
received, and describes what a program can see in it: size, format, main colours. It says in its answers and
in `modelVersion` that it is a stand-in. Any non-empty key will do, in `x-goog-api-key` or `?key=`.
Models named `fault-...` misbehave: the table in gemini_faults.py tells how.

`GET /_calls` answers the number of requests by key.
"""

import argparse
import colorsys
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

from infra.local import gemini_faults
from infra.local.gemini_faults import Refusal

if TYPE_CHECKING:  # a second that `make run` need not wait for: the first picture loads it
    from google.ai.generativelanguage_v1beta.types import GenerateContentRequest, GenerateContentResponse

VERSION = "dropcap-stand-in"
PATH = re.compile(r"/v1beta/models/([\w.-]+):generateContent")
MAX_BODY = 20 * 2**20  # ai.google.dev/gemini-api/docs/image-understanding: a request with inline data
SHORTEST_DEADLINE_S = 10
NEWER_FIELDS = {"propertyOrdering", "property_ordering"}
LANGUAGE = re.compile(r"Write in the language of the BCP 47 tag (\S+)\.")
HUES = ((15, "red"), (45, "orange"), (70, "yellow"), (160, "green"), (200, "turquoise"), (260, "blue"))


@dataclass(frozen=True, slots=True)
class Call:
    """A request as it came: `body` is its JSON, `at` the instant in seconds of a monotonic clock."""

    model: str
    key: str
    at: float
    body: Any


class GeminiStandIn:
    """The stand-in on 127.0.0.1, in threads of this process; `port` 0 takes a free one.

    `calls` holds the latest requests, oldest first. `model`, once set, answers whichever model is asked.
    """

    def __init__(self, port: int = 0) -> None:
        self.model = ""
        self.calls: deque[Call] = deque(maxlen=50)
        self.counts: Counter[str] = Counter()
        self.closing = threading.Event()
        handler = type("Handler", (_Handler,), {"stand_in": self})
        self._server = _Server(("127.0.0.1", port), handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def serve(self) -> None:
        """Answer until `close` is called or the thread is interrupted."""
        self._server.serve_forever(poll_interval=0.1)

    def close(self) -> None:
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()

    def __enter__(self) -> Self:
        _definition("GenerateContentRequest")  # no test's first request waits for it
        threading.Thread(target=self.serve, name="gemini-stand-in", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Server(ThreadingHTTPServer):
    request_queue_size = 128  # the usual 5 turns away a burst of pictures

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Silence where the client is gone, killed perhaps; else a stack trace, as usual."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = VERSION
    stand_in: GeminiStandIn

    def do_GET(self) -> None:
        if self.path == "/_calls":
            self._send(HTTPStatus.OK, self.stand_in.counts)
        else:
            self._send(HTTPStatus.NOT_FOUND, Refusal(404).body)

    def do_POST(self) -> None:
        with suppress(ConnectionError):  # the client gave up
            try:
                self._generate()
            except Refusal as refusal:
                self._send(refusal.code, refusal.body, refusal.headers)

    def log_message(self, format: str, *args: Any) -> None:
        """Silence: an address may hold a key."""

    def _generate(self) -> None:
        address = urlsplit(self.path)
        query = parse_qs(address.query)
        length = int(self.headers.get("Content-Length", 0))
        if length > MAX_BODY:
            self.close_connection = True  # the rest of it is not read
            raise Refusal(400, f"Request payload size exceeds the limit: {MAX_BODY} bytes.")
        body = self.rfile.read(length)
        key = self.headers.get("x-goog-api-key") or query.get("key", [""])[0]
        path = PATH.fullmatch(address.path)
        model = self.stand_in.model or (path[1] if path else "")
        self.stand_in.counts[key] += 1
        if model.startswith("fault-once-"):
            first = self.stand_in.counts[key] == 1
            model = model.replace("once-", "") if first else "gemini-that-is-well"
        fields = _json(body)
        self.stand_in.calls.append(Call(model, key, time.monotonic(), fields))
        if not model.startswith(("gemini-", "fault-")):
            raise Refusal(404)
        if not key.strip():
            raise gemini_faults.BAD_KEY
        if 0 < float(self.headers.get("X-Server-Timeout", 0)) < SHORTEST_DEADLINE_S:
            raise Refusal(400, "Manually set deadline is too short. Minimum allowed deadline is 10s.")
        request = _parse(fields)
        picture = _picture(request)
        gemini_faults.refuse(model, key)
        numbers = "enum-encoding=int" in query.get("$alt", [""])[0]
        answer = json_format.MessageToDict(
            _definition("GenerateContentResponse").pb(_answer(model, request, picture, len(body))),
            use_integers_for_enums=numbers,
        )
        self._deliver(model, json.dumps(gemini_faults.spoilt(model, answer, numbers)).encode())

    def _deliver(self, model: str, answer: bytes) -> None:
        match model:
            case "fault-page":
                self._send(HTTPStatus.OK, b"<html><body>Sign in to the hotel's network</body></html>")
            case "fault-proxy":
                self._send(HTTPStatus.BAD_GATEWAY, "upstream closed the connection")
            case "fault-slow":
                self.stand_in.closing.wait()
                self.close_connection = True
            case "fault-drip" | "fault-cut":
                self.close_connection = True
                self._head(HTTPStatus.OK, len(answer))
                for byte in answer[:-1]:
                    self.wfile.write(bytes([byte]))
                    if model == "fault-drip" and self.stand_in.closing.wait(0.2):
                        break
            case _:
                self._send(HTTPStatus.OK, answer)

    def _send(self, code: int, body: Any, headers: dict[str, str] | None = None) -> None:
        content = body if isinstance(body, bytes) else json.dumps(body, indent=2).encode()
        self._head(code, len(content), headers)
        self.wfile.write(content)

    def _head(self, code: int, length: int, headers: dict[str, str] | None = None) -> None:
        usual = {"Content-Type": "application/json; charset=UTF-8", "Content-Length": str(length)}
        self.send_response(code)
        for name, value in (usual | (headers or {})).items():
            self.send_header(name, value)
        self.end_headers()


def _json(body: bytes) -> Any:
    """The body without the fields that are newer than our copy of Google's definition; None for no JSON."""
    try:
        return json.loads(
            body,
            object_hook=lambda fields: {name: fields[name] for name in fields if name not in NEWER_FIELDS},
        )
    except ValueError:
        return None


def _definition(name: str) -> Any:
    """One of Google's own definitions of a message."""
    return getattr(importlib.import_module("google.ai.generativelanguage_v1beta.types"), name)


def _parse(fields: Any) -> "GenerateContentRequest":
    """The request by Google's definition: camelCase or snake_case, enumerations as words or numbers."""
    definition = _definition("GenerateContentRequest")
    request: GenerateContentRequest = definition()
    if not isinstance(fields, dict):
        raise Refusal(400, "Invalid JSON payload received. Expected an object.")
    try:
        json_format.ParseDict(fields, definition.pb(request))
    except json_format.ParseError as wrong:
        raise Refusal(400, f"Invalid JSON payload received. {wrong}") from wrong
    if not any(content.parts for content in request.contents):
        raise Refusal(400, "* GenerateContentRequest.contents: contents is not specified")
    return request


def _picture(request: "GenerateContentRequest") -> Image.Image:
    for content in request.contents:
        for part in content.parts:
            if part.inline_data.data:
                try:
                    image = Image.open(io.BytesIO(part.inline_data.data))
                    image.load()
                except (UnidentifiedImageError, OSError) as wrong:
                    raise Refusal(400, "Unable to process input image.") from wrong
                return image
    raise Refusal(400, "The stand-in describes pictures alone, and this request has none.")


def _answer(
    model: str, request: "GenerateContentRequest", picture: Image.Image, size: int
) -> "GenerateContentResponse":
    text = _text(model, request, picture)
    tokens = {"prompt_token_count": 258 + size // 10_000, "candidates_token_count": len(text) // 4}
    answer: dict[str, Any] = {
        "model_version": VERSION,
        "usage_metadata": tokens | {"total_token_count": sum(tokens.values())},
        "candidates": [{"content": {"role": "model", "parts": [{"text": text}]}, "finish_reason": "STOP"}],
    }
    response: GenerateContentResponse = _definition("GenerateContentResponse")(answer)
    return response


def _text(model: str, request: "GenerateContentRequest", picture: Image.Image) -> str:
    """The model's text: JSON with the fields that the request's schema asks for."""
    size = f"{picture.width} x {picture.height} px"
    colours = main_colours(picture)
    asked = next((part.text for content in request.contents for part in content.parts if part.text), "")
    language = LANGUAGE.search(asked)
    excuse = f" It knows no {language[1]}." if language else ""
    fields: dict[str, Any] = {
        "description": f"This is Dropcap's stand-in speaking, not Gemini. It received a {picture.format} "
        f"picture of {size}, mainly {' and '.join(colours)}.{excuse}",
        "caption": f"{' and '.join(colours)}, says a stand-in".capitalize(),
        "alt_text": f"A {size} {picture.format} picture, mainly {' and '.join(colours)} (from a stand-in)",
        "tags": ["stand-in", *colours],
        "text": "",
        "safety": {"level": "none", "categories": [], "reason": "The stand-in knows colours alone."},
    }
    wanted = request.generation_config.response_schema.properties
    fields = {name: value for name, value in fields.items() if name in wanted}
    return gemini_faults.text(model, fields, asked)


def main_colours(picture: Image.Image) -> list[str]:
    """At most three names of colours that cover at least a tenth of the picture each, the largest first."""
    pixels = picture.convert("RGB").resize((48, 48), Image.Resampling.BOX).tobytes()
    names = Counter(colour_name(*pixels[start : start + 3]) for start in range(0, len(pixels), 3))
    common = names.most_common(3)
    return [name for name, count in common if count >= 48 * 48 // 10] or [common[0][0]]


def colour_name(red: int, green: int, blue: int) -> str:
    """A plain English name for an RGB colour."""
    hue, saturation, value = colorsys.rgb_to_hsv(red / 255, green / 255, blue / 255)
    if value < 0.2:
        return "black"
    if saturation < 0.15:
        return "white" if value > 0.85 else "grey"
    degrees = hue * 360
    if degrees < 45 and value < 0.65:
        return "brown"
    if degrees >= 330 or degrees < 15:
        return "pink" if saturation < 0.5 and value > 0.8 else "red"
    return next((name for limit, name in HUES if degrees < limit), "purple")


def main() -> None:
    parser = argparse.ArgumentParser(
        "python -m infra.local.gemini",
        description=__doc__,
        epilog=gemini_faults.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--port", type=int, default=0, help="port on 127.0.0.1 (default: a free one)")
    stand_in = GeminiStandIn(parser.parse_args().port)
    print(f"Gemini stand-in on {stand_in.url}", flush=True)
    try:
        stand_in.serve()
    except KeyboardInterrupt:
        return


if __name__ == "__main__":
    main()
