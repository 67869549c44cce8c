"""Bodies are limited before they are parsed, and bodies that are not events are acknowledged."""

import base64
import io
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import flask
import pytest
import requests
from werkzeug.datastructures import Headers, MultiDict
from werkzeug.test import EnvironBuilder

from dropcap.http import bodies
from infra.local.process import Process, free_port
from tests.memory.limit import kernel_limit
from tests.support.app import EVENT, OWN_JSON, ROOT, Start, UnreadBody, event_of, problem, rows, small_png
from tests.support.children import FUNCTIONS, python_path
from tests.support.issuer import Issuer

LIMIT_MIB = 300  # of five functions in one process; 12 MB of JSON took 320 MB more
STRUCTURED = {"Content-Type": "application/cloudevents+json"}
JSON = {"Content-Type": "application/json"}
OBJECTS = b"[" + b"{}," * 10_000_000 + b"{}]"
LARGE = bytes(150_000_000)
DEEP = b"[" * 100_000
ANA = {"user": "ana"}


# Under the kernel's limit


@pytest.fixture
def limited(start: Start, tmp_path: Path) -> Iterator[str]:
    """Yield the address of the functions, which the kernel kills above LIMIT_MIB."""
    start()
    port = free_port()
    environment = os.environ | {"PYTHONPATH": python_path(FUNCTIONS, ROOT), "THREADS": "2"}
    with ExitStack() as running:
        limit = running.enter_context(kernel_limit(LIMIT_MIB))
        command = limit.command(sys.executable, "-m", "infra.local.functions", "--port", str(port))
        process = running.enter_context(Process("functions", command, tmp_path / "log", environment, ROOT))
        process.wait_until_answers(f"http://127.0.0.1:{port}/get_progress_stats")
        yield f"http://127.0.0.1:{port}"
        assert limit.usage(process.pid).kills == 0
    assert "Traceback" not in (tmp_path / "log").read_text()


def chunked(data: bytes) -> Iterator[bytes]:
    for at in range(0, len(data), 2**20):
        yield data[at : at + 2**20]


@pytest.mark.usefixtures("memory_limit")
def test_bodies_of_any_size_and_depth_do_not_crash_the_instance(limited: str, tmp_path: Path) -> None:
    for data in (LARGE, OBJECTS, DEEP):
        for headers in (EVENT, STRUCTURED):
            for sent in (data, chunked(data)):
                assert requests.post(limited, sent, headers=headers, timeout=30).status_code == 200
    lines = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines() if line[:1] == "{"]
    ignored = [line["message"] for line in lines if line["message"].startswith("Ignored: the body")]
    assert len(ignored) == 12  # each once
    for path in ("/analyze", "/sweep", "/gallery/uploads?user=ana", "/get_progress_stats", "/favicon.ico"):
        for data in (OBJECTS, DEEP):
            try:
                answer = requests.post(limited + path, chunked(data), headers=JSON | OWN_JSON, timeout=30)
                assert 400 <= answer.status_code < 500, path
            except requests.ConnectionError:  # answered, and closed while we were sending
                pass
    assert requests.get(f"{limited}/get_progress_stats?user=ana", timeout=30).status_code == 200


# Events


def structured(**changes: Any) -> bytes:
    event = {name.removeprefix("ce-"): value for name, value in EVENT.items() if name.startswith("ce-")}
    return json.dumps({name: value for name, value in (event | changes).items() if value}).encode()


