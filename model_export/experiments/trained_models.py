"""Trained models to measure rounding on, each with real examples to run it on.

A BLIP captioner is the model of interest. If its weights are not available, packages contain two models with
similar parts: a BERT text encoder, the architecture of BLIP's text decoder, and Whisper's decoder, which
attends to an encoder as BLIP's does, and whose word embedding is also its vocabulary projection.
"""

from __future__ import annotations

import re
import struct
import tempfile
import wave
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import (
    AutoTokenizer,
    BertModel,
    PreTrainedTokenizerFast,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
)

from .. import read_json
from ..conversion.checkpoint import ExportError, load
from ..datasets.captioned import PAIRS, EvaluateError, held_out, product_copy, shown

EXAMPLES = 40  # pictures, or sentences
TOKENS = 120  # of a caption or a transcript
RATE = 16_000  # samples a second, of Whisper's input
WINDOW_S = 30
HALF = np.dtype("<f2")

SELF, CROSS, FORWARD = "self-attention", "cross-attention", "feed-forward"
VOCABULARY, EMBEDDING = "vocabulary", "embedding"
OTHER_GRAPH = re.compile(
    r"(crossattention\.self|encoder_attn)\.(key|value|k_proj|v_proj)$|^model\.encoder|pooler"
)


@dataclass(frozen=True, slots=True)
class Trained:
    """A model with its examples, as keyword arguments for a call."""

    name: str
    model: Any
    examples: Sequence[dict[str, Any]]
    rows: Callable[[Any], Tensor]
    """What a call returned -> (rows, width): logits of each token, or one embedding."""
    logits: bool

    def weights(self) -> dict[str, Any]:
        """Return the matrices that the decoder's recipe rounds, by their path in the model.

        Keys and values of the cross-attention are left out: the encoder's graph has them, in int8.
        """
        return {
            path: module
            for path, module in self.model.named_modules()
            if (isinstance(module, nn.Linear) and not OTHER_GRAPH.search(path)) or _is_embedding(path)
        }

    def outputs(self) -> list[Tensor]:
        """Return `rows` of each example."""
        with torch.no_grad():
            return [self.rows(self.model(**example)) for example in self.examples]


def part(path: str) -> str:
    """Return what a matrix does, by its path in a model of transformers."""
    if _is_embedding(path):
        return EMBEDDING
    if path.endswith(("predictions.decoder", "proj_out")):
        return VOCABULARY
    if "crossattention" in path or "encoder_attn" in path:
        return CROSS
    return SELF if "attention" in path or "self_attn" in path else FORWARD


def _is_embedding(path: str) -> bool:
    return path.endswith(("embeddings.word_embeddings", "decoder.embed_tokens"))


def read(weights: str, examples: Path | None) -> Trained:
    """Return the model of a folder: Whisper's as CTranslate2 keeps it, a BERT, or else a BLIP captioner.

    `weights` may be what export takes as a checkpoint; empty is the small model that ships. Raises
    ExportError and EvaluateError.
    """
    folder = Path(weights)
    if weights and (folder / "model.bin").is_file():
        return _whisper(folder, examples)
    if weights and (folder / "config.json").is_file():
        kind = read_json(folder / "config.json").get("model_type")
        if kind == "bert":
            return _bert(folder, examples)
    return _blip(weights, examples)


def _blip(weights: str, examples: Path | None) -> Trained:
    with tempfile.TemporaryDirectory() as scratch:
        source = load(weights, Path(scratch))
    model, shows = source.model, []
    with torch.no_grad():
        for image in _pictures(examples):
            pixels = source.processor(images=image, return_tensors="pt")["pixel_values"]
            states = model.vision_model(pixel_values=pixels).last_hidden_state
            ids = model.generate(pixel_values=pixels, max_new_tokens=TOKENS, do_sample=False, num_beams=1)
            shows.append({"input_ids": ids[:, :-1], "encoder_hidden_states": states})
    name = f"{source.about['name'] or 'dropcap-scenes'}, {len(shows)} pictures"
    return Trained(name, model.text_decoder, shows, lambda result: result.logits[0], logits=True)


