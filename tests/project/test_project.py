"""The files that every project has: licence, notices, version and changelog."""

import hashlib
import re
import subprocess
import tomllib

import pytest
import yaml

from tests.support.app import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CHANGELOG = (ROOT / "CHANGELOG.md").read_text()
NOTICE = (ROOT / "NOTICE").read_text()
# SHA-256 of https://www.apache.org/licenses/LICENSE-2.0.txt
APACHE_2 = "cfc7749b96f63bd31c3c42b5c471bf756814053e847c10f3eb003417bc523d30"
THIRD_PARTY = (".data", ".gif", ".heic", ".jpg", ".onnx", ".png", ".safetensors", ".txt", ".webp", ".whl")
OWN = ("requirements.txt", "infra/pip.txt", "model_export/conversion/LICENSE.scenes.txt")


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


def test_the_version_has_one_value_and_make_help_prints_it() -> None:
    version = PROJECT["version"]
    assert re.fullmatch(r"0\.\d+\.\d+", version)
    made = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True)  # noqa: S607
    assert made.stdout.startswith(f"Dropcap {version}\n")
    api = yaml.safe_load((ROOT / "docs" / "reference" / "openapi.yaml").read_text())
    assert api["info"]["version"] == version


def test_the_changelog_has_the_version() -> None:
    released = re.findall(r"^## (\d\S*) - \d{4}-\d\d-\d\d$", CHANGELOG, re.MULTILINE)
    assert released[0] == PROJECT["version"]
    assert "## [Unreleased]" in CHANGELOG


def test_no_folder_of_documentation_has_more_than_fifteen_files() -> None:
    folders = [name.rpartition("/")[0] for name in tracked() if name.startswith("docs/")]
    assert max(folders.count(folder) for folder in folders) <= 15


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "CHANGELOG.md"])
def test_every_link_and_make_target_of_the_page_exists(page: str) -> None:
    text = (ROOT / page).read_text()
    for link in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (ROOT / link).exists(), link
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"(?:`|^)make ([a-z-]+)", text, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def made(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["make", *words], cwd=ROOT, capture_output=True, text=True, check=True)  # noqa: S607


def test_help_lists_every_target_once_by_group_in_80_columns() -> None:
    printed = made("help").stdout
    assert all(len(line) <= 80 for line in printed.splitlines())
    assert re.findall(r"^(\w+):$", printed, re.MULTILINE) == ["use", "deploy", "develop"]
    listed = re.findall(r"^  make ([a-z-]+)  *\S", printed, re.MULTILINE)
    described = re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert sorted([*listed, "help"]) == sorted(described)


def test_every_module_that_make_starts_exists() -> None:
    modules = set(re.findall(r"-m ((?:infra|tests|model_export)[\w.]*)", (ROOT / "Makefile").read_text()))
    assert len(modules) > 10
    for module in modules:
        path = ROOT / module.replace(".", "/")
        assert path.with_suffix(".py").exists() or (path / "__main__.py").exists(), module


def test_make_torture_warns_and_gives_its_options_to_make_chaos() -> None:
    printed = made("--dry-run", "torture", "DEV=python", "TORTURE=--seed 7 --kills 50").stdout
    assert "echo \"make: torture is deprecated, use make chaos CHAOS='--seed 7 --kills 50'\" >&2" in printed
    assert printed.endswith("\npython -m tests.chaos --seed 7 --kills 50\n")


def test_make_sweep_warns_and_makes_reconcile() -> None:
    printed = made("--dry-run", "sweep", "RUN=python", "STATE=elsewhere").stdout
    assert 'echo "make: sweep is deprecated, use make reconcile" >&2' in printed
    assert printed.endswith("\npython -m infra.local.reconcile --state elsewhere\n")


def test_the_architecture_page_lists_the_layers_of_the_import_contract_in_their_order() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    [layers] = [contract["layers"] for contract in contracts if contract["type"] == "layers"]
    page = (ROOT / "docs" / "architecture.md").read_text().partition("## Layers")[2].partition("\n## ")[0]
    rows = page.partition("|---|---|")[2]
    at = {package: rows.find(f"`{package}`") for layer in layers for package in layer.split(" | ")}
    assert min(at.values()) > 0
    highest = [min(at[package] for package in layer.split(" | ")) for layer in layers]
    assert highest == sorted(highest)


def test_no_parameter_of_a_test_hides_a_fixture_that_every_test_has(request: pytest.FixtureRequest) -> None:
    automatic = {"environment_restored", "postgres_seed"}
    assert automatic <= {*request.fixturenames}
    for item in request.session.items:
        callspec = getattr(item, "callspec", None)
        assert not callspec or not automatic & {*callspec.params}, item.nodeid
