"""Every gallery response has security headers, changes need our own pages, and errors are readable."""

import io
import re
from collections.abc import Iterator
from typing import Any

import pytest
from werkzeug.test import TestResponse

from dropcap.gallery import assets
from dropcap.gallery.app import LARGEST_FORM
from dropcap.gallery.session import ASSERTION, COOKIE
from dropcap.gallery.uploads import LARGEST_UPLOAD
from dropcap.http.bodies import LONGEST_QUERY
from tests.gallery.test_access import NOBODYS, addresses
from tests.support.app import JSON, OWN, OWN_JSON, App, Start, problem, rows
from tests.support.database.uploads import record, upload
from tests.support.issuer import Issuer

ANA = {"user": "ana"}
NO_DATABASE = "postgresql://nobody@127.0.0.1:9/none"
STATIC = f"/gallery/static/{next(iter(sorted(path.name for path in assets.FOLDER.iterdir())))}"


@pytest.fixture
def app(start: Start) -> App:
    return start()


# Addresses


@pytest.mark.parametrize("root", ["", "/gallery"])  # the service's own root, and where it is mounted locally
def test_all_pages_are_below_gallery_at_any_function_address(app: App, root: str) -> None:
    def get(path: str, **query: str) -> TestResponse:
        environ = {"SCRIPT_NAME": root, "PATH_INFO": path.removeprefix(root)}
        return app.gallery.get("/", query_string=query, environ_overrides=environ)

    assert "Whose pictures?" in get("/gallery/").text
    assert get("/gallery/", user="ana").status_code == 200
    assert get("/gallery/nowhere").status_code == 404
    assert get(f"/gallery/picture/{NOBODYS}").status_code == 400  # without a user


def test_the_bare_address_redirects_to_the_wall_with_its_query(app: App) -> None:
    for path in ("/?user=ana&q=%C3%BC", "/gallery?user=ana&q=%C3%BC"):
        answer = app.gallery.get(path)
        assert (answer.status_code, answer.headers["Location"]) == (303, "/gallery/?user=ana&q=%C3%BC")


NOWHERE = (
    "/elsewhere",
    "/galleryx/",
    "//evil.example/gallery/",
    "/gallery/nowhere",
    "/gallery/export//csv",
    "/gallery/picture/7",
    "/gallery/export/exe",
    "/gallery/static/",
    "/gallery/static/none.css",
    "/gallery/static/../edge.py",
    "/gallery/static/..\\app.py",
    "/gallery/static//etc/passwd",
    "/gallery/static/x\0.css",
    "/gallery/static/" + "x" * 9000,
)


def test_a_missing_page_is_a_404_page(app: App) -> None:
    for path in NOWHERE:
        environ = {"PATH_INFO": path}  # the client itself would change some of them
        answer = app.gallery.get("/", environ_overrides=environ)
        assert (answer.status_code, answer.mimetype) == (404, "text/html"), path
        assert "There is no such page" in answer.text
        assert 'href="/gallery/"' in answer.text
        answer = app.gallery.get("/", environ_overrides=environ, headers=JSON)
        assert problem(answer, 404)["code"] == "no_such_page"


def test_a_wrong_method_gets_405_with_the_allowed_ones(app: App) -> None:
    for method, path, allowed in (
        ("POST", "/", "GET, HEAD"),
        ("GET", "/uploads", "POST"),
        ("PUT", "/sign-in", "GET, HEAD, POST"),
        ("OPTIONS", "/status", "GET, HEAD"),
    ):
        answer = app.gallery.open(f"/gallery{path}", method=method, headers=JSON)
        assert problem(answer, 405)["code"] == "wrong_method"
        assert answer.headers["Allow"] == allowed


def test_head_is_answered_as_get_is_without_a_body(app: App) -> None:
    for path in ("/gallery/", STATIC, "/gallery/nowhere"):
        head, get = app.gallery.head(path), app.gallery.get(path)
        assert (head.status, list(head.headers)) == (get.status, list(get.headers))
        assert (head.data, head.headers["Content-Length"]) == (b"", str(len(get.data)))


# Where a change may come from


