"""Settings are read once, checked at start, and a wrong one is one line that says what to change."""

import base64
import os
import subprocess
import sys
from dataclasses import FrozenInstanceError, fields
from pathlib import Path

import pytest

from dropcap.errors import SettingsError
from dropcap.settings import Settings

FUNCTIONS = Path(__file__).parents[2] / "functions"

WRONG = {
    "UPLOADS_BUCKET": "gs://photos",
    "SOURCE": "burn",
    "SIZES": "1600,big",
    "FORMAT": "gif",
    "QUALITY": "101",
    "MAX_MB": "0",
    "MEMORY_LIMIT_MB": "lots",
    "DATABASE_URL": "mysql://localhost/photos",
    "TIME_ZONE": "Middle/Earth",
    "EVENTS": "http://example.com/hook",
    "EVENTS_SECRET": "whsec_c2hvcnQ=",
    "GEMINI_SDK": "curl",
    "GEMINI_TIMEOUT_S": "nan",
    "CAPTION_BEAMS": "1.5",
}
HIDDEN = {"DATABASE_URL", "EVENTS", "EVENTS_SECRET"}


@pytest.mark.parametrize(("variable", "value"), WRONG.items())
def test_a_wrong_setting_is_one_line_with_variable_value_and_what_is_allowed(
    variable: str, value: str
) -> None:
    with pytest.raises(SettingsError) as wrong:
        Settings.read({variable: value})
    line = str(wrong.value)
    assert line.startswith(f"{variable}=")
    assert "must be" in line
    assert "\n" not in line
    assert (value in line) is (variable not in HIDDEN)


def test_a_secret_is_not_shown_where_it_is_wrong() -> None:
    with pytest.raises(SettingsError) as wrong:
        Settings.read({"DATABASE_URL": "mysql://ana:hunter2@host/photos"})
    assert "hunter2" not in str(wrong.value)


def test_a_secret_is_not_shown_where_settings_are_printed() -> None:
    shown = repr(Settings.read({"DATABASE_URL": "postgresql://a:hunter2@h/p", "GEMINI_API_KEY": "hunter3"}))
    assert "hunter2" not in shown
    assert "hunter3" not in shown


@pytest.mark.parametrize("output", ["PICTURES_BUCKET", "QUARANTINE_BUCKET", "ARCHIVE_BUCKET"])
def test_no_output_may_trigger_the_function_again(output: str) -> None:
    with pytest.raises(SettingsError, match=f"{output}='photos' .* differ from UPLOADS_BUCKET"):
        Settings.read({"UPLOADS_BUCKET": "photos", output: "photos"})


def test_archive_needs_a_bucket() -> None:
    with pytest.raises(SettingsError, match="ARCHIVE_BUCKET"):
        Settings.read({"SOURCE": "archive"})
    assert Settings.read({"SOURCE": "archive", "ARCHIVE_BUCKET": "old"}).archive_bucket == "old"


@pytest.mark.parametrize(
    "events",
    [
        *("https://a:b@example.com", "https://", "https://a/#b", "projects/p/topics/t", "example.com"),
        *("HTTPS://example.com", "https://example.com /hook", "https://example.com\n#"),
    ],
)
def test_who_is_told_is_an_address_that_can_be_meant(events: str) -> None:
    with pytest.raises(SettingsError, match=r"^EVENTS=\*\*\* is not allowed"):
        Settings.read({"EVENTS": events})


SECRETS = {  # each with one that is allowed
    "DATABASE_URL": "postgresql://ana:hunter2@db.example.com/photos",
    "EVENTS": "projects/my-project/topics/done",
    "EVENTS_SECRET": f"whsec_{base64.b64encode(b'a' * 24).decode()}",
    "GEMINI_API_KEY": "AIzaSy-0123456789abcdefghij",
}


def test_the_secrets_are_those() -> None:
    assert {item.name.upper() for item in fields(Settings) if not item.repr} == SECRETS.keys()


