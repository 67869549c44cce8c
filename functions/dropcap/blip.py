"""BLIP in ONNX Runtime and NumPy: a picture in, one line of text out. No PyTorch, no transformers.

    captioner = load(folder, threads=1)      # once a process; a failed load is not kept
    captioner.caption(image, beams=3).text   # "a dog and a key on a green background"

A model folder holds `model.json` (the card), `vocab.txt` and two graphs, which graphs.py runs.
Token for token the same as `BlipForConditionalGeneration.generate` of transformers 4.57 (tests/test_blip.py).
"""

from __future__ import annotations

import hashlib
import json
import threading
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

from dropcap.analysis import Caption
from dropcap.graphs import REMEDY, Decoder, Encoder, Floats, Step
from dropcap.graphs import ModelError as ModelError

MAX_CHARACTERS = 500  # a caption is a line; whatever a model says, no more than this leaves here


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
    things: int = 0  # that a demonstration model knows; 0: it is none

    @property
    def notice(self) -> str:
        """One line that says that this is a demonstration model and what to do; empty of any other."""
        if not self.things:
            return ""
        return (
            f"demonstration captioner: knows {self.things} drawn objects; "
            "`make model` installs BLIP-base (1 GB download, about 5 minutes)"
        )

    @classmethod
    def read(cls, folder: Path) -> Card:
        """The card of a model folder; raises ModelError where there is none or it lacks something."""
        try:
            card = json.loads((folder / "model.json").read_text(encoding="utf-8"))
            image, tokens = card["image"], card["tokens"]
            files = {name: (int(file["bytes"]), str(file["sha256"])) for name, file in card["files"].items()}
            return cls(
                name=str(card["name"]),
                revision=str(card["revision"]),
                size=int(image["size"]),
                mean=tuple(image["mean"]),
                std=tuple(image["std"]),
                bos=int(tokens["bos"]),
                eos=int(tokens["eos"]),
                max_length=int(card["max_length"]),
                files=files,
                things=len(card["knows"]["things"]) if card.get("demo") else 0,
            )
        except FileNotFoundError as missing:
            raise ModelError(f"{folder / 'model.json'} is missing: {REMEDY}.") from missing
        except (OSError, ValueError, KeyError, TypeError) as wrong:
            raise ModelError(f"{folder / 'model.json'} can't be used ({wrong!r}): {REMEDY}.") from wrong

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


def preprocess(image: Image.Image, size: int, mean: Sequence[float], std: Sequence[float]) -> Floats:
    """(1, 3, size, size) as BlipImageProcessor makes it: squashed to a square, bicubic, normalised."""
    square = image.convert("RGB").resize((size, size), Image.Resampling.BICUBIC)
    pixels: Floats = np.asarray(square, np.float32) / np.float32(255)
    pixels = ((pixels - np.array(mean, np.float32)) / np.array(std, np.float32)).astype(np.float32)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1)[None])


