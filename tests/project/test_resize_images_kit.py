"""Coming from Resize Images as a function kit: an instance's folder is read as the Firebase CLI reads it."""

from pathlib import Path

import pytest

from dropcap.settings import Settings
from infra.cloud import CloudError
from infra.resize_images import convert, main, read
from infra.resize_images_parameters import KNOWN
from tests.support.pages import DOCS

PAGE = (DOCS / "from-resize-images.md").read_text()
# The parameters that the kit defines: firebase/extensions, kits/storage-resize-images, src/config.ts at
# 09a5645f, and BUCKET_REGION of README.md at 0a71d866 (2026).
PARAMETERS = [
    "BUCKET_REGION",
    "IMG_BUCKET",
    "IMG_SIZES",
    "DELETE_ORIGINAL_FILE",
    "MAKE_PUBLIC",
    "RESIZED_IMAGES_PATH",
    "INCLUDE_PATH_LIST",
    "EXCLUDE_PATH_LIST",
    "FAILED_IMAGES_PATH",
    "CACHE_CONTROL_HEADER",
    "IMAGE_TYPE",
    "OUTPUT_OPTIONS",
    "SHARP_OPTIONS",
    "IS_ANIMATED",
    "FUNCTION_MEMORY",
    "REGENERATE_TOKEN",
    "CONTENT_FILTER_LEVEL",
    "CUSTOM_FILTER_PROMPT",
    "PLACEHOLDER_IMAGE_PATH",
]
# What firebase-tools 15.34.2 (2026-10-28) wrote for an instance of the extension with these values, by the
# two functions of `firebase ext:migrate`, functionsEnvFromInstance and seedKitInstanceEnv, with the file
# extension.yaml of firebase/extensions at 58896fff. The last line is the prompt's answer, which it appends.
MIGRATED = r"""
IMG_BUCKET=my-project.appspot.com
IMG_SIZES=200x200,1200x800
DELETE_ORIGINAL_FILE=on_success
MAKE_PUBLIC=false
RESIZED_IMAGES_PATH=thumbs
INCLUDE_PATH_LIST=/users/*/pictures
EXCLUDE_PATH_LIST=/users/*/drafts
FAILED_IMAGES_PATH=failed
CACHE_CONTROL_HEADER=public, max-age=86400
IMAGE_TYPE=webp,jpeg
OUTPUT_OPTIONS="{\"webp\":{\"quality\":75},\"jpeg\":{\"quality\":75,\"chromaSubsampling\":\"4:4:4\"}}"
SHARP_OPTIONS=
IS_ANIMATED=true
FUNCTION_MEMORY=2048
REGENERATE_TOKEN=false
CONTENT_FILTER_LEVEL=OFF
CUSTOM_FILTER_PROMPT="Is this \"art\" #1?"
PLACEHOLDER_IMAGE_PATH=
FUNCTION_DEFAULT_REGION=us-central1
EXT_MIGRATED_SYSTEM_MAXINSTANCES=3000
EXT_MIGRATED_SYSTEM_MEMORY=256MiB
EXT_SELECTED_EVENTS=firebase.extensions.storage-resize-images.v1.onCompletion
EVENTARC_CHANNEL=projects/my-project/locations/us-central1/channels/firebase
BUCKET_REGION=EU
"""


@pytest.fixture
def instance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of an instance, where the Firebase CLI puts it, with one file for this project."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "function-kits" / "storage-resize-images" / "config-avatars"
    folder.mkdir(parents=True)
    (folder / ".env.my-project").write_text(MIGRATED)
    return folder


def settings(folder: Path, text: str, project: str = "my-project") -> dict[str, str]:
    (folder / ".env.my-project").write_text(text)
    return convert(read(folder, project)).settings


def test_an_instance_becomes_the_settings_that_an_export_with_its_values_becomes(
    instance: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(instance), "--project", "my-project"]) == 0
    written = Path("settings.mk").read_text().splitlines()
    example = PAGE.partition("```make\n")[2].partition("```")[0].splitlines()
    assert written[0].startswith("# From config-avatars, ")
    assert sorted(written[1:]) == sorted(example[1:])
    assert "not known" not in capsys.readouterr().out


def test_every_parameter_of_the_kit_is_known() -> None:
    assert len(PARAMETERS) == 19
    assert set(PARAMETERS) <= KNOWN.keys()


