"""POST a picture to `analyze` and get its analysis; every error is a problem with a remedy."""

import io
import json
from typing import Any

import hypothesis
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tests.support.app import CAPTION, NAME, PICTURE, SAMPLES, Start, problem, rows, small_png

FIELDS = {
    "id", "upload", "picture", "caption", "description", "alt_text", "tags", "text", "sources", "pictures",
    "memory", "timings",
}  # fmt: skip


def test_a_posted_picture_is_analyzed_without_storing_anything(start: Start) -> None:
    app = start()
    answer = app.analyze(data=PICTURE, content_type="image/jpeg")
    assert answer.status_code == 200
    analysis = answer.json
    assert analysis is not None
    assert set(analysis) >= FIELDS
    assert analysis["caption"] == CAPTION
    with Image.open(SAMPLES / NAME) as picture:
        assert {analysis["picture"]["width"], analysis["picture"]["height"]} == set(picture.size)
    assert analysis["picture"]["bytes"] == len(PICTURE)
    assert analysis["pictures"] == []
    assert app.objects(app.pictures) == {}
    assert rows("SELECT count(*) FROM uploads") == [[0]]
    assert rows("SELECT count(*) FROM analyses") == [[0]]


def test_a_raw_body_a_multipart_form_and_a_stored_object_give_the_same_analysis(start: Start) -> None:
    app = start()
    app.upload(f"ana/{NAME}", PICTURE)
    raw = app.analyze(data=PICTURE, content_type="application/octet-stream")
    form = app.analyze(data={"picture": (io.BytesIO(PICTURE), "x.jpg")}, content_type="multipart/form-data")
    stored = app.analyze(json={"bucket": app.uploads, "name": f"ana/{NAME}"})
    answers = [answer.json or {} for answer in (raw, form, stored)]
    assert {answer["caption"] for answer in answers} == {CAPTION}
    assert len({answer["description"] for answer in answers}) == 1
    assert list(app.objects(app.uploads)) == [f"ana/{NAME}"]


def test_a_picture_that_is_to_be_kept_is_published_recorded_and_counted_once(start: Start) -> None:
    app = start()
    answers = [
        app.analyze(data=PICTURE, content_type="image/jpeg", query_string={"keep": "true", "user": "ana"})
        for _ in range(2)
    ]
    assert [answer.status_code for answer in answers] == [200, 200]
    assert answers[0].json == answers[1].json
    assert answers[0].json is not None
    assert {each["label"] for each in answers[0].json["pictures"]} == {"1600", "800", "200"}
    assert len(app.objects(app.pictures)) == 3
    assert app.stats("ana")["pictures_analyzed"] == 1


def test_a_stored_object_that_is_to_be_kept_is_treated_as_an_upload(start: Start) -> None:
    app = start()
    app.upload("ana/a.png", small_png())
    answer = app.analyze(json={"bucket": app.uploads, "name": "ana/a.png", "keep": True})
    assert answer.status_code == 200
    assert app.objects(app.uploads) == {}
    assert app.stats("ana")["pictures_analyzed"] == 1


def test_nothing_is_stored_of_a_rejected_posted_picture(start: Start) -> None:
    app = start(SAFETY="low", GEMINI_MODEL="fault-unsafe-medium", DAILY_CALLS="10")
    answer = app.analyze(data=small_png(), query_string={"keep": "true", "user": "ana"})
    assert problem(answer, 422)["code"] == "held_unsafe"
    assert rows("SELECT calls FROM spending") == [[1]]
    assert rows("SELECT (SELECT count(*) FROM uploads), (SELECT count(*) FROM answers)") == [[0, 0]]


def png(width: int, height: int) -> bytes:
    out = io.BytesIO()
    Image.new("1", (width, height)).save(out, "PNG")
    return out.getvalue()


