"""Export a BLIP checkpoint, from a folder or the hub, to a model folder for the function."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from optimum.exporters.error_utils import AtolError
from optimum.exporters.onnx import export_models, validate_models_outputs
from optimum.exporters.tasks import TasksManager
from transformers import BlipForConditionalGeneration

from dropcap.captioning.blip import Captioner
from dropcap.runtime import memory

from .. import read_json, write_json
from ..datasets import captioned
from ..install.model_folder import LICENCE_FILE, swap
from ..metrics import confidence, fidelity
from .checkpoint import RANDOM, Checkpoint, ExportError, load, resize
from .merging import merge_per_layer, set_merging
from .onnx_config import TASK, Decoder, Encoder
from .quantize import Recipe, optimise, quantize

GRAPHS = ("encoder.onnx", "decoder.onnx")
TRIES = 3  # pictures on which a graph that merges tokens may agree with PyTorch
DISK_BYTES = 12  # for each parameter, at the peak: fp32 as exported, as optimised, and quantized
CHECK, FEW = 200, 8  # held-out scenes: for a model that knows them; for others, at seconds each
AGREE = 0.98  # default for the least share of equal captions
FULL_BYTES = 4_000_000  # a disk with less free counts as full: every failed write was larger


def write_graphs(model: BlipForConditionalGeneration, folder: Path) -> None:
    """Write encoder.onnx and decoder.onnx in fp32; optimum compares each with PyTorch."""
    constructor = TasksManager.get_exporter_config_constructor(
        "onnx", model_type="blip", task=TASK, library_name="transformers"
    )
    parts = {
        "encoder": (Encoder(model), constructor(model.config, part="encoder")),
        "decoder": (Decoder(model), constructor(model.config, part="decoder")),
    }
    _, outputs = export_models(parts, folder, output_names=list(GRAPHS))
    # Rounding decides which of two almost equally similar tokens are merged. Other pictures have no such tie;
    # a graph that is wrong differs on every one.
    for tries_left in range(TRIES - 1 if merge_per_layer(model.config.vision_config) else 0, -1, -1):
        try:
            validate_models_outputs(
                parts, outputs, folder, onnx_files_subpaths=list(GRAPHS), use_subprocess=False
            )
            return
        except AtolError:
            if not tries_left:
                raise


def write_vocabulary(processor: Any, folder: Path) -> None:
    """Write vocab.txt: line i is the word of id i, without the special tokens that follow."""
    words = sorted(processor.tokenizer.get_vocab().items(), key=lambda pair: pair[1])
    base = [word for word, i in words if i < processor.tokenizer.vocab_size]
    (folder / "vocab.txt").write_text("\n".join(base) + "\n", encoding="utf-8")


def revision(files: dict[str, dict[str, Any]]) -> str:
    """Return a hash of the files that determine the captions, so without licence and known answers."""
    none = {LICENCE_FILE, confidence.KNOWN}
    makers = {name: file for name, file in files.items() if name not in none}
    return hashlib.sha256(json.dumps(makers).encode()).hexdigest()[:12]


def write_card(folder: Path, recipe: Recipe | None, source: Checkpoint) -> None:
    """Write model.json: description, requirements, files and measured quality of the model."""
    text, image = source.model.config.text_config, source.processor.image_processor
    files: dict[str, dict[str, Any]] = {
        path.name: {"bytes": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
        for path in sorted(folder.iterdir())
        if path.name != "model.json"
    }
    card = {
        **source.about,
        "weights": str(recipe or "fp32"),
        "revision": revision(files),
        "parameters": source.model.num_parameters(),
        "image": {"size": image.size["height"], "mean": list(image.image_mean), "std": list(image.image_std)},
        "tokens": {"bos": text.bos_token_id, "eos": text.sep_token_id, "pad": text.pad_token_id},
        "max_length": text.max_position_embeddings,
        "no_repeat_ngram_size": source.model.text_decoder.generation_config.no_repeat_ngram_size or 0,
        "bytes": sum(file["bytes"] for file in files.values()),
        "files": files,
    }
    write_json(folder / "model.json", card)


def export(
    checkpoint: str,
    out: Path,
    *,
    resolution: int = 0,
    merge: int = 0,
    recipe: Recipe | None = None,
    check: int | None = None,
    agree: float | None = None,
) -> dict[str, Any]:
    """Export the checkpoint's model to the folder `out`; return its card. A failure leaves `out` unchanged.

    `resolution` is the side of the model's input square, px; 0 keeps the checkpoint's. Each layer of its
    encoder merges `merge` tokens. Without `recipe` the weights stay fp32. The original and the result caption
    `check` held-out scenes, and at least the share `agree` of the captions must be the same. If None, they
    are CHECK and AGREE for a model that knows the scenes, and FEW without a bound for any other. Raises
    ExportError.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as work, _room(out):
        raw, reference, made = (Path(work) / name for name in ("raw", "fp32", "made"))
        for folder in (raw, reference, made):
            folder.mkdir()
        source = load(checkpoint, Path(work))
        _check_disk(out, source.model.num_parameters())
        if check is None:
            check = CHECK if "knows" in source.about else FEW
        if not recipe or checkpoint == RANDOM:
            check = 0  # fp32 is the original; captions by random weights depend on rounding
        print("writing it as ONNX graphs, and comparing them with PyTorch", flush=True)
        if check and (resolution or merge):  # the original captions at its own resolution, from all tokens
            write_graphs(source.model, raw)
            assemble(raw, reference, None, source)
        if resolution:
            resize(source, resolution)
        if merge:
            set_merging(source, merge)
        write_graphs(source.model, raw)
        source.model.to("meta")  # the weights are in the graphs now: frees 0.9 GB for BLIP-base
        memory.release()
        if check and not (resolution or merge):
            assemble(raw, reference, None, source)
        print("quantizing" if recipe else "optimising", flush=True)
        assemble(raw, made, recipe, source)
        if check:
            source.about["quality"] = quality = compare(reference, made, check)
            if "knows" not in source.about:
                del quality["exact"]  # it does not know the scenes
            if agree is None:
                agree = AGREE if "knows" in source.about else 0.0
            if quality["agrees_with_fp32"] < agree:
                raise ExportError(
                    f"quantized, it agrees with fp32 on {quality['agrees_with_fp32']:.1%} of {check}"
                    f" pictures, less than {agree:.1%}: {out} is left as it was"
                )
            write_card(made, recipe, source)
            if "knows" in source.about:
                confidence.write(made)
        Captioner(made)  # a model that can't be loaded must not be installed
        swap(made, out)
    card: dict[str, Any] = read_json(out / "model.json")
    return card


