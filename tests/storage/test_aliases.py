"""LAYOUT: renditions have aliases where an app expects them, and each alias belongs to one upload."""

import json
import uuid
from typing import Any

import pytest

from dropcap.domain import naming
from dropcap.domain.naming import COPIES, OWNER
from dropcap.domain.upload import LONGEST_NAME, Upload
from dropcap.erasure import erase
from dropcap.storage import aliases
from dropcap.storage.buckets import Buckets
from tests.support.app import PICTURE, App, Start, at_next_call, expire_leases, rows, small_png

BESIDE = {"LAYOUT": "beside", "SIZES": "200x100", "BLIP": "optional"}


def names(
    name: str, layout: str = "thumbs/", formats: str = "webp", source: str = "JPEG"
) -> dict[str, list[str]]:
    return naming.kinds(name, layout, "200x200", naming.as_formats(formats), source)


@pytest.mark.parametrize(
    ("name", "formats", "source", "expected"),
    [
        ("ana/a.JPG", "webp", "JPEG", {"webp": ["ana/thumbs/a_200x200.webp"]}),
        ("ana/x/a.b.jpg", "jpeg", "JPEG", {"jpeg": ["ana/x/thumbs/a.b_200x200.jpeg"]}),
        ("a.png", "original", "PNG", {"png": ["thumbs/a_200x200.png"]}),
        ("ana/a.JPG", "original", "JPEG", {"jpeg": ["ana/thumbs/a_200x200.JPG"]}),
        ("ana/a.gif", "original", "GIF", {"webp": ["ana/thumbs/a_200x200.gif"]}),  # as the app asks for it
        ("ana/a.heic", "original", "HEIF", {"webp": ["ana/thumbs/a_200x200.webp"]}),  # never theirs
        ("ana/a", "webp", "JPEG", {"webp": ["ana/thumbs/a_200x200"]}),
        ("ana/a.txt", "webp,jpeg", "PNG", {"webp": ["ana/thumbs/a.txt_200x200"], "jpeg": []}),
        ("ana/a.jpg", "original,jpeg", "JPEG",
         {"jpeg": ["ana/thumbs/a_200x200.jpg", "ana/thumbs/a_200x200.jpeg"]}),
        ("ana/a.webp", "original,webp", "WEBP", {"webp": ["ana/thumbs/a_200x200.webp"]}),
        ("ana/a.png", "png,original", "JPEG", {"png": ["ana/thumbs/a_200x200.png"], "jpeg": []}),
    ],
)  # fmt: skip
def test_aliases_have_the_names_of_resize_images(
    name: str, formats: str, source: str, expected: dict[str, list[str]]
) -> None:
    assert names(name, formats=formats, source=source) == expected


@pytest.mark.parametrize("name", ["ana/../bob/a.jpg", "ana/..", "ana/./a.jpg", "ana//a.jpg", "ana/\x01.jpg"])
@pytest.mark.parametrize("layout", ["beside", "thumbs/"])
def test_no_alias_is_in_another_users_folder(name: str, layout: str) -> None:
    [[alias]] = names(name, layout).values()
    assert alias.startswith(name.rpartition("/")[0] + "/")