NO_EVENTS: dict[str, tuple[dict[str, str], bytes]] = {
    "nothing": (EVENT, b""),
    "no JSON": (EVENT, b"\xff\xd8"),
    "cut JSON": (EVENT, b'{"bucket": "b'),
    "a list": (EVENT, b"[]"),
    "no fields": (EVENT, b"{}"),
    "a text": (EVENT, b'"text"'),
    "a generation that is no number": (EVENT, b'{"bucket": "b", "name": "n", "generation": "x"}'),
    "a generation above 64 bits": (
        EVENT,
        b'{"bucket": "b", "name": "n", "generation": "99999999999999999999"}',
    ),
    "half a surrogate pair": (EVENT, b'{"bucket": "b", "name": "\\ud800", "generation": "1"}'),
    "deep": (EVENT, DEEP),
    "deep in an object": (EVENT, b'{"metadata": ' + b'{"a":' * 500 + b"1" + b"}" * 501),
    "deep in a name": (EVENT, b'{"bucket": ' + b"[" * 900 + b"]" * 900 + b', "name": "a"}'),
    "too long": (EVENT, b'{"bucket": "' + b"x" * 70_000 + b'"}'),
    "no number": (EVENT, b'{"bucket": "b", "name": "n", "generation": NaN}'),
    "a number of 5,000 digits": (EVENT, b'{"bucket": "b", "name": "n", "generation": ' + b"9" * 5000 + b"}"),
    "twice the same": (EVENT, b'{"bucket": "a", "bucket": "b", "name": "n", "generation": "1"}'),
    "UTF-16": (EVENT, '{"bucket": "b"}'.encode("utf-16")),
    "no type": ({name: value for name, value in EVENT.items() if name != "ce-type"}, b"{}"),
    "no attribute": (JSON, b'{"bucket": "b", "name": "n", "generation": "1"}'),
    "no data": (STRUCTURED, structured()),
    "data that is no object": (STRUCTURED, structured(data=["b"])),
    "a type that is no text": (STRUCTURED, structured(type=["x"], data={"bucket": "b"})),
    "no id": (STRUCTURED, structured(id="", data={"bucket": "b"})),
    "an endless number": (EVENT, b'{"bucket": "b", "name": "n", "generation": 1e999}'),
    "an endless size": (EVENT, b'{"bucket": "b", "name": "n", "generation": "1", "size": 1e999}'),
    "no base64": (STRUCTURED, structured(data_base64="§")),
    "a batch": ({"Content-Type": "application/cloudevents-batch+json"}, b"[" + structured(data={}) + b"]"),
    "a form": ({"Content-Type": "application/x-www-form-urlencoded"}, b"bucket=b"),
}


