"""The request that every handler of the gallery receives, and responses that several of them return."""

from collections.abc import Iterable
from dataclasses import dataclass
from http import HTTPStatus
from urllib.parse import quote, urlencode

import flask

from dropcap.errors import Rejected
from dropcap.http import origin
from dropcap.services import Services

BASE = "/gallery"  # path of the gallery below any address of the function
MAX_AGE = "max-age=31536000"  # a year
IMMUTABLE = f"{MAX_AGE}, immutable"
JSON = ("application/json", "application/problem+json")


@dataclass(frozen=True, slots=True)
class GalleryRequest:
    """One request. The response contains pictures of `user` only, empty on error and sign-in pages.

    `signed_in`: the user is authenticated by a token (AUTH=token or iap). Otherwise the user comes from
    `?user=`, which links must repeat.
    """

    http: flask.Request
    services: Services
    user: str = ""
    signed_in: bool = False

    @property
    def origin(self) -> str:
        """Return our own origin as a browser writes it: scheme and host."""
        return origin.of(self.http)

    @property
    def json(self) -> bool:
        """Return whether the client prefers JSON to HTML."""
        return self.http.accept_mimetypes.best_match(("text/html", *JSON)) in JSON

    @property
    def path(self) -> str:
        """Return the requested path, including the function's own."""
        return self.http.script_root + self.http.path

    @property
    def query(self) -> str:
        """Return the query string as it was sent, with its question mark; empty if there is none."""
        query = self.http.query_string.decode("latin-1")
        return f"?{query}" if query else ""

    def link(self, path: str, **query: object) -> str:
        """Return the address of a page. `path` begins with a slash; empty values are omitted."""
        if not self.signed_in:
            query.setdefault("user", self.user)
        parameters = [(name, value) for name, value in query.items() if value not in (None, "", ())]
        return f"{BASE}{quote(path)}{'?' if parameters else ''}{urlencode(parameters)}"


def redirect(address: str) -> flask.Response:
    """Return a redirect that the browser follows with GET."""
    return flask.Response(status=HTTPStatus.SEE_OTHER, headers={"Location": address})


def no_such_picture() -> Rejected:
    """Return the rejection for a picture that does not exist, or is another user's."""
    return Rejected(
        "no_such_picture",
        "There is no such picture.",
        "Look for it on the wall; it may have been deleted.",
        HTTPStatus.NOT_FOUND,
    )


def stream(parts: Iterable[bytes], mimetype: str, **headers: str) -> flask.Response:
    """Return a response that is sent in parts as they are made, so that its size costs no memory."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return flask.Response(iter(parts), mimetype=mimetype, headers=named)
