"""With AUTH=token, a valid ID token determines the user, who sees only their own pictures."""

import base64
import hashlib
import hmac
import io
import json
import os
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from google.auth import crypt

from dropcap.errors import Rejected, SettingsError
from dropcap.http.id_tokens import Tokens
from dropcap.settings import Settings
from tests.support.app import App, Start, UnreadBody, problem, rows, small_png
from tests.support.issuer import CLIENT, KID, PROJECT, Issuer

FIREBASE = {"iss": f"https://securetoken.google.com/{PROJECT}", "aud": PROJECT}


def stats(app: App, headers: dict[str, str], **query: str) -> Any:
    return app.progress.get("/", headers=headers, query_string=query)


# Valid tokens


def test_the_token_determines_the_user(start: Start, issuer: Issuer) -> None:
    app = start(**issuer.settings)
    for user in ("ana", "110169484474386276334"):
        query = {"keep": "true"}
        kept = app.analyze(data=small_png(), headers=issuer.signed_in(user), query_string=query)
        assert kept.status_code == 200
        assert (kept.json or {})["user"] == user
        assert stats(app, issuer.signed_in(user)).get_json()["pictures_analyzed"] == 1
    assert stats(app, issuer.signed_in("bob")).get_json()["pictures_analyzed"] == 0
    assert rows("SELECT user_id FROM analyses ORDER BY 1") == [["110169484474386276334"], ["ana"]]


def test_a_firebase_project_admits_its_users_and_not_googles(start: Start, issuer: Issuer) -> None:
    app = start(**issuer.settings | {"AUTH_AUDIENCE": PROJECT})
    assert stats(app, issuer.signed_in("Xy28uid", **FIREBASE)).get_json()["user"] == "Xy28uid"
    problem(stats(app, issuer.signed_in(aud=PROJECT)), 401)
    problem(stats(app, issuer.signed_in(**FIREBASE | {"aud": "other-project"})), 401)
    problem(stats(app, issuer.signed_in(**FIREBASE | {"iss": FIREBASE["iss"] + "-2"})), 401)


def test_tokens_of_any_configured_client_are_accepted(start: Start, issuer: Issuer) -> None:
    app = start(**issuer.settings | {"AUTH_AUDIENCE": f"{CLIENT}, 5678.apps.googleusercontent.com"})
    for client in (CLIENT, "5678.apps.googleusercontent.com"):
        assert stats(app, issuer.signed_in(aud=client)).status_code == 200
    problem(stats(app, issuer.signed_in(aud="9.apps.googleusercontent.com")), 401)


def test_a_clock_skew_of_30_s_is_tolerated(start: Start, issuer: Issuer) -> None:
    app = start(**issuer.settings)
    now = int(time.time())
    assert stats(app, issuer.signed_in(exp=now - 20)).status_code == 200
    assert stats(app, issuer.signed_in(iat=now + 20)).status_code == 200


# Invalid tokens


def encoded(part: Any) -> bytes:
    data = part if isinstance(part, bytes) else json.dumps(part).encode()
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def nothing(issuer: Issuer, signed: bytes) -> bytes:
    return b""


def wrong(issuer: Issuer, signed: bytes) -> bytes:
    return b"x" * 256


def right(issuer: Issuer, signed: bytes) -> bytes:
    return bytes(issuer.signer.sign(signed))


def with_the_public_key(issuer: Issuer, signed: bytes) -> bytes:
    """Algorithm confusion: the public key used as a shared secret."""
    return hmac.digest(issuer.certificate.encode(), signed, hashlib.sha256)


def by_hand(header: Any, signature: Callable[[Issuer, bytes], bytes]) -> Callable[[Issuer], str]:
    """A token with valid claims, whose header and signature are made by hand."""

    def token(issuer: Issuer) -> str:
        signed = encoded(header) + b"." + issuer.token().split(".")[1].encode()
        return (signed + b"." + encoded(signature(issuer, signed))).decode()

    return token


