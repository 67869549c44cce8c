"""What counts as an upload, whose it is, and which values of an event or its metadata are refused."""

import hashlib
import uuid
from http import HTTPStatus
from typing import Any

import pytest

from dropcap.domain.upload import INT64, LONGEST_NAME, Upload, from_event, is_object, is_user, owner, posted
from dropcap.errors import Rejected

EVENT = {
    "bucket": "photos",
    "name": "ana/x.png",
    "generation": "7",
    "size": "12",
    "contentType": "image/png",
    "metadata": {"tz": "Europe/Madrid", "number": 1},
}


def test_an_event_describes_its_upload() -> None:
    metadata = {"tz": "Europe/Madrid", "number": "1"}
    upload = Upload("photos", "ana/x.png", 7, 12, "image/png", metadata)
    assert from_event(EVENT) == upload
    assert (upload.user, upload.time_zone, upload.in_bucket) == ("ana", "Europe/Madrid", True)
    least = from_event({"bucket": "photos", "name": "x", "generation": 1})
    assert least == Upload("photos", "x", 1, 0)
    assert from_event(EVENT | {"generation": str(INT64), "size": str(INT64)}).size == 2**63 - 1


@pytest.mark.parametrize("name", ["bucket", "name", "generation"])
def test_an_event_without_a_name_for_its_object_is_rejected(name: str) -> None:
    _assert_rejected({key: value for key, value in EVENT.items() if key != name})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", ""),
        ("name", "."),
        ("name", "x\n"),
        ("generation", "seven"),
        ("generation", None),
        ("generation", 0),
        ("generation", -1),
        ("generation", 2**63),
        ("size", -1),
        ("size", 2**63),
        ("metadata", "text"),
    ],
)
def test_an_event_with_impossible_values_is_rejected(field: str, value: Any) -> None:
    _assert_rejected(EVENT | {field: value})


def _assert_rejected(event: dict[str, Any]) -> None:
    with pytest.raises(Rejected, match="not describe") as rejected:
        from_event(event)
    assert rejected.value.code == "not_a_storage_event"
    assert rejected.value.status == HTTPStatus.BAD_REQUEST


def test_an_id_is_unique_to_a_generation_and_never_changes() -> None:
    upload = Upload("photos", "ana/x.png", 7, 12)
    assert upload.id == uuid.UUID("42a76622-06ec-58b4-8e13-a3fd5b165a4a")
    others = [("photos2", "ana/x.png", 7), ("photos", "ana/y.png", 7), ("photos", "ana/x.png", 8)]
    assert len({upload.id, *(Upload(*names, 12).id for names in others)}) == 4


def test_a_posted_picture_is_known_by_its_bytes_and_its_user() -> None:
    upload = posted(b"picture", "ana", "image/png", "Europe/Madrid", "de")
    name = f"ana/{hashlib.sha256(b'picture').hexdigest()}"
    assert upload == Upload("", name, 0, 7, "image/png", {"tz": "Europe/Madrid", "language": "de"})
    assert (upload.user, upload.in_bucket, upload.language) == ("ana", False, "de")
    assert upload.id == posted(b"picture", "ana", "").id != posted(b"picture", "ben", "").id
    assert posted(b"picture", "ana", "").metadata == {}


@pytest.mark.parametrize("zone", [None, "", "Nowhere/City", "../etc/passwd", "Europe", "a\0b", "x" * 5000])
def test_an_invalid_time_zone_is_none(zone: str | None) -> None:
    metadata = {} if zone is None else {"tz": zone}
    assert Upload("photos", "ana/x.png", 1, 1, metadata=metadata).time_zone is None


@pytest.mark.parametrize("name", ["a", "...", ".a", "a.", "..a", "ana maria", "x" * 128, "é", "\U0001f600"])
def test_a_first_folder_is_the_user_that_owns_the_object(name: str) -> None:
    assert is_user(name)
    assert owner(f"{name}/album/x.png") == owner(f"{name}/") == name


@pytest.mark.parametrize("name", ["", ".", "..", "x" * 129, "a\n", "\x1f", "a\x7f", "\ud800"])
def test_a_folder_that_is_no_users_name_belongs_to_nobody(name: str) -> None:
    assert not is_user(name)
    assert owner(f"{name}/x.png") == "anonymous"


def test_an_object_in_no_folder_belongs_to_nobody() -> None:
    assert owner("x.png") == "anonymous"
    assert not is_user("a/b")


@pytest.mark.parametrize("name", ["x", "...", "a/..", "é" * (LONGEST_NAME // 2), "x" * 1024])
def test_an_object_may_have_a_name_of_1024_bytes(name: str) -> None:
    assert is_object(name)


@pytest.mark.parametrize("name", ["", ".", "..", "a\rb", "a\nb", "é" * 513, "x" * 1025, "\ud800"])
def test_cloud_storage_allows_no_object_of_this_name(name: str) -> None:
    assert not is_object(name)


@pytest.mark.parametrize(
    ("name", "size", "metadata", "wanted"),
    [
        ("ana/x.png", 1, {}, True),
        ("ana/x.png", 0, {}, False),
        ("ana/", 1, {}, False),
        ("ana/x.png", 1, {"resizedImage": "true"}, False),
        ("ana/x.png", 1, {"resizedImage": "false"}, True),
        ("ana/.gcsfuse_tmp/x.png", 1, {}, False),
        ("ana/private/x.png", 1, {}, False),
        ("ben/x.png", 1, {}, False),
    ],
)
def test_only_pictures_that_are_complete_and_chosen_are_processed(
    name: str, size: int, metadata: dict[str, str], wanted: bool
) -> None:
    upload = Upload("photos", name, 1, size, metadata=metadata)
    assert upload.wanted(("cleo/*", "ana/*"), ("*.gif", "*/private/*")) is wanted
