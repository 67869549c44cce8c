"""Compare a quantized model, or one of lower resolution or fewer tokens, with its fp32 original.

Both caption the same pictures, each decoded once by the function's own code. README.md explains the keys of
the report.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from dropcap.captioning.blip import Card

from .. import read_json, write_json
from ..datasets.captioned import Dataset, EvaluateError
from ..metrics import fidelity
from ..metrics.fidelity import Pair

LOSE_CIDER = 1.0  # points, of photographs
SHOWN = 10  # pictures whose captions are printed; all are in the report


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Thresholds of a comparison with fp32. Shares are 0 to 1; None is no threshold."""

    at_least: float | None = 0.98  # least share of captions that are exactly right
    agree: float | None = 0.995  # least share of captions identical to fp32's
    lose_at_most: float | None = 0.005  # maximum loss of exactly right captions, as a share
    lose_cider: float | None = None  # maximum loss of CIDEr, points


def bounds(knows: bool, coco: bool, **asked: float) -> Thresholds:
    """Return the default bounds for a model, with those that are `asked` in their place.

    Of a model that knows the scenes all is asked. What any other says of them shows little, and how often two
    models word a photograph alike has not been measured with trained weights: CIDEr is what counts there.
    """
    default = (
        Thresholds() if knows and not coco else Thresholds(None, None, None, LOSE_CIDER if coco else None)
    )
    return replace(default, **asked)


def evaluate(
    model: Path,
    dataset: Dataset,
    report: Path,
    *,
    checkpoint: str,
    against: Path | None,
    beams: int,
    asked: dict[str, float],
) -> list[str]:
    """Print tables, write `report` as JSON; a line for each threshold that is missed.

    The original is the folder `against`, or made on the spot: from `checkpoint`, which is as for export, and
    empty what the model's card names. `asked` are thresholds that differ from `bounds`. Raises EvaluateError,
    ExportError and ModelError.
    """
    from ..conversion.export import export

    card = _card(model)
    report.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=report.parent, prefix=".fp32-") as work:
        original = against or Path(work) / "fp32"
        if against is None:
            with Console().status("making the fp32 original"):
                export(checkpoint or _source(card), original)
        fp32 = _card(original)
        _same_weights(model, card, fp32)
        pairs = fidelity.compare(original, model, dataset, beams)
    result = figures(pairs, exact=dataset.scenes and "knows" in card)
    thresholds = bounds("knows" in card, not dataset.scenes, **asked)
    failed = misses(result, thresholds)
    _show(dataset, card, fp32, result)
    head = {"model": card["name"], **_which(card), "fp32": _which(fp32), "data": dataset.name, "beams": beams}
    tail = {"thresholds": asdict(thresholds), "failed": failed}
    write_json(report, head | result | tail)
    return failed


def compare_exports(
    model: Path,
    dataset: Dataset,
    report: Path,
    exports: dict[str, dict[str, Any]],
    *,
    checkpoint: str,
    beams: int,
    asked: dict[str, float],
) -> list[str]:
    """Export one checkpoint in several ways, print one table, and write `report` as JSON.

    `exports` has the options of `export` by the name of each way. Returns a line for each threshold that each
    misses; all else is as for `evaluate`. The card of `model` names the checkpoint where none is given.
    """
    from ..conversion.export import export

    card = _card(model)
    report.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=report.parent, prefix=".exports-") as work:
        folders = {name: Path(work) / name for name in ("fp32", *exports)}
        for name, folder in folders.items():
            with Console().status(f"exporting with {name}"):
                export(checkpoint or _source(card), folder, check=0, **exports.get(name, {}))
        cards = {name: _card(folder) for name, folder in folders.items()}
        pairs = fidelity.compare_all(folders["fp32"], [folders[name] for name in exports], dataset, beams)
    knows = "knows" in cards["fp32"]
    results = {
        name: figures(those, exact=dataset.scenes and knows)
        for name, those in zip(exports, pairs, strict=True)
    }
    thresholds = bounds(knows, not dataset.scenes, **asked)
    failed = {name: misses(result, thresholds) for name, result in results.items()}
    _show_exports(dataset, cards, results, beams)
    fp32 = cards["fp32"]
    head = {"model": fp32["name"], "data": dataset.name, "beams": beams, "fp32": _which(fp32)}
    each = {name: _which(cards[name]) | results[name] | {"failed": failed[name]} for name in exports}
    write_json(report, head | {"thresholds": asdict(thresholds), "exports": each})
    return [f"{name}: {line}" for name, lines in failed.items() for line in lines]


