"""docs/reference/openapi.yaml describes the answers of the real functions, and all of them."""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator, FormatChecker
from openapi_spec_validator import validate
from werkzeug.test import TestResponse

from tests.support.app import PICTURE, ROOT, App, Start, rows, small_png
from tests.support.issuer import Issuer
from tests.support.messages import collect

REFERENCE = ROOT / "docs" / "reference"
SPEC: Any = yaml.safe_load((REFERENCE / "openapi.yaml").read_text())
PAGE = (REFERENCE / "api.md").read_text()
OPERATIONS = {
    operation["operationId"]: (path, method, operation)
    for path, methods in SPEC["paths"].items()
    for method, operation in methods.items()
    if method != "parameters"
}
FUNCTIONS = {"analyze": "http", "getProgressStats": "progress", "sweep": "sweep"}  # else the gallery
JSON = {"Accept": "application/json"}
OWN = JSON | {"Sec-Fetch-Site": "same-origin"}  # what a page of the gallery sends
ANOTHER = "00000000-0000-0000-0000-000000000000"
ANA = {"user": "ana"}
NO_DATABASE = {"DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none"}
# Documented, but out of a test's reach, with the reason.
UNTRIED: dict[tuple[str, int], str] = {}


@dataclass(frozen=True)
class Call:
    """A request to an operation, and the status and code that it must be answered with.

    `path` fills the parameters of the path; `id` is `READY` for an analyzed picture of ana's, `WORKING` for
    one that another worker holds. `before` prepares the function. The last of `times` answers counts.
    """

    operation: str
    status: int
    code: str = ""
    request: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, str] = field(default_factory=dict)
    path: Mapping[str, str] = field(default_factory=dict)
    before: Callable[[App], object] = id
    method: str = ""
    token: str = ""
    times: int = 1

    def __str__(self) -> str:
        return f"{self.operation}-{self.status}-{self.code}"


def posted(**query: str) -> dict[str, Any]:
    return {"data": small_png(), "content_type": "image/png", "query_string": query}


KEPT = posted(keep="true", **ANA)
STORED = {"bucket": "", "name": "ana/a.png"}  # the bucket is filled in


def announced(**facts: Any) -> dict[str, Any]:
    return {"json": {"name": "a.png", "size": 100, "type": "image/png"} | facts}


def keep(app: App) -> str:
    """Analyze a picture of ana's and return its id."""
    return str(app.analyze(**KEPT).get_json()["id"])


def held_by_another(app: App) -> str:
    """Leave a picture of ana's whose lease another worker holds, and return its id."""
    picture = keep(app)
    rows("DELETE FROM analyses")
    rows("UPDATE uploads SET state = 'claimed', lease_until = now() + interval '1 hour'")
    return picture


def store(data: bytes) -> Callable[[App], object]:
    return lambda app: app.upload("ana/a.png", data)


def analyze(status: int, code: str = "", request: Mapping[str, Any] | None = None, **settings: str) -> Call:
    return Call("analyze", status, code, request or {}, settings)


