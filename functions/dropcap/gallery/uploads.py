# ruff: noqa: S608  what is put into the SQL is this project's own; users and ids are parameters
"""Pictures go straight from the browser into the bucket; their way from there is told, and they are shown.

begin     POST /uploads          what can be refused is refused; the rest gets a session to upload to
status    GET /status            how far the pipeline is with each
image     GET /image/<id>/...    a published picture
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
from dropcap.domain.records import read
from dropcap.domain.upload import INT64, Upload, is_object, owner
from dropcap.errors import Rejected
from dropcap.gallery.cards import nth
from dropcap.gallery.request import Visit, stream
from dropcap.http import bodies

LARGEST_HEAD = 64 * 1024  # bytes of a file's beginning
LARGEST_UPLOAD = 131_072  # bytes of JSON, including the beginning of the file in base64
LONGEST_FILE = 160  # bytes of a file's name: with a user's, of 128 characters, well below an object's 1,024
LONGEST_ENDING = 16  # bytes of its ending, which is kept
NAMELESS = "picture"
# Control characters; marks that turn the direction of what follows; halves of characters.
UNREADABLE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
CONTENT_TYPE = re.compile(r"image/[a-z0-9][a-z0-9.+-]{0,63}")
UNKNOWN_TYPE = "application/octet-stream"
MOST_ASKED = 100  # uploads in one question
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
YEAR = "private, max-age=31536000, immutable"


@dataclass(frozen=True, slots=True)
class Announced:
    """What a page says of a picture that it is about to send: `size` in bytes, `head` the first of them."""

    name: str
    size: int
    type: str
    time_zone: str
    head: bytes


@dataclass(frozen=True, slots=True)
class Way:
    """How far the pipeline is with an upload, a row of STATUS; of one without a row, nothing is known.

    Its `stage` began at the instant `since`, with `rss_mb` MB resident; `timings` are in s, `memory` in MB.
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
        """The state in the page's words."""
        if self.state == "claimed":
            return "working"
        return "rejected" if self.code else "captioned" if self.analyzed else "waiting"


def begin(visit: Visit) -> flask.Response:
    """A session to upload one picture to; Rejected for what is known not to work before it is sent."""
    from dropcap.gallery import storage
    from dropcap.imaging.decoding import check_head  # loads Pillow (4 MB), though no library sees the bytes
    from dropcap.storage.buckets import check_size

    settings, services = visit.services.settings, visit.services
    if visit.signed_in:  # counts whatever they send
        rate_limit.count(services.database, visit.user, settings.max_per_hour)
    announced = _announced(visit.request)
    if announced.head or not announced.size:
        check_head(announced.head[: announced.size], settings)
    check_size(announced.size, settings)
    upload = Upload(
        bucket=settings.uploads_bucket,
        name=f"{visit.user}/{secrets.token_hex(8)}/{file_name(announced.name)}",
        generation=0,
        size=announced.size,
        content_type=announced.type if CONTENT_TYPE.fullmatch(announced.type) else UNKNOWN_TYPE,
        metadata={"tz": announced.time_zone},
    )
    if not upload.time_zone:
        upload = replace(upload, metadata={})
    if not upload.wanted(settings.include, settings.exclude):
        raise Rejected(
            "not_chosen",
            "Files of this name are left alone here.",
            "Give it another name, or change INCLUDE and EXCLUDE.",
            HTTPStatus.UNPROCESSABLE_ENTITY,
        )
    # A proxy between us and the browser may have given us another name.
    origin = visit.request.headers.get("Origin", visit.origin)
    session = storage.begin(services.buckets, upload, origin)
    return _json({"object": upload.name, "session": session}, HTTPStatus.CREATED)


def _announced(request: flask.Request) -> Announced:
    try:
        facts = bodies.read(request, LARGEST_UPLOAD)
    except bodies.TooLong:
        raise RequestEntityTooLarge from None
    except ValueError as wrong:
        raise _not_announced(f"the body {wrong}") from None
    texts = {name: facts.get(name, "") for name in ("name", "type", "tz", "head")}
    for name, text in texts.items():
        if not isinstance(text, str):
            raise _not_announced(f"`{name}` is no text")
    size = facts.get("size")
    if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= INT64:
        raise _not_announced("`size` is no number of bytes")
    try:
        head = base64.b64decode(texts["head"], validate=True)
    except ValueError:
        raise _not_announced("`head` is not base64") from None
    if len(head) > LARGEST_HEAD:
        raise _not_announced(f"`head` has more than {LARGEST_HEAD // 1024} KiB")
    return Announced(texts["name"], size, texts["type"].lower(), texts["tz"], head)


