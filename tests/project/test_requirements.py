"""What is installed is what was locked, and an audit that could not look does not say that all is well."""

import base64
import csv
import hashlib
import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from tests.support.app import ROOT

LOCKS = ("functions/requirements", "infra/requirements", "infra/pip", "requirements")
# Of functions/requirements.txt, whose folder the first is relative to.
OPTIONS = ("--find-links wheels", "--only-binary :all:")
PIN = re.compile(r"^([a-z0-9._-]+)==([^ ;]+)(.*?)(?=^\S|\Z)", re.MULTILINE | re.DOTALL)
GOOD, SKIPPED = {"name": "good", "version": "1", "vulns": []}, {"name": "other", "skip_reason": "not found"}
BAD = {"name": "bad", "version": "1", "vulns": [{"id": "PYSEC-1", "fix_versions": ["2"]}]}


def pins(lock: str) -> dict[str, set[str]]:
    """The packages of a lock with their versions: several where some Pythons need another."""
    found: dict[str, set[str]] = {}
    for name, version, rest in PIN.findall((ROOT / f"{lock}.txt").read_text()):
        assert re.search(r"--hash=sha256:[0-9a-f]{64}\b", rest), name
        found.setdefault(name, set()).add(version)
    return found


@pytest.mark.parametrize("lock", LOCKS)
def test_every_package_is_pinned_with_hashes_and_no_index_is_named(lock: str) -> None:
    wanted = re.findall(r"^[a-z0-9][a-z0-9._-]+", (ROOT / f"{lock}.in").read_text(), re.MULTILINE)
    assert set(wanted) <= set(pins(lock))
    for line in (ROOT / f"{lock}.txt").read_text().splitlines():
        assert line in ("", *OPTIONS) or re.match(r"[a-z0-9._-]+==|    --hash=|\s*#", line), line
        assert "://" not in line


def test_nothing_is_built_from_source_as_builds_download_what_no_hash_pins() -> None:
    assert set(OPTIONS) <= set((ROOT / "functions" / "requirements.txt").read_text().splitlines())
    assert OPTIONS[1] in (ROOT / "infra" / "environment.sh").read_text()


def test_the_wheel_that_pypi_lacks_is_the_locked_one_and_python_alone() -> None:
    [wheel] = (ROOT / "functions" / "wheels").iterdir()
    [version] = pins("functions/requirements")["pyvips"]
    assert wheel.name == f"pyvips-{version}-py3-none-any.whl"
    lock = (ROOT / "functions" / "requirements.txt").read_text()
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    assert f"\npyvips=={version} \\\n    --hash=sha256:{digest}\n" in lock
    with zipfile.ZipFile(wheel) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    [record] = [name for name in files if name.endswith(".dist-info/RECORD")]
    recorded = {name: digest for name, digest, _ in csv.reader(files.pop(record).decode().splitlines())}
    recorded.pop(record)
    for name, data in files.items():
        assert recorded.pop(name) == "sha256=" + base64.urlsafe_b64encode(
            hashlib.sha256(data).digest()
        ).decode().rstrip("=")
        assert name.endswith((".py", ".pyi")) or ".dist-info/" in name
    assert not recorded


def test_what_several_locks_pin_they_pin_alike() -> None:
    known: dict[str, set[str]] = {}
    for lock in LOCKS:
        for name, versions in pins(lock).items():
            assert known.setdefault(name, versions) == versions, name


