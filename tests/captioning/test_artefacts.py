"""BLIP-large's artefact words are removed; the rest stays grammatical, and real words are kept."""

import pytest

from dropcap.captioning.artefacts import remove_artefacts


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("arafed man in a hat and jacket", "man in a hat and jacket"),
        ("an arafed dog on a sofa", "a dog on a sofa"),
        ("a arafed elephant", "an elephant"),
        ("an arafed uniformed man", "a uniformed man"),
        ("an arafed hour glass", "an hour glass"),
        ("there is a arafed dog and an araffe cat", "there is a dog and a cat"),
        ("a man arafed wearing a hat", "a man wearing a hat"),
        ("arafed view of a city", "view of a city"),
        ("araffe ferris wheel in front of a city", "ferris wheel in front of a city"),
        ("araffe building with a clock", "building with a clock"),
        ("araful looking street with people", "street with people"),
        ("arafly shot of a building", "shot of a building"),
        ("araffed, arrafed araffy wheel", "wheel"),
        ("an arafed - looking man", "a man"),
        ("an arafed 8 ball and an arafed ukulele", "an 8 ball and a ukulele"),
    ],
)
def test_a_meaningless_adjective_is_removed(text: str, shown: str) -> None:
    assert remove_artefacts(text)[0] == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (
            "there is a araffe that is standing in the grass",
            "there is something that is standing in the grass",
        ),
        ("there are two araffes in a field", "there is something in a field"),
        ("araffes are walking on a glacier", "something is walking on a glacier"),
        ("araffe on a rock with moss", "something on a rock with moss"),
        ("a man looking at an arafe", "a man looking at something"),
        ("an araffe, a dog and a cat", "something, a dog and a cat"),
        ("an araffe looking at the camera", "something looking at the camera"),
        ("the head of an araffe", "the head of something"),
        ("an araffe's head", "something's head"),
        ("a woman with arafed and curly hair", "a woman with something and curly hair"),
        ("dogs and arafed", "dogs and something"),
        ("there are two araffes that are standing", "there is something that is standing"),
    ],
)
def test_a_meaningless_noun_becomes_something(text: str, shown: str) -> None:
    assert remove_artefacts(text)[0] == shown


@pytest.mark.parametrize(
    "text",
    [
        "a giraffe and two giraffes",
        "a carafe of water,  with two  spaces",
        "a man with a paraffin lamp",
        "yasser arafat and edmund araf",
        "a road sign that says araf",
        "a raffle, a graffiti wall, a gaffe and a café",
        "",
    ],
)
def test_real_words_are_kept(text: str) -> None:
    assert remove_artefacts(text) == (text, ())


def test_removed_words_are_listed_in_their_order() -> None:
    assert remove_artefacts("arafed man beside an araffe")[1] == ("arafed", "araffe")


@pytest.mark.parametrize("text", ["arafed", "an araffe", "two araffes.", "arafed arafed arafed"])
def test_a_caption_of_only_meaningless_words_is_empty(text: str) -> None:
    shown, gone = remove_artefacts(text)
    assert (shown, bool(gone)) == ("", True)
