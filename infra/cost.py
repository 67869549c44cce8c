"""Monthly cost at list prices: `python -m infra.cost` prints the tables of docs/costs.md.

US$, europe-west1 (tier 1), without taxes and discounts. Quantities without a source are assumptions, and the
page marks them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil

from dropcap.describing.prompt import MAX_OUTPUT_TOKENS, SCHEMA, SYSTEM_INSTRUCTION, request, schema
from dropcap.describing.prompt import REQUEST as ASKED
from dropcap.describing.response import KEY_FIELD
from dropcap.domain import gemini_prices
from dropcap.settings import PICTURE_TOKENS, Settings
from infra.cloud.config import Config
from infra.cloud.resources.declaration import IMAGES_KEPT

VOLUMES = (100, 10_000, 1_000_000)  # pictures a month
GIB = 2.0**30
# cloud.google.com/run/pricing, request-based billing in tier 1 regions, US$, read on 2026-11-23.
VCPU_S, GIB_S, REQUEST = 0.000024, 0.0000025, 0.40 / 1e6
DAYS, HOURS = 30, 730  # of a month; Google's own examples count 730 hours


@dataclass(frozen=True, slots=True)
class Price:
    """US$ for one `unit`, the number of `free` units a month, and the source: a `page` as of `day`."""

    what: str
    usd: float
    unit: str
    free: float
    page: str
    day: str


def _google(page: str, day: str) -> tuple[str, str]:
    return f"cloud.google.com/{page}/pricing", day


RUN, STORAGE = _google("run", "2026-09-22"), _google("storage", "2026-09-20")
SQL, SECRETS = _google("sql", "2026-09-22"), _google("secret-manager", "2026-04")
BUILD, IMAGES = _google("build", "2025-08-25"), _google("artifact-registry", "undated")
PUBSUB, LOGS = _google("pubsub", "2026-09-20"), _google("stackdriver", "2026-09-12")
SCHEDULER, ALERTS = _google("scheduler", "undated"), _google("stackdriver", "2026-10-10")
DEFAULTS = Settings()
[LITE] = gemini_prices.PRICES[DEFAULTS.gemini_model]  # the prices of the daily budget

PRICES = {
    "vcpu": Price("Cloud Run, CPU", VCPU_S, "vCPU-second", 180_000, *RUN),
    "memory": Price("Cloud Run, memory", GIB_S, "GiB-second", 360_000, *RUN),
    "requests": Price("Cloud Run, requests", REQUEST * 1e6, "million", 2, *RUN),
    "stored": Price("Cloud Storage, Standard", 0.02, "GiB-month", 0, *STORAGE),
    "class A": Price("Cloud Storage, class A (write, list)", 0.005, "1,000", 0, *STORAGE),
    "class B": Price("Cloud Storage, class B (read)", 0.0004, "1,000", 0, *STORAGE),
    "events": Price("Pub/Sub, which carries Eventarc's events", 40 / 1024, "GiB", 10, *PUBSUB),
    "build": Price("Cloud Build, e2-standard-2", 0.006, "minute", 2_500, *BUILD),
    "images": Price("Artifact Registry", 0.10, "GB-month", 0.5, *IMAGES),
    "secrets": Price("Secret Manager, versions", 0.06, "version", 6, *SECRETS),
    "accesses": Price("Secret Manager, accesses", 0.03, "10,000", 1, *SECRETS),
    "jobs": Price("Cloud Scheduler", 0.10, "job", 3, *SCHEDULER),
    "logs": Price("Cloud Logging", 0.50, "GiB", 50, *LOGS),
    # Not charged yet, so in no bill below: Google announced it for 2027-09-01 at the soonest.
    "references": Price("Cloud Monitoring, alerts: from 2027-09-01", 0.35, "metric reference", 0, *ALERTS),
    "points": Price("Cloud Monitoring, alerts: from 2027-09-01", 0.50, "million points", 0, *ALERTS),
    "traffic": Price("Traffic to the internet", 0.12, "GiB", 0, "cloud.google.com/vpc/pricing", "undated"),
    "sql": Price("Cloud SQL, db-f1-micro", 0.0105, "hour", 0, *SQL),
    "sql disk": Price("Cloud SQL, SSD", 0.17, "GiB-month", 0, *SQL),
    "input": Price("Gemini, input", LITE.input, "million tokens", 0, gemini_prices.PAGE, LITE.as_of),
    "output": Price("Gemini, output", LITE.output, "million tokens", 0, gemini_prices.PAGE, LITE.as_of),
}

# Measured: README.md, `make bench`, BLIP-base, a JPEG of 12 MP, 1 vCPU and 512 MiB.
WARM_S, COLD_S = 3600 / 2530, 4.73
AROUND_S = 0.3  # one picture, beyond what the slower of Gemini and the CPU takes
RECONCILE_RUNS, RECONCILE_S = DAYS * 24 * 6, 2.0  # every ten minutes; most of it is the start
# Operations, counted by tests/project/test_cost.py; a new instance reads 2 more of class B.
CLASS_A, CLASS_B, RECONCILE_CLASS_A = 4, 4, 2
APP_GB = 0.134 + 0.184  # measured: packages and small model as tar.gz, plus the difference to BLIP-base
IMAGES_GB = APP_GB * IMAGES_KEPT  # at most: equal layers are stored once
SOFT_DELETE_DAYS = int(Config().soft_delete_days)  # a deleted source is charged for this long
ROW_B = 5_000  # measured: 2,433 after VACUUM FULL; the row of an upload is written about nine times
LOG_B = 10_000  # measured: 1,551 in nine lines, to which the platform adds its own
EVENT_B = 2 * 2_000  # in and out, as cloud.google.com/eventarc/pricing counts an event
# Assumptions.
# Gemini's response time. A reseller measured 2 s for simple requests (docs.apiyi.com, of 2026-07-22); your
# log has your own.
GEMINI_S = 2.5
NEW_INSTANCES = 0.1  # the share of pictures that start an instance
SOURCE_B, RENDITIONS_B = 4e6, 0.35e6  # a telephone's JPEG; WebP of 1600, 800 and 200 px
DEPLOYMENTS, BUILD_MINUTES = 4, 3  # a month; all functions are one build
ANSWER_TOKENS, THOUGHT_TOKENS = 250, 0  # this model thinks only on request
FREE_ROWS_B = 0.5e9  # of the smallest free PostgreSQL: Neon, neon.com/docs/introduction/plans, 2026-11-12
# A visit to the gallery: two pages of pictures, each loaded once. Without visitors the gallery costs nothing.
PAGES, PICTURES, FILES = 2, 24, 3  # files: style, script, icon
ANSWER_S = 0.1  # a request, rounded up to a tenth, as if no two shared an instance
GALLERY_START_S, GALLERY_GIB = 1.0, 0.25
CARD_B, PAGE_B = 40e3, 30e3  # a picture as wide as a card; a page with its files, compressed or cached


def prompt_tokens() -> int:
    """Return the tokens of the prompt, at four characters each (ai.google.dev/gemini-api/docs/tokens)."""
    return len(SYSTEM_INSTRUCTION + ASKED + json.dumps(SCHEMA)) // 4


def input_tokens(resolution: str = DEFAULTS.gemini_media_resolution) -> int:
    """Return the tokens of a picture at this GEMINI_MEDIA_RESOLUTION, and of the prompt."""
    return PICTURE_TOKENS[resolution] + prompt_tokens()


def batch_key_tokens() -> tuple[int, int]:
    """Return the tokens that the key of a request in a batch adds, in and out: two hex digits a token."""
    key = "0123456789ab"
    extra = json.dumps(schema(DEFAULTS, key)) + request("en", key=key)
    return (len(extra) - len(json.dumps(SCHEMA) + ASKED)) // 4, len(f'"{KEY_FIELD}": "{key}", ') // 2


def descriptions() -> str:
    """Return the US$ for 1,000 descriptions by model, at each media resolution and by batch, as a table.

    Without Gemini 2.5, which counts the tokens of a picture in another way.
    """
    medium = DEFAULTS.gemini_media_resolution
    rows = [
        ["US$ for 1,000", "from", "before: high", "low", medium, f"{medium}, by batch", "in; out", "as of"]
    ]
    for model, changes in gemini_prices.PRICES.items():
        for price in changes if not model.startswith("gemini-2.5") else ():
            written = (ANSWER_TOKENS + THOUGHT_TOKENS) * price.output
            high, low, usual = (
                (input_tokens(resolution) * price.input + written) / 1000
                for resolution in ("high", "low", medium)
            )
            starts = price.starts.isoformat() if price.starts.year > 1 else ""
            both = f"{price.input:g}; {price.output:g}"
            key_in, key_out = batch_key_tokens()
            batch = (
                usual + (key_in * price.input + key_out * price.output) / 1000
            ) * gemini_prices.BATCH_SHARE
            rows.append([f"`{model}`", starts, *map(_money, (high, low, usual, batch)), both, price.as_of])
    return _table(rows)


def seconds(described: bool) -> float:
    """Return the billed seconds of a picture on a warm instance, rounded up to a tenth.

    With `described`, they include the wait for Gemini, as if no other picture shared the instance.
    """
    return ceil(10 * (max(WARM_S, GEMINI_S + AROUND_S) if described else WARM_S)) / 10


def month(pictures: int, described: bool) -> Mapping[str, float]:
    """Return the quantities of a month in the units of PRICES.

    Both sources and published pictures have the price of stored data.
    """
    starts = pictures * NEW_INSTANCES
    running = pictures * seconds(described) + starts * (COLD_S - WARM_S) + RECONCILE_RUNS * RECONCILE_S
    sources, published = (pictures * size / GIB for size in (SOURCE_B, RENDITIONS_B))
    tokens = input_tokens()
    rows = pictures * ROW_B
    managed = rows > FREE_ROWS_B  # the free database would fill up within the month
    return {
        "vcpu": running,
        "memory": running * 0.5,
        "requests": (pictures + RECONCILE_RUNS) / 1e6,
        "sources": sources * SOFT_DELETE_DAYS / DAYS,
        "published": published,
        "class A": (pictures * CLASS_A + RECONCILE_RUNS * RECONCILE_CLASS_A) / 1000,
        "class B": pictures * CLASS_B / 1000,
        "events": pictures * EVENT_B / GIB,
        "build": DEPLOYMENTS * BUILD_MINUTES,
        "images": IMAGES_GB,
        "secrets": 2,
        "accesses": 2 * (starts + RECONCILE_RUNS) / 10_000,
        "jobs": 1,
        "logs": pictures * LOG_B / GIB,
        "sql": HOURS if managed else 0,
        "sql disk": 10 if managed else 0,
        "input": pictures * tokens / 1e6 if described else 0,
        "output": pictures * (ANSWER_TOKENS + THOUGHT_TOKENS) / 1e6 if described else 0,
    }


def usd(name: str, quantity: float, free: bool = True) -> float:
    """Return the cost of a quantity, less the free units."""
    price = PRICES["stored" if name in ("sources", "published") else name]
    return price.usd * max(0.0, quantity - (price.free if free else 0))


LINES = {
    "Cloud Run": ("vcpu", "memory", "requests"),
    "Cloud Storage: deleted sources": ("sources",),
    "Cloud Storage: pictures": ("published",),
    "Cloud Storage: operations": ("class A", "class B"),
    "Eventarc, Pub/Sub": ("events",),
    "Cloud Build": ("build",),
    "Artifact Registry": ("images",),
    "Secret Manager": ("secrets", "accesses"),
    "Cloud Scheduler": ("jobs",),
    "Cloud Logging": ("logs",),
    "PostgreSQL": ("sql", "sql disk"),
    "Gemini": ("input", "output"),
}


def bill(described: bool) -> str:
    """Return the cost of a month as a table, by service and volume."""
    months = [month(pictures, described) for pictures in VOLUMES]
    totals = {
        free: [sum(usd(name, q, free) for name, q in each.items()) for each in months]
        for free in (True, False)
    }
    per_thousand = [total / n * 1000 for total, n in zip(totals[True], VOLUMES, strict=True)]
    services = {
        service: [sum(usd(name, each[name]) for name in names) for each in months]
        for service, names in LINES.items()
    }
    rows = services | {
        "**all**": totals[True],
        "for 1,000 pictures": per_thousand,
        "all, if nothing were free": totals[False],
    }
    head = ["US$ a month", *(f"{n:,} pictures" for n in VOLUMES)]
    return _table([head, *([name, *map(_money, row)] for name, row in rows.items())])


def gallery_quantities() -> Mapping[str, float]:
    """Return the quantities of one visit to the gallery, in the units of PRICES."""
    images = PAGES * PICTURES
    requests = PAGES + images + FILES
    running = requests * ANSWER_S + GALLERY_START_S
    return {
        "vcpu": running,
        "memory": running * GALLERY_GIB,
        "requests": requests / 1e6,
        "class B": images / 1000,
        "traffic": (images * CARD_B + PAGES * PAGE_B) / GIB,
    }


def gallery() -> str:
    """Return the cost of the gallery as a table."""
    one = gallery_quantities()
    counts = (100, 10_000, 1_000_000)
    lines = {"Cloud Run, 256 MiB": ("vcpu", "memory", "requests"), "pictures read": ("class B",)}
    lines |= {"traffic": ("traffic",), "**all**": tuple(one)}
    rows = [["US$ a month, nothing free", *(f"{count:,} visits" for count in counts)]]
    for name, parts in lines.items():
        each = sum(usd(part, one[part], free=False) for part in parts)
        rows.append([name, *(_money(each * count) for count in counts)])
    return _table(rows)


def prices() -> str:
    """Return the prices as a table."""
    rows = [["what", "US$", "for one", "free each month", "page", "as of"]]
    for price in PRICES.values():
        amount = f"{price.usd:.7f}".rstrip("0").rstrip(".")
        rows.append([price.what, amount, price.unit, f"{price.free:,}", price.page, price.day])
    return _table(rows)


def picture() -> str:
    """Return what one picture uses, as a table."""
    shown, prompt = PICTURE_TOKENS[DEFAULTS.gemini_media_resolution], prompt_tokens()
    spoken = f"assumed: answer {ANSWER_TOKENS}, thoughts {THOUGHT_TOKENS}"
    rows = [
        ["of one picture", "", "how it is known"],
        ["1 vCPU and 512 MiB, BLIP alone", f"{seconds(False)} s", "`make bench`: 2,530 an hour"],
        ["the same with Gemini", f"{seconds(True)} s", f"assumed: it answers after {GEMINI_S:g} s"],
        ["a new instance, more", f"{COLD_S - WARM_S:.1f} s", f"assumed: {NEW_INSTANCES:.0%} of the pictures"],
        ["operations of class A; B", f"{CLASS_A}; {CLASS_B}", "counted; deleting is free"],
        ["source", f"{SOURCE_B / 1e6:g} MB for {SOFT_DELETE_DAYS} days", "assumed; soft delete keeps it"],
        ["published", f"{RENDITIONS_B / 1e6:g} MB", "assumed; each month that you keep it costs again"],
        ["event", f"{EVENT_B / 1000:g} kB", "cloud.google.com/eventarc/pricing"],
        ["log", f"{LOG_B / 1000:g} kB", "1.6 kB measured, the platform's own assumed"],
        ["database", f"{ROW_B / 1000:g} kB", "2.4 kB measured, dead rows assumed"],
        ["tokens in", f"{shown + prompt:,}", f"{shown:,} of the picture, {prompt} of the instruction"],
        ["tokens out", f"{ANSWER_TOKENS + THOUGHT_TOKENS:,}", f"{spoken}; at most {MAX_OUTPUT_TOKENS:,}"],
    ]  # fmt: skip
    return _table(rows)


def _money(amount: float) -> str:
    return f"{amount:,.2f}" if amount else "0"


def _table(rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|---" * len(rows[0]) + "|", *lines[1:]])


def main() -> None:
    bills = bill(described=False), bill(described=True)
    print(picture(), *bills, descriptions(), gallery(), prices(), sep="\n\n")


if __name__ == "__main__":
    main()
