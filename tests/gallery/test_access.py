"""Two users of one gallery: for ana, bob's pictures do not exist."""

import base64
import csv
import hashlib
import io
import json
import re
import time
import uuid
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from flask.testing import FlaskClient
from google.auth import crypt
from werkzeug.test import TestResponse

from dropcap.database.leases import Leases
from dropcap.domain.analysis import Rendition
from dropcap.domain.upload import Upload
from dropcap.gallery.app import PUBLIC, ROUTES
from dropcap.gallery.session import COOKIE, USERS
from tests.support.app import JSON, OWN, App, Start, UnreadBody, problem, rows, small_png
from tests.support.database.uploads import record, upload
from tests.support.issuer import KID, Issuer

NOBODYS = uuid.UUID(int=7)
# Words that only the pages with a user's picture contain.
WORDS = {"ana": "heronry", "bob": "kingfisher"}


@dataclass
class Person:
    """A user with a browser and one picture."""

    client: FlaskClient
    name: str
    picture: Upload

    def get(self, path: str, **query: str) -> TestResponse:
        return self.client.get(f"/gallery{path}", query_string=query)

    def post(self, path: str, **form: str) -> TestResponse:
        return self.client.post(f"/gallery{path}", data=form, headers=OWN)

    def wall(self) -> str:
        answer = self.get("/")
        assert answer.status_code == 200, answer.text
        return answer.text


def published(app: App, user: str, name: str = "x.png", **others: Any) -> Upload:
    """Record and publish a picture of the user, as the pipeline does."""
    picture = Upload(app.uploads, f"{user}/{name}", 1, 12, "image/png")
    file, data = f"{picture.id}/200.webp", user.encode() * 9
    app.storage.bucket(app.pictures).blob(file).upload_from_string(data, "image/webp")
    checksum = base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()
    word = WORDS[user]
    facts = {
        "caption": f"a {word}",
        "description": f"A quiet {word}.",
        "alt_text": word,
        "tags": (word, "bird"),
        "text": word.upper(),
        "pictures": (Rendition("200", file, 200, 100, len(data), "image/webp", checksum),),
    }
    assert record(app.services.database, picture, **facts | others)
    app.services.leases.finish(picture)
    return picture


@pytest.fixture
def app(start: Start, issuer: Issuer) -> App:
    return start(**issuer.settings)


@pytest.fixture
def ana(app: App, issuer: Issuer) -> Person:
    return person(app, issuer, "ana")


@pytest.fixture
def bob(app: App, issuer: Issuer) -> Person:
    return person(app, issuer, "bob")


def person(app: App, issuer: Issuer, name: str) -> Person:
    client = app.gallery.application.test_client()
    client.set_cookie(COOKIE, issuer.token(name))
    return Person(client, name, published(app, name))


def check_same_404(one: TestResponse, other: TestResponse) -> None:
    assert one.status_code == other.status_code == 404
    assert one.text == other.text
    assert sorted(one.headers) == sorted(other.headers)


# By id


@pytest.mark.parametrize("path", ["/picture/{}", "/image/{}/200"])
def test_another_users_picture_does_not_exist(ana: Person, bob: Person, path: str) -> None:
    check_same_404(ana.get(path.format(bob.picture.id)), ana.get(path.format(NOBODYS)))
    for person in (ana, bob):
        assert person.get(path.format(person.picture.id)).status_code == 200


@pytest.mark.parametrize("path", ["/picture/{}/edit", "/picture/{}/delete"])
def test_another_users_picture_can_not_be_changed(app: App, ana: Person, bob: Person, path: str) -> None:
    form = {"caption": "mine now", "alt_text": "mine"}
    check_same_404(ana.post(path.format(bob.picture.id), **form), ana.post(path.format(NOBODYS), **form))
    assert "a kingfisher" in bob.wall()
    assert "mine" not in bob.wall()
    assert f"{bob.picture.id}/200.webp" in app.objects(app.pictures)
    assert bob.post(path.format(bob.picture.id), **form).status_code == 303
    assert "a kingfisher" not in bob.wall()
    assert "a heronry" in ana.wall()


def test_another_users_upload_progress_is_not_revealed(ana: Person, bob: Person) -> None:
    def status(picture: Upload) -> dict[str, Any]:
        answer = ana.get("/status", upload=f"{picture.generation}:{picture.name}")
        assert answer.status_code == 200, answer.text
        [found] = answer.get_json()["uploads"]
        # The others differ by the upload's name.
        return {key: value for key, value in found.items() if key not in ("id", "object", "card")}

    assert status(ana.picture)["state"] == "captioned"
    assert status(bob.picture) == status(upload("bob/none.png")) == status(upload("nobody/none.png"))
    assert status(bob.picture)["state"] == "waiting"


