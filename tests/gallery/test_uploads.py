"""A dropped picture goes straight to the bucket; the gallery reports its progress and shows it."""

import base64
import io
import os
import unicodedata
from pathlib import Path
from typing import Any
from urllib.parse import quote

import hypothesis
import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from werkzeug.test import TestResponse

from dropcap.domain.upload import Upload, is_object
from dropcap.gallery.uploads import LARGEST_HEAD, LONGEST_FILE, file_name
from infra.local.storage.preconditions import check_path
from tests.support.app import PICTURE, App, Start, problem, rows, small_png
from tests.support.images.pictures import FORMATS, encoded, png, quadrants
from tests.support.issuer import Issuer

ORIGIN = "http://localhost"
PAGE = {"Accept": "application/json", "Sec-Fetch-Site": "same-origin", "Origin": ORIGIN}
PNG = small_png()
BASE64 = base64.b64encode(PNG).decode()


def announce(app: App, data: bytes = PNG, user: str = "ana", **other: object) -> TestResponse:
    """Announce a picture as the page does before it sends it; `other` facts replace the usual ones."""
    head = base64.b64encode(data[:LARGEST_HEAD]).decode()
    facts = {"name": "photo.png", "size": len(data), "type": "image/png", "tz": "Europe/Madrid", "head": head}
    query = {"user": user} if user else {}
    return app.gallery.post("/gallery/uploads", json=facts | other, headers=PAGE, query_string=query)


def drop(app: App, data: bytes = PNG, user: str = "ana", **other: object) -> Upload:
    """Upload a picture as the page does: announce it, and send it to the session's address."""
    answer = announce(app, data, user, **other)
    assert answer.status_code == 201, answer.text
    put = requests.put(answer.get_json()["session"], data, headers={"Origin": ORIGIN}, timeout=20)
    assert put.status_code == 200, put.text
    assert put.headers["Access-Control-Allow-Origin"] == ORIGIN
    body = put.json()
    assert body["name"] == answer.get_json()["object"]
    generation, metadata = int(body["generation"]), body.get("metadata", {})
    return Upload(app.uploads, body["name"], generation, len(data), body["contentType"], metadata)


def statuses(app: App, *uploads: Upload, user: str = "ana") -> list[dict[str, Any]]:
    names = [f"{upload.generation}:{upload.name}" for upload in uploads]
    answer = app.gallery.get("/gallery/status", query_string={"user": user, "upload": names}, headers=PAGE)
    assert (answer.status_code, answer.headers["Cache-Control"]) == (200, "no-store")
    return list(answer.get_json()["uploads"])


def status(app: App, upload: Upload, user: str = "ana") -> dict[str, Any]:
    [found] = statuses(app, upload, user=user)
    return found


def image(app: App, upload: Upload, label: str = "200", user: str = "ana", **headers: str) -> TestResponse:
    path = f"/gallery/image/{upload.id}/{quote(label, safe='')}"
    return app.gallery.get(path, query_string={"user": user}, headers=headers)


# Before and during the upload


def test_an_uploaded_picture_becomes_a_card_with_its_image(start: Start) -> None:
    app = start()
    upload = drop(app)
    assert upload.metadata == {"tz": "Europe/Madrid"}
    assert status(app, upload)["state"] == "waiting"
    assert app.deliver(upload) == 200
    found = status(app, upload)
    assert (found["state"], found["finished"], found["id"]) == ("captioned", True, str(upload.id))
    assert [each["stage"] for each in found["stages"]] == [
        "claim", "read", "open", "resize", "encode", "caption", "describe", "publish",
    ]  # fmt: skip
    assert all(each["seconds"] >= 0 and each["mb"] > 0 for each in found["stages"])
    assert found["card"] == f"/gallery/picture/{upload.id}?user=ana"
    assert upload.name not in app.objects(app.uploads)

    shown = image(app, upload)
    assert (shown.status_code, shown.mimetype) == (200, "image/webp")
    assert shown.headers["Cache-Control"] == "private, max-age=31536000, immutable"
    assert Image.open(io.BytesIO(shown.data)).size == (60, 40)
    again = image(app, upload, **{"If-None-Match": shown.headers["ETag"]})
    assert (again.status_code, again.data) == (304, b"")

    app.storage.bucket(app.pictures).delete_blobs(app.objects(app.pictures).values())
    assert image(app, upload).status_code == 404