@pytest.mark.parametrize(("headers", "data"), NO_EVENTS.values(), ids=NO_EVENTS)
def test_a_body_that_is_not_an_event_is_acknowledged_and_logged_once(
    start: Start, headers: dict[str, str], data: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    app = start()
    capfd.readouterr()
    assert app.on_upload.post("/", data=data, headers=headers).status_code == 200
    [line] = capfd.readouterr().out.splitlines()
    assert json.loads(line)["severity"] == "ERROR"
    assert len(line) < 500
    assert rows("SELECT count(*) FROM uploads") == [[0]]


@pytest.mark.parametrize("body", [b'{"a": 1e999}', b'{"a": -' + b"9" * 5000 + b"}"])
def test_a_number_that_no_event_has_is_refused_in_the_words_of_the_log(body: bytes) -> None:
    with pytest.raises(ValueError, match=r"^has a number that is too large$"):
        bodies.parse(body)
    assert bodies.parse(b'{"a": [9223372036854775807, -0.5, 1e9]}') == {"a": [2**63 - 1, -0.5, 1e9]}


@pytest.mark.parametrize("packed", ["e30 =", "§", "e30"])
def test_data_that_is_not_base64_is_refused_in_the_words_of_the_log(packed: str) -> None:
    sent = EnvironBuilder(data=structured(data_base64=packed), headers=Headers(STRUCTURED))
    request = flask.Request(sent.get_environ())
    with pytest.raises(ValueError, match=r"^is not a CloudEvent: its `data_base64` is not base64$"):
        bodies.event(request)


def test_events_are_accepted_in_binary_and_structured_mode(start: Start) -> None:
    app = start()
    ways: tuple[Callable[[bytes], tuple[dict[str, str], bytes]], ...] = (
        lambda data: (EVENT, data),
        lambda data: (STRUCTURED, structured(data=json.loads(data))),
        lambda data: (STRUCTURED, structured(data_base64=base64.b64encode(data).decode())),
    )
    for number, way in enumerate(ways):
        headers, data = way(event_of(app.upload(f"ana/{number}.png", small_png())))
        assert app.on_upload.post("/", data=data, headers=headers).status_code == 200
    assert rows("SELECT count(*) FROM analyses") == [[3]]
    assert app.on_upload.get("/").status_code == 405


# JSON


def test_json_above_64_kib_or_nested_too_deep_is_refused_everywhere(start: Start) -> None:
    app = start()
    large = json.dumps({"bucket": app.uploads, "name": "n", "x": "x" * 70_000})
    chunks = {"wsgi.input_terminated": True, "CONTENT_LENGTH": ""}
    for client in (app.http, app.sweep):
        for how in ({}, chunks):
            found = problem(client.post("/", data=large, headers=JSON, environ_overrides=how), 413)
            assert (found["code"], found["detail"]) == ("too_many_bytes", "The JSON is larger than 64 KiB.")
        for data in (DEEP, b'{"name": ' + b"[" * 40 + b"]" * 40 + b"}"):
            assert problem(client.post("/", data=data, headers=JSON), 400)["code"] == "bad_json"
    deep = app.gallery.post("/gallery/uploads", query_string=ANA, data=DEEP, headers=JSON | OWN_JSON)
    assert problem(deep, 400)["code"] == "not_announced"


def test_brackets_in_strings_do_not_count_as_nesting() -> None:
    text = '["' * 100 + "\\"
    assert bodies.parse(json.dumps({"name": text, "a": [{"b": []}]}).encode())["name"] == text
    for data in (b'{"a": "' + b"[" * 100, b'{"' + b"\\" * 60_000, b'"' * 60_001):
        with pytest.raises(ValueError, match="is not"):
            bodies.parse(data)


# Forms and queries


def form(*parts: tuple[str, Any]) -> dict[str, Any]:
    return {"data": MultiDict(parts), "content_type": "multipart/form-data"}


def file(name: str = "a.png") -> tuple[io.BytesIO, str]:
    return io.BytesIO(small_png()), name


TWO_USERS = {"query_string": "user=ana&user=bob"}
TWO_NAMES = '{"bucket": "b", "name": "ana/a", "name": "bob/b"}'
FORMS: dict[str, tuple[Callable[[], dict[str, Any]], str]] = {
    "two files in one field": (lambda: form(("picture", file()), ("picture", file("b.png"))), "not_one_file"),
    "two files in two fields": (lambda: form(("a", file()), ("b", file())), "not_one_file"),
    "a file without a name": (lambda: form(("picture", "x" * 600_000)), "not_one_file"),
    "a short one": (lambda: form(("picture", "x" * 600)), "not_one_file"),
    "one beside a file": (lambda: form(("picture", file()), ("other", "x" * 600_000)), "not_one_file"),
    "a thousand fields": (
        lambda: form(("p", file()), *((f"f{n}", "x") for n in range(1000))),
        "not_one_file",
    ),
    "a user twice": (lambda: form(("picture", file()), ("user", "ana"), ("user", "bob")), "given_twice"),
    "a user in both": (lambda: form(("p", file()), ("user", "bob")) | {"query_string": ANA}, "given_twice"),
    "a user twice in the query": (lambda: {"data": small_png()} | TWO_USERS, "given_twice"),
    "a name twice in JSON": (lambda: {"data": TWO_NAMES, "headers": JSON}, "bad_json"),
}


@pytest.mark.parametrize(("request_", "code"), FORMS.values(), ids=FORMS)
def test_forms_with_duplicate_names_or_without_exactly_one_file_are_refused(
    start: Start, request_: Callable[[], dict[str, Any]], code: str
) -> None:
    assert problem(start().analyze(**request_()), 400)["code"] == code


def test_fields_without_a_name_are_no_options(start: Start) -> None:
    nameless = b"--x\r\nContent-Disposition: form-data\r\n\r\nana\r\n"
    head = b'--x\r\nContent-Disposition: form-data; name="p"; filename="a.png"\r\n\r\n'
    body = nameless * 2 + head + small_png() + b"\r\n--x--\r\n"
    answer = start().analyze(data=body, content_type="multipart/form-data; boundary=x")
    assert answer.status_code == 200


def test_every_function_refuses_a_query_that_is_not_utf_8(start: Start) -> None:
    app = start()
    latin = {"QUERY_STRING": "user=jos\xe9"}  # as servers pass on the bytes
    for client in (app.http, app.progress, app.sweep, app.gallery):
        for answer in (
            client.get("/", environ_overrides=latin, headers=OWN_JSON),
            client.post("/", environ_overrides=latin, headers=OWN_JSON),
        ):
            assert problem(answer, 400)["code"] == "bad_request"


def test_a_form_above_the_size_limit_gets_413(start: Start) -> None:
    app = start(MAX_MB="1")
    data = form(("picture", (io.BytesIO(bytes(3_000_000)), "a.png")))
    assert problem(app.analyze(**data), 413)["code"] == "too_many_bytes"
    head = b'--x\r\nContent-Disposition: form-data; name="p"; filename="a"\r\n\r\n'
    answer = app.analyze(
        input_stream=io.BytesIO(head + bytes(3_000_000)),
        content_type="multipart/form-data; boundary=x",
        environ_overrides={"wsgi.input_terminated": True, "CONTENT_LENGTH": ""},
    )
    assert problem(answer, 413)["code"] == "too_many_bytes"


def test_every_function_refuses_duplicate_options(start: Start) -> None:
    app = start()
    twice = TWO_USERS["query_string"]
    edit = "/gallery/picture/00000000-0000-0000-0000-000000000000/edit?user=ana"
    answers = (
        app.progress.get("/", query_string=twice),
        app.sweep.post("/", query_string="min_age_s=0&min_age_s=9"),
        app.gallery.get("/gallery/", query_string=twice, headers=OWN_JSON),
        app.gallery.get("/gallery/export/csv", query_string=twice, headers=OWN_JSON),
        app.gallery.post(edit, data=MultiDict([("caption", "a"), ("caption", "b")]), headers=OWN_JSON),
    )
    for answer in answers:
        assert problem(answer, 400)["code"] == "given_twice"
    for client in (app.http, app.progress, app.sweep, app.gallery):
        long = client.get("/", query_string="x=" + "y" * bodies.LONGEST_QUERY, headers=OWN_JSON)
        assert problem(long, 414)["code"] == "too_long"


# The rate limit


def test_a_request_counts_against_the_limit_before_its_body_is_parsed(start: Start, issuer: Issuer) -> None:
    app = start(**issuer.settings, MAX_PER_HOUR="4")
    ana = issuer.signed_in("ana")

    def uploaded(**facts: Any) -> int:
        return app.gallery.post("/gallery/uploads", json=facts, headers=OWN_JSON | ana).status_code

    head = base64.b64encode(b"no picture").decode()
    assert uploaded(name="a.jpg", size=10, head=head) == 415
    assert uploaded(size="no number") == 400
    assert app.analyze(data=b"{", headers=JSON | ana).status_code == 400
    assert app.analyze(data=small_png(), query_string={"user": "bob"}, headers=ana).status_code == 403
    assert uploaded(name="a.jpg", size=10, head=head) == 429
    assert app.analyze(data=DEEP, headers=JSON | ana).status_code == 429
    assert rows("SELECT user_id, calls FROM analyze_calls") == [["ana", 4]]


def test_a_request_of_a_back_end_counts_before_its_body_is_read(start: Start) -> None:
    app = start(MAX_PER_HOUR="1")
    assert app.analyze(data=small_png(), query_string=ANA).status_code == 200
    answer = app.analyze(input_stream=UnreadBody(), content_length=5, query_string=ANA)
    assert problem(answer, 429)["code"] == "too_many_calls"
