"""Report a run: the table, the JSON, and the reasons for a failure."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from tests.memory.instance import Delivery, Platform
from tests.memory.outside import Outcome
from tests.memory.uploads import Sample

NO_ROOM = "needs_too_much_memory"


@dataclass(frozen=True, slots=True)
class Result:
    """One upload, its delivery, and what became of it."""

    sample: Sample
    delivery: Delivery
    outcome: Outcome

    @property
    def wrong(self) -> str:
        """Return why the outcome is wrong; empty if it is right. A rejection for lack of memory is right."""
        expected = self.sample.expected
        if self.outcome.state == "lost":
            return f"lost: {self.outcome.why}"
        if self.outcome.code in (expected, NO_ROOM):
            return ""
        return f"{self.outcome.code or 'analyzed'}, not {expected or 'analyzed'}: {self.outcome.why}"

    def to_json(self) -> dict[str, Any]:
        sample, delivery = self.sample, asdict(self.delivery)
        size = {"width": sample.width, "height": sample.height, "bytes": sample.path.stat().st_size}
        return {"name": sample.name, "kind": sample.kind} | size | delivery | asdict(self.outcome)


@dataclass(frozen=True, slots=True)
class Way:
    """A way to do it, and how that went. `cold_start_s` is 0 where nothing was ever answered."""

    name: str
    results: Sequence[Result]
    kills: int
    cold_start_s: float
    peak_mb: float = 0.0
    turns_mb: Sequence[float] = ()
    problem: str = ""

    @classmethod
    def of(cls, name: str, results: Sequence[Result], platform: Platform, problem: str = "") -> "Way":
        return cls(
            name, results, platform.kills, platform.cold_start_s, platform.peak_mb, platform.turns_mb, problem
        )

    def first(self, count: int) -> "Way":
        """Return the same way without the later uploads."""
        results = self.results[:count]
        kills = sum(each.delivery.kills for each in results)
        return Way(f"{self.name}, first {len(results)}", results, kills, self.cold_start_s)

    def summary(self) -> dict[str, Any]:
        """Return the figures of the table by their names in the JSON; seconds are of analyzed uploads."""
        deliveries = [result.delivery for result in self.results]
        seconds = [each.delivery.seconds for each in self.results if each.outcome.state == "analyzed"] or [
            0.0
        ]
        p50, p95 = np.percentile(seconds, (50, 95))
        states = [result.outcome.state for result in self.results]
        no_room = sum(result.outcome.code == NO_ROOM for result in self.results)
        return {
            "uploads": len(self.results),
            "analyzed": states.count("analyzed"),
            "rejected_as_bad": states.count("rejected") - no_room,
            "rejected_for_memory": no_room,
            "lost": states.count("lost"),
            "kills": (kills := sum(each.kills for each in deliveries)),
            "kills_as_it_ended": self.kills - kills,
            "late": sum(each.late for each in deliveries),
            "cold_start_s": round(self.cold_start_s, 3),
            "p50_s": round(float(p50), 3),
            "p95_s": round(float(p95), 3),
            "max_s": round(max(seconds), 3),
            "turn_p95_mb": round(float(np.percentile(self.turns_mb or [0.0], 95)), 1),
            "rss_peak_mb": round(max((each.rss_mb for each in deliveries), default=0.0), 1),
            "anonymous_peak_mb": round(max((each.anonymous_mb for each in deliveries), default=0.0), 1),
            "kernel_peak_mb": round(self.peak_mb, 1),
            "problem": self.problem,
        }


def failures(way: Way) -> list[str]:
    """Return why this way failed; empty if it did not."""
    wrong = [f"{each.sample.name} ({each.sample.kind}) {each.wrong}" for each in way.results if each.wrong]
    none = not any(result.outcome.state == "analyzed" for result in way.results)
    killed = [f"The kernel killed {way.kills} times."] * bool(way.kills)
    return [*killed, *["Nothing was analyzed."] * none, *wrong]


def write(file: Path, facts: Mapping[str, Any], ways: Mapping[str, Way]) -> None:
    """Write the JSON: facts of the run, each way's figures, and each upload of each way."""
    measured = {
        key: way.summary() | {"results": [each.to_json() for each in way.results]}
        for key, way in ways.items()
    }
    file.write_text(json.dumps(dict(facts) | measured, indent=1))


def show(console: Console, ways: Sequence[Way]) -> None:
    """Print the ways side by side, then the first one by kind of picture, and the rejections for memory."""
    table = Table("")
    for way in ways:
        table.add_column(way.name, justify="right")
    for names in zip(*(way.summary().items() for way in ways), strict=True):
        table.add_row(names[0][0].replace("_", " "), *(_figure(value) for _, value in names))
    console.print(table)
    _show_kinds(console, ways[0])
    for result in ways[0].results:
        if result.outcome.code == NO_ROOM:
            console.print(f"No room for {result.sample.name} ({result.sample.kind}): {result.outcome.why}")


def _show_kinds(console: Console, way: Way) -> None:
    table = Table(title=f"{way.name}, by kind", title_justify="left", title_style="bold")
    for name in ("kind", "uploads", "no room", "largest MP", "slowest s", "RSS peak MB", "decoders"):
        table.add_column(name, justify="left" if name in ("kind", "decoders") else "right")
    for kind in dict.fromkeys(result.sample.kind for result in way.results):
        of = [result for result in way.results if result.sample.kind == kind]
        no_room = [result for result in of if result.outcome.code == NO_ROOM]
        decoders = {result.outcome.decoder for result in of} - {""}
        table.add_row(
            kind,
            str(len(of)),
            str(len(no_room) or ""),
            f"{max(result.sample.megapixels for result in of):.1f}",
            f"{max(result.delivery.seconds for result in of):.2f}",
            f"{max(result.delivery.rss_mb for result in of):.0f}",
            ", ".join(sorted(decoders)),
        )
    console.print(table)


def _figure(value: float | str) -> str:
    """Format a figure; 0 means that it was not measured."""
    return str(value) if not isinstance(value, float) else f"{value:.2f}" if value else ""
