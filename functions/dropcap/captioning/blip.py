"""Caption a picture with BLIP in ONNX Runtime and NumPy, without PyTorch and transformers.

    captioner = load(folder, threads=1)      # cached per process; a failed load is not cached
    captioner.caption(image, beams=3).text   # "a dog and a key on a green background"

A model folder contains `model.json` (the card), `vocab.txt` and two graphs, which graphs.py runs.
The output equals, token for token, that of `BlipForConditionalGeneration.generate` of transformers 4.57
(tests/captioning/test_blip.py).
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import threading
import time
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import lru_cache, partial
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
from dropcap.runtime.timeouts import submit

# Words to drop at the end of a truncated loop: "a train on a train on ..." is cut to "a train on".
_DANGLING = re.compile(r"(?:[ ,]+(?:a|an|the|and|or|with|of|on|in|at|to|by|is|that))+$")
MAX_CHARACTERS = 500  # a longer caption is cut
VERIFIED_AT_LOAD = 16_000_000  # bytes: larger files are verified after the first caption; 10 ms
VERIFY_AFTER_S = 3.0
# A card is untrusted: its text is shown in terminals and on pages, and its numbers size allocations.
MAX_NAME = 200  # characters of its name and revision
MAX_SIDE = 2048  # px; BLIP's checkpoints take 384, and 480 for questions
MAX_TOKENS = 10_000_000
NUMBER = (ValueError, OverflowError)  # raised by int and float for an invalid or infinite number


@dataclass(frozen=True, slots=True)
class Confidence:
    """Threshold of a caption's confidence, measured by `model_export confidence`.

    The confidence is the mean log-probability of the tokens, minus `weight` times the distance of the picture
    from the known pictures, whose statistics are in `file` (novelty.py). Without a file the weight is unused.
    """

    threshold: float
    weight: float = 0.0
    file: str = ""


@dataclass(frozen=True, slots=True)
class Card:
    """A model's card: the fields of `model.json` that the function reads."""

    name: str
    revision: str
    size: int  # side of the square input, px
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    bos: int
    eos: int
    max_length: int  # positions of the decoder, prompt included
    files: dict[str, tuple[int, str]]  # name: bytes, sha256
    confidence: Confidence | None = None  # None: not measured, so no caption is rejected
    no_repeat_ngram_size: int = 0  # from the checkpoint's generation config in transformers
    things: int = 0  # known to a demonstration model; 0 for any other model

    @property
    def notice(self) -> str:
        """Return a line that says that this is a demonstration model and what to do; empty for any other."""
        return NOTICE.format(things=self.things) if self.things else ""

    @classmethod
    def read(cls, folder: Path) -> Card:
        """Return the card of a model folder. Raises ModelError if it is missing or invalid."""
        try:
            card = json.loads((folder / "model.json").read_text(encoding="utf-8"))
            image, tokens = card["image"], card["tokens"]
            files = {name: (int(file["bytes"]), str(file["sha256"])) for name, file in card["files"].items()}
            return cls(
                name=_printable_name(card["name"]),
                revision=_printable_name(card["revision"]),
                size=_int_between(1, MAX_SIDE, image["size"]),
                mean=_channels(image["mean"]),
                std=_channels(image["std"], least=1e-6),  # a divisor
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

    def verify(self, folder: Path, largest: float = math.inf) -> None:
        """Raise ModelError unless every file has the size of the card, and its SHA-256 up to `largest` bytes.

        250 MB take 0.2 s of CPU; without SHA instructions, three times as much.
        """
        for name, (size, sha256) in self.files.items():
            path = folder / name
            if not path.is_file():
                raise ModelError(f"{path} is missing: {REMEDY}.")
            if (found := path.stat().st_size) != size:
                raise ModelError(f"{path} has {found} bytes, not {size}, so it is cut: {REMEDY}.")
            if size > largest:
                continue
            with path.open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != sha256:
                    raise ModelError(f"{path} is not the file that model.json describes (SHA-256): {REMEDY}.")


def _describe(wrong: Exception) -> str:
    """Return class and message of an error; its repr may contain the whole file (UnicodeDecodeError)."""
    return f"{type(wrong).__name__}: {wrong}"


def _printable_name(value: object) -> str:
    """Return a printable name. Raises ValueError if it is not printable or too long."""
    text = str(value)
    if not text.isprintable() or not 0 < len(text) <= MAX_NAME:
        raise ValueError(f"{text[:MAX_NAME]!r} is not a name of at most {MAX_NAME} printable characters")
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
    """Return a finite number. A threshold of NaN would reject no caption. Raises ValueError."""
    if isinstance(value, bool) or not math.isfinite(number := float(value)):
        raise ValueError(f"{value!r} is not a number")
    return number


def _thing_count(things: Collection[str]) -> int:
    """Return the number of things that a demonstration model knows. Raises ValueError if there are none."""
    if not things:
        raise ValueError("a demonstration model that knows nothing")
    return len(things)


def preprocess(image: Image.Image, size: int, mean: Sequence[float], std: Sequence[float]) -> Floats:
    """Return the input (1, 3, size, size), as BlipImageProcessor: a square, bicubic, normalised."""
    square = image.convert("RGB").resize((size, size), Image.Resampling.BICUBIC)
    pixels: Floats = np.asarray(square, np.float32) / np.float32(255)
    pixels = ((pixels - np.array(mean, np.float32)) / np.array(std, np.float32)).astype(np.float32)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1)[None])


