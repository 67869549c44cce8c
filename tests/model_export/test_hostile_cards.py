"""A damaged model folder is refused in one line, and a model that goes astray gives no nonsense."""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dropcap.captioning import blip
from dropcap.captioning.generation import Generated
from dropcap.settings import MODEL_FOLDER

SHIPPED = json.loads((MODEL_FOLDER / "model.json").read_text(encoding="utf-8"))
DISTANCE = SHIPPED["confidence"]["distance"]
WHITE = Image.new("RGB", (64, 64), "white")


def written(folder: Path, **changes: Any) -> Path:
    """Put the shipped card into an empty folder, with `changes`."""
    (folder / "model.json").write_text(json.dumps(SHIPPED | changes), encoding="utf-8")
    return folder


@pytest.fixture
def captioner() -> blip.Captioner:
    return blip.load(MODEL_FOLDER)


def generate_ids(monkeypatch: pytest.MonkeyPatch, ids: list[int], log_probability: float = -0.01) -> None:
    """Let any model generate these ids."""
    monkeypatch.setattr(blip, "greedy", lambda *_: Generated(ids, [log_probability] * len(ids)))


@pytest.mark.parametrize(
    "changes",
    [
        {"confidence": "high"},
        {"confidence": None},
        {"confidence": []},
        {"confidence": {}},
        {"confidence": {"threshold": "x"}},
        {"confidence": {"threshold": None}},
        {"confidence": {"threshold": float("nan")}},  # nothing is less than it: no caption would be rejected
        {"confidence": {"threshold": float("-inf")}},
        {"confidence": {"threshold": True}},
        {"confidence": {"threshold": 10**400}},
        {"confidence": {"threshold": -1, "distance": DISTANCE | {"weight": float("nan")}}},
        {"confidence": {"threshold": -1, "distance": 5}},
        {"files": []},
        {"no_repeat_ngram_size": float("inf")},
        {"knows": {"things": []}},  # a demonstration model would look like any other
        {"knows": []},
    ],
    ids=str,
)
def test_a_card_of_the_wrong_type_is_refused_in_one_line(tmp_path: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(blip.ModelError, match=r"^.*model\.json can't be used \(.*\): restore the folder.*$"):
        blip.Card.read(written(tmp_path, **changes))


def test_a_card_that_is_nested_without_end_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.json").write_text("[" * 100_000)
    with pytest.raises(blip.ModelError, match=r"model\.json can't be used"):
        blip.Card.read(tmp_path)


@pytest.mark.parametrize("table", [np.zeros(10), np.full((193, 192), np.nan), np.zeros((194, 192))])
def test_a_distance_of_the_wrong_size_is_refused_before_any_picture(tmp_path: Path, table: Any) -> None:
    folder = Path(shutil.copytree(MODEL_FOLDER, tmp_path / "model"))
    data = table.astype(np.float32).tobytes()
    (folder / "known.data").write_bytes(data)
    file = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    written(folder, files=SHIPPED["files"] | {"known.data": file})
    with pytest.raises(blip.ModelError, match=r"known\.data can't be used \(it doesn't hold"):
        blip.Captioner(folder)


@pytest.mark.parametrize("log_probability", [float("nan"), float("-inf")])
def test_a_confidence_that_no_json_can_hold_is_a_failure_of_the_model(
    monkeypatch: pytest.MonkeyPatch, captioner: blip.Captioner, log_probability: float
) -> None:
    generate_ids(monkeypatch, captioner.tokenizer.encode("a dog"), log_probability)
    with pytest.raises(blip.ModelError, match=r"The confidence in a caption is .*: restore"):
        captioner.caption(WHITE)


@pytest.mark.parametrize("prompt", ["", "a picture of"])
@pytest.mark.parametrize("pieces", [[], ["[SEP]"], ["[PAD]", "[SEP]"]])
def test_a_model_that_says_nothing_has_no_caption(
    monkeypatch: pytest.MonkeyPatch, captioner: blip.Captioner, prompt: str, pieces: list[str]
) -> None:
    generate_ids(monkeypatch, [captioner.tokenizer.ids[piece] for piece in pieces or ["[SEP]"]])
    assert captioner.caption(WHITE, prompt=prompt).text == ""


@pytest.mark.parametrize(
    ("pieces", "shown"),
    [
        ("a hat ##b ##c ##b ##c ##b ##c", "a"),  # "hatbc" is no word that was said
        ("a hat , key ##s key ##s key ##s", "a hat, keys"),
        ("a hat , fox ##s key ##s key ##s key", "a hat, foxs"),
        ("##a ##a ##a ##a", ""),
        ("a hat [SEP] [SEP] [SEP] [SEP]", "a hat"),
    ],
)
def test_a_loop_is_cut_between_words_never_in_one(
    monkeypatch: pytest.MonkeyPatch, captioner: blip.Captioner, pieces: str, shown: str
) -> None:
    generate_ids(monkeypatch, [captioner.tokenizer.ids[piece] for piece in pieces.split()])
    caption = captioner.caption(WHITE)
    assert (caption.text, caption.low_confidence) == (shown, True)
