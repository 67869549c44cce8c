"""`make evaluate`: a model beside its fp32 original, picture by picture; what is not good enough fails."""

import hashlib
import json
import logging
import os
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from model_export.__main__ import main
from model_export.datasets import captioned
from model_export.evaluation.evaluate import Thresholds, bounds, figures, misses
from model_export.metrics import fidelity
from tests.support.app import ROOT
from tests.support.models.checkpoints import needs_pytorch, random_checkpoint

pytestmark = needs_pytorch
SHIPPED = ROOT / "functions" / "model"


def run(*arguments: str | Path) -> int:
    """The exit status of `python -m model_export` with these arguments."""
    with warnings.catch_warnings():
        status = main([str(argument) for argument in arguments])
    logging.disable(logging.NOTSET)
    return status


@pytest.fixture(scope="module")
def fp32(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The original of the model that ships."""
    folder = tmp_path_factory.mktemp("fp32") / "model"
    assert run("export", "--fp32", "--out", folder) == 0
    return folder


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a checkpoint of random weights, `checkpoint`, and the quantized `model` of it."""
    folder = tmp_path_factory.mktemp("tiny")
    random_checkpoint(folder / "checkpoint", 0)
    made = ("--checkpoint", folder / "checkpoint", "--check", "0")
    assert run("export", *made, "--out", folder / "model") == 0
    assert run("export", *made, "--out", folder / "fp32", "--fp32") == 0
    return folder


Evaluate = Callable[..., tuple[int, list[str], dict[str, Any]]]


@pytest.fixture
def evaluate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Evaluate:
    """Exit status, the lines of stderr, and the report, of the command that `make evaluate` runs."""
    report = tmp_path / "report" / "evaluate.json"

    def command(*options: str | Path) -> tuple[int, list[str], dict[str, Any]]:
        capsys.readouterr()
        status = run("evaluate", "--report", report, *options)
        written = json.loads(report.read_text()) if report.exists() else {}
        assert [path.name for path in report.parent.glob("*")] == [report.name] * bool(written)
        return status, capsys.readouterr().err.splitlines(), written

    return command


def test_the_model_that_ships_says_what_its_original_says(evaluate: Evaluate) -> None:
    status, lines, report = evaluate("--count", "12")  # the original is made on the spot
    assert (status, lines) == (0, [])
    assert (report["model"], report["data"], report["pictures"]) == ("dropcap-scenes", "held-out scenes", 12)
    assert report["fp32"]["weights"] == "fp32"
    assert report["weights"] == "encoder int8, decoder w4, blocks of 32"
    assert report["agreement"] == 1
    assert report["exact"] == {"number": 12, "fp32": 1, "quantized": 1}
    assert sum(found["number"] for group, found in report["groups"].items() if "things" in group) == 12
    assert report["bleu4"]["quantized"] == pytest.approx(100)
    assert report["cider"]["quantized"] == pytest.approx(1000)
    # It is quantized, so its logits are others, but not by much.
    assert report["logits"]["same_choice"] == 1
    assert 0.01 < report["logits"]["mean_error"] < 1
    assert 0 < report["logits"]["divergence"] < 0.01
    assert report["thresholds"] == {
        "at_least": 0.98,
        "agree": 0.995,
        "lose_at_most": 0.005,
        "lose_cider": None,
    }


def test_a_model_beside_itself_is_the_same_to_the_last_bit(evaluate: Evaluate, fp32: Path) -> None:
    status, _, report = evaluate("--model", fp32, "--against", fp32, "--count", "3", "--agree", "1")
    assert status == 0
    assert report["agreement"] == report["logits"]["same_choice"] == 1
    assert report["logits"]["mean_error"] == report["logits"]["max_error"] == 0
    assert report["logits"]["divergence"] == 0


def damaged(model: Path, target: Path) -> Path:
    """A copy of a model that loads, but a part of whose encoder's weights is zero."""
    shutil.copytree(model, target)
    weights = bytearray((target / "encoder.data").read_bytes())
    weights[: len(weights) // 4] = bytes(len(weights) // 4)
    (target / "encoder.data").write_bytes(weights)
    card = json.loads((target / "model.json").read_text())
    card["files"]["encoder.data"]["sha256"] = hashlib.sha256(weights).hexdigest()
    (target / "model.json").write_text(json.dumps(card))
    return target


def test_a_model_that_quantization_has_damaged_fails_and_each_reason_is_told(
    evaluate: Evaluate, fp32: Path, tmp_path: Path
) -> None:
    broken = damaged(SHIPPED, tmp_path / "broken")
    status, lines, report = evaluate("--model", broken, "--against", fp32, "--count", "4")
    assert status == 1
    assert lines == [
        "exactly right: 0.00%, less than --at-least 98.00%",
        "same captions as fp32: 0.00%, less than --agree 99.50%",
        "exactly right, lost: 100.00%, more than --lose-at-most 0.50%",
    ]
    assert report["failed"] == lines
    assert report["exact"] == {"number": 4, "fp32": 1, "quantized": 0}
    assert len(report["mistakes"]) == len(report["disagreements"]) == 4
    assert report["mistakes"][0]["picture"].startswith("scene 0, ")
    assert report["cider"]["quantized"] < report["cider"]["fp32"]
    assert report["logits"]["same_choice"] < 1
    assert report["logits"]["divergence"] > 0.1
    # The thresholds are settings.
    lenient = ("--at-least", "0", "--agree", "0", "--lose-at-most", "1")
    assert evaluate("--model", broken, "--against", fp32, "--count", "4", *lenient)[:2] == (0, [])


def result(fp32: float = 1.0, quantized: float = 1.0, agreement: float = 1.0) -> dict[str, Any]:
    """Figures of a report; CIDEr is 100 times the exact accuracy."""
    exact = {"fp32": fp32, "quantized": quantized}
    return {"exact": exact, "agreement": agreement, "cider": {k: 100 * v for k, v in exact.items()}}


@pytest.mark.parametrize(
    ("found", "bound", "line"),
    [
        (result(quantized=0.979), Thresholds(0.98, None, None), "right: 97.90%, less than --at-least 98.00%"),
        (result(agreement=0.994), Thresholds(None, 0.995, None), "fp32: 99.40%, less than --agree 99.50%"),
        (
            result(0.998, 0.992),
            Thresholds(None, None, 0.005),
            "lost: 0.60%, more than --lose-at-most 0.50%",
        ),
        (
            result(0.998, 0.970),
            Thresholds(None, None, None, 2.0),
            "CIDEr, lost: 2.80, more than --lose-cider 2.00",
        ),
    ],
)
def test_a_miss_is_told_with_figure_and_threshold(
    found: dict[str, Any], bound: Thresholds, line: str
) -> None:
    [line_missed] = misses(found, bound)
    assert line_missed.endswith(line)


@pytest.mark.parametrize(
    ("found", "bound"),
    [
        (result(quantized=0.98), Thresholds(0.98, None, None)),
        (result(agreement=0.995), Thresholds(None, 0.995, None)),
        (result(0.998, 0.993), Thresholds(None, None, 0.005)),  # 0.998 - 0.993 > 0.005 in floating point
        (result(0.99, 0.97), Thresholds(None, None, None, 2.0)),
        (result(0.5, 0.9), Thresholds(None, None, 0, 0)),
    ],
)
def test_what_just_reaches_a_threshold_is_good_enough(found: dict[str, Any], bound: Thresholds) -> None:
    assert misses(found, bound) == []


def test_a_model_that_knows_no_scenes_is_held_to_nothing_on_them_and_to_cider_on_photographs() -> None:
    assert bounds(knows=False, coco=False) == Thresholds(None, None, None, None)
    assert bounds(knows=False, coco=True) == Thresholds(None, None, None, 1.0)


def test_drift_is_measured_over_the_likeliest_tokens() -> None:
    first = np.full((1, 30), -20, np.float32)
    first[0, :10] = np.arange(10)
    second = first.copy()
    second[0, 3] += 2
    second[0, 9] -= 3
    second[0, 20] += 5  # a token that is never said
    drift = fidelity.drift(first, second)
    assert drift.mean == pytest.approx([(2 + 3) / 10])
    assert drift.largest == pytest.approx([5])
    assert not drift.same[0]  # 8 is ahead of 9 - 3
    p, q = (np.exp(x[0].astype(float)) / np.exp(x[0].astype(float)).sum() for x in (first, second))
    assert drift.divergence == pytest.approx([(p * np.log(p / q)).sum()])


@pytest.mark.parametrize("beams", [1, 3])
def test_logits_are_those_that_led_to_the_caption(beams: int) -> None:
    probe = fidelity.Probe(SHIPPED)
    sample, data = captioned.upload(0)
    with captioned.shown(sample, data) as image:
        assert probe.caption(image, beams=beams).text == sample.references[0]
    logits = probe.logits(probe.ids)
    assert logits.shape == (len(probe.ids) - 1, 30524)
    assert logits.argmax(-1).tolist() == probe.ids[1:]


def test_a_caption_counts_in_each_group_of_its_picture() -> None:
    drift = fidelity.drift(np.eye(1, 12, dtype=np.float32), np.eye(1, 12, dtype=np.float32))

    def pair(is_: str, first: str, second: str, *groups: str) -> fidelity.Pair:
        sample = captioned.Sample("one", (is_,), ("all", *groups))
        return fidelity.Pair(sample, first, second, first == second, drift)

    pairs = [pair("a", "a", "a", "small"), pair("b", "b", "x", "large"), pair("c", "y", "y", "small")]
    found = figures(pairs, exact=True)
    assert found["agreement"] == 2 / 3
    assert found["groups"] == {
        "all": {"number": 3, "fp32": 2 / 3, "quantized": 1 / 3},
        "large": {"number": 1, "fp32": 1, "quantized": 0},
        "small": {"number": 2, "fp32": 1 / 2, "quantized": 1 / 2},
    }
    assert found["disagreements"] == [{"picture": "one", "fp32": "b", "quantized": "x"}]
    assert [wrong["said"] for wrong in found["mistakes"]] == ["x", "y"]


def test_the_original_is_that_of_the_models_card(evaluate: Evaluate, tiny: Path) -> None:
    status, _, report = evaluate("--model", tiny / "model", "--count", "2")
    assert status == 0  # it knows no scenes: what it says of them is told, and judged by nothing
    assert report["model"] == "checkpoint"
    assert (report["exact"], report["groups"], report["mistakes"]) == (None, {}, [])
    assert set(report["thresholds"].values()) == {None}


def test_the_same_checkpoint_may_be_called_by_another_path(
    evaluate: Evaluate, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tiny.parent)
    path = os.path.join(".", tiny.name, "checkpoint")
    assert evaluate("--model", tiny / "model", "--checkpoint", path, "--count", "1")[:2] == (0, [])


def test_a_lower_resolution_is_compared_with_the_full_one(
    evaluate: Evaluate, tiny: Path, tmp_path: Path
) -> None:
    lower = ("--checkpoint", tiny / "checkpoint", "--resolution", "32", "--check", "0")
    assert run("export", *lower, "--out", tmp_path / "lower") == 0
    status, _, report = evaluate("--model", tmp_path / "lower", "--against", tiny / "fp32", "--count", "1")
    assert status == 0
    assert (report["side"], report["fp32"]["side"]) == (32, 48)


def test_a_table_compares_merging_with_a_lower_resolution(evaluate: Evaluate, tiny: Path) -> None:
    compared = ("--merge", "1", "3", "--resolution", "32", "--count", "2")
    status, _, report = evaluate("--model", tiny / "model", *compared)
    assert status == 0
    assert {name: (found["side"], found["merge"]) for name, found in report["exports"].items()} == {
        "MERGE=1": (48, 1),
        "MERGE=3": (48, 3),
        "RESOLUTION=32": (32, 0),
    }


def test_models_of_different_weights_are_not_compared(evaluate: Evaluate, tiny: Path) -> None:
    status, [lines], report = evaluate("--checkpoint", tiny / "checkpoint", "--count", "1")
    assert (status, report) == (2, {})
    assert lines.startswith(f"{SHIPPED} was made from dropcap-scenes (python -m model_export train --steps ")
    assert f", not from checkpoint ({tiny / 'checkpoint'}): compare it with" in lines


def test_an_original_is_fp32(evaluate: Evaluate, tiny: Path) -> None:
    status, [lines], _ = evaluate("--model", tiny / "model", "--against", tiny / "model", "--count", "1")
    assert status == 2
    assert lines.endswith("make an original by export --fp32 --out FOLDER")


def test_a_model_folder_that_is_none_is_one_line(evaluate: Evaluate, tmp_path: Path, tiny: Path) -> None:
    for option in (
        ("--model", tmp_path / "none"),
        ("--model", tiny / "model", "--against", tmp_path / "none"),
    ):
        status, [lines], _ = evaluate(*option, "--count", "1")
        assert status == 2
        assert lines.startswith(f"{tmp_path / 'none' / 'model.json'} is missing")


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    """A folder with captions.json in COCO's format, and the pictures that it names in `pictures`."""
    (tmp_path / "pictures").mkdir()
    images, annotations = [], []
    for index in range(3):
        sample, data = captioned.upload(index)
        (tmp_path / "pictures" / f"{index}.jpg").write_bytes(data)
        images.append({"id": 10 + index, "file_name": f"{index}.jpg", "license": 4})
        if index != 1:  # that one has no captions
            captions = [sample.references[0].capitalize() + ".", "Emoji in a row"]
            annotations += [{"id": 0, "image_id": 10 + index, "caption": caption} for caption in captions]
    write(tmp_path, images=images, annotations=annotations[::-1])
    return tmp_path


def write(folder: Path, **content: Any) -> None:
    (folder / "captions.json").write_text(json.dumps({"info": {}} | content))


def options(folder: Path) -> tuple[str | Path, ...]:
    return "--coco", folder / "captions.json", "--pictures", folder / "pictures"


def test_captions_are_judged_by_a_users_coco_data(evaluate: Evaluate, coco: Path, fp32: Path) -> None:
    status, lines, report = evaluate("--against", fp32, *options(coco))
    assert (status, lines) == (0, [])
    assert (report["data"], report["pictures"]) == ("captions.json", 2)
    assert (report["agreement"], report["exact"]) == (1, None)
    assert report["bleu4"]["quantized"] == pytest.approx(100)
    # The caption is one of two references, and has nothing in common with the other: half of 1,000.
    assert report["cider"]["quantized"] == pytest.approx(500, abs=1)
    assert report["thresholds"]["lose_cider"] == 1
    assert evaluate("--against", fp32, *options(coco), "--count", "1")[2]["pictures"] == 1


def test_a_loss_of_cider_fails(evaluate: Evaluate, coco: Path, fp32: Path, tmp_path: Path) -> None:
    broken = damaged(SHIPPED, tmp_path / "broken")
    status, [lines], _ = evaluate("--model", broken, "--against", fp32, *options(coco))
    assert status == 1
    assert lines.startswith("CIDEr, lost: ")
    assert lines.endswith(", more than --lose-cider 1.00")


def test_a_table_compares_what_can_be_had_of_one_checkpoint(
    evaluate: Evaluate, coco: Path, tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = ("--model", tiny / "model", *options(coco), "--lose-cider", "0.5")
    status, lines, report = evaluate(*made, "--bits", "8,4")
    assert (report["data"], report["fp32"]["weights"]) == ("captions.json", "fp32")
    assert [report["exports"][f"DECODER_BITS={bits}"]["weights"] for bits in ("8", "4")] == [
        "encoder int8, decoder 8 bits in blocks of 128",
        "encoder int8, decoder 4 bits in blocks of 32",
    ]
    four, eight = report["exports"]["DECODER_BITS=4"], report["exports"]["DECODER_BITS=8"]
    assert four["pictures"] == eight["pictures"] == 2
    assert four["cider"]["fp32"] == eight["cider"]["fp32"]
    assert four["logits"]["divergence"] > eight["logits"]["divergence"] > 0
    # Each is judged, and is told by its name.
    lost = [name for name, found in report["exports"].items() if found["failed"]]
    assert [line.split(": ")[0] for line in lines] == lost
    assert status == bool(lost)
    # One alone, made in the same way and beside the same original, has the same figures.
    _, _, alone = evaluate(*made, "--model", tiny / "model", "--against", tiny / "fp32")
    assert {key: alone[key] for key in ("cider", "bleu4", "agreement", "logits")} == {
        key: eight[key] for key in ("cider", "bleu4", "agreement", "logits")
    }


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (("--bits", "5"), "--bits 5 is none of 8, mixed, 4 and all"),
        (("--bits", "all", "--against", "x"), "--bits, --merge and --resolution make their own original"),
    ],
)
def test_bits_that_cannot_be_compared_are_one_line(
    evaluate: Evaluate, options: tuple[str, ...], line: str
) -> None:
    status, [lines], _ = evaluate(*options)
    assert (status, lines.startswith(line)) == (2, True)


def break_json(folder: Path) -> None:
    (folder / "captions.json").write_text('{"images": [')


def break_picture(folder: Path) -> None:
    (folder / "pictures" / "0.jpg").write_bytes((folder / "pictures" / "2.jpg").read_bytes()[:2000])


@pytest.mark.parametrize(
    ("damage", "line"),
    [
        (lambda folder: (folder / "captions.json").unlink(), "No such file or directory"),
        (break_json, "captions.json is no file of captions in COCO's format"),
        (lambda folder: write(folder, images=[]), "(KeyError('annotations')): take captions_*.json"),
        (lambda folder: write(folder, images=[], annotations=[]), "has no caption of any of its pictures"),
        (lambda folder: write(folder, images=[], annotations=[{"id": 1}]), "take captions_*.json, unpacked"),
        (lambda folder: (folder / "captions.json").write_text("[]"), "take captions_*.json, unpacked"),
        (lambda folder: shutil.rmtree(folder / "pictures"), "0.jpg is missing, the first of 2: is "),
        (lambda folder: (folder / "pictures" / "2.jpg").unlink(), "2.jpg is missing, the first of 1: is "),
        (break_picture, "0.jpg: The JPEG picture is damaged or incomplete. Download it again."),
    ],
)
def test_coco_data_that_cannot_be_used_is_one_line_with_a_remedy(
    evaluate: Evaluate, coco: Path, tiny: Path, damage: Callable[[Path], object], line: str
) -> None:
    damage(coco)
    status, [lines], report = evaluate("--model", tiny / "model", "--against", tiny / "fp32", *options(coco))
    assert (status, report) == (2, {})
    assert line in lines


def test_coco_data_is_captions_and_pictures(evaluate: Evaluate, coco: Path) -> None:
    for half in (options(coco)[:2], options(coco)[2:]):
        assert evaluate(*half)[:2] == (
            2,
            ["--coco captions.json and --pictures FOLDER go together: give both, or none"],
        )


def test_there_must_be_a_picture(evaluate: Evaluate) -> None:
    assert evaluate("--count", "0")[:2] == (2, ["--count 0: there must be one picture at least"])


def test_a_held_out_scene_is_an_upload() -> None:
    sample, data = captioned.upload(0)
    with captioned.shown(sample, data) as image:
        assert isinstance(image, Image.Image)
        assert max(image.size) == 400