def test_another_users_rejection_reason_is_not_revealed(app: App, ana: Person, bob: Person) -> None:
    database = app.services.database
    for user in ("ana", "bob"):
        bad, leases = upload(f"{user}/bad.png"), Leases(database)
        reason = f"{WORDS[user]} is no picture"
        assert leases.reject(bad, leases.acquire(bad).token, "not_a_picture", reason)
    for state in ("rejected", "working", "captioned"):
        assert WORDS["bob"] not in ana.get("/", state=state).text
    assert "heronry is no picture" in ana.get("/", state="rejected").text
    check_same_404(ana.get(f"/picture/{upload('bob/bad.png').id}"), ana.get(f"/picture/{NOBODYS}"))


# By name


def test_an_upload_can_not_enter_another_users_folder(app: App, ana: Person) -> None:
    picture = small_png()
    facts = {"size": len(picture), "type": "image/png", "tz": "", "head": base64.b64encode(picture).decode()}
    names = (
        "bob/x.png",
        "/bob/x.png",
        "../bob/x.png",
        "..\\bob\\x.png",
        "..%2fbob%2fx.png",
        "../../bob/x.png",
    )
    for name in ("x.png", *names):
        body = facts | {"name": name, "user": "bob"}
        answer = ana.client.post("/gallery/uploads", json=body, headers=OWN | JSON)
        assert answer.status_code == 201 or name != "x.png", answer.text
        if answer.status_code == 201:
            assert re.fullmatch(r"ana/[0-9a-f]+/[^/]+", answer.get_json()["object"])
        else:
            assert answer.status_code == 400


PATHS = ("/", "/picture/{}", "/image/{}/200", "/status", "/export/csv", "/export/zip", "/progress")


@pytest.mark.parametrize("path", PATHS)
def test_a_user_parameter_other_than_the_tokens_is_refused(ana: Person, path: str) -> None:
    for user, status in (("bob", 403), ("", 403), ("ana", 200)):
        answer = ana.get(path.format(ana.picture.id), user=user, upload="1:ana/x.png")
        assert answer.status_code == status


# By listings


def test_the_wall_shows_only_the_users_pictures(ana: Person, bob: Person) -> None:
    for one, other in ((ana, bob), (bob, ana)):
        assert str(one.picture.id) in one.wall()
        assert str(other.picture.id) not in one.wall()
        assert WORDS[other.name] not in one.wall().lower()


@pytest.mark.parametrize("kind", ["csv", "jsonl", "zip"])
def test_an_export_has_only_the_users_pictures(ana: Person, bob: Person, kind: str) -> None:
    for one, other in ((ana, bob), (bob, ana)):
        answer = one.get(f"/export/{kind}")
        assert answer.status_code == 200
        data = answer.data
        if kind == "zip":
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                data = b"".join([name.encode() + archive.read(name) for name in archive.namelist()])
            assert one.name.encode() * 9 in data
            assert other.name.encode() * 9 not in data
        assert WORDS[one.name].encode() in data
        assert WORDS[other.name].encode() not in data.lower()
        assert str(other.picture.id).encode() not in data


def test_progress_counts_only_the_users_pictures(app: App, ana: Person, bob: Person) -> None:
    alone = ana.get("/progress")
    assert alone.status_code == 200
    for number in range(3):
        published(app, "bob", f"{number}.png")
    assert ana.get("/progress").text == alone.text


# Without a valid token


def addresses(method: str) -> list[str]:
    """Return the address of every route that needs sign-in, those added later included."""
    values = {"picture": NOBODYS, "label": "200", "kind": "csv"}
    return [
        "/gallery" + re.sub(r"<(?:[^:>]*:)?(\w+)>", lambda word: str(values[word[1]]), rule.rule)
        for rule in ROUTES.iter_rules()
        if method in (rule.methods or ()) and rule.endpoint not in PUBLIC
    ]


def of_another_key(issuer: Issuer) -> str:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    return issuer.token(signer=crypt.RSASigner(key, KID))


