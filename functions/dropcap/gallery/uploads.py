# ruff: noqa: S608  what is put into the SQL is this project's own; users and ids are parameters
"""Upload pictures from the browser straight into the bucket, and report their progress.

begin     POST /uploads          refuses what would be rejected anyway; begins an upload session otherwise
status    GET /status            the progress of uploads
image     GET /image/<id>/...    a rendition
"""

import base64
import datetime as dt
import json
import re
import secrets
import unicodedata
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from pathlib import PurePosixPath
from typing import Any

import flask
from werkzeug.exceptions import RequestEntityTooLarge

from dropcap.database import rate_limit
from dropcap.database.leases import CRASHED
from dropcap.domain.analysis import stage_order
from dropcap.domain.records import read
from dropcap.domain.upload import INT64, Upload, is_object, owner
from dropcap.errors import Rejected
from dropcap.gallery.request import IMMUTABLE, GalleryRequest, stream
from dropcap.http import bodies

LARGEST_HEAD = 64 * 1024  # bytes of the beginning of a file
LARGEST_UPLOAD = 131_072  # bytes of JSON, including the beginning of the file in base64
LONGEST_FILE = 160  # bytes of a file name: with a user of 128 characters, well below the limit of 1,024
LONGEST_ENDING = 16  # bytes of a file name extension that is kept
NAMELESS = "picture"
# Control characters, marks that change the text direction, and unpaired surrogates.
UNREADABLE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
CONTENT_TYPE = re.compile(r"image/[a-z0-9][a-z0-9.+-]{0,63}")
UNKNOWN_TYPE = "application/octet-stream"
MOST_ASKED = 100  # uploads in one request
STATUS = f"""
SELECT u.id, u.state, u.stage, u.stage_at, u.rss_mb, u.attempts, u.reason_code, u.reason, a.id IS NOT NULL,
       jsonb_array_length(u.deaths)
         + (u.state = 'claimed' AND u.lease_until <= now() AND {CRASHED})::int,  -- not counted yet
       coalesce(a.result->'timings', '{{}}'), coalesce(a.result->'memory', '{{}}')
FROM uploads u LEFT JOIN analyses a ON a.id = u.id AND a.user_id = u.user_id
WHERE u.user_id = :user AND u.id = ANY (CAST(:ids AS uuid[]))
"""
IMAGE = """
SELECT picture->>'object', picture->>'content_type', (picture->>'bytes')::bigint, picture->>'md5'
FROM analyses, jsonb_array_elements(result->'pictures') AS picture
WHERE user_id = :user AND id = :id AND picture->>'label' = :label
"""


@dataclass(frozen=True, slots=True)
class UploadStatus:
    """The progress of an upload, a row of STATUS; the defaults are for uploads without a row.

    `stage` began at the instant `since`, with `rss_mb` MB resident; `timings` are in s, `memory` in MB.
    """

    state: str = ""
    stage: str = ""
    since: dt.datetime | None = None
    rss_mb: int = 0
    attempts: int = 0
    code: str = ""
    reason: str = ""
    analyzed: bool = False
    deaths: int = 0
    timings: Mapping[str, float] = field(default_factory=dict)
    memory: Mapping[str, float] = field(default_factory=dict)

    @property
    def shown(self) -> str:
        """Return the state as the page names it."""
        if self.state == "claimed":
            return "working"
        return "rejected" if self.code else "captioned" if self.analyzed else "waiting"


def begin(request: GalleryRequest) -> flask.Response:
    """Begin an upload session for one picture. Raises Rejected if the picture would be rejected later."""
    from dropcap.sandbox import client  # loads Pillow
    from dropcap.storage.buckets import check_size

    settings, services = request.services.settings, request.services
    if request.signed_in:  # counts every request
        rate_limit.count(services.database, request.user, settings.max_per_hour)
    upload, head = _announced(request)
    if head or not upload.size:
        client.check_head(head[: upload.size], settings)
    check_size(upload.size, settings)
    if not upload.wanted(settings.include, settings.exclude):
        raise Rejected(
            "not_chosen",
            "Files of this name are not processed.",
            "Give it another name, or change INCLUDE and EXCLUDE.",
            HTTPStatus.UNPROCESSABLE_ENTITY,
        )
    # A proxy between the browser and the gallery may have changed the host name.
    origin = request.http.headers.get("Origin", request.origin)
    session = services.buckets.begin_upload(upload, origin)
    return _json({"object": upload.name, "session": session}, HTTPStatus.CREATED)


def _announced(request: GalleryRequest) -> tuple[Upload, bytes]:
    """Return the upload that a page is about to begin, under a name of its own, and its first bytes."""
    try:
        facts = bodies.read(request.http, LARGEST_UPLOAD)
    except bodies.TooLong:
        raise RequestEntityTooLarge from None
    except ValueError as wrong:
        raise _bad_announcement(f"the body {wrong}") from None
    texts = {name: facts.get(name, "") for name in ("name", "type", "tz", "head")}
    for name, text in texts.items():
        if not isinstance(text, str):
            raise _bad_announcement(f"`{name}` is not a string")
    size = facts.get("size")
    if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= INT64:
        raise _bad_announcement("`size` is not a number of bytes")
    try:
        head = base64.b64decode(texts["head"], validate=True)
    except ValueError:
        raise _bad_announcement("`head` is not base64") from None
    if len(head) > LARGEST_HEAD:
        raise _bad_announcement(f"`head` has more than {LARGEST_HEAD // 1024} KiB")
    kind = texts["type"].lower()
    upload = Upload(
        bucket=request.services.settings.uploads_bucket,
        name=f"{request.user}/{secrets.token_hex(8)}/{file_name(texts['name'])}",
        generation=0,
        size=size,
        content_type=kind if CONTENT_TYPE.fullmatch(kind) else UNKNOWN_TYPE,
        metadata={"tz": texts["tz"]},
    )
    return upload if upload.time_zone else replace(upload, metadata={}), head


