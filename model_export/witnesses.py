"""How often compare() of dropcap.witnesses flags what was altered on purpose, and what was not.

Two sets: held-out scenes, captioned by the real model, with descriptions made by phrasing.py; and pairs.json,
written by hand as BLIP-base and Gemini word photographs. Each has a part to tune the rules by, of which no
figure is given.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from dropcap.analysis import Agreement, Description
from dropcap.blip import Captioner
from dropcap.witnesses import compare

from . import datasets, phrasing, scenes

PAIRS = Path(__file__).with_name("pairs.json")
FIRST_FOR_TUNING = 1_000_000  # number of a held-out scene that no figure is given of
UNALTERED = ""
# What a caption does not speak of, it can't contradict: it leaves things out, and a list claims no order.
SILENT = frozenset(("extra thing", "order", "direction"))
RARE = 20  # precision is also given for one description altered of so many
SHOWN = 5  # mistakes of each sort that are printed; all are in the report


@dataclass(frozen=True, slots=True)
class Case:
    """A caption, a description, and which kind of alteration it has: none is UNALTERED."""

    caption: str
    description: Description
    kind: str


@dataclass(frozen=True, slots=True)
class Judged:
    case: Case
    agreement: Agreement


def evaluate(model: Path, count: int, seed: int, report: Path, tuning: bool = False) -> dict[str, Any]:
    """Print tables and write `report` as JSON; raises ModelError."""
    captioner = Captioner(model)
    sets = {
        "held-out scenes": list(_scenes(captioner, count, seed, tuning)),
        "written by hand": list(_pairs(tuning)),
    }
    result: dict[str, Any] = {
        "model": captioner.card.name,
        "scenes": count,
        "seed": seed,
        "split": "tuning" if tuning else "reported",
    }
    console = Console()
    for name, cases in sets.items():
        judged = [Judged(case, compare(case.caption, case.description)) for case in cases]
        result[name] = figures(judged)
        _show(console, name, result[name])
    result["microseconds"] = round(_microseconds([case for cases in sets.values() for case in cases]), 1)
    console.print(f"{result['microseconds']} µs a picture")
    report.parent.mkdir(parents=True, exist_ok=True)
    report.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return result


def figures(judged: list[Judged]) -> dict[str, Any]:
    """The report's figures of one set; README.md says what they are."""
    kinds = list(dict.fromkeys(each.case.kind for each in judged if each.case.kind != UNALTERED))
    by_kind = {kind: _flagged(each for each in judged if each.case.kind == kind) for kind in kinds}
    true = _flagged(each for each in judged if each.case.kind == UNALTERED)
    altered = _flagged(each for each in judged if each.case.kind != UNALTERED)
    spoken = [each["share"] for kind, each in by_kind.items() if kind not in SILENT]
    every = [each["share"] for each in by_kind.values()]
    # Each kind counts the same, whatever the number of its cases.
    recall, false = sum(every) / len(every), true["share"]
    return {
        "unaltered": true,
        "altered": altered,
        "kinds": by_kind,
        "recall": recall,
        "recall, of what captions speak of": sum(spoken) / len(spoken),
        "false_alarms": false,
        "precision": recall / (recall + false) if recall else 0.0,
        f"precision, 1 of {RARE} altered": recall / (recall + false * (RARE - 1)) if recall else 0.0,
        "missed": [_told(each) for each in judged if each.case.kind and not each.agreement.contradicts],
        "wrongly flagged": [
            _told(each) for each in judged if not each.case.kind and each.agreement.contradicts
        ],
    }


def _flagged(judged: Iterable[Judged]) -> dict[str, Any]:
    agreements = [each.agreement for each in judged]
    scores = [agreement.score for agreement in agreements if agreement.score is not None]
    flagged = sum(agreement.contradicts for agreement in agreements)
    return {
        "number": len(agreements),
        "flagged": flagged,
        "share": flagged / max(len(agreements), 1),
        "score": sum(scores) / max(len(scores), 1),
    }


def _told(each: Judged) -> dict[str, Any]:
    return {
        "kind": each.case.kind,
        "caption": each.case.caption,
        "description": each.case.description.description,
        "alt_text": each.case.description.alt_text,
        "contradictions": each.agreement.contradictions,
    }


def _scenes(captioner: Captioner, count: int, seed: int, tuning: bool) -> Iterator[Case]:
    """Of each scene the true description and one of each alteration that it allows."""
    first = FIRST_FOR_TUNING if tuning else 0
    for index, (sample, data) in zip(
        range(first, first + count), datasets.held_out(count, first).samples(), strict=True
    ):
        caption = captioner.caption(datasets.shown(sample, data)).text
        facts = phrasing.Facts.of(scenes.held_out(index))
        rng = np.random.default_rng((seed, index))
        yield Case(caption, phrasing.describe(facts, rng, tuning), UNALTERED)
        for kind in phrasing.ALTERATIONS:
            if changed := phrasing.altered(facts, kind, rng):
                yield Case(caption, phrasing.describe(changed, rng, tuning), kind)


def _pairs(tuning: bool) -> Iterator[Case]:
    """Each pair as it is, and with the words of its `altered` put in the place of others."""
    for pair in json.loads(PAIRS.read_text(encoding="utf-8"))["tuning" if tuning else "reported"]:
        texts = [pair["description"], pair["alt_text"], *pair["tags"]]
        for kind, swaps in ((UNALTERED, ()), (pair["kind"], pair["altered"])):
            for old, new in swaps:
                texts = [text.replace(old, new) for text in texts]
            yield Case(
                pair["caption"], Description(texts[0], texts[1], tuple(texts[2:]), "", "hand", ""), kind
            )


def _microseconds(cases: list[Case]) -> float:
    began = time.perf_counter()
    for case in cases:
        compare(case.caption, case.description)
    return (time.perf_counter() - began) / len(cases) * 1e6


def _show(console: Console, name: str, result: dict[str, Any]) -> None:
    table = Table(name, "number", "flagged", "mean score")
    rows = {"unaltered": result["unaltered"], **result["kinds"]}
    for kind, each in rows.items():
        table.add_row(kind, f"{each['number']:,}", f"{each['share']:.1%}", f"{each['score']:.2f}")
    console.print(table)
    rare = result[f"precision, 1 of {RARE} altered"]
    spoken = result["recall, of what captions speak of"]
    console.print(
        f"recall {spoken:.1%} of the kinds that captions speak of, {result['recall']:.1%} of all; "
        f"false alarms {result['false_alarms']:.1%}; "
        f"precision {result['precision']:.1%} where half are altered, {rare:.1%} where 1 of {RARE} is"
    )
    for sort in ("wrongly flagged", "missed"):
        for each in result[sort][:SHOWN]:
            console.print(
                f"{sort} ({each['kind'] or 'unaltered'}): “{each['caption']}” | {each['description']}"
            )