def of_another_key(issuer: Issuer) -> str:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    return issuer.token(signer=crypt.RSASigner(key, KID))


def of_another_kind_of_key(issuer: Issuer) -> str:
    return issuer.token(signer=crypt.EsSigner(ec.generate_private_key(ec.SECP256R1()), KID))


def with_other_claims(issuer: Issuer) -> str:
    header, _, signature = issuer.token("ana").split(".")
    return ".".join((header, issuer.token("bob").split(".")[1], signature))


def claim(**claims: Any) -> Callable[[Issuer], str]:
    return lambda issuer: issuer.token(**claims)


def signed_by_hand(claims: bytes) -> Callable[[Issuer], str]:
    """A token with valid claims and signature, to which this JSON adds claims."""

    def token(issuer: Issuer) -> str:
        usual = json.loads(base64.urlsafe_b64decode(issuer.token().split(".")[1] + "=="))
        added = [name for name in ("exp", "sub") if f'"{name}"'.encode() in claims]
        kept = json.dumps({name: value for name, value in usual.items() if name not in added})
        signed = encoded(RS256) + b"." + encoded(kept[:-1].encode() + b"," + claims[1:])
        return (signed + b"." + encoded(right(issuer, signed))).decode()

    return token


RS256 = {"alg": "RS256", "kid": KID}
NOW = int(time.time())
INVALID: dict[str, Callable[[Issuer], str]] = {
    "empty": lambda issuer: "",
    "no token at all": lambda issuer: "sesame",
    "two parts": lambda issuer: issuer.token().rpartition(".")[0],
    "four parts": lambda issuer: issuer.token() + ".x",
    "no base64": lambda issuer: "ü.ü.ü",
    "no JSON": lambda issuer: "AAAA.AAAA.AAAA",
    "no object": by_hand([], nothing),
    "a deep header": by_hand(b"[" * 5000, nothing),
    "too long": lambda issuer: issuer.token(note="x" * 9000),
    "not signed": by_hand({"alg": "none", "kid": KID}, nothing),
    "a wrong signature": by_hand({"alg": "RS256", "kid": KID}, wrong),
    "an algorithm that is none": by_hand({"alg": ["RS256"], "kid": KID}, nothing),
    "the public key as a secret": by_hand({"alg": "HS256", "kid": KID}, with_the_public_key),
    "another key": of_another_key,
    "another kind of key": of_another_kind_of_key,
    "an unknown key": by_hand({"alg": "RS256", "kid": "key-3"}, right),
    "no key named": by_hand({"alg": "RS256"}, right),
    "a key that is no name": by_hand({"alg": "RS256", "kid": [KID]}, right),
    "claims of another token": with_other_claims,
    "expired": claim(exp=NOW - 60),
    "from the future": claim(iat=NOW + 7200),
    "no expiry": claim(exp=None),
    "an expiry that is no time": claim(exp="never"),
    "for another app": claim(aud="5678.apps.googleusercontent.com"),
    "for several apps": claim(aud=[CLIENT, "other"]),
    "for nobody": claim(aud=None),
    "of another issuer": claim(iss="https://accounts.example.com"),
    "of Firebase": claim(iss=FIREBASE["iss"]),
    "of no issuer": claim(iss=None),
    "of nobody": claim(user=None),
    "an empty user": claim(user=""),
    "a number as user": claim(user=7),
    "a user that is a path": claim(user="ana/x"),
    "a user with a control character": claim(user="ana\n"),
    "a user that is no text": claim(user="\ud800"),
    "nobody in particular": claim(user="anonymous"),
    "a user that is a step of a path": claim(user=".."),
    "a user that is this folder": claim(user="."),
    "a user that is a list": claim(user=["ana"]),
    "not valid before an hour": claim(nbf=NOW + 3600),
    "not valid before a word": claim(nbf="now"),
    "not valid before true": claim(nbf=True),
    "not valid before NaN": claim(nbf=float("nan")),
    "signed in tomorrow": claim(auth_time=NOW + 86_400),
    "an expiry that is NaN": claim(exp=float("nan")),
    "an expiry that is Infinity": claim(exp=float("inf")),
    "an expiry that is infinite": signed_by_hand(b'{"exp": 1e999}'),
    "an expiry of 400 digits": claim(exp=10**400),
    "an expiry that is true": claim(exp=True),
    "an expiry in a text": claim(exp=str(NOW + 60)),
    "an expiry in a list": claim(exp=[NOW + 60]),
    "issued at NaN": claim(iat=float("nan")),
    "issued at true": claim(iat=True),
    "issued never": claim(iat=None),
    "for this app in a list": claim(aud=[CLIENT]),
    "an unknown extension that is critical": by_hand({**RS256, "crit": ["exp2"], "exp2": 1}, right),
    "a known one": by_hand({**RS256, "crit": ["b64"], "b64": True}, right),
    "no extension that is critical": by_hand({**RS256, "crit": []}, right),
    "an access token": by_hand({**RS256, "typ": "at+jwt"}, right),
    "a type that is no text": by_hand({**RS256, "typ": ["JWT"]}, right),
    "two algorithms": by_hand(b'{"alg": "none", "alg": "RS256", "kid": "key-1"}', right),
    "two users": signed_by_hand(b'{"sub": "ana", "sub": "bob"}'),
    "claims nested deep": signed_by_hand(b'{"x": ' + b"[" * 500 + b"]" * 500 + b"}"),
    "a nonce that is a number": claim(nonce=7),
    "padding": lambda issuer: issuer.token() + "=",
    "white space": lambda issuer: issuer.token().replace(".", ". ", 1),
}