def test_every_format_is_accepted_with_any_length_of_its_head(start: Start) -> None:
    app = start()
    for data in (PICTURE, *(encoded(quadrants(), kind) for kind in FORMATS)):
        for length in (0, 18, 40, LARGEST_HEAD):
            head = base64.b64encode(data[:length]).decode()
            assert announce(app, data, head=head).status_code == 201


REFUSED: list[tuple[dict[str, Any], str, int]] = [
    ({"data": b""}, "empty_picture", 422),
    ({"size": 2 * 1024 * 1024}, "too_many_bytes", 413),
    ({"data": b"Dear diary, today I dropped a text."}, "not_a_picture", 415),
    ({"data": b"%PDF-1.7 ..."}, "unsupported_format", 415),
    ({"data": png(30, 30_000, 8, 2, b"")}, "side_too_long", 413),
    ({"data": png(2000, 2000, 8, 2, b"")}, "too_many_pixels", 413),
    ({"data": encoded(Image.new("L", (2000, 2000)), "WEBP")}, "too_many_pixels", 413),
    ({"data": encoded(Image.new("L", (2000, 2000)), "HEIF")}, "too_many_pixels", 413),
    ({"name": "draft.png"}, "not_chosen", 422),
    ({"size": "12"}, "not_announced", 400),
    ({"size": -1}, "not_announced", 400),
    ({"size": 10**30}, "not_announced", 400),
    ({"name": None}, "not_announced", 400),
    ({"head": "no base64!"}, "not_announced", 400),
    ({"head": base64.b64encode(bytes(LARGEST_HEAD + 1)).decode()}, "not_announced", 400),
]


def test_files_that_would_be_rejected_are_refused_before_the_upload(start: Start) -> None:
    app = start(MAX_MB="1", MAX_MEGAPIXELS="3", MAX_SIDE="20000", EXCLUDE="*/draft*")
    for other, code, expected in REFUSED:
        assert problem(announce(app, **other), expected)["code"] == code


def test_a_body_that_announces_nothing_is_a_problem(start: Start) -> None:
    app = start()
    for body in (b"", b"[]", b"{", b"[" * 100_000):
        answer = app.gallery.post("/gallery/uploads?user=ana", data=body, headers=PAGE)
        assert problem(answer, 400)["code"] == "not_announced"


def test_more_bytes_than_announced_are_refused(start: Start) -> None:
    app = start()
    session = announce(app).get_json()["session"]
    assert requests.put(session, PNG + b"more", timeout=20).status_code == 400
    assert app.objects(app.uploads) == {}


def test_invalid_content_types_and_time_zones_are_dropped(start: Start) -> None:
    app = start()
    for tz in ("", "Nowhere/Land", "../../etc/passwd", "x" * 1000):
        upload = drop(app, type="text/html", tz=tz)
        assert (upload.content_type, upload.metadata) == ("application/octet-stream", {})


def test_two_uploads_of_the_same_name_are_two_pictures(start: Start) -> None:
    app = start()
    first, second = drop(app), drop(app)
    assert first.name != second.name
    assert first.name.startswith("ana/")
    assert first.name.endswith("/photo.png")


@pytest.mark.parametrize("user", ["ana", "a b%é?#", "😀" * 128, "'; DROP TABLE uploads; --"])
def test_every_user_and_file_name_can_be_uploaded(start: Start, user: str) -> None:
    app = start()
    for name in ("", "..", "a%2fb?.png", "é" * 1000 + ".png", "'; DROP TABLE uploads; --", "\u202egnp.exe"):
        upload = drop(app, user=user, name=name)
        assert upload.user == user
        assert status(app, upload, user)["object"] == upload.name


@hypothesis.settings(deadline=None, database=None, max_examples=300)
@given(st.text(max_size=400) | st.sampled_from(["a/..", "..\\..", ".", "a." + "b" * 300, "\ud800.jpg"]))
def test_every_file_name_becomes_one_readable_path_component(original: str) -> None:
    name = file_name(original)
    assert is_object(name)
    assert 0 < len(name.encode()) <= LONGEST_FILE
    assert "/" not in name
    assert not any(unicodedata.category(letter) in ("Cc", "Cs") for letter in name)
    check_path(name)


