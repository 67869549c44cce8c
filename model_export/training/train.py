"""Train the small BLIP model: new scenes for every batch, without downloads.

`BlipForConditionalGeneration` is trained with only the ~85 words that captions use (half the work of a step
would go into 30,524 words otherwise) and widened to BERT's whole vocabulary when it is saved: the words it
never saw get zero vectors and an output bias of -20, so it never says one.
"""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import BertTokenizerFast, BlipConfig, BlipForConditionalGeneration, BlipImageProcessor

from .. import ROOT
from ..datasets import scenes

SIZE, PATCH, WIDTH = 128, 16, 192
VOCABULARY, PAD, SEP, DEC = 30524, 0, 102, 30522  # as in Salesforce/blip-image-captioning-base
PROMPT = "a picture of"  # of BLIP's paper; a share of the captions is trained with it
FRAME = ("a", "an", "and", ",", "on", "background")  # the words of captions between things and colours
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # CLIP's, as BLIP's


RECIPE = "recipe.json"  # beside a checkpoint's weights, for the model card
PACKED = "scenes.safetensors"
SHIPPED = Path(__file__).with_name(PACKED)  # the weights of the model in functions/model
TIED = {"text_decoder.cls.predictions.decoder.weight", "text_decoder.cls.predictions.decoder.bias"}


class TrainError(Exception):
    """Training cannot go on; the message says what to do."""


def tokenizer() -> BertTokenizerFast:
    """Return bert-base-uncased with BLIP's two special tokens and the vocabulary in functions/model."""
    vocabulary = str(ROOT / "functions" / "model" / "vocab.txt")
    words = BertTokenizerFast(vocabulary, clean_up_tokenization_spaces=True)
    words.add_special_tokens({"bos_token": "[DEC]"})
    words.add_special_tokens({"additional_special_tokens": ["[ENC]"]})
    return words


def word_ids(words: BertTokenizerFast) -> list[int]:
    """Return the ids that captions can contain, sorted: the small vocabulary of the training."""
    text = " ".join([*scenes.THINGS, *scenes.COLOURS, *FRAME, PROMPT])
    return sorted({PAD, SEP, DEC, *words(text, add_special_tokens=False)["input_ids"]})


def config(ids: list[int]) -> BlipConfig:
    """Return a BLIP of 10.6 M parameters once widened, of which 4.7 M are not the embedding."""
    common = {"hidden_size": WIDTH, "intermediate_size": 4 * WIDTH, "num_attention_heads": 6}
    return BlipConfig(
        projection_dim=WIDTH,
        image_text_hidden_size=WIDTH,
        vision_config={**common, "num_hidden_layers": 6, "image_size": SIZE, "patch_size": PATCH},
        text_config={
            **common,
            "encoder_hidden_size": WIDTH,
            "num_hidden_layers": 3,
            "vocab_size": len(ids),
            "pad_token_id": ids.index(PAD),
            "bos_token_id": ids.index(DEC),
            "eos_token_id": ids.index(SEP),
            "sep_token_id": ids.index(SEP),
            "hidden_dropout_prob": 0.0,  # every batch is new: there is nothing to overfit
            "attention_probs_dropout_prob": 0.0,
        },
    )


def widened(model: BlipForConditionalGeneration, ids: list[int]) -> BlipForConditionalGeneration:
    """Return the same model over BERT's whole vocabulary."""
    whole = BlipConfig.from_dict(model.config.to_dict())
    text = whole.text_config
    text.vocab_size, text.pad_token_id, text.bos_token_id = VOCABULARY, PAD, DEC
    text.eos_token_id = text.sep_token_id = SEP
    result = BlipForConditionalGeneration(whole)
    state, small = result.state_dict(), model.state_dict()
    for name, tensor in state.items():
        if name in small and small[name].shape == tensor.shape:
            tensor.copy_(small[name])
        else:
            tensor.fill_(-20.0 if name.endswith("bias") else 0.0)
            tensor[ids] = small[name]
    return result


