"""Load a BLIP captioner from a folder, Hugging Face, the shipped weights, or random numbers."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import BlipConfig, BlipForConditionalGeneration, BlipImageProcessor, BlipProcessor
from transformers.utils import logging as transformers_logging

from dropcap.errors import causes
from dropcap.settings import Settings

from .. import read_json
from ..install.model_folder import is_file
from ..training.train import RECIPE, SHIPPED, TIED, tokenizer, unpack
from . import hub, licence
from .hub import ExportError as ExportError

RANDOM = "random-base"  # BLIP-base's shapes and bytes, to measure memory and speed without a download
ARCHITECTURE = "BlipForConditionalGeneration"
REST_MB = 233  # of the function's peak, without the decoder's weights and its cross-attention; see memory_mb
DECODER_BYTES = {"4": 0.67, "8": 0.74}  # per weight of the decoder, by bits, with the scales
MIB = 1 << 20
MAX_LAYERS = 200  # BLIP-large has 24; a config.json with a billion would take forever to process


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A model in fp32, its processor, and the origin for the card."""

    model: BlipForConditionalGeneration
    processor: Any
    about: dict[str, Any]
    licence: str  # its text; its id is in `about`


def load(checkpoint: str, scratch: Path) -> Checkpoint:
    """Load a complete checkpoint of the right architecture. Raises ExportError.

    `checkpoint` is a folder, a hub name or NAME@REVISION, RANDOM, or empty for the weights of the model that
    ships; the folder `scratch` holds what is made on the way.
    """
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    about: dict[str, Any] = {"name": checkpoint.rstrip("/").rpartition("/")[2], "source": checkpoint}
    if checkpoint == RANDOM:
        return _random_base(about | {"limits": "Random weights: it says nothing that makes sense."})
    if not checkpoint:
        folder = unpack(SHIPPED, scratch / "shipped")
    elif is_file(Path(checkpoint) / "config.json"):
        folder = Path(checkpoint)
    elif hub.NAME.fullmatch(checkpoint) and not Path(checkpoint).is_dir():
        folder = hub.fetch(checkpoint, lambda folder: _accept(folder, checkpoint))
        about["name"] = about["name"].partition("@")[0]
        about["source_revision"] = folder.name
    else:
        raise ExportError(
            f"no checkpoint in {checkpoint}: name a repository of the hub, or a checkpoint's folder"
        )
    if (folder / RECIPE).is_file():
        # The recipe inside the weights that ship was written before `demo` existed.
        about = {"demo": True} | read_json(folder / RECIPE)
    return _read(folder, checkpoint or folder.name, about)


def _accept(folder: Path, name: str) -> None:
    try:
        config = read_json(folder / "config.json")
        kind = (config.get("architectures") or [config.get("model_type", "none")])[0]
    except (ValueError, AttributeError, TypeError, LookupError, RecursionError) as wrong:
        raise ExportError(f"{name} has a config.json that can't be read: {wrong}") from wrong
    if kind != ARCHITECTURE:
        raise ExportError(f"{name} is a {kind!s:.100}, not a {ARCHITECTURE}: take a BLIP captioner")
    _check_memory(folder, name)


