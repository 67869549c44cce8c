"""SCALING.md's tables, from the numbers; each stands there between `<!-- name -->` and `<!-- /name -->`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from infra.local.storage import ROOT

DOCUMENT = ROOT / "SCALING.md"
Row = Mapping[str, Any]
COMPARED = {"done_a_second": "done/s", "mean_s": "mean, s", "p50_s": "p50, s", "p95_s": "p95, s"}
LATENCIES = ("p50_s", "p95_s", "p99_s")


@dataclass(frozen=True, slots=True)
class Table:
    """For the terminal and the document."""

    title: str
    head: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]

    def markdown(self) -> str:
        lines = [self.head, tuple("---" for _ in self.head), *self.rows]
        return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def number(value: float | None) -> str:
    """Three figures; a hyphen for none."""
    if value is None:
        return "-"
    return f"{float(f'{value:.3g}'):,.0f}" if value >= 100 else f"{value:.3g}"


def total(row: Row) -> float:
    """US$ for a million pictures."""
    return float(sum(row["usd"].values()))


def tables(results: Row, measured: Row) -> dict[str, Table]:
    """All of them, by the name of their marker."""
    return {
        "scale": _scale(results["scale"]),
        "limits": _limits(results["limits"]),
        "quota": _quota(results["quota"]),
        "drop": _drop(results["drop"]),
        "sizes": _sizes(results["sizes"]),
        "check": _check(measured["runs"]),
    }


def _scale(rows: list[Row]) -> Table:
    head = ("uploads/s", "", "done/s", "described", "p50, s", "p95, s", "p99, s", "instances", "idle too")
    made = []
    for row in rows:
        waits = (
            tuple(number(row[key]) for key in LATENCIES) if row["keeps_up"] else ("the backlog grows", "", "")
        )
        busy = row["worked_s"] * row["done_a_second"]
        made.append(
            (
                *(number(row["rate"]), row["setting"], number(row["done_a_second"])),
                *(f"{row['described']:.0%}", *waits, number(busy), number(row["instances"])),
                *(number(row["usd"]["instances"]), number(row["usd"]["gemini"])),
                *(number(row["usd"]["database"]), number(total(row))),
            )
        )
    return Table("Load", (*head, "instances, US$", "Gemini", "database", "in all, US$ a million"), made)


def _limits(rows: list[Row]) -> Table:
    head = ("", "limit", "value", "met at uploads/s", "BLIP alone", "what lifts it", "what that costs")
    made = [
        (
            *(str(place), row["name"], row["value"], number(row["described"]), number(row["alone"])),
            *(row["lifts"], row["costs"]),
        )
        for place, row in enumerate(rows, 1)
    ]
    return Table("Limits in the order in which they are met", head, made)


def _quota(rows: list[Row]) -> Table:
    head = ("Gemini's quota", "described", "s a picture", "p95, s", "instances", "instances, US$ a million")
    made = []
    for row in rows:
        short = f"for a third, `GEMINI_ATTEMPTS={row['setting']}`"
        made.append(
            (
                *("enough" if row["setting"] == "0" else short, f"{row['described']:.0%}"),
                *(number(row["worked_s"]), number(row["p95_s"]), number(row["instances"])),
                number(row["usd"]["instances"]),
            )
        )
    return Table(f"{number(rows[0]['rate'])} uploads a second", head, made)


def _drop(rows: list[Row]) -> Table:
    head = ("max-instances", "half done, s", "95 %, s", "all, s", "without a pause, s", "deliveries refused")
    keys = ("p50_s", "p95_s", "all_s", "at_best_s")
    made = [
        (f"{row['max_instances']:,}", *(number(row[key]) for key in keys), f"{row['refused']:,}")
        for row in rows
    ]
    return Table(f"{rows[0]['pictures']:,} pictures are dropped within ten seconds", head, made)


def _sizes(rows: list[Row]) -> Table:
    head = ("vCPUs", "BLIP is faster", "", "s a picture", "instances, US$ a million")
    made = [
        (
            *(str(row["vcpus"]), f"{row['caption']:.2f} times", row["setting"]),
            *(number(row["seconds"]), number(row["usd"])),
        )
        for row in rows
    ]
    return Table("Larger instances", head, made)


def _check(rows: list[Row]) -> Table:
    head = ("instances", "load", "uploads/s", "uploads", "", "predicted", "measured", "error")
    made = []
    for row in rows:
        first = (str(row["instances"]), f"{row['load']:.0%}", number(row["rate"]), str(row["uploads"]))
        for key, name in COMPARED.items():
            said, seen = row["predicted"][key], row["measured"][key]
            made.append((*first, name, number(said), number(seen), f"{said / seen - 1:+.0%}"))
            first = ("", "", "", "")
    return Table("The model beside real instances here", head, made)


def filled(text: str, content: Mapping[str, str]) -> str:
    """The document with new content between its markers. KeyError for a marker that nothing is known of."""
    return re.sub(
        r"<!-- (\w+) -->\n.*?<!-- /\1 -->",
        lambda found: f"<!-- {found[1]} -->\n{content[found[1]]}\n<!-- /{found[1]} -->",
        text,
        flags=re.DOTALL,
    )
