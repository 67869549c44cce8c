"""The real `gcloud storage` works with the local storage server as with Google's."""

import gzip
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from google.cloud.storage import Bucket

from dropcap.domain.upload import Upload
from infra.local.storage.server import Storage
from tests.support.events import WATCHED, Functions, client_of

MIB = 1024 * 1024
URL = f"gs://{WATCHED}"
NAMES = ("a.jpg", "a b é \N{GRINNING FACE}.jpg", "100%#?.jpg", "sub/[x]*.jpg", "sub/deeper/a.jpg")
PARALLEL = {
    "CLOUDSDK_STORAGE_PARALLEL_COMPOSITE_UPLOAD_ENABLED": "True",
    "CLOUDSDK_STORAGE_PARALLEL_COMPOSITE_UPLOAD_THRESHOLD": "1M",
    "CLOUDSDK_STORAGE_PARALLEL_COMPOSITE_UPLOAD_COMPONENT_SIZE": "1M",
    "CLOUDSDK_STORAGE_PARALLEL_COMPOSITE_UPLOAD_COMPATIBILITY_CHECK": "False",
    "CLOUDSDK_STORAGE_RESUMABLE_THRESHOLD": "100K",  # gcloud deletes no part of a simple upload
}
Gcloud = Callable[..., str]


@pytest.fixture
def bucket(watched_storage: Storage) -> Bucket:
    return client_of(watched_storage).bucket(WATCHED)


