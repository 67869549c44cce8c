"""The deployed function in a process as it is started in the cloud, beside the naive one: what of a cold
start takes how long, and what the pipeline adds to decoding, encoding and captioning."""

from __future__ import annotations

import json
import os
import statistics
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import psutil

from infra.local.ports import free_port
from infra.local.process import Process, framework
from infra.local.storage import ROOT
from tests.memory.instance import Platform
from tests.memory.outside import Outside
from tests.memory.uploads import Sample

MAIN, NAIVE = ROOT / "functions" / "main.py", ROOT / "tests" / "memory" / "naive.py"
TIMEOUT_S = 300.0
NO_LIMIT = 0
DEPLOYED = ROOT / ".venv" / "bin" / "python"  # has what the function needs and the local stack, no more


@dataclass(frozen=True, slots=True)
class Run:
    """One instance that got some uploads, the first of them cold. All in seconds."""

    listening: float  # from its start
    cold_start: float  # from its start to the end of the first upload
    warm: float  # each further upload, median
    cpu: float  # of the process for each further upload, mean
    stages: dict[str, tuple[float, float]]  # of the first upload, and the median of the others


def run(source: Path, model: Path, picture: Path, uploads: int, logs: Path, python: Path) -> Run:
    """Start an instance whose files are not cached and upload one picture several times, at least twice.

    It runs in the environment of `python`.
    """
    with Outside(logs) as outside:
        environment = os.environ | outside.environment
        with Platform(source, model, environment, NO_LIMIT, TIMEOUT_S, logs, python=python) as platform:
            seconds, cpu_s = [], []
            for index in range(uploads):
                sample = Sample(f"ana/{index}{picture.suffix}", "", picture, 0, 0)
                resource, began = outside.upload(sample), time.monotonic()
                if not platform.deliver(resource).answered:
                    raise RuntimeError(f"{source.name} did not take {picture.name}: see its log in {logs}")
                seconds.append(time.monotonic() - began)
                cpu_s.append(platform.cpu_s())
            return Run(
                platform.listening_s,
                platform.cold_start_s,
                statistics.median(seconds[1:]),
                (cpu_s[-1] - cpu_s[0]) / (uploads - 1),
                _stages(logs / f"{source.stem}-0.log"),
            )


@dataclass(frozen=True, slots=True)
class Progress:
    """`get_progress_stats`: seconds from the start of its process to its first answer, and MB after that.

    The memory is that of all its processes, what they share counted once.
    """

    seconds: float
    memory_mb: float


def progress(logs: Path, python: Path) -> Progress:
    """Start it in the environment of `python` and ask it once."""
    with Outside(logs) as outside:
        port, began = free_port(), time.monotonic()
        command = framework(MAIN, port, "get_progress_stats", python)
        environment = os.environ | outside.environment
        with Process("get_progress_stats", command, logs / "progress.log", environment, ROOT) as process:
            process.wait_until_answers(f"http://127.0.0.1:{port}/?user=ana")
            seconds = time.monotonic() - began
            root = psutil.Process(process.pid)
            every = (root, *root.children(recursive=True))
            return Progress(seconds, sum(each.memory_full_info().pss for each in every) / 1e6)


def _stages(log: Path) -> dict[str, tuple[float, float]]:
    """Seconds by stage, as the function's log tells them: (the first time, the median after that)."""
    seconds: defaultdict[str, list[float]] = defaultdict(list)
    for line in log.read_text().splitlines():
        if line.startswith("{"):
            entry = json.loads(line)
            if "stage" in entry:
                seconds[entry["stage"]].append(entry["seconds"])
    return {stage: (first, statistics.median(others)) for stage, (first, *others) in seconds.items()}