IN_JSON = {"content_type": "application/json"}
BAD: dict[str, tuple[bytes, dict[str, Any], int, str]] = {
    "no bytes": (b"", {}, 422, "empty_picture"),
    "no picture": (b"no picture at all", {}, 415, "not_a_picture"),
    "truncated": (PICTURE[: len(PICTURE) // 2], {}, 422, "broken_picture"),
    "50,001 px wide": (png(50_001, 1), {}, 413, "side_too_long"),
    "a bomb": (png(20_000, 20_000), {}, 413, "too_many_pixels"),
    "broken JSON": (b"{", IN_JSON, 400, "bad_json"),
    "JSON list": (b"[]", IN_JSON, 400, "bad_json"),
    "no name": (b'{"bucket": "b"}', IN_JSON, 400, "bad_json"),
    "another bucket": (b'{"bucket": "other", "name": "n"}', IN_JSON, 403, "wrong_bucket"),
    "bad user": (PICTURE, {"query_string": {"keep": "true", "user": "a\nb"}}, 400, "no_user"),
    "no file": (b"--x--\r\n", {"content_type": "multipart/form-data; boundary=x"}, 400, "not_one_file"),
    "no boundary": (b"x", {"content_type": "multipart/form-data"}, 400, "not_one_file"),
}


@pytest.mark.parametrize(("body", "request_", "status", "code"), BAD.values(), ids=BAD)
def test_bad_input_is_a_problem_with_a_remedy(
    start: Start, body: bytes, request_: dict[str, Any], status: int, code: str
) -> None:
    assert problem(start().analyze(data=body, **request_), status)["code"] == code


STRANGE = [
    *(".", "..", "ana/..", "../../b", "a\r\nHost: b", "\0", "\ud800", "x" * 1025, "?a=b#c"),
    "'; DROP TABLE uploads;",
]
STRANGE += [f"ana/{name}" for name in STRANGE]


def test_every_name_is_either_an_existing_object_or_refused(start: Start) -> None:
    app = start()
    app.upload("ana/a.png", small_png())

    @hypothesis.settings(deadline=None, database=None, max_examples=60)
    @given(st.sampled_from([*STRANGE, "ana/none.jpg"]) | st.text(st.characters(), min_size=1))
    def ask(name: str) -> None:
        answer = app.analyze(json={"bucket": app.uploads, "name": name, "keep": True})
        assert problem(answer, 404)["code"] == "no_such_object"
        event = {"bucket": app.uploads, "name": name, "generation": "1", "size": "1"}
        assert app.post_event(json.dumps(event).encode()) == 200  # a name without an object: it is gone

    ask()
    assert list(app.objects(app.uploads)) == ["ana/a.png"]
    assert app.objects(app.pictures) == app.objects(app.quarantine) == {}


@pytest.mark.parametrize("type_", ["image/jpeg", "application/json", "multipart/form-data; boundary=x"])
def test_bodies_above_max_mb_are_refused_before_they_are_read(start: Start, type_: str) -> None:
    answer = start(MAX_MB="1").analyze(data=bytes(3_000_000), content_type=type_)
    assert problem(answer, 413)["code"] == "too_many_bytes"


def test_a_wrong_method_is_refused_with_the_allowed_ones(start: Start) -> None:
    app = start()
    functions = {"POST": (app.http, app.sweep), "GET": (app.progress,)}
    for allowed, clients in functions.items():
        for client in clients:
            for method in {"GET", "POST", "PUT", "DELETE", "PATCH"} - {allowed}:
                answer = client.open("/", method=method)
                assert problem(answer, 405)["code"] == "wrong_method"
                assert answer.headers["Allow"] == allowed


def test_a_transient_error_shows_the_client_no_stack_trace(start: Start) -> None:
    app = start(DATABASE_URL="postgresql://nobody@127.0.0.1:1/none")
    answer = app.analyze(data=PICTURE, query_string={"keep": "true", "user": "ana"})
    assert problem(answer, 503)["code"] == "try_again"
    assert answer.headers["Retry-After"]
    assert "127.0.0.1" not in answer.text


def test_analysis_without_keeping_needs_no_database(start: Start) -> None:
    app = start(DATABASE_URL="postgresql://nobody@127.0.0.1:1/none")
    assert app.analyze(data=PICTURE).status_code == 200
