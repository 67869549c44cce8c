"""INCLUDE and EXCLUDE choose objects as documented; temporary objects of tools are always ignored."""

import re
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dropcap.domain.upload import Upload
from dropcap.settings import Settings
from tests.support.app import NO_GCLOUD, Start, rows, small_png

CHARACTERS = st.sampled_from("ab[]!-^?*/\\.{}|()\nÉé\N{GRINNING FACE}")


def matches(name: str, pattern: str) -> bool:
    """Return whether a name matches: `*` is any characters, `?` one, all others are literal."""
    row = [True] + [False] * len(name)
    for letter in pattern:
        before, row = row, [row[0] and letter == "*"]
        for index, each in enumerate(name):
            if letter == "*":
                row.append(before[index + 1] or row[index])
            else:
                row.append(before[index] and letter in ("?", each))
    return row[-1]


def included(name: str, include: tuple[str, ...] = ("*",), exclude: tuple[str, ...] = ()) -> bool:
    return Upload("uploads", name, 1, 9).wanted(include, exclude)


@given(st.text(CHARACTERS, min_size=1, max_size=8), st.text(CHARACTERS, max_size=6))
def test_a_pattern_has_two_wildcards_and_all_other_characters_are_literal(name: str, pattern: str) -> None:
    name = name.rstrip("/") or "a"
    assert included(name, include=(pattern,)) is matches(name, pattern)
    assert included(name, exclude=(pattern,)) is not matches(name, pattern)


@given(st.text(CHARACTERS, min_size=1, max_size=12))
def test_a_name_as_a_pattern_matches_itself(name: str) -> None:
    assert included(f"{name}.", include=(f"{name}.",))


@pytest.mark.parametrize(
    ("pattern", "excluded", "other"),
    [
        ("[private]/*", "[private]/a.jpg", "p/a.jpg"),
        ("[!a]/*", "[!a]/a.jpg", "b/a.jpg"),
        ("a[1].jpg", "a[1].jpg", "a1.jpg"),
        ("[*", "[a", "a"),
        ("ana/*", "ana/b/c.jpg", "Ana/c.jpg"),
        ("a?c", "a\nc", "ac"),
    ],
)
def test_brackets_in_a_setting_are_literal(pattern: str, excluded: str, other: str) -> None:
    settings = Settings.read({"EXCLUDE": f" {pattern} , nothing"})
    assert not included(excluded, settings.include, settings.exclude)
    assert included(other, settings.include, settings.exclude)


def test_a_pattern_with_many_wildcards_takes_no_exponential_time() -> None:
    assert not included("a" * 1024, include=("*a" * 30 + "b",))


GCLOUD = "gcloud/tmp/parallel_composite_uploads/see_gcloud_storage_cp_help_for_details"
TEMPORARY = [
    f"{GCLOUD}/1_9c1185a5c5e9fc54612808977ee8f548b2258d31_0",
    f"ana/{GCLOUD}/1_9c1185a5c5e9fc54612808977ee8f548b2258d31_0",
    "39/gsutil/tmp/parallel_composite_uploads/for_details_see/gsutil_help_cp/d41d8cd98f00b204_0",
    ".gcsfuse_tmp/1f3870be274f6c49b3e31a0c6728957f",
    "ana/.gcsfuse_tmp/1f3870be274f6c49b3e31a0c6728957f",
    "gcs-go-sdk-pu-tmp/1732950000_abc_part_0",
    "bWFueSByYW5kb20gYnl0ZQ;bWFueSByYW5kb20gYnl0ZQ;0001-0032.part",
    "ana/a.jpg/bWFueSByYW5kb20gYnl0ZQ;bWFueSByYW5kb20gYnl0ZQ;0001.part",
    "ana/0123456789abcdef.upload_shard_3",
    "ana/0123456789abcdef.compose-tmp-0",
    "ana/_GCS_SYNCABLE_TEMPFILE_a.jpg.1.2f9c",
    "ana/.distcp.tmp.attempt_local1_0001_m_000000_0",
]
PICTURES = [
    *("ana/part;one;two.jpg", "gcloud/tmp/a.jpg", "ana/a.part", "ana/gcloud.jpg", "ana/.distcp.jpg"),
    *("mygcloud/tmp/parallel_composite_uploads/a.jpg", "ana/x.gcsfuse_tmp/a.jpg", "ana/upload_shard_1.jpg"),
    *("tmp/a.jpg", "ana/a.compose-tmp.jpg", "ana/gcs-go-sdk-pu-tmp/a.jpg"),
]


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_whose_name_resembles_a_temporary_object_is_included(name: str) -> None:
    assert included(name)


@pytest.mark.skipif(NO_GCLOUD, reason="gcloud is not installed")
def test_the_temporary_names_are_those_of_the_installed_gcloud_and_gsutil() -> None:
    root = Path(str(shutil.which("gcloud"))).resolve().parent.parent
    files = (
        root / "lib/googlecloudsdk/core/properties.py",
        root / "lib/googlecloudsdk/command_lib/storage/tasks/cp/copy_component_util.py",
        root / "platform/gsutil/gslib/utils/copy_helper.py",
    )
    for file in filter(Path.exists, files):
        found = re.findall(r"'(/?g\w+/tmp/parallel_composite_uploads/[\w/]*)'", file.read_text())
        assert found
        for prefix in found:
            assert not included(
                f"1{prefix}1_0" if prefix.startswith("/gsutil") else f"{prefix.lstrip('/')}1_0"
            )


def test_no_event_request_or_reconcile_touches_a_temporary_object(start: Start) -> None:
    app = start()
    for name in TEMPORARY:
        part = app.upload(name, b"the first third of a picture")
        assert app.deliver(part) == 200
        body = {"bucket": app.uploads, "name": name, "keep": True}
        assert app.analyze(json=body).status_code == 404
    assert app.reconcile() == {"complete": True}
    assert sorted(app.objects(app.uploads)) == sorted(TEMPORARY)
    assert rows("SELECT count(*) FROM uploads") == [[0]]


def test_an_object_composed_of_temporary_ones_is_processed_without_an_md5(start: Start) -> None:
    app, data = start(), small_png()
    bucket = app.storage.bucket(app.uploads)
    parts = [bucket.blob(name) for name in TEMPORARY[:2]]
    for part, content in zip(parts, (data[:40], data[40:]), strict=True):
        part.upload_from_string(content)
    whole = bucket.blob("ana/a.png")
    whole.compose(parts)
    whole.reload()
    assert (whole.md5_hash, whole.component_count) == (None, 2)
    assert app.reconcile() == {"found": 1, "done": 1, "complete": True}
    assert sorted(app.objects(app.uploads)) == sorted(TEMPORARY[:2])
    assert len(app.objects(app.pictures)) == 3
