"""An erasure deletes every version of every object of its own upload, and nothing of another one."""

import json
import uuid
from typing import Any

import pytest
from google.cloud.storage import Blob, Client

from dropcap import erasure
from dropcap.database.leases import Leases
from dropcap.database.transactions import Database
from dropcap.domain.upload import Upload, posted
from dropcap.services import Services
from dropcap.settings import Settings

TOMBSTONE = {
    "state": "done",
    "bucket": "",
    "name": "",
    "generation": 0,
    "size": 0,
    "source_kept": False,
    "finished": 0,
}


@pytest.fixture
def services(storage_url: str, database: Database, monkeypatch: pytest.MonkeyPatch) -> Services:
    """The services on new buckets, which keep noncurrent versions."""
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", storage_url)
    monkeypatch.setenv("GOOGLE_CLOUD_PROJECT", "dropcap")
    client, suffix = Client(), uuid.uuid4().hex[:12]
    names = {name: f"{name}-{suffix}" for name in ("uploads", "pictures", "quarantine", "archive")}
    for name in names.values():
        bucket = client.bucket(name)
        bucket.versioning_enabled = True
        client.create_bucket(bucket)
    buckets = {f"{name}_bucket": bucket for name, bucket in names.items()}
    settings = Settings(database_url=database.settings.database_url, **buckets)  # type: ignore[arg-type]
    return Services(settings, database)


def put(services: Services, bucket: str, name: str) -> Blob:
    blob = services.buckets.client.bucket(getattr(services.settings, f"{bucket}_bucket")).blob(name)
    blob.upload_from_string("a picture")
    return blob


def stored(services: Services) -> list[tuple[str, int]]:
    """Return names and generations of all objects, live and noncurrent, in the order of their upload."""
    buckets = ("uploads", "pictures", "quarantine", "archive")
    names = {getattr(services.settings, f"{bucket}_bucket") for bucket in buckets} - {""}
    listed = [services.buckets.client.list_blobs(name, versions=True) for name in names]
    return sorted(
        ((blob.name, int(blob.generation)) for blobs in listed for blob in blobs), key=lambda at: at[1]
    )


def uploaded(services: Services, name: str) -> Upload:
    """Store a source in two versions, of which the first is the upload, and what was made of it twice."""
    source = put(services, "uploads", name)
    put(services, "uploads", name)
    upload = Upload(services.settings.uploads_bucket, name, int(source.generation or 0), 9)
    for bucket in ("pictures", "quarantine", "archive"):
        for _ in range(2):
            put(services, bucket, f"{upload.id}/x.webp")
    return upload


def lease(services: Services, upload: Upload, state: str = "deleted", pictures: object = None) -> None:
    """Insert the upload's row in this state, its receipt, and its analysis if it has `pictures`."""
    Leases(services.database).acquire(upload)
    ours = {"id": upload.id}
    services.database.query(
        "UPDATE uploads SET state = :state WHERE id = :id RETURNING 1", state=state, **ours
    )
    services.database.query("INSERT INTO receipts (id, user_id) VALUES (:id, 'ana') RETURNING 1", **ours)
    if pictures is not None:
        result = json.dumps({"pictures": pictures})
        services.database.query(
            "INSERT INTO analyses (id, user_id, analyzed_at, result) "
            "VALUES (:id, 'ana', now(), CAST(:result AS jsonb)) RETURNING 1",
            result=result,
            **ours,
        )


def row(services: Services, upload: Upload) -> dict[str, Any] | None:
    found = services.database.query(
        "SELECT to_jsonb(u) || jsonb_build_object('finished', "
        "round(extract(epoch FROM finished_at - now()) / 60)::int) FROM uploads u WHERE id = :id",
        id=upload.id,
    )
    return {name: found[0][0][name] for name in TOMBSTONE} if found else None


