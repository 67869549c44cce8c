"""Sources are quarantined, archived, kept or deleted, with their metadata, also in buckets with versions."""

import os
from http import HTTPStatus
from typing import Any

import pytest
from google.api_core.exceptions import Forbidden
from google.cloud.storage import Blob, Bucket

from dropcap.domain.upload import Upload
from dropcap.storage import metadata
from dropcap.storage.buckets import Buckets
from tests.support.app import App, Start, at_next_call, expire_leases, log_lines, rows, small_png

LETTER = b"Dear diary, today I was a JPEG."
UNSAFE = {"SAFETY": "low", "GEMINI_MODEL": "fault-unsafe-high"}
REJECTED = {"broken": (LETTER, {}), "unsafe": (small_png(), UNSAFE)}
rejected = pytest.mark.parametrize(("data", "settings"), REJECTED.values(), ids=REJECTED)


def versioned(app: App) -> Bucket:
    """Recreate the uploads bucket with versioning, which the storage server can not turn on later."""
    bucket = app.storage.bucket(app.uploads)
    bucket.delete()
    bucket.versioning_enabled = True
    app.storage.create_bucket(bucket)
    return bucket


def generations(bucket: Bucket) -> list[int]:
    """Return the generations of all objects, live and noncurrent."""
    return sorted(int(blob.generation) for blob in bucket.client.list_blobs(bucket, versions=True))


def archive(app: App) -> dict[str, Blob]:
    return app.objects(os.environ["ARCHIVE_BUCKET"])


def disposals() -> list[Any]:
    return [row[0] for row in rows("SELECT source_fate FROM receipts ORDER BY recorded_at")]


@rejected
def test_a_rejected_source_goes_to_quarantine_only(
    start: Start, data: bytes, settings: dict[str, str]
) -> None:
    app = start(SOURCE="archive", RECEIPTS="1", **settings)
    upload = app.upload("ana/a.png", data)
    assert [app.deliver(upload) for _ in range(2)] == [200, 200]
    assert list(app.objects(app.quarantine)) == [f"{upload.id}/ana/a.png"]
    assert (archive(app), app.objects(app.uploads)) == ({}, {})
    assert disposals() == ["quarantined"]


@rejected
@pytest.mark.parametrize("step", ["quarantine", "dispose"])
def test_a_rejected_source_reaches_quarantine_after_a_crash(
    start: Start, monkeypatch: pytest.MonkeyPatch, data: bytes, settings: dict[str, str], step: str
) -> None:
    app = start(SOURCE="archive", RECEIPTS="1", **settings)
    upload = app.upload("ana/a.png", data)

    def crash() -> None:
        raise RuntimeError("The power is gone.")

    at_next_call(monkeypatch, Buckets, step, crash, after=True)
    assert app.deliver(upload) == 500
    expire_leases()
    assert app.deliver(upload) == 200
    assert list(app.objects(app.quarantine)) == [f"{upload.id}/ana/a.png"]
    assert (archive(app), app.objects(app.uploads)) == ({}, {})
    assert disposals() == ["quarantined"]


def archived_without_verdict(start: Start) -> tuple[App, Upload]:
    """Return an upload that was published and archived while Gemini was down."""
    settings = {"SAFETY": "low", "SAFETY_UNKNOWN": "publish", "SOURCE": "archive", "RECEIPTS": "1"}
    app = start(GEMINI_MODEL="fault-503", **settings)
    upload = app.upload("ana/a.png", small_png())
    assert app.deliver(upload) == 200
    return app, upload


def test_a_picture_found_unsafe_later_moves_from_archive_to_quarantine(start: Start) -> None:
    app, upload = archived_without_verdict(start)
    assert (list(archive(app)), disposals()) == ([f"{upload.id}/ana/a.png"], ["archived"])
    app = app.restarted(GEMINI_MODEL="fault-unsafe-high")
    app.reconcile()
    assert f"{upload.id}/ana/a.png" in app.objects(app.quarantine)
    assert (archive(app), app.objects(app.pictures)) == ({}, {})
    assert disposals() == ["quarantined"]


