"""Parse requests within limits: JSON objects, events, query parameters and forms.

The size of a body is checked before parsing: 12 MB of small JSON objects take 474 MB as Python objects.
"""

import base64
import json
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from math import isinf
from typing import Any

import flask
from werkzeug.datastructures import FileStorage, MultiDict
from werkzeug.exceptions import BadRequest, RequestEntityTooLarge

from dropcap.domain.upload import is_user
from dropcap.errors import DropcapError, Rejected

# The names of a bucket and an object take up to 1,300 bytes. A storage event has up to 8 KiB of custom
# metadata (cloud.google.com/storage/quotas#objects, 2026-11) and repeats the object's name six times.
LARGEST_JSON = 65_536  # bytes
DEEPEST = 32  # levels of nesting; a storage event has three
LONGEST_INTEGER = 20  # characters; an int64 has up to 20
LONGEST_QUERY = 65_536  # bytes
LARGEST_FIELD = 65_536  # bytes of a form field that is not a file
PART = 65_536  # bytes
MAX_DISCARDED = 2**28  # bytes read of a refused request: a client that still sends would miss the answer
MOST_PARTS = 50  # of a multipart form: one file and up to six parameters
MULTIPART = 1_000_000  # bytes of a form besides the picture
NAME_AN_OBJECT = 'Send {"bucket": "...", "name": "..."}, or the picture itself with its own content type.'
ONE_FILE = "Send exactly one picture, with a file name: curl -F picture=@photo.jpg."
TRUE = frozenset({"1", "true", "yes"})
STRUCTURED = "application/cloudevents+json"
ATTRIBUTES = ("specversion", "id", "source", "type")  # github.com/cloudevents/spec, 1.0.2: the required ones
# Match whole strings, because brackets in them do not count. An unterminated string matches to the end, so
# that nothing is scanned twice.
MARKS = re.compile(r'"(?:[^"\\]|\\.)*"?|[][{}]', re.DOTALL)


@dataclass(frozen=True, slots=True)
class Event:
    """A CloudEvent: its type, such as google.cloud.storage.object.v1.finalized, and its data."""

    type: str
    data: Mapping[str, Any]


class TooLong(DropcapError, ValueError):
    """Permanent error: the body of a request is larger than `most` bytes."""

    def __init__(self, most: int) -> None:
        super().__init__(f"is larger than {most // 1024} KiB")


def parse(data: bytes) -> dict[str, Any]:
    """Parse the bytes as a JSON object.

    Raises ValueError, whose message completes "the body ...", for anything else. That includes nesting deeper
    than DEEPEST, duplicate names (RFC 8259, section 4, leaves open which one counts), NaN and Infinity, which
    are not JSON, and numbers that Python can't read or takes for infinity: 1e999.
    """
    try:
        text = data.decode("utf-8-sig")
        _check_depth(text)
        value = json.loads(
            text,
            object_pairs_hook=_unique,
            parse_constant=_refuse,
            parse_int=_integer,
            parse_float=_decimal,
        )
    except (json.JSONDecodeError, UnicodeDecodeError):
        raise ValueError("is not JSON") from None
    if not isinstance(value, dict):
        raise ValueError("is not a JSON object")
    return value


def _check_depth(text: str) -> None:
    depth = 0
    for mark in MARKS.finditer(text):
        depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(mark[0], 0)
        if depth > DEEPEST:
            raise ValueError("is nested too deeply")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("has duplicate names")
    return found


def _refuse(_: str) -> None:
    raise ValueError("is not JSON")


def _integer(text: str) -> int:
    if len(text) > LONGEST_INTEGER:
        raise ValueError("has a number that is too large")
    return int(text)


def _decimal(text: str) -> float:
    value = float(text)
    if isinf(value):
        raise ValueError("has a number that is too large")
    return value


def read(request: flask.Request, most: int = LARGEST_JSON) -> dict[str, Any]:
    """Return the JSON object in a body of up to `most` bytes. Raises ValueError as `parse`, and TooLong."""
    request.max_content_length = sys.maxsize  # limited below instead, with or without a Content-Length
    stream, data = request.stream, b""
    request.max_content_length = most
    while len(data) <= most and (part := stream.read(most + 1 - len(data))):
        data += part
    if len(data) > most:
        _check_depth(data.decode(errors="replace"))
        raise TooLong(most)
    return parse(data)


def json_object(request: flask.Request) -> Mapping[str, Any]:
    """Return the JSON object in a request to `analyze` or `sweep`. Raises Rejected."""
    try:
        return read(request)
    except TooLong as wrong:
        raise Rejected(
            "too_many_bytes", f"The JSON {wrong}.", NAME_AN_OBJECT, HTTPStatus.REQUEST_ENTITY_TOO_LARGE
        ) from None
    except ValueError as wrong:
        raise _bad_json(f"The body {wrong}.") from None


def required_text(options: Mapping[str, Any], name: str) -> str:
    """Return the option of this name, a string. Raises Rejected if it is missing or not a string."""
    value = options.get(name)
    if not isinstance(value, str) or not value:
        raise _bad_json(f"`{name}` is missing or not a string.")
    return value


