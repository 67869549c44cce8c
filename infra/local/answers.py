"""What the gate answers in Cloud Storage's place, and what it passes on of the storage server's answers."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import aiohttp
from aiohttp import web

from infra.local.operations import XML_OBJECT, path_of
from infra.local.rules import Refused

# Named by their connection, not for the next one (RFC 9110, 7.6.1); the length is set with the body.
HOP_BY_HOP = frozenset(
    {"connection", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade", "expect"}
)


def headers_of(answer: aiohttp.ClientResponse) -> list[tuple[str, str]]:
    """Return what is passed on: the server would open every object to the pages of all sites."""
    headers = ((key, value) for key, value in answer.headers.items() if key.lower() not in HOP_BY_HOP)
    return [(key, value) for key, value in headers if not key.lower().startswith("access-control-")]


def layout_of(bucket: Mapping[str, Any]) -> dict[str, Any]:
    """Return the storage layout of a bucket resource, which gcloud asks for before it writes into a folder.

    cloud.google.com/storage/docs/json_api/v1/buckets/getStorageLayout has its fields.
    """
    facts = {name: bucket[name] for name in ("location", "locationType")}
    facts |= {"kind": "storage#storageLayout", "bucket": bucket["name"]}
    return facts | {"hierarchicalNamespace": {"enabled": False}}


def error(request: web.BaseRequest, refused: Refused) -> web.Response:
    """Return the error as Cloud Storage words it: JSON, or XML for the XML API."""
    if refused.status == HTTPStatus.NOT_MODIFIED:
        return web.Response(status=refused.status)
    if XML_OBJECT.fullmatch(path_of(request)):
        code = "".join(word.capitalize() for word in refused.status.phrase.split())
        text = f"<Error><Code>{code}</Code><Message>{refused}</Message></Error>"
        return web.Response(status=refused.status, text=text, content_type="application/xml")
    message = str(refused)
    details = {"message": message, "domain": "global", "reason": refused.reason}
    if refused.status == HTTPStatus.PRECONDITION_FAILED:
        details |= {"locationType": "header", "location": "If-Match"}
    return web.json_response(
        {"error": {"code": refused.status, "message": message, "errors": [details]}}, status=refused.status
    )