def test_values_are_read_as_the_firebase_cli_reads_them(instance: Path) -> None:
    (instance / ".env.my-project").write_text(
        "# a comment\r\n"
        "export IMG_BUCKET = 'photos'  # where they are\r\n"
        "IMG_SIZES=2x2 # small\n"
        'CUSTOM_FILTER_PROMPT="a \\"b\\"\\n#c" # asked\n'
        "nonsense\n"
    )
    parameters = read(instance, "my-project")
    assert (parameters["IMG_BUCKET"], parameters["IMG_SIZES"]) == ("photos", "2x2")
    assert parameters["CUSTOM_FILTER_PROMPT"] == 'a "b"\n#c'


def test_the_file_of_the_project_goes_before_that_of_all_projects(instance: Path) -> None:
    (instance / ".env").write_text("IMG_BUCKET=photos\nIMG_SIZES=1x1\n")
    (instance / ".env.my-project").write_text("IMG_SIZES=2x2\n")
    (instance / ".env.other").write_text("IMG_SIZES=3x3\n")
    assert read(instance, "my-project")["IMG_SIZES"] == "2x2"
    assert read(instance, "")["IMG_SIZES"] == "1x1"
    assert read(instance / ".env", "my-project")["IMG_SIZES"] == "1x1"


def test_what_the_file_does_not_say_is_as_the_kit_has_it_and_so_no_original_is_deleted(
    instance: Path,
) -> None:
    got = settings(instance, "IMG_BUCKET=photos\n")
    assert (got["SOURCE"], got["SIZES"], got["ANIMATED"], got["FORMAT"]) == (
        "keep",
        "200x200",
        "1",
        "original",
    )
    assert Settings.read(got).source == "keep"


@pytest.mark.parametrize(
    ("lines", "region"),
    [
        ("BUCKET_REGION=europe-west4", "europe-west4"),
        ("BUCKET_REGION=US", "us-east1"),
        ("BUCKET_REGION=asia", "asia-east1"),
        ("FUNCTION_DEFAULT_REGION=europe-west1", "europe-west1"),
        ("FUNCTION_DEFAULT_REGION=us-central1\nBUCKET_REGION=eu", "europe-west1"),
        ("BUCKET_REGION=", None),
    ],
)
def test_the_region_is_where_the_kit_runs(lines: str, region: str | None, instance: Path) -> None:
    assert settings(instance, f"IMG_BUCKET=photos\n{lines}\n").get("REGION") == region


@pytest.mark.parametrize("value", ['"[\\"false\\"]"', '["false"]', "false", '["False"]'])
def test_a_list_of_types_is_read_however_it_was_written(value: str, instance: Path) -> None:
    assert settings(instance, f"IMG_BUCKET=photos\nIMAGE_TYPE={value}\n")["FORMAT"] == "original"


def test_of_several_instances_one_has_to_be_named(instance: Path) -> None:
    other = instance.with_name("config-uploads")
    other.mkdir()
    (other / ".env").write_text("IMG_BUCKET=photos\n")
    with pytest.raises(
        CloudError, match=r"name the folder of one instance \(config-avatars, config-uploads\)"
    ):
        read(instance.parent, "my-project")
    assert read(other, "my-project")["IMG_BUCKET"] == "photos"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "",
            "lacks IMG_BUCKET or IMG_SIZES. "
            "For a kit that uses the project's default bucket, add IMG_BUCKET=NAME.",
        ),
        ("SMTP_CONNECTION_URI=smtps://a:b@c\n", "not a configuration of storage-resize-images"),
        ('IMG_BUCKET="photos\nIMG_SIZES=2x2\n', "IMG_BUCKET has an opening quote without a closing one"),
        ("IMG_BUCKET=photos\nBUCKET_REGION=nam4\n", "REGION='nam4' is not allowed"),
    ],
)
def test_a_file_that_can_not_be_used_is_one_line(
    text: str, message: str, instance: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (instance / ".env.my-project").write_text(text)
    assert main([str(instance), "--project", "my-project"]) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("make import: ")
    assert message in line


def test_a_folder_without_a_configuration_of_this_project_is_refused(instance: Path) -> None:
    with pytest.raises(
        CloudError, match=r"holds neither \.env nor \.env\.PROJECT: name an instance's folder"
    ):
        read(instance, "")
