"""Measure how often `dropcap.domain.consistency` flags true descriptions, and altered ones.

Two sets: held-out scenes, captioned by the real model and described from templates, and pairs.json, written
by hand as BLIP-base and Gemini describe photographs. The `tuning` pairs are for changing the rules: no
published figure is of them. `--captions` adds photographs that five people have captioned.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from dropcap.captioning.blip import Captioner
from dropcap.domain.analysis import Description
from dropcap.domain.consistency import compare

from .. import read_json, write_json
from ..datasets import captioned, scenes

TRUE, MAX_FALSE_ALARMS = "true", 0.01
SYNONYMS = {
    "rabbit": "bunny", "car": "automobile", "bicycle": "bike", "train": "locomotive", "airplane": "jet plane",
    "boat": "sailboat", "rocket": "spaceship", "turtle": "tortoise", "flower": "blossom", "shoe": "sneaker",
    "hat": "top hat", "crown": "royal crown", "bee": "bumblebee", "clock": "alarm clock", "dog": "puppy",
    "cat": "kitten", "mushroom": "toadstool", "house": "cottage", "gray": "grey",
}  # fmt: skip
PLURALS = {"fish": "fish", "octopus": "octopuses", "cactus": "cacti", "bus": "buses", "blossom": "blossoms"}
TEMPLATES = (
    ("A solid {colour} background sets off {things}. The drawing has bold outlines, much like an emoji.",
     "{things}, {colour} background"),
    ("{things} can be seen as colorful emoji-like icons. Behind everything lies an even {colour} surface.",
     "Emoji-style {things} in front of a {colour} background"),
    ("This minimalist composition features {things}. The backdrop is {colour}, lighter towards one corner.",
     "{things} with a {colour} backdrop behind"),
    ("In this playful picture, {things} catch the eye. No other objects are present, and there is no text.",
     "Playful picture of {things} on a smooth {colour} background"),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Case:
    """A caption and a description, which is TRUE or has one kind of alteration."""

    caption: str
    description: Description
    kind: str


def evaluate(
    model: Path, count: int, seed: int, report: Path, tuning: bool, captions: Path | None
) -> list[str]:
    """Print a table, write `report` as JSON and return what is missed; raises ModelError."""
    captioner = Captioner(model)
    sets = {
        "held-out scenes": [] if tuning else list(_scenes(captioner, count, seed)),
        "written by hand": list(_pairs("tuning" if tuning else "reported")),
    }
    if captions:
        sets["captioned by people"] = list(_captions(captions))
    began = time.perf_counter()
    judged = {name: [(case, compare(case.caption, case.description)) for case in sets[name]] for name in sets}
    cases = sum(map(len, sets.values()))
    result: dict[str, Any] = {"model": captioner.card.name, "scenes": count, "seed": seed}
    result["microseconds"] = round((time.perf_counter() - began) / cases * 1e6, 1)
    table = Table("set", "description", "number", "flagged", "mean score")
    for name, each in judged.items():
        result[name] = {}
        for kind in dict.fromkeys(case.kind for case, _ in each):
            found = [agreement for case, agreement in each if case.kind == kind]
            share = sum(agreement.contradicts for agreement in found) / len(found)
            score = sum(agreement.score or 0.0 for agreement in found) / len(found)
            result[name][kind] = {"number": len(found), "share": share, "score": score}
            table.add_row(name, kind, f"{len(found):,}", f"{share:.1%}", f"{score:.2f}")
    every = [(case, found) for each in judged.values() for case, found in each if case.kind == TRUE]
    result["false_alarms"] = sum(found.contradicts for _, found in every) / len(every)
    result["wrongly_flagged"] = [
        {"caption": case.caption, "description": case.description.description, "found": found.contradictions}
        for case, found in every
        if found.contradicts
    ]
    Console().print(
        table, f"false alarms {result['false_alarms']:.1%}, {result['microseconds']} µs a picture"
    )
    write_json(report, result)
    if result["false_alarms"] <= MAX_FALSE_ALARMS:
        return []
    return [f"false alarms: {result['false_alarms']:.2%}, more than {MAX_FALSE_ALARMS:.0%}"]


def _scenes(captioner: Captioner, count: int, seed: int) -> Iterator[Case]:
    """Yield each scene's true description, and one with another colour, number and thing."""
    for index, (sample, data) in enumerate(captioned.held_out(count).samples()):
        caption = captioner.caption(captioned.shown(sample, data)).text
        scene, rng = scenes.held_out(index), np.random.default_rng((seed, index))
        things = {thing.name: 1 for thing in scene.things}
        name = str(rng.choice(list(things)))
        other = str(rng.choice([each for each in scenes.THINGS if each not in things]))
        colour = str(rng.choice([each for each in scenes.COLOURS if each != scene.colour]))
        yield Case(caption, _described(things, scene.colour, rng), TRUE)
        yield Case(caption, _described(things, colour, rng), "another colour")
        yield Case(caption, _described(things | {name: int(rng.integers(2, 5))}, scene.colour, rng), "number")
        swapped = {other if each == name else each: 1 for each in things}
        yield Case(caption, _described(swapped, scene.colour, rng), "another thing")


def _described(things: dict[str, int], colour: str, rng: np.random.Generator) -> Description:
    names = {name: str(rng.choice([name, SYNONYMS.get(name, name)])) for name in things}
    counted = [_counted(names[name], number) for name, number in things.items()]
    filled = {
        "things": ", ".join(counted[:-1]) + " and " * (len(counted) > 1) + counted[-1],
        "colour": colour,
    }
    description, alt_text = (text.format(**filled) for text in TEMPLATES[int(rng.integers(len(TEMPLATES)))])
    return Description(description, alt_text, (*things, f"{colour} background"), "", "template", "")


def _counted(name: str, number: int) -> str:
    if number == 1:
        return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"
    ending = "ies" if name.endswith(("ry", "fly")) else "es" if name.endswith(("x", "ch", "sh")) else "s"
    plural = PLURALS.get(name, (name[:-1] if ending == "ies" else name) + ending)
    return f"{('two', 'three', 'four')[number - 2]} {plural}"


def _pairs(part: str) -> Iterator[Case]:
    """Yield each pair as it is, and with the words of its `altered` replaced."""
    for pair in read_json(captioned.PAIRS)[part]:
        texts = [pair["description"], pair["alt_text"], *pair["tags"]]
        yield Case(pair["caption"], _of(texts), TRUE)
        for old, new in pair["altered"]:
            texts = [text.replace(old, new) for text in texts]
        yield Case(pair["caption"], _of(texts), pair["kind"])


def _captions(path: Path) -> Iterator[Case]:
    """Yield from Flickr8k.token.txt: each first caption beside the others of its photograph, and beside
    another's.
    """
    texts: dict[str, list[str]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        name, _, text = line.partition("\t")
        texts.setdefault(name.partition("#")[0], []).append(text.rstrip(" ."))
    whole = [found for found in texts.values() if len(found) == 5]
    for (caption, *rest), (other, *_) in zip(whole, whole[-1:] + whole[:-1], strict=True):
        description = _of([". ".join(rest[:3]) + ".", rest[3]])
        yield Case(caption.lower(), description, TRUE)
        yield Case(other.lower(), description, "another photograph")


def _of(texts: list[str]) -> Description:
    return Description(texts[0], texts[1], tuple(texts[2:]), "", "hand", "")
