"""Behind Identity-Aware Proxy only its signed assertion determines the user.

The proxy itself is not available in tests. Its headers and its address for signing out are those of
docs.cloud.google.com/iap/docs/signed-headers-howto and query-parameters-and-headers-howto (2026-11). What its
assertions share with ID tokens is tested in http/test_id_tokens.py.
"""

import base64
import hashlib
import hmac
import json
import re
import time
from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from google.auth import crypt
from werkzeug.test import TestResponse

from dropcap.errors import SettingsError
from dropcap.gallery.session import ASSERTION
from dropcap.http import id_tokens
from dropcap.settings import Settings
from tests.support.app import JSON, OWN_JSON, App, Start, problem, small_png
from tests.support.issuer import AUDIENCE, CLIENT, IAP_KID, KID, PROJECT, Issuer

HOME = "/gallery/"
NOW = int(time.time())


@pytest.fixture
def app(start: Start, issuer: Issuer) -> App:
    return start(**issuer.proxied)


def request(app: App, assertion: str | None, path: str = HOME, **headers: str) -> TestResponse:
    """Return the answer to a request as the proxy forwards it, or without an assertion if it is None."""
    added = {} if assertion is None else {ASSERTION: assertion}
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return app.gallery.get(path, headers=JSON | added | named)


def user(app: App, **proof: str) -> str:
    """Return the user to whose folder the page uploads a picture."""
    head = base64.b64encode(small_png()[:64]).decode()
    body = {"name": "a.png", "size": len(small_png()), "type": "image/png", "tz": "", "head": head}
    answer = app.gallery.post("/gallery/uploads", json=body, headers=OWN_JSON | proof)
    assert answer.status_code == 201, answer.text
    return str(answer.get_json()["object"].partition("/")[0])


# Valid assertions


def test_the_user_is_the_google_account_that_its_id_token_names_too(app: App, issuer: Issuer) -> None:
    """Users keep their pictures when AUTH=token becomes AUTH=iap, and back."""
    account = "110169484474386276334"
    assert user(app, **{ASSERTION: issuer.assertion(f"accounts.google.com:{account}")}) == account
    assert user(app.restarted(**issuer.settings), **issuer.signed_in(account)) == account


def test_an_account_of_another_issuer_is_never_a_google_account(app: App, issuer: Issuer) -> None:
    for named in ("sts.google.com:1234", "accounts.google.com:ana"):
        assert user(app, **{ASSERTION: issuer.assertion(named)}) == named


def test_another_users_pictures_can_not_be_requested(app: App, issuer: Issuer) -> None:
    assert request(app, issuer.assertion()).status_code == 200
    answer = request(app, issuer.assertion(), f"{HOME}?user=bob")
    assert problem(answer, 403)["code"] == "not_you"


# Invalid assertions


def encoded(part: Any) -> bytes:
    return base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=")


def by_hand(header: Any, sign: Callable[[Issuer, bytes], bytes]) -> Callable[[Issuer], str]:
    """An assertion whose claims are right; its header and signature are made by hand."""

    def made(issuer: Issuer) -> str:
        signed = encoded(header) + b"." + issuer.assertion().split(".")[1].encode()
        signature = base64.urlsafe_b64encode(sign(issuer, signed)).rstrip(b"=")
        return (signed + b"." + signature).decode()

    return made


def claim(**claims: Any) -> Callable[[Issuer], str]:
    return lambda issuer: issuer.assertion(**claims)


def of_another_key(issuer: Issuer) -> str:
    return issuer.assertion(signer=crypt.EsSigner(ec.generate_private_key(ec.SECP256R1()), IAP_KID))


def der(issuer: Issuer, signed: bytes) -> bytes:
    """Return a signature in DER, which JWS does not allow (RFC 7518, 3.4)."""
    return b"0E" + bytes(issuer.proxy.sign(signed))


ELSEWHERE = AUDIENCE.replace("123456789012", "210987654321")
REFUSED: dict[str, Callable[[Issuer], str]] = {
    "two, joined": lambda issuer: f"{issuer.assertion()},{issuer.assertion()}",
    "not signed": by_hand({"alg": "none", "kid": IAP_KID}, lambda issuer, signed: b""),
    "the public key as a secret": by_hand(
        {"alg": "HS256", "kid": IAP_KID},
        lambda issuer, signed: hmac.digest(issuer.proxys_key.encode(), signed, hashlib.sha256),
    ),
    "a signature of zeros": by_hand({"alg": "ES256", "kid": IAP_KID}, lambda issuer, signed: bytes(64)),
    "a signature in DER": by_hand({"alg": "ES256", "kid": IAP_KID}, der),
    "another key": of_another_key,
    "an unknown key": by_hand(
        {"alg": "ES256", "kid": "iap-9"}, lambda issuer, signed: bytes(issuer.proxy.sign(signed))
    ),
    "RS256 with a certificate": lambda issuer: issuer.assertion(signer=issuer.signer),
    "ES256 with the key of a certificate": by_hand(
        {"alg": "ES256", "kid": KID}, lambda issuer, signed: bytes(issuer.proxy.sign(signed))
    ),
    "an ID token": lambda issuer: issuer.token(),
    "an ID token for this service": lambda issuer: issuer.token(aud=AUDIENCE),
    "of another issuer": claim(iss="https://cloud.google.com/iap/"),
    "of Google's ID tokens": claim(iss="https://accounts.google.com"),
    "for another service": claim(aud=AUDIENCE.replace("gallery", "analyze")),
    "for another region": claim(aud=AUDIENCE.replace("europe-west1", "us-central1")),
    "for another project": claim(aud=ELSEWHERE),
    "for several": claim(aud=[AUDIENCE, ELSEWHERE]),
    "expired": claim(exp=NOW - 60),
    "of an external identity, which is a path": claim(user="securetoken.google.com/my-project:ana"),
}


