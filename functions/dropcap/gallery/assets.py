"""Serve the files of `static/`: style sheets, scripts and icons, which are public."""

import hashlib
from functools import cache
from http import HTTPStatus
from pathlib import Path

import flask

from dropcap.gallery.request import IMMUTABLE, GalleryRequest

FOLDER = Path(__file__).parent / "static"
TYPES = {  # other files are not served; the system's own table of types may differ
    ".css": "text/css",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
}


@cache
def version(name: str) -> str:
    """Return the first digits of the content's SHA-256, which are the file's ETag and part of its address."""
    return hashlib.sha256(_files()[name].read_bytes()).hexdigest()[:16]


def serve(request: GalleryRequest, name: str) -> flask.Response:
    """Return one file: immutable if the address has its version, otherwise to be revalidated."""
    path = _files().get(name)  # look the name up; never build a path from it
    if path is None:
        flask.abort(HTTPStatus.NOT_FOUND)
    response = flask.Response(path.read_bytes(), mimetype=TYPES[path.suffix])
    current = request.http.args.get("v") == version(name)
    response.headers["Cache-Control"] = f"public, {IMMUTABLE}" if current else "no-cache"
    response.set_etag(version(name))
    response.make_conditional(request.http)
    return response


@cache
def _files() -> dict[str, Path]:
    return {path.name: path for path in FOLDER.glob("*") if path.suffix in TYPES}
