"""Coming from Firebase's Resize Images: its exported configuration becomes ours, parameter by parameter."""

import json
import os
import re
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from google.cloud.storage import Client

from dropcap.describing import moderation
from dropcap.domain.analysis import Verdict
from dropcap.domain.upload import Upload
from dropcap.errors import Rejected
from dropcap.settings import Settings
from infra.cloud import CloudError, settings_file
from infra.cloud.config import Config
from infra.resize_images import convert, main, read
from infra.resize_images_parameters import KNOWN
from tests.support.app import Start, rows, small_png
from tests.support.pages import DOCS, commands

PAGE = (DOCS / "from-resize-images.md").read_text()
LEAST = {"IMG_BUCKET": "photos", "IMG_SIZES": "200x200"}


@pytest.fixture
def exported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The example of the page as a file, in a folder where nothing else is."""
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "storage-resize-images.env"
    file.write_text(PAGE.partition("```ini\n")[2].partition("```")[0])
    return file


def ours(**parameters: str) -> dict[str, str]:
    return convert(LEAST | parameters).settings


def row(name: str, value: str) -> tuple[str, str]:
    """What it says of one parameter."""
    [row] = [row for row in convert(LEAST | {name: value}).rows if row[0].startswith(f"{name}=")]
    return row[1], row[2]


def test_the_example_of_the_page_becomes_what_the_page_says(
    exported: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(exported), "--project", "my-project"]) == 0
    written = Path("settings.mk").read_text()
    assert written in PAGE
    assert "make plan PROJECT=my-project" in capsys.readouterr().out
    parameters = read(exported, "my-project")
    assert {row[0].partition("=")[0] for row in convert(parameters).rows} >= parameters.keys()


def environment_of(target: str, *words: str, **environment: str) -> dict[str, str]:
    """What a target of the real Makefile gives to its command."""
    shown = f'{sys.executable} -c "import json, os; print(json.dumps(dict(os.environ)))"'
    ran = subprocess.run(
        ["make", "-f", DOCS.parent / "Makefile", "-o", ".venv/installed", target, f"RUN={shown}", *words],  # noqa: S607
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return dict(json.loads(ran.stdout))


def test_a_deployment_takes_the_file_and_the_command_line_goes_before_it(exported: Path) -> None:
    exported.write_text(exported.read_text().replace("max-age=86400", "max-age=1, #$(shell touch oh)"))
    Path(".venv").mkdir()
    assert main([str(exported), "--project", "my-project"]) == 0
    got = environment_of("plan", "SIZES=100", "PROJECT=my-project", FORMAT="avif")
    assert (got["SIZES"], got["FORMAT"], got["LAYOUT"]) == ("100", "avif", "thumbs/")
    assert got["CACHE_CONTROL"] == "public, max-age=1, #$(shell touch oh)"
    assert not Path("oh").exists()
    config = Config.read(got | {"DATABASE_URL": "postgresql://a:b@db.example.com/c"})
    assert config.region == "europe-west1"
    assert config.variables["UPLOADS_BUCKET"] == "my-project.appspot.com"
    assert environment_of("redescribe", "PROJECT=my-project")["REGION"] == "europe-west1"
    for here in ("run", "redescribe"):
        assert "LAYOUT" not in environment_of(here)  # what runs here, and the tests, know nothing of it


def test_what_is_there_is_not_overwritten_unless_somebody_says_so(
    exported: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("settings.mk").write_text("mine")
    assert main([str(exported), "--project", "my-project"]) == 1
    assert capsys.readouterr().err == "make import: settings.mk already exists: FORCE=1 overwrites it.\n"
    assert Path("settings.mk").read_text() == "mine"
    assert main([str(exported), "--project", "my-project", "--force"]) == 0
    assert Path("settings.mk").read_text() in PAGE


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "can't be read"),
        ("SMTP_CONNECTION_URI=smtps://a:secret@b\n", "not a configuration of storage-resize-images"),
        (b"\xff\xfe", "can't be read"),
        ("IMG_BUCKET=${param:PROJECT_ID}.appspot.com\nIMG_SIZES=2x2", "PROJECT=my-project"),
        ("IMG_BUCKET=${STORAGE_BUCKET}\nIMG_SIZES=2x2", "is not the name of a bucket"),
        ("IMG_BUCKET=photos\nIMG_SIZES=2by2", "SIZES='2by2' is not allowed"),
        ("IMG_BUCKET=photos\nIMG_SIZES=2x2\nCACHE_CONTROL_HEADER=a\\", "no backslash"),
        ("IMG_BUCKET=photos\nIMG_SIZES=2x2\nFAILED_IMAGES_PATH=a,b", "literal comma or question mark"),
        ("IMG_BUCKET=photos\nIMG_SIZES=2x2\n#" + "a" * 1_000_000, "larger than 1 MB"),
    ],
)
def test_bad_input_is_one_line_with_its_remedy(
    text: str | bytes | None, message: str, exported: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    exported.unlink()
    if text is not None:
        exported.write_bytes(text if isinstance(text, bytes) else text.encode())
    assert main([str(exported)]) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("make import: ")
    assert message in line
    assert "secret" not in line
    assert not Path("settings.mk").exists()


def test_without_a_file_it_asks_for_one(exported: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in ([], ["."]):  # make without EXTENSION gives an empty word, which is the folder as a path
        assert main(words) == 1
        assert capsys.readouterr().err == (
            "make import: EXTENSION is not set: make import EXTENSION=extensions/storage-resize-images.env\n"
        )
    assert not Path("settings.mk").exists()


@pytest.mark.parametrize(
    ("name", "value", "setting", "expected"),
    [
        ("IMG_SIZES", "200x200, 1200x800", "SIZES", "200x200, 1200x800"),
        ("LOCATION", "us-central1", "REGION", "us-central1"),
        ("DELETE_ORIGINAL_FILE", "false", "SOURCE", "keep"),
        ("RESIZED_IMAGES_PATH", "/thumbs/", "LAYOUT", "thumbs/"),
        ("RESIZED_IMAGES_PATH", "../up", "LAYOUT", "beside"),
        ("RESIZED_IMAGES_PATH", ".", "LAYOUT", "beside"),
        (
            "INCLUDE_PATH_LIST",
            "/users/*/pictures,/a[1]",
            "INCLUDE",
            "users/*/pictures/*,a[1]/*,dropcap-verify/*",
        ),
        ("CACHE_CONTROL_HEADER", "max-age=60", "CACHE_CONTROL", "max-age=60"),
        ("IMAGE_TYPE", "jpeg,webp,tiff,false", "FORMAT", "jpeg,webp,original"),
        ("IMAGE_TYPE", "tiff", "FORMAT", "webp"),
        (
            "OUTPUT_OPTIONS",
            '{"jpeg":{"quality":70,"progressive":true},"webp":{"quality":60}}',
            "QUALITY",
            "70",
        ),
        ("SHARP_OPTIONS", '{"animated":true,"fit":"cover"}', "ANIMATED", "1"),
        ("IS_ANIMATED", "true", "ANIMATED", "1"),
    ],
)
def test_a_parameter_becomes_a_setting(name: str, value: str, setting: str, expected: str) -> None:
    assert ours(**{name: value})[setting] == expected
    assert setting in row(name, value)[0]


@pytest.mark.parametrize(
    ("name", "value", "note"),
    [
        ("MAKE_PUBLIC", "true", "buckets stay private"),
        ("OUTPUT_OPTIONS", "{jpeg", "is not JSON"),
        ("OUTPUT_OPTIONS", "[" * 100_000, "is not JSON"),
        ("OUTPUT_OPTIONS", '{"jpeg":{"quality":true}}', "no equivalent to jpeg.quality"),
        ("OUTPUT_OPTIONS", '{"png":{"palette":true}}', "png.palette"),
        ("SHARP_OPTIONS", '{"fit":"cover"}', "fit"),
        ("REGENERATE_TOKEN", "true", "never copied"),
        ("CUSTOM_FILTER_PROMPT", "no cats", "SAFETY alone"),
    ],
)
def test_what_has_no_equal_is_named_with_what_to_do(name: str, value: str, note: str) -> None:
    setting, text = row(name, value)
    assert setting == "no equivalent"
    assert note in text


def test_an_unknown_parameter_is_named_without_its_value_which_could_be_a_secret(
    exported: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    exported.write_text(exported.read_text() + "\nAPI_TOKEN=hunter2\n")
    assert main([str(exported), "--project", "my-project"]) == 0
    printed = capsys.readouterr().out
    assert "API_TOKEN" in printed
    assert "unknown; ignored" in printed
    assert "hunter2" not in printed + Path("settings.mk").read_text()


STRANGE = """a $(touch oh) `touch oh` $$HOME 'b' "c" \\.env"""


@pytest.mark.parametrize(
    ("target", "variables"),
    [
        ("import", ("EXTENSION", "PROJECT")),
        ("model-archive", ("ARCHIVE",)),
        ("evaluate", ("COCO", "PICTURES")),
        ("evaluate", ("PHOTOGRAPHS",)),
    ],
)
def test_make_hands_on_what_is_named_and_expands_nothing_in_it(
    target: str, variables: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shown = f'{sys.executable} -c "import json, sys; print(json.dumps(sys.argv))"'
    old = [f"-o.venv{environment}/installed" for environment in ("", "-model")]
    parameters = [f"RUN={shown}", f"EXPORT={shown}", *(f"{name}={STRANGE}" for name in variables)]
    ran = subprocess.run(
        ["make", "-f", DOCS.parent / "Makefile", *old, target, *parameters],  # noqa: S607
        capture_output=True,
        text=True,
        check=True,
    )
    words = json.loads(ran.stdout.splitlines()[-1])
    assert words.count(STRANGE) == len(variables)
    assert not Path("oh").exists()


def test_a_region_that_can_not_be_one_and_a_project_that_is_no_name_are_refused(
    exported: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(CloudError, match="REGION='nowhere' is not allowed: it must be a region"):
        ours(LOCATION="nowhere")
    assert main([str(exported), "--project", r"my-\1project"]) == 1
    assert capsys.readouterr().err.startswith(
        "make import: The extension's settings can't be imported: UPLOADS"
    )


@pytest.mark.parametrize("parameters", [{}, {"RESIZED_IMAGES_PATH": "../up"}, {"RESIZED_IMAGES_PATH": "."}])
def test_one_row_says_where_the_copies_lie(parameters: dict[str, str]) -> None:
    rows = [row for row in convert(LEAST | parameters).rows if row[0].startswith("RESIZED_IMAGES_PATH")]
    assert [row[1] for row in rows] == ["LAYOUT=beside"]


def test_what_the_extension_made_is_left_alone_and_what_it_took_is_taken() -> None:
    parameters = ours(
        INCLUDE_PATH_LIST="/users/*/pictures", EXCLUDE_PATH_LIST="/users/bob", FAILED_IMAGES_PATH="failed"
    )
    settings = Settings.read(parameters)

    def taken(name: str) -> bool:
        return Upload("photos", name, 1, 9).wanted(settings.include, settings.exclude)

    assert taken("users/ana/pictures/a.jpg")
    assert taken("users/ana/x/pictures/2020/a.jpg")  # as theirs: a star is over folders, too
    assert not taken("users/ana/a.jpg")
    assert not taken("users/bob/pictures/a.jpg")
    for output in ("a_200x200.jpg", "thumbs/a_200x200.webp", "a_200x200", "failed/a.jpg"):
        assert not taken(f"users/ana/pictures/{output}")


@pytest.mark.parametrize(
    ("level", "blocked"),
    [
        ("BLOCK_ONLY_HIGH", {"high"}),
        ("BLOCK_MEDIUM_AND_ABOVE", {"high", "medium"}),
        ("BLOCK_LOW_AND_ABOVE", {"high", "medium", "low"}),
    ],
)
def test_what_a_level_of_the_filter_blocked_is_held_here(level: str, blocked: set[str]) -> None:
    settings = Settings.read({"SAFETY": ours(CONTENT_FILTER_LEVEL=level)["SAFETY"]})
    assert settings.safety in row("CONTENT_FILTER_LEVEL", level)[0]
    for verdict in moderation.LEVELS:
        with pytest.raises(Rejected) if verdict in blocked else nullcontext():
            moderation.check(Verdict(verdict), settings)


@pytest.mark.parametrize("value", ["true", "on_success"])
def test_what_may_be_deleted_of_a_bucket_that_is_not_empty_the_import_does_not_say(value: str) -> None:
    """That is asked at the first deployment, which SOURCE=delete in the file would answer."""
    assert "SOURCE" not in ours(DELETE_ORIGINAL_FILE=value)
    setting, note = row("DELETE_ORIGINAL_FILE", value)
    assert (setting, Settings.read({}).source) == ("SOURCE not set", "delete")
    assert "quarantine" in note


def test_what_the_extension_made_in_other_sizes_is_known_by_its_mark_to_event_and_sweep(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, listing = [], Client.list_blobs

    def listed(client: Client, *words: Any, **options: Any) -> Any:
        asked.append(options.get("fields", "all"))  # which the local storage does not go by
        return listing(client, *words, **options)

    app = start()
    monkeypatch.setattr(Client, "list_blobs", listed)
    for made in ("true", "false"):
        upload = app.upload(f"ana/{made}_64x64.png", small_png(), "image/png", resizedImage=made)
        if made == "true":
            assert app.deliver(upload) == 200
    assert app.reconcile() == {"found": 1, "done": 1, "complete": True}
    assert "metadata" in asked[0]
    assert app.objects(app.uploads).keys() == {"ana/true_64x64.png"}
    assert rows("SELECT name FROM uploads") == [["ana/false_64x64.png"]]


def test_every_parameter_is_explained_on_the_page() -> None:
    assert {name for name in KNOWN if f"`{name}`" not in PAGE} == set()


def test_quotes_comments_and_empty_values_are_read_as_firebase_writes_them(exported: Path) -> None:
    exported.write_text("# a comment\r\nIMG_BUCKET=\"photos\"\r\nIMG_SIZES='2x2'\nLOCATION=\nnonsense\n")
    assert read(exported, "") == {"IMG_BUCKET": "photos", "IMG_SIZES": "2x2"}
    with pytest.raises(CloudError, match="can't be read"):
        read(exported / "nowhere", "")
    assert Path("settings.mk") == settings_file.FILE


def test_what_the_page_has_copied_into_the_new_bucket_is_outputs_alone() -> None:
    """gcloud leaves out what the pattern matches from the beginning of a path on."""
    [words] = commands(DOCS / "from-resize-images.md", "gcloud", "storage", "rsync")
    pattern = words[words.index("--exclude") + 1]
    originals = (
        "ana/a.jpg",
        "ana/b.pdf",
        "ana/a_200x2000.jpg",
        "ana/a_200x200/b.jpg",
        "ana/a_200x200.old.jpg",
    )
    outputs = ("ana/a_200x200.webp", "ana/thumbs/a_1200x800.jpg", "ana/a_200x200")
    assert all(re.match(pattern, name) for name in originals)
    assert not any(re.match(pattern, name) for name in outputs)