@pytest.mark.parametrize(("variable", "value"), SECRETS.items())
def test_white_space_around_a_secret_is_not_part_of_it_and_none_may_be_inside(
    variable: str, value: str
) -> None:
    for around in (f"{value}\n", f"{value}\r\n", f" {value}\t", f"\ufeff{value}\n", f"{value}\u00a0"):
        assert Settings.read({variable: around}) == Settings.read({variable: value})
    for inside in (" ", "\n", "\r\n", "\u00a0"):
        with pytest.raises(SettingsError, match=rf"^{variable}=\*\*\* is not allowed"):
            Settings.read({variable: value[:20] + inside + value[20:]})


def test_a_webhook_needs_a_secret() -> None:
    with pytest.raises(SettingsError, match="EVENTS_SECRET=''"):
        Settings.read({"EVENTS": "https://example.com/hook"})
    secrets = ",".join(f"whsec_{base64.b64encode(key * 24).decode()}" for key in (b"a", b"b"))
    assert "whsec" not in repr(
        Settings.read({"EVENTS": "https://example.com/hook", "EVENTS_SECRET": secrets})
    )
    assert Settings.read({"EVENTS": "projects/my-project/topics/done"}).events


def test_a_wait_for_gemini_must_not_look_like_a_hang() -> None:
    gemini = {"GEMINI_API_KEY": "any", "GEMINI_ATTEMPTS": "2", "GEMINI_TIMEOUT_S": "20"}
    with pytest.raises(SettingsError, match=r"LEASE_S='60' .* more than the 60 s that Gemini may take"):
        Settings.read(gemini | {"LEASE_S": "60"})
    assert Settings.read(gemini | {"LEASE_S": "61"}).lease_s == 61
    assert Settings.read({"LEASE_S": "1"}).lease_s == 1


def test_settings_do_not_change_after_start() -> None:
    with pytest.raises(FrozenInstanceError):
        Settings.read({}).quality = 1  # type: ignore[misc]


@pytest.mark.parametrize("setting", [item.name for item in fields(Settings)])
@pytest.mark.parametrize("nothing", ["", "  ", "\t\n"])
def test_an_empty_setting_is_one_that_is_not_set(setting: str, nothing: str) -> None:
    assert Settings.read({setting.upper(): nothing}) == Settings.read({}) == Settings()


LISTS = [item.name for item in fields(Settings) if str(item.type).startswith("tuple[")]


@pytest.mark.parametrize("setting", LISTS)
def test_a_list_of_nothing_is_refused_and_white_space_around_its_items_is_none_of_them(setting: str) -> None:
    with pytest.raises(SettingsError, match=rf"{setting.upper()}=.* is not allowed"):
        Settings.read({setting.upper(): " , ,"})
    items = {
        "sizes": ("400", "200"),
        "format": ("avif", "png"),
        "auth_audience": ("1.apps.googleusercontent.com", "2.apps.googleusercontent.com"),
        "events_secret": tuple(f"whsec_{base64.b64encode(key * 24).decode()}" for key in (b"a", b"b")),
    }.get(setting, ("one", "two"))
    written = Settings.read({setting.upper(): f" {items[0]} ,\t{items[1]}, "})
    assert getattr(written, setting) == getattr(Settings.read({setting.upper(): ",".join(items)}), setting)
    assert len(getattr(written, setting)) == 2


def test_sizes_are_published_from_the_largest_down_once_each() -> None:
    assert Settings.read({"SIZES": "200, 800,800"}).sizes == (800, 200)


def test_a_function_with_a_wrong_setting_does_not_start_and_says_why_in_one_line() -> None:
    started = subprocess.run(
        [sys.executable, "-c", "import main"],
        cwd=FUNCTIONS,
        env=os.environ | {"SOURCE": "burn"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert started.returncode == 1
    assert "SOURCE='burn' is not allowed" in started.stdout
    assert "Traceback" not in started.stdout + started.stderr
