"""Where a BLIP captioner comes from: a folder, the hub, this repository's own weights, or random numbers."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from transformers import BlipConfig, BlipForConditionalGeneration, BlipImageProcessor, BlipProcessor
from transformers.utils import logging as transformers_logging

from .train import RECIPE, SHIPPED, TIED, tokenizer, unpack

HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
FILES = ("*.json", "*.txt", "model.safetensors")  # never a pickle: it could run code
RANDOM = "random-base"  # BLIP-base's shapes and bytes, to measure memory and speed without a download
ARCHITECTURE = "BlipForConditionalGeneration"


class ExportError(Exception):
    """The model cannot be exported; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The model, fp32 and ready to run, its processor, and what the card tells of where it comes from."""

    model: BlipForConditionalGeneration
    processor: Any
    about: dict[str, Any]


def load(checkpoint: str, scratch: Path) -> Checkpoint:
    """The checkpoint, whole and of the right architecture, or ExportError.

    `checkpoint` is a folder, a hub name, RANDOM, or empty for the weights of the model that ships; the
    folder `scratch` holds what is made on the way.
    """
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    about: dict[str, Any] = {"name": checkpoint.rstrip("/").rpartition("/")[2], "source": checkpoint}
    if checkpoint == RANDOM:
        return _random_base(about | {"limits": "Random weights: it says nothing that makes sense."})
    if not checkpoint:
        folder = unpack(SHIPPED, scratch / "shipped")
    elif (Path(checkpoint) / "config.json").is_file():
        folder = Path(checkpoint)
    elif HUB_NAME.fullmatch(checkpoint) and not Path(checkpoint).is_dir():
        folder = _download(checkpoint)
        about["source_revision"] = folder.name  # the hub's cache names a snapshot for its commit
    else:
        raise ExportError(f"no checkpoint in {checkpoint}: `python -m model_export train` makes one")
    if (folder / RECIPE).is_file():
        # The recipe inside the weights that ship was written before `demo` existed.
        about = {"demo": True} | json.loads((folder / RECIPE).read_text(encoding="utf-8"))
    return _read(folder, checkpoint or folder.name, about)


def _download(name: str) -> Path:
    """The hub's files, with its own progress bars; what is there already is not fetched again."""
    try:
        folder = Path(snapshot_download(name, allow_patterns=list(FILES)))
    except (OSError, ValueError) as failed:  # the hub client's errors are all of these
        why = " ".join(str(failed).split())[:300]
        raise ExportError(
            f"{name} could not be downloaded: {why} Is the name right and the network up? "
            "The same command goes on where it stopped."
        ) from failed
    if not (folder / "config.json").is_file():
        raise ExportError(f"{name} has no config.json: it is no model that transformers can load")
    return folder


def _read(folder: Path, name: str, about: dict[str, Any]) -> Checkpoint:
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        kind = (config.get("architectures") or [config.get("model_type", "none")])[0]
        if kind != ARCHITECTURE:
            raise ExportError(f"{name} is a {kind}, not a {ARCHITECTURE}: take a BLIP captioner")
        model, found = BlipForConditionalGeneration.from_pretrained(
            folder, attn_implementation="eager", output_loading_info=True
        )
        processor = BlipProcessor.from_pretrained(folder)
    except ExportError:
        raise
    except Exception as wrong:  # a cut file raises what its reader likes, SafetensorError for one
        why = str(wrong).splitlines()[0]
        raise ExportError(f"{name} is no BLIP captioner that can be loaded here: {why}") from wrong
    # transformers fills what is missing with random numbers and goes on.
    missing = sorted(key for key in found["missing_keys"] if key not in TIED and "position_ids" not in key)
    if missing:
        raise ExportError(f"{name} lacks {len(missing)} weights, {missing[0]} first: download it again")
    return Checkpoint(model.float().eval(), processor, about)


def _random_base(about: dict[str, Any]) -> Checkpoint:
    """`BlipConfig()`, the text part with 12 heads, as Salesforce/blip-image-captioning-base has it."""
    torch.manual_seed(0)
    config = BlipConfig(text_config={"num_attention_heads": 12})
    model = BlipForConditionalGeneration._from_config(config, attn_implementation="eager")
    return Checkpoint(model.float().eval(), BlipProcessor(BlipImageProcessor(), tokenizer()), about)


def resize(checkpoint: Checkpoint, side: int) -> None:
    """Make its model look at `side` x `side` px: its position embeddings are interpolated, bicubic."""
    vision = checkpoint.model.config.vision_config
    patch = vision.patch_size
    if side % patch or not patch <= side <= vision.image_size:
        raise ExportError(f"RESOLUTION={side} must be a multiple of {patch} up to {vision.image_size}")
    eyes = checkpoint.model.vision_model.embeddings
    patches = torch.empty(1, (side // patch) ** 2 + 1, vision.hidden_size)  # only its shape is looked at
    with torch.no_grad():
        table = eyes.interpolate_pos_encoding(patches, side, side)
    eyes.position_embedding = torch.nn.Parameter(table)
    checkpoint.about["trained_at"] = vision.image_size
    eyes.image_size = vision.image_size = side
    checkpoint.processor.image_processor.size = {"height": side, "width": side}