VALID: dict[str, Callable[[Issuer], str]] = {
    "by hand": by_hand(RS256, right),
    "with a type": by_hand({**RS256, "typ": "jwt"}, right),
    "with more claims": signed_by_hand(b'{"x": [[{}]]}'),
    "with instants": claim(nbf=NOW - 1, auth_time=NOW - 0.5, iat=NOW - 1.5, exp=NOW + 600.5),
    "of a clock that is ahead": claim(nbf=NOW + 20, iat=NOW + 20),
}


@pytest.fixture
def tokens(issuer: Issuer) -> Tokens:
    os.environ.update(issuer.settings)
    return Tokens(Settings.read())


@pytest.mark.parametrize("token", VALID.values(), ids=VALID)
def test_a_token_is_accepted_if_every_part_is_valid(
    tokens: Tokens, issuer: Issuer, token: Callable[[Issuer], str]
) -> None:
    assert tokens.check(token(issuer)).user == "ana"


@pytest.mark.parametrize("token", INVALID.values(), ids=INVALID)
def test_every_invalid_token_is_refused_with_the_same_problem(
    tokens: Tokens, issuer: Issuer, token: Callable[[Issuer], str]
) -> None:
    problems = []
    for presented in ("", token(issuer)):
        with pytest.raises(Rejected) as refused:
            tokens.check(presented)
        problems.append((refused.value.code, refused.value.status, refused.value.headers, str(refused.value)))
    assert problems[0] == problems[1]
    assert problems[0][:2] == ("not_signed_in", 401)


def test_a_path_step_is_not_a_valid_user(start: Start) -> None:
    app = start()
    for user in (".", ".."):
        assert problem(stats(app, {}, user=user), 400)["code"] == "no_user"
        assert problem(app.analyze(data=small_png(), query_string={"user": user}), 400)["code"] == "no_user"
    upload = app.upload("a/../b.png", small_png())
    assert upload.user == "a"
    assert replace(upload, name="../b.png").user == replace(upload, name="./b.png").user == "anonymous"


