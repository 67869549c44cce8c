"""`settings.mk`: a deployment writes its settings, make reads them, and other lines stay."""

import os
import stat
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.cloud import CloudError, settings_file
from infra.cloud.config import Config
from tests.project.test_resize_images import environment_of
from tests.support.app import ROOT

USUAL = {"PROJECT": "my-project", "DATABASE_URL": "postgresql://ana:secret1@db.example.com/x"}
FILE = Path("settings.mk")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Provide a folder like a clone: with an installed environment and without settings."""
    monkeypatch.chdir(tmp_path)
    Path(".venv").mkdir()


def write(**chosen: str) -> None:
    settings_file.write(Config.read(USUAL | {"GEMINI_API_KEY": "secret2"} | chosen))


def test_what_was_deployed_is_what_the_next_command_says_and_the_command_line_goes_before_it() -> None:
    chosen = {
        "SIZES": "800,200",
        "CACHE_CONTROL": "public, #1 $HOME $(shell touch oh) 'a' \"b\" ü; c",
        "EXCLUDE": "[private]/*,*/draft?.jpg",
        "CLOUD_SQL_TIER": "db-g1-small",
        "GALLERY": "1",
    }
    write(**chosen, WAIT_S="9", DEMO_MODEL="1")
    text = FILE.read_text()
    assert "secret" not in text.partition("\nexport")[2]
    got = environment_of("plan")
    assert {name: got[name] for name in chosen} == chosen
    assert (got["PROJECT"], got["REGION"]) == ("my-project", "europe-west1")
    assert not {"WAIT_S", "DEMO_MODEL", "DATABASE_URL", "GEMINI_API_KEY", "UPLOADS_BUCKET"} & got.keys()
    assert not Path("oh").exists()
    other = environment_of("deploy", "SIZES=100", EXCLUDE="none/*")
    assert (other["SIZES"], other["EXCLUDE"]) == ("100", "none/*")
    assert Config.read(USUAL | {name: got[name] for name in chosen}).chosen == chosen


def test_git_leaves_out_the_settings_of_a_deployment() -> None:
    ignored = ["git", "-C", str(ROOT), "check-ignore", "--quiet", "settings.mk"]
    assert subprocess.run(ignored, check=False).returncode == 0


def test_the_language_of_a_terminal_is_not_the_setting_of_that_name() -> None:
    """Ubuntu sets LANGUAGE for gettext, which must not stop a deployment."""
    for locale in ("en_US:en", "en_GB", "de:en"):
        assert "LANGUAGE" not in environment_of("plan", LANGUAGE=locale)
    assert environment_of("plan", LANGUAGE="de")["LANGUAGE"] == "de"
    assert environment_of("plan", "LANGUAGE=pt_BR", LANGUAGE="en_US")["LANGUAGE"] == "pt_BR"  # to be refused


def test_what_people_wrote_beside_it_stays_and_their_settings_follow_the_deployment() -> None:
    FILE.write_text(
        "# Ours; ask Ana.\n"
        "export DEMO_MODEL = 1\n"
        "SIZES=100 # of the app\n"
        "export QUALITY ?= 70\n"
        "export EXCLUDE := a, \\\n b\n"
        "\n"
        "include other.mk\n"
    )
    write(SIZES="800", EXCLUDE="c", AUTH="iam")
    assert FILE.read_text() == (
        "# Ours; ask Ana.\n"
        "export DEMO_MODEL = 1\n"
        "# of the app\n"
        "export SIZES ?= 800\n"
        "export EXCLUDE ?= c\n"
        "\n"
        "include other.mk\n"
        "export PROJECT ?= my-project\n"
        "export REGION ?= europe-west1\n"
        "export AUTH ?= iam\n"
    )
    write(SIZES="800", EXCLUDE="default", AUTH="iam")
    assert "EXCLUDE" not in FILE.read_text()


def test_what_is_set_on_a_condition_stays_and_goes_before_what_was_deployed() -> None:
    on_condition = "ifeq ($(STAGE),prod)\nexport QUALITY = 90\nelse\nexport QUALITY = 50\nendif\n"
    FILE.write_text(f"{on_condition}export SIZES = 800\nSIZES += ,200\n")
    write(SIZES="800,100", QUALITY="70")
    assert FILE.read_text().startswith(f"{on_condition}export SIZES ?= 800,100\nexport PROJECT")
    got = environment_of("plan", "STAGE=prod")
    assert (got["QUALITY"], got["SIZES"]) == ("90", "800,100")


@given(st.text(max_size=20))
def test_any_value_is_written_so_that_it_is_one_line_or_not_at_all(value: str) -> None:
    try:
        line = settings_file.line("CACHE_CONTROL", value)
    except CloudError:
        assert "\\" in value or not value.isprintable() or value != value.strip()
    else:
        assert line.replace("$$", "$").replace("\\#", "#") == f"export CACHE_CONTROL ?= {value}"


def test_it_is_replaced_at_once_with_its_mode_and_is_nobody_elses_to_begin_with() -> None:
    write()
    assert stat.S_IMODE(FILE.stat().st_mode) == 0o600
    FILE.chmod(0o644)
    before = FILE.stat()
    write(QUALITY="70")
    assert stat.S_IMODE(FILE.stat().st_mode) == 0o644
    assert FILE.stat().st_ino != before.st_ino
    again = FILE.stat()
    write(QUALITY="70")
    assert FILE.stat() == again  # what is the same is not written
    assert sorted(os.listdir()) == [".venv", "settings.mk"]


def test_where_it_can_not_be_written_that_is_said_and_the_deployment_stands(
    capsys: pytest.CaptureFixture[str],
) -> None:
    FILE.mkdir()
    write()
    assert capsys.readouterr().err.startswith("Warning: settings.mk was not written (")


def test_the_settings_of_another_project_are_not_taken_for_this_one() -> None:
    write()
    made = {"MAKELEVEL": "1"}
    settings_file.check("my-project", made)
    settings_file.check("another-one", {})  # nobody has read it
    with pytest.raises(
        CloudError, match=r"settings\.mk has the settings of my-project, but PROJECT=another-one is given"
    ):
        settings_file.check("another-one", made)
    FILE.write_text(FILE.read_text().replace("?= my-project\n", "= my-project # ours\n"))
    settings_file.check("my-project", made)
    for whose in ("", "ifdef STAGE\nPROJECT = a-third\nelse\nPROJECT = another-one\nendif\n"):
        FILE.write_text(whose)
        settings_file.check("another-one", made)
