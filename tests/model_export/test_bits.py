"""`python -m model_export bits`: what rounding does to the weights of a model, on examples of its own."""

import json
import struct
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model_export.datasets.captioned import upload
from tests.support.models.checkpoints import needs_pytorch, random_checkpoint

pytestmark = needs_pytorch


def measured(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, weights: Path, examples: Path
) -> dict[str, Any]:
    from model_export.experiments import rounding

    few = (rounding.Way(8, 32, "symmetric"), rounding.Way(4, 32, "symmetric"))
    monkeypatch.setattr(rounding, "WAYS", few)
    rounding.measure(str(weights), examples, tmp_path / "bits.json")
    found: dict[str, Any] = json.loads((tmp_path / "bits.json").read_text())
    eight, four = (found["ways"][str(way)] for way in few)
    for name, error in eight["errors"].items():
        # Sixteen times finer steps, so up to 256 times less; the rest is the rounding of activations.
        assert 0 < error < four["errors"][name] / 20
        assert four["worst"][name] >= four["errors"][name]
    return found


def test_a_captioner_is_measured_on_what_it_says_of_pictures(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    random_checkpoint(tmp_path / "checkpoint", 0)
    (tmp_path / "pictures").mkdir()
    for index in range(2):
        (tmp_path / "pictures" / f"{index}.jpg").write_bytes(upload(index)[1])
    found = measured(monkeypatch, tmp_path, tmp_path / "checkpoint", tmp_path / "pictures")
    names = ["self-attention", "cross-attention", "feed-forward", "vocabulary", "embedding"]
    assert list(found["alone"]) == names
    # Two layers: queries, keys, values, outputs; of the cross-attention queries and outputs, as the encoder's
    # graph has the rest.
    weights = {name: found["alone"][name]["weights"] for name in names}
    assert weights["self-attention"] == 2 * 4 * 32 * 32
    assert weights["cross-attention"] == 2 * 2 * 32 * 32
    assert weights["vocabulary"] == weights["embedding"] == 30524 * 32
    eight, four, _ = (way["effect"]["divergence"] for way in found["ways"].values())
    assert 0 <= eight < four
    assert all(each["effect"]["divergence"] >= 0 for each in found["alone"].values())


def test_a_text_encoder_is_measured_on_sentences(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from transformers import BertConfig, BertModel

    from model_export.training.train import tokenizer

    shape = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4, "num_hidden_layers": 1}
    BertModel(BertConfig(vocab_size=30524, **shape)).save_pretrained(tmp_path / "bert")
    tokenizer().save_pretrained(tmp_path / "bert")
    (tmp_path / "sentences.txt").write_text("a dog runs on the beach\n\ntwo cats\n")
    found = measured(monkeypatch, tmp_path, tmp_path / "bert", tmp_path / "sentences.txt")
    assert found["model"].endswith(", 2 sentences")
    assert list(found["alone"]) == ["self-attention", "feed-forward", "embedding"]
    eight, four, _ = (way["effect"]["cosine_lost"] for way in found["ways"].values())
    assert eight < four


def variable(name: str, values: Any) -> bytes:
    data = np.asarray(values, "<f2")
    head = struct.pack("<H", len(name) + 1) + name.encode() + b"\0" + struct.pack("<B", data.ndim)
    return head + struct.pack(f"<{data.ndim}IBI", *data.shape, 4, data.nbytes) + data.tobytes()


def written(file: Path, variables: dict[str, Any]) -> Path:
    """A model.bin in float16, as python/ctranslate2/specs/model_spec.py of CTranslate2 writes version 6."""
    spec = b"WhisperSpec\0"
    head = struct.pack("<IH", 6, len(spec)) + spec + struct.pack("<II", 3, len(variables))
    file.write_bytes(head + b"".join(variable(*item) for item in variables.items()) + struct.pack("<I", 0))
    return file


def test_variables_of_ctranslate2_are_read_by_name(tmp_path: Path) -> None:
    from model_export.experiments.trained_models import ctranslate2

    matrix = [[0.5, -1.0, 2.0], [0.25, 3.0, -4.0]]
    file = written(tmp_path / "model.bin", {"decoder/embeddings/weight": matrix, "encoder/beta": [1.5]})
    found = ctranslate2(file)
    assert found["decoder/embeddings/weight"].tolist() == matrix
    assert found["encoder/beta"].tolist() == [1.5]


def speaker(folder: Path) -> Path:
    """A Whisper of random weights in CTranslate2's layout: one layer, 64 wide, 12 words."""
    folder.mkdir()
    rng, width, words = np.random.default_rng(0), 64, 12

    def some(*shape: int) -> Any:
        return rng.standard_normal(shape) / 8

    variables: dict[str, Any] = {
        "encoder/conv1/weight": some(width, 80, 3),
        "encoder/conv1/bias": some(width),
        "encoder/conv2/weight": some(width, width, 3),
        "encoder/conv2/bias": some(width),
        "encoder/position_encodings/encodings": some(1500, width),
        "decoder/position_encodings/encodings": some(448, width),
        "decoder/embeddings/weight": some(words, width),
    }
    norms = ["layer_norm", "layer_0/self_attention/layer_norm", "layer_0/ffn/layer_norm"]
    for side in ("encoder", "decoder"):
        both = {"self_attention/linear_0": 3, "self_attention/linear_1": 1}
        more = {"attention/linear_0": 1, "attention/linear_1": 2, "attention/linear_2": 1}
        for name, times in (both | (more if side == "decoder" else {})).items():
            variables[f"{side}/layer_0/{name}/weight"] = some(times * width, width)
            variables[f"{side}/layer_0/{name}/bias"] = some(times * width)
        for name, shape in (("linear_0", (4 * width, width)), ("linear_1", (width, 4 * width))):
            variables[f"{side}/layer_0/ffn/{name}/weight"] = some(*shape)
            variables[f"{side}/layer_0/ffn/{name}/bias"] = some(shape[0])
        for name in [*norms, *(["layer_0/attention/layer_norm"] if side == "decoder" else [])]:
            variables |= {f"{side}/{name}/gamma": 1 + some(width), f"{side}/{name}/beta": some(width)}
    written(folder / "model.bin", variables)
    names = ["<|startoftranscript|>", "<|notimestamps|>", *"abcdefghi", "<|endoftext|>"]
    words_of = {"type": "WordLevel", "vocab": {name: i for i, name in enumerate(names)}, "unk_token": "a"}
    (folder / "tokenizer.json").write_text(
        json.dumps({"version": "1.0", "added_tokens": [], "model": words_of})
    )
    return folder


def test_whisper_is_measured_on_speech(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import torch

    from model_export.experiments.rounding import PARTS
    from model_export.experiments.trained_models import ctranslate2, part, read

    folder = speaker(tmp_path / "whisper")
    (tmp_path / "speech").mkdir()
    with wave.open(str(tmp_path / "speech" / "a.wav"), "wb") as file:
        file.setparams((1, 2, 48_000, 0, "NONE", ""))
        file.writeframes((1000 * np.sin(np.arange(48_000) / 20)).astype("<i2").tobytes())
    trained = read(str(folder), tmp_path / "speech")
    # Each of its weights is where transformers has it: queries first, then keys and values.
    variables = ctranslate2(folder / "model.bin")
    model = trained.model.model.decoder.layers[0]
    joined = variables["decoder/layer_0/self_attention/linear_0/weight"]
    assert torch.equal(model.self_attn.k_proj.weight, joined[64:128])
    assert torch.equal(
        model.encoder_attn.v_proj.weight, variables["decoder/layer_0/attention/linear_1/weight"][64:]
    )
    assert {part(path) for path in trained.weights()} == set(PARTS)
    # Keys and values of the cross-attention are not the decoder graph's.
    assert not [
        path for path in trained.weights() if path.endswith(("encoder_attn.k_proj", "encoder_attn.v_proj"))
    ]
    found = measured(monkeypatch, tmp_path, folder, tmp_path / "speech")
    assert found["model"] == "Whisper, 1 x 30 s of speech"