ELSEWHERE: dict[str, dict[str, str]] = {
    "another site": {"Sec-Fetch-Site": "cross-site", "Origin": "https://evil.example"},
    "a neighbour of the domain": {"Sec-Fetch-Site": "same-site", "Origin": "http://other.localhost"},
    "no page at all": {"Sec-Fetch-Site": "none"},
    "another site with our origin": {"Sec-Fetch-Site": "cross-site", "Origin": "http://localhost"},
    "another site, in an old browser": {"Origin": "https://evil.example"},
    "another port": {"Origin": "http://localhost:8080"},
    "another scheme": {"Origin": "https://localhost"},
    "a sandbox": {"Origin": "null"},
    "unknown": {},
}


@pytest.mark.parametrize("auth", ["iam", "token", "iap"])
def test_changes_are_accepted_only_from_our_own_pages(start: Start, issuer: Issuer, auth: str) -> None:
    """The cookie of IAP is sent along by other sites too, and a proxy may add a token to any request."""
    app = start(**issuer.proxied if auth == "iap" else issuer.settings | {"AUTH": auth})
    if auth == "token":
        app.gallery.set_cookie(COOKIE, issuer.token())
    assertion = {ASSERTION: issuer.assertion()} if auth == "iap" else {}
    proofs = (assertion, assertion | {"Authorization": f"Bearer {issuer.token()}"})
    for name, source in ELSEWHERE.items():
        for proof in proofs:
            for address in (*addresses("POST"), "/gallery/sign-out"):
                answer = app.gallery.post(address, query_string=ANA, headers=source | proof | JSON)
                assert problem(answer, 403)["code"] == "other_site", (name, address)


