"""The local storage server follows Cloud Storage's documented rules, used by Google's own client."""

import io
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import unquote

import pytest
import requests
from google.api_core.exceptions import NotFound, PreconditionFailed
from google.cloud.storage import Blob, Bucket, Client

from infra.local.storage.server import Storage
from tests.support.events import WAIT_S, WATCHED, Functions, client_of

OTHER = "pictures"
MIB = 1024 * 1024


@pytest.fixture(scope="module")
def storage(watched_storage: Storage) -> Storage:
    watched_storage.create_bucket(OTHER)
    return watched_storage


@pytest.fixture(scope="module")
def client(storage: Storage) -> Client:
    return client_of(storage)


@pytest.fixture
def bucket(client: Client) -> Bucket:
    return client.bucket(OTHER)


@pytest.fixture
def blob(bucket: Bucket, request: pytest.FixtureRequest) -> Blob:
    """An object with the content `first`, of which `generation` is the live one."""
    blob = bucket.blob(f"{request.node.name}/é % '\"+ picture.jpg")
    blob.upload_from_string(b"first")
    return blob


def resumable(blob: Blob, data: bytes, **conditions: int) -> None:
    """Upload in two steps and more, as the client does with large files."""
    blob.chunk_size = MIB // 4
    blob.upload_from_file(io.BytesIO(data), **conditions)


def multipart(blob: Blob, data: bytes, **conditions: int) -> None:
    blob.upload_from_string(data, **conditions)


@pytest.mark.parametrize("upload", [multipart, resumable])
def test_an_upload_heeds_its_preconditions(bucket: Bucket, blob: Blob, upload: Callable[..., None]) -> None:
    live = blob.generation or 0
    new = bucket.blob(f"{blob.name} of {upload.__name__}")
    refused: list[tuple[Blob, dict[str, int]]] = [
        (blob, {"if_generation_match": live + 1}),
        (blob, {"if_generation_match": 0}),  # the object must not exist
        (blob, {"if_generation_not_match": live}),
        (blob, {"if_metageneration_match": 7}),
        (new, {"if_generation_not_match": 1}),
    ]
    for target, conditions in refused:
        with pytest.raises(PreconditionFailed):
            upload(target, b"refused", **conditions)
    assert blob.download_as_bytes() == b"first"
    accepted = ({"if_generation_match": live}, {"if_generation_not_match": 1}, {"if_metageneration_match": 1})
    for number, conditions in enumerate(accepted):
        upload(blob, str(number).encode(), **conditions)
        assert blob.download_as_bytes() == str(number).encode()
    upload(new, b"new", if_generation_match=0)
    assert new.download_as_bytes() == b"new"


def test_a_simple_upload_heeds_its_precondition(storage: Storage, blob: Blob) -> None:
    url = f"{storage.url}/upload/storage/v1/b/{OTHER}/o?uploadType=media&name=simple&ifGenerationMatch="
    assert call(f"{url}0", "POST", b"1")[0] == 200
    assert call(f"{url}0", "POST", b"2")[0] == 412


def test_the_xml_api_heeds_its_header(storage: Storage, bucket: Bucket) -> None:
    url = f"{storage.url}/{OTHER}/folder/xml"
    assert call(url, "PUT", b"1", {"x-goog-if-generation-match": "0", "x-goog-meta-tz": "UTC"})[0] == 200
    status, body = call(url, "PUT", b"2", {"x-goog-if-generation-match": "0"})
    assert (status, b"<Code>PreconditionFailed</Code>" in body) == (412, True)
    assert call(url, "GET", headers={"x-goog-if-generation-match": "1"})[0] == 412
    stored = bucket.get_blob("folder/xml")
    assert (stored.download_as_bytes(), stored.metadata) == (b"1", {"tz": "UTC"})


def test_only_the_named_generation_is_deleted(bucket: Bucket, blob: Blob) -> None:
    with pytest.raises(PreconditionFailed):
        blob.delete(if_generation_match=(blob.generation or 0) + 1)
    assert blob.exists()
    blob.delete(if_generation_match=blob.generation)
    assert not blob.exists()
    with pytest.raises(NotFound):
        blob.delete(if_generation_match=5)