def test_a_name_above_the_length_limit_gets_no_alias() -> None:
    ending = len("_200x200.webp") - len(".jpg")
    longest = "ana/" + "é" * ((LONGEST_NAME - ending - 8) // 2) + ".jpg"
    assert len(names(longest, "beside")["webp"]) == 1
    assert names(f"ana/xx{longest}", "beside") == {"webp": []}


def test_aliases_lie_beside_the_upload_names_and_record_their_owner(start: Start) -> None:
    app = start(LAYOUT="thumbs/", SIZES="60x20,30", FORMAT="webp,jpeg", CACHE_CONTROL="max-age=60")
    upload = app.upload("ana/x/a.png", small_png(), "image/png", album="spring", **{COPIES: '["bob/b"]'})
    assert app.deliver(upload) == 200
    stored = app.objects(app.pictures)
    [[result]] = rows("SELECT result FROM analyses")
    listed = [(each["label"], each["content_type"]) for each in result["pictures"]]
    assert listed == [(size, f"image/{kind}") for size in ("60x20", "30") for kind in ("webp", "jpeg")]
    assert {(each["width"], each["height"]) for each in result["pictures"]} == {(30, 20)}
    for each in result["pictures"]:
        kind = each["content_type"].removeprefix("image/")
        copy = stored.pop(f"ana/x/thumbs/a_{each['label']}.{kind}")
        original = stored.pop(each["object"])
        assert original.name == f"{upload.id}/{each['label']}.{kind}"
        assert copy.md5_hash == original.md5_hash == each["md5"]
        assert (copy.content_type, copy.cache_control) == (each["content_type"], "max-age=60")
        assert copy.metadata == original.metadata
        assert copy.metadata["album"] == "spring"
        assert json.loads(copy.metadata[COPIES]) == [copy.name]
    assert not stored


def alias_of(app: App) -> tuple[str, str]:
    """Return the MD5 of the only alias, and the id of its upload."""
    [copy] = [blob for blob in app.objects(app.pictures).values() if blob.name.startswith("ana/")]
    return copy.md5_hash, copy.metadata[OWNER].split()[1]


def test_an_alias_belongs_to_the_newest_upload_in_any_order(start: Start) -> None:
    app = start(**BESIDE, SOURCE="keep")
    older = app.upload("ana/a.png", small_png())
    newer = app.upload("ana/a.jpg", PICTURE)  # another extension, the same alias
    assert app.deliver(newer) == 200
    copy = alias_of(app)
    assert copy[1] == str(newer.id)
    assert app.deliver(older) == 200
    assert alias_of(app) == copy
    erase(older, app.services)  # deletes nothing of the newer one
    assert alias_of(app) == copy
    newest = app.upload("ana/a.png", small_png())
    assert app.deliver(newest) == 200
    assert alias_of(app)[1] == str(newest.id)
    erase(newer, app.services)
    assert alias_of(app)[1] == str(newest.id)
    app = app.restarted(LAYOUT="id")  # a deletion finds aliases whatever the setting is
    erase(newest, app.services)
    assert app.objects(app.pictures) == {}


def test_foreign_objects_are_replaced(start: Start) -> None:
    app = start(**BESIDE)
    app.storage.bucket(app.pictures).blob("ana/a_200x100.webp").upload_from_string("of the extension")
    upload = app.upload("ana/a.png", small_png())
    assert app.deliver(upload) == 200
    assert alias_of(app)[1] == str(upload.id)
    # Unlike the picture under the upload's id it changes with the next upload.
    assert app.objects(app.pictures)["ana/a_200x100.webp"].cache_control == "private, max-age=3600"


def test_a_worker_that_lost_its_lease_does_not_replace_aliases_of_the_next_one(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = start(**BESIDE)
    upload = app.upload("ana/a.jpg", PICTURE)

    def deliver_to_another_worker() -> None:
        expire_leases()
        assert app.restarted(QUALITY="30").deliver(upload) == 200  # with other bytes

    at_next_call(monkeypatch, aliases, "write", deliver_to_another_worker)
    assert app.deliver(upload) != 200
    [[result]] = rows("SELECT result FROM analyses")
    assert alias_of(app) == (result["pictures"][0]["md5"], str(upload.id))


def test_a_crash_before_the_aliases_are_written_is_repaired_by_the_next_delivery(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = start(**BESIDE)
    upload = app.upload("ana/a.png", small_png())
    monkeypatch.setattr(aliases, "_write", None)
    assert app.deliver(upload) == 500
    assert "ana/a.png" in app.objects(app.uploads)
    monkeypatch.undo()
    assert app.restarted().deliver(upload) == 200
    assert alias_of(app)[1] == str(upload.id)
    assert app.objects(app.uploads) == {}


def test_an_alias_written_during_a_deletion_is_deleted(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    app, own = start(**BESIDE, SOURCE="keep"), aliases.owned
    upload = app.upload("ana/a.png", small_png())
    assert app.deliver(upload) == 200

    def before_it_is_made(*arguments: Any) -> list[Any]:
        monkeypatch.undo()
        return own(*arguments)[:0]

    monkeypatch.setattr(aliases, "owned", before_it_is_made)
    erase(upload, app.services)
    assert app.objects(app.pictures) == {}


def test_posted_pictures_and_uploads_without_layout_have_no_aliases(start: Start) -> None:
    app = start(**BESIDE)
    answer = app.analyze(data=small_png(), query_string={"keep": "true", "user": "ana"})
    assert answer.status_code == 200, answer.text
    assert list(app.objects(app.pictures)) == [f"{answer.get_json()['id']}/200x100.webp"]


def test_an_alias_of_another_upload_is_not_owned_whatever_the_metadata_claim(start: Start) -> None:
    app = start(**BESIDE)
    assert app.deliver(app.upload("ana/a.png", small_png())) == 200
    hostile = Upload(app.uploads, "eve/a.png", 1, 9)
    blob = app.storage.bucket(app.pictures).blob(f"{hostile.id}/200.webp")
    blob.metadata = {COPIES: json.dumps(["ana/a_200x100.webp", "..", 7, ""])}
    blob.upload_from_string("as code before this one copied it")
    assert aliases.names_in([blob]) == {"ana/a_200x100.webp", "7"}
    assert aliases.owned(Buckets(app.services.settings), hostile, aliases.names_in([blob])) == []
    blob.metadata = {COPIES: uuid.uuid4().hex}
    assert aliases.names_in([blob]) == set()
