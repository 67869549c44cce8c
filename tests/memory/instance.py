"""A function in instances like the platform's: limited memory, one vCPU, several events at once.

An instance is started by an event and again after each death; an event is delivered again until it is
acknowledged, though not for ever.
"""

import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import psutil

from infra import ROOT
from infra.cloud.resources.declaration import PICTURES_AT_ONCE
from infra.local import StackError
from infra.local.events import cloud_event
from infra.local.process import Process, framework, free_port
from tests.memory.limit import NO_LIMIT, kernel_limit
from tests.memory.peak import peak_mb, proportional_mb
from tests.support.backing_services import post_event

DELIVERIES = 3
AGAIN_S = 1.5  # before the next delivery
AS_DEPLOYED = {"THREADS": str(PICTURES_AT_ONCE)}
SAMPLE_S = 0.02
# A line of the log at the end of a picture's turn (runtime/turns.py).
TURN_ENDS = ('"stage": "caption"', '"event": "upload_rejected"')
RESET_PEAK = "5"  # to clear_refs: VmHWM begins anew (proc(5))


@dataclass
class Memory:
    """The most memory during one delivery, MB; see `Delivery`."""

    rss_mb: float = 0.0
    anonymous_mb: float = 0.0


@dataclass(frozen=True, slots=True)
class Delivery:
    """What it took to have one event acknowledged, or not; the most memory meanwhile in MB."""

    seconds: float  # of the last delivery
    deliveries: int
    answered: bool
    kills: int
    late: int  # deliveries that took longer than may be
    rss_mb: float  # of all processes, mapped files included; what they share counts once
    anonymous_mb: float  # of all processes: memory that the kernel can't reclaim


class Instance:
    """One start of `on_upload` in the program `source`, functions-framework included, as deployed.

    `mib` 0 is no limit; `python` is that of the environment it runs in.
    """

    def __init__(
        self, source: Path, environment: Mapping[str, str], mib: int, log: Path, python: Path
    ) -> None:
        self.source = source
        self.python = python
        self.environment = environment
        self.mib = mib
        self.log = log
        self.kills = 0
        self.peak_mb = 0.0
        self.turns_mb: list[float] = []  # the most memory in the turn of each picture
        self._turn = Memory()
        self._measured: list[Memory] = []  # one for each delivery that runs
        self._lock = threading.Lock()
        self._listens = False
        self._exit = ExitStack()

    def start(self) -> None:
        """Start it, under the limit and on one CPU."""
        self._limit = self._exit.enter_context(kernel_limit(self.mib) if self.mib else nullcontext(NO_LIMIT))
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        command = self._limit.command(*framework(self.source, port, python=self.python))
        self._exit.callback(self._measure)  # when it has ended, as that may be by a kill too
        process = Process(self.source.stem, command, self.log, self.environment, ROOT)
        self._process = self._exit.enter_context(process)
        with suppress(psutil.Error):  # it may be dead already
            psutil.Process(process.pid).cpu_affinity([max(os.sched_getaffinity(0))])
        ended = threading.Event()
        sampler = threading.Thread(target=self._sample, args=(ended,), daemon=True)
        sampler.start()
        self._exit.callback(sampler.join)
        self._exit.callback(ended.set)

    def ready(self) -> bool:
        """Return whether it listens; False if it was killed while starting. Raises StackError otherwise."""
        if not self._listens:
            try:
                self._process.wait_until_answers(self.url)
            except StackError:
                self.close()
                if not self.kills:
                    raise
                return False
            self._listens = True
        return True

    def close(self) -> None:
        """End it, and its limit."""
        self._exit.close()

    def post(self, headers: Mapping[str, str], body: bytes, timeout_s: float, memory: Memory) -> str:
        """Deliver an event once; return the outcome, as `post_event` does, and raise `memory` to the peak."""
        self._measure()  # for the deliveries that run already: their peaks begin anew, too
        self._reset_peaks()
        with self._lock:
            self._measured.append(memory)
        try:
            return post_event(self.url, headers, body, timeout_s)
        finally:
            self._measure()
            with self._lock:
                self._measured = [each for each in self._measured if each is not memory]

    def cpu_s(self) -> float:
        """CPU seconds that it has used, with all that it started."""
        times = [psutil.Process(pid).cpu_times() for pid in self._pids()]
        return sum(float(each.user + each.system) for each in times)

    def _pids(self) -> list[int]:
        """Return the ids of all its processes; without a limit, of the process tree."""
        root = self._process.pid
        with suppress(psutil.Error):  # it has ended
            return self._limit.processes(root) or [
                root,
                *(each.pid for each in psutil.Process(root).children(recursive=True)),
            ]
        return []

    def _reset_peaks(self) -> None:
        for pid in self._pids():
            with suppress(OSError):  # a process that has ended, or not ours
                Path(f"/proc/{pid}/clear_refs").write_text(RESET_PEAK)

    def _sample(self, ended: threading.Event) -> None:
        with self.log.open() as log:
            while not ended.wait(SAMPLE_S):
                self._measure()
                if any(end in line for line in log.readlines() for end in TURN_ENDS):
                    self.turns_mb.append(self._turn.rss_mb)
                    self._turn = Memory()
                    self._reset_peaks()

    def _measure(self) -> None:
        usage = self._limit.usage(self._process.pid)
        largest = shared = 0.0
        for pid in self._pids():
            with suppress(OSError):
                largest = max(largest, peak_mb(pid))
                shared += proportional_mb(pid)
        with self._lock:
            self.kills = max(self.kills, usage.kills)
            self.peak_mb = max(self.peak_mb, usage.peak_mb)
            for each in (*self._measured, self._turn):
                each.anonymous_mb = max(each.anonymous_mb, usage.anonymous_mb)
                each.rss_mb = max(each.rss_mb, largest, shared)


