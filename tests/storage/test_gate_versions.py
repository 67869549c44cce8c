"""Versions and composite objects behave as in Cloud Storage; objects are in memory."""

import uuid
from collections.abc import Iterator

import pytest
import requests
from google.api_core.exceptions import NotFound, PreconditionFailed
from google.cloud.storage import Blob, Bucket, Client

from infra.local.storage.server import Storage
from tests.support.events import WAIT_S, client_of


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    with Storage(None, tmp_path_factory.mktemp("storage")) as storage:
        yield client_of(storage)


@pytest.fixture
def bucket(client: Client) -> Bucket:
    """A bucket that keeps versions."""
    bucket = client.bucket(f"versions-{uuid.uuid4().hex}")
    bucket.versioning_enabled = True
    client.create_bucket(bucket)
    return bucket


@pytest.fixture
def versions(bucket: Bucket) -> list[Blob]:
    """Three versions of one object, the last of them live."""
    made = []
    for number in range(3):
        blob = bucket.blob("ana/é.jpg")
        blob.upload_from_string(str(number))
        made.append(bucket.blob(blob.name, generation=blob.generation))
    return made


def generations(bucket: Bucket) -> list[tuple[int, bool]]:
    """Return the generation of each object, and whether it is live."""
    blobs = bucket.client.list_blobs(bucket, versions=True)
    return sorted((int(blob.generation), blob.time_deleted is None) for blob in blobs)


def test_a_noncurrent_version_is_read_by_its_generation(bucket: Bucket, versions: list[Blob]) -> None:
    assert [blob.download_as_bytes() for blob in versions] == [b"0", b"1", b"2"]
    assert bucket.blob("ana/é.jpg").download_as_bytes() == b"2"
    copy = bucket.copy_blob(versions[0], bucket, "copy.jpg", source_generation=versions[0].generation)
    assert copy.download_as_bytes() == b"0"
    with pytest.raises(NotFound):
        bucket.blob("ana/é.jpg", generation=5).reload()


@pytest.mark.parametrize("which", range(3))
def test_a_delete_by_generation_deletes_that_version_for_good(
    bucket: Bucket, versions: list[Blob], which: int
) -> None:
    versions[which].delete()
    left = [blob.generation for blob in versions if blob is not versions[which]]
    assert generations(bucket) == [(each, each == left[-1] and which != 2) for each in left]
    assert bucket.blob("ana/é.jpg").exists() == (which != 2)
    for ask in (versions[which].reload, versions[which].delete, versions[which].download_as_bytes):
        with pytest.raises(NotFound):
            ask()


@pytest.mark.parametrize("conditional", [False, True])
def test_a_delete_without_a_generation_leaves_a_noncurrent_version(
    bucket: Bucket, versions: list[Blob], conditional: bool
) -> None:
    live = bucket.blob("ana/é.jpg")
    if conditional:
        with pytest.raises(PreconditionFailed):
            live.delete(if_generation_match=versions[1].generation)
        live.delete(if_generation_match=versions[2].generation)
    else:
        live.delete()
    assert generations(bucket) == [(blob.generation, False) for blob in versions]


def test_without_versions_a_replaced_generation_is_gone(client: Client) -> None:
    bucket = client.create_bucket("no-versions")
    blob = bucket.blob("a.jpg")
    blob.upload_from_string(b"0")
    older = bucket.blob("a.jpg", generation=blob.generation)
    blob.upload_from_string(b"1")
    for ask in (older.reload, older.delete, older.download_as_bytes):
        with pytest.raises(NotFound):
            ask()
    assert len(generations(bucket)) == 1


def test_a_composite_object_has_no_md5(client: Client) -> None:
    bucket = client.create_bucket("composite")
    parts = [bucket.blob(name) for name in "ab"]
    for part in parts:
        part.upload_from_string(part.name)
    whole = bucket.blob("whole")
    whole.compose(parts)
    [listed] = client.list_blobs(bucket, prefix="whole")
    whole.reload()
    for blob in (whole, listed):
        assert (blob.md5_hash, blob.component_count, blob.size) == (None, 2, 2)
        assert blob.crc32c
    assert whole.download_as_bytes() == b"ab"
    whole.upload_from_string(b"ab")
    whole.reload()
    assert (bool(whole.md5_hash), whole.component_count) == (True, None)


def test_a_bucket_has_a_storage_layout_and_a_missing_one_is_404(client: Client) -> None:
    client.create_bucket("layout")
    url = f"{client.api_endpoint}/storage/v1/b/{{}}/storageLayout"
    layout = requests.get(url.format("layout"), timeout=WAIT_S).json()
    assert (layout["kind"], layout["bucket"]) == ("storage#storageLayout", "layout")
    assert layout["hierarchicalNamespace"] == {"enabled": False}
    assert requests.get(url.format("nobodys"), timeout=WAIT_S).status_code == 404


def test_an_upload_with_content_encoding_by_the_xml_api_is_refused(client: Client) -> None:
    client.create_bucket("encoding")
    url, packed = f"{client.api_endpoint}/encoding/a.jpg", {"Content-Encoding": "gzip"}
    assert requests.put(url, b"1", headers=packed, timeout=WAIT_S).status_code in (400, 501)
    assert not client.bucket("encoding").blob("a.jpg").exists()