def assemble(raw: Path, folder: Path, recipe: Recipe | None, source: Checkpoint) -> None:
    """Write a model folder that the function can load, from the graphs in `raw`."""
    if recipe:
        quantize(raw, folder, recipe)
    else:
        for name in GRAPHS:
            optimise(raw / name, folder / name)
    write_vocabulary(source.processor, folder)
    (folder / LICENCE_FILE).write_text(source.licence, encoding="utf-8")
    write_card(folder, recipe, source)


def _check_disk(out: Path, parameters: int) -> None:
    need, free = DISK_BYTES * parameters / 1e9, shutil.disk_usage(out.parent).free / 1e9
    if need > free:
        raise ExportError(
            f"the disk of {out.parent} has {free:.1f} GB free, and {need:.1f} GB are needed: make room"
        )


@contextmanager
def _room(out: Path) -> Iterator[None]:
    """Raise ExportError, with a message for people, if the disk fills up meanwhile."""
    try:
        yield
    except Exception as failed:  # PyTorch and ONNX Runtime raise their own for a failed write
        if shutil.disk_usage(out.parent).free > FULL_BYTES:
            raise
        raise ExportError(f"the disk of {out.parent} is full: make room. {out} is left as it was") from failed


def compare(fp32: Path, small: Path, count: int) -> dict[str, Any]:
    """Return how often both models give the same caption of held-out scenes, and how often it is right."""
    pairs = fidelity.compare(fp32, small, captioned.held_out(count))
    right = sum(pair.second in pair.sample.references for pair in pairs)
    return {
        "held_out_scenes": count,
        "agrees_with_fp32": fidelity.agreement(pairs),
        "exact": right / count,
    }
