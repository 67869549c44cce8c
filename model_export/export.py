"""From a BLIP checkpoint, a folder or a hub name, to a model folder that the function can run."""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
from pathlib import Path
from typing import Any

from optimum.exporters.onnx import export_models, validate_models_outputs
from optimum.exporters.tasks import TasksManager
from rich.progress import track
from transformers import BlipForConditionalGeneration, BlipProcessor
from transformers.utils import logging as transformers_logging

from dropcap.blip import Captioner

from . import evaluate
from .onnx_config import TASK, Decoder, Encoder
from .quantize import optimise, quantize
from .train import RECIPE, SHIPPED, unpack

HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


class ExportError(Exception):
    """The model cannot be exported; the message says what to do."""


def load(checkpoint: str) -> tuple[BlipForConditionalGeneration, Any]:
    """The model, fp32 and ready to run, and its processor."""
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    folder, is_hub_name = Path(checkpoint), HUB_NAME.fullmatch(checkpoint)
    if not (folder / "config.json").exists() and (not is_hub_name or folder.is_dir()):
        raise ExportError(f"no checkpoint in {checkpoint}: `python -m model_export train` makes one")
    try:
        model = BlipForConditionalGeneration.from_pretrained(checkpoint, attn_implementation="eager")
        return model.float().eval(), BlipProcessor.from_pretrained(checkpoint)
    except (OSError, ValueError) as wrong:
        why = str(wrong).splitlines()[0]
        raise ExportError(f"{checkpoint} is no BLIP captioner that can be loaded here: {why}") from wrong


def write_graphs(model: BlipForConditionalGeneration, folder: Path) -> None:
    """encoder.onnx and decoder.onnx in fp32, each compared with PyTorch by optimum."""
    constructor = TasksManager.get_exporter_config_constructor(
        "onnx", model_type="blip", task=TASK, library_name="transformers"
    )
    parts = {
        "encoder": (Encoder(model), constructor(model.config, part="encoder")),
        "decoder": (Decoder(model), constructor(model.config, part="decoder")),
    }
    files = [f"{name}.onnx" for name in parts]
    _, outputs = export_models(parts, folder, output_names=files)
    validate_models_outputs(parts, outputs, folder, onnx_files_subpaths=files, use_subprocess=False)


def write_vocabulary(processor: Any, folder: Path) -> None:
    """vocab.txt: line i is the word of id i; the special tokens on top of it are left out."""
    words = sorted(processor.tokenizer.get_vocab().items(), key=lambda pair: pair[1])
    base = [word for word, i in words if i < processor.tokenizer.vocab_size]
    (folder / "vocab.txt").write_text("\n".join(base) + "\n", encoding="utf-8")


def write_card(
    folder: Path, checkpoint: str, model: BlipForConditionalGeneration, processor: Any, **more: Any
) -> None:
    """model.json: what the model is, what it needs, what its files are, how good it is."""
    text, image = model.config.text_config, processor.image_processor
    recipe = Path(checkpoint) / RECIPE
    name = Path(checkpoint).name
    source = checkpoint if HUB_NAME.fullmatch(checkpoint) else name
    made = json.loads(recipe.read_text()) if recipe.exists() else {"name": name, "source": source}
    files = {
        path.name: {"bytes": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
        for path in sorted(folder.iterdir())
        if path.name != "model.json"
    }
    card = {
        **made,
        "revision": hashlib.sha256(json.dumps(files).encode()).hexdigest()[:12],
        "source_revision": getattr(model.config, "_commit_hash", None),
        "parameters": model.num_parameters(),
        "image": {"size": image.size["height"], "mean": list(image.image_mean), "std": list(image.image_std)},
        "tokens": {"bos": text.bos_token_id, "eos": text.sep_token_id, "pad": text.pad_token_id},
        "max_length": text.max_position_embeddings,
        **more,
        "bytes": sum(file["bytes"] for file in files.values()),
        "files": files,
    }
    (folder / "model.json").write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")


def export(checkpoint: str, out: Path, fp32: bool, check: int, agree: float) -> dict[str, Any]:
    """Put the checkpoint's model in the folder `out`; its card. Any failure leaves what was there before.

    Without a checkpoint, the weights of the model that ships are taken.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as work:
        raw, plain, small = (Path(work) / name for name in ("raw", "plain", "small"))
        for folder in (raw, plain, small):
            folder.mkdir()
        checkpoint = checkpoint or str(unpack(SHIPPED, Path(work) / "checkpoint"))
        model, processor = load(checkpoint)
        write_graphs(model, raw)
        for folder in (plain, small):
            write_vocabulary(processor, folder)
        for name in ("encoder.onnx", "decoder.onnx"):
            optimise(raw / name, plain / name)
        write_card(plain, checkpoint, model, processor, weights="fp32")
        result = plain
        if not fp32:
            quantize(raw, small)
            about: dict[str, Any] = {"weights": "encoder int8, decoder int4"}
            write_card(small, checkpoint, model, processor, **about)
            if check:
                about["quality"] = quality = compare(plain, small, check)
                if quality["agrees_with_fp32"] < agree:
                    raise ExportError(
                        f"quantized, it agrees with fp32 on {quality['agrees_with_fp32']:.1%} of {check}"
                        f" pictures, less than {agree:.1%}: {out} is left as it was"
                    )
                write_card(small, checkpoint, model, processor, **about)
            result = small
        Captioner(result)  # what cannot be loaded must not be installed
        swap(result, out)
    card: dict[str, Any] = json.loads((out / "model.json").read_text(encoding="utf-8"))
    return card


def compare(fp32: Path, small: Path, count: int) -> dict[str, Any]:
    """How often both say the same about held-out scenes, and how often that is right."""
    large, little = Captioner(fp32), Captioner(small)
    same = right = 0
    for scene, data in track(evaluate.uploads(count), f"comparing on {count} held-out scenes", total=count):
        image = evaluate.product_copy(data)
        said = little.caption(image).text
        same += said == large.caption(image).text
        right += said == scene.caption
    return {"held_out_scenes": count, "agrees_with_fp32": same / count, "exact": right / count}


def swap(new: Path, out: Path) -> None:
    """Put `new` in the place of `out`: two renames, so that no half-written model is ever seen."""
    old = new.with_name("old")
    if out.exists():
        os.rename(out, old)
    try:
        os.rename(new, out)
    except OSError:
        if old.exists():
            os.rename(old, out)
        raise