def _show_exports(
    dataset: Dataset, cards: dict[str, dict[str, Any]], results: dict[str, dict[str, Any]], beams: int
) -> None:
    fp32, how = cards["fp32"], "greedy" if beams == 1 else f"{beams} beams"
    pictures = next(iter(results.values()))["pictures"]
    title = f"{fp32['name']}, {fp32['image']['size']} px, {how}: {pictures:,} pictures of {dataset.name}"
    exact = all(result["exact"] for result in results.values())
    heads = ("export", "MB", "CIDEr", "lost", "BLEU-4", "same captions", "divergence, nats")
    table = Table(*heads, *(["exactly right"] if exact else []), title=title)

    def row(name: str, result: dict[str, Any], which: str) -> None:
        cider, drift = result["cider"], which == "quantized"
        table.add_row(
            name,
            f"{cards[name]['bytes'] / 1e6:,.1f}",
            f"{cider[which]:.2f}",
            f"{cider['fp32'] - cider[which]:.2f}" if drift else "",
            f"{result['bleu4'][which]:.2f}",
            f"{result['agreement']:.1%}" if drift else "",
            f"{result['logits']['divergence']:.1e}" if drift else "",
            *([f"{result['exact'][which]:.1%}"] if exact else []),
        )

    row("fp32", next(iter(results.values())), "fp32")
    for name, result in results.items():
        row(name, result, "quantized")
    Console().print(table)


def figures(pairs: Sequence[Pair], exact: bool) -> dict[str, Any]:
    """Return the report's figures; `exact`: whether each picture has one right caption."""
    from ..metrics import caption_scores

    references = [pair.sample.references for pair in pairs]
    captions = {"fp32": [pair.first for pair in pairs], "quantized": [pair.second for pair in pairs]}
    groups = sorted({group for pair in pairs for group in pair.sample.groups}) if exact else []
    return {
        "pictures": len(pairs),
        "agreement": fidelity.agreement(pairs),
        "logits": fidelity.summary(pairs),
        "bleu4": {name: caption_scores.bleu(texts, references) for name, texts in captions.items()},
        "cider": {name: caption_scores.cider(texts, references) for name, texts in captions.items()},
        "exact": _exact(pairs) if exact else None,
        "groups": {
            group: _exact([pair for pair in pairs if group in pair.sample.groups]) for group in groups
        },
        "mistakes": [
            {
                "picture": pair.sample.name,
                "is": pair.sample.references[0],
                "said": pair.second,
                "fp32": pair.first,
            }
            for pair in pairs
            if exact and pair.second not in pair.sample.references
        ],
        "disagreements": [
            {"picture": pair.sample.name, "fp32": pair.first, "quantized": pair.second}
            for pair in pairs
            if not pair.same
        ],
    }


def _exact(pairs: Sequence[Pair]) -> dict[str, float]:
    return {
        "number": len(pairs),
        "fp32": sum(pair.first in pair.sample.references for pair in pairs) / len(pairs),
        "quantized": sum(pair.second in pair.sample.references for pair in pairs) / len(pairs),
    }


def misses(result: dict[str, Any], bound: Thresholds) -> list[str]:
    """Return a line with figure and threshold for each missed threshold."""
    exact, cider = result["exact"], result["cider"]
    lines = []
    if exact and bound.at_least is not None and exact["quantized"] < bound.at_least:
        lines.append(f"exactly right: {exact['quantized']:.2%}, less than --at-least {bound.at_least:.2%}")
    if bound.agree is not None and result["agreement"] < bound.agree:
        lines.append(f"same captions as fp32: {result['agreement']:.2%}, less than --agree {bound.agree:.2%}")
    # Rounded, because 0.998 - 0.993 is a little more than 0.005.
    if exact and bound.lose_at_most is not None:
        lost = round(exact["fp32"] - exact["quantized"], 9)
        if lost > bound.lose_at_most:
            lines.append(
                f"exactly right, lost: {lost:.2%}, more than --lose-at-most {bound.lose_at_most:.2%}"
            )
    if bound.lose_cider is not None:
        lost = round(cider["fp32"] - cider["quantized"], 9)
        if lost > bound.lose_cider:
            lines.append(f"CIDEr, lost: {lost:.2f}, more than --lose-cider {bound.lose_cider:.2f}")
    return lines