@pytest.mark.parametrize("assertion", REFUSED.values(), ids=REFUSED)
def test_every_invalid_assertion_gets_the_same_answer(
    app: App, issuer: Issuer, assertion: Callable[[Issuer], str]
) -> None:
    missing = request(app, None)
    answer = request(app, assertion(issuer))
    assert problem(answer, 401)["code"] == "not_signed_in"
    assert answer.text == missing.text
    assert "Identity-Aware Proxy" in answer.text


def test_unsigned_headers_are_ignored(app: App, issuer: Issuer) -> None:
    plain = {
        "X-Goog-Authenticated-User-Email": "accounts.google.com:ana@example.com",
        "X-Goog-Authenticated-User-Id": "accounts.google.com:1234",
        "Authorization": f"Bearer {issuer.token()}",
        "Cookie": f"__Host-dropcap={issuer.token()}",
    }
    assert problem(request(app, None, **plain), 401)["code"] == "not_signed_in"
    assert problem(request(app, None, f"{HOME}?user=ana", **plain), 401)["code"] == "not_signed_in"
    assert request(app, issuer.assertion(), **plain).status_code == 200


def test_a_browser_that_bypassed_the_proxy_gets_an_explanation(app: App) -> None:
    answer = app.gallery.get(HOME)
    assert (answer.status_code, answer.mimetype) == (401, "text/html")
    assert "did not pass through it" in answer.text
    assert "SIGN_IN_URL" not in answer.text


# Pages


def test_sign_out_is_at_the_proxy(app: App, issuer: Issuer) -> None:
    page = app.gallery.get(HOME, headers={ASSERTION: issuer.assertion()}).text
    [way] = re.findall(r'href="([^"]*)">Sign out', page)
    assert way == "/gallery/?gcp-iap-mode=CLEAR_LOGIN_COOKIE"
    assert "/gallery/sign-out" not in page
    assert "user=" not in page  # the assertion names the user


def test_there_is_no_sign_in_page(app: App) -> None:
    assert problem(app.gallery.get("/gallery/sign-in", headers=JSON), 404)["code"] == "no_sign_in"


def test_the_other_functions_behave_as_with_iam(app: App, issuer: Issuer) -> None:
    """They ignore assertions: IAM admits only a back end, which names the user."""
    for headers in ({}, {ASSERTION: "sesame"}, issuer.signed_in()):
        answer = app.progress.get("/", headers=headers, query_string={"user": "ana"})
        assert answer.get_json()["user"] == "ana"
    assert app.analyze(data=small_png(), query_string={"user": "ana"}).get_json()["user"] == "ana"
    assert app.progress.get("/", query_string={"spending": "1"}).status_code == 200
    rebound = app.progress.get("/", headers={"Host": "evil.example"}, query_string={"user": "ana"})
    assert problem(rebound, 421)["code"] == "wrong_host"


# The proxy's keys


def test_an_unknown_key_is_fetched_at_most_once_a_minute(
    app: App, issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert request(app, issuer.assertion()).status_code == 200
    key = ec.generate_private_key(ec.SECP256R1())
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    public = key.public_key().public_bytes(serialization.Encoding.PEM, form)
    issuer.body = {"iap-2": public.decode()}
    rotated = crypt.EsSigner(key, "iap-2")
    for _ in range(3):
        problem(request(app, issuer.assertion(signer=rotated)), 401)
    assert issuer.key_requests == 1
    monkeypatch.setattr(id_tokens, "ASKED_AGAIN_S", 0)
    assert request(app, issuer.assertion(signer=rotated)).status_code == 200
    problem(request(app, issuer.assertion()), 401)  # by the key that was replaced


# Settings


@pytest.mark.parametrize(
    "settings",
    [
        {"AUTH": "iap"},
        {"AUTH": "iap", "AUTH_AUDIENCE": CLIENT},
        {"AUTH": "iap", "AUTH_AUDIENCE": PROJECT},
        {"AUTH": "iap", "AUTH_AUDIENCE": f"{AUDIENCE},{CLIENT}"},
        {"AUTH": "iap", "AUTH_AUDIENCE": f"{AUDIENCE}/"},
        {"AUTH": "token", "AUTH_AUDIENCE": AUDIENCE},
    ],
)
def test_an_audience_that_is_no_single_service_of_iap_is_refused(settings: dict[str, str]) -> None:
    with pytest.raises(SettingsError) as wrong:
        Settings.read(settings)
    assert str(wrong.value).startswith("AUTH_AUDIENCE=")


def test_the_audience_of_a_load_balancers_backend_service_is_accepted() -> None:
    behind = "/projects/123456789012/global/backendServices/42"
    assert Settings.read({"AUTH": "iap", "AUTH_AUDIENCE": behind}).auth_audience == (behind,)
