"""Loops are truncated, other output is unchanged, and log-probabilities belong to their tokens."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dropcap.captioning.generation import Generated, beam_search, greedy, loop_end

EOS = 0
Words = list[str]


def kept(text: str) -> str:
    words = text.split()
    ids = [sorted(set(words)).index(word) for word in words]
    generated = Generated(ids, [-0.5] * len(ids)).truncate_loop()
    assert len(generated.ids) == len(generated.log_probabilities)
    return " ".join(words[: len(generated.ids)])


@pytest.mark.parametrize(
    ("generated", "shown"),
    [
        ("a shoe on a train on a train on a train on a train on a", "a shoe on a train"),
        ("a man with a bald bald bald bald bald", "a man with a bald"),
        ("a hat on a white a white a white a white", "a hat on a white"),
        ("a b c d a b c d a b c d", "a b c d"),
    ],
)
def test_a_loop_is_truncated_after_its_first_occurrence(generated: str, shown: str) -> None:
    assert kept(generated) == shown


@pytest.mark.parametrize(
    "generated",
    [
        "a dog and a cat and a dog",
        "a red car and a red bus and a red train",
        "a man in a santa hat says ho ho ho",
        "a shoe on a train on a train",
        "",
    ],
)
def test_text_without_a_loop_is_unchanged(generated: str) -> None:
    assert kept(generated) == generated


@given(st.lists(st.integers(0, 3), max_size=24))
def test_a_truncated_caption_has_no_loop_and_is_a_prefix(ids: list[int]) -> None:
    generated = Generated(ids, [-1.0] * len(ids)).truncate_loop()
    assert generated.ids == ids[: len(generated.ids)]
    assert loop_end(generated.ids) == 0
    assert bool(loop_end(ids)) == (generated.ids != ids)


def model(seed: int, words: int = 12) -> Any:
    """Return a step function whose logits depend on all previous ids, as the decoder's do."""
    table = np.random.default_rng(seed).normal(0, 2, (words, words)).astype(np.float32)
    past: list[list[int]] = []

    def step(ids: Any, rows: Any) -> Any:
        nonlocal past
        before = (
            [past[row] for row in (rows if rows is not None else range(len(ids)))]
            if past
            else [[]] * len(ids)
        )
        past = [[*old, *new] for old, new in zip(before, ids.tolist(), strict=True)]
        return np.stack([table[row[-1]] + 0.3 * table[row[len(row) // 2]] for row in past])

    return step


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("no_repeat", [0, 2])
def test_each_log_probability_belongs_to_its_token(seed: int, beams: int, no_repeat: int) -> None:
    search = (model(seed), [5, 7], *(() if beams == 1 else (beams,)), 9, EOS, no_repeat)
    generated = greedy(*search) if beams == 1 else beam_search(*search)
    step, tokens = model(seed), [5, 7]
    for token, log_probability in zip(generated.ids, generated.log_probabilities, strict=True):
        logits = step(np.array([tokens]), None)[0].astype(np.float64)
        assert log_probability == pytest.approx(logits[token] - np.log(np.exp(logits).sum()), abs=1e-5)
        tokens = [token]
    assert generated.mean == pytest.approx(np.mean(generated.log_probabilities))
