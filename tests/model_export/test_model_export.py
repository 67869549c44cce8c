"""`make model`: another BLIP takes the place of the one that is there, or nothing changes and it says why."""

import json
import logging
import os
import re
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from PIL import Image

from dropcap.captioning import blip
from model_export.__main__ import main
from model_export.conversion.licence import SCENES, of
from tests.support.app import ROOT
from tests.support.models.checkpoints import as_on_the_hub, needs_pytorch, random_checkpoint
from tests.support.models.hub import COMMIT, serving

pytestmark = needs_pytorch


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_checkpoint(tmp_path_factory.mktemp("checkpoint") / "tiny", 0)


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """What lies in the model folder before."""
    return laid(tmp_path / "out" / "model")


def laid(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "model.json").write_text("the old one")
    return folder


Export = Callable[..., tuple[int, str]]


@pytest.fixture
def export(capsys: pytest.CaptureFixture[str]) -> Iterator[Export]:
    """Exit status and last line of the command that `make model` runs."""

    def run(out: Path, checkpoint: str, *options: str) -> tuple[int, str]:
        status = main(["export", "--out", str(out), "--check", "0", "--checkpoint", checkpoint, *options])
        message = capsys.readouterr()
        return status, (message.err if status else message.out).splitlines()[-1]

    with warnings.catch_warnings():
        yield run
    logging.disable(logging.NOTSET)


def unchanged(old: Path) -> bool:
    """The old model is there, and nothing that was begun beside it."""
    return (old / "model.json").read_text() == "the old one" and list(old.parent.iterdir()) == [old]


def test_a_checkpoint_takes_the_place_of_the_model_with_a_card_that_tells_all(
    export: Export, checkpoint: Path, old: Path
) -> None:
    assert export(old, str(checkpoint))[0] == 0
    card = json.loads((old / "model.json").read_text())
    assert card["name"] == "tiny"
    assert card["source"] == str(checkpoint)
    assert card["weights"] == "encoder int8, decoder 8 bits in blocks of 128"
    assert set(card["files"]) == {path.name for path in old.iterdir()} - {"model.json"}
    assert card["bytes"] == sum(file["bytes"] for file in card["files"].values())
    assert blip.Captioner(old).caption(Image.new("RGB", (60, 40), "red")).model == "tiny"


def test_no_repeat_ngram_size_is_that_of_the_checkpoint(
    export: Export, checkpoint: Path, old: Path, tmp_path: Path
) -> None:
    other = Path(shutil.copytree(checkpoint, tmp_path / "other"))
    config = json.loads((other / "config.json").read_text())
    config["text_config"]["no_repeat_ngram_size"] = 3
    (other / "config.json").write_text(json.dumps(config))
    assert export(old, str(other))[0] == 0
    assert blip.Card.read(old).no_repeat_ngram_size == 3


def test_a_model_of_the_hub_is_exported_from_its_pickle_and_its_licence_travels_with_it(
    checkpoint: Path, old: Path, tmp_path: Path
) -> None:
    repository = as_on_the_hub(checkpoint, tmp_path / "repository")
    with serving({"Salesforce/blip-tiny": repository}) as hub:
        command = [sys.executable, "-m", "model_export", "export", "--out", str(old), "--check", "0"]
        done = subprocess.run(  # in a process of its own, as the hub's client reads its settings once
            [*command, "--checkpoint", "Salesforce/blip-tiny"],
            cwd=ROOT,
            env={key: value for key, value in os.environ.items() if key != "HF_HUB_DISABLE_XET"}
            | {"HF_ENDPOINT": hub.address, "HF_HOME": str(tmp_path / "hf")},
            capture_output=True,
            text=True,
            check=True,
        )
    assert re.search(r"^peak memory [\d,]+ MB, \d+ s$", done.stdout, re.MULTILINE)
    card = json.loads((old / "model.json").read_text())
    assert (card["name"], card["source"]) == ("blip-tiny", "Salesforce/blip-tiny")
    assert card["source_revision"] == COMMIT
    assert card["licence"] == "BSD-3-Clause"
    assert "LICENSE" in card["files"]
    assert (old / "LICENSE").read_text().startswith("Copyright (c) 2021, Salesforce.com, Inc.\n")
    # The same weights in safetensors are the same model.
    assert (
        main(["export", "--out", str(tmp_path / "twin"), "--check", "0", "--checkpoint", str(checkpoint)])
        == 0
    )
    assert json.loads((tmp_path / "twin" / "model.json").read_text())["revision"] == card["revision"]


