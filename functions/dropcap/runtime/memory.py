"""Memory as a budget: what the limit is, what is used, what is left, and how long a stage took and may take.

Sizes are in MB (10^6 bytes) unless a name says MiB. The limit is the lower of the cgroup's and the
MEMORY_LIMIT_MB setting, so that a large machine behaves as the small instance will.
"""

import ctypes
import faulthandler
import gc
import math
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

import psutil

from dropcap import logs
from dropcap.runtime.timeouts import begin

CGROUP = Path("/sys/fs/cgroup")
MADV_DONTNEED = 4  # linux/mman.h
M_MMAP_THRESHOLD, M_ARENA_MAX = -3, -8  # malloc.h of glibc
MAPPED_BYTES = 1 << 20
STDERR = 2  # sys.stderr may have no file behind it
SWEEP_S = 0.02  # in which an encoder reads about 10 MB


@cache
def cgroup_files() -> tuple[Path, Path] | None:
    """The files that hold this process's usage and limit: cgroup v2, else v1, else None."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:  # not Linux
        return None
    for _, controllers, path in (line.split(":", 2) for line in lines):
        if controllers == "":
            names, roots = ("memory.current", "memory.max"), (CGROUP / path.lstrip("/"), CGROUP)
        elif "memory" in controllers.split(","):
            names = ("memory.usage_in_bytes", "memory.limit_in_bytes")
            roots = (CGROUP / "memory" / path.lstrip("/"), CGROUP / "memory")
        else:
            continue
        for root in roots:  # inside a container its own group is often mounted as the root
            if all((root / name).exists() for name in names):
                return root / names[0], root / names[1]
    return None


def rss_mb() -> float:
    """Resident set of this process, MB."""
    return float(psutil.Process().memory_info().rss) / 1e6


def container_mb() -> float | None:
    """What the container counts as used, page cache included, MB; None where there is no cgroup."""
    files = cgroup_files()
    return int(files[0].read_text()) / 1e6 if files else None


def limit_mb(setting_mib: int) -> float:
    """The memory that this process may use, MB."""
    limit = setting_mib * 1.048576
    files = cgroup_files()
    word = files[1].read_text().strip() if files else "max"
    return limit if word == "max" else min(limit, int(word) / 1e6)


def left_mb(setting_mib: int) -> float:
    """What may still be allocated before the limit, MB. Page cache does not count, as it is taken back."""
    return max(0.0, limit_mb(setting_mib) - rss_mb())


def use_one_heap() -> None:
    """Let all threads allocate from one heap, from now on: of their own, as glibc gives them, they keep all.

    After 15 pictures on four threads, 300 MB were held so in place of 140 (`make prove`). What is large is
    mapped, so that it goes back whole: by itself glibc raises its threshold to the largest part freed so far,
    32 MB at most, and BLIP-base's peak was 9 MB higher with the holes that remained (`model_export.measure`).
    """
    _glibc("mallopt", M_ARENA_MAX, 1)
    _glibc("mallopt", M_MMAP_THRESHOLD, MAPPED_BYTES)


def release() -> None:
    """Give freed memory back to the system: glibc keeps it otherwise, and the limit counts it.

    The first call exempts what has been loaded by then, mostly modules, from later garbage collections. A
    collection of all of it takes 0.1 s of CPU, and each picture needs one.
    """
    gc.collect()
    if not gc.get_freeze_count():
        gc.freeze()
    _glibc("malloc_trim", 0)


def _glibc(function: str, *arguments: int) -> None:
    """Call what only glibc has; nothing where there is another libc."""
    if sys.platform == "linux":
        with suppress(AttributeError):
            getattr(ctypes.CDLL(None), function)(*arguments)


Parts = tuple[tuple[int, int], ...]
"""Where something lies in this process: (address, bytes) of each part."""


def mapped(file: Path, without: Parts = ()) -> Parts:
    """Where a file is mapped, but for what overlaps `without`; empty where that isn't known."""
    try:
        lines = Path("/proc/self/maps").read_text().splitlines()
    except OSError:  # not Linux
        return ()
    name = f" {file.resolve()}"
    spans = (line.split()[0].split("-") for line in lines if line.endswith(name))
    parts = ((int(first, 16), int(last, 16) - int(first, 16)) for first, last in spans)
    return tuple((a, n) for a, n in parts if all(a + n <= b or b + m <= a for b, m in without))


@contextmanager
def read_once(parts: Parts) -> Iterator[None]:
    """While weights that are mapped, and read once from first to last, are read: let go of what was read.

    The system keeps the file in its cache as long as it has room, so that a part that is read again costs a
    page fault, no reading. All parts must be mapped files, and stay so meanwhile: other memory would be lost.
    """

    def let_go() -> None:
        for address, size in parts:
            libc.madvise(ctypes.c_void_p(address), ctypes.c_size_t(size), MADV_DONTNEED)

    def sweep() -> None:
        while not done.wait(SWEEP_S):
            let_go()

    if not parts:
        yield
        return
    libc, done = ctypes.CDLL(None), threading.Event()
    sweeper = begin(sweep, "read once")
    try:
        yield
    finally:
        done.set()
        sweeper.result()
        let_go()


class Watch:
    """Watchdog of one picture: logs memory and time of each stage.

    If a stage takes longer than `stage_s` seconds, or the picture longer than `in_all_s` since its first
    stage, this process ends, with the stack of each thread on stderr. An instance handles one picture at a
    time, so no other work is lost; a request that waits for its turn must not be in a stage. `begins` is
    called with the name of each stage, and may refuse it by raising.
    """

    def __init__(self, upload_id: str, warning_mb: int, stage_s: float, in_all_s: float) -> None:
        self.upload_id = upload_id
        self.warning_mb = warning_mb
        self.stage_s = stage_s
        self.in_all_s = in_all_s
        self.ends = math.inf
        self.begins: Callable[[str], None] = lambda name: None
        self.memory: dict[str, float] = {}
        self.timings: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Measure and bound a stage; above the warning level say so, with the stage's name."""
        started = time.perf_counter()
        if not self.timings:
            self.ends = time.monotonic() + self.in_all_s
        # A timer or signal handler of Python's would wait for the very decoder that hangs on to the GIL.
        longest_s = max(0.001, min(self.stage_s, self.ends - time.monotonic()))
        stderr = os.dup(STDERR)  # decoders may have replaced it by then
        faulthandler.dump_traceback_later(longest_s, exit=True, file=stderr)
        try:
            self.begins(name)
            yield
        finally:
            faulthandler.cancel_dump_traceback_later()
            os.close(stderr)
            self.timings[name] = round(time.perf_counter() - started, 4)
            used = self.memory[name] = round(rss_mb(), 1)
            high = used > self.warning_mb
            logs.write(
                "WARNING" if high else "INFO",
                f"{name}: memory {used:.0f} MB is above {self.warning_mb} MB" if high else name,
                upload=self.upload_id,
                stage=name,
                seconds=self.timings[name],
                rss_mb=used,
                container_mb=container_mb(),
            )
