"""Greedy and beam search, equal to transformers 4.57 token for token, and truncation of loops."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dropcap.captioning.graphs import Floats, Step

REPEATS = 3  # consecutive repeats of an n-gram that make a loop
REPEATS_OF_ONE = 4  # the same for a single token: "ho ho ho" is a valid caption


@dataclass(frozen=True, slots=True)
class Generated:
    """The ids that follow a prompt, and the log-probability of each."""

    ids: list[int]
    log_probabilities: list[float]

    @property
    def mean(self) -> float:
        """Return the mean log-probability; 0 is certain."""
        return sum(self.log_probabilities) / len(self.log_probabilities)

    def append(self, token: int, log_probability: float) -> Generated:
        """Return a copy with one more id."""
        return Generated([*self.ids, token], [*self.log_probabilities, log_probability])

    def truncate_loop(self) -> Generated:
        """Return the ids up to the end of the first occurrence of a loop, or itself if there is no loop."""
        length = loop_end(self.ids)
        return Generated(self.ids[:length], self.log_probabilities[:length]) if length else self


def loop_end(ids: Sequence[int]) -> int:
    """Return how many ids there are up to the end of an n-gram's first occurrence that comes REPEATS times in
    a row, 0 without any. Of several loops, the one that is complete first counts."""
    for end in range(1, len(ids) + 1):
        for size in range(1, end // REPEATS + 1):
            repeats = REPEATS if size > 1 else REPEATS_OF_ONE
            first = end - size * repeats
            if first >= 0 and ids[first : end - size] == ids[first + size : end]:
                return first + size
    return 0


def greedy(step: Step, prompt: Sequence[int], max_tokens: int, eos: int, no_repeat: int = 0) -> Generated:
    """Return at most `max_tokens` ids, each the likeliest; includes `eos` if it was generated.

    `no_repeat` is transformers' no_repeat_ngram_size: no n-gram of that size comes twice; 0 is off.
    """
    generated = Generated([], [])
    inputs = list(prompt)
    for _ in range(max_tokens):
        log_probabilities = log_softmax(step(np.array([inputs], np.int64), None))
        (allowed,) = _ban_repeated_ngrams(log_probabilities, [[*prompt, *generated.ids]], no_repeat)
        inputs = [int(allowed.argmax())]
        generated = generated.append(inputs[0], float(allowed[inputs[0]]))
        if inputs[0] == eos:
            break
    return generated


def beam_search(
    step: Step, prompt: Sequence[int], beams: int, max_tokens: int, eos: int, no_repeat: int = 0
) -> Generated:
    """Return the likeliest ids that `beams` beams find: transformers' `_beam_search` with length_penalty 1.0
    and early_stopping False. A score is the mean log-probability. `no_repeat` is as for `greedy`."""
    running = [Generated([], [])] * beams
    scores = np.full(beams, -1e9, np.float32)
    scores[0] = 0  # all beams are equal at first: only one may choose
    finished: list[tuple[float, Generated]] = []
    logits = step(np.array([prompt] * beams, np.int64), None)
    for length in range(1, max_tokens + 1):
        so_far = [[*prompt, *beam.ids] for beam in running]
        allowed = _ban_repeated_ngrams(log_softmax(logits), so_far, no_repeat)
        total = scores[:, None] + allowed
        # Twice as many as beams, so that enough go on where the best of them end here.
        best = np.argpartition(-total, 2 * beams, axis=None)[: 2 * beams]
        best = best[np.argsort(-total.flat[best], kind="stable")]
        parents, tokens = np.divmod(best, total.shape[1])
        ends = [token == eos or length == max_tokens for token in tokens]
        longer = [
            running[parent].append(int(token), float(allowed[parent, token]))
            for parent, token in zip(parents, tokens, strict=True)
        ]
        for rank in range(beams):
            if ends[rank]:
                finished.append((float(total.flat[best[rank]]) / length, longer[rank]))
        finished = sorted(finished, key=lambda pair: -pair[0])[:beams]
        going_on = [rank for rank in range(2 * beams) if not ends[rank]][:beams]
        if not going_on:
            break
        scores = total.flat[best[going_on]]
        if len(finished) == beams and scores[0] / length <= finished[-1][0]:
            break
        running = [longer[rank] for rank in going_on]
        logits = step(
            np.array([[beam.ids[-1]] for beam in running], np.int64), [int(parents[r]) for r in going_on]
        )
    return finished[0][1]


def log_softmax(logits: Floats) -> Floats:
    shifted = logits - logits.max(axis=-1, keepdims=True)
    result: Floats = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return result


def _ban_repeated_ngrams(log_probabilities: Floats, so_far: Sequence[Sequence[int]], size: int) -> Floats:
    """Bar each token that would repeat an n-gram of `size` in its row, as NoRepeatNGramLogitsProcessor of
    transformers does; the prompt counts. `log_probabilities` (rows, vocabulary) is changed and returned."""
    if size:
        for row, ids in zip(log_probabilities, so_far, strict=True):
            ngrams = [tuple(ids[i : i + size]) for i in range(len(ids) - size + 1)]
            row[[ngram[-1] for ngram in ngrams if ngram[:-1] == tuple(ids[len(ids) + 1 - size :])]] = -np.inf
    return log_probabilities