def test_every_function_gives_an_invalid_token_the_same_answer(start: Start, issuer: Issuer) -> None:
    app = start(**issuer.settings)
    missing = stats(app, {})
    for name in (
        "empty",
        "no base64",
        "too long",
        "not signed",
        "another key",
        "expired",
        "a user that is a path",
    ):
        header = {"Authorization": f"Bearer {INVALID[name](issuer)}".encode().decode("latin-1")}
        for answer in (stats(app, header), app.analyze(data=small_png(), headers=header)):
            assert problem(answer, 401)["code"] == "not_signed_in"
            assert answer.headers["WWW-Authenticate"] == "Bearer"
            assert answer.text == missing.text


def test_other_authorization_schemes_are_refused(start: Start, issuer: Issuer) -> None:
    app = start(**issuer.settings)
    problem(stats(app, {"Authorization": f"Basic {issuer.token()}"}), 401)
    assert stats(app, {"Authorization": f"bearer {issuer.token()}"}).status_code == 200  # RFC 9110, 11.1


def test_without_a_token_no_body_is_read_and_nothing_is_done(start: Start, issuer: Issuer) -> None:
    app = start(**issuer.settings)
    problem(app.analyze(input_stream=UnreadBody(small_png()), query_string={"keep": "true"}), 401)
    assert rows("SELECT count(*) FROM uploads") == rows("SELECT count(*) FROM analyze_calls") == [[0]]


# The user


def test_a_user_other_than_the_tokens_is_forbidden(start: Start, issuer: Issuer) -> None:
    app = start(**issuer.settings)
    upload = app.upload("ana/a.png", small_png())
    header = issuer.signed_in("ana")
    for user, status in (("bob", 403), ("", 403), ("ana", 200)):
        form = {"picture": (io.BytesIO(small_png()), "x.png"), "user": user}
        answers = (
            stats(app, header, user=user),
            app.analyze(data=small_png(), headers=header, query_string={"user": user}),
            app.analyze(data=form, headers=header, content_type="multipart/form-data"),
            app.analyze(json={"bucket": app.uploads, "name": upload.name, "user": user}, headers=header),
        )
        for answer in answers:
            assert answer.status_code == status, answer.text
            assert status == 200 or problem(answer, 403)["code"] == "not_you"
    problem(app.analyze(json=dict(bucket=app.uploads, name=upload.name, user=None), headers=header), 403)


def test_another_users_object_gets_the_same_answer_as_a_missing_one(start: Start, issuer: Issuer) -> None:
    app = start(**issuer.settings)
    for name in ("ana/a.png", "bob/b.png", "no-folder.png", "ana\x7f/a.png"):
        app.upload(name, small_png())

    def answer(name: str, **options: Any) -> Any:
        body = {"bucket": app.uploads, "name": name} | options
        return app.analyze(json=body, headers=issuer.signed_in("ana"))

    missing = answer("ana/none.png")
    assert problem(missing, 404)["code"] == "no_such_object"
    others = ("bob/b.png", "no-folder.png", "ana\x7f/a.png", "bob/none.png", "ana", "/ana/a.png")
    for name in (*others, "ana/../bob/b.png"):
        for keep in (False, True):
            refused = answer(name, keep=keep)
            assert (refused.status_code, refused.text) == (404, missing.text), name
    assert answer("ana/a.png").status_code == 200
    assert len(app.objects(app.uploads)) == 4
    assert rows("SELECT count(*) FROM uploads") == [[0]]


def test_a_back_end_finds_only_objects_of_the_user_that_it_names(start: Start) -> None:
    app = start()
    app.upload("bob/b.png", small_png())
    body = {"bucket": app.uploads, "name": "bob/b.png"}
    problem(app.analyze(json=body | {"user": "ana"}), 404)
    assert app.analyze(json=body | {"user": "bob"}).status_code == 200
    assert app.analyze(json=body).status_code == 200


def test_a_user_with_a_slash_can_not_write_as_another_user(start: Start) -> None:
    app = start()
    answer = app.analyze(data=small_png(), query_string={"keep": "true", "user": "ana/x"})
    assert problem(answer, 400)["code"] == "no_user"
    assert rows("SELECT count(*) FROM uploads") == [[0]]


