"""BLEU and CIDEr of captions, against figures that can be worked out by hand."""

import math

import pytest

from tests.support.models.checkpoints import needs_pytorch

pytestmark = needs_pytorch


def test_words_are_in_lower_case_and_without_punctuation() -> None:
    from model_export.metrics.caption_scores import words

    assert words(' "A man\'s  T-shirt", in Café №5.') == "a man s t shirt in café 5"


def test_bleu_is_the_geometric_mean_of_four_precisions_times_the_brevity_penalty() -> None:
    from model_export.metrics.caption_scores import bleu

    captions = ["a man rides a horse", "a dog on a couch"]
    people = [["A man rides a horse.", "Someone on a horse"], ["The dog lies on a couch."]]
    # Of 10 words 9 are in the references ("a" counts once for the dog), of 8 pairs 6, of 6 triples 4, of 4
    # quadruples 2; 10 words stand for 11 of the references that are the closest in length.
    by_hand = 100 * (9 / 10 * 6 / 8 * 4 / 6 * 2 / 4) ** 0.25 * math.exp(1 - 11 / 10)
    assert bleu(captions, people) == pytest.approx(by_hand)


def test_bleu_takes_the_closest_of_any_number_of_references() -> None:
    from model_export.metrics.caption_scores import bleu

    people = [["a b c d"], ["something else", "a cat on a mat"]]
    assert bleu(["a b c d", "a cat on a mat"], people) == pytest.approx(100)


@pytest.mark.parametrize(
    ("captions", "score"),
    [
        # The references have one and two words: of n = 1 to 4, only the first two can be alike.
        ("red dog", 10 * (1 + 1 + 0 + 0) / 4),
        ("red cat", 10 * (1 / 2 + 0 + 0 + 0) / 4),
        ("big cat", 0),
    ],
)
def test_cider_is_ten_times_the_mean_cosine_of_weighted_n_grams(captions: str, score: float) -> None:
    from model_export.metrics.caption_scores import cider

    # All words are of one picture of two, so all weigh the same; the second picture is described wrongly.
    assert cider([captions, "blue"], [["Red dog."], ["green bird"]]) == pytest.approx(100 * score / 2)


def test_words_that_every_picture_shows_count_for_nothing_in_cider() -> None:
    from model_export.metrics.caption_scores import cider

    assert cider(["a lake", "a hill"], [["a"], ["a"]]) == 0


def test_a_caption_without_words_is_worth_nothing() -> None:
    from model_export.metrics.caption_scores import bleu, cider

    assert bleu(["", ""], [["a b c d"], ["e f g h"]]) == 0
    assert cider(["", ""], [["a b c d"], ["e f g h"]]) == 0