def test_an_ordinary_file_name_is_kept() -> None:
    for name in ("IMG_2041.HEIC", "día 1 (copia).jpg", "写真.png", "a.b.c.webp"):
        assert file_name(name) == name
    assert file_name("holiday/day 1\\beach.jpg") == "beach.jpg"
    assert file_name("x" * 500 + ".jpeg").endswith("x.jpeg")


def test_signed_in_users_have_an_hourly_upload_limit(start: Start, tmp_path: Path) -> None:
    with Issuer(tmp_path) as issuer:
        app = start(**issuer.settings, MAX_PER_HOUR="2")
        who = PAGE | issuer.signed_in("ana")
        facts = {"name": "a.png", "size": len(PNG), "type": "image/png", "head": BASE64}
        answers = [app.gallery.post("/gallery/uploads", json=facts, headers=who) for _ in range(3)]
        assert [answer.status_code for answer in answers[:2]] == [201, 201]
        assert problem(answers[2], 429)["code"] == "too_many_calls"
        assert app.analyze(data=PNG, headers=issuer.signed_in("ana")).status_code == 429
        assert answers[0].get_json()["object"].startswith("ana/")


def test_the_session_address_is_not_cached_or_logged(start: Start, capfd: pytest.CaptureFixture[str]) -> None:
    app = start()
    answer = announce(app)
    assert answer.headers["Cache-Control"] == "no-store"
    assert "upload_id" in answer.get_json()["session"]
    assert "upload_id" not in "".join(capfd.readouterr())


# After the upload


def test_an_upload_in_work_reports_its_stage_and_crashes(start: Start) -> None:
    app = start()
    upload = drop(app)
    lease = app.services.leases.acquire(upload)
    app.services.leases.heartbeat(upload, lease.token, "open", 210.4)
    found = status(app, upload)
    assert (found["state"], found["stage"], found["rss_mb"], found["deaths"]) == ("working", "open", 210, 0)
    assert (found["stages"], found["finished"], found["attempts"]) == ([], False, 1)
    rows("UPDATE uploads SET lease_until = now() - interval '1 s' RETURNING id")
    assert status(app, upload)["deaths"] == 1
    app.services.leases.acquire(upload)
    found = status(app, upload)
    assert (found["state"], found["attempts"], found["deaths"]) == ("working", 2, 1)


def test_a_rejected_upload_reports_its_reason(start: Start) -> None:
    app = start()
    upload = drop(app, PNG[:50], head="")
    assert app.deliver(upload) == 200
    found = status(app, upload)
    assert (found["state"], found["code"], found["finished"]) == ("rejected", "broken_picture", True)
    assert found["reason"].startswith("The PNG picture is damaged or incomplete. ")


def test_several_uploads_are_reported_in_the_requested_order(start: Start) -> None:
    app = start()
    uploads = [Upload(app.uploads, f"ana/{number}.png", number + 1, 1) for number in range(100)]
    assert [each["object"] for each in statuses(app, *uploads)] == [upload.name for upload in uploads]
    answer = app.gallery.get("/gallery/status?user=ana" + "&upload=1:ana/a.png" * 101, headers=PAGE)
    assert problem(answer, 400)["code"] == "too_many_uploads"
    assert statuses(app) == []


def test_an_invalid_upload_parameter_is_a_problem(start: Start) -> None:
    app = start()
    for name in ("", "ana/a.png", "1:", "x:ana/a.png", "-1:a", "9" * 40 + ":a", "1:a\nb", "1:.."):
        query = {"user": "ana", "upload": name}
        answer = app.gallery.get("/gallery/status", query_string=query, headers=PAGE)
        assert problem(answer, 400)["code"] == "no_upload"


def test_there_is_no_image_of_another_label(start: Start) -> None:
    app = start()
    upload = drop(app)
    app.deliver(upload)
    for label in ("201", "", "..", "'; --", "2\x000", "é/200"):
        assert image(app, upload, label).status_code == 404


def test_an_image_is_sent_in_parts(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    from dropcap.storage import buckets

    app = start(FORMAT="png", SIZES="300")
    noise = Image.frombytes("RGB", (300, 200), os.urandom(180_000))
    upload = drop(app, encoded(noise))
    app.deliver(upload)
    [published] = app.objects(app.pictures).values()
    monkeypatch.setattr(buckets, "PART", 65_536)
    shown = image(app, upload, "300")
    assert shown.data == published.download_as_bytes()
    assert len(shown.data) > 2 * 65_536
    assert shown.headers["Content-Length"] == str(len(shown.data))
