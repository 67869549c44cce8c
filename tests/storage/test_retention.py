"""Retention policies and holds: the gate answers like Cloud Storage, and reconcile continues."""

import io
import os
from datetime import timedelta
from http import HTTPStatus
from typing import Any

import pytest
from google.api_core.exceptions import Forbidden, PreconditionFailed
from google.cloud.storage import Blob, Bucket

from dropcap import pipeline, reconcile
from dropcap.domain.upload import Upload
from dropcap.services import Services
from dropcap.storage.buckets import Buckets
from dropcap.storage.gcs import NotStored
from tests.support.app import App, Start, expire_leases, log_lines, problem, rows, small_png

QUICK = {"SIZES": "200", "GEMINI_API_KEY": ""}
HOUR_S = 3600
MANY = 1050  # more than one run takes
HELD = "is under active {} hold and cannot be deleted, overwritten or archived until hold is removed."


# The local storage server


@pytest.fixture
def bucket(start: Start) -> Bucket:
    app = start(**QUICK)
    return app.storage.bucket(app.uploads)


def refusals(blob: Blob) -> list[tuple[str, str]]:
    """Try each way to delete or replace an object; return reason and message of each refusal."""
    other = blob.bucket.blob("other")
    other.upload_from_string(b"other")
    large = blob.bucket.blob(blob.name, chunk_size=256 * 1024)
    ways: list[Any] = [
        blob.delete,
        lambda: blob.delete(if_generation_match=blob.generation),
        lambda: blob.bucket.blob(blob.name).upload_from_string(b"new"),
        lambda: blob.bucket.blob(blob.name).rewrite(other),
        lambda: blob.bucket.blob(blob.name).compose([other]),
        lambda: large.upload_from_file(io.BytesIO(bytes(300_000))),
    ]
    found = []
    for way in ways:
        with pytest.raises(Forbidden) as refused:
            way()
        body = refused.value.response.json()["error"]
        assert body["code"] == HTTPStatus.FORBIDDEN
        [details] = body["errors"]
        assert (details["domain"], details["message"]) == ("global", body["message"])
        found.append((details["reason"], body["message"]))
    return found


def test_a_retention_policy_protects_younger_objects(bucket: Bucket) -> None:
    blob = bucket.blob("ana/a.png")
    blob.upload_from_string(b"first")
    bucket.retention_period = HOUR_S
    bucket.patch()
    until = (blob.time_created + timedelta(seconds=HOUR_S)).isoformat()[:19]
    expected = (
        f"Object '{bucket.name}/ana/a.png' is subject to bucket's retention policy or object retention and "
        f"cannot be deleted or overwritten until {until}"
    )
    for reason, message in refusals(blob):
        assert reason == "retentionPolicyNotMet"
        assert message.startswith(expected)
    with pytest.raises(PreconditionFailed):  # which is checked first
        blob.delete(if_generation_match=1)
    bucket.blob("ana/new.png").upload_from_string(b"what is new may come")
    assert blob.download_as_bytes() == b"first"
    bucket.retention_period = None
    bucket.patch()
    blob.delete()


@pytest.mark.parametrize(
    ("hold", "kind"), [("temporary_hold", "Temporary"), ("event_based_hold", "Event-Based")]
)
def test_a_hold_protects_its_object(bucket: Bucket, hold: str, kind: str) -> None:
    blob = bucket.blob("ana/a.png")
    blob.upload_from_string(b"first")
    setattr(blob, hold, True)
    blob.patch()
    expected = f"Object '{bucket.name}/ana/a.png' {HELD.format(kind)}"
    assert set(refusals(blob)) == {("forbidden", expected)}
    setattr(blob, hold, False)
    blob.patch()
    blob.delete()


# Reconcile


def held(app: App, name: str) -> Upload:
    """Deliver an upload whose source can't be deleted."""
    upload = app.upload(name, small_png())
    blob = app.storage.bucket(app.uploads).blob(name)
    blob.temporary_hold = True
    blob.patch()
    assert app.deliver(upload) == HTTPStatus.OK  # another delivery could do no more
    assert rows("SELECT state FROM uploads WHERE id = :id", id=upload.id) == [["recorded"]]
    expire_leases()
    return upload


