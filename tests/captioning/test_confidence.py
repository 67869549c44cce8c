"""Captions of known scenes are confident, others are not; `model_export confidence` measures this."""

import hashlib
import json
import logging
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dropcap.captioning import blip, novelty
from dropcap.captioning.generation import Generated
from dropcap.settings import MODEL_FOLDER
from model_export.__main__ import main
from model_export.datasets import captioned
from model_export.metrics import confidence
from tests.support.app import ROOT

PHOTOGRAPHS = ROOT / "tests" / "photographs"
SAMPLES = ROOT / "infra" / "samples"
UNSEEN = 100_000  # scenes from here on took no part in the threshold


@pytest.fixture(scope="module")
def shipped() -> blip.Captioner:
    return blip.Captioner(MODEL_FOLDER)


def views(path: Path) -> list[Image.Image]:
    """Return a photograph and its left, middle and right crops."""
    with Image.open(path) as picture:
        side = min(picture.size)
        crops = [(0, 0, side, side), (picture.width - side // 2, 0, picture.width, side // 2)]
        middle = [(side // 4, side // 4, 3 * side // 4, 3 * side // 4)]
        return [picture.copy(), *(picture.crop(box) for box in (*crops, *middle))]


# What the shipped model promises


def test_photographs_are_rejected(shipped: blip.Captioner) -> None:
    pictures = [view for path in sorted(PHOTOGRAPHS.glob("*.jpg")) for view in views(path)]
    assert len(pictures) == 40
    low = [shipped.caption(picture).low_confidence for picture in pictures]
    assert sum(low) >= confidence.AT_LEAST_REJECTED * len(low)


def test_scenes_are_not_rejected(shipped: blip.Captioner) -> None:
    scenes = [captioned.product_copy(captioned.various(UNSEEN + i)[1]) for i in range(30)]
    assert sum(shipped.caption(scene).low_confidence for scene in scenes) <= 1


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("prompt", ["", confidence.PROMPT])
def test_the_threshold_holds_for_prompts_and_beams(shipped: blip.Captioner, prompt: str, beams: int) -> None:
    for path in SAMPLES.glob("*.[jpw]*g*"):
        sample = captioned.product_copy(path.read_bytes())
        assert not shipped.caption(sample, prompt=prompt, beams=beams).low_confidence, path.name
    for path in PHOTOGRAPHS.glob("[ac]*.jpg"):
        with Image.open(path) as photograph:
            assert shipped.caption(photograph, prompt=prompt, beams=beams).low_confidence, path.name


# What it is


def test_confidence_is_mean_log_probability_minus_weighted_distance(folder: Path) -> None:
    captioner = blip.Captioner(folder)
    measured = captioner.card.confidence
    assert measured
    with Image.open(PHOTOGRAPHS / "coffee.jpg") as picture:
        cross = captioner.encode(picture)
        generated = captioner.generate(cross, [captioner.card.bos], 1, 30).truncate_loop()
        table = novelty.Distance.read(folder / measured.file, 192)
        assert captioner.caption(picture).confidence == pytest.approx(
            generated.mean - measured.weight * table(cross)
        )


def test_without_a_threshold_no_caption_is_rejected(folder: Path) -> None:
    change(folder, confidence=None)
    captioner = blip.Captioner(folder)
    with Image.open(PHOTOGRAPHS / "coffee.jpg") as picture:
        generated = captioner.generate(captioner.encode(picture), [captioner.card.bos], 1, 30).truncate_loop()
        caption = captioner.caption(picture)
    assert caption.confidence == pytest.approx(generated.mean)
    assert not caption.low_confidence


@pytest.mark.parametrize(("threshold", "low"), [(-50, False), (0, True)])
def test_a_threshold_without_distance_applies_to_the_log_probability(
    folder: Path, threshold: float, low: bool
) -> None:
    change(folder, confidence={"threshold": threshold})
    with Image.open(PHOTOGRAPHS / "rocket.jpg") as picture:
        assert blip.Captioner(folder).caption(picture).low_confidence == low


@pytest.mark.parametrize(
    ("generated", "shown"),
    [
        ("a shoe on a train on a train on a train on a", "a shoe on a train"),
        ("a train on a train on a train on a train", "a train"),
        ("a man and a dog and a dog and a dog", "a man and a dog"),
    ],
)
def test_a_looping_caption_is_truncated_and_has_low_confidence(
    shipped: blip.Captioner, monkeypatch: pytest.MonkeyPatch, generated: str, shown: str
) -> None:
    ids = shipped.tokenizer.encode(generated)
    monkeypatch.setattr(blip, "greedy", lambda *_: Generated(ids, [0.0] * len(ids)))
    caption = shipped.caption(captioned.product_copy((SAMPLES / "garden.jpg").read_bytes()))
    assert (caption.text, caption.low_confidence) == (shown, True)


def test_the_distance_is_mahalanobis() -> None:
    rng = np.random.default_rng(0)
    rows = (rng.normal(size=(500, 5)) @ rng.normal(size=(5, 5)) + 3).astype(np.float32)
    table = novelty.fit(rows, shrink=0)
    off = rows[7] - rows.mean(axis=0)
    expected = np.sqrt(off @ np.linalg.inv(np.cov(rows, rowvar=False)) @ off / 5)
    ours = np.sqrt(np.square((rows[7] - table[0]) @ table[1:]).mean())
    assert ours == pytest.approx(expected, rel=1e-3)


def test_a_card_whose_distance_file_is_not_listed_is_rejected(folder: Path) -> None:
    change(folder, confidence={"threshold": 0, "distance": {"weight": 1, "file": "../../etc/passwd"}})
    with pytest.raises(blip.ModelError, match="not among its files"):
        blip.Captioner(folder)


# The command


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a copy of the shipped model, to change."""
    return Path(shutil.copytree(MODEL_FOLDER, tmp_path / "model"))


def change(folder: Path, **values: object) -> None:
    """Set keys of the card; None removes a key."""
    path = folder / "model.json"
    card = json.loads(path.read_text()) | values
    path.write_text(json.dumps({key: value for key, value in card.items() if value is not None}))


def run(*arguments: str | Path) -> int:
    status = main(["confidence", *(str(argument) for argument in arguments)])
    logging.disable(logging.NOTSET)
    return status


def test_write_fits_the_distance_and_stores_the_threshold_in_the_card(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = json.loads((folder / "model.json").read_text())
    change(folder, confidence=None)
    monkeypatch.setattr(confidence, "FITTED", 20)
    monkeypatch.setattr(confidence, "TUNED", 10)
    assert run("--write", "--model", folder, "--count", "1", "--report", tmp_path / "c.json") in (0, 1)
    card = json.loads((folder / "model.json").read_text())
    file = card["files"][confidence.KNOWN]
    assert file != before["files"][confidence.KNOWN]
    assert file["sha256"] == hashlib.sha256((folder / confidence.KNOWN).read_bytes()).hexdigest()
    assert card["bytes"] == sum(each["bytes"] for each in card["files"].values())
    assert card["revision"] == before["revision"]
    captioner = blip.Captioner(folder)
    assert captioner.card.confidence == blip.Confidence(
        card["confidence"]["threshold"], confidence.WEIGHT, confidence.KNOWN
    )


def test_the_shares_of_scenes_and_photographs_are_counted_and_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, report = tmp_path / "five", tmp_path / "confidence.json"
    folder.mkdir()
    for name in ("astronaut", "cat", "coffee"):
        shutil.copy(PHOTOGRAPHS / f"{name}.jpg", folder)
    (folder / "broken.jpg").write_bytes(b"no picture")
    assert run("--count", "2", "--photographs", folder, "--report", report) == 0
    groups = json.loads(report.read_text())["groups"]
    assert groups["five"] == {"pictures": 3, "low_confidence": [1.0] * 4}
    assert groups["held-out scenes"] == {"pictures": 2, "low_confidence": [0.0] * 4}
    assert "five" in capsys.readouterr().out


def test_a_missed_threshold_is_reported_with_its_figure() -> None:
    groups = [
        confidence.Group("scenes", [1, 2], 100),
        confidence.Group("a", [90, 80], 100),
        confidence.Group("b", [99, 99], 100),
        confidence.Group("other", [0, 0], 100),
    ]
    assert confidence.misses(groups, "scenes", ["a", "b"]) == [
        "low confidence in scenes: 2.00%, more than 1%",
        "low confidence in photographs: 89.50%, less than 95%",
    ]
    assert confidence.misses([replace(groups[0], rejected=[1, 1]), groups[2]], "scenes", ["b"]) == []


def test_an_error_names_a_folder_without_pictures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--photographs", tmp_path) == 2
    assert f"{tmp_path} has no pictures" in capsys.readouterr().err


def test_a_model_without_a_threshold_is_reported(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change(folder, confidence=None)
    assert run("--model", folder) == 0
    assert "rejects no caption" in capsys.readouterr().out


def test_only_a_model_trained_on_scenes_is_fitted_to_them(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change(folder, knows=None, demo=None)
    assert run("--write", "--model", folder) == 2
    assert "does not know the scenes" in capsys.readouterr().err
