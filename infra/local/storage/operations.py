"""Parse requests to Cloud Storage: the JSON API with uploads, and objects of the XML API."""

import json
import re
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from email.message import Message
from http import HTTPStatus
from typing import Any
from urllib.parse import unquote

from aiohttp import web

from infra.local.storage.preconditions import Expected, Refused

NAME = r"([^/]+)"
OBJECT = re.compile(rf"/(?:download/)?storage/v1/b/{NAME}/o/{NAME}")
COPY = re.compile(rf"/storage/v1/b/{NAME}/o/{NAME}/(?:copyTo|rewriteTo)/b/{NAME}/o/{NAME}")
LAYOUT = re.compile(rf"/storage/v1/b/{NAME}/storageLayout")
COMPOSE = re.compile(rf"/storage/v1/b/{NAME}/o/{NAME}/compose")
UPLOAD = re.compile(rf"/(?:resumable/)?upload/storage/v1/b/{NAME}/o/?")
BUCKETS = re.compile(r"/storage/v1/b(/[^/]+(/o|/iam.*)?)?/?|/_internal/healthcheck")
XML_OBJECT = re.compile(rf"/(?!storage/|upload/|download/|batch/|_internal/){NAME}/(.+)")
XML_PRECONDITIONS = {
    "x-goog-if-generation-match": "ifGenerationMatch",
    "x-goog-if-metageneration-match": "ifMetagenerationMatch",
}
HERE = re.compile(r"(127\.0\.0\.1|localhost)(:[0-9]+)?")
# Of the object that a resumable upload will create.
TYPE, SIZE = "X-Upload-Content-Type", "X-Upload-Content-Length"
LARGEST_JSON = 1024 * 1024  # bytes of an object's metadata in an upload; Cloud Storage allows fewer

Body = bytes | AsyncIterator[bytes]


@dataclass(frozen=True, slots=True)
class Operation:
    """The preconditions of a request on its objects (the changed one first), and its effects.

    `keeps_objects`: the request changes no object; `lists`: the response has object resources. `composes` is
    the number of composed objects. `body` is set if it had to be read, and `resource` is its JSON, of an
    object or of the `bucket`.
    """

    expects: tuple[Expected, ...] = ()
    keeps_objects: bool = False
    lists: bool = False
    creates: bool = False
    deletes: bool = False
    composes: int = 0
    starts_session: bool = False
    body: Body | None = None
    bucket: str = ""
    resource: Mapping[str, Any] = field(default_factory=dict)

    @property
    def replaces(self) -> bool:
        """Return whether an object would be deleted or replaced; an upload is checked at its end."""
        return self.deletes or (self.creates and not self.starts_session)


def session_of(request: web.BaseRequest) -> str:
    """Return the id of the resumable upload that a request continues; empty for any other request."""
    return request.query.get("upload_id", "") if UPLOAD.fullmatch(path_of(request)) else ""


def check_source(request: web.BaseRequest, in_session: bool) -> None:
    """Raise Refused for requests from pages of other sites, because nothing here requires a token.

    A page may continue a session, whose id is a secret. Foreign host names (DNS rebinding) are refused.
    """
    reads = request.method in ("GET", "HEAD", "OPTIONS")
    ours = reads or in_session or "Sec-Fetch-Site" not in request.headers
    if not ours or not HERE.fullmatch(request.headers.get("Host", "localhost")):
        raise Refused(HTTPStatus.FORBIDDEN, "The request comes from a page of another site.", "forbidden")


