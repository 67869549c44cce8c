"""Signing in: only a user who returns from the sign-in page is signed in."""

import hashlib
import re
import time
from http.cookies import SimpleCookie
from typing import Any
from urllib.parse import parse_qsl, quote, urlsplit

import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from dropcap.errors import SettingsError
from dropcap.gallery.session import COOKIE, GOOGLE, SIGN_IN_COOKIE
from dropcap.settings import Settings
from tests.support.app import JSON, OWN, App, Start, problem
from tests.support.issuer import CLIENT, PROJECT, Issuer

HOME = "/gallery/"
OTHER = {"Sec-Fetch-Site": "cross-site", "Origin": "https://evil.example"}
FIREBASE = {"iss": f"https://securetoken.google.com/{PROJECT}", "aud": PROJECT, "nonce": None}


@pytest.fixture
def app(start: Start, issuer: Issuer) -> App:
    return start(**issuer.settings)


def browser(app: App) -> FlaskClient:
    """Return another browser, which has no cookie."""
    return app.gallery.application.test_client()


def begun(client: FlaskClient, back: str = "") -> str:
    """Begin to sign in; return the address that the browser is sent to."""
    answer = client.get(f"/gallery/sign-in?next={quote(back)}")
    assert answer.status_code == 303, answer.text
    return answer.headers["Location"]


def posted(client: FlaskClient, form: dict[str, str], **headers: str) -> TestResponse:
    """Post the form as the sign-in page does, which is another site."""
    return client.post("/gallery/sign-in", data=form, headers={"Sec-Fetch-Site": "cross-site"} | headers)


def signed_in(client: FlaskClient, issuer: Issuer, back: str = "") -> TestResponse:
    answer = posted(client, issuer.sign_in(begun(client, back)))
    assert answer.status_code == 303, answer.text
    return answer


def is_in(client: FlaskClient) -> bool:
    """Return whether the browser is signed in: then another user's pictures are `not_you`."""
    answer = client.get(HOME, headers=JSON, query_string={"user": "another"})
    code = problem(answer, answer.status_code)["code"]
    assert code in ("not_you", "not_signed_in")
    return bool(code == "not_you")


def cookie(answer: TestResponse, name: str) -> Any:
    found: SimpleCookie = SimpleCookie()
    for header in answer.headers.getlist("Set-Cookie"):
        found.load(header)
    return found[name]


# Signing in


def test_without_a_token_a_page_leads_to_sign_in_and_back(app: App) -> None:
    requested = "/gallery/progress?from=a%26b&to=%C3%BC"
    answer = app.gallery.get(requested)
    assert (answer.status_code, answer.mimetype) == (401, "text/html")
    assert answer.headers["WWW-Authenticate"] == "Bearer"
    [way] = re.findall(r'href="(/gallery/sign-in[^"]*)"', answer.text)
    assert dict(parse_qsl(urlsplit(way).query)) == {"next": requested}


def test_a_program_without_a_token_gets_401_as_json(app: App) -> None:
    answer = app.gallery.get(HOME, headers=JSON)
    assert problem(answer, 401)["code"] == "not_signed_in"
    assert answer.headers["WWW-Authenticate"] == "Bearer"


def test_sign_in_returns_to_the_requested_page(app: App, issuer: Issuer) -> None:
    assert not is_in(app.gallery)
    back = signed_in(app.gallery, issuer, "/gallery/progress?from=a%26b&to=%C3%BC").headers["Location"]
    assert back == "/gallery/progress?from=a%26b&to=%C3%BC"
    assert is_in(app.gallery)
    assert not is_in(browser(app))


def test_the_request_to_google_follows_its_documentation(start: Start, issuer: Issuer) -> None:
    app = start(
        **issuer.settings | {"SIGN_IN_URL": "", "AUTH_AUDIENCE": f"{CLIENT},5.apps.googleusercontent.com"}
    )
    answer = app.gallery.get("/gallery/sign-in", headers={"X-Forwarded-Proto": "https"})
    page, _, query = answer.headers["Location"].partition("?")
    parameters = dict(parse_qsl(query))
    assert page == GOOGLE == "https://accounts.google.com/o/oauth2/v2/auth"
    assert parameters.pop("nonce") != ""
    assert parameters.pop("state") != ""
    assert parameters == {
        "response_type": "id_token",
        "response_mode": "form_post",
        "scope": "openid",
        "client_id": CLIENT,
        "redirect_uri": "https://localhost/gallery/sign-in",
    }