def test_a_pickle_that_would_run_code_is_refused_and_not_run(
    export: Export, checkpoint: Path, old: Path, tmp_path: Path
) -> None:
    import torch

    repository = Path(
        shutil.copytree(checkpoint, tmp_path / "evil", ignore=shutil.ignore_patterns("*.safetensors"))
    )
    torch.save({"weight": Touches(tmp_path / "ran")}, repository / "pytorch_model.bin")
    status, message = export(old, str(repository))
    assert status == 2
    assert message == (
        f"{repository} has a pickle with more than tensors in it, which could run code, and was not loaded:"
        " take safetensors"
    )
    assert not (tmp_path / "ran").exists()
    assert unchanged(old)


class Touches:
    """Makes a file where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return os.system, (f"touch '{self.path}'",)


def test_weights_that_train_makes_have_the_licence_of_the_repository(
    checkpoint: Path, tmp_path: Path
) -> None:
    from model_export.conversion.checkpoint import load

    trained = Path(shutil.copytree(checkpoint, tmp_path / "trained"))
    assert load(str(trained), tmp_path).about["licence"] == "NOASSERTION"
    (trained / "recipe.json").write_text(json.dumps({"name": "dropcap-scenes"}))
    loaded = load(str(trained), tmp_path)
    assert loaded.about["licence"] == "Apache-2.0"
    assert loaded.licence == SCENES.read_text()
    assert "https://www.apache.org/licenses/LICENSE-2.0" in loaded.licence


@pytest.mark.parametrize(
    ("readme", "file", "licence", "text"),
    [
        ("---\nlicense: apache-2.0\n---\n", "", "Apache-2.0", "is Apache-2.0. It has no LICENSE file."),
        ("---\nlicense: mit\n---\n", "Copyright A. Nobody", "MIT", "Copyright A. Nobody"),
        ("---\nlicense: other\nlicense_name: odd\n---\n", "", "odd", "is odd."),
        ("---\ntags: [a]\n---\nlicense: mit\n", "", "NOASSERTION", "is NOASSERTION."),
        ("---\nlicense: <script>\n---\n", "", "NOASSERTION", "is NOASSERTION."),
        ("", "", "NOASSERTION", "is NOASSERTION."),
    ],
)
def test_the_licence_is_that_which_the_checkpoint_names(
    tmp_path: Path, readme: str, file: str, licence: str, text: str
) -> None:
    (tmp_path / "README.md").write_text(readme)
    if file:
        (tmp_path / "LICENSE.txt").write_text(file)
    found = of(tmp_path, "some/blip")
    assert found.id == licence
    assert text in found.text


def test_a_checkpoint_of_another_architecture_is_refused(
    export: Export, checkpoint: Path, old: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    config = json.loads((checkpoint / "config.json").read_text()) | {
        "architectures": ["BlipForQuestionAnswering"]
    }
    (other / "config.json").write_text(json.dumps(config))
    status, message = export(old, str(other))
    assert status == 2
    assert message.endswith(
        "is a BlipForQuestionAnswering, not a BlipForConditionalGeneration: take a BLIP captioner"
    )
    assert unchanged(old)


def test_a_checkpoint_that_lacks_weights_is_refused(
    export: Export, checkpoint: Path, old: Path, tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file

    lacking = Path(shutil.copytree(checkpoint, tmp_path / "lacking"))
    weights = load_file(lacking / "model.safetensors")
    del weights["vision_model.encoder.layers.1.mlp.fc1.weight"]
    save_file(weights, lacking / "model.safetensors", metadata={"format": "pt"})
    status, message = export(old, str(lacking))
    assert status == 2
    assert "lacks 1 weights, vision_model.encoder.layers.1.mlp.fc1.weight first: download it again" in message
    assert unchanged(old)


def test_a_checkpoint_that_was_cut_is_refused(
    export: Export, checkpoint: Path, old: Path, tmp_path: Path
) -> None:
    cut = Path(shutil.copytree(checkpoint, tmp_path / "cut"))
    whole = (cut / "model.safetensors").read_bytes()
    (cut / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    status, message = export(old, str(cut))
    assert status == 2
    assert "is no BLIP captioner that can be loaded here" in message
    assert unchanged(old)


def test_a_lower_resolution_makes_a_model_that_looks_at_fewer_pixels(
    export: Export, checkpoint: Path, old: Path
) -> None:
    assert export(old, str(checkpoint), "--resolution", "32")[0] == 0
    card = json.loads((old / "model.json").read_text())
    assert (card["image"]["size"], card["trained_at"]) == (32, 48)
    blip.Captioner(old).caption(Image.new("RGB", (60, 40), "red"))


@pytest.mark.parametrize("side", ["40", "64", "8"])
def test_a_resolution_that_the_model_cannot_have_is_an_error(
    export: Export, checkpoint: Path, old: Path, side: str
) -> None:
    status, message = export(old, str(checkpoint), "--resolution", side)
    assert status == 2
    assert message == f"RESOLUTION={side} must be a multiple of 16 up to 48"
    assert unchanged(old)


@contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[None]:
    """A real file system of this size at `folder`; skips where this machine allows none."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "none", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("this machine lets us mount no file system")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)  # noqa: S607  wherever it lies