class Batches(torch.utils.data.Dataset[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]):
    """Batch i of fresh scenes, always the same for i: pixels uint8 (B, S, S, 3), ids and labels (B, L)."""

    def __init__(
        self,
        words: BertTokenizerFast,
        ids: list[int],
        seed: int,
        batch: int,
        first: int,
        last: int,
        threes: float,
    ) -> None:
        small = {whole: i for i, whole in enumerate(ids)}
        texts = {*scenes.THINGS, *scenes.COLOURS, *FRAME, *PROMPT.split()}
        self.tokens = {
            text: [small[i] for i in words(text, add_special_tokens=False)["input_ids"]] for text in texts
        }
        self.seed, self.batch, self.first, self.last, self.threes = seed, batch, first, last, threes
        self.pad, self.bos, self.eos = small[PAD], small[DEC], small[SEP]

    def __len__(self) -> int:
        return self.last - self.first

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        rng = np.random.default_rng((0, self.seed, self.first + index))
        samples = [scenes.training_sample(rng, SIZE, self.threes) for _ in range(self.batch)]
        rows = []
        for _, caption in samples:
            prompt = PROMPT.split() if rng.random() < 0.15 else []
            text = [t for word in (*prompt, *caption.replace(",", " ,").split()) for t in self.tokens[word]]
            rows.append(([self.bos, *text, self.eos], 1 + len(prompt)))
        length = max(len(row) for row, _ in rows)
        ids = torch.full((self.batch, length), self.pad)
        labels = torch.full((self.batch, length), -100)
        for i, (row, prompt_length) in enumerate(rows):
            ids[i, : len(row)] = torch.tensor(row)
            labels[i, prompt_length : len(row)] = ids[
                i, prompt_length : len(row)
            ]  # the prompt is not learnt, as in BLIP
        return torch.from_numpy(np.stack([pixels for pixels, _ in samples])), ids, labels


def normalised(pixels: torch.Tensor) -> torch.Tensor:
    """Convert uint8 (B, S, S, 3) to BLIP's input: float (B, 3, S, S)."""
    return ((pixels.float() / 255 - torch.tensor(MEAN)) / torch.tensor(STD)).permute(0, 3, 1, 2).contiguous()


class Validation:
    """Scenes of their own seeds, drawn large: tells how training goes without touching the held-out ones."""

    def __init__(self, words: BertTokenizerFast, ids: list[int], count: int) -> None:
        from ..datasets.captioned import product_copy

        drawn = [scenes.random_scene(np.random.default_rng((2, i))) for i in range(count)]
        files = (scenes.encode(scenes.draw(scene), quality=90) for scene in drawn)
        small = [product_copy(file).resize((SIZE, SIZE), Image.Resampling.BICUBIC) for file in files]
        self.pixels = normalised(torch.from_numpy(np.stack([np.asarray(image) for image in small])))
        self.captions, self.words, self.ids = [s.caption for s in drawn], words, ids

    @torch.inference_mode()
    def accuracy(self, model: BlipForConditionalGeneration) -> float:
        """Return the share of captions that greedy decoding gets exactly right."""
        model.eval()
        rows = model.generate(pixel_values=self.pixels.float(), max_length=24).tolist()
        model.train()
        decoded = [self.words.decode([self.ids[i] for i in row], skip_special_tokens=True) for row in rows]
        return sum(a == b for a, b in zip(decoded, self.captions, strict=True)) / len(decoded)


def rate_at(step: int, steps: int) -> float:
    """Return the share of the peak learning rate: 4 % warm-up, then a cosine to zero."""
    warm = max(1, steps * 4 // 100)
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / (steps - warm)))