def test_sweep_relies_on_iam_and_needs_no_user_token(start: Start, issuer: Issuer) -> None:
    app = start(**issuer.settings)
    assert app.reconcile() == {"complete": True}


def test_with_iam_the_back_ends_token_is_ignored(start: Start) -> None:
    answer = stats(start(), {"Authorization": "Bearer a.b.SIGNATURE_REMOVED_BY_GOOGLE"}, user="ana")
    assert answer.get_json()["user"] == "ana"


# The issuer's keys


def test_keys_are_fetched_once_in_their_lifetime(start: Start, issuer: Issuer) -> None:
    app = start(**issuer.settings)
    for _ in range(3):
        assert stats(app, issuer.signed_in()).status_code == 200
    for _ in range(3):  # an unknown key is not fetched again at once
        problem(stats(app, {"Authorization": f"Bearer {of_another_key(issuer)}"}), 401)
    assert issuer.key_requests == 1


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Cache-Control": "public, max-age=0"},
        {"Cache-Control": "no-store"},
        {"Cache-Control": "max-age=60", "Age": "60"},
        {"Cache-Control": "max-age=soon", "Age": "old"},
    ],
)
def test_keys_are_cached_only_for_their_lifetime(
    start: Start, issuer: Issuer, headers: dict[str, str]
) -> None:
    issuer.headers = headers
    app = start(**issuer.settings)
    for _ in range(2):
        assert stats(app, issuer.signed_in()).status_code == 200
    assert issuer.key_requests == 2


@pytest.mark.parametrize(
    ("status", "body"),
    [(500, {}), (404, {}), (200, b"<html>"), (200, []), (200, {"keys": [{"kty": "RSA"}]}), (200, b"\xff")],
)
def test_without_keys_the_answer_is_503_with_retry_after(
    start: Start, issuer: Issuer, status: int, body: Any
) -> None:
    good = issuer.body
    issuer.status, issuer.body = status, body
    app = start(**issuer.settings)
    answer = stats(app, issuer.signed_in())
    assert problem(answer, 503)["code"] == "try_again"
    assert answer.headers["Retry-After"]
    issuer.status, issuer.body = 200, good
    assert stats(app, issuer.signed_in()).status_code == 200


@pytest.mark.parametrize("how", ["down", "with an untrusted certificate"])
def test_an_unavailable_or_forged_issuer_admits_nobody(
    start: Start, issuer: Issuer, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = dict(issuer.settings)
    if how == "down":
        settings["AUTH_CERTS_URL"] = "https://127.0.0.1:9/certs"
    else:
        del settings["REQUESTS_CA_BUNDLE"]
        monkeypatch.delenv("REQUESTS_CA_BUNDLE", raising=False)
    assert problem(stats(start(**settings), issuer.signed_in()), 503)["code"] == "try_again"


# Settings


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"AUTH": "none"}, "AUTH"),
        ({"AUTH": "token"}, "AUTH_AUDIENCE"),
        ({"AUTH": "token", "AUTH_AUDIENCE": " , "}, "AUTH_AUDIENCE"),
        ({"AUTH_AUDIENCE": "*"}, "AUTH_AUDIENCE"),
        ({"AUTH_AUDIENCE": f"{PROJECT},other-project"}, "AUTH_AUDIENCE"),  # two of them could share a uid
        ({"AUTH_AUDIENCE": f"{CLIENT},{PROJECT}"}, "AUTH_AUDIENCE"),
        ({"AUTH_CERTS_URL": "http://127.0.0.1/certs"}, "AUTH_CERTS_URL"),
    ],
)
def test_settings_that_would_admit_anyone_are_refused(settings: dict[str, str], named: str) -> None:
    with pytest.raises(SettingsError) as wrong:
        Settings.read(settings)
    assert str(wrong.value).startswith(f"{named}=")


def test_a_project_of_an_organisation_is_a_valid_audience() -> None:
    audience = "example.com:my-project"
    assert Settings.read({"AUTH_AUDIENCE": audience}).auth_audience == (audience,)