def _bad_json(problem: str) -> Rejected:
    return Rejected("bad_json", problem, NAME_AN_OBJECT, HTTPStatus.BAD_REQUEST)


def event(request: flask.Request) -> Event:
    """Return the CloudEvent of a request, in binary or structured mode (github.com/cloudevents/spec).

    functions-framework would read a body of any size, and answer 500 to invalid JSON, so that the same bytes
    are redelivered. Raises ValueError, whose message completes "the body ...", if the body is not an event.
    The rest of a body that is too long is read and discarded, because a client that still sends may miss the
    answer.
    """
    try:
        found = read(request)
    except ValueError:
        for _ in range(MAX_DISCARDED // PART):
            if not request.stream.read(PART):
                break
        raise
    if request.mimetype == STRUCTURED:
        attributes: Mapping[str, Any] = found
        packed = found.get("data_base64")
        data = parse(_unpacked(packed)) if isinstance(packed, str) else found.get("data")
    else:
        attributes = {name: request.headers.get(f"ce-{name}") for name in ATTRIBUTES}
        data = found
    for name in ATTRIBUTES:
        if not isinstance(attributes.get(name), str) or not attributes[name]:
            raise ValueError(f"is not a CloudEvent: it has no `{name}`")
    if not isinstance(data, dict):
        raise ValueError("is not a storage event: its data is not an object")
    return Event(attributes["type"], data)


def _unpacked(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except ValueError:
        raise ValueError("is not a CloudEvent: its `data_base64` is not base64") from None


def check_query(request: flask.Request) -> None:
    """Raise Rejected if the query is too long, and BadRequest if it is not UTF-8.

    The web server has no limit, and Flask would raise UnicodeDecodeError where the query is first read.
    """
    if len(request.query_string) > LONGEST_QUERY:
        raise Rejected(
            "too_long",
            f"The address is longer than {LONGEST_QUERY // 1024} KiB.",
            "Ask for less at once.",
            HTTPStatus.REQUEST_URI_TOO_LONG,
        )
    try:
        request.query_string.decode()
    except UnicodeDecodeError:
        raise BadRequest from None


def single_values(*sources: MultiDict[str, str], several: frozenset[str] = frozenset()) -> dict[str, str]:
    """Return the parameters of queries and forms. Raises Rejected if one outside `several` is given twice.

    Proxies and frameworks differ in which of the two counts, so one could check a value that another ignores.
    A part of a form without a name, for which Flask has None, is no parameter.
    """
    options: dict[str, str] = {}
    for values in sources:
        for name, texts in values.lists():
            if not name or name in several:
                continue
            if len(texts) > 1 or name in options:
                raise Rejected(
                    "given_twice",
                    f"`{name[:40]}` is given more than once.",
                    "Give it once, in the address or in the form.",
                    HTTPStatus.BAD_REQUEST,
                )
            options[name] = texts[0]
    return options


def is_true(value: object) -> bool:
    """Return whether an option is set: 1, true or yes, in any case."""
    return str(value).lower() in TRUE


def user(options: Mapping[str, Any], caller: str | None, default: str | None) -> str:
    """Return the `user` of the options, else the signed-in caller, else `default`.

    Raises Rejected if it is not a valid name, or not the caller's.
    """
    user = options.get("user", caller or default)
    if caller and user != caller:
        raise Rejected(
            "not_you",
            "`user` is not the user of the ID token.",
            "Omit it: the user is always that of the token.",
            HTTPStatus.FORBIDDEN,
        )
    if not isinstance(user, str) or not is_user(user):
        raise Rejected(
            "no_user",
            "`user` is missing." if not user else "`user` is not a name.",
            "Name the user: ?user=ana, at most 128 characters, none of them a slash or control character.",
            HTTPStatus.BAD_REQUEST,
        )
    return user


def form(request: flask.Request, most: int) -> tuple[dict[str, str], FileStorage]:
    """Return the parameters and the one file, of at most `most` bytes, of a multipart form.

    Raises Rejected unless there is exactly one file, and RequestEntityTooLarge.
    """
    request.max_content_length = most + MULTIPART
    request.max_form_memory_size = LARGEST_FIELD
    request.max_form_parts = MOST_PARTS
    try:
        files = [file for _, several in request.files.lists() for file in several]
    except RequestEntityTooLarge:
        sent = request.content_length or 0  # absent with chunked encoding
        if sent > most + MULTIPART or request.stream.tell() >= most + MULTIPART:
            raise
        raise Rejected(
            "not_one_file",
            f"The form has more than {MOST_PARTS} parts, or a field of more than {LARGEST_FIELD // 1024} KiB "
            "without a file name.",
            ONE_FILE,
            HTTPStatus.BAD_REQUEST,
        ) from None
    if len(files) != 1:
        raise Rejected("not_one_file", f"The form has {len(files)} files.", ONE_FILE, HTTPStatus.BAD_REQUEST)
    return single_values(request.args, request.form), files[0]