TOKENS: dict[str, Callable[[Issuer], str]] = {
    "none": lambda issuer: "",
    "no token at all": lambda issuer: "sesame",
    "signed by another": of_another_key,
    "not signed": lambda issuer: issuer.token().rpartition(".")[0] + ".",
    "expired": lambda issuer: issuer.token(exp=int(time.time()) - 60),
    "for another app": lambda issuer: issuer.token(aud="5678.apps.googleusercontent.com"),
    "of nobody in particular": lambda issuer: issuer.token("anonymous"),
}


@pytest.mark.parametrize("token", TOKENS.values(), ids=TOKENS)
def test_without_a_valid_token_every_route_has_the_same_answer_and_no_effect(
    app: App, issuer: Issuer, token: Callable[[Issuer], str]
) -> None:
    presented = token(issuer)
    by_cookie = app.gallery.application.test_client()
    by_cookie.set_cookie(COOKIE, presented)
    ways = [(by_cookie, OWN), (app.gallery, OWN | {"Authorization": f"Bearer {presented}"})]
    texts = set()
    for client, headers in ways:
        for method in ("GET", "POST"):
            for address in addresses(method):
                answer = client.open(address, method=method, headers=headers | JSON)
                assert problem(answer, 401)["code"] == "not_signed_in"
                texts.add(answer.text)
        assert "Sign in" in client.get("/gallery/", headers=headers).text
    assert len(texts) == 1
    assert rows("SELECT count(*) FROM uploads") == [[0]]


def test_without_sign_in_no_body_is_read(app: App) -> None:
    for address in addresses("POST"):
        answer = app.gallery.post(address, input_stream=UnreadBody(b"x" * 99), headers=OWN, content_length=99)
        assert answer.status_code == 401


def test_without_the_issuers_keys_every_request_is_a_503(start: Start, issuer: Issuer) -> None:
    issuer.status = 500
    app = start(**issuer.settings)
    app.gallery.set_cookie(COOKIE, issuer.token())
    answer = app.gallery.get("/gallery/")
    assert answer.status_code == 503
    assert answer.headers["Retry-After"]


# With AUTH=iam, where the caller names the user


def test_the_page_asks_for_a_user_if_none_is_named(start: Start) -> None:
    app = start()
    for user in ("ana", "bob"):
        published(app, user)
    answer = app.gallery.get("/gallery/")
    assert answer.status_code == 200
    assert re.findall(r'href="(/gallery/\?user=\w+)">', answer.text) == [
        "/gallery/?user=ana",
        "/gallery/?user=bob",
    ]
    assert '<input id="user" name="user"' in answer.text
    assert problem(app.gallery.get("/gallery/", headers=JSON), 400)["code"] == "no_user"


def test_offered_user_names_are_escaped_and_limited(start: Start) -> None:
    app = start()
    hostile = '"><script>alert(1)</script>&user=bob'
    app.services.database.query(
        "INSERT INTO progress_totals (user_id, pictures) "
        "SELECT 'user ' || n, 1 FROM generate_series(1, 99) AS n UNION ALL SELECT :name, 2 RETURNING 1",
        name=hostile,
    )
    text = app.gallery.get("/gallery/").text
    assert "<script>alert" not in text
    assert f'href="/gallery/?{urlencode({"user": hostile})}"' in text
    assert text.count("/gallery/?user=") == USERS


@pytest.mark.parametrize("user", ["ana/x", "a\x00b", "x" * 129])
def test_an_invalid_user_is_a_problem_with_a_remedy(start: Start, user: str) -> None:
    app = start()
    for path in PATHS:
        answer = app.gallery.get(f"/gallery{path.format(NOBODYS)}", query_string={"user": user}, headers=JSON)
        assert problem(answer, 400)["code"] == "no_user"


def test_the_named_user_sees_only_their_own_pictures(start: Start) -> None:
    app = start()
    pictures = {user: published(app, user) for user in ("ana", "bob")}

    def get(path: str) -> TestResponse:
        return app.gallery.get(f"/gallery{path}", query_string={"user": "ana"})

    assert WORDS["bob"] not in get("/").text
    assert get(f"/picture/{pictures['ana'].id}").status_code == 200
    for path in ("/picture/{}", "/image/{}/200"):
        check_same_404(get(path.format(pictures["bob"].id)), get(path.format(NOBODYS)))
    lines = [json.loads(line) for line in get("/export/jsonl").text.splitlines()]
    assert [line["id"] for line in lines] == [str(pictures["ana"].id)]
    table = list(csv.DictReader(io.StringIO(get("/export/csv").text.removeprefix("\ufeff"))))
    assert [line["id"] for line in table] == [str(pictures["ana"].id)]