def _pictures(folder: Path | None) -> Iterator[Any]:
    if folder is None:
        for sample, data in held_out(EXAMPLES).samples():
            with shown(sample, data) as image:
                yield image
        return
    for path in _files(folder, "*")[:EXAMPLES]:
        with product_copy(path.read_bytes()) as image:
            yield image


def _files(folder: Path, pattern: str) -> list[Path]:
    found = sorted(path for path in folder.glob(pattern) if path.is_file())
    if not found:
        raise EvaluateError(f"--examples {folder}: it has no {pattern} files")
    return found


def _bert(folder: Path, examples: Path | None) -> Trained:
    """Return a text encoder; its rows are means over the words, as sentence-transformers takes them."""
    words, model = AutoTokenizer.from_pretrained(folder), BertModel.from_pretrained(folder).eval()
    sentences = _sentences() if examples is None else examples.read_text(encoding="utf-8").splitlines()
    shows = [dict(words(text, return_tensors="pt", truncation=True)) for text in sentences if text.strip()]
    name = f"{folder.parent.name}, {len(shows)} sentences"
    return Trained(name, model, shows, lambda result: result.last_hidden_state.mean(1), logits=False)


def _sentences() -> list[str]:
    """Return the captions of photographs, and sentences of descriptions, that pairs.json has."""
    pairs = [pair for those in read_json(PAIRS).values() for pair in those]
    described = (re.split(r"(?<=\.)\s+", pair["description"]) for pair in pairs)
    return [pair["caption"] for pair in pairs] + [text for texts in described for text in texts]


def _whisper(folder: Path, examples: Path | None) -> Trained:
    """Return Whisper, of which the decoder is measured, with its own transcript of each 30 s."""
    if examples is None:
        raise EvaluateError(f"{folder} is a speech model: give --examples, a folder of WAV files")
    weights = ctranslate2(folder / "model.bin")
    words = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))
    model = WhisperForConditionalGeneration(_whisper_config(weights))
    model.load_state_dict(_whisper_names(weights) | {"proj_out.weight": weights["decoder/embeddings/weight"]})
    model.eval()
    start = words.convert_tokens_to_ids(["<|startoftranscript|>", "<|notimestamps|>"])
    end, shows = words.convert_tokens_to_ids("<|endoftext|>"), []
    hear = WhisperFeatureExtractor(feature_size=model.config.num_mel_bins)
    for path in _files(examples, "*.wav"):
        for sound in _windows(path):
            features = hear(sound, sampling_rate=RATE, return_tensors="pt")["input_features"]
            with torch.no_grad():
                states = model.model.encoder(features)
                ids = _greedy(model, states, start, end)
            shows.append({"encoder_outputs": states, "decoder_input_ids": ids})
    name = f"Whisper, {len(shows)} x {WINDOW_S} s of speech"
    return Trained(name, model, shows, lambda result: result.logits[0, len(start) - 1 :], logits=True)


def _greedy(model: Any, states: Any, start: list[int], end: int) -> Tensor:
    ids = torch.tensor([start])
    while ids.shape[1] < TOKENS:
        token = model(encoder_outputs=states, decoder_input_ids=ids).logits[0, -1, : end + 1].argmax()
        if token == end:
            break
        ids = torch.cat((ids, token.reshape(1, 1)), dim=1)
    return ids


