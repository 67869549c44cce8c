"""What the simulation is fed with: seconds that `make prove` and `make bench` measured, kept in inputs.json.

Each picture is one that the deployed function took, by stage, as its own log tells it: every kind of file
from 0.1 to 100 megapixels, on one CPU in 512 MiB, database and storage on the same machine, Gemini's stand-in
at once.
"""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any

from infra.local.storage import ROOT

KEPT = Path(__file__).with_name("inputs.json")
SIZE = "0.5 GiB, 1 vCPU"  # of `make bench`'s costs: the instance that is deployed
LISTENING = "process, framework, settings, schema"  # the part of its cold start before the first request
LOOK = "describe and caption"
BEFORE = ("claim", "read", "open", "resize")
AFTER = ("publish", "record", "delete the source", "rest")  # rest: event and answer


@dataclass(frozen=True, slots=True)
class Picture:
    """Seconds of a picture on a warm instance: before, while and after the models look at it."""

    kind: str
    megapixels: float
    stages: dict[str, float]

    @property
    def before(self) -> float:
        return sum(self.stages[stage] for stage in BEFORE)

    @property
    def look(self) -> float:
        """BLIP's caption: Gemini's stand-in was faster."""
        return self.stages[LOOK]

    @property
    def after(self) -> float:
        return sum(self.stages[stage] for stage in AFTER)

    @property
    def seconds(self) -> float:
        return sum(self.stages.values())


@dataclass(frozen=True)
class Inputs:
    """The pictures; seconds until a new instance listens, and how much longer its first picture takes."""

    pictures: tuple[Picture, ...]
    listening_s: float
    first_s: float

    @cached_property
    def seconds(self) -> float:
        """Of a picture, mean."""
        return fmean(picture.seconds for picture in self.pictures)

    @cached_property
    def look(self) -> float:
        return fmean(picture.look for picture in self.pictures)


def kept() -> Inputs:
    """What is committed."""
    facts = json.loads(KEPT.read_text())
    pictures = tuple(
        Picture(kind, megapixels, dict(zip(facts["stages"], seconds, strict=True)))
        for kind, megapixels, *seconds in facts["pictures"]
    )
    return Inputs(pictures, facts["listening_s"], facts["first_s"])


def measured(build: Path = ROOT / "build") -> Inputs:
    """What the last `make prove` and `make bench` left in the folder `build`. OSError where they did not."""
    bench = json.loads((build / "bench.json").read_text())
    cold = bench["cold_start"]["ours"]
    listening = cold["parts"][LISTENING]
    first = cold["seconds"] - listening - bench["cost"]["ours"][SIZE]["seconds"]
    uploads = json.loads((build / "prove.json").read_text())["dropcap"]["results"]
    logged = _stages((build / "prove" / "main-0.log").read_text())
    if len(uploads) != len(logged):
        raise ValueError("build/prove/main-0.log is not of the run in build/prove.json: the instance died.")
    pictures = []
    for upload, stages in zip(uploads[1:], logged[1:], strict=True):  # the first was cold
        if upload["state"] == "analyzed":
            rest = {"rest": round(upload["seconds"] - sum(stages.values()), 4)}
            megapixels = round(upload["width"] * upload["height"] / 1e6, 1)
            pictures.append(Picture(upload["kind"], megapixels, stages | rest))
    return Inputs(tuple(pictures), round(listening, 3), round(first, 3))


def keep(inputs: Inputs) -> None:
    """Write inputs.json, a line a picture."""
    stages = [*BEFORE, LOOK, *AFTER]
    facts: dict[str, Any] = {
        "measured_by": "make prove (pictures, by stage, s), make bench (listening_s, first_s)",
        "listening_s": inputs.listening_s,
        "first_s": inputs.first_s,
        "stages": stages,
    }
    rows = (
        json.dumps([each.kind, each.megapixels, *(each.stages[stage] for stage in stages)])
        for each in inputs.pictures
    )
    head = json.dumps(facts, indent=1).removesuffix("\n}")
    KEPT.write_text(f'{head},\n "pictures": [\n  ' + ",\n  ".join(rows) + "\n ]\n}\n")


def _stages(log: str) -> list[dict[str, float]]:
    """Seconds by stage of each upload, in the order of the log."""
    found: defaultdict[str, dict[str, float]] = defaultdict(dict)
    for line in log.splitlines():
        entry = json.loads(line) if line.startswith("{") else {}
        if "stage" in entry and "seconds" in entry:
            found[entry["upload"]][entry["stage"]] = entry["seconds"]
    return list(found.values())


def summary(inputs: Inputs) -> dict[str, Any]:
    """For scaling.json."""
    facts = {key: value for key, value in asdict(inputs).items() if key != "pictures"}
    return facts | {"pictures": len(inputs.pictures), "seconds": inputs.seconds, "look_s": inputs.look}
