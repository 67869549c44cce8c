"""Route the gallery's requests: check the caller, run the handler of the path, add the security headers.

Every response has these headers, errors included. Requests that change something must come from a page of the
gallery itself.
"""

from collections.abc import Callable, Mapping
from http import HTTPStatus
from importlib import import_module
from typing import Any

import flask
from werkzeug.exceptions import MethodNotAllowed, NotFound, RequestEntityTooLarge
from werkzeug.routing import Map, Rule

from dropcap.errors import Rejected
from dropcap.gallery import pages, session
from dropcap.gallery.request import BASE, MAX_AGE, GalleryRequest, redirect
from dropcap.http import bodies, origin, problems
from dropcap.services import Services
from dropcap.storage.buckets import browser_origin

Handler = Callable[..., flask.Response]
# Path and method of each handler, `module.function`. A module is loaded on its first request.
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
PUBLIC = frozenset({"assets.serve", "session.begin", "session.finish", "session.end"})  # without a user
CROSS_SITE = "session.finish"  # posted by the sign-in page; the handler checks its own cookie
SEVERAL = frozenset({"upload"})  # parameters that a query may repeat
LARGEST_FORM = 65_536  # bytes


def respond(http: flask.Request, services: Services) -> flask.Response:
    """Return the response to a request for the gallery.

    Unless AUTH=iam, a request without a valid token is refused before its body is read.
    """
    request = GalleryRequest(http, services)

    def handle() -> flask.Response:
        nonlocal request
        http.max_content_length = LARGEST_FORM
        if session.trusts_address(
            request
        ):  # other modes need a token, which pages of other sites do not have
            origin.check_host(http, services.settings)
        if request.path in ("/", BASE):
            return redirect(f"{BASE}/{request.query}")
        try:
            endpoint, arguments = _route(request)
            if http.method == "POST" and endpoint != CROSS_SITE:
                _check_source(request)
            if endpoint not in PUBLIC:
                if session.needs_user(request) and endpoint == "wall.show":
                    return session.choose_user(request)
                request = session.authenticate(request)
            return _handler(endpoint)(request, **arguments)
        except NotFound:
            raise Rejected(
                "no_such_page",
                "There is no such page.",
                "Start at the gallery's first page.",
                HTTPStatus.NOT_FOUND,
            ) from None
        except RequestEntityTooLarge:
            raise Rejected(
                "too_long",
                f"The request is larger than {(http.max_content_length or 0) // 1024} KiB.",
                "Send less text; pictures go straight to the bucket.",
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            ) from None

    def render(status: HTTPStatus, code: str, problem: str, remedy: str) -> flask.Response:
        if request.json:
            return problems.problem(status, code, problem, remedy)
        if status == HTTPStatus.UNAUTHORIZED:
            return session.sign_in_page(request)
        return pages.page(request, "error.html", status, code=code, problem=problem, remedy=remedy)

    response = problems.handle(http, services.settings.max_mb, handle, render)
    return _with_security_headers(request, problems.streamed(response))


def _route(request: GalleryRequest) -> tuple[str, Mapping[str, Any]]:
    """Return the name of the handler and its arguments from the path."""
    bodies.single_values(request.http.args, several=SEVERAL)
    if not request.path.startswith(f"{BASE}/"):
        raise NotFound
    try:
        path = request.path.removeprefix(BASE)
        endpoint, arguments = ROUTES.bind("gallery").match(path, request.http.method)
    except MethodNotAllowed as refused:
        raise problems.wrong_method(request.http, *sorted(refused.valid_methods or ())) from None
    return endpoint, arguments


def _check_source(request: GalleryRequest) -> None:
    """Raise Rejected unless a page of the gallery, or a program with its own token, requests the change.

    Any page can make a browser post to any other site, with its cookies, and to servers on the user's own
    machine. No page can make it send `Authorization` to another site. Without AUTH=token that header proves
    nothing, because a proxy may add it to every request.
    """
    headers = request.http.headers
    site = headers.get("Sec-Fetch-Site")  # browsers send it over https, and to localhost
    if site == "same-origin" or (site is None and headers.get("Origin") == request.origin):
        return
    if (
        "Authorization" in headers
        and session.uses_tokens(request)
        and session.COOKIE not in request.http.cookies
    ):
        return
    raise Rejected(
        "other_site",
        "This change was not requested by a page of the gallery.",
        "Open the gallery and do it there; a program sends an ID token, and no cookie, with AUTH=token.",
        HTTPStatus.FORBIDDEN,
    )


def _handler(endpoint: str) -> Handler:
    module, _, function = endpoint.partition(".")
    handler: Handler = getattr(import_module(f"dropcap.gallery.{module}"), function)
    return handler


def _with_security_headers(request: GalleryRequest, response: flask.Response) -> flask.Response:
    """Add the headers that limit what a browser does with the response."""
    headers = response.headers
    headers["Content-Security-Policy"] = (  # no inline code, no other origin but Cloud Storage for uploads
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
        f"connect-src 'self' {browser_origin()}; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    )
    headers["X-Content-Type-Options"] = "nosniff"
    headers["Referrer-Policy"] = "same-origin"  # no-referrer would send Origin: null with our own forms
    headers["Cross-Origin-Opener-Policy"] = headers["Cross-Origin-Resource-Policy"] = "same-origin"
    headers["Permissions-Policy"] = "camera=(), display-capture=(), geolocation=(), microphone=(), payment=()"
    if request.origin.startswith("https:"):
        headers["Strict-Transport-Security"] = MAX_AGE
    headers.setdefault("Cache-Control", "no-store")
    return response
