"""The deployed function in a process as the cloud starts it, and the naive function."""

from __future__ import annotations

import math
import os
import statistics
import time
from dataclasses import dataclass
from pathlib import Path

from infra import ROOT
from infra.cost import GIB_S, REQUEST, VCPU_S
from tests.bench.workers import Failed
from tests.memory.instance import Platform
from tests.memory.outside import Outside
from tests.memory.uploads import Sample

MAIN, NAIVE = ROOT / "functions" / "main.py", ROOT / "tests" / "memory" / "naive.py"
OURS_GIB, NAIVE_GIB = 0.5, 2  # the smallest instances into which each fits
TIMEOUT_S = 300.0
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