def test_an_unsafe_picture_is_unpublished_even_if_the_archive_refuses_its_deletion(
    start: Start, capfd: pytest.CaptureFixture[str]
) -> None:
    app, upload = archived_without_verdict(start)
    bucket = app.storage.bucket(os.environ["ARCHIVE_BUCKET"])
    bucket.retention_period = 3600
    bucket.patch()
    app = app.restarted(GEMINI_MODEL="fault-unsafe-high")
    capfd.readouterr()
    assert app.reconcile() == {"not_described": 1, "complete": True}
    assert app.objects(app.pictures) == {}
    assert f"{upload.id}/ana/a.png" in app.objects(app.quarantine)
    assert (list(archive(app)), disposals()) == ([f"{upload.id}/ana/a.png"], ["archived"])  # as it is
    [line] = [line for line in log_lines(capfd) if "stays in the archive" in line["message"]]
    assert (line["severity"], line["upload"]) == ("ERROR", str(upload.id))
    assert "retention policy" in line["problem"]
    assert "stack_trace" not in line
    assert app.reconcile() == {"complete": True}


def test_a_receipt_stays_archived_if_the_archive_is_no_longer_configured(start: Start) -> None:
    app, _ = archived_without_verdict(start)
    before = archive(app)
    app = app.restarted(GEMINI_MODEL="fault-unsafe-high", SOURCE="delete", ARCHIVE_BUCKET="")
    app.reconcile()
    assert app.objects(app.pictures) == {}
    [archived] = before.values()
    assert archived.exists()
    assert disposals() == ["archived"]


def test_with_versions_a_done_source_is_deleted_for_good_and_a_newer_one_stays(start: Start) -> None:
    app = start(RECEIPTS="1")
    bucket = versioned(app)
    older = app.upload("ana/a.png", small_png())
    other = app.upload("ana/b.png", small_png())
    with_newer = app.upload("ana/b.png", LETTER)
    assert app.deliver(older) == 200
    assert generations(bucket) == [other.generation, with_newer.generation]
    assert disposals() == ["deleted"]
    assert app.deliver(with_newer) == 200
    assert generations(bucket) == [other.generation]
    assert [blob.download_as_bytes() for blob in app.objects(app.quarantine).values()] == [LETTER]


@pytest.mark.parametrize("source", ["delete", "archive"])
@pytest.mark.parametrize("data", [small_png(), LETTER], ids=["analyzed", "rejected"])
def test_a_source_replaced_during_its_analysis_is_copied_and_deleted_by_its_generation(
    start: Start, monkeypatch: pytest.MonkeyPatch, source: str, data: bytes
) -> None:
    app = start(RECEIPTS="1", SOURCE=source)
    bucket, newer = versioned(app), list[Upload]()
    upload = app.upload("ana/a.png", data)

    def replace() -> None:
        newer.append(app.upload(upload.name, b"another"))

    at_next_call(monkeypatch, Buckets, "read", replace, after=True)
    assert app.deliver(upload) == 200
    assert generations(bucket) == [newer[0].generation]
    kept = app.objects(app.quarantine) if data == LETTER else archive(app)
    copied = data == LETTER or source == "archive"
    assert [blob.download_as_bytes() for blob in kept.values()] == ([data] if copied else [])
    assert disposals() == ["quarantined" if data == LETTER else {"delete": "deleted"}.get(source, "archived")]


def test_with_versions_noncurrent_sources_are_left_alone(start: Start) -> None:
    app = start(RECEIPTS="1")
    bucket = versioned(app)
    deleted, replaced = app.upload("ana/a.png", small_png()), app.upload("ana/b.png", small_png())
    newer = app.upload("ana/b.png", small_png())
    bucket.blob("ana/a.png").delete()
    assert [app.deliver(each) for each in (deleted, replaced)] == [200, 200]
    assert generations(bucket) == [each.generation for each in (deleted, replaced, newer)]
    assert app.objects(app.quarantine) == {}
    assert disposals() == ["gone", "gone"]


