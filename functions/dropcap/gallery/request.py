"""Who looks at what: what every handler of the gallery is given, and the words that it may answer in."""

from collections.abc import Iterable
from dataclasses import dataclass
from http import HTTPStatus
from urllib.parse import quote, urlencode

import flask

from dropcap.errors import Rejected
from dropcap.http import origin
from dropcap.services import Services

BASE = "/gallery"  # where all of it lies, whatever the function's own address is
JSON = ("application/json", "application/problem+json")


@dataclass(frozen=True, slots=True)
class Visit:
    """One request. `user` is whose pictures it is about, and nobody else's may be in the answer.

    `signed_in`: a token told the user (AUTH=token or iap); else `?user=` did, which links have to carry on.
    Empty on pages that are about nobody's pictures: an error, the way to sign in.
    """

    request: flask.Request
    services: Services
    user: str = ""
    signed_in: bool = False

    @property
    def origin(self) -> str:
        """Return our own origin as a browser writes it: scheme and host."""
        return origin.of(self.request)

    @property
    def json(self) -> bool:
        """Whether a program asks, and not a person who looks."""
        return self.request.accept_mimetypes.best_match(("text/html", *JSON)) in JSON

    @property
    def path(self) -> str:
        """The path that was asked for, whatever the function's own address is."""
        return self.request.script_root + self.request.path

    @property
    def query(self) -> str:
        """The query with its question mark, as it was sent, or nothing."""
        query = self.request.query_string.decode("latin-1")
        return f"?{query}" if query else ""

    def link(self, path: str, **query: object) -> str:
        """The address of a page of the gallery: `path` begins with a slash; empty values are left out."""
        if not self.signed_in:
            query.setdefault("user", self.user)
        given = [(name, value) for name, value in query.items() if value not in (None, "", ())]
        return f"{BASE}{quote(path)}{'?' if given else ''}{urlencode(given)}"


def redirect(address: str) -> flask.Response:
    """The browser is to GET another address, whatever it did here."""
    return flask.Response(status=HTTPStatus.SEE_OTHER, headers={"Location": address})


def no_such_picture() -> Rejected:
    """The answer for a picture that does not exist, and for somebody else's."""
    return Rejected(
        "no_such_picture",
        "There is no such picture.",
        "Look for it on the wall; it may have been deleted.",
        HTTPStatus.NOT_FOUND,
    )


def stream(parts: Iterable[bytes], mimetype: str, **headers: str) -> flask.Response:
    """An answer that is sent as it is made, so that its size costs no memory."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return flask.Response(iter(parts), mimetype=mimetype, headers=named)
