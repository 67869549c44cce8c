"""Validate gcloud's requests and the stand-in's responses against Google's own schemas.

The schemas are the discovery documents of google-api-python-client; nothing else of it is used. Unknown
methods, unknown fields, wrong types and unknown enumeration values are errors.
"""

import functools
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

from tests.support.cloud.control_plane_store import Request

Schema = Mapping[str, Any]
SCALARS: Mapping[str, tuple[type, ...]] = {
    "string": (str,),
    "boolean": (bool,),
    "integer": (int,),
    "number": (int, float),
}
FOLDER = Path(str(distribution("google-api-python-client").locate_file("googleapiclient")))
DOCUMENTS = FOLDER / "discovery_cache" / "documents"


@dataclass(frozen=True)
class Method:
    """One method of an API: its verb, path pattern, request and response."""

    verb: str
    path: re.Pattern[str]
    takes: Schema | None
    answers: Schema | None
    schemas: Mapping[str, Schema]


@functools.cache
def methods(api: str) -> tuple[Method, ...]:
    """Return all methods of an API, of all its versions."""
    return tuple(
        method
        for file in sorted(DOCUMENTS.glob(f"{api}.v*.json"))
        for method in _methods(json.loads(file.read_text()))
    )


def _methods(document: Any) -> Iterator[Method]:
    nested = [document]
    while nested:
        resource = nested.pop()
        nested += resource.get("resources", {}).values()
        for each in resource.get("methods", {}).values():
            anything = any(one.get("pattern") == "^.*$" for one in each.get("parameters", {}).values())
            path = (
                document["servicePath"] + each["path" if anything or "flatPath" not in each else "flatPath"]
            )
            uploads = each.get("mediaUpload", {}).get("protocols", {}).values()
            paths = [path, *(upload["path"].lstrip("/") for upload in uploads)]
            paths += [f"download/{path}"] if each.get("useMediaDownloadService") else []
            for path_pattern in paths:
                free = re.sub(r"\\\{\\\+.*?\\\}", "[^:]+", re.escape("/" + path_pattern))
                pattern = re.compile(re.sub(r"\\\{.*?\\\}", "[^/:]+", free))
                schemas = document["schemas"]
                yield Method(each["httpMethod"], pattern, each.get("request"), each.get("response"), schemas)


def faults(request: Request, status: int, answer: Any) -> list[str]:
    """Return the differences between a request, its response, and Google's documentation."""
    if not request.host.endswith("googleapis.com"):
        return []
    path = re.sub(rf"/{re.escape(request.project)}(?=[/:]|$)", "/project", request.path)
    fitting = [
        each for each in methods(request.api) if each.verb == request.method and each.path.fullmatch(path)
    ]
    if not fitting:
        return [f"{request.line}: there is no such method"]
    found = [list(_faults(method, request, status, answer)) for method in fitting]
    return [f"{request.line}: {fault}" for fault in min(found, key=len)]


def _faults(method: Method, request: Request, status: int, answer: Any) -> Iterator[str]:
    if isinstance(request.body, dict) and method.takes:
        yield from mismatches(method.takes, request.body, method.schemas, "sent")
    if isinstance(answer, dict) and method.answers and status == 200 and "Location" not in answer:
        yield from mismatches(method.answers, answer, method.schemas, "answered")


def mismatches(schema: Schema, value: Any, schemas: Mapping[str, Schema], where: str) -> Iterator[str]:
    """Yield where a JSON value does not fit a schema of a discovery document."""
    if name := schema.get("$ref"):
        schema = schemas[name]
    kind = schema.get("type")
    if value is None or kind == "any":
        return
    if kind == "object":
        if not isinstance(value, dict):
            yield f"{where} is no object"
            return
        known, others = schema.get("properties", {}), schema.get("additionalProperties")
        for key, part in value.items():
            if (fitting := known.get(key, others)) is None:
                yield f"{where}.{key} is unknown"
            else:
                yield from mismatches(fitting, part, schemas, f"{where}.{key}")
    elif kind == "array":
        if not isinstance(value, list):
            yield f"{where} is no list"
            return
        for part in value:
            yield from mismatches(schema["items"], part, schemas, f"{where}[]")
    elif not isinstance(value, SCALARS[kind or ""]) or (isinstance(value, bool) and kind != "boolean"):
        yield f"{where} is no {kind}: {value!r}"
    elif value not in schema.get("enum", (value,)):
        yield f"{where} may not be {value!r}"