def test_with_versions_a_deletion_in_the_gallery_leaves_no_version(start: Start) -> None:
    app = start(SOURCE="keep")
    bucket = versioned(app)
    upload = app.upload("ana/a.png", small_png())
    assert app.deliver(upload) == 200
    assert app.delete(upload.id).status_code == HTTPStatus.SEE_OTHER
    assert generations(bucket) == []


def test_a_receipt_claims_no_forbidden_deletion(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    app = start(RECEIPTS="1")
    upload = app.upload("ana/a.png", small_png())

    def held(*_: Any, **__: Any) -> None:
        raise Forbidden("Object is under active Temporary hold and cannot be deleted.")

    with monkeypatch.context() as patched:
        patched.setattr(Blob, "delete", held)
        assert app.deliver(upload) == 200  # the rest is done; reconcile continues
    assert rows("SELECT source_fate, source_gone_at FROM receipts") == [["", None]]
    assert list(app.objects(app.uploads)) == ["ana/a.png"]


METADATA = {
    "tz": "Europe/Madrid",
    "album": "spring",
    "source": "camera",
    "reason": "a birthday",
    "Dropcap-reason": "x",
    "firebaseStorageDownloadTokens": "secret",
    "FIREBASESTORAGEDOWNLOADTOKENS": "secret",
}
PUBLISHED = {"tz": "Europe/Madrid", "album": "spring", "source": "camera", "reason": "a birthday"}
OLD = {"reason": "not_a_picture", "problem": "It is none.", "remedy": "None.", "source": "gs://uploads/ana/a"}


@pytest.mark.parametrize(
    ("uploaded", "published"),
    [
        (METADATA, PUBLISHED),
        (OLD | {"album": "spring"}, {"album": "spring"}),
        ({"source": "gs://uploads/ana/a", "album": "spring"}, {"album": "spring"}),
        (OLD | {"source": "ana/0123"}, {}),
        ({"problem": "red eyes", "remedy": "none"}, {"problem": "red eyes", "remedy": "none"}),
    ],
)
def test_only_the_uploaders_metadata_is_published(
    uploaded: dict[str, str], published: dict[str, str]
) -> None:
    assert metadata.of_uploader(uploaded) == published


@rejected
def test_an_object_copied_back_from_quarantine_is_analyzed_without_our_metadata(
    start: Start, data: bytes, settings: dict[str, str]
) -> None:
    app = start(SOURCE="archive", RECEIPTS="1", **settings)
    blob = app.storage.bucket(app.uploads).blob("ana/a.png")
    blob.metadata, blob.content_disposition = METADATA, 'attachment; filename="me.png"'
    blob.upload_from_string(data, content_type="image/png")
    app.deliver(Upload(app.uploads, "ana/a.png", int(blob.generation), len(data)))
    [kept] = app.objects(app.quarantine).values()
    marks = [f"dropcap-{each}" for each in ("problem", "reason", "remedy", "source")]
    assert kept.metadata.items() >= PUBLISHED.items()
    assert sorted(kept.metadata.keys() - PUBLISHED) == marks
    assert kept.content_disposition == 'attachment; filename="me.png"'
    app = app.restarted(SAFETY="off", GEMINI_MODEL="gemini-3.5-flash-lite")
    again = app.storage.bucket(app.uploads).blob("ana/a.png")
    again.rewrite(kept)  # as gcloud storage cp does, with all metadata
    again.reload()
    assert again.metadata == kept.metadata
    if data == LETTER:  # repaired meanwhile
        again.upload_from_string(small_png())
    upload = Upload(app.uploads, "ana/a.png", int(again.generation), 9, "image/png", again.metadata)
    assert app.deliver(upload) == 200
    published = app.objects(app.pictures).values()
    assert len(published) == 3
    for each in published:
        assert each.metadata == PUBLISHED
        assert each.content_disposition is None
    [archived] = archive(app).values()
    assert archived.metadata == PUBLISHED | {"dropcap-source": f"gs://{app.uploads}/ana/a.png"}