def test_each_sign_in_has_a_secret_that_the_sign_in_page_does_not_learn(app: App) -> None:
    answers = [app.gallery.get("/gallery/sign-in") for _ in range(2)]
    secrets = {cookie(answer, SIGN_IN_COOKIE).value.partition(".")[0] for answer in answers}
    sent = [answer.headers["Location"] for answer in answers]
    assert len(secrets) == len(set(sent)) == 2
    assert all(len(secret) >= 32 and secret not in "".join(sent) for secret in secrets)


def test_the_session_cookie_is_host_only_secure_http_only_and_same_site_lax(app: App, issuer: Issuer) -> None:
    kept = cookie(signed_in(app.gallery, issuer), COOKIE)
    assert kept.key.startswith("__Host-")
    assert kept["httponly"]
    assert kept["secure"]
    assert (kept["samesite"], kept["path"], kept["domain"]) == ("Lax", "/", "")
    assert 3500 < int(kept["max-age"]) <= 3600  # no longer than the token


def test_a_custom_sign_in_page_signs_in_users_of_a_firebase_project(start: Start, issuer: Issuer) -> None:
    app = start(**issuer.settings | {"AUTH_AUDIENCE": PROJECT})
    issuer.claims = FIREBASE
    form = issuer.sign_in(begun(app.gallery))
    assert posted(app.gallery, form, Origin=issuer.origin).status_code == 303
    assert is_in(app.gallery)


def test_a_firebase_project_without_a_sign_in_page_says_which_setting_is_missing(
    start: Start, issuer: Issuer
) -> None:
    app = start(**issuer.settings | {"AUTH_AUDIENCE": PROJECT, "SIGN_IN_URL": ""})
    assert "SIGN_IN_URL" in app.gallery.get(HOME).text
    assert problem(app.gallery.get("/gallery/sign-in", headers=JSON), 404)["code"] == "no_sign_in"


def test_with_iam_there_is_no_sign_in(start: Start, issuer: Issuer) -> None:
    app = start(**issuer.settings | {"AUTH": "iam"})
    assert app.gallery.get("/gallery/sign-in").status_code == 404
    app.gallery.set_cookie(SIGN_IN_COOKIE, "secret.")
    assert posted(app.gallery, {"id_token": issuer.token(), "state": "x"}).status_code == 404


# Refused


def refused(client: FlaskClient, answer: TestResponse, code: str = "sign_in_unknown") -> None:
    assert answer.status_code == 403, answer.text
    assert code in answer.text
    assert COOKIE not in str(answer.headers.getlist("Set-Cookie"))
    assert not is_in(client)


def test_a_sign_in_form_works_once(app: App, issuer: Issuer) -> None:
    form = issuer.sign_in(begun(app.gallery))
    assert posted(app.gallery, form).status_code == 303
    app.gallery.delete_cookie(COOKIE)
    refused(app.gallery, posted(app.gallery, form))


def test_the_token_of_an_earlier_sign_in_is_refused(app: App, issuer: Issuer) -> None:
    old = issuer.sign_in(begun(app.gallery))
    new = issuer.sign_in(begun(app.gallery))
    refused(app.gallery, posted(app.gallery, new | {"id_token": old["id_token"]}))
    refused(app.gallery, posted(app.gallery, old))


@pytest.mark.parametrize("victim", ["has begun nothing", "has begun to sign in", "is signed in"])
def test_login_csrf_is_refused(app: App, issuer: Issuer, victim: str) -> None:
    mallory, other = browser(app), app.gallery
    if victim == "is signed in":
        signed_in(other, issuer)
    elif victim == "has begun to sign in":
        begun(other)
    issuer.person = "mallory"
    form = issuer.sign_in(begun(mallory))
    known = hashlib.sha256(b"").hexdigest()  # of an empty secret
    of_none = {"id_token": issuer.token("mallory", nonce=known), "state": known}
    for forged in (form, form | {"state": ""}, {"id_token": form["id_token"]}, of_none):
        answer = posted(other, forged, **OTHER)
        assert answer.status_code == 403
        assert "Set-Cookie" not in answer.headers
    assert is_in(other) == (victim == "is signed in")


def test_an_undecodable_state_is_refused(app: App) -> None:
    begun(app.gallery)
    answer = app.gallery.post(
        "/gallery/sign-in",
        data=b"state=%ff%fe%ed%a0%80&id_token=x",
        content_type="application/x-www-form-urlencoded",
    )
    refused(app.gallery, answer)


@pytest.mark.parametrize("origin", [None, "null", "https://evil.example", "http://localhost"])
def test_a_token_without_nonce_is_accepted_from_the_sign_in_page_only(
    start: Start, issuer: Issuer, origin: str | None
) -> None:
    app = start(**issuer.settings | {"AUTH_AUDIENCE": PROJECT})
    issuer.claims = FIREBASE
    form = issuer.sign_in(begun(app.gallery))
    refused(app.gallery, posted(app.gallery, form, **{"Origin": origin} if origin else {}))