def logged(capfd: pytest.CaptureFixture[str], message: str) -> list[dict[str, Any]]:
    return [line for line in log_lines(capfd) if line["message"] == message]


def test_a_held_object_is_retried_with_backoff_then_reported_and_finished_when_released(
    start: Start, capfd: pytest.CaptureFixture[str]
) -> None:
    app = start(**QUICK)
    upload = held(app, "ana/a.png")
    waits = []
    for tries in range(1, reconcile.REPORTED + 1):
        capfd.readouterr()
        stuck = {"stuck": 1} if tries == reconcile.REPORTED else {}
        assert app.reconcile() == {"found": 1, "failed": 1, "complete": True} | stuck
        reported = tries == reconcile.REPORTED
        message = "reconcile can't finish an upload" if reported else "not finished by reconcile"
        [line] = logged(capfd, message)
        assert line["severity"] == ("ERROR" if reported else "WARNING")
        assert (line["upload"], line["object"], line["tries"]) == (str(upload.id), "ana/a.png", tries)
        assert HELD.format("Temporary") in line["problem"]
        assert "stack_trace" not in line
        assert ("SOURCE=keep" in line.get("remedy", "")) == reported
        assert app.reconcile() == {"complete": True} | stuck  # not before its time
        waits += rows("SELECT extract(epoch FROM sweep_after - now())::float8 FROM uploads")
        rows("UPDATE uploads SET sweep_after = now()")
    assert [round(seconds, -1) for [seconds] in waits] == [600, 1200, 2400, 4800, 86_400]
    blob = app.storage.bucket(app.uploads).blob("ana/a.png")
    blob.temporary_hold = False
    blob.patch()
    assert app.reconcile() == {"found": 1, "done": 1, "stuck": 1, "complete": True}
    assert app.objects(app.uploads) == {}
    assert app.reconcile() == {"complete": True}


def test_with_source_keep_a_hold_is_no_failure(start: Start) -> None:
    app = start(**QUICK)
    upload = held(app, "ana/a.png")
    app = app.restarted(SOURCE="keep")
    assert app.reconcile() == {"found": 1, "done": 1, "complete": True}
    assert app.deliver(upload) == HTTPStatus.OK
    assert list(app.objects(app.uploads)) == ["ana/a.png"]