class Captioner:
    """A loaded model. It keeps no state of a picture, so that threads may share it.

    The SHA-256 of the weights is checked after the first caption, which need not wait for it: `make model`
    and `make deploy` have checked it, an image can't change, and a file that is cut has another size. If the
    weights are wrong all the same, every later caption raises ModelError.
    """

    def __init__(self, folder: Path, threads: int = 1) -> None:
        """Load the model of a folder. Raises ModelError, which names the faulty file."""
        self.card = Card.read(folder)
        self.card.verify(folder, VERIFIED_AT_LOAD)
        self._folder = folder
        self._verified: Future[None] | None = None
        measured = self.card.confidence
        try:
            self.tokenizer = WordPiece(folder / "vocab.txt")
            self._encoder = Encoder(folder, threads)
            self._decoder = Decoder(folder, threads)
            self._distance = (
                self._read_distance(folder / measured.file) if measured and measured.file else None
            )
        except (ValueError, LookupError) as wrong:  # a file has other content than its name says
            raise ModelError(
                f"{folder} is not a model that can be loaded ({_describe(wrong)}): {REMEDY}."
            ) from wrong
        # ONNX Runtime 1.32 reads past the end of a quantized embedding table if an id is too large.
        if max(self.card.bos, self.card.eos, len(self.tokenizer.words) - 1) >= self._decoder.vocabulary:
            raise ModelError(
                f"{folder} has tokens beyond the {self._decoder.vocabulary} of its decoder: {REMEDY}."
            )

    def caption(
        self, image: Image.Image, *, prompt: str = "", beams: int = 1, max_tokens: int = 30
    ) -> Caption:
        """Return a caption: one line of at most 500 printable characters.

        It begins with `prompt`, as in BLIP. `beams` 1 is greedy. `max_tokens` does not count the prompt.
        Raises ModelError if the prompt is too long or the model fails.
        """
        if self._verified and self._verified.done():
            self._verified.result()
        start = [self.card.bos, *self.tokenizer.encode(prompt)]
        if (room := self.card.max_length - len(start)) < 1:
            raise ModelError(f"The prompt has {len(start)} tokens of {self.card.max_length}: shorten it.")
        cross = self.encode(image)
        generated = self.generate(cross, start, beams, min(max_tokens, room))
        truncated = generated.truncate_loop()
        ids = truncated.ids
        if looped := truncated is not generated:
            ids = ids[: self.tokenizer.word_end(generated.ids, len(ids))]
        # A prompt alone does not describe the picture.
        line = self.tokenizer.decode([*start, *ids] if self.tokenizer.decode(ids).strip() else [])
        line = " ".join("".join(c if c.isprintable() else " " for c in line).split())
        if looped:
            line = _DANGLING.sub("", line)
        text, removed = remove_artefacts(line[:MAX_CHARACTERS])
        confidence, threshold = truncated.mean, None
        if measured := self.card.confidence:
            threshold = measured.threshold
            if self._distance:
                confidence -= measured.weight * self._distance(cross)
        if not math.isfinite(confidence):  # a broken model; neither JSON nor PostgreSQL can store it
            raise ModelError(
                f"The confidence in a caption is {confidence}, so the model is broken: {REMEDY}."
            )
        if not self._verified:
            self._verified = submit(partial(_verify_later, self.card, self._folder), "verify")
        return Caption(
            text,
            self.card.name,
            self.card.revision,
            confidence=confidence,
            # A loop has low confidence, however likely each of its tokens is.
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
        """Return the keys and values of the cross-attention for a picture."""
        card = self.card
        return self._encoder(preprocess(image, card.size, card.mean, card.std))

    def generate(self, cross: Cross, start: Sequence[int], beams: int, max_tokens: int) -> Generated:
        """Return the tokens after `start`, exactly as transformers generates them, loops included."""
        step, card = self._decoder.steps(cross), self.card
        if beams == 1:
            return greedy(step, start, max_tokens, card.eos, card.no_repeat_ngram_size)
        return beam_search(step, start, beams, max_tokens, card.eos, card.no_repeat_ngram_size)


def _verify_later(card: Card, folder: Path) -> None:
    """Verify a folder when the first picture is likely finished; hold no Captioner, which may be unloaded."""
    time.sleep(VERIFY_AFTER_S)
    card.verify(folder)


_loading = threading.Lock()


def load(folder: Path, threads: int = 1) -> Captioner:
    """Return the cached Captioner of a folder. A failed load raises ModelError and is not cached."""
    with _loading:  # callers wait for a load in progress instead of loading twice
        return _load(folder.resolve(), threads)


@lru_cache(maxsize=1)
def _load(folder: Path, threads: int) -> Captioner:
    return Captioner(folder, threads)  # lru_cache keeps results, not exceptions


def unload() -> bool:
    """Drop the cached Captioner and return whether there was one. Its memory is freed after its last use."""
    with _loading:
        loaded = _load.cache_info().currsize > 0
        _load.cache_clear()
        return loaded
