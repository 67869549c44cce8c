"""The files of `static/`: style, script and icons, which anybody may have."""

import hashlib
from functools import cache
from http import HTTPStatus
from pathlib import Path

import flask

from dropcap.gallery.request import Visit

FOLDER = Path(__file__).parent / "static"
TYPES = {  # what is none of these is not served; a system's own table of types may differ
    ".css": "text/css",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
}
YEAR = "public, max-age=31536000, immutable"


@cache
def version(name: str) -> str:
    """The first digits of the content's SHA-256: they are the file's ETag, and in its address."""
    return hashlib.sha256(_files()[name].read_bytes()).hexdigest()[:16]


def serve(visit: Visit, name: str) -> flask.Response:
    """One file; for ever where the address has its version, else to be asked for again each time."""
    path = _files().get(name)  # a name is looked up, and never made a path
    if path is None:
        flask.abort(HTTPStatus.NOT_FOUND)
    response = flask.Response(path.read_bytes(), mimetype=TYPES[path.suffix])
    response.headers["Cache-Control"] = YEAR if visit.request.args.get("v") == version(name) else "no-cache"
    response.set_etag(version(name))
    response.make_conditional(visit.request)
    return response


@cache
def _files() -> dict[str, Path]:
    return {path.name: path for path in FOLDER.glob("*") if path.suffix in TYPES}
