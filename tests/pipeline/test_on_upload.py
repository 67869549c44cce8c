"""An upload is analyzed, published and recorded, then its source is deleted; anything else is quarantined."""

import io
import os
import shutil
import time
from pathlib import Path

import pytest
from google.api_core.exceptions import NotFound
from google.cloud.storage import Blob
from PIL import Image

from dropcap import logs
from dropcap.domain.upload import Upload
from dropcap.storage.buckets import Buckets
from tests.chaos.proxy import Fault, Proxy
from tests.support.app import (
    CAPTION,
    EVENT,
    EXPECTED,
    NAME,
    PICTURE,
    SAMPLES,
    Start,
    at_next_call,
    event_of,
    expire_leases,
    log_lines,
    rows,
    small_png,
)


def test_an_upload_is_captioned_described_and_published_and_its_source_is_deleted(start: Start) -> None:
    app = start()
    upload = app.upload(f"ana/{NAME}", PICTURE, tz="Europe/Madrid", album="spring")
    assert app.deliver(upload) == 200
    [[caption, description, user, zone, result]] = rows(
        "SELECT caption, description, user_id, time_zone, result FROM analyses WHERE id = :id", id=upload.id
    )
    assert caption == CAPTION
    assert "stand-in" in str(description)
    assert (user, zone) == ("ana", "Europe/Madrid")
    assert result["sources"]["gemini"]["answered"]
    assert result["sources"]["blip"]["answered"]
    published = app.objects(app.pictures)
    assert sorted(published) == sorted(f"{upload.id}/{side}.webp" for side in (1600, 800, 200))
    for each in result["pictures"]:
        blob = published[each["object"]]
        with Image.open(io.BytesIO(blob.download_as_bytes())) as picture:
            assert picture.format == "WEBP"
            assert picture.size == (each["width"], each["height"])
            assert max(picture.size) <= int(each["label"])
        assert blob.size == each["bytes"]
        assert blob.content_type == "image/webp"
        assert blob.cache_control == "private, max-age=31536000, immutable"
        assert blob.metadata == {"tz": "Europe/Madrid", "album": "spring"}
    assert app.objects(app.uploads) == {}
    assert app.objects(app.quarantine) == {}


def test_a_png_of_1080_x_1920_px_is_captioned_by_blip_and_sent_to_gemini_in_800_px(start: Start) -> None:
    app = start()
    [name] = [name for name in EXPECTED if name.endswith(".png")]
    upload = app.upload(f"ana/{name}", (SAMPLES / name).read_bytes())
    assert app.deliver(upload) == 200
    [[width, height, caption, description]] = rows(
        "SELECT width, height, caption, description FROM analyses WHERE id = :id", id=upload.id
    )
    assert (width, height) == (1080, 1920)
    assert caption == EXPECTED[name]
    assert "450 x 800" in str(description)  # what Gemini got: at most 800 x 800


def test_each_stage_logs_its_memory_with_a_warning_above_the_limit(
    start: Start, capfd: pytest.CaptureFixture[str]
) -> None:
    app = start(MEMORY_WARNING_MB="64")
    assert app.deliver(app.upload("ana/a.png", small_png())) == 200
    stages = {line["stage"]: line for line in log_lines(capfd) if "stage" in line}
    assert list(stages) == [
        "claim", "read", "open", "resize", "encode", "caption", "describe", "publish", "record",
        "delete the source",
    ]  # fmt: skip
    assert all(line["rss_mb"] > 0 and line["seconds"] >= 0 for line in stages.values())
    assert all(line["severity"] == "WARNING" for line in stages.values())
    assert "above 64 MB" in stages["open"]["message"]


def test_a_redelivered_event_changes_nothing(start: Start) -> None:
    app = start()
    upload = app.upload("ana/a.png", small_png())
    assert [app.deliver(upload) for _ in range(3)] == [200, 200, 200]
    assert rows("SELECT count(*) FROM analyses") == [[1]]
    assert app.stats("ana")["pictures_analyzed"] == 1
    assert len(app.objects(app.pictures)) == 3


