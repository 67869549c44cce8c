"""Processes that each measure one way to do the same work, in turns."""

from __future__ import annotations

import json
import os
import platform
import re
import statistics
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from infra import ROOT

FEATURES = ("avx2", "avx512f", "avx_vnni", "avx512_vnni", "avx512_bf16", "amx_tile", "amx_int8", "amx_bf16")
Way = Sequence[str | Path]
"""The Python, the module and its arguments."""


class Failed(Exception):
    """A way did not work; the message names it."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One line of a worker: seconds by the clock, CPU seconds, resident memory and its peak so far, MB."""

    seconds: float
    cpu_s: float
    rss_mb: float
    peak_mb: float


@dataclass(frozen=True, slots=True)
class Processor:
    """The CPU: its name, those of FEATURES that it has, and how many of it a process sees while it loads."""

    name: str
    features: tuple[str, ...]
    visible: int

    @classmethod
    def read(cls, cpuinfo: str) -> Self:
        """Return what /proc/cpuinfo says of the first CPU."""
        facts: dict[str, str] = dict(
            re.findall(r"^(.+?)\s*: (.*)$", cpuinfo.partition("\n\n")[0], re.MULTILINE)
        )
        flags = (facts.get("flags") or facts.get("Features") or "").split()
        name = facts.get("model name") or platform.machine()
        return cls(name, tuple(flag for flag in FEATURES if flag in flags), len(_visible()))

    def __str__(self) -> str:
        features = ", ".join(self.features) or "none of AVX"
        return f"{self.name} ({features}); each process loads with {self.visible} CPUs in sight, works on one"


def _visible() -> set[int]:
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else {0}


def _pin(pid: int, cpu: int) -> None:
    """Let all threads of a process run on one CPU only (Linux)."""
    if hasattr(os, "sched_setaffinity"):
        for thread in Path(f"/proc/{pid}/task").iterdir():
            os.sched_setaffinity(int(thread.name), {cpu})


class Worker:
    """A process for one way. Once it is loaded, it works on the CPU that all ways share.

    An instance of Cloud Run with 1 vCPU sees two CPUs and has the time of one (dotnet/runtime #99046).
    Libraries choose kernels by what they see (docs/reference/onnxruntime-amx.md): nothing is pinned before.
    """

    def __init__(self, name: str, python: str, module: str, *words: str) -> None:
        self.name = name
        self.turns: list[Turn] = []
        self._process = subprocess.Popen(
            [python, "-W", "ignore", "-m", module, *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=os.environ
            | {"OMP_NUM_THREADS": "1", "MEMORY_LIMIT_MB": "32768", "MEMORY_WARNING_MB": "32768"},
        )
        self.ready = self._turn()
        _pin(self._process.pid, max(_visible()))

    def turn(self) -> None:
        """Have it work once. Raises Failed."""
        assert self._process.stdin
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        self.turns.append(self._turn())

    def _turn(self) -> Turn:
        assert self._process.stdout
        for line in self._process.stdout:
            if line.startswith("{"):  # libraries print, too
                return Turn(**json.loads(line))
        raise Failed(f"{self.name} ended with status {self._process.wait()}: its output is above")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()


@dataclass(frozen=True, slots=True)
class Figure:
    """Median seconds of a way and their quartiles, median CPU seconds, and peak memory in MB."""

    seconds: float
    quartiles: tuple[float, float]
    cpu_s: float
    peak_mb: float

    @classmethod
    def of(cls, turns: Sequence[Turn]) -> Figure:
        """Return the figure of all turns but the first, which warms up."""
        seconds = [turn.seconds for turn in turns[1:]]
        low, median, high = statistics.quantiles(seconds, n=4, method="inclusive")
        cpu_s = statistics.median(turn.cpu_s for turn in turns[1:])
        return cls(median, (low, high), cpu_s, max(turn.peak_mb for turn in turns))


def figures(ways: Mapping[str, Way], rounds: Iterable[int]) -> dict[str, Figure]:
    """Return the figure of each way after all have taken turns."""
    return {name: Figure.of(turns) for name, turns in take_turns(ways, rounds).items()}


def take_turns(ways: Mapping[str, Way], rounds: Iterable[int]) -> dict[str, list[Turn]]:
    """Start a worker for each way and return the turns of each, taken round by round.

    Turns spread a shared machine's slow and fast phases over all ways. Raises Failed.
    """
    with ExitStack() as running:
        workers = [running.enter_context(Worker(name, *map(str, way))) for name, way in ways.items()]
        for _ in rounds:
            for worker in workers:
                worker.turn()
        return {worker.name: worker.turns for worker in workers}
