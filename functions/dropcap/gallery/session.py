"""Authenticate users: by ID token (AUTH=token), by the assertion of Identity-Aware Proxy (AUTH=iap), or by
`?user=` in the address (AUTH=iam).

With AUTH=iap the proxy signs users in and out, and adds its assertion to each request that it forwards. It
also sends the user's email address and id as plain headers. Anybody who bypasses the proxy could forge those,
so they are never read.

With AUTH=token a browser gets its ID token from a sign-in page: Google's, or SIGN_IN_URL, which uses the same
protocol (OpenID Connect Core 1.0, 3.2, with OAuth 2.0 Form Post Response Mode):

    GET /sign-in     stores a secret in a cookie and redirects to the sign-in page, with the secret's hash as
                     `nonce` and `state`
    POST /sign-in    receives `id_token` and `state` from that page. If they do not match the cookie's secret,
                     somebody else began this sign-in, for example to receive the pictures that others drop
    POST /sign-out   ends the session

The token itself is the session: it is verified with every request, nothing is stored, and the session ends
when the token expires. `__Host-` keeps other sites of the same domain from setting our cookies. Browsers
accept such a cookie over https only, Chromium also from localhost.
"""

import hashlib
import hmac
import re
import secrets
import time
from dataclasses import replace
from http import HTTPStatus
from urllib.parse import urlencode, urlsplit

import flask

from dropcap.errors import Rejected
from dropcap.gallery import pages
from dropcap.gallery.request import BASE, GalleryRequest, redirect
from dropcap.http import bodies
from dropcap.setting_parsers import OAUTH_CLIENT

COOKIE = "__Host-dropcap"
ASSERTION = "X-Goog-IAP-JWT-Assertion"  # docs.cloud.google.com/iap/docs/signed-headers-howto (2026-11)
SIGN_IN_COOKIE = "__Host-dropcap-sign-in"
SIGN_IN_S = 600  # time limit of a sign-in
LONGEST_COOKIE = 3800  # characters of a token; browsers keep 4,096 bytes with the name (RFC 6265bis, 5.6)
OURS = re.compile(rf"{BASE}/[^\x00-\x20\x7f\\]{{0,1000}}")  # matches no address of another site
# accounts.google.com/.well-known/openid-configuration
GOOGLE = "https://accounts.google.com/o/oauth2/v2/auth"
LONGEST_S = 86_400  # maximum length of a session
USERS = 50  # listed on the page that asks for a user


def uses_tokens(request: GalleryRequest) -> bool:
    """Return whether ID tokens authenticate users."""
    return request.services.settings.auth == "token"


def trusts_address(request: GalleryRequest) -> bool:
    """Return whether the user comes from the address, without authentication."""
    return request.services.settings.auth == "iam"


def needs_user(request: GalleryRequest) -> bool:
    """Return whether a browser must choose a user first, because the address has none."""
    return trusts_address(request) and not (request.json or request.http.args.get("user"))


def authenticate(request: GalleryRequest) -> GalleryRequest:
    """Return the request with its user.

    Raises Rejected if there is no valid token (401), no user in the address (400), or another user (403).
    """
    http, caller = request.http, None
    if uses_tokens(request):
        cookie = f"Bearer {http.cookies.get(COOKIE, '')}"
        caller = request.services.tokens.user(http.headers.get("Authorization", cookie))
    elif not trusts_address(request):
        caller = request.services.tokens.check(http.headers.get(ASSERTION, "")).user
    user = bodies.user(http.args, caller, None)
    return replace(request, user=user, signed_in=caller is not None)


def choose_user(request: GalleryRequest) -> flask.Response:
    """Return the page that asks for a user."""
    users = request.services.database.query(
        "SELECT user_id, pictures FROM progress_totals ORDER BY user_id LIMIT :most", most=USERS + 1
    )
    return pages.page(request, "choose-user.html", users=users[:USERS], more=len(users) > USERS)


def sign_in_page(request: GalleryRequest) -> flask.Response:
    """Return the page with a link to the sign-in page, which leads back to the requested page."""
    back = request.path + request.query if request.http.method in ("GET", "HEAD") else ""
    link = (
        request.link("/sign-in", next=back if OURS.fullmatch(back) else "") if _sign_in_url(request) else ""
    )
    return pages.page(request, "sign-in.html", HTTPStatus.UNAUTHORIZED, sign_in_url=link)