async def parse_request(request: web.BaseRequest) -> Operation:
    """Return the operation of a request that does not continue a resumable upload.

    Raises Refused if it is malformed, or could change objects in a way that is not known here.
    """
    path, query, reads = path_of(request), request.query, request.method in ("GET", "HEAD")
    if match := COPY.fullmatch(path):
        source_bucket, source_name, bucket, name = map(unquote, match.groups())
        generation = query.get("sourceGeneration", "")
        source = Expected(source_bucket, source_name, query, "ifSource", generation)
        return Operation((Expected(bucket, name, query), source), creates=True)
    if match := COMPOSE.fullmatch(path):
        body = await request.read()
        bucket, name = map(unquote, match.groups())
        sources = [_source(bucket, each) for each in _parse(body).get("sourceObjects", ())]
        target = Expected(bucket, name, query)
        return Operation((target, *sources), creates=True, composes=len(sources), body=body)
    if match := OBJECT.fullmatch(path):
        bucket, name = map(unquote, match.groups())
        expected = Expected(bucket, name, query, generation=query.get("generation", ""))
        lists = request.method == "GET" and query.get("alt") != "media"
        if request.method == "PATCH":
            body = await request.read()
            return Operation((expected,), body=body, resource=_parse(body))
        return Operation((expected,), keeps_objects=reads, lists=lists, deletes=request.method == "DELETE")
    if match := UPLOAD.fullmatch(path):
        return await _parse_upload(request, unquote(match[1]))
    if BUCKETS.fullmatch(path) and request.method in ("POST", "PATCH"):
        body = await request.read()
        resource = _parse(body)
        bucket = (
            path.rstrip("/").rpartition("/")[2] if request.method == "PATCH" else str(resource.get("name"))
        )
        return Operation(keeps_objects=True, body=body, bucket=unquote(bucket), resource=resource)
    if BUCKETS.fullmatch(path):
        return Operation(
            keeps_objects=True, lists=request.method == "GET" and path.rstrip("/").endswith("/o")
        )
    headers = request.headers
    # Here a Content-Encoding belongs to the object; the server would decompress the body.
    puts = (
        request.method == "PUT" and "x-goog-copy-source" not in headers and "Content-Encoding" not in headers
    )
    if (match := XML_OBJECT.fullmatch(path)) and (reads or puts):
        conditions = {
            ours: headers[header] for header, ours in XML_PRECONDITIONS.items() if header in headers
        }
        bucket, name = map(unquote, match.groups())
        expected = Expected(bucket, name, conditions, generation=query.get("generation", ""))
        return Operation((expected,), keeps_objects=reads, creates=puts)
    if reads:
        return Operation(keeps_objects=True)
    raise Refused(
        HTTPStatus.NOT_IMPLEMENTED, f"The local gate does not know {request.method} {path}.", "notImplemented"
    )


async def _parse_upload(request: web.BaseRequest, bucket: str) -> Operation:
    query = request.query
    kind, name = query.get("uploadType"), query.get("name", "")
    body: Body | None = None
    if kind == "resumable":
        resource = _parse(await request.read())
        name = name or str(resource.get("name", ""))
        if TYPE in request.headers:  # the server would take the type from the last request
            resource.setdefault("contentType", request.headers[TYPE])
        body = json.dumps(resource).encode()
    elif kind == "multipart":
        metadata, body = await _first_part(request)
        name = name or str(metadata.get("name", ""))
    if not name:
        raise Refused(HTTPStatus.BAD_REQUEST, "Required parameter: name", "required")
    expected = Expected(bucket, name, dict(query))
    return Operation((expected,), creates=True, starts_session=kind == "resumable", body=body)


def path_of(request: web.BaseRequest) -> str:
    """Return the path as it was sent: an escaped slash belongs to a name."""
    return request.raw_path.partition("?")[0]


def _source(bucket: str, source: Mapping[str, Any]) -> Expected:
    """Return one of the source objects of a compose request."""
    conditions = {key: str(value) for key, value in source.get("objectPreconditions", {}).items()}
    return Expected(
        bucket, str(source.get("name", "")), conditions, generation=str(source.get("generation", ""))
    )


def _parse(body: bytes) -> dict[str, Any]:
    """Parse a JSON object; an empty body is an empty object."""
    try:
        document = json.loads(body or b"{}")
    except ValueError:
        document = None
    if not isinstance(document, dict):
        raise Refused(HTTPStatus.BAD_REQUEST, "Parse Error", "parseError")
    return document


async def _first_part(request: web.BaseRequest) -> tuple[dict[str, Any], AsyncIterator[bytes]]:
    """Return the metadata of a multipart upload, and its whole body."""
    content_type = Message()
    content_type["Content-Type"] = request.headers.get("Content-Type", "")
    boundary = b"--" + content_type.get_boundary("").strip("'").encode()  # gcloud uses single quotes
    read = b""
    while read.count(boundary) < 2:
        chunk = await request.content.readany()
        if not chunk or len(read) > LARGEST_JSON:
            raise Refused(HTTPStatus.BAD_REQUEST, "Malformed multipart body.", "badContent")
        read += chunk
    _, _, metadata = read.split(boundary, 2)[1].replace(b"\r\n", b"\n").partition(b"\n\n")

    async def body() -> AsyncIterator[bytes]:
        yield read
        async for chunk in request.content.iter_any():
            yield chunk

    return _parse(metadata), body()