def test_a_worker_that_lost_its_lease_replaces_no_rendition_of_the_next_one(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = start()
    upload = app.upload(f"ana/{NAME}", PICTURE)

    def deliver_to_another_worker() -> None:
        expire_leases()
        assert app.restarted(QUALITY="30").deliver(upload) == 200  # with other bytes

    at_next_call(monkeypatch, Buckets, "publish", deliver_to_another_worker)
    assert app.deliver(upload) == 500
    [[result]] = rows("SELECT result FROM analyses")
    stored = {blob.name: blob.md5_hash for blob in app.objects(app.pictures).values()}
    assert stored == {each["object"]: each["md5"] for each in result["pictures"]}


def test_a_newer_upload_of_the_same_name_is_never_deleted_or_counted_for_an_older(start: Start) -> None:
    app = start()
    older = app.upload("ana/a.png", small_png())
    newer = app.upload("ana/a.png", PICTURE)
    assert app.deliver(older) == 200
    assert app.objects(app.uploads)["ana/a.png"].generation == newer.generation
    assert rows("SELECT count(*) FROM analyses") == [[0]]
    assert app.deliver(newer) == 200
    assert rows("SELECT id, caption FROM analyses") == [[newer.id, CAPTION]]


@pytest.mark.parametrize("source", ["keep", "archive"])
def test_a_source_can_be_kept_or_archived(start: Start, source: str) -> None:
    app = start(SOURCE=source)
    data = small_png()
    upload = app.upload("ana/a.png", data, album="spring")
    assert app.deliver(upload) == 200
    assert (list(app.objects(app.uploads)) == ["ana/a.png"]) == (source == "keep")
    archived = app.objects(os.environ["ARCHIVE_BUCKET"])
    assert len(archived) == (source == "archive")
    for blob in archived.values():
        assert blob.download_as_bytes() == data
        assert blob.metadata["album"] == "spring"


def test_the_format_is_detected_from_the_bytes_and_not_from_name_or_content_type(start: Start) -> None:
    app = start()
    upload = app.upload("ana/notes.txt", small_png(), content_type="text/plain")
    assert app.deliver(upload) == 200
    assert rows("SELECT format FROM analyses") == [["PNG"]]


REJECTED = {
    "not a picture": (b"Dear diary, today I was a JPEG.", "not_a_picture"),
    "html": (b"<script>alert(1)</script>" * 20, "not_a_picture"),
    "truncated": (small_png()[:60], "broken_picture"),
}


@pytest.mark.parametrize(("data", "reason"), REJECTED.values(), ids=REJECTED)
def test_a_file_that_is_not_a_picture_is_quarantined_recorded_and_acknowledged(
    start: Start, data: bytes, reason: str
) -> None:
    app = start()
    upload = app.upload("ana/a.jpg", data, album="spring")
    assert app.deliver(upload) == 200
    assert app.objects(app.uploads) == {}
    [blob] = app.objects(app.quarantine).values()
    assert blob.name == f"{upload.id}/ana/a.jpg"
    assert blob.download_as_bytes() == data
    assert blob.metadata["dropcap-reason"] == reason
    assert blob.metadata["dropcap-problem"]
    assert blob.metadata["dropcap-remedy"]
    assert blob.metadata["album"] == "spring"
    [[state, code]] = rows("SELECT state, reason_code FROM uploads")
    assert (state, code) == ("done", reason)
    assert app.deliver(upload) == 200
    assert app.stats("ana")["pictures_analyzed"] == 0


def test_empty_or_excluded_objects_and_other_buckets_are_acknowledged_and_ignored(start: Start) -> None:
    app = start(INCLUDE="ana/*", EXCLUDE="*/skip/*")
    ignored = [Upload(app.uploads, name, 1, 12) for name in ("ana/", "ana/skip/a.jpg", "bob/a.jpg")]
    ignored += [Upload(app.uploads, "ana/empty.jpg", 1, 0), Upload(app.pictures, "ana/a.jpg", 1, 12)]
    assert [app.deliver(upload) for upload in ignored] == [200] * len(ignored)
    assert rows("SELECT count(*) FROM uploads") == [[0]]


OTHER_TYPES = [
    "google.cloud.storage.object.v1.deleted",
    "google.cloud.storage.object.v1.archived",
    "google.cloud.storage.object.v1.metadataUpdated",
    "google.cloud.pubsub.topic.v1.messagePublished",
    "FINALIZED",
]


def test_an_event_of_another_type_is_acknowledged_ignored_and_logged_once(
    start: Start, capsys: pytest.CaptureFixture[str]
) -> None:
    logs.once.cache_clear()
    app = start()
    upload = app.upload("ana/a.png", small_png())
    for type_ in OTHER_TYPES * 2:
        answer = app.on_upload.post("/", data=event_of(upload), headers=EVENT | {"ce-type": type_})
        assert answer.status_code == 200
    assert capsys.readouterr().out.count("the trigger must be for") == 1
    assert list(app.objects(app.uploads)) == ["ana/a.png"]
    assert rows("SELECT count(*) FROM uploads") == [[0]]
    assert app.deliver(upload) == 200
    assert rows("SELECT count(*) FROM analyses") == [[1]]


HOSTILE = [
    *("../../etc/passwd.png", "ana/../bob/a.png", "ana/'; DROP TABLE analyses; --.png", "ana/\x01\x7f.png"),
    *('ana/"quoted" $(reboot) `id` %s %n.png', "ana/line\u2028break\u202egnp.exe.png"),
    *("ana/<script>alert(1)</script>.png", "ana/" + "🦊" * 40 + ".png"),
]


def test_a_hostile_object_name_is_stored_as_it_is(start: Start) -> None:
    app = start(SIZES="40")
    for name in HOSTILE:
        upload = app.upload(name, small_png())
        assert app.deliver(upload) == 200
        assert rows("SELECT name FROM uploads WHERE id = :id", id=upload.id) == [[name]]
        assert f"{upload.id}/40.webp" in app.objects(app.pictures)
    assert len(app.objects(app.pictures)) == len(HOSTILE)
    assert app.objects(app.uploads) == {}


def test_a_name_of_1024_bytes_of_emoji_is_quarantined_under_a_name_that_fits(start: Start) -> None:
    app = start()
    name = "🦊" * 256
    upload = app.upload(name, b"no picture")
    assert app.deliver(upload) == 200
    [blob] = app.objects(app.quarantine).values()
    assert len(blob.name.encode()) <= 1024
    assert blob.metadata["dropcap-source"] == f"gs://{app.uploads}/{name}"


def test_the_reason_fits_beside_the_uploads_metadata_in_quarantine(start: Start) -> None:
    app = start()
    assert app.deliver(app.upload("ana/a.jpg", b"no picture", note="x" * 8_000)) == 200
    [blob] = app.objects(app.quarantine).values()
    assert blob.metadata["dropcap-reason"] == "not_a_picture"
    assert sum(len(key) + len(value) for key, value in blob.metadata.items()) <= 8192  # Cloud Storage's limit


def test_an_upload_in_no_folder_belongs_to_the_anonymous_user(start: Start) -> None:
    app = start()
    app.deliver(app.upload("a.png", small_png()))
    assert rows("SELECT user_id FROM analyses") == [["anonymous"]]


def test_a_failed_model_load_is_not_cached_and_keeps_the_source(
    start: Start, no_demo: str, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    app = start(MODEL_FOLDER=str(folder))
    upload = app.upload(f"ana/{NAME}", PICTURE)
    assert app.deliver(upload) == 500
    assert list(app.objects(app.uploads)) == [f"ana/{NAME}"]
    shutil.copytree(no_demo, folder)
    assert app.deliver(upload) == 200
    assert rows("SELECT caption FROM analyses") == [[CAPTION]]


def test_with_blip_optional_gemini_captions_alone_each_record_says_so_and_the_log_once(
    start: Start, no_demo: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "model"
    app = start(MODEL_FOLDER=str(folder), BLIP="optional")
    for name in ("ana/a.png", "ana/b.png"):
        assert app.deliver(app.upload(name, small_png())) == 200
    [error] = [line["message"] for line in log_lines(capsys) if line["severity"] == "ERROR"]
    assert str(folder) in error
    for caption, result in rows("SELECT caption, result FROM analyses"):
        assert result["captions"] == {"gemini": caption}
        assert result["description"]
        assert not result["sources"]["blip"]["answered"]
        assert result["sources"]["blip"]["problem"] == error
    shutil.copytree(no_demo, folder)
    assert app.deliver(app.upload("ana/c.png", PICTURE)) == 200
    assert rows("SELECT caption FROM analyses ORDER BY analyzed_at DESC LIMIT 1") == [[CAPTION]]


@pytest.mark.parametrize(
    ("setting", "value", "problem"),
    [
        ("GEMINI_API_KEY", "", "GEMINI_API_KEY is not set"),
        ("GEMINI_MODEL", "fault-blocked", "blocked"),
        ("GEMINI_MODEL", "fault-malformed", ""),
    ],
)
def test_if_gemini_fails_blips_caption_is_recorded_with_the_reason(
    start: Start, setting: str, value: str, problem: str
) -> None:
    app = start(**{setting: value})
    assert app.deliver(app.upload(f"ana/{NAME}", PICTURE)) == 200
    [[caption, result]] = rows("SELECT caption, result FROM analyses")
    assert caption == CAPTION
    assert result["alt_text"] == CAPTION
    assert not result["sources"]["gemini"]["answered"]
    assert problem in result["sources"]["gemini"]["problem"]


def test_a_source_whose_download_alone_fails_is_not_gone_and_is_analyzed_by_the_next_delivery(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = start()
    upload = app.upload("ana/a.png", small_png())
    with monkeypatch.context() as patched:
        patched.setattr(Blob, "download_to_file", missing)
        assert app.deliver(upload) == 500
    assert app.objects(app.quarantine) == {}
    assert app.deliver(upload) == 200
    assert rows("SELECT state, reason_code FROM uploads") == [["done", ""]]


def test_a_rejected_source_is_not_deleted_until_it_is_in_quarantine(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = start()
    upload = app.upload("ana/a.png", small_png())
    with monkeypatch.context() as patched:
        for operation in ("download_to_file", "reload", "rewrite"):
            patched.setattr(Blob, operation, missing)
        app.deliver(upload)
    app.deliver(upload)
    assert list(app.objects(app.uploads)) == ["ana/a.png"]


def test_a_storage_response_that_never_ends_times_out_and_is_transient(
    start: Start, storage_url: str
) -> None:
    with Proxy(int(storage_url.rpartition(":")[2])) as proxy:
        app = start(STORAGE_EMULATOR_HOST=f"http://127.0.0.1:{proxy.port}", STORAGE_TIMEOUT_S="1")
        upload = app.upload("ana/a.png", small_png())
        proxy.set(Fault("drip", seconds=0.05))  # of some 400 bytes, each in time
        began = time.monotonic()
        assert app.deliver(upload) == 500
        assert time.monotonic() - began < 5
        proxy.clear()
        assert app.deliver(upload) == 200


def missing(*_: object, **__: object) -> None:
    raise NotFound("storage says so")
