"""The deployed function in a process as the cloud starts it, and the naive function.

`run` measures one picture after the other, `flow` also a queue of pictures, with a slow or fast Gemini.
"""

from __future__ import annotations

import math
import os
import statistics
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from infra import ROOT
from infra.cloud.resources.declaration import PICTURES_AT_ONCE
from infra.cost import GIB_S, REQUEST, VCPU_S
from tests.bench.workers import Failed
from tests.memory.instance import Platform
from tests.memory.outside import Outside
from tests.memory.uploads import Sample

MAIN, NAIVE = ROOT / "functions" / "main.py", ROOT / "tests" / "memory" / "naive.py"
OURS_GIB, NAIVE_GIB = 0.5, 2  # the smallest instances into which each fits
TIMEOUT_S = 300.0
WARM = 2  # pictures before the measured ones
NO_LIMIT = 0
DEPLOYED = ROOT / ".venv-deployed" / "bin" / "python"  # has what the function needs, no more


@dataclass(frozen=True, slots=True)
class Run:
    """Seconds of one instance: to listen, to the end of its first upload, and of a warm one, median."""

    listening_s: float
    cold_start_s: float
    warm_s: float


def run(source: Path, model: Path, python: Path, picture: Path, uploads: int, logs: Path) -> Run:
    """Start an instance whose files are not cached and upload one picture several times, at least twice.

    It runs in the environment of `python`.
    """
    with Outside(logs) as outside:
        environment = os.environ | outside.environment
        with Platform(source, model, environment, NO_LIMIT, TIMEOUT_S, logs, python=python) as platform:
            seconds = []
            for index in range(uploads):
                sample = Sample(f"ana/{index}{picture.suffix}", "", picture, 0, 0)
                resource, began = outside.upload(sample), time.monotonic()
                if not platform.deliver(resource).answered:
                    raise Failed(f"{source.name} did not take {picture.name}: see its log in {logs}")
                seconds.append(time.monotonic() - began)
            return Run(platform.listening_s, platform.cold_start_s, statistics.median(seconds[1:]))


def usd_per_1000(seconds: float, gib: float) -> float:
    """Return US$ for 1,000 uploads on 1 vCPU at list prices; each begun tenth of a second is billed."""
    billed = math.ceil(seconds * 10) / 10
    return 1000 * (billed * (VCPU_S + gib * GIB_S) + REQUEST)


@dataclass(frozen=True, slots=True)
class Flow:
    """Pictures of one instance with a Gemini of `gemini_s` (None: without): alone, and in a queue.

    Latencies are percentiles from the event to its acknowledgement, s; in the queue all events come at once.
    `billed_s` is the time in which the instance has a request, s a picture, of the queue.
    """

    gemini_s: float | None
    alone_p50_s: float
    alone_p95_s: float
    queue_p50_s: float
    queue_p95_s: float
    billed_s: float


def flow(
    model: Path,
    picture: Path,
    gemini_s: float | None,
    alone: int,
    queue: int,
    logs: Path,
    python: Path = DEPLOYED,
) -> Flow:
    """Upload a picture `alone` times one after the other, then `queue` times at once, to a warm instance."""
    with Outside(logs) as outside:
        outside.gemini.latency_s = gemini_s or 0.0
        environment = os.environ | outside.environment
        if gemini_s is None:
            environment["GEMINI_API_KEY"] = ""
        with Platform(MAIN, model, environment, NO_LIMIT, TIMEOUT_S, logs, python=python) as platform:

            def upload(index: int) -> Mapping[str, Any]:
                return outside.upload(Sample(f"ana/{index}{picture.suffix}", "", picture, 0, 0))

            def deliver(resource: Mapping[str, Any]) -> float:
                """Return when the event is acknowledged."""
                if not platform.deliver(resource).answered:
                    raise Failed(f"{MAIN.name} did not take {picture.name}: see its log in {logs}")
                return time.monotonic()

            for index in range(WARM):
                deliver(upload(index))
            alone_s = []
            for index in range(WARM, WARM + alone):
                resource, began = upload(index), time.monotonic()
                alone_s.append(deliver(resource) - began)
            resources = [upload(index) for index in range(WARM + alone, WARM + alone + queue)]
            with ThreadPoolExecutor(PICTURES_AT_ONCE) as pool:  # the platform sends no more at once
                began = time.monotonic()
                queue_s = [ended - began for ended in pool.map(deliver, resources)]
    alone_p50, alone_p95, queue_p50, queue_p95 = (
        float(np.percentile(seconds, percent)) for seconds in (alone_s, queue_s) for percent in (50, 95)
    )
    return Flow(gemini_s, alone_p50, alone_p95, queue_p50, queue_p95, max(queue_s) / queue)


def table_of_flows(flows: Sequence[Mapping[str, Any]], queue: int) -> Table:
    """Return the flows as a table."""
    shown = Table("Gemini's latency", title="12 MP pictures through one instance of 1 vCPU", show_lines=False)
    for name in ("an hour", "billed s", "alone: p50 s", "p95 s", f"queue of {queue}: p50 s", "p95 s"):
        shown.add_column(name, justify="right")
    for each in flows:
        gemini_s = each["gemini_s"]
        latencies = (each[name] for name in ("alone_p50_s", "alone_p95_s", "queue_p50_s", "queue_p95_s"))
        shown.add_row(
            "without" if gemini_s is None else f"{gemini_s:g} s",
            f"{3600 / each['billed_s']:,.0f}",
            *(f"{figure:.2f}" for figure in (each["billed_s"], *latencies)),
        )
    return shown