def test_an_older_generation_can_be_neither_read_nor_deleted(bucket: Bucket, blob: Blob) -> None:
    older = bucket.blob(blob.name, generation=blob.generation)
    blob.upload_from_string(b"second")
    with pytest.raises(NotFound):
        older.download_as_bytes()
    with pytest.raises(NotFound):
        older.delete()
    newer = bucket.blob(blob.name, generation=blob.generation)
    assert newer.download_as_bytes() == b"second"
    newer.delete()


def test_a_read_heeds_its_precondition(blob: Blob) -> None:
    assert blob.download_as_bytes(if_generation_match=blob.generation) == b"first"
    with pytest.raises(PreconditionFailed):
        blob.download_as_bytes(if_generation_match=1)
    with pytest.raises(PreconditionFailed):
        blob.reload(if_metageneration_match=2)


def test_a_read_of_an_unchanged_generation_is_a_304(storage: Storage, bucket: Bucket) -> None:
    blob = bucket.blob("unchanged")
    blob.upload_from_string(b"1")
    url = f"{storage.url}/storage/v1/b/{OTHER}/o/unchanged?ifGenerationNotMatch="
    assert call(f"{url}{blob.generation}", "GET") == (304, b"")
    assert call(f"{url}1", "GET")[0] == 200


@pytest.mark.parametrize("operation", ["rewrite", "copy"])
def test_a_copy_heeds_generations_of_source_and_target(bucket: Bucket, blob: Blob, operation: str) -> None:
    target = bucket.blob(f"{blob.name} copied")

    def copy(**conditions: int) -> None:
        if operation == "copy":
            bucket.copy_blob(blob, bucket, target.name, **conditions)
        else:
            target.rewrite(blob, **conditions)

    with pytest.raises(PreconditionFailed):
        copy(if_source_generation_match=1)
    assert not target.exists()
    copy(if_source_generation_match=blob.generation, if_generation_match=0)
    with pytest.raises(PreconditionFailed):
        copy(if_generation_match=0)
    with pytest.raises(PreconditionFailed):
        copy(if_source_generation_not_match=blob.generation)
    with pytest.raises(NotFound):
        bucket.copy_blob(blob, bucket, target.name, source_generation=1)
    assert target.download_as_bytes() == b"first"


def test_a_compose_heeds_the_generations_of_sources_and_target(bucket: Bucket, blob: Blob) -> None:
    joined = bucket.blob(f"{blob.name} joined")
    with pytest.raises(PreconditionFailed):
        joined.compose([blob], if_source_generation_match=[1])
    joined.compose([blob, blob], if_source_generation_match=[blob.generation] * 2, if_generation_match=0)
    with pytest.raises(PreconditionFailed):
        joined.compose([blob], if_generation_match=0)
    assert joined.download_as_bytes() == b"firstfirst"


def test_a_metadata_update_heeds_its_precondition(blob: Blob) -> None:
    blob.metadata = {"tz": "UTC"}
    with pytest.raises(PreconditionFailed):
        blob.patch(if_generation_match=1)
    blob.patch(if_generation_match=blob.generation)
    blob.reload()
    assert blob.metadata == {"tz": "UTC"}


def test_a_failed_precondition_has_googles_error_body(storage: Storage) -> None:
    url = f"{storage.url}/upload/storage/v1/b/{OTHER}/o?uploadType=media&name=body&ifGenerationMatch=3"
    status, body = call(url, "POST", b"1")
    error = json.loads(body)["error"]
    assert (status, error["code"], error["errors"][0]["reason"]) == (412, 412, "conditionNotMet")


def test_of_16_racing_writers_one_wins(bucket: Bucket) -> None:
    def write(number: int) -> bool:
        try:
            multipart(bucket.blob("raced for"), str(number).encode(), if_generation_match=0)
        except PreconditionFailed:
            return False
        return True

    with ThreadPoolExecutor(16) as pool:
        assert sum(pool.map(write, range(16))) == 1


def test_of_16_racing_deletes_of_one_generation_one_wins(blob: Blob) -> None:
    def delete(_: int) -> bool:
        try:
            blob.delete(if_generation_match=blob.generation)
        except NotFound:
            return False
        return True

    with ThreadPoolExecutor(16) as pool:
        assert sum(pool.map(delete, range(16))) == 1


def test_the_links_of_an_object_lead_to_the_gate(storage: Storage, blob: Blob) -> None:
    assert str(blob.self_link).startswith(storage.url)
    assert str(blob.media_link).startswith(storage.url)


