"""Responses of the gate, and the parts of the storage server's responses that it passes on."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import aiohttp
from aiohttp import web

from infra.local.storage.operations import XML_OBJECT, path_of
from infra.local.storage.preconditions import Refused

# Hop-by-hop headers (RFC 9110, 7.6.1); the length is set with the body.
HOP_BY_HOP = frozenset(
    {"connection", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade", "expect"}
)


def headers_of(answer: aiohttp.ClientResponse) -> list[tuple[str, str]]:
    """Return the headers to pass on; the server's CORS headers would open every object to all sites."""
    headers = ((key, value) for key, value in answer.headers.items() if key.lower() not in HOP_BY_HOP)
    return [(key, value) for key, value in headers if not key.lower().startswith("access-control-")]


def layout_of(bucket: Mapping[str, Any]) -> dict[str, Any]:
    """Return the storage layout of a bucket, which gcloud requests before it writes into a folder.

    Its fields: cloud.google.com/storage/docs/json_api/v1/buckets/getStorageLayout.
    """
    facts = {name: bucket[name] for name in ("location", "locationType")}
    facts |= {"kind": "storage#storageLayout", "bucket": bucket["name"]}
    return facts | {"hierarchicalNamespace": {"enabled": False}}


def error(request: web.BaseRequest, refused: Refused) -> web.Response:
    """Return the error in Cloud Storage's format: JSON, or XML for the XML API."""
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