SPECIFIC = [
    analyze(200, request=posted()),
    analyze(200, request=KEPT, RECEIPTS="1", SAFETY="high"),
    analyze(200, request={"data": PICTURE}, GEMINI_API_KEY=""),
    Call("analyze", 200, request={"json": STORED}, before=store(small_png())),
    analyze(400, "bad_json", {"data": "{", "content_type": "application/json"}),
    analyze(400, "not_one_file", {"data": {"a": "b"}, "content_type": "multipart/form-data"}),
    analyze(400, "given_twice", {"query_string": "user=a&user=b", "data": b"x"}),
    analyze(400, "no_user", posted(user="a/b")),
    analyze(403, "wrong_bucket", {"json": STORED | {"bucket": "another"}}),
    analyze(404, "no_such_object", {"json": STORED}),
    Call("analyze", 409, "being_analyzed", KEPT, before=held_by_another),
    analyze(413, "too_many_bytes", {"data": bytes(3_000_000)}, MAX_MB="1"),
    analyze(413, "too_many_pixels", {"data": PICTURE}, MAX_MEGAPIXELS="1"),
    analyze(413, "side_too_long", {"data": PICTURE}, MAX_SIDE="1000"),
    analyze(415, "not_a_picture", {"data": b"no picture"}),
    analyze(415, "unsupported_format", {"data": b"%PDF-1.7 " + bytes(99)}),
    analyze(422, "empty_picture", {"data": b""}),
    analyze(422, "broken_picture", {"data": PICTURE[:9000]}),
    analyze(422, "held_unsafe", KEPT, SAFETY="low", GEMINI_MODEL="fault-unsafe-high"),
    Call("analyze", 422, "quarantined", {"json": STORED | {"keep": True}}, before=store(b"no picture")),
    Call("analyze", 429, "too_many_calls", posted(**ANA), {"MAX_PER_HOUR": "1"}, times=2),
    analyze(503, "held_no_verdict", KEPT, SAFETY="low", GEMINI_MODEL="fault-missing-safety"),
    analyze(503, "try_again", KEPT, **NO_DATABASE),
    Call("getProgressStats", 200, request={"query_string": ANA}, before=keep),
    Call(
        "getProgressStats",
        200,
        request={"query_string": {"spending": "1"}},
        settings={"DAILY_CALLS": "9"},
        before=keep,
    ),
    Call("getProgressStats", 400, "no_user"),
    Call(
        "getProgressStats",
        403,
        "operators_only",
        {"query_string": {"spending": "1"}},
        token="ana",  # noqa: S106
    ),
    Call("getProgressStats", 503, "try_again", {"query_string": ANA}, NO_DATABASE),
    Call("sweep", 200, request={"query_string": {"min_age_s": "0"}}, before=store(small_png())),
    Call("sweep", 200, request={"json": {"redescribe": {"owner": "ana"}}}, before=keep),
    Call("sweep", 400, "bad_age", {"query_string": {"min_age_s": "-1"}}),
    Call("sweep", 400, "bad_redescribe", {"json": {"redescribe": {"owner": 1}}}),
    Call("sweep", 409, "no_key", {"json": {"redescribe": {}}}, {"GEMINI_API_KEY": ""}),
    Call("sweep", 413, "too_many_bytes", {"data": b" " * 70_000, "content_type": "application/json"}),
    Call("sweep", 503, "try_again", settings=NO_DATABASE),
    Call("beginUpload", 201, request=announced(tz="Europe/Madrid")),
    Call("beginUpload", 400, "not_announced", announced(size="large")),
    Call("beginUpload", 413, "too_many_bytes", announced(size=3_000_000), {"MAX_MB": "1"}),
    Call("beginUpload", 413, "too_long", announced(name="x" * 140_000)),
    Call("beginUpload", 415, "not_a_picture", announced(head="bm8gcGljdHVyZQ==")),
    Call("beginUpload", 422, "not_chosen", announced(), {"EXCLUDE": "*.png"}),
    Call(
        "beginUpload",
        429,
        "too_many_calls",
        announced(),
        {"MAX_PER_HOUR": "1"},
        token="ana",  # noqa: S106
        times=2,
    ),
    Call("beginUpload", 503, "try_again", announced(), NO_DATABASE, token="ana"),  # noqa: S106
    Call("uploadStatus", 200, request={"query_string": ANA | {"upload": "7:ana/a.png"}}),
    Call("uploadStatus", 400, "no_upload", {"query_string": ANA | {"upload": "a.png"}}),
    Call(
        "uploadStatus",
        503,
        "try_again",
        {"query_string": ANA | {"upload": "7:ana/a.png"}},
        NO_DATABASE,
    ),
    Call("editPicture", 200, request={"data": {"caption": "Mine"}}, path={"id": "READY"}),
    Call("editPicture", 303, request={"headers": {"Accept": "text/html"}}, path={"id": "READY"}),
    Call("editPicture", 400, "text_too_long", {"data": {"caption": "x" * 301}}),
    Call("editPicture", 404, "no_such_picture"),
    Call("editPicture", 413, "too_long", {"data": {"caption": "x" * 70_000}}),
    Call("editPicture", 503, "try_again", settings=NO_DATABASE),
    Call("deletePicture", 200, settings={"RECEIPTS": "1"}, path={"id": "READY"}),
    Call("deletePicture", 303, path={"id": "READY"}),
    Call("deletePicture", 404, "no_such_picture"),
    Call("deletePicture", 409, "still_in_work", path={"id": "WORKING"}),
    Call("deletePicture", 503, "try_again", settings=NO_DATABASE),
    Call("image", 200, path={"id": "READY"}),
    Call("image", 304, path={"id": "READY"}, times=2),
    Call("image", 404, "no_such_page"),
    Call("image", 503, "try_again", settings=NO_DATABASE),
    *(
        Call("export", 200, path={"kind": kind}, settings={"RECEIPTS": "1"}, before=keep)
        for kind in ("csv", "jsonl", "zip", "receipts")
    ),
    Call("export", 404, "no_such_page", path={"kind": "pdf"}),
    Call("export", 503, "try_again", settings=NO_DATABASE),
]


