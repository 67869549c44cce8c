"""Measure the confidence of a model: a distance, a threshold, and the share of pictures below it.

The distance (dropcap.captioning.novelty) is fitted to drawn scenes. The threshold is chosen so that the share
LOST of other scenes is below it. Photographs are used for neither, so results can be reported for all.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from dropcap.captioning import novelty
from dropcap.captioning.blip import Captioner
from dropcap.captioning.graphs import Floats
from dropcap.errors import Rejected

from .. import read_json, write_json
from ..datasets.captioned import Dataset, EvaluateError, product_copy, shown, varied

KNOWN = "known.data"
FITTED, TUNED = 1200, 800  # scenes that the distance is fitted to, and others that the threshold is chosen on
WEIGHT = 0.1  # of the distance; README.md has the effect of others
LOST = 0.005  # share of the latter scenes that fall below the threshold
PROMPT = "a picture of"
WAYS = [*itertools.product(("", PROMPT), (1, 3))]  # prompt and beams
AT_MOST_LOST, AT_LEAST_REJECTED = 0.01, 0.95  # bounds for the shares of scenes and of photographs
PICTURES = {".jpg", ".jpeg", ".png", ".webp", ".gif", ".tif", ".tiff", ".bmp", ".heic"}
PACKAGES = {
    "skimage": "data/{astronaut,brick,camera,chelsea,coffee,coins,grass,gravel,motorcycle_left,rocket}",
    "sklearn": "datasets/images/{china,flower}",
}  # photographs in packages that may be installed


@dataclass(slots=True)
class Group:
    """Pictures of one kind, and how many captions had too little confidence, by way (WAYS)."""

    name: str
    rejected: list[int]
    pictures: int = 0

    @property
    def shares(self) -> list[float]:
        """Return the share of rejected captions, by way."""
        return [rejected / self.pictures for rejected in self.rejected]


def write(folder: Path) -> float:
    """Fit the distance, choose the threshold, and store both in the model folder. Return the threshold."""
    if "knows" not in read_json(folder / "model.json"):
        raise EvaluateError(
            f"the model in {folder} does not know the scenes: put a threshold into its card by hand"
        )
    model = Captioner(folder)
    rows: list[Floats] = []
    scores: list[float] = []
    distance: novelty.Distance | None = None
    total = FITTED + TUNED
    for sample, data in track(varied(total).samples(), "learning what the model knows", total=total):
        with shown(sample, data) as image:
            cross = model.encode(image)
        if len(rows) < FITTED:
            rows.append(novelty.features(cross))
            continue
        distance = distance or novelty.Distance(novelty.fit(np.stack(rows)))
        generated = model.generate(cross, [model.card.bos], 1, 30)
        scores.append(generated.mean - WEIGHT * distance(cross))
    novelty.fit(np.stack(rows)).tofile(folder / KNOWN)
    threshold = round(float(np.quantile(scores, LOST)), 4)
    _record(
        folder,
        {
            "measure": "mean log-probability of the tokens, less weight x distance from the scenes",
            "threshold": threshold,
            "distance": {"weight": WEIGHT, "file": KNOWN, "scenes": FITTED},
            "scenes": {"number": TUNED, "lost": LOST},
        },
    )
    return threshold


def _record(folder: Path, confidence: dict[str, Any]) -> None:
    """Store the figures and the file in the card. The revision stays, because captions do not change."""
    path, data = folder / "model.json", (folder / KNOWN).read_bytes()
    card = read_json(path)
    card["files"][KNOWN] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    card["bytes"] = sum(file["bytes"] for file in card["files"].values())
    card["confidence"] = confidence
    write_json(path, card)


def photographs(folders: Sequence[Path]) -> dict[str, list[Path]]:
    """Return the pictures below each folder; without folders, those of installed PACKAGES."""
    found = {
        folder.name: sorted(path for path in folder.rglob("*") if path.suffix.lower() in PICTURES)
        for folder in folders
    }
    for folder in folders:
        if not found[folder.name]:
            raise EvaluateError(f"{folder} has no pictures: give a folder of photographs")
    if folders:
        return found
    for package, pattern in PACKAGES.items():
        spec = find_spec(package)
        if spec and spec.origin:
            prefix, names = pattern.rstrip("}").split("{")
            inside = sorted((Path(spec.origin).parent / prefix).glob("*"))
            found[package] = [path for path in inside if path.stem in names.split(",")]
    return found


def count(folder: Path, scenes: Dataset, groups: dict[str, list[Path]]) -> list[Group]:
    """Return how many captions of scenes, and of each group of pictures, have low confidence.

    A picture that the function would reject is not counted. Raises ModelError.
    """
    model = Captioner(folder)
    files = [(name, path) for name, paths in groups.items() for path in paths]
    pictures = itertools.chain(
        ((scenes.name, data) for _, data in scenes.samples()),
        ((name, path.read_bytes()) for name, path in files),
    )
    counted = {name: Group(name, [0] * len(WAYS)) for name in (scenes.name, *groups)}
    for name, data in track(pictures, "captioning", total=scenes.count + len(files)):
        try:
            image = product_copy(data)
        except Rejected:
            continue
        counted[name].pictures += 1
        with image:
            for i, (prompt, beams) in enumerate(WAYS):
                counted[name].rejected[i] += model.caption(image, prompt=prompt, beams=beams).low_confidence
    return [group for group in counted.values() if group.pictures]


def misses(groups: Sequence[Group], scenes: str, photographs: Sequence[str]) -> list[str]:
    """Return a line per missed threshold, for the group `scenes` and for all `photographs` together."""
    lines = []
    drawn = next(group for group in groups if group.name == scenes)
    if (lost := max(drawn.shares)) > AT_MOST_LOST:
        lines.append(f"low confidence in scenes: {lost:.2%}, more than {AT_MOST_LOST:.0%}")
    photos = [group for group in groups if group.name in photographs]
    if photos:
        total = sum(group.pictures for group in photos)
        rejected = min(map(sum, zip(*(group.rejected for group in photos), strict=True))) / total
        if rejected < AT_LEAST_REJECTED:
            lines.append(f"low confidence in photographs: {rejected:.2%}, less than {AT_LEAST_REJECTED:.0%}")
    return lines


def show(groups: Sequence[Group]) -> None:
    """Print the share of captions of low confidence, by group and way."""
    names = [(prompt, f"{beams} beams" if beams > 1 else "greedy") for prompt, beams in WAYS]
    headings = [f"{name}, “{prompt}”" if prompt else name for prompt, name in names]
    table = Table("low confidence", "pictures", *headings)
    for group in groups:
        table.add_row(group.name, f"{group.pictures:,}", *(f"{share:.1%}" for share in group.shares))
    Console().print(table)


def report(path: Path, model: Path, groups: Sequence[Group], failed: Sequence[str]) -> None:
    """Write the shares as JSON."""
    card = read_json(model / "model.json")
    ways = [{"prompt": prompt, "beams": beams} for prompt, beams in WAYS]
    shares = {group.name: {"pictures": group.pictures, "low_confidence": group.shares} for group in groups}
    facts = {"model": card["name"], "revision": card["revision"], "confidence": card["confidence"]}
    write_json(path, facts | {"ways": ways, "groups": shares, "failed": failed})