def test_a_disk_without_room_is_told_before_anything_is_written(
    export: Export, checkpoint: Path, tmp_path: Path
) -> None:
    with small_disk(tmp_path / "disk", 5):
        old = tmp_path / "disk" / "model"
        old.mkdir()
        (old / "model.json").write_text("the old one")
        status, message = export(old, str(checkpoint))
        assert status == 2
        assert f"the disk of {old.parent} has 0.0 GB free" in message
        assert unchanged(old)


def test_a_disk_that_fills_up_on_the_way_leaves_the_old_model(
    export: Export, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As if another program took the room after it was checked.
    monkeypatch.setattr("model_export.conversion.export.DISK_BYTES", 0)
    with small_disk(tmp_path / "disk", 10):
        old = tmp_path / "disk" / "model"
        old.mkdir()
        (old / "model.json").write_text("the old one")
        status, message = export(old, str(checkpoint))
        assert status == 2
        assert message == f"the disk of {old.parent} is full: make room. {old} is left as it was"
        assert unchanged(old)


def test_a_model_that_is_not_good_enough_leaves_the_old_one(
    export: Export, checkpoint: Path, old: Path
) -> None:
    status, message = export(old, str(checkpoint), "--check", "2", "--agree", "1.1")
    assert status == 2
    assert "of 2 pictures, less than 110.0%" in message
    assert unchanged(old)


@pytest.mark.parametrize(("agreement", "knows", "status"), [(0.97, True, 2), (0.98, True, 0), (0, False, 0)])
def test_only_a_model_that_knows_the_scenes_must_say_of_them_what_fp32_says(
    export: Export,
    checkpoint: Path,
    old: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    agreement: float,
    knows: bool,
    status: int,
) -> None:
    if knows:  # as a checkpoint that `python -m model_export train` made
        checkpoint = Path(shutil.copytree(checkpoint, tmp_path / "trained"))
        (checkpoint / "recipe.json").write_text(
            '{"name": "trained", "source": "a command", "knows": {"things": ["dog"]}}'
        )
    monkeypatch.setattr("model_export.metrics.fidelity.agreement", lambda pairs: agreement)
    monkeypatch.setattr("model_export.metrics.confidence.FITTED", 4)
    monkeypatch.setattr("model_export.metrics.confidence.TUNED", 2)
    assert export(old, str(checkpoint), "--check", "2")[0] == status
    if status:
        assert unchanged(old)
    else:
        card = json.loads((old / "model.json").read_text())
        assert card["quality"] == {"held_out_scenes": 2, "agrees_with_fp32": agreement} | (
            {"exact": 0} if knows else {}
        )
        assert bool(blip.Captioner(old).card.confidence) == knows  # a threshold of what it knows


def test_what_models_need_is_reckoned_as_it_was_measured() -> None:
    from transformers import BlipConfig

    from model_export.conversion.checkpoint import memory_mb

    large = {
        "hidden_size": 1024,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "intermediate_size": 4096,
    }
    text = {"num_attention_heads": 12}
    base = BlipConfig(text_config=text)
    of_large = BlipConfig(vision_config=large, text_config=text | {"encoder_hidden_size": 1024})
    assert memory_mb(base) == pytest.approx(376, rel=0.03)
    assert memory_mb(base, "4") == pytest.approx(360, rel=0.03)
    assert memory_mb(of_large, "4") == pytest.approx(367, rel=0.03)


def test_a_model_that_the_instance_has_no_memory_for_is_refused_before_the_work(
    export: Export, checkpoint: Path, old: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEMORY_LIMIT_MB", "200")
    status, message = export(old, str(checkpoint))
    assert status == 2
    assert re.fullmatch(
        rf"{checkpoint} would take about 2\d\d MB, and an instance has 200 MiB: take a smaller model, or set"
        r" MEMORY_LIMIT_MB, here as for make deploy",
        message,
    )
    assert unchanged(old)


def test_a_missing_checkpoint_is_one_line_with_a_remedy(export: Export, old: Path) -> None:
    status, message = export(old, str(old / "none"))
    assert status == 2
    assert message.endswith("none: name a repository of the hub, or a checkpoint's folder")
    assert unchanged(old)