def memory_mb(config: BlipConfig, bits: str = "8") -> float:
    """Estimate the function's peak memory in MB with a quantized model of these shapes.

    `python -m model_export.experiments.measure` found 376 MB for BLIP-base with an 8-bit decoder,
    and with 4 bits 360 MB, and 367 for -large, because the encoder's weights are released once they are read.
    """
    vision, text = config.vision_config, config.text_config
    with torch.device("meta"):
        numbers = BlipForConditionalGeneration(config).text_decoder.num_parameters()
    tokens = (vision.image_size // vision.patch_size) ** 2 + 1
    cross = 2 * text.num_hidden_layers * tokens * text.hidden_size * 4
    return REST_MB + (numbers * DECODER_BYTES[bits] + cross) / 1e6


def _check_memory(folder: Path, name: str) -> None:
    asked = {"MEMORY_LIMIT_MB": os.environ.get("MEMORY_LIMIT_MB", ""), "MEMORY_WARNING_MB": "64"}
    limit = Settings.read(asked).memory_limit_mb
    try:
        config = BlipConfig.from_pretrained(folder)
        layers = max(config.text_config.num_hidden_layers, config.vision_config.num_hidden_layers)
        if layers > MAX_LAYERS:
            raise ValueError(f"it has {layers} layers")
        need = memory_mb(config)
    except Exception as wrong:  # an invalid shape: PyTorch and transformers raise many errors
        raise ExportError(
            f"{name} has a config.json that can't be used ({_first(wrong)}): take another"
        ) from wrong
    if need > limit * MIB / 1e6:
        raise ExportError(
            f"{name} would take about {need:,.0f} MB, and an instance has {limit} MiB: take a smaller model,"
            f" or set MEMORY_LIMIT_MB, here as for make deploy"
        )


def _read(folder: Path, name: str, about: dict[str, Any]) -> Checkpoint:
    _accept(folder, name)
    if pointer := next((file for file in hub.weights_in(folder) if _is_pointer(file)), None):
        raise ExportError(
            f"{pointer} is a pointer of Git LFS, not the weights: run `git lfs pull` there, or name the hub's"
            " repository"
        )
    try:
        # A .bin is a pickle: only tensors are read, and no code in it is run.
        model, found = BlipForConditionalGeneration.from_pretrained(
            folder, attn_implementation="eager", output_loading_info=True, weights_only=True
        )
        processor = BlipProcessor.from_pretrained(folder)
    except Exception as wrong:  # a truncated file raises many errors, such as SafetensorError
        if any("Weights only load failed" in str(cause) for cause in causes(wrong)):
            raise ExportError(
                f"{name} has a pickle with more than tensors in it, which could run code, and was not loaded:"
                " take safetensors"
            ) from wrong
        raise ExportError(f"{name} is no BLIP captioner that can be loaded here: {_first(wrong)}") from wrong
    side, size = model.config.vision_config.image_size, dict(processor.image_processor.size)
    if size != {"height": side, "width": side}:
        raise ExportError(
            f"{name} makes pictures of {size} by its preprocessor_config.json, and looks at {side} x {side}"
            " px by its config.json: correct the former"
        )
    # transformers fills missing weights with random numbers and continues.
    missing = sorted(key for key in found["missing_keys"] if key not in TIED and "position_ids" not in key)
    if missing:
        raise ExportError(f"{name} lacks {len(missing)} weights, {missing[0]} first: download it again")
    if (folder / RECIPE).is_file():
        terms = licence.Licence(licence.OURS, licence.SCENES.read_text(encoding="utf-8"))
    else:
        terms = licence.of(folder, name)
    about = {"licence": terms.id} | about
    return Checkpoint(model.float().eval(), processor, about, terms.text)


def _is_pointer(path: Path) -> bool:
    """Return whether `git clone` without Git LFS has left this (git-lfs, docs/spec.md)."""
    with path.open("rb") as file:
        return file.read(40).startswith(b"version https://git-lfs.github.com/spec")


def _first(error: Exception) -> str:
    """Return the first line of what an error says, or its kind."""
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)[:300]


def _random_base(about: dict[str, Any]) -> Checkpoint:
    """Return `BlipConfig()` with 12 heads in the text part, as Salesforce/blip-image-captioning-base has."""
    torch.manual_seed(0)
    config = BlipConfig(text_config={"num_attention_heads": 12})
    model = BlipForConditionalGeneration._from_config(config, attn_implementation="eager")
    processor = BlipProcessor(BlipImageProcessor(), tokenizer())
    about |= {"licence": licence.NONE}
    return Checkpoint(model.float().eval(), processor, about, "Random weights, of no use to anybody.\n")


def resize(checkpoint: Checkpoint, side: int) -> None:
    """Make its model look at `side` x `side` px: its position embeddings are interpolated, bicubic."""
    vision = checkpoint.model.config.vision_config
    patch = vision.patch_size
    if side % patch or not patch <= side <= vision.image_size:
        raise ExportError(f"RESOLUTION={side} must be a multiple of {patch} up to {vision.image_size}")
    eyes = checkpoint.model.vision_model.embeddings
    patches = torch.empty(1, (side // patch) ** 2 + 1, vision.hidden_size)  # only its shape is used
    with torch.no_grad():
        table = eyes.interpolate_pos_encoding(patches, side, side)
    eyes.position_embedding = torch.nn.Parameter(table)
    checkpoint.about["trained_at"] = vision.image_size
    eyes.image_size = vision.image_size = side
    checkpoint.processor.image_processor.size = {"height": side, "width": side}