def test_an_erasure_leaves_a_tombstone_and_what_belongs_to_others(services: Services) -> None:
    other = uploaded(services, "ben/y.png")
    lease(services, other)
    before, others_row = stored(services), row(services, other)
    upload = uploaded(services, "ana/x.png")
    lease(services, upload)
    newer = next(at for at in stored(services) if at[0] == "ana/x.png" and at[1] != upload.generation)
    receipt = erasure.erase(upload, services)
    assert stored(services) == [*before, newer]
    assert row(services, upload) == TOMBSTONE
    assert receipt is not None
    assert (receipt["id"], receipt["user_id"]) == (str(upload.id), "ana")
    now = services.database.query("SELECT now()")[0][0].isoformat()
    assert receipt["recorded_at"] < receipt["erased_at"] < now
    assert "source_gone_at" in receipt
    assert row(services, other) == others_row
    assert services.database.query("SELECT id FROM receipts") == [[other.id]]
    assert erasure.erase(upload, services) is None  # again: there is nothing left to do
    assert stored(services) == [*before, newer]


def test_a_posted_picture_leaves_no_row(services: Services) -> None:
    upload, other = (posted(body, "ana", "image/png") for body in (b"x", b"y"))
    for each in (upload, other):
        lease(services, each)
        put(services, "pictures", f"{each.id}/x.webp")
    erasure.erase(upload, services)
    assert (row(services, upload), [name for name, _ in stored(services)]) == (None, [f"{other.id}/x.webp"])
    assert row(services, other)


def test_a_row_that_is_not_deleted_stays_as_it_is(services: Services) -> None:
    uploads = (Upload(services.settings.uploads_bucket, "ana/x.png", 1, 9), posted(b"x", "ana", "image/png"))
    for upload in uploads:
        lease(services, upload, "claimed")
        before = row(services, upload)
        erasure.erase(upload, services)
        assert row(services, upload) == before


def test_buckets_need_not_exist(services: Services) -> None:
    services.settings = Settings(
        database_url=services.settings.database_url,
        uploads_bucket=services.settings.uploads_bucket,
        pictures_bucket=services.settings.pictures_bucket,
        quarantine_bucket="missing-bucket",
        archive_bucket="",
    )
    upload = Upload(services.settings.uploads_bucket, "ana/x.png", 1, 9)
    lease(services, upload)
    erasure.erase(upload, services)
    assert row(services, upload) == TOMBSTONE


def test_only_known_generations_are_unpublished(services: Services) -> None:
    upload = Upload("uploads", "ana/x.png", 1, 9)
    a, b = (put(services, "pictures", f"{upload.id}/{name}.webp") for name in "ab")
    live = [(str(blob.name), int(blob.generation or 0)) for blob in (a, b)]
    erasure.unpublish(upload, services.buckets, {})
    erasure.unpublish(upload, services.buckets, {live[0][0]: live[0][1] + 1})
    assert stored(services) == live
    erasure.unpublish(upload, services.buckets, dict(live[:1]))
    assert stored(services) == live[1:]
    erasure.unpublish(upload, services.buckets)
    assert stored(services) == []


@pytest.mark.parametrize(
    ("state", "recorded", "stays"),
    [
        ("claimed", None, "ab"),  # another worker has the lease, and may be publishing
        ("recorded", "a", "a"),
        ("rejected", None, ""),
        ("deleted", None, ""),
        (None, None, ""),  # a posted picture that was discarded or erased
    ],
)
def test_a_worker_that_lost_its_lease_unpublishes_what_is_not_recorded(
    services: Services, state: str | None, recorded: str | None, stays: str
) -> None:
    upload, other = (Upload("uploads", name, 1, 9) for name in ("ana/x.png", "ben/y.png"))
    lease(services, other, "claimed")
    names = {letter: f"{upload.id}/{letter}.webp" for letter in "ab"}
    for name in names.values():
        put(services, "pictures", name)
    facts = {"label": "", "width": 1, "height": 1, "bytes": 1, "content_type": "", "md5": ""}
    if state:
        lease(services, upload, state, [facts | {"object": names[recorded]}] if recorded else None)
    erasure.unpublish_unrecorded(upload, services)
    assert [name for name, _ in stored(services)] == [names[letter] for letter in stays]