def _windows(path: Path) -> Iterator[Any]:
    with wave.open(str(path)) as file:
        step, rest = divmod(file.getframerate(), RATE)
        if rest or file.getsampwidth() != 2 or file.getnchannels() != 1:
            raise EvaluateError(f"{path}: it must be 16-bit mono, of a multiple of {RATE} samples a second")
        sound = np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(np.float32) / 32768
    sound = sound[: len(sound) // step * step].reshape(-1, step).mean(1)
    for first in range(0, len(sound), RATE * WINDOW_S):
        yield sound[first : first + RATE * WINDOW_S]


def ctranslate2(file: Path) -> dict[str, Tensor]:
    """Return the variables of a model.bin of CTranslate2 in 16 bits, by name.

    Layout: `ModelSpec.serialize` in python/ctranslate2/specs/model_spec.py of OpenNMT/CTranslate2, binary
    version 6: numbers little-endian, strings with their length and a zero.
    """
    data, at = file.read_bytes(), 0

    def number(kind: str) -> int:
        nonlocal at
        (value,) = struct.unpack_from(f"<{kind}", data, at)
        at += struct.calcsize(kind)
        return int(value)

    def text() -> str:
        nonlocal at
        length = number("H")
        at += length
        return data[at - length : at - 1].decode()

    version, _, _, count = number("I"), text(), number("I"), number("I")
    if version != 6:
        raise ExportError(f"{file} has CTranslate2's binary version {version}, and only 6 is known here")
    found = {}
    for _ in range(count):
        name = text()
        shape = [number("I") for _ in range(number("B"))]
        kind, size = number("B"), number("I")
        if kind == 4:  # float16
            values = np.frombuffer(data, HALF, size // HALF.itemsize, at).astype(np.float32)
            found[name] = torch.from_numpy(values.reshape(shape))
        at += size
    return found


def _whisper_config(weights: dict[str, Tensor]) -> WhisperConfig:
    layers = {found[0] for name in weights if (found := re.search(r"/layer_\d+", name))}
    words, width = weights["decoder/embeddings/weight"].shape
    return WhisperConfig(
        vocab_size=words,
        pad_token_id=0,
        d_model=width,
        encoder_layers=len(layers),
        decoder_layers=len(layers),
        encoder_attention_heads=width // 64,
        decoder_attention_heads=width // 64,
        encoder_ffn_dim=4 * width,
        decoder_ffn_dim=4 * width,
        num_mel_bins=weights["encoder/conv1/weight"].shape[1],
    )


def _whisper_names(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the same with the names of transformers; joined projections are parted."""
    found: dict[str, Tensor] = {}
    names = {
        "self_attention/linear_0": "self_attn.q_proj self_attn.k_proj self_attn.v_proj",
        "self_attention/linear_1": "self_attn.out_proj",
        "self_attention/layer_norm": "self_attn_layer_norm",
        "attention/linear_0": "encoder_attn.q_proj",
        "attention/linear_1": "encoder_attn.k_proj encoder_attn.v_proj",
        "attention/linear_2": "encoder_attn.out_proj",
        "attention/layer_norm": "encoder_attn_layer_norm",
        "ffn/linear_0": "fc1",
        "ffn/linear_1": "fc2",
        "ffn/layer_norm": "final_layer_norm",
    }
    above = {"embeddings": "embed_tokens", "position_encodings/encodings": "embed_positions.weight"}
    for name, value in weights.items():
        side, _, rest = name.partition("/")
        if layer := re.fullmatch(r"layer_(\d+)/(.+)/(weight|bias|gamma|beta)", rest):
            kind = {"gamma": "weight", "beta": "bias"}.get(layer[3], layer[3])
            targets = names[layer[2]].split()
            for target, one in zip(targets, value.chunk(len(targets)), strict=True):
                found[f"model.{side}.layers.{layer[1]}.{target}.{kind}"] = one
        else:
            for old, new in above.items():
                rest = rest.replace(old, new)
            rest = rest.replace("gamma", "weight").replace("beta", "bias").replace("/", ".")
            found[f"model.{side}.{rest}"] = value
    # Keys have no bias: CTranslate2 fills it with zeros.
    return {name: value for name, value in found.items() if not name.endswith("k_proj.bias")}