def _card(folder: Path) -> dict[str, Any]:
    Card.read(folder)  # raises ModelError if it is invalid
    card: dict[str, Any] = read_json(folder / "model.json")
    return card


def _source(card: dict[str, Any]) -> str:
    """Return the checkpoint of a card; that of a model that knows the scenes names the training command."""
    return "" if "knows" in card else str(card["source"])


def _which(card: dict[str, Any]) -> dict[str, Any]:
    keys = {"revision": card["revision"], "weights": card["weights"]}
    return keys | {"side": card["image"]["size"], "merge": card.get("merge", 0)}


def _input(card: dict[str, Any]) -> str:
    merged = f", MERGE={card['merge']}" if "merge" in card else ""
    return f"{card['image']['size']} px{merged}"


def _same_weights(model: Path, card: dict[str, Any], fp32: dict[str, Any]) -> None:
    """Raises EvaluateError where the cards are of different weights: to compare them would say nothing."""
    if fp32["weights"] != "fp32":
        raise EvaluateError(
            f"{fp32['name']} is {fp32['weights']}: make an original by export --fp32 --out FOLDER"
        )
    mine, its = (_origin(each) for each in (card, fp32))
    if mine != its:
        raise EvaluateError(
            f"{model} was made from {mine}, not from {its}: compare it with the --checkpoint that it is of"
        )


def _origin(card: dict[str, Any]) -> str:
    source = card.get("source", "")
    where = str(Path(source).resolve()) if Path(source).is_dir() else source
    return " ".join(filter(None, (card["name"], f"({where})", card.get("source_revision"))))


def _show(dataset: Dataset, card: dict[str, Any], fp32: dict[str, Any], result: dict[str, Any]) -> None:
    sides = (f"{name}, {_input(each)}" for name, each in (("fp32", fp32), ("quantized", card)))
    title = f"{card['name']} {card['revision']}: {card['weights']}"
    table = Table(f"{result['pictures']:,} {dataset.name}", *sides, "difference", title=title)

    def row(name: str, both: dict[str, float], show: Callable[[float], str]) -> None:
        before, after = both["fp32"], both["quantized"]
        table.add_row(
            name, show(before), show(after), f"{'+' if after > before else ''}{show(after - before)}"
        )

    for group, exact in result["groups"].items():
        row(f"exactly right, {group}" if group == "all" else f"  {group}", exact, "{:.1%}".format)
    row("BLEU-4", result["bleu4"], "{:.2f}".format)
    row("CIDEr", result["cider"], "{:.2f}".format)
    logits = result["logits"]
    beside = Table("beside fp32", "")
    beside.add_row("same captions, token for token", f"{result['agreement']:.2%}")
    beside.add_row(f"same choice of {logits['tokens']:,} tokens", f"{logits['same_choice']:.2%}")
    beside.add_row(f"mean error of the {fidelity.LIKELIEST} likeliest logits", f"{logits['mean_error']:.3f}")
    beside.add_row("largest error of a logit", f"{logits['max_error']:.3f}")
    beside.add_row("Kullback-Leibler divergence, nats", f"{logits['divergence']:.2e}")
    console = Console()
    console.print(table)
    console.print(beside)
    for wrong in result["mistakes"][:SHOWN]:
        by = "" if wrong["fp32"] in (wrong["is"], wrong["said"]) else f", by fp32 “{wrong['fp32']}”"
        console.print(f"{wrong['picture']}: “{wrong['said']}”{by} is “{wrong['is']}”")
    listed = {wrong["picture"] for wrong in result["mistakes"]}
    for other in [other for other in result["disagreements"] if other["picture"] not in listed][:SHOWN]:
        console.print(f"{other['picture']}: “{other['quantized']}”, by fp32 “{other['fp32']}”")