def _bad_announcement(what: str) -> Rejected:
    return Rejected(
        "not_announced",
        f"The upload request is invalid: {what}.",
        'Send {"name": "a.jpg", "size": 12345, "type": "image/jpeg", "tz": "Europe/Madrid", "head": "..."}.',
        HTTPStatus.BAD_REQUEST,
    )


def file_name(path: str) -> str:
    """Return a file name for the object: the last part of the given path, readable, and not too long."""
    name = re.split(r"[/\\]", unicodedata.normalize("NFC", UNREADABLE.sub("", path)))[-1].strip()
    ending = PurePosixPath(name).suffix
    if len(ending.encode()) > LONGEST_ENDING:
        ending = ""
    room = LONGEST_FILE - len(ending.encode())
    name = name.removesuffix(ending).encode()[:room].decode(errors="ignore") + ending
    return name if name.strip(". ") else NAMELESS


def status(request: GalleryRequest) -> flask.Response:
    """Return the progress of the requested uploads, `?upload=GENERATION:OBJECT`.

    Uploads without a row are waiting; those of other users look the same.
    """
    asked = [_upload(request, each) for each in request.http.args.getlist("upload")[: MOST_ASKED + 1]]
    if len(asked) > MOST_ASKED:
        raise Rejected(
            "too_many_uploads",
            f"At most {MOST_ASKED} uploads can be requested at once.",
            "Ask for the others in another request.",
            HTTPStatus.BAD_REQUEST,
        )
    ids = [str(upload.id) for upload in asked if owner(upload.name) == request.user]
    found = request.services.database.query(STATUS, user=request.user, ids=ids) if ids else []
    rows = {
        id: UploadStatus(*row[:-2], *(read(dict[str, float], each) for each in row[-2:]))
        for id, *row in found
    }
    return _json(
        {"uploads": [_status_json(request, upload, rows.get(upload.id, UploadStatus())) for upload in asked]}
    )


def _upload(request: GalleryRequest, asked: str) -> Upload:
    generation, _, name = asked.partition(":")
    if not (re.fullmatch("[0-9]{1,19}", generation) and int(generation) <= INT64 and is_object(name)):
        raise Rejected(
            "no_upload",
            "`upload` does not name an upload.",
            "Ask for ?upload=GENERATION:OBJECT, as Cloud Storage answered when the object was there.",
            HTTPStatus.BAD_REQUEST,
        )
    return Upload(request.services.settings.uploads_bucket, name, int(generation), size=0)


def _status_json(request: GalleryRequest, upload: Upload, progress: UploadStatus) -> dict[str, Any]:
    return {
        "object": upload.name,
        "generation": upload.generation,
        "id": str(upload.id),
        "state": progress.shown,
        "finished": progress.state == "done",
        "stage": progress.stage,
        "since": progress.since.isoformat() if progress.since else "",
        "rss_mb": progress.rss_mb,
        "attempts": progress.attempts,
        "deaths": progress.deaths,
        "stages": [
            {"stage": stage, "seconds": progress.timings[stage], "mb": progress.memory.get(stage, 0.0)}
            for stage in sorted(progress.timings, key=stage_order)
        ],
        "code": progress.code,
        "reason": progress.reason,
        "card": request.link(f"/picture/{upload.id}"),
    }


def image(request: GalleryRequest, picture: uuid.UUID, label: str) -> flask.Response:
    """Return a rendition; it never changes, so browsers may cache it."""
    from google.api_core.exceptions import NotFound

    from dropcap.domain.naming import CONTENT_TYPES

    found = request.services.database.query(IMAGE, user=request.user, id=picture, label=label)
    name, content_type, size, md5 = found[0] if found else ("", "", 0, "")
    if not name or content_type not in CONTENT_TYPES.values():
        flask.abort(HTTPStatus.NOT_FOUND)
    if request.http.if_none_match.contains(md5):
        answer = flask.Response(status=HTTPStatus.NOT_MODIFIED)
    else:
        try:
            answer = stream(request.services.buckets.read_parts(name, size), content_type)
        except NotFound:
            flask.abort(HTTPStatus.NOT_FOUND)
        answer.headers["Content-Length"] = str(size)
    answer.headers["Cache-Control"] = f"private, {IMMUTABLE}"
    answer.set_etag(md5)
    return answer


def _json(facts: Mapping[str, Any], status: HTTPStatus = HTTPStatus.OK) -> flask.Response:
    answer = flask.Response(json.dumps(facts), status, mimetype="application/json")
    answer.headers["Cache-Control"] = "no-store"
    return answer
