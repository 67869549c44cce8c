"""The files that every project has: licence, notices, version and changelog."""

import hashlib
import subprocess
import tomllib

import pytest

from tests.app import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
NOTICE = (ROOT / "NOTICE").read_text()
# SHA-256 of https://www.apache.org/licenses/LICENSE-2.0.txt
APACHE_2 = "cfc7749b96f63bd31c3c42b5c471bf756814053e847c10f3eb003417bc523d30"
THIRD_PARTY = (".data", ".gif", ".heic", ".jpg", ".onnx", ".png", ".safetensors", ".txt", ".webp", ".whl")
OWN = ("requirements.txt", "infra/pip.txt", "model_export/LICENSE.scenes.txt")


def tracked() -> list[str]:
    command = ["git", "ls-files"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()


def test_the_licence_is_the_full_text_of_apache_2() -> None:
    assert PROJECT["license"] == "Apache-2.0"
    assert hashlib.sha256((ROOT / "LICENSE").read_bytes()).hexdigest() == APACHE_2


@pytest.mark.parametrize("name", [name for name in tracked() if name.endswith(THIRD_PARTY)])
def test_every_file_that_may_be_somebody_elses_is_in_the_notice(name: str) -> None:
    folder = name.rpartition("/")[0]
    assert name in NOTICE or f"{folder}/" in NOTICE or name.endswith(OWN)
