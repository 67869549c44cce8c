"""BLIP checkpoints to export, and the tests that need PyTorch for them."""

import os
import shutil
from collections import OrderedDict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.support.models.hub import BASE

needs_pytorch = pytest.mark.usefixtures("pytorch")


@pytest.fixture(scope="session")
def pytorch() -> None:
    """Skip tests of model_export where its packages are missing; with TORCH=required, as in CI, fail.

    Such tests import the packages inside functions: PyTorch takes 10 s of CPU, which a test worker that runs
    none of them does not spend.
    """
    if not find_spec("torch"):
        missing = "PyTorch is not installed in .venv-model: run make test"
        (pytest.fail if os.environ.get("TORCH") == "required" else pytest.skip)(missing)


def random_checkpoint(target: Path, seed: int) -> Path:
    """Write a tiny BLIP whose random weights are large enough for definite, distinct choices."""
    import torch
    from transformers import BlipConfig, BlipForConditionalGeneration, BlipImageProcessor

    from model_export.training.train import tokenizer

    torch.manual_seed(seed)
    shape: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4}
    shape["initializer_range"] = 0.3
    config = BlipConfig(
        vision_config=shape | {"num_hidden_layers": 2, "image_size": 48, "patch_size": 16},
        text_config=shape | {"num_hidden_layers": 2 + seed, "encoder_hidden_size": 32, "vocab_size": 30524},
    )
    model = BlipForConditionalGeneration(config)
    with torch.no_grad():  # or no sentence would ever end
        model.text_decoder.cls.predictions.bias[102] = 7.5
    model.save_pretrained(target)
    tokenizer().save_pretrained(target)
    BlipImageProcessor(size={"height": 48, "width": 48}).save_pretrained(target)
    return target


def as_on_the_hub(checkpoint: Path, target: Path) -> Path:
    """Write the checkpoint with the same files as Salesforce/blip-image-captioning-base.

    Its weights are a pickle that holds what transformers of 2022 saved besides the tensors of today: position
    ids as integers (hence its torch.LongStorage), and the tied weights of the vocabulary as tensors of their
    own (hence its 989,820,849 bytes, where 223,971,644 numbers have 896 million).
    """
    import torch
    from safetensors.torch import load_file

    others = shutil.ignore_patterns("model.safetensors", "generation_config.json", "added_tokens.json")
    shutil.copytree(checkpoint, target, ignore=others)
    weights = load_file(checkpoint / "model.safetensors")
    decoder = "text_decoder.cls.predictions.decoder"
    weights[f"{decoder}.weight"] = weights["text_decoder.bert.embeddings.word_embeddings.weight"].clone()
    weights[f"{decoder}.bias"] = weights["text_decoder.cls.predictions.bias"].clone()
    weights["text_decoder.bert.embeddings.position_ids"] = torch.arange(512)[None]
    tokens = weights["vision_model.embeddings.position_embedding"].shape[1]
    weights["vision_model.embeddings.position_ids"] = torch.arange(tokens)[None]
    torch.save(OrderedDict(weights), target / "pytorch_model.bin")
    (target / "tf_model.h5").write_bytes(b"never fetched")
    (target / ".gitattributes").write_text("*.bin filter=lfs diff=lfs merge=lfs -text\n")
    # Its README.md of 82a3776: the hub's API gives this front matter as the model's card data.
    (target / "README.md").write_text(
        "---\npipeline_tag: image-to-text\ntags:\n- image-captioning\nlanguages:\n- en\n"
        "license: bsd-3-clause\n---\n\n# BLIP\n"
    )
    assert {path.name for path in target.iterdir()} == set(BASE)
    return target