def test_requests_whose_preconditions_the_gate_can_not_check_are_refused(storage: Storage) -> None:
    assert call(f"{storage.url}/batch/storage/v1", "POST", b"")[0] == 501
    assert call(f"{storage.url}/{OTHER}/xml", "DELETE")[0] == 501


def test_a_name_never_leaves_the_storage_folder(storage: Storage) -> None:
    url = f"{storage.url}/upload/storage/v1/b/{OTHER}/o?uploadType=media&name=..%2F..%2Fescaped"
    assert call(url, "POST", b"1")[0] == 400
    assert storage.folder
    assert not (storage.folder.parent / "escaped").exists()


def test_every_finalized_object_makes_an_event(client: Client, functions: Functions) -> None:
    watched = client.bucket(WATCHED)
    first, second = watched.blob("ana/é.jpg"), watched.blob("ana/large.jpg")
    first.metadata = {"tz": "Europe/Madrid"}
    first.upload_from_string(b"12345", content_type="image/jpeg")
    resumable(second, b"x" * MIB)
    watched.copy_blob(first, watched, "ana/copy.jpg")
    watched.blob("ana/rewritten.jpg").rewrite(first)
    watched.blob("ana/joined.jpg").compose([first, second])
    for name in ("copy", "rewritten", "joined", "large"):
        functions.events(f"ana/{name}.jpg")
    [(headers, data)] = functions.events("ana/é.jpg")
    assert headers["ce-type"] == "google.cloud.storage.object.v1.finalized"
    assert headers["ce-source"] == f"//storage.googleapis.com/projects/_/buckets/{WATCHED}"
    assert unquote(headers["ce-subject"]) == "objects/ana/é.jpg"
    assert (headers["ce-specversion"], headers["content-type"]) == ("1.0", "application/json")
    assert headers["ce-id"]
    assert data["bucket"] == WATCHED
    assert data["generation"] == str(first.generation)
    assert (data["size"], data["contentType"]) == ("5", "image/jpeg")
    assert data["metadata"] == {"tz": "Europe/Madrid"}
    assert data["timeCreated"]


def test_an_upload_makes_one_event_and_a_refused_one_none(client: Client, functions: Functions) -> None:
    blob = client.bucket(WATCHED).blob("once.jpg")
    resumable(blob, b"x" * MIB)
    with pytest.raises(PreconditionFailed):
        multipart(blob, b"refused", if_generation_match=0)
    client.bucket(WATCHED).blob("last.jpg").upload_from_string(b"1")
    functions.events("last.jpg")
    assert len(functions.events("once.jpg")) == 1


def test_an_unwatched_bucket_makes_no_event(client: Client, blob: Blob, functions: Functions) -> None:
    client.bucket(WATCHED).blob("after.jpg").upload_from_string(b"1")
    functions.events("after.jpg")
    assert all(data["bucket"] == WATCHED for _, data in functions.received)


def test_an_event_is_sent_again_until_it_is_acknowledged(client: Client, functions: Functions) -> None:
    functions.refusals = 2
    client.bucket(WATCHED).blob("again.jpg").upload_from_string(b"1")
    events = functions.events("again.jpg", 3)
    assert len({headers["ce-id"] for headers, _ in events}) == 1


def test_objects_already_in_the_bucket_make_events_at_the_start(functions: Functions, tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{functions.server_port}/"
    with Storage(tmp_path / "objects", tmp_path / "logs") as running:
        running.create_bucket(WATCHED)
        client_of(running).bucket(WATCHED).blob("orphan.jpg").upload_from_string(b"1")
    with Storage(tmp_path / "objects", tmp_path / "logs", events_to=url, watch=[WATCHED]):
        functions.events("orphan.jpg")


def test_in_memory_any_name_is_kept(tmp_path: Path) -> None:
    with Storage(None, tmp_path) as running:
        running.create_bucket(OTHER)
        for name in ("../up", "a\nb", "'; DROP TABLE uploads; --", "\N{GRINNING FACE}" * 256):
            blob = client_of(running).bucket(OTHER).blob(name)
            blob.upload_from_string(name.encode(), if_generation_match=0)
            assert blob.download_as_bytes(if_generation_match=blob.generation) == name.encode()


def call(
    url: str, method: str, body: bytes | None = None, headers: dict[str, str] | None = None
) -> tuple[int, bytes]:
    """Make a request that no client library makes; return status and body."""
    answer = requests.request(method, url, data=body, headers=headers, timeout=WAIT_S)
    return answer.status_code, answer.content
