"""BLIP in ONNX Runtime and NumPy: a picture in, one line of text out. No PyTorch, no transformers.

    captioner = load(folder, threads=1)      # once a process; a failed load is not kept
    captioner.caption(image, beams=3).text   # "a dog and a key on a green background"

A model folder holds `model.json` (the card), `vocab.txt` and two graphs, which graphs.py runs.
Token for token the same as `BlipForConditionalGeneration.generate` of transformers 4.57
(tests/captioning/test_blip.py).
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import threading
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from dropcap.captioning.artefacts import remove_artefacts
from dropcap.captioning.generation import Generated, beam_search, greedy
from dropcap.captioning.graphs import REMEDY, Cross, Decoder, Encoder, Floats
from dropcap.captioning.graphs import ModelError as ModelError
from dropcap.captioning.novelty import Distance
from dropcap.captioning.wordpiece import WordPiece
from dropcap.domain.analysis import NOTICE, Caption

# What a loop that was cut may end with: of "a train on a train on ..." it leaves "a train on".
_DANGLING = re.compile(r"(?:[ ,]+(?:a|an|the|and|or|with|of|on|in|at|to|by|is|that))+$")
MAX_CHARACTERS = 500  # a caption is a line; whatever a model says, no more than this leaves here
# A card may come from anywhere: what it says is shown at terminals and on pages, and sizes what is allocated.
MAX_NAME = 200  # characters of its name and revision
MAX_SIDE = 2048  # px; BLIP's own look at 384, and for questions at 480
MAX_TOKENS = 10_000_000
NUMBER = (ValueError, OverflowError)  # what int and float raise of a number that is none, or infinite


@dataclass(frozen=True, slots=True)
class Confidence:
    """Threshold of a caption's confidence, as `model_export confidence` measures it.

    A caption's confidence is the mean log-probability of its tokens, less `weight` times the distance of the
    picture from those of `file` (novelty.py); no file: the former alone.
    """

    threshold: float
    weight: float = 0.0
    file: str = ""


@dataclass(frozen=True, slots=True)
class Card:
    """What the function needs of `model.json`; people find more in it."""

    name: str
    revision: str
    size: int  # side of the square the model looks at, px
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    bos: int
    eos: int
    max_length: int  # positions the decoder has, prompt included
    files: dict[str, tuple[int, str]]  # name: bytes, sha256
    confidence: Confidence | None = None  # None: not measured, and no caption is rejected
    no_repeat_ngram_size: int = 0  # as in transformers' generation config of the checkpoint
    things: int = 0  # that a demonstration model knows; 0: it is none

    @property
    def notice(self) -> str:
        """One line that says that this is a demonstration model and what to do; empty of any other."""
        return NOTICE.format(things=self.things) if self.things else ""

    @classmethod
    def read(cls, folder: Path) -> Card:
        """The card of a model folder; raises ModelError where there is none or it lacks something."""
        try:
            card = json.loads((folder / "model.json").read_text(encoding="utf-8"))
            image, tokens = card["image"], card["tokens"]
            files = {name: (int(file["bytes"]), str(file["sha256"])) for name, file in card["files"].items()}
            return cls(
                name=_printable_name(card["name"]),
                revision=_printable_name(card["revision"]),
                size=_int_between(1, MAX_SIDE, image["size"]),
                mean=_channels(image["mean"]),
                std=_channels(image["std"], least=1e-6),  # what is divided by
                bos=_int_between(0, MAX_TOKENS, tokens["bos"]),
                eos=_int_between(0, MAX_TOKENS, tokens["eos"]),
                max_length=_int_between(2, MAX_TOKENS, card["max_length"]),
                files=files,
                confidence=_confidence(card["confidence"], files) if "confidence" in card else None,
                no_repeat_ngram_size=max(0, int(card.get("no_repeat_ngram_size", 0))),
                things=_thing_count(card["knows"]["things"]) if card.get("demo") else 0,
            )
        except FileNotFoundError as missing:
            raise ModelError(f"{folder / 'model.json'} is missing: {REMEDY}.") from missing
        except (OSError, LookupError, TypeError, AttributeError, RecursionError, *NUMBER) as wrong:
            raise ModelError(
                f"{folder / 'model.json'} can't be used ({_describe(wrong)}): {REMEDY}."
            ) from wrong

    def verify(self, folder: Path) -> None:
        """Every file is there, with the size and SHA-256 that the card says: 0.1 s for 200 MB, once."""
        for name, (size, sha256) in self.files.items():
            path = folder / name
            if not path.is_file():
                raise ModelError(f"{path} is missing: {REMEDY}.")
            if (found := path.stat().st_size) != size:
                raise ModelError(f"{path} has {found} bytes, not {size}, so it is cut: {REMEDY}.")
            with path.open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != sha256:
                    raise ModelError(f"{path} is not the file that model.json describes (SHA-256): {REMEDY}.")


def _describe(wrong: Exception) -> str:
    """Return kind and message of an error; its repr may hold the whole file (UnicodeDecodeError)."""
    return f"{type(wrong).__name__}: {wrong}"


def _printable_name(value: object) -> str:
    """Return a name that may be shown; raises ValueError."""
    text = str(value)
    if not text.isprintable() or not 0 < len(text) <= MAX_NAME:
        raise ValueError(f"{text[:MAX_NAME]!r} is no name of at most {MAX_NAME} printable characters")
    return text


def _int_between(least: int, most: int, value: Any) -> int:
    number = int(value)
    if not least <= number <= most:
        raise ValueError(f"{number} is not between {least} and {most}")
    return number


def _channels(values: Sequence[Any], least: float = -math.inf) -> tuple[float, float, float]:
    red, green, blue = map(_number, values)
    if min(red, green, blue) < least:
        raise ValueError(f"{min(red, green, blue)} is less than {least}")
    return red, green, blue


def _confidence(card: Mapping[str, Any], files: Collection[str]) -> Confidence:
    threshold, distance = _number(card["threshold"]), card.get("distance")
    if distance is None:
        return Confidence(threshold)
    if distance["file"] not in files:
        raise ValueError(f"{distance['file']} is not among its files")
    return Confidence(threshold, _number(distance["weight"]), str(distance["file"]))


def _number(value: Any) -> float:
    """Return a finite number of a card. Nothing is less than NaN, so that no caption would be rejected."""
    if isinstance(value, bool) or not math.isfinite(number := float(value)):
        raise ValueError(f"{value!r} is no number")
    return number


def _thing_count(things: Collection[str]) -> int:
    """Return how many things a demonstration model knows; none would make it look like any other model."""
    if not things:
        raise ValueError("a demonstration model that knows nothing")
    return len(things)


def preprocess(image: Image.Image, size: int, mean: Sequence[float], std: Sequence[float]) -> Floats:
    """(1, 3, size, size) as BlipImageProcessor makes it: squashed to a square, bicubic, normalised."""
    square = image.convert("RGB").resize((size, size), Image.Resampling.BICUBIC)
    pixels: Floats = np.asarray(square, np.float32) / np.float32(255)
    pixels = ((pixels - np.array(mean, np.float32)) / np.array(std, np.float32)).astype(np.float32)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1)[None])


class Captioner:
    """A verified, loaded model. Calls from several threads are safe: nothing of a picture is kept here."""

    def __init__(self, folder: Path, threads: int = 1) -> None:
        """Load the model of a folder; raises ModelError, which names the file that is at fault."""
        self.card = Card.read(folder)
        self.card.verify(folder)
        measured = self.card.confidence
        try:
            self.tokenizer = WordPiece(folder / "vocab.txt")
            self._encoder = Encoder(folder, threads)
            self._decoder = Decoder(folder, threads)
            self._distance = (
                self._read_distance(folder / measured.file) if measured and measured.file else None
            )
        except (ValueError, LookupError) as wrong:  # files that are not what their names say
            raise ModelError(
                f"{folder} is no model that can be loaded ({_describe(wrong)}): {REMEDY}."
            ) from wrong
        # ONNX Runtime reads what lies behind the table where an id is too large (1.32, quantized embeddings).
        if max(self.card.bos, self.card.eos, len(self.tokenizer.words) - 1) >= self._decoder.vocabulary:
            raise ModelError(
                f"{folder} has tokens beyond the {self._decoder.vocabulary} of its decoder: {REMEDY}."
            )

    def caption(
        self, image: Image.Image, *, prompt: str = "", beams: int = 1, max_tokens: int = 30
    ) -> Caption:
        """One line of at most 500 printable characters that says what is in the picture.

        It begins with `prompt`, as BLIP's own does; `beams` 1 is greedy; `max_tokens` come on top of the
        prompt. Raises ModelError where the prompt is too long or the model fails.
        """
        start = [self.card.bos, *self.tokenizer.encode(prompt)]
        if (room := self.card.max_length - len(start)) < 1:
            raise ModelError(f"The prompt has {len(start)} tokens of {self.card.max_length}: shorten it.")
        cross = self.encode(image)
        generated = self.generate(cross, start, beams, min(max_tokens, room))
        said = generated.truncate_loop()
        ids = said.ids
        if looped := said is not generated:
            ids = ids[: self.tokenizer.word_end(generated.ids, len(ids))]
        # A prompt alone says nothing of the picture.
        line = self.tokenizer.decode([*start, *ids] if self.tokenizer.decode(ids).strip() else [])
        line = " ".join("".join(c if c.isprintable() else " " for c in line).split())
        if looped:
            line = _DANGLING.sub("", line)
        text, removed = remove_artefacts(line[:MAX_CHARACTERS])
        confidence, threshold = said.mean, None
        if measured := self.card.confidence:
            threshold = measured.threshold
            if self._distance:
                confidence -= measured.weight * self._distance(cross)
        if not math.isfinite(confidence):  # of a broken model; neither JSON nor PostgreSQL can hold it
            raise ModelError(
                f"The confidence in a caption is {confidence}, so the model is broken: {REMEDY}."
            )
        return Caption(
            text,
            self.card.name,
            self.card.revision,
            confidence=confidence,
            # A loop is no caption that a model is sure of, however likely each of its tokens was.
            low_confidence=threshold is not None and (confidence < threshold or looped),
            demo=bool(self.card.things),
            removed=removed,
        )

    def _read_distance(self, path: Path) -> Distance:
        try:
            return Distance.read(path, self._encoder.width)
        except ValueError as wrong:
            raise ModelError(f"{path} can't be used ({wrong}): {REMEDY}.") from wrong

    def encode(self, image: Image.Image) -> Cross:
        """Return the picture's keys and values, which live as long as someone holds them."""
        card = self.card
        return self._encoder(preprocess(image, card.size, card.mean, card.std))

    def generate(self, cross: Cross, start: Sequence[int], beams: int, max_tokens: int) -> Generated:
        """Return what follows `start`, exactly as transformers generates it, loops included."""
        step, card = self._decoder.steps(cross), self.card
        if beams == 1:
            return greedy(step, start, max_tokens, card.eos, card.no_repeat_ngram_size)
        return beam_search(step, start, beams, max_tokens, card.eos, card.no_repeat_ngram_size)


_loading = threading.Lock()


def load(folder: Path, threads: int = 1) -> Captioner:
    """The process's one Captioner of a folder. A failed load raises ModelError; the next call tries again."""
    with _loading:  # callers wait for the one that loads, instead of loading twice
        return _load(folder.resolve(), threads)


@lru_cache(maxsize=1)
def _load(folder: Path, threads: int) -> Captioner:
    return Captioner(folder, threads)  # lru_cache keeps results, not exceptions


def unload() -> bool:
    """Keep no Captioner any more, and say if there was one: its memory is free as soon as nobody uses it."""
    with _loading:
        loaded = _load.cache_info().currsize > 0
        _load.cache_clear()
        return loaded