def train(
    folder: Path,
    steps: int,
    batch: int,
    rate: float,
    threes: float,
    seed: int,
    every: int,
    threads: int,
    resume: bool,
) -> None:
    """Leave a BLIP checkpoint in `folder`, renewed every `every` steps, and what --resume goes on from."""
    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    words = tokenizer()
    ids = word_ids(words)
    model = BlipForConditionalGeneration(config(ids))
    eyes = model.vision_model.embeddings  # drawn with std 1 by a class that expects trained weights
    for table in (eyes.position_embedding, eyes.class_embedding):
        torch.nn.init.normal_(table, std=0.02)
    # AdamW with the recipe's betas; Muon took twice the time a step on two cores.
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, betas=(0.9, 0.98), weight_decay=0.05)
    state, start = folder / "training.pt", 0
    command = (
        "python -m model_export train"
        f" --steps {steps} --batch {batch} --rate {rate} --threes {threes} --seed {seed}"
    )
    if resume:
        if not state.exists():
            raise TrainError(f"nothing to resume in {folder}: train without --resume first")
        saved = torch.load(state)
        if saved["command"] != command:
            raise TrainError(f"{folder} is of another recipe; go on with {saved['command']} --resume")
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        start = saved["step"]
    folder.mkdir(parents=True, exist_ok=True)
    recipe = {
        "name": "dropcap-scenes",
        "demo": True,
        "source": command,
        "knows": {"things": list(scenes.THINGS), "backgrounds": list(scenes.COLOURS)},
        "limits": "Trained from nothing on drawn scenes of one to three of these things: it knows nothing"
        " else, and says one of its own sentences about any other picture.",
    }
    check = Validation(words, ids, 200)
    batches = Batches(words, ids, seed, batch, start, steps, threes)
    loader = torch.utils.data.DataLoader(batches, batch_size=None, num_workers=1, prefetch_factor=8)
    columns = TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn()
    with Progress(*columns) as progress:
        task = progress.add_task("training", total=steps, completed=start)
        smooth = math.nan
        model.train()
        for step, (pixels, tokens, labels) in enumerate(loader, start + 1):
            for group in optimizer.param_groups:
                group["lr"] = rate * rate_at(step - 1, steps)
            # bfloat16 takes 0.49 s a step where float32 takes 0.74 (2 cores with AVX512-BF16).
            with torch.autocast("cpu", torch.bfloat16):
                mask = (tokens != ids.index(PAD)).long()
                loss = model(normalised(pixels), input_ids=tokens, attention_mask=mask, labels=labels).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            smooth = loss.item() if math.isnan(smooth) else 0.98 * smooth + 0.02 * loss.item()
            progress.update(task, completed=step, description=f"loss {smooth:.4f}")
            if step % every == 0 or step == steps:
                exact = check.accuracy(model)
                progress.console.print(f"step {step}: loss {smooth:.4f}, {exact:.1%} of 200 right")
                part = state.with_suffix(".partial")
                torch.save(
                    {
                        "model": model.state_dict(),
                        "optimizer": optimizer.state_dict(),
                        "step": step,
                        "command": command,
                    },
                    part,
                )
                os.replace(part, state)
                pack(model, folder / PACKED, recipe | {"steps_done": step, "validation_exact": exact})
                unpack(folder / PACKED, folder)


def pack(model: BlipForConditionalGeneration, file: Path, recipe: dict[str, Any]) -> None:
    """Write the small vocabulary's weights in fp16, and the recipe: 9.6 MB, for `unpack`."""
    state = {
        name: tensor.half().contiguous() for name, tensor in model.state_dict().items() if name not in TIED
    }
    save_file(state, file, metadata={"recipe": json.dumps(recipe)})


def unpack(file: Path, folder: Path) -> Path:
    """Make `folder` a checkpoint for `from_pretrained`: weights, tokenizer, image processor, recipe."""
    words = tokenizer()
    ids = word_ids(words)
    model = BlipForConditionalGeneration(config(ids))
    model.load_state_dict({name: tensor.float() for name, tensor in load_file(file).items()}, strict=False)
    model.tie_weights()
    widened(model, ids).save_pretrained(folder)
    words.save_pretrained(folder)
    size = {"height": SIZE, "width": SIZE}
    BlipImageProcessor(size=size, image_mean=list(MEAN), image_std=list(STD)).save_pretrained(folder)
    with safe_open(file, "pt") as opened:
        (folder / RECIPE).write_text(opened.metadata()["recipe"], encoding="utf-8")
    return folder
