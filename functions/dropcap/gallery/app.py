"""The gallery's edge: requests in, pages out, each by the handler of its address.

Whatever is answered, an error too, leaves with the headers that keep a browser from doing more with it than
we mean. What changes something has to come from a page of ours.
"""

from collections.abc import Callable, Mapping
from http import HTTPStatus
from importlib import import_module
from typing import Any

import flask
from werkzeug.exceptions import MethodNotAllowed, NotFound, RequestEntityTooLarge
from werkzeug.routing import Map, Rule

from dropcap.errors import Rejected
from dropcap.gallery import pages, session, storage
from dropcap.gallery.request import BASE, Visit, redirect
from dropcap.http import bodies, origin, problems
from dropcap.services import Services

Handler = Callable[..., flask.Response]
# Address and method of each handler, named `module.function`: a module is loaded when it is first asked for.
ROUTES = Map(
    [
        Rule("/", endpoint="wall.show", methods=["GET"]),
        Rule("/picture/<uuid:picture>", endpoint="wall.picture", methods=["GET"]),
        Rule("/picture/<uuid:picture>/edit", endpoint="edits.edit", methods=["POST"]),
        Rule("/picture/<uuid:picture>/delete", endpoint="edits.delete", methods=["POST"]),
        Rule("/image/<uuid:picture>/<label>", endpoint="uploads.image", methods=["GET"]),
        Rule("/uploads", endpoint="uploads.begin", methods=["POST"]),
        Rule("/status", endpoint="uploads.status", methods=["GET"]),
        Rule("/export/<any(csv, jsonl, zip, receipts):kind>", endpoint="export.export", methods=["GET"]),
        Rule("/progress", endpoint="progress_page.show", methods=["GET"]),
        Rule("/static/<name>", endpoint="assets.serve", methods=["GET"]),
        Rule("/sign-in", endpoint="session.begin", methods=["GET"]),
        Rule("/sign-in", endpoint="session.finish", methods=["POST"]),
        Rule("/sign-out", endpoint="session.end", methods=["POST"]),
    ],
    strict_slashes=False,
    merge_slashes=False,
)
OPEN = frozenset({"assets.serve", "session.begin", "session.finish", "session.end"})  # for whoever asks
FROM_ELSEWHERE = "session.finish"  # the page to sign in at posts it, and the handler knows for whom it waits
SEVERAL = frozenset({"upload"})  # parameters that a query may repeat
LARGEST_FORM = 65_536  # bytes
YEAR_S = 31_536_000


def respond(request: flask.Request, services: Services) -> flask.Response:
    """Answer a request for a page of the gallery.

    Without AUTH=iam nothing of a user's is read or done, nor the body, for who shows no valid token.
    """
    visit = Visit(request, services)

    def work() -> flask.Response:
        nonlocal visit
        request.max_content_length = LARGEST_FORM
        if session.by_address(visit):  # else a token, cookie or assertion, which no other page has, says who
            origin.check_host(request, services.settings)
        if visit.path in ("/", BASE):
            return redirect(f"{BASE}/{visit.query}")
        try:
            endpoint, given = _route(visit)
            if request.method == "POST" and endpoint != FROM_ELSEWHERE:
                _check_source(visit)
            if endpoint not in OPEN:
                if session.is_anybodys(visit) and endpoint == "wall.show":
                    return session.whose(visit)
                visit = session.known(visit)
            return _handler(endpoint)(visit, **given)
        except NotFound:
            raise Rejected(
                "no_such_page",
                "There is no such page.",
                "Begin at the gallery's first page.",
                HTTPStatus.NOT_FOUND,
            ) from None
        except RequestEntityTooLarge:
            raise Rejected(
                "too_long",
                f"The request is larger than {(request.max_content_length or 0) // 1024} KiB.",
                "Send less text; pictures go straight to the bucket.",
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            ) from None

    def tell(status: HTTPStatus, code: str, problem: str, remedy: str) -> flask.Response:
        if visit.json:
            return problems.problem(status, code, problem, remedy)
        if status == HTTPStatus.UNAUTHORIZED:
            return session.page(visit)
        return pages.page(visit, "error.html", status, code=code, problem=problem, remedy=remedy)

    return _sealed(visit, problems.streamed(problems.handle(request, services.settings.max_mb, work, tell)))


def _route(visit: Visit) -> tuple[str, Mapping[str, Any]]:
    """The name of the handler, and what the path gives it."""
    request = visit.request
    bodies.once(request.args, several=SEVERAL)
    if not visit.path.startswith(f"{BASE}/"):
        raise NotFound
    try:
        endpoint, given = ROUTES.bind("gallery").match(visit.path.removeprefix(BASE), request.method)
    except MethodNotAllowed as refused:
        raise problems.wrong_method(request, *sorted(refused.valid_methods or ())) from None
    return endpoint, given


def _check_source(visit: Visit) -> None:
    """Raise Rejected unless a change is asked for by a page of ours, or by a program with its own token.

    Any page can make a browser post to any other, cookie and all, and to what runs on the person's machine.
    No page can make it send `Authorization` elsewhere; but without AUTH=token a proxy may add that to
    whatever comes, so there it proves nothing.
    """
    headers = visit.request.headers
    site = headers.get("Sec-Fetch-Site")  # sent wherever a browser trusts the way: https, and localhost
    if site == "same-origin" or (site is None and headers.get("Origin") == visit.origin):
        return
    if "Authorization" in headers and session.by_token(visit) and session.COOKIE not in visit.request.cookies:
        return
    raise Rejected(
        "other_site",
        "This change was not asked for by a page of the gallery.",
        "Open the gallery and do it there; a program sends an ID token, and no cookie, with AUTH=token.",
        HTTPStatus.FORBIDDEN,
    )


def _handler(endpoint: str) -> Handler:
    module, _, function = endpoint.partition(".")
    handler: Handler = getattr(import_module(f"dropcap.gallery.{module}"), function)
    return handler


def _sealed(visit: Visit, response: flask.Response) -> flask.Response:
    """The answer, with what a browser has to know to trust it no further than it should."""
    headers = response.headers
    headers["Content-Security-Policy"] = _policy()
    headers["X-Content-Type-Options"] = "nosniff"
    headers["Referrer-Policy"] = "same-origin"  # with no-referrer, our own forms would come from Origin: null
    headers["Cross-Origin-Opener-Policy"] = headers["Cross-Origin-Resource-Policy"] = "same-origin"
    headers["Permissions-Policy"] = "camera=(), display-capture=(), geolocation=(), microphone=(), payment=()"
    if visit.origin.startswith("https:"):
        headers["Strict-Transport-Security"] = f"max-age={YEAR_S}"
    headers.setdefault("Cache-Control", "no-store")
    return response


def _policy() -> str:
    """What a page may load, and where it may send what: nothing inline, and a picture to the bucket alone."""
    return (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
        f"connect-src 'self' {storage.address()}; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    )