def _not_announced(what: str) -> Rejected:
    return Rejected(
        "not_announced",
        f"The picture is not announced as it must be: {what}.",
        'Send {"name": "a.jpg", "size": 12345, "type": "image/jpeg", "tz": "Europe/Madrid", "head": "..."}.',
        HTTPStatus.BAD_REQUEST,
    )


def file_name(given: str) -> str:
    """The name under which a file is kept: the last part of the given one, readable, and not too long."""
    name = re.split(r"[/\\]", unicodedata.normalize("NFC", UNREADABLE.sub("", given)))[-1].strip()
    ending = PurePosixPath(name).suffix
    if len(ending.encode()) > LONGEST_ENDING:
        ending = ""
    room = LONGEST_FILE - len(ending.encode())
    name = name.removesuffix(ending).encode()[:room].decode(errors="ignore") + ending
    return name if name.strip(". ") else NAMELESS


def status(visit: Visit) -> flask.Response:
    """How far the pipeline is with each of the uploads that are asked for, `?upload=GENERATION:OBJECT`.

    One that has no row yet is waiting; so is, for all that is told, one of somebody else.
    """
    asked = [_upload(visit, each) for each in visit.request.args.getlist("upload")[: MOST_ASKED + 1]]
    if len(asked) > MOST_ASKED:
        raise Rejected(
            "too_many_uploads",
            f"{MOST_ASKED} uploads at most are told of at once.",
            "Ask for the others in another request.",
            HTTPStatus.BAD_REQUEST,
        )
    ids = [str(upload.id) for upload in asked if owner(upload.name) == visit.user]
    found = visit.services.database.query(STATUS, user=visit.user, ids=ids) if ids else []
    rows = {id: Way(*row[:-2], *(read(dict[str, float], each) for each in row[-2:])) for id, *row in found}
    return _json({"uploads": [_told(visit, upload, rows.get(upload.id, Way())) for upload in asked]})


def _upload(visit: Visit, asked: str) -> Upload:
    generation, _, name = asked.partition(":")
    if not (re.fullmatch("[0-9]{1,19}", generation) and int(generation) <= INT64 and is_object(name)):
        raise Rejected(
            "no_upload",
            "`upload` names no upload.",
            "Ask for ?upload=GENERATION:OBJECT, as Cloud Storage answered when the object was there.",
            HTTPStatus.BAD_REQUEST,
        )
    return Upload(visit.services.settings.uploads_bucket, name, int(generation), size=0)


def _told(visit: Visit, upload: Upload, way: Way) -> dict[str, Any]:
    return {
        "object": upload.name,
        "generation": upload.generation,
        "id": str(upload.id),
        "state": way.shown,
        "finished": way.state == "done",
        "stage": way.stage,
        "since": way.since.isoformat() if way.since else "",
        "rss_mb": way.rss_mb,
        "attempts": way.attempts,
        "deaths": way.deaths,
        "stages": [
            {"stage": stage, "seconds": way.timings[stage], "mb": way.memory.get(stage, 0.0)}
            for stage in sorted(way.timings, key=nth)
        ],
        "code": way.code,
        "reason": way.reason,
        "card": visit.link(f"/picture/{upload.id}"),
    }


def image(visit: Visit, picture: uuid.UUID, label: str) -> flask.Response:
    """One published size of a picture; it never changes, so a browser may keep it."""
    from google.api_core.exceptions import NotFound

    from dropcap.gallery import storage
    from dropcap.imaging.decoding import CONTENT_TYPES

    found = visit.services.database.query(IMAGE, user=visit.user, id=picture, label=label)
    name, content_type, size, md5 = found[0] if found else ("", "", 0, "")
    if not name or content_type not in CONTENT_TYPES.values():
        flask.abort(HTTPStatus.NOT_FOUND)
    if visit.request.if_none_match.contains(md5):
        answer = flask.Response(status=HTTPStatus.NOT_MODIFIED)
    else:
        try:
            answer = stream(storage.parts(visit.services.buckets, name, size), content_type)
        except NotFound:
            flask.abort(HTTPStatus.NOT_FOUND)
        answer.headers["Content-Length"] = str(size)
    answer.headers["Cache-Control"] = YEAR
    answer.set_etag(md5)
    return answer


def _json(facts: Mapping[str, Any], status: HTTPStatus = HTTPStatus.OK) -> flask.Response:
    answer = flask.Response(json.dumps(facts), status, mimetype="application/json")
    answer.headers["Cache-Control"] = "no-store"
    return answer
