"""Print the tables of docs/scaling.md, or write them into the page; see --help."""

import argparse
import json
import math
import re
import sys
from collections.abc import Iterable, Sequence

from infra import ROOT
from infra.cost import GIB_S, REQUEST, VCPU_S
from infra.local import StackError
from tests.capacity import limits, measure
from tests.capacity.limits import INPUTS, MEASURED, seconds

PAGE, KEPT = ROOT / "docs" / "scaling.md", ROOT / "tests" / "capacity" / "inputs.json"
WAYS = (("with Gemini", True), ("BLIP alone", False))


def number(value: float) -> str:
    """Return three significant figures, or a hyphen for infinity."""
    if value == math.inf:
        return "-"
    return f"{float(f'{value:.3g}'):,.0f}" if value >= 100 else f"{value:.3g}"


def tables() -> dict[str, str]:
    """Return the page's tables by the names of their markers."""
    return {"limits": _limits(), "load": _load(), "sizes": _sizes(), "inputs": _inputs()}


def filled(text: str) -> str:
    """Return the page with new tables between its markers. Raises KeyError for an unknown marker."""
    made = tables()
    marked = re.compile(r"<!-- (\w+) -->\n.*?<!-- /\1 -->", re.DOTALL)
    return marked.sub(lambda found: f"<!-- {found[1]} -->\n{made[found[1]]}\n<!-- /{found[1]} -->", text)


def _table(head: str, rows: Iterable[Sequence[str]]) -> str:
    names = head.split("; ")
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (names, ["---"] * len(names), *rows))


def _limits() -> str:
    head = "; limit; value; uploads/s with Gemini; with BLIP alone; what lifts it; what that costs"
    rows = []
    for rank, each in enumerate(limits.limits(), 1):
        rates = (number(each.with_gemini), number(each.alone))
        rows.append((str(rank), each.name, each.value, *rates, each.remedy, each.price))
    return _table(head, rows)


def _load() -> str:
    head = "uploads/s; ; busy instances; kept instances; PostgreSQL cores; commits/s; pooled connections"
    rows = []
    for rate in (1, 100, 10_000):
        for name, gemini in WAYS:
            busy = rate * seconds(gemini)
            asked = (rate * MEASURED[name] for name in ("cpu_s", "transactions", "held_s"))
            rows.append((f"{rate:,}", name, *map(number, (busy, limits.kept(busy), *asked))))
    return _table(head, rows)


def _sizes() -> str:
    rows = []
    for vcpus, speedup in ((1, 1.0), (2, MEASURED["speedup"])):
        for name, gemini in WAYS:
            each = seconds(gemini, speedup)
            usd = math.ceil(each * 10) / 10 * (vcpus * VCPU_S + 0.5 * GIB_S) + REQUEST
            rows.append((str(vcpus), name, number(each), number(1e6 * usd)))
    return _table("vCPUs; ; s a picture; instances, US$ a million pictures", rows)


def _inputs() -> str:
    rows = [(each["what"], number(each["value"]), each["source"]) for each in INPUTS.values()]
    rows.append(
        ("s until Gemini answers, mean", number(limits.GEMINI_MEAN_S), "assumed: no key was available")
    )
    rows.append(("tokens that Gemini reads", f"{limits.TOKENS:,}", "[costs](costs.md)"))
    return _table("input; value; source", rows)


def main(words: Sequence[str] | None = None) -> int:
    """Run what the words ask for; return the exit status."""
    parser = argparse.ArgumentParser(prog="make scaling", description="Compute which limit comes first.")
    parser.add_argument("--write", action="store_true", help="write the tables into docs/scaling.md")
    parser.add_argument("--measure", action="store_true", help="measure the inputs again, after make prove")
    asked = parser.parse_args(words)
    if asked.measure:
        try:
            MEASURED.update(measure.stages() | measure.database())
        except (OSError, ValueError, StackError) as failed:
            print(f"make scaling: {failed}", file=sys.stderr)
            return 2
        for name, value in MEASURED.items():
            INPUTS[name]["value"] = value
        KEPT.write_text(json.dumps(INPUTS, indent=1) + "\n")
    if asked.write:
        PAGE.write_text(filled(PAGE.read_text()))
    print("\n\n".join(tables().values()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