@pytest.fixture
def gcloud(watched_storage: Storage, warm_gcloud: str, tmp_path: Path) -> Gcloud:
    """Return a function that runs `gcloud storage` with these words, and returns what it prints."""
    token = tmp_path / "token"
    token.write_text("local")
    environment = os.environ | {
        "CLOUDSDK_CONFIG": str(tmp_path / "config"),
        "CLOUDSDK_CORE_PROJECT": "demo",
        "CLOUDSDK_CORE_DISABLE_PROMPTS": "1",
        "CLOUDSDK_AUTH_ACCESS_TOKEN_FILE": str(token),
        "CLOUDSDK_API_ENDPOINT_OVERRIDES_STORAGE": f"{watched_storage.url}/storage/v1/",
        "CLOUDSDK_STORAGE_RESUMABLE_THRESHOLD": "1M",  # 8 MiB, else
    }

    def run(*words: object, standard_input: bytes = b"", **variables: str) -> str:
        done = subprocess.run(
            [f"{warm_gcloud}/gcloud", "storage", *map(str, words)],
            env=environment | variables,
            input=standard_input,
            capture_output=True,
        )
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout.decode(errors="replace")

    return run


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of small files, each with its own name as its content, and a larger one beside it."""
    for name in NAMES:
        path = tmp_path / "pictures" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    (tmp_path / "large.jpg").write_bytes(os.urandom(2 * MIB) + bytes(MIB))
    return tmp_path / "pictures"


def stored(bucket: Bucket, prefix: str) -> dict[str, str]:
    """Content by name."""
    blobs = bucket.client.list_blobs(bucket, prefix=f"{prefix}/")
    return {blob.name.removeprefix(f"{prefix}/"): blob.download_as_bytes().decode() for blob in blobs}


def files(folder: Path) -> dict[str, str]:
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_text() for path in paths}


def test_a_folder_can_be_uploaded_listed_moved_downloaded_and_deleted(
    gcloud: Gcloud, bucket: Bucket, folder: Path, functions: Functions, tmp_path: Path
) -> None:
    gcloud("cp", "-r", folder, f"{URL}/x")
    gcloud("cp", "-r", folder, f"{URL}/y/")
    for name in NAMES:
        [(_, event)] = functions.events(f"x/{name}")
        assert event["size"] == str(len(name.encode()))
    assert stored(bucket, "x") == stored(bucket, "y/pictures") == files(folder)
    listed = gcloud("ls", "-r", f"{URL}/x/**").splitlines()
    assert sorted(listed) == sorted(f"{URL}/x/{name}" for name in NAMES)
    gcloud("mv", f"{URL}/x", f"{URL}/z")
    assert (stored(bucket, "x"), stored(bucket, "z")) == ({}, files(folder))
    gcloud("mv", f"{URL}/z/a.jpg", f"{URL}/z/moved.jpg")
    gcloud("cp", "-r", f"{URL}/z", tmp_path)
    assert files(tmp_path / "z").keys() == {"moved.jpg", *NAMES} - {"a.jpg"}
    gcloud("rm", "-r", f"{URL}/z")
    gcloud("rm", f"{URL}/y/**")
    assert {**stored(bucket, "y"), **stored(bucket, "z")} == {}


def test_rsync_makes_both_sides_equal(gcloud: Gcloud, bucket: Bucket, folder: Path, tmp_path: Path) -> None:
    gcloud("rsync", "-r", folder, f"{URL}/mirror")
    assert stored(bucket, "mirror") == files(folder)
    (folder / "a.jpg").unlink()
    (folder / "new.jpg").write_text("new")
    gcloud("rsync", "-r", "--delete-unmatched-destination-objects", folder, f"{URL}/mirror")
    assert stored(bucket, "mirror") == files(folder)
    (tmp_path / "back").mkdir()
    gcloud("rsync", "-r", f"{URL}/mirror", tmp_path / "back")
    assert files(tmp_path / "back") == files(folder)


@pytest.mark.parametrize("size", [1000, 2 * MIB], ids=["small", "resumable"])
def test_transport_and_stored_compression_of_gcloud_are_honoured(
    gcloud: Gcloud, bucket: Bucket, functions: Functions, tmp_path: Path, size: int
) -> None:
    data = os.urandom(size)
    (tmp_path / "a.jpg").write_bytes(data)
    for flag, name in (("-J", "way"), ("-Z", "good")):
        gcloud("cp", flag, tmp_path / "a.jpg", f"{URL}/{name}-{size}.jpg")
        functions.events(f"{name}-{size}.jpg")
    way, good = bucket.get_blob(f"way-{size}.jpg"), bucket.get_blob(f"good-{size}.jpg")
    assert (way.content_encoding, way.download_as_bytes(raw_download=True)) == (None, data)
    packed = good.download_as_bytes(raw_download=True)
    assert (good.content_encoding, gzip.decompress(packed)) == ("gzip", data)
    gcloud("cp", f"{URL}/good-{size}.jpg", tmp_path / "back.jpg")
    assert (tmp_path / "back.jpg").read_bytes() == data


def test_standard_input_metadata_and_large_files(
    gcloud: Gcloud, bucket: Bucket, functions: Functions, folder: Path, tmp_path: Path
) -> None:
    gcloud("cp", "-", f"{URL}/stdin.jpg", standard_input=b"hello")
    assert bucket.blob("stdin.jpg").download_as_bytes() == b"hello"
    large = tmp_path / "large.jpg"
    gcloud("cp", large, f"{URL}/ana/large.jpg", "--custom-metadata=tz=Europe/Madrid")
    [(_, event)] = functions.events("ana/large.jpg")
    assert (event["metadata"]["tz"], event["size"]) == ("Europe/Madrid", str(3 * MIB))
    gcloud("cp", f"{URL}/ana/large.jpg", f"{URL}/ana/again.jpg")
    gcloud("cp", f"{URL}/ana/again.jpg", tmp_path / "back.jpg")
    assert (tmp_path / "back.jpg").read_bytes() == large.read_bytes()


def test_of_a_parallel_composite_upload_only_the_whole_is_processed(
    gcloud: Gcloud, bucket: Bucket, functions: Functions, folder: Path, tmp_path: Path
) -> None:
    large = tmp_path / "large.jpg"
    gcloud("cp", large, f"{URL}/ana/whole.jpg", **PARALLEL)
    [(_, event)] = functions.events("ana/whole.jpg")
    parts = [data["name"] for _, data in functions.received if "parallel_composite_uploads" in data["name"]]
    assert (event.get("md5Hash"), event["componentCount"]) == (None, len(parts))
    assert len(parts) > 1
    assert not [name for name in parts if Upload(WATCHED, name, 1, MIB).wanted(("*",), ())]
    assert bucket.blob("ana/whole.jpg").download_as_bytes() == large.read_bytes()
    gcloud("cp", f"{URL}/ana/whole.jpg", tmp_path / "back.jpg")  # gcloud checks what it can
    assert (tmp_path / "back.jpg").read_bytes() == large.read_bytes()
    left: list[Any] = [*bucket.client.list_blobs(bucket, prefix="gcloud/")]
    assert left == []