class Platform:
    """Runs a function: starts an instance when there is none. Threads may deliver events at once."""

    def __init__(
        self,
        source: Path,
        model: Path,
        environment: Mapping[str, str],
        mib: int,
        timeout_s: float,
        logs: Path,
        died: Callable[[], None] = lambda: None,
        python: Path = Path(sys.executable),
    ) -> None:
        self.source = source
        self.model = model.resolve()
        self.environment = dict(environment) | AS_DEPLOYED | {"MODEL_FOLDER": str(self.model)}
        self.mib = mib
        self.timeout_s = timeout_s
        self.logs = logs
        self.python = python  # of the environment that the function runs in
        self.died = died  # called when an instance is gone with its work undone
        self.starts = 0
        self.kills = 0
        self.listening_s = 0.0  # from the first start until it listened
        self.cold_start_s = 0.0  # from the first start to the first event that was acknowledged
        self.peak_mb = 0.0  # page cache included
        self.turns_mb: list[float] = []  # the most memory in the turn of each picture
        self._instance: Instance | None = None
        self._lock = threading.RLock()
        self._first_start = 0.0

    def deliver(self, resource: Mapping[str, Any]) -> Delivery:
        """Tell of an object until it is acknowledged. Raises StackError where the function can't start."""
        headers, body = cloud_event(resource)
        kills = late = deliveries = 0
        memory, answer = Memory(), ""
        while answer != "answered" and deliveries < DELIVERIES:
            if deliveries:
                time.sleep(AGAIN_S)
            deliveries += 1
            with self._lock:
                instance = self._running()
                before, ready = instance.kills, instance.ready()
            self.listening_s = self.listening_s or time.monotonic() - self._first_start
            began = time.monotonic()
            answer = instance.post(headers, body, self.timeout_s, memory) if ready else "broken off"
            seconds = time.monotonic() - began
            if answer in ("late", "broken off"):
                with self._lock:
                    if self._instance is instance:
                        # The platform ends an instance whose memory ran out, whichever process died.
                        self.close()
                        self.died()
            kills += instance.kills - before
            late += answer == "late"
            self.peak_mb = max(self.peak_mb, instance.peak_mb)
        if answer == "answered" and not self.cold_start_s:
            self.cold_start_s = time.monotonic() - self._first_start
        return Delivery(
            seconds, deliveries, answer == "answered", kills, late, memory.rss_mb, memory.anonymous_mb
        )

    def cpu_s(self) -> float:
        """CPU seconds of the instance; 0 where there is none."""
        return self._instance.cpu_s() if self._instance else 0.0

    def _running(self) -> Instance:
        if self._instance is None:
            log = self.logs / f"{self.source.stem}-{self.starts}.log"
            self._instance = Instance(self.source, self.environment, self.mib, log, self.python)
            self._first_start = self._first_start or time.monotonic()
            self.starts += 1
            self._instance.start()
        return self._instance

    def close(self) -> None:
        """End the instance, if there is one."""
        if self._instance:
            self._instance.close()
            self.kills += self._instance.kills
            self.turns_mb += self._instance.turns_mb
            self._instance = None

    def __enter__(self) -> Self:
        _forget([*self.python.parent.parent.rglob("*.so*"), *self.model.iterdir()])
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _forget(files: Iterable[Path]) -> None:
    """Take files out of the page cache.

    The kernel charges a file's pages to the first reader: pages read by others would be free for the
    function, and its cold start would be warm.
    """
    for path in files:
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())  # pages that are not yet written would stay
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
