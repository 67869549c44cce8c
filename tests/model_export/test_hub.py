"""`make model` fetches from the hub what it needs and no more, goes on where it stopped, and checks it."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.app import ROOT
from tests.support.models.checkpoints import needs_pytorch
from tests.support.models.hub import BASE, COMMIT, Hub, digest, serving

pytestmark = needs_pytorch
NAME = "Salesforce/blip-image-captioning-base"
SHARDS = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
WEIGHTS = bytes(range(256)) * 8192  # 2 MB; of BLIP's own weights, nothing is looked at here
NEEDED = {
    *("README.md", "config.json", "preprocessor_config.json", "pytorch_model.bin", "special_tokens_map.json"),
    *("tokenizer.json", "tokenizer_config.json", "vocab.txt"),
}
# The client reads its settings once, as it is imported: each fetch has a process of its own.
FETCH = """
import json, sys
import model_export, huggingface_hub  # as transformers does before
from model_export.conversion import hub
name, revision, sha256, refuse = json.loads(sys.argv[1])
if sha256:
    hub.KNOWN[name] = hub.Known(revision, {"pytorch_model.bin": sha256})
def accept(folder):
    assert not (folder / "pytorch_model.bin").exists() or not refuse
    if refuse:
        raise hub.ExportError(refuse)
try:
    print(hub.fetch(name, accept))
except hub.ExportError as refused:
    sys.exit(str(refused))
