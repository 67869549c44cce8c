"""Descriptions of scenes as a large model words them, true or altered on purpose, to judge witnesses.py by.

Each has a description of two or three sentences, an alt text and tags, all of one mind, as a model that
invents something tells it in all of them. Sentences, synonyms and further details are drawn at random.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from dropcap.analysis import Description

from .scenes import COLOURS, THINGS, Scene

SYNONYMS = {
    "rabbit": "bunny", "car": "automobile", "bicycle": "bike", "train": "locomotive", "airplane": "jet plane",
    "boat": "sailboat", "rocket": "spaceship", "turtle": "tortoise", "flower": "blossom", "shoe": "sneaker",
    "hat": "top hat", "guitar": "acoustic guitar", "moon": "crescent moon", "mushroom": "toadstool", "house":
    "cottage", "crown": "royal crown", "cake": "birthday cake", "bee": "bumblebee", "clock": "alarm clock",
    "ball": "soccer ball", "dog": "puppy", "cat": "kitten", "tree": "oak tree", "gray": "grey",
}  # fmt: skip
DETAILS = {  # what is to be seen of a thing besides, its colour among it: the caption says nothing of these
    "apple": "shiny red", "banana": "ripe yellow", "frog": "green", "elephant": "gray", "fox": "orange",
    "pig": "pink", "bear": "brown", "crab": "red", "strawberry": "red", "carrot": "orange", "bus": "yellow",
    "crown": "golden", "heart": "red", "cactus": "green", "cherry": "dark red", "key": "golden", "star":
    "yellow",
}  # fmt: skip
PLAIN = ("", "", "small", "cheerful", "cartoon-style", "glossy", "detailed", "stylized")
ALTERATIONS = ("colour", "number", "thing", "extra thing", "order", "direction")
NUMBERS = {2: "two", 3: "three", 4: "four"}
PLURALS = {"fish": "fish", "octopus": "octopuses", "cactus": "cacti", "blossom": "blossoms"}


@dataclass(frozen=True, slots=True)
class Facts:
    """What a description says is there: things in their order, and how many of each."""

    things: tuple[tuple[str, int], ...]
    colour: str
    across: bool  # in a row from left to right; else from top to bottom

    @classmethod
    def of(cls, scene: Scene) -> Facts:
        names = tuple((thing.name, 1) for thing in scene.things)
        return cls(names, scene.colour, scene.width >= scene.height)


def altered(facts: Facts, kind: str, rng: np.random.Generator) -> Facts | None:
    """The facts with one of them changed; None where there is nothing of the kind to change."""
    things = list(facts.things)
    at = int(rng.integers(len(things)))
    others = [name for name in THINGS if name not in dict(things)]
    match kind:
        case "colour":
            return replace(facts, colour=str(rng.choice([name for name in COLOURS if name != facts.colour])))
        case "number":
            things[at] = (things[at][0], int(rng.integers(2, 5)))
        case "thing":
            things[at] = (str(rng.choice(others)), 1)
        case "extra thing":
            things.insert(at, (str(rng.choice(others)), 1))
        case "order" if len(things) > 1:
            things.reverse()
        case "direction" if len(things) > 1:
            return replace(facts, across=not facts.across)
        case _:
            return None
    return replace(facts, things=tuple(things))


def describe(facts: Facts, rng: np.random.Generator, tuning: bool = False) -> Description:
    """One of the phrasings, at random; those for `tuning` are others than those that figures are given of."""
    say = _Words(facts, rng)
    frames = TUNING if tuning else REPORTED
    description, alt_text = frames[int(rng.integers(len(frames)))](say)
    tags = (*(name for name, _ in facts.things), f"{facts.colour} background", "illustration")
    return Description(_sentences(description), _sentences(alt_text).rstrip("."), tags, "", "phrasing", "")


class _Words:
    """Names of things, each the same wherever the description comes back to it."""

    def __init__(self, facts: Facts, rng: np.random.Generator) -> None:
        self.facts = facts
        self.pick: Callable[..., str] = lambda *options: str(rng.choice(options))
        self.names = [self.pick(name, SYNONYMS.get(name, name)) for name, _ in facts.things]
        self.colour = self.pick(facts.colour, SYNONYMS.get(facts.colour, facts.colour))
        self.details = [self.pick(*PLAIN, *[DETAILS.get(name, "")] * 4) for name, _ in facts.things]

    def a(self, i: int, detail: bool = True) -> str:
        """ "a small dog", "three dogs" """
        words = f"{self.details[i]} {self.names[i]}".strip() if detail else self.names[i]
        number = self.facts.things[i][1]
        if number > 1:
            return f"{NUMBERS[number]} {_plural(words)}"
        return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"

    def the(self, i: int) -> str:
        """ "the dog", "the three dogs" """
        number = self.facts.things[i][1]
        name = self.names[i].split()[-1]
        return f"the {NUMBERS[number]} {_plural(name)}" if number > 1 else f"the {name}"

    def all(self, detail: bool = True) -> str:
        return _list([self.a(i, detail) for i in range(len(self.names))])

    def places(self) -> str:
        """A sentence on where the things are."""
        the, across = [self.the(i) for i in range(len(self.names))], self.facts.across
        if len(the) == 1:
            return (
                f"{the[0]} fills most of the picture"
                if self.facts.things[0][1] == 1
                else "they fill most of it"
            )
        if len(the) == 2 and across:
            return self.pick(
                f"{the[0]} can be seen to the left of {the[1]}",
                f"on the left there is {self.a(0)}, and on the right {self.a(1)}",
                f"{the[1]} stands to the right of {the[0]}",
            )
        if len(the) == 2:
            return self.pick(
                f"{the[0]} hovers above {the[1]}",
                f"{the[1]} is placed below {the[0]}",
                f"{the[0]} sits at the top, with {the[1]} at the bottom",
            )
        ends = ("on the left", "on the right") if across else ("at the top", "at the bottom")
        return f"{the[0]} is {ends[0]} and {the[-1]} is {ends[1]}, with the rest between them"


Frame = Callable[[_Words], tuple[str, str]]


def _plain(say: _Words) -> tuple[str, str]:
    return (
        f"the image shows {say.all()}. {say.places()}. The background is a plain {say.colour}",
        f"{say.all(False)} on a {say.colour} background",
    )


def _there_is(say: _Words) -> tuple[str, str]:
    return (
        f"against a soft {say.colour} backdrop there {say.pick('is', 'appears')} {say.all()}, drawn in a "
        f"flat style. {say.places()}",
        f"{say.all(False)} against a {say.colour} backdrop",
    )


def _illustration(say: _Words) -> tuple[str, str]:
    return (
        f"a simple digital illustration of {say.all()} on a uniform {say.colour} background. {say.places()}. "
        "There is no text, and the edges are softly shaded",
        f"illustration of {say.all(False)} on {say.colour}",
    )


def _colour_first(say: _Words) -> tuple[str, str]:
    return (
        f"a solid {say.colour} background sets off {say.all()}. {say.places()}. The drawing has bold "
        "outlines and gentle shading, much like an emoji",
        f"{say.all(False)}, {say.colour} background",
    )


def _icons(say: _Words) -> tuple[str, str]:
    return (
        f"{say.all()} {say.pick('can be seen', 'are rendered')} as colorful emoji-like icons with clean "
        f"contours. {say.places()}. Behind everything lies an even {say.colour} surface with hardly any "
        "texture",
        f"emoji-style {say.all(False)} in front of a {say.colour} background",
    )


def _composition(say: _Words) -> tuple[str, str]:
    return (
        f"this minimalist composition features {say.all()}. {say.places()}. The backdrop is {say.colour}, "
        "slightly lighter towards one corner, which makes the subject stand out",
        f"{say.all(False)} with a {say.colour} backdrop behind",
    )


def _child(say: _Words) -> tuple[str, str]:
    return (
        f"in this playful picture, {say.all()} {say.pick('catch', 'attract')} the eye at once. "
        f"{say.places()}. No other objects are present, only a smooth background in {say.colour}",
        f"playful picture of {say.all(False)} on a smooth {say.colour} background",
    )


TUNING: tuple[Frame, ...] = (_plain, _there_is, _illustration)
REPORTED: tuple[Frame, ...] = (_colour_first, _icons, _composition, _child)


def _plural(words: str) -> str:
    if words in PLURALS:
        return PLURALS[words]
    first, _, last = words.rpartition(" ")
    if last in PLURALS:
        last = PLURALS[last]
    elif last.endswith("y") and last[-2] not in "aeo":
        last = last[:-1] + "ies"
    else:
        last += "es" if last.endswith(("s", "x", "ch", "sh")) else "s"
    return f"{first} {last}".strip()


def _list(words: list[str]) -> str:
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]]))


def _sentences(text: str) -> str:
    parts = [part.strip() for part in text.split(". ")]
    return ". ".join(part[0].upper() + part[1:] for part in parts).rstrip(".") + "."