def test_a_token_of_google_without_nonce_is_refused(start: Start, issuer: Issuer) -> None:
    app = start(**issuer.settings | {"SIGN_IN_URL": ""})
    parameters = dict(parse_qsl(urlsplit(begun(app.gallery)).query))
    form = {"id_token": issuer.token(), "state": parameters["state"]}
    refused(app.gallery, posted(app.gallery, form, Origin="https://accounts.google.com"))


UNUSABLE: dict[str, tuple[str | None, dict[str, Any], str]] = {
    "expired": ("ana", {"exp": int(time.time()) - 60}, "sign_in_refused"),
    "for another app": ("ana", {"aud": "5678.apps.googleusercontent.com"}, "sign_in_refused"),
    "of another issuer": ("ana", {"iss": "https://evil.example"}, "sign_in_refused"),
    "too long for a cookie": ("ana", {"groups": ["x" * 100] * 40}, "no_id_token"),
    "none, as the user cancelled": (None, {}, "no_id_token"),
}


@pytest.mark.parametrize(("person", "claims", "code"), UNUSABLE.values(), ids=UNUSABLE)
def test_an_unusable_token_is_refused_with_the_reason(
    app: App, issuer: Issuer, person: str | None, claims: dict[str, Any], code: str
) -> None:
    issuer.person, issuer.claims = person, claims
    refused(app.gallery, posted(app.gallery, issuer.sign_in(begun(app.gallery))), code)


@pytest.mark.parametrize(
    "back",
    [
        "https://evil.example/",
        "//evil.example/gallery/",
        "/gallery",
        "/\\evil.example",
        "/gallery/\\..\\..\\evil.example",
        "/gallery/\r\nSet-Cookie: a=b",
        "javascript:alert(1)",
        "gallery/",
        "/gallery/" + "x" * 5000,
    ],
)
def test_sign_in_redirects_only_to_pages_of_the_gallery(app: App, issuer: Issuer, back: str) -> None:
    form = issuer.sign_in(begun(app.gallery, back))
    kept = app.gallery.get_cookie(SIGN_IN_COOKIE)
    assert kept is not None
    assert kept.value.endswith(".")
    assert posted(app.gallery, form).headers["Location"] == HOME


def test_a_forged_cookie_does_not_redirect_elsewhere(app: App, issuer: Issuer) -> None:
    form = issuer.sign_in(begun(app.gallery))
    kept = app.gallery.get_cookie(SIGN_IN_COOKIE)
    assert kept is not None
    app.gallery.set_cookie(SIGN_IN_COOKIE, kept.value.partition(".")[0] + ".https://evil.example/")
    assert posted(app.gallery, form).headers["Location"] == HOME


# Signing out


def test_sign_out_ends_the_session_and_clears_the_cache(app: App, issuer: Issuer) -> None:
    signed_in(app.gallery, issuer)
    answer = app.gallery.post("/gallery/sign-out", headers=OWN)
    assert (answer.status_code, answer.headers["Location"]) == (303, HOME)
    assert answer.headers["Clear-Site-Data"] == '"cache"'
    assert cookie(answer, COOKIE)["secure"]  # or browsers keep a __Host- cookie
    assert not is_in(app.gallery)


def test_another_site_can_not_sign_users_out(app: App, issuer: Issuer) -> None:
    signed_in(app.gallery, issuer)
    assert app.gallery.post("/gallery/sign-out", headers=OTHER).status_code == 403
    assert app.gallery.get("/gallery/sign-out", headers=OWN).status_code == 405
    assert is_in(app.gallery)


def test_a_token_in_the_header_takes_precedence_over_the_cookie(app: App, issuer: Issuer) -> None:
    signed_in(app.gallery, issuer)
    assert app.gallery.get(HOME, headers=JSON | {"Authorization": "Bearer x.y.z"}).status_code == 401


# Settings


@pytest.mark.parametrize("address", ["http://sign-in.example/", "sign-in.example", "javascript:alert(1)"])
def test_the_address_of_the_sign_in_page_must_be_https(address: str) -> None:
    with pytest.raises(SettingsError, match="SIGN_IN_URL"):
        Settings.read({"SIGN_IN_URL": address})


def test_the_address_of_the_sign_in_page_may_have_parameters(start: Start, issuer: Issuer) -> None:
    app = start(**issuer.settings | {"SIGN_IN_URL": f"{issuer.page}?theme=dark"})
    signed_in(app.gallery, issuer)
    assert is_in(app.gallery)