def audit(folder: Path, output: str) -> tuple[int, str]:
    """The exit status and words of `make audit` where pip-audit prints this and exits with 0."""
    (folder / "pip_audit.py").write_text(f"print({output!r})")
    done = subprocess.run(
        [sys.executable, "-m", "infra.audit", "functions/requirements.txt"],
        env=os.environ | {"PYTHONPATH": str(folder)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("packages", "status", "words"),
    [
        ([GOOD], 0, "No vulnerability is known in any of 1 packages."),
        ([GOOD, BAD], 1, "bad 1: PYSEC-1, fixed in 2"),
        ([SKIPPED, BAD], 1, "1 of 2 packages are known to be vulnerable"),
        ([GOOD, SKIPPED], 2, "Not audited: the database did not answer for 1 of 2 packages."),
        ([], 2, "Not audited"),
    ],
)
def test_an_audit_says_what_is_known_and_what_is_not(
    tmp_path: Path, packages: list[dict[str, Any]], status: int, words: str
) -> None:
    found, output_text = audit(tmp_path, json.dumps({"dependencies": packages, "fixes": []}))
    assert found == status
    assert words in output_text


@pytest.mark.parametrize("output", ["", "Traceback", "[]", "{}"])
def test_an_audit_that_broke_off_is_none(tmp_path: Path, output: str) -> None:
    found, output_text = audit(tmp_path, output)
    assert (found, output_text.count("\n")) == (2, 1)
    assert "Not audited: pip-audit did not get through" in output_text


PYTHON = """#!/bin/sh
# pip and uv, as environment.sh calls them; pip's index has {found}, and PyTorch's {answers}.
echo "$*" >>"{log}"
case "$*" in
    *"hub me/blip") exit {status} ;;
    *--dry-run*) echo '{{"install": [{{"metadata": {{"name": "{found}"}}}}]}}' ;;
    *"-m uv "*) exit {status} ;;
esac
"""


def environment(
    tmp_path: Path, found: str, answers: str, **variables: str
) -> tuple[subprocess.CompletedProcess[str], list[str]]:
    """Make the environment for `make model`; return what ran, and how Python was called."""
    folder, log = tmp_path / "environment", tmp_path / "log"
    (folder / "bin").mkdir(parents=True)
    status = 0 if answers == "answers" else 1
    (folder / "bin" / "python").write_text(
        PYTHON.format(found=found, answers=answers, log=log, status=status)
    )
    (folder / "bin" / "python").chmod(0o755)
    done = subprocess.run(
        ["sh", "infra/environment.sh", str(folder), "model_export/requirements.txt"],  # noqa: S607
        cwd=ROOT,
        env=os.environ | variables,
        capture_output=True,
        text=True,
        check=False,
    )
    return done, log.read_text().splitlines()


@pytest.mark.parametrize(
    ("found", "answers", "asked_uv", "installed"),
    [
        ("sympy", "answers", False, True),
        ("nvidia-cublas", "answers", True, True),
        ("cuda-toolkit", "is silent", True, False),
    ],
)
def test_pytorch_is_installed_for_cpus_or_not_at_all(
    tmp_path: Path, found: str, answers: str, asked_uv: bool, installed: bool
) -> None:
    done, ran = environment(tmp_path, found, answers)
    [torch] = re.findall(r"^torch==\S+", (ROOT / "model_export/requirements.txt").read_text(), re.MULTILINE)
    assert asked_uv == any(f"--torch-backend cpu {torch}" in line for line in ran)
    assert installed == any(line.endswith("--requirement model_export/requirements.txt") for line in ran)
    assert installed == (tmp_path / "environment" / "installed").exists()
    assert [line for line in ran if "--retries 1" in line] == [
        line for line in ran if "infra/pip.txt" in line
    ]
    assert (done.returncode == 0) == installed
    if not installed:
        assert "make: PyTorch's index of CPU builds can't be reached" in done.stderr


def test_nothing_is_installed_for_a_model_that_the_hub_can_not_give(tmp_path: Path) -> None:
    done, ran = environment(tmp_path, "sympy", "is silent", HUB_MODEL="me/blip")
    assert done.returncode == 1
    assert ran == ["-c import pip", "-m infra.local.hub me/blip"]
    command = ["make", "--dry-run", "model", "MODEL=me/blip"]
    recipe = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "HUB_MODEL='me/blip' make" in recipe
