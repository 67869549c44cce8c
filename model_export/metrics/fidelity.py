"""Compare two models of the same weights: both caption the same pictures."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.progress import track

from dropcap.captioning.blip import Captioner
from dropcap.captioning.generation import Generated, log_softmax
from dropcap.captioning.graphs import Cross, Floats

from ..datasets.captioned import Dataset, Sample, shown

LIKELIEST = 10  # tokens whose logits are compared; most of the vocabulary is never likely


@dataclass(frozen=True, slots=True)
class Drift:
    """How far the second model's logits are from the first's, where both were fed the first's caption.

    Each array has an entry for each token of the caption, its end included.
    """

    same: NDArray[np.bool_]  # whether both have the same likeliest token
    mean: Floats  # mean absolute difference of the logits of the first's LIKELIEST tokens
    largest: Floats  # largest absolute difference of any logit
    divergence: NDArray[np.float64]  # Kullback-Leibler divergence from the first's distribution, nats


@dataclass(frozen=True, slots=True)
class Pair:
    """The captions of both models for a picture."""

    sample: Sample
    first: str
    second: str
    same: bool  # token for token
    drift: Drift


class Probe(Captioner):
    """A Captioner that keeps the ids of its last caption, and what its encoder made of the picture."""

    ids: Sequence[int] = ()
    _cross: Cross

    def generate(self, cross: Cross, start: Sequence[int], beams: int, max_tokens: int) -> Generated:
        """Generate as the Captioner does, and keep the ids."""
        generated = super().generate(cross, start, beams, max_tokens)
        self.ids, self._cross = [*start, *generated.ids], cross
        return generated

    def logits(self, ids: Sequence[int]) -> Floats:
        """Return logits (len(ids) - 1, vocabulary): row i predicts the token after `ids[i]`."""
        step = self._decoder.steps(self._cross)
        return np.concatenate([step(np.array([[i]], np.int64), None) for i in ids[:-1]])


def compare(first: Path, second: Path, dataset: Dataset, beams: int = 1) -> list[Pair]:
    """Return what the models of two folders say of a data set; see `compare_all`."""
    return compare_all(first, [second], dataset, beams)[0]


def compare_all(first: Path, others: Sequence[Path], dataset: Dataset, beams: int = 1) -> list[list[Pair]]:
    """Return, for each of the `others`, what it and the first say of a data set, each picture decoded once.

    `beams` 1 is greedy. Raises ModelError, and EvaluateError for a picture that is none.
    """
    threads = os.cpu_count() or 1
    one, *rest = (Probe(folder, threads) for folder in (first, *others))
    pairs: list[list[Pair]] = [[] for _ in rest]
    for sample, data in track(
        dataset.samples(), f"captioning {dataset.count:,} {dataset.name}", total=dataset.count
    ):
        with shown(sample, data) as image:
            generated = one.caption(image, beams=beams).text
            also = [other.caption(image, beams=beams).text for other in rest]
        logits = one.logits(one.ids)
        for other, text, made in zip(rest, also, pairs, strict=True):
            moved = drift(logits, other.logits(one.ids))
            made.append(Pair(sample, generated, text, one.ids == other.ids, moved))
    return pairs


def drift(first: Floats, second: Floats) -> Drift:
    """Return the differences between the logits `first` and `second`, both (L, vocabulary)."""
    error = np.abs(second - first)
    likeliest = np.argpartition(-first, LIKELIEST, axis=-1)[:, :LIKELIEST]
    p, q = (log_softmax(logits.astype(np.float64)) for logits in (first, second))
    return Drift(
        same=first.argmax(-1) == second.argmax(-1),
        mean=np.take_along_axis(error, likeliest, axis=-1).mean(-1),
        largest=error.max(-1),
        divergence=(np.exp(p) * (p - q)).sum(-1),
    )


def agreement(pairs: Sequence[Pair]) -> float:
    """Return the share of pictures with equal captions, token for token."""
    return sum(pair.same for pair in pairs) / len(pairs)


def summary(pairs: Sequence[Pair]) -> dict[str, Any]:
    """Return the drift over all tokens of all pictures, in the units of Drift."""

    drifts = [pair.drift for pair in pairs]
    same = np.concatenate([drift.same for drift in drifts])
    return {
        "tokens": len(same),
        "same_choice": float(same.mean()),
        "mean_error": float(np.concatenate([drift.mean for drift in drifts]).mean()),
        "max_error": float(max(drift.largest.max() for drift in drifts)),
        "divergence": float(np.concatenate([drift.divergence for drift in drifts]).mean()),
    }
