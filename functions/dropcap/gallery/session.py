"""Who looks. With AUTH=token it is whom an ID token names, with AUTH=iap whom the assertion of Identity-Aware
Proxy does, with AUTH=iam whom the address does.

With AUTH=iap the proxy signs people in and out, and the assertion comes with each request that it lets
through. It also sends their email address and id as plain headers, which anybody could who gets past it:
these are never read.

A browser has its ID token from a page that signs people in: Google's, or that of SIGN_IN_URL, which speaks
the same (OpenID Connect Core 1.0, 3.2, with OAuth 2.0 Form Post Response Mode):

    GET /sign-in     sends the browser there, and gives it a cookie with a secret; what may be known of that,
                     its hash, goes along as `nonce` and `state`
    POST /sign-in    is where it comes back to with `id_token` and `state`. Where they don't go with the
                     cookie's secret, somebody else began: one who would have others drop pictures for them
    POST /sign-out   ends it

The token itself is the session: it is checked at every request, nothing is kept, and it ends when the token
does. `__Host-` keeps other sites below the same domain from setting our cookies; browsers take such a cookie
by https alone, Chromium also from localhost.
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
from dropcap.gallery.request import BASE, Visit, redirect
from dropcap.http import bodies
from dropcap.setting_parsers import OAUTH_CLIENT

COOKIE = "__Host-dropcap"
ASSERTION = "X-Goog-IAP-JWT-Assertion"  # docs.cloud.google.com/iap/docs/signed-headers-howto (2026-11)
BEGUN = "__Host-dropcap-sign-in"
BEGUN_S = 600  # how long a sign-in may take
LONGEST_COOKIE = 3800  # characters of a token; browsers keep 4,096 bytes with the name (RFC 6265bis, 5.6)
OURS = re.compile(rf"{BASE}/[^\x00-\x20\x7f\\]{{0,1000}}")  # no address of another site begins so
# accounts.google.com/.well-known/openid-configuration
GOOGLE = "https://accounts.google.com/o/oauth2/v2/auth"
LONGEST_S = 86_400  # of a session, whatever the token says
USERS = 50  # that the page offers which asks whose pictures are meant


def by_token(visit: Visit) -> bool:
    """Return whether an ID token says who asks."""
    return visit.services.settings.auth == "token"


def by_address(visit: Visit) -> bool:
    """Return whether the address says whose pictures are meant, and nothing who asks."""
    return visit.services.settings.auth == "iam"


def is_anybodys(visit: Visit) -> bool:
    """Whether a person asks without saying whose pictures are meant, where that is theirs to say."""
    return by_address(visit) and not (visit.json or visit.request.args.get("user"))


def known(visit: Visit) -> Visit:
    """Return the visit of the user who asks.

    Raises Rejected: no valid token says who (401), the address names no user (400), or another (403).
    """
    request, caller = visit.request, None
    if by_token(visit):
        cookie = f"Bearer {request.cookies.get(COOKIE, '')}"
        caller = visit.services.tokens.user(request.headers.get("Authorization", cookie))
    elif not by_address(visit):
        caller = visit.services.tokens.check(request.headers.get(ASSERTION, "")).user
    user = bodies.user(request.args, caller, None)
    return replace(visit, user=user, signed_in=caller is not None)


def whose(visit: Visit) -> flask.Response:
    """The page that asks whose pictures are meant."""
    users = visit.services.database.query(
        "SELECT user_id, pictures FROM progress_totals ORDER BY user_id LIMIT :most", most=USERS + 1
    )
    return pages.page(visit, "whose.html", users=users[:USERS], more=len(users) > USERS)


def page(visit: Visit) -> flask.Response:
    """The page that leads to where one signs in, and back to what was asked for."""
    back = visit.path + visit.query if visit.request.method in ("GET", "HEAD") else ""
    way = visit.link("/sign-in", next=back if OURS.fullmatch(back) else "") if _place(visit) else ""
    return pages.page(visit, "sign-in.html", HTTPStatus.UNAUTHORIZED, way=way)


def begin(visit: Visit) -> flask.Response:
    """GET /sign-in: to the page that signs people in."""
    place = _needed_place(visit)
    secret = secrets.token_urlsafe(24)
    asked = {
        "response_type": "id_token",
        "response_mode": "form_post",
        "scope": "openid",
        "client_id": visit.services.settings.auth_audience[0],
        "redirect_uri": f"{visit.origin}{BASE}/sign-in",
        "nonce": _proof(secret),
        "state": _proof(secret),
    }
    response = redirect(f"{place}{'&' if '?' in place else '?'}{urlencode(asked)}")
    back = visit.request.args.get("next", "")
    value = f"{secret}.{back if OURS.fullmatch(back) else ''}"
    # None: it has to come along when another site posts to us.
    response.set_cookie(BEGUN, value, max_age=BEGUN_S, secure=True, httponly=True, samesite="None")
    return response


def finish(visit: Visit) -> flask.Response:
    """POST /sign-in: back from there, with an ID token that is for this browser."""
    request, services = visit.request, visit.services
    _needed_place(visit)
    form = bodies.once(request.form)
    secret, _, back = request.cookies.get(BEGUN, "").partition(".")
    if not secret or not _same(form.get("state", ""), _proof(secret)):
        raise Rejected(
            "sign_in_unknown",
            "This sign-in was not begun in this browser, or more than ten minutes ago.",
            "Open the gallery and sign in from there.",
            HTTPStatus.FORBIDDEN,
        )
    token = form.get("id_token", "")
    if not token or len(token) > LONGEST_COOKIE:
        raise Rejected(
            "no_id_token",
            "The page to sign in at sent no ID token." if not token else "The ID token is too long to keep.",
            f"Sign in again; a token may have {LONGEST_COOKIE} characters, so give it fewer claims.",
            HTTPStatus.FORBIDDEN,
        )
    try:
        identity = services.tokens.check(token)
    except Rejected as refused:
        raise Rejected(
            "sign_in_refused",
            "The ID token of the page to sign in at is not valid here.",
            "Check AUTH_AUDIENCE and SIGN_IN_URL; the function's log has the kind of fault.",
            HTTPStatus.FORBIDDEN,
        ) from refused
    if not _is_of_this_sign_in(visit, identity.nonce, secret):
        raise Rejected(
            "sign_in_unknown",
            "The ID token is that of another sign-in.",
            "Open the gallery and sign in from there.",
            HTTPStatus.FORBIDDEN,
        )
    response = redirect(back if OURS.fullmatch(back) else f"{BASE}/")
    ends_s = round(min(identity.expires - time.time(), LONGEST_S))
    response.set_cookie(COOKIE, token, max_age=ends_s, secure=True, httponly=True, samesite="Lax")
    response.delete_cookie(BEGUN, secure=True, httponly=True, samesite="None")
    return response


def end(visit: Visit) -> flask.Response:
    """POST /sign-out: the browser forgets the token, and pictures that it has kept."""
    response = redirect(f"{BASE}/")
    response.delete_cookie(COOKIE, secure=True, httponly=True, samesite="Lax")
    response.headers["Clear-Site-Data"] = '"cache"'
    return response


def _place(visit: Visit) -> str:
    """The address of the page to sign in at; empty where there is none."""
    settings = visit.services.settings
    if not by_token(visit):
        return ""
    google = OAUTH_CLIENT.fullmatch(settings.auth_audience[0])
    return settings.sign_in_url or (GOOGLE if google else "")


def _needed_place(visit: Visit) -> str:
    place = _place(visit)
    if not place:
        raise Rejected(
            "no_sign_in",
            "There is no page to sign in at.",
            "With AUTH=token and a Firebase project, set SIGN_IN_URL; or send the ID token as "
            "`Authorization: Bearer TOKEN`.",
            HTTPStatus.NOT_FOUND,
        )
    return place


def _is_of_this_sign_in(visit: Visit, nonce: str | None, secret: str) -> bool:
    """Whether the token was made out for it: Firebase's say nothing of that, so their page itself must."""
    if nonce is not None:
        return _same(nonce, _proof(secret))
    place = urlsplit(visit.services.settings.sign_in_url)
    return bool(place.netloc) and visit.request.headers.get("Origin") == f"{place.scheme}://{place.netloc}"


def _proof(secret: str) -> str:
    """What may be known of the secret: the page to sign in at and its logs have it."""
    return hashlib.sha256(secret.encode()).hexdigest()


def _same(given: str, wanted: str) -> bool:
    return hmac.compare_digest(given.encode(errors="replace"), wanted.encode())