class WordPiece:
    """The tokenizer of bert-base-uncased. Ids outside `vocab.txt` ([DEC], [ENC]) are special: never shown."""

    def __init__(self, vocabulary: Path) -> None:
        self.words = vocabulary.read_text(encoding="utf-8").splitlines()
        self.ids = {word: i for i, word in enumerate(self.words)}
        self.special = {self.ids.get(word) for word in ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")}

    def encode(self, text: str) -> list[int]:
        """The ids of a text, without special tokens; "[SEP]" in it is text like any other."""
        # 100 is max_input_chars_per_word of the reference: a longer word is unknown.
        words = (word if len(word) <= 100 else "[UNK]" for word in _split(text))
        return [i for word in words for i in self._pieces(word)]

    def _pieces(self, word: str) -> list[int]:
        pieces: list[int] = []
        mark = ""
        while word:
            length = next((n for n in range(len(word), 0, -1) if mark + word[:n] in self.ids), 0)
            if not length:
                return [self.ids["[UNK]"]]
            pieces.append(self.ids[mark + word[:length]])
            word, mark = word[length:], "##"
        return pieces

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids, with the spaces cleaned up as `clean_up_tokenization` of transformers does."""
        shown = (self.words[i] for i in ids if 0 <= i < len(self.words) and i not in self.special)
        text = " ".join(shown).replace(" ##", "")
        for wide in (" .", " ?", " !", " ,", " ' ", " n't", " 'm", " 's", " 've", " 're"):
            text = text.replace(wide, "'" if wide == " ' " else wide[1:])
        return text


def _split(text: str) -> list[str]:
    """Lower-case words and single punctuation marks, without accents and control characters, as BERT's."""
    out = []
    for c in unicodedata.normalize("NFD", text):
        kind = unicodedata.category(c)
        if c in "\t\n\r" or kind == "Zs":
            out.append(" ")
        elif kind == "Mn" or kind[0] == "C" or c == "\ufffd":
            continue
        elif kind[0] == "P" or c in "$+<=>^`|~" or unicodedata.name(c, "").startswith("CJK UNIFIED"):
            out.append(f" {c} ")  # punctuation, what ASCII has beside it, ideographs: each a word of its own
        else:
            out.append(c.lower())
    return "".join(out).split()


def greedy(step: Step, prompt: Sequence[int], max_tokens: int, eos: int) -> list[int]:
    """The prompt and at most `max_tokens` more ids, each the likeliest; `eos` included where it was said."""
    ids, given = list(prompt), list(prompt)
    for _ in range(max_tokens):
        given = [int(step(np.array([given], np.int64), None)[0].argmax())]
        ids += given
        if given[0] == eos:
            break
    return ids


def beam_search(step: Step, prompt: Sequence[int], beams: int, max_tokens: int, eos: int) -> list[int]:
    """The likeliest ids that `beams` beams find: transformers' `_beam_search` with length_penalty 1.0 and
    early_stopping False. A score is the mean log-probability of the ids after the prompt."""
    running = [list(prompt)] * beams
    scores = np.full(beams, -1e9, np.float32)
    scores[0] = 0  # all beams are equal at first: only one may choose
    finished: list[tuple[float, list[int]]] = []
    logits = step(np.array(running, np.int64), None)
    for length in range(1, max_tokens + 1):
        shifted = logits - logits.max(axis=-1, keepdims=True)
        total = scores[:, None] + (shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)))
        # Twice as many as beams, so that enough go on where the best of them end here.
        best = np.argpartition(-total, 2 * beams, axis=None)[: 2 * beams]
        best = best[np.argsort(-total.flat[best], kind="stable")]
        parents, tokens = np.divmod(best, total.shape[1])
        ends = [token == eos or length == max_tokens for token in tokens]
        for rank in range(beams):
            if ends[rank]:
                ids = [*running[parents[rank]], int(tokens[rank])]
                finished.append((float(total.flat[best[rank]]) / length, ids))
        finished = sorted(finished, key=lambda pair: -pair[0])[:beams]
        going_on = [rank for rank in range(2 * beams) if not ends[rank]][:beams]
        if not going_on:
            break
        scores = total.flat[best[going_on]]
        if len(finished) == beams and scores[0] / length <= finished[-1][0]:
            break
        running = [[*running[parents[rank]], int(tokens[rank])] for rank in going_on]
        logits = step(np.array([[ids[-1]] for ids in running], np.int64), [int(parents[r]) for r in going_on])
    return finished[0][1]


class Captioner:
    """A verified, loaded model. Calls from several threads are safe: nothing of a picture is kept here."""

    def __init__(self, folder: Path, threads: int = 1) -> None:
        """Load the model of a folder; raises ModelError, which names the file that is at fault."""
        self.card = Card.read(folder)
        self.card.verify(folder)
        self.tokenizer = WordPiece(folder / "vocab.txt")
        self._encoder = Encoder(folder, threads)
        self._decoder = Decoder(folder, threads)

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
        ids = self.generate(image, start, beams, min(max_tokens, room))
        line = "".join(c if c.isprintable() else " " for c in self.tokenizer.decode(ids))
        text = " ".join(line.split())[:MAX_CHARACTERS]
        return Caption(text, self.card.name, self.card.revision, demo=bool(self.card.things))

    def generate(self, image: Image.Image, start: Sequence[int], beams: int, max_tokens: int) -> list[int]:
        """Ids, `start` included. The picture's keys and values live as long as this call."""
        card = self.card
        step = self._decoder.steps(self._encoder(preprocess(image, card.size, card.mean, card.std)))
        if beams == 1:
            return greedy(step, start, max_tokens, card.eos)
        return beam_search(step, start, beams, max_tokens, card.eos)


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