def changes(app: App, address: str = f"/gallery/picture/{NOBODYS}/delete", **headers: str) -> bool:
    """Return whether the request reaches its handler, which finds no such picture."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    answer = app.gallery.post(address, query_string=ANA, headers=named | JSON)
    assert answer.status_code in (403, 404), answer.text
    return answer.status_code == 404


def test_a_change_from_our_own_page_is_accepted(app: App) -> None:
    assert changes(app, Sec_Fetch_Site="same-origin")
    assert changes(app, Origin="http://localhost")
    assert changes(app, Origin="https://localhost", X_Forwarded_Proto="https")  # by Cloud Run's front end
    assert not changes(app, Origin="http://localhost", X_Forwarded_Proto="https")
    elsewhere = {"Origin": "https://gallery.example:8443", "Host": "gallery.example:8443"}
    assert changes(app.restarted(HOSTS="gallery.example"), X_Forwarded_Proto="https", **elsewhere)


def test_a_program_with_a_token_and_without_a_cookie_may_change(start: Start, issuer: Issuer) -> None:
    app = start(**issuer.settings)
    assert changes(app, Authorization=f"Bearer {issuer.token()}")
    app.gallery.set_cookie(COOKIE, issuer.token())
    assert not changes(app, Authorization=f"Bearer {issuer.token()}")


# What every answer has


def answers(app: App) -> Iterator[tuple[str, TestResponse]]:
    """Yield one of each kind of answer, errors included."""
    picture = upload("ana/x.png")
    record(app.services.database, picture)
    get = app.gallery.get
    yield "redirect", get("/")
    yield "whose", get("/gallery/")
    yield "wall", get("/gallery/", query_string=ANA)
    yield "picture", get(f"/gallery/picture/{picture.id}", query_string=ANA)
    yield "export", get("/gallery/export/csv", query_string=ANA)
    yield "status", get("/gallery/status?upload=1:ana/x.png&user=ana", headers=JSON)
    yield "static", get(STATIC)
    yield "unchanged", get(STATIC, headers={"If-None-Match": get(STATIC).headers["ETag"]})
    yield "head", app.gallery.head("/gallery/")
    yield "no user", get("/gallery/progress")
    yield "no user, in JSON", get("/gallery/progress", headers=JSON)
    yield "another site", app.gallery.post("/gallery/uploads", query_string=ANA)
    yield "nowhere", get("/gallery/nowhere")
    yield "no picture", get(f"/gallery/picture/{NOBODYS}", query_string=ANA)
    yield "no image", get(f"/gallery/image/{NOBODYS}/800", query_string=ANA)
    yield "wrong method", app.gallery.put("/gallery/")
    yield "long", get("/gallery/?q=" + "x" * LONGEST_QUERY)
    edit = f"/gallery/picture/{picture.id}/edit"
    yield "edited", app.gallery.post(edit, query_string=ANA, data={"caption": "mine"}, headers=OWN)
    large = {"caption": "x" * LARGEST_FORM}
    yield "too large", app.gallery.post(edit, query_string=ANA, data=large, headers=OWN)


def check(kind: str, answer: TestResponse) -> None:
    headers = answer.headers
    policy = dict(part.strip().partition(" ")[::2] for part in headers["Content-Security-Policy"].split(";"))
    assert policy["default-src"] == policy["base-uri"] == policy["frame-ancestors"] == "'none'", kind
    assert policy["script-src"] == policy["style-src"] == policy["form-action"] == "'self'", kind
    assert "unsafe" not in str(policy), kind
    assert headers["X-Content-Type-Options"] == "nosniff", kind
    assert headers["Referrer-Policy"] == "same-origin", kind
    assert headers["Cross-Origin-Opener-Policy"] == "same-origin", kind
    assert headers["Cross-Origin-Resource-Policy"] == "same-origin", kind
    assert "camera=()" in headers["Permissions-Policy"], kind
    assert "Access-Control-Allow-Origin" not in headers, kind
    assert ("public" in headers["Cache-Control"]) <= (kind in ("static", "unchanged")), kind
    assert headers["Cache-Control"] == "no-store" or kind in ("static", "unchanged"), kind
    assert "Traceback" not in answer.text, kind
    assert 'File "' not in answer.text, kind


def test_every_response_has_the_security_headers(app: App) -> None:
    statuses = {}
    for kind, answer in answers(app):
        check(kind, answer)
        statuses[kind] = answer.status_code
    assert statuses == {
        "redirect": 303, "whose": 200, "wall": 200, "picture": 200, "export": 200, "status": 200,
        "static": 200, "unchanged": 304, "head": 200, "no user": 400, "no user, in JSON": 400,
        "another site": 403, "nowhere": 404, "no picture": 404, "no image": 404, "wrong method": 405,
        "long": 414, "edited": 303, "too large": 413,
    }  # fmt: skip


def test_responses_without_sign_in_have_the_security_headers(start: Start, issuer: Issuer) -> None:
    app = start(**issuer.settings)
    assert app.gallery.get(STATIC).status_code == 200  # public
    for kind, path in {"page": "/", "sign in": "/sign-in", "sign out": "/sign-out"}.items():
        answer = app.gallery.get(f"/gallery{path}")
        assert answer.status_code in (303, 401, 405)
        check(kind, answer)
    check("refused", app.gallery.post("/gallery/sign-in"))


def test_pages_may_connect_only_to_the_gallery_and_the_bucket(app: App, storage_url: str) -> None:
    def sends() -> str:
        policy = app.gallery.get("/gallery/").headers["Content-Security-Policy"]
        return str(re.findall(r"connect-src ([^;]*)", policy)[0])

    assert sends() == f"'self' {storage_url}"
    app.restarted(STORAGE_EMULATOR_HOST="")
    assert sends() == "'self' https://storage.googleapis.com"


def test_hsts_is_sent_over_https_only(app: App) -> None:
    assert "Strict-Transport-Security" not in app.gallery.get("/gallery/").headers
    forwarded = app.gallery.get("/gallery/", headers={"X-Forwarded-Proto": "https"})
    assert "max-age=31536000" in forwarded.headers["Strict-Transport-Security"]


# Errors


def test_an_error_is_a_page_for_people_and_a_problem_for_programs(app: App) -> None:
    browser = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
    page = app.gallery.get("/gallery/progress", headers=browser)
    assert (page.status_code, page.mimetype) == (400, "text/html")
    assert "user is missing." in page.text
    assert "Name the user" in page.text
    for accept in ("application/json", "application/problem+json", "application/json, text/html;q=0.5"):
        answer = app.gallery.get("/gallery/progress", headers={"Accept": accept})
        assert problem(answer, 400)["code"] == "no_user"
    for accept in ("", "*/*", "image/webp,*/*;q=0.8", "x;;;q=z"):
        assert app.gallery.get("/gallery/progress", headers={"Accept": accept}).mimetype == "text/html"


def test_an_unavailable_database_is_a_503(start: Start, capfd: pytest.CaptureFixture[str]) -> None:
    app = start(DATABASE_URL=NO_DATABASE)
    for path in ("/", "/?user=ana"):
        page = app.gallery.get(f"/gallery{path}")
        assert (page.status_code, page.mimetype) == (503, "text/html")
        assert "could not be answered just now" in page.text
        check("fault", page)
        answer = app.gallery.get(f"/gallery{path}&" if "?" in path else "/gallery/?user=ana", headers=JSON)
        assert problem(answer, 503)["code"] == "try_again"
        assert int(page.headers["Retry-After"]) == int(answer.headers["Retry-After"]) > 0
    assert '"problem": "PostgreSQL does not answer' in capfd.readouterr().out


def test_log_lines_of_a_request_follow_its_trace(start: Start, capfd: pytest.CaptureFixture[str]) -> None:
    app = start(DATABASE_URL=NO_DATABASE)
    app.gallery.get("/gallery/?user=ana", headers={"traceparent": f"00-{'a' * 32}-{'b' * 16}-01"})
    assert f"projects/dropcap/traces/{'a' * 32}" in capfd.readouterr().out


# Bounds


def test_no_body_is_read_beyond_its_limit(app: App) -> None:
    class Endless(io.BytesIO):
        taken = 0

        def read(self, size: int | None = -1) -> bytes:
            assert size is not None
            assert size >= 0
            self.taken += size
            assert self.taken <= 2 * LARGEST_UPLOAD
            return b"x" * size

        def readinto(self, buffer: Any) -> int:
            return len(self.read(len(buffer)))

    form = "application/x-www-form-urlencoded"
    for path in (*addresses("POST"), "/gallery/sign-in", "/gallery/sign-out"):
        lengths = ({"CONTENT_LENGTH": "1000000000"}, {"CONTENT_LENGTH": "", "wsgi.input_terminated": True})
        for length in lengths:
            answer = app.gallery.post(
                path,
                query_string=ANA,
                input_stream=Endless(),
                headers=OWN_JSON,
                content_type=form,
                environ_overrides=length,
            )
            assert 300 <= answer.status_code < 500, (path, answer.text)


def test_a_body_that_is_too_large_gets_the_limit(app: App) -> None:
    large = {"caption": "x" * 70_000}
    edit = app.gallery.post(f"/gallery/picture/{NOBODYS}/edit?user=ana", data=large, headers=OWN_JSON)
    assert problem(edit, 413)["detail"] == "The request is larger than 64 KiB."
    begin = app.gallery.post("/gallery/uploads?user=ana", json={"head": "x" * 140_000}, headers=OWN_JSON)
    assert problem(begin, 413)["detail"] == "The request is larger than 128 KiB."
    assert rows("SELECT count(*) FROM uploads") == [[0]]


# Style, script and icons


def test_a_static_file_is_cached_for_ever_by_version_and_otherwise_revalidated(app: App) -> None:
    page = app.gallery.get("/gallery/")
    addresses = set(re.findall(r'(?:href|src)="(/gallery/static/[^"]+)"', page.text))
    assert addresses
    for address in addresses:
        answer = app.gallery.get(address)
        assert answer.status_code == 200
        assert answer.headers["Cache-Control"] == "public, max-age=31536000, immutable"
        path, _, version = address.partition("?v=")
        assert version in answer.headers["ETag"]
        for other in (path, f"{path}?v=0000000000000000"):  # of a revision that is being replaced
            assert app.gallery.get(other).headers["Cache-Control"] == "no-cache"


def test_an_unchanged_static_file_is_a_304(app: App) -> None:
    etag = app.gallery.get(STATIC).headers["ETag"]
    again = app.gallery.get(STATIC, headers={"If-None-Match": etag})
    assert (again.status_code, again.data) == (304, b"")
    assert app.gallery.get(STATIC, headers={"If-None-Match": '"other"'}).status_code == 200


def test_every_static_file_has_its_media_type(app: App) -> None:
    types = {"css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
    for path in assets.FOLDER.iterdir():
        answer = app.gallery.get(f"/gallery/static/{path.name}")
        assert (answer.status_code, answer.data) == (200, path.read_bytes())
        assert answer.mimetype == types[path.suffix.removeprefix(".")]