def test_more_failing_rows_than_one_run_takes_do_not_delay_the_others(
    start: Start, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    app = start(**QUICK)
    other = app.upload("zoe/killed.png", small_png())
    app.services.leases.acquire(other)
    expire_leases()
    gone = [Upload(app.uploads, f"ana/gone-{number}.png", number, 1) for number in range(1, MANY + 1)]
    rows(
        "INSERT INTO uploads (id, bucket, name, generation, user_id, size, state, lease_until) "
        "SELECT id, :bucket, name, generation, 'ana', 1, 'recorded', now() - interval '1 day' "
        "FROM unnest(CAST(:ids AS uuid[]), CAST(:names AS text[]), CAST(:generations AS bigint[])) "
        "AS gone (id, name, generation)",
        bucket=app.uploads,
        ids=[str(each.id) for each in gone],
        names=[each.name for each in gone],
        generations=[each.generation for each in gone],
    )
    current = Buckets.current

    def failing(upload: Upload, services: Services) -> None:
        if "gone" in upload.name:
            raise NotStored(f"{upload.id}/200.webp is no longer stored.")
        pipeline.process(upload, services)

    def known(buckets: Buckets, of: Upload) -> Upload:
        return of if "gone" in of.name else current(buckets, of)

    monkeypatch.setattr(reconcile, "process", failing)  # the real one takes ten milliseconds for it
    monkeypatch.setattr(Buckets, "current", known)
    capfd.readouterr()
    assert app.reconcile() == {"found": reconcile.ROWS, "failed": reconcile.ROWS, "complete": True}
    lines = logged(capfd, "not finished by reconcile")
    assert len(lines) == reconcile.ROWS
    assert not any("stack_trace" in line for line in lines)
    left = MANY - reconcile.ROWS
    assert app.reconcile() == {"found": left + 1, "failed": left, "done": 1, "complete": True}
    assert rows("SELECT state FROM uploads WHERE id = :id", id=other.id) == [["done"]]
    assert app.reconcile() == {"complete": True}


def test_a_delivery_and_a_request_succeed_if_the_source_can_not_be_deleted(
    start: Start, capfd: pytest.CaptureFixture[str]
) -> None:
    app = start(**QUICK)
    upload = held(app, "ana/a.png")
    capfd.readouterr()
    assert app.deliver(upload) == HTTPStatus.OK
    answer = app.analyze(json={"bucket": app.uploads, "name": "ana/a.png", "keep": True, "user": "ana"})
    assert answer.status_code == HTTPStatus.OK
    assert answer.get_json()["id"] == str(upload.id)
    lines = logged(capfd, "the source could not be deleted")
    assert len(lines) == 2
    for line in lines:
        assert (line["severity"], line["upload"]) == ("WARNING", str(upload.id))
        assert HELD.format("Temporary") in line["problem"]
        assert "stack_trace" not in line


def test_an_object_under_hold_does_not_keep_other_objects_of_a_deleted_picture(
    start: Start, capfd: pytest.CaptureFixture[str]
) -> None:
    app = start(**QUICK | {"SIZES": "40,20"}, SOURCE="archive")
    upload = app.upload("ana/a.png", small_png())
    assert app.deliver(upload) == HTTPStatus.OK
    app.storage.bucket(app.quarantine).blob(f"{upload.id}/20.webp").upload_from_string(b"copied by hand")
    archived = app.storage.bucket(os.environ["ARCHIVE_BUCKET"]).blob(f"{upload.id}/ana/a.png")
    published = app.storage.bucket(app.pictures).blob(f"{upload.id}/20.webp")

    def hold(blob: Blob, held: bool) -> None:
        blob.temporary_hold = held
        blob.patch()

    def stored() -> list[list[str]]:
        return [list(app.objects(name)) for name in (app.pictures, app.quarantine, archived.bucket.name)]

    hold(published, True)
    capfd.readouterr()
    assert problem(app.delete(upload.id), 503)["code"] == "try_again"
    [line] = logged(capfd, "request failed")
    assert HELD.format("Temporary") in line["problem"]
    assert "stack_trace" not in line
    assert stored()[0] == [published.name]
    assert str(upload.id) not in app.gallery.get("/gallery/?user=ana").text
    hold(published, False)
    hold(archived, True)
    expire_leases()
    assert app.reconcile() == {"found": 1, "failed": 1, "complete": True}
    assert stored() == [[], [], [archived.name]]
    hold(archived, False)
    rows("UPDATE uploads SET sweep_after = now()")
    assert app.reconcile() == {"found": 1, "done": 1, "complete": True}
    assert stored() == [[], [], []]


def test_the_log_names_a_missing_permission_to_publish(
    start: Start, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    app = start(**QUICK)
    app.upload("ana/a.png", small_png())

    def refused(*_: object, **__: object) -> None:
        raise Forbidden("it does not have storage.objects.create access")

    monkeypatch.setattr(Blob, "upload_from_string", refused)
    capfd.readouterr()
    assert app.reconcile() == {"found": 1, "failed": 1, "complete": True}
    [line] = logged(capfd, "not finished by reconcile")
    assert "storage.objects.create" in line["problem"]


def test_objects_that_retention_keeps_from_an_earlier_delivery_are_no_error(start: Start) -> None:
    app = start(**QUICK, SOURCE="archive")
    upload = held(app, "ana/a.png")
    for name in (os.environ["ARCHIVE_BUCKET"], app.pictures):
        bucket = app.storage.bucket(name)
        bucket.retention_period = HOUR_S
        bucket.patch()
    rows("DELETE FROM analyses")
    rows("UPDATE uploads SET state = 'claimed', lease_until = now()")
    blob = app.storage.bucket(app.uploads).blob("ana/a.png")
    blob.temporary_hold = False
    blob.patch()
    assert app.deliver(upload) == HTTPStatus.OK
    assert rows("SELECT state FROM uploads") == [["done"]]
    assert app.objects(app.uploads) == {}
    assert len(app.objects(os.environ["ARCHIVE_BUCKET"])) == 1