def everywhere() -> Iterator[Call]:
    """Yield what every operation refuses in the same way."""
    for name, (path, method, _) in OPERATIONS.items():
        yield Call(name, 405, "wrong_method", method="PUT")
        yield Call(name, 414, "too_long", {"query_string": {"a": "x" * 70_000}})
        yield Call(name, 415, "unsupported_encoding", {"headers": {"Content-Encoding": "br"}})
        yield Call(name, 421, "wrong_host", {"base_url": "http://another.example"})
        if name != "sweep":
            yield Call(name, 401, "not_signed_in", token="none")  # noqa: S106
        if method == "post":
            yield Call(name, 403, "other_site", {"headers": {"Sec-Fetch-Site": "cross-site"}})
        else:
            yield Call(name, 403, "not_you", {"query_string": {"user": "bob"}}, token="ana")  # noqa: S106
        if path.startswith("/gallery/"):
            yield Call(name, 400, "no_user", {"query_string": {}})


CALLS = [*SPECIFIC, *everywhere()]


def answer_to(call: Call, start: Start, issuer: Issuer) -> TestResponse:
    path, method, _ = OPERATIONS[call.operation]
    app = start(**(issuer.settings if call.token else {}), **call.settings)
    call.before(app)
    parameters = {"id": ANOTHER, "label": "800", "kind": "csv"} | dict(call.path)
    prepare = {"READY": keep, "WORKING": held_by_another}.get(parameters["id"])
    parameters["id"] = prepare(app) if prepare else parameters["id"]
    request = {"query_string": ANA if path.startswith("/gallery/") else {}} | dict(call.request)
    headers = OWN if path.startswith("/gallery/") else JSON
    request["headers"] = headers | request.get("headers", {})
    if call.token not in ("", "none"):
        request["headers"] |= issuer.signed_in(call.token)
    if request.get("json", {}).get("bucket") == "":
        request["json"] = request["json"] | {"bucket": app.uploads}
    client = getattr(app, FUNCTIONS.get(call.operation, "gallery"))
    address = "/" if call.operation in FUNCTIONS else path.format(**parameters)
    for _ in range(call.times):
        answer: TestResponse = client.open(address, method=call.method or method.upper(), **request)
        request["headers"] = request["headers"] | {"If-None-Match": answer.headers.get("ETag", "")}
    return answer


@pytest.mark.parametrize("call", CALLS, ids=str)
def test_every_answer_is_one_that_is_documented(call: Call, start: Start, issuer: Issuer) -> None:
    answer = answer_to(call, start, issuer)
    assert answer.status_code == call.status, answer.text
    documented = OPERATIONS[call.operation][2]["responses"][str(call.status)]
    if "$ref" in documented:
        documented = SPEC["components"]["responses"][documented["$ref"].rpartition("/")[2]]
    if "content" not in documented:
        assert not answer.data
        return
    kind = answer.mimetype or ""
    [schema] = [
        content["schema"]
        for allowed, content in documented["content"].items()
        if allowed in (kind, f"{kind.partition('/')[0]}/*")
    ]
    if kind.endswith("json"):
        found = answer.get_json()
        checker = FormatChecker()
        Draft202012Validator(schema | {"components": SPEC["components"]}, format_checker=checker).validate(
            found
        )
        assert found.get("code", "") == call.code


def test_every_documented_status_is_tried() -> None:
    documented = {
        (name, int(status))
        for name, (_, _, operation) in OPERATIONS.items()
        for status in operation["responses"]
    }
    assert {(call.operation, call.status) for call in CALLS} | set(UNTRIED) == documented


def test_the_description_is_valid_openapi() -> None:
    validate(SPEC)


def codes() -> dict[str, str]:
    """Return the documented codes by status, as api.md lists them."""
    return {
        status: ", ".join(f"`{code}`" for code in sorted(_codes_of(response)))
        for status, response in SPEC["components"]["responses"].items()
    }


def _codes_of(response: Any) -> list[str]:
    schema = response["content"]["application/problem+json"]["schema"]
    return list(schema["properties"]["code"]["enum"])


def test_the_page_lists_the_codes_of_each_status() -> None:
    listed = dict(re.findall(r"^\| (\d{3}) \| [^|]+ \| ([^|]+) \|$", PAGE, re.MULTILINE))
    assert listed == codes()


def test_every_code_in_the_source_is_documented_and_no_other() -> None:
    [section] = re.findall(
        r"^### Codes without an HTTP response\n(.*?)(?=^#|\Z)", PAGE, re.DOTALL | re.MULTILINE
    )
    stored_only = set(re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE))
    answered = {code for response in SPEC["components"]["responses"].values() for code in _codes_of(response)}
    assert not stored_only & answered
    assert stored_only | answered == {each.code for each in collect() if each.code}