"""


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """The file list of BLIP-base, with other contents."""
    folder = tmp_path / "repository"
    folder.mkdir()
    for name in BASE:
        (folder / name).write_bytes(WEIGHTS if name.endswith((".bin", ".h5")) else b"{}")
    return folder


@pytest.fixture
def hub(repository: Path) -> Iterator[Hub]:
    with serving({NAME: repository, "some/blip": repository}) as served:
        yield served


def fetch(
    address: str,
    cache: Path,
    name: str = NAME,
    *,
    sha256: str | None = None,
    refuse: str = "",
    **environment: str,
) -> tuple[str, str]:
    """The folder of `hub.fetch`, or empty, and the last line of its errors."""
    own = {key: value for key, value in os.environ.items() if not key.lower().endswith(("_proxy", "_xet"))}
    done = subprocess.run(
        [sys.executable, "-c", FETCH, json.dumps([name, COMMIT, sha256, refuse])],
        cwd=ROOT,
        env=own | {"HF_ENDPOINT": address, "HF_HOME": str(cache)} | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    return (done.stdout.splitlines() or [""])[-1] if not done.returncode else "", (
        done.stderr.splitlines() or [""]
    )[-1]


def right(repository: Path) -> str:
    return digest(repository / "pytorch_model.bin", "sha256")


def test_of_a_repository_only_what_is_needed_is_fetched_at_the_known_revision_into_hf_home(
    hub: Hub, repository: Path, tmp_path: Path
) -> None:
    folder, message = fetch(hub.address, tmp_path / "hf", sha256=right(repository))
    assert {path.name for path in Path(folder).iterdir()} == NEEDED, message
    assert folder == f"{tmp_path}/hf/hub/models--Salesforce--blip-image-captioning-base/snapshots/{COMMIT}"
    assert (Path(folder) / "pytorch_model.bin").read_bytes() == WEIGHTS
    assert f"GET /api/models/{NAME}/revision/{COMMIT}" in hub.asked
    assert not [line for line in hub.asked if "tf_model.h5" in line or "/main" in line]


def test_a_download_that_broke_off_is_gone_on_with(hub: Hub, repository: Path, tmp_path: Path) -> None:
    block = 10 << 20  # the client writes whole ones
    whole = bytes(range(256)) * (24 << 12)
    (repository / "pytorch_model.bin").write_bytes(whole)
    hub.cuts["pytorch_model.bin"] = 1
    folder, message = fetch(hub.address, tmp_path, sha256=right(repository))
    assert not folder
    assert message.startswith(f"{NAME} could not be downloaded: ")
    assert message.endswith("The same command goes on where it stopped.")
    folder, _ = fetch(hub.address, tmp_path, sha256=right(repository))
    assert (Path(folder) / "pytorch_model.bin").read_bytes() == whole
    assert f"GET /cdn/{NAME}/pytorch_model.bin bytes={block}-" in hub.asked
    assert hub.sent == {"pytorch_model.bin": len(whole) // 2 + len(whole) - block}


def test_weights_that_are_not_those_that_we_know_are_refused_and_removed(hub: Hub, tmp_path: Path) -> None:
    folder, message = fetch(hub.address, tmp_path)  # which serves others than Salesforce's
    assert not folder
    assert message.startswith(f"{NAME}: pytorch_model.bin has the SHA-256 ")
    assert "not d6638651a5526cc2ede56f2b5104d6851b0755816d220e5e046870430180c767, and was removed" in message
    assert not list((tmp_path / "hub").rglob("pytorch_model.bin"))


def test_weights_that_are_not_what_the_hub_says_they_are_are_refused_and_fetched_anew(
    hub: Hub, tmp_path: Path
) -> None:
    hub.altered.add("pytorch_model.bin")
    folder, message = fetch(hub.address, tmp_path, "some/blip")
    assert not folder
    assert "and was removed: download it again" in message
    hub.altered.clear()
    folder, _ = fetch(hub.address, tmp_path, "some/blip")
    assert (Path(folder) / "pytorch_model.bin").read_bytes() == WEIGHTS


def test_a_revision_may_be_named(hub: Hub, tmp_path: Path) -> None:
    folder, _ = fetch(hub.address, tmp_path, f"some/blip@{COMMIT}")
    assert folder.endswith(f"/{COMMIT}")
    assert f"GET /api/models/some/blip/revision/{COMMIT}" in hub.asked


def test_what_speaks_against_a_model_is_said_before_its_weights_are_fetched(hub: Hub, tmp_path: Path) -> None:
    folder, message = fetch(hub.address, tmp_path, "some/blip", refuse="it is too large")
    assert (folder, message) == ("", "it is too large")
    assert not hub.sent


def test_a_small_file_that_is_large_is_refused_before_anything_is_fetched(
    hub: Hub, repository: Path, tmp_path: Path
) -> None:
    with (repository / "tokenizer.json").open("wb") as file:
        file.truncate(20_000_001)
    folder, message = fetch(hub.address, tmp_path)
    assert (folder, message) == ("", f"{NAME}: tokenizer.json has 20,000,001 bytes: that is no captioner's")
    assert not [line for line in hub.asked if "/resolve/" in line]


@pytest.mark.parametrize(
    ("name", "problem"),
    [("no/such", "401"), ("some/blip@none", "Revision Not Found"), ("some/empty", "has no config.json")],
)
def test_a_repository_that_is_not_there_or_is_no_model_is_one_line_with_a_remedy(
    hub: Hub, tmp_path: Path, name: str, problem: str
) -> None:
    hub.repositories["some/empty"] = tmp_path / "empty"
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "README.md").write_text("nothing")
    folder, message = fetch(hub.address, tmp_path, name)
    assert not folder
    assert message.startswith(name)
    assert problem in message


def test_without_a_network_what_was_fetched_before_is_taken(
    hub: Hub, repository: Path, tmp_path: Path
) -> None:
    nobody = "http://127.0.0.1:9"  # the discard port, where nothing listens
    folder, message = fetch(nobody, tmp_path, sha256=right(repository))
    assert not folder
    assert message.startswith(f"{NAME} could not be downloaded: ")
    assert "Is the name right and the network up?" in message
    there, _ = fetch(hub.address, tmp_path, sha256=right(repository))
    folder, message = fetch(nobody, tmp_path, sha256=right(repository))
    assert folder == there, message
    assert fetch(hub.address, tmp_path, sha256=right(repository), HF_HUB_OFFLINE="1")[0] == there


def test_a_proxy_is_asked(hub: Hub, tmp_path: Path) -> None:
    folder, message = fetch("https://hub.invalid", tmp_path, HTTPS_PROXY=hub.address)
    assert not folder
    assert "could not be downloaded" in message
    assert set(hub.asked) == {"CONNECT hub.invalid:443"}


@pytest.mark.parametrize(
    ("files", "taken"),
    [
        (["pytorch_model.bin", "tf_model.h5", "config.json"], ["pytorch_model.bin"]),
        (["pytorch_model.bin", "model.safetensors"], ["model.safetensors"]),
        (
            [*SHARDS, "pytorch_model.bin", "model.safetensors.index.json"],
            ["model.safetensors.index.json", *SHARDS],
        ),
        ([*SHARDS, "pytorch_model.bin"], ["pytorch_model.bin"]),
        (["tf_model.h5", "flax_model.msgpack"], []),
    ],
)
def test_safetensors_are_preferred_and_of_two_copies_one_is_taken(files: list[str], taken: list[str]) -> None:
    from model_export.conversion.hub import weights

    assert weights(files) == taken