def begin(request: GalleryRequest) -> flask.Response:
    """Redirect to the sign-in page (GET /sign-in)."""
    url = _require_sign_in_url(request)
    secret = secrets.token_urlsafe(24)
    asked = {
        "response_type": "id_token",
        "response_mode": "form_post",
        "scope": "openid",
        "client_id": request.services.settings.auth_audience[0],
        "redirect_uri": f"{request.origin}{BASE}/sign-in",
        "nonce": _hash(secret),
        "state": _hash(secret),
    }
    response = redirect(f"{url}{'&' if '?' in url else '?'}{urlencode(asked)}")
    back = request.http.args.get("next", "")
    value = f"{secret}.{back if OURS.fullmatch(back) else ''}"
    # SameSite=None, because the browser must send it with the POST from the sign-in page.
    response.set_cookie(SIGN_IN_COOKIE, value, max_age=SIGN_IN_S, secure=True, httponly=True, samesite="None")
    return response


def finish(request: GalleryRequest) -> flask.Response:
    """Begin a session with the ID token from the sign-in page (POST /sign-in)."""
    http, services = request.http, request.services
    _require_sign_in_url(request)
    form = bodies.single_values(http.form)
    secret, _, back = http.cookies.get(SIGN_IN_COOKIE, "").partition(".")
    if not secret or not _equal(form.get("state", ""), _hash(secret)):
        raise Rejected(
            "sign_in_unknown",
            "This sign-in did not begin in this browser, or it began more than ten minutes ago.",
            "Open the gallery and sign in from there.",
            HTTPStatus.FORBIDDEN,
        )
    token = form.get("id_token", "")
    if not token or len(token) > LONGEST_COOKIE:
        raise Rejected(
            "no_id_token",
            "The sign-in page sent no ID token." if not token else "The ID token is too long to keep.",
            f"Sign in again; a token may have {LONGEST_COOKIE} characters, so give it fewer claims.",
            HTTPStatus.FORBIDDEN,
        )
    try:
        identity = services.tokens.check(token)
    except Rejected as refused:
        raise Rejected(
            "sign_in_refused",
            "The ID token of the sign-in page is not valid here.",
            "Check AUTH_AUDIENCE and SIGN_IN_URL; the function's log has the kind of fault.",
            HTTPStatus.FORBIDDEN,
        ) from refused
    if not _is_for_this_sign_in(request, identity.nonce, secret):
        raise Rejected(
            "sign_in_unknown",
            "The ID token belongs to another sign-in.",
            "Open the gallery and sign in from there.",
            HTTPStatus.FORBIDDEN,
        )
    response = redirect(back if OURS.fullmatch(back) else f"{BASE}/")
    ends_s = round(min(identity.expires - time.time(), LONGEST_S))
    response.set_cookie(COOKIE, token, max_age=ends_s, secure=True, httponly=True, samesite="Lax")
    response.delete_cookie(SIGN_IN_COOKIE, secure=True, httponly=True, samesite="None")
    return response


def end(request: GalleryRequest) -> flask.Response:
    """End the session: delete the token and the browser's cached pictures (POST /sign-out)."""
    response = redirect(f"{BASE}/")
    response.delete_cookie(COOKIE, secure=True, httponly=True, samesite="Lax")
    response.headers["Clear-Site-Data"] = '"cache"'
    return response


def _sign_in_url(request: GalleryRequest) -> str:
    """Return the address of the sign-in page; empty if there is none."""
    settings = request.services.settings
    if not uses_tokens(request):
        return ""
    google = OAUTH_CLIENT.fullmatch(settings.auth_audience[0])
    return settings.sign_in_url or (GOOGLE if google else "")


def _require_sign_in_url(request: GalleryRequest) -> str:
    url = _sign_in_url(request)
    if not url:
        raise Rejected(
            "no_sign_in",
            "There is no sign-in page.",
            "With AUTH=token and a Firebase project, set SIGN_IN_URL; or send the ID token as "
            "`Authorization: Bearer TOKEN`.",
            HTTPStatus.NOT_FOUND,
        )
    return url


def _is_for_this_sign_in(request: GalleryRequest, nonce: str | None, secret: str) -> bool:
    """Return whether the token was issued for this sign-in.

    Firebase's tokens have no nonce; then the request must come from the sign-in page.
    """
    if nonce is not None:
        return _equal(nonce, _hash(secret))
    url = urlsplit(request.services.settings.sign_in_url)
    return bool(url.netloc) and request.http.headers.get("Origin") == f"{url.scheme}://{url.netloc}"


def _hash(secret: str) -> str:
    """Return the hash of the secret, which the sign-in page and its logs may see."""
    return hashlib.sha256(secret.encode()).hexdigest()


def _equal(received: str, expected: str) -> bool:
    return hmac.compare_digest(received.encode(errors="replace"), expected.encode())
