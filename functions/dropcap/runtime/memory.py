"""Measure and limit the memory of this process and its helpers, and return freed memory to the system.

Sizes are in MB (10^6 bytes) unless a name says MiB. The limit is the lower of the cgroup's and the
MEMORY_LIMIT_MB setting, so that a large machine behaves as the small instance does.
"""

import ctypes
import gc
import resource
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

from dropcap.runtime.timeouts import submit

CGROUP = Path("/sys/fs/cgroup")
MADV_DONTNEED = 4  # linux/mman.h
M_MMAP_THRESHOLD, M_ARENA_MAX = -3, -8  # malloc.h of glibc
MAPPED_BYTES = 1 << 20
DROP_S = 0.02  # an encoder reads about 10 MB in this time

Admit = Callable[[Sequence[float]], tuple[int | None, float]]
"""Takes needs of memory, MB, best first; returns the index of the first that fits, if any, and MB left."""

helpers: dict[int, float] = {}
"""Processes that work for this one, by pid, with the memory, MB, that each shares with another helper."""
PAGE = resource.getpagesize()


@cache
def cgroup_files() -> tuple[Path, Path] | None:
    """Return the files with this process's memory usage and limit: cgroup v2, else v1, else None."""
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
        for root in roots:  # a container's own group is often mounted as the root
            if all((root / name).exists() for name in names):
                return root / names[0], root / names[1]
    return None


def rss_mb() -> float:
    """Return the resident set size of this process, and the memory that its helpers have besides, MB."""
    return _resident_mb() + sum(
        max(0.0, anonymous_mb(pid) - shared) for pid, shared in tuple(helpers.items())
    )


def _resident_mb() -> float:
    if sys.platform == "linux":  # psutil, which reads the same, takes 15 ms to load
        return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE / 1e6
    import psutil

    return float(psutil.Process().memory_info().rss) / 1e6


def anonymous_mb(pid: int) -> float:
    """Return the memory of a process that no file backs, MB; 0 if it has ended.

    /proc/PID/statm takes 0.05 ms, smaps_rollup 1.5 ms. Elsewhere than on Linux, the resident set size.
    """
    if sys.platform == "linux":
        with suppress(OSError):
            _, resident, backed, *_ = Path(f"/proc/{pid}/statm").read_text().split()
            return (int(resident) - int(backed)) * PAGE / 1e6
        return 0.0
    import psutil

    with suppress(psutil.Error):
        return float(psutil.Process(pid).memory_info().rss) / 1e6
    return 0.0


def address_space_mb(pid: int) -> float:
    """Return the size of a process's address space, MB (Linux). Raises OSError if it has ended."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[0]) * PAGE / 1e6


def kills() -> int:
    """Return how many processes of this container the kernel killed for memory; 0 if that is unknown."""
    if files := cgroup_files():
        for name in ("memory.events", "memory.oom_control"):  # cgroup v2, v1
            with suppress(OSError):
                counts = dict(line.split() for line in (files[0].parent / name).read_text().splitlines())
                return int(counts.get("oom_kill", 0))
    return 0


def container_mb() -> float | None:
    """Return the container's memory usage, page cache included, MB; None without a cgroup."""
    files = cgroup_files()
    return int(files[0].read_text()) / 1e6 if files else None


def limit_mb(setting_mib: int) -> float:
    """Return the memory that this process may use, MB."""
    limit = setting_mib * 1.048576
    files = cgroup_files()
    value = files[1].read_text().strip() if files else "max"
    return limit if value == "max" else min(limit, int(value) / 1e6)


def left_mb(setting_mib: int) -> float:
    """Return the memory that may still be allocated, MB. Page cache counts as free: it is reclaimable."""
    return max(0.0, limit_mb(setting_mib) - rss_mb())


def use_one_heap() -> None:
    """Make all threads allocate from one heap, and map large allocations.

    glibc gives each thread a heap of its own, which keeps what is freed: after 15 pictures on four threads,
    the process held 300 MB instead of 140 MB (`make prove`). A mapped allocation returns to the system as a
    whole. By default glibc raises its threshold for mapping to the largest block freed so far, up to 32 MB,
    and the resulting fragmentation raised BLIP-base's peak by 9 MB (`model_export.experiments.measure`).
    """
    _glibc("mallopt", M_ARENA_MAX, 1)
    _glibc("mallopt", M_MMAP_THRESHOLD, MAPPED_BYTES)


def release() -> None:
    """Return freed memory to the system: glibc would keep it, and it counts against the limit.

    The first call exempts what has been loaded by then, mostly modules, from later garbage collections. A
    collection of all of it takes 0.1 s of CPU, and each picture needs one.
    """
    _freeze_once()
    gc.collect()
    _glibc("malloc_trim", 0)


@cache
def _freeze_once() -> None:
    """Exempt all present objects from later garbage collections. `gc.get_freeze_count` takes 20 ms."""
    gc.collect(1)  # of all generations it takes 0.1 s; what the first picture left is still young
    gc.freeze()


def _glibc(function: str, *arguments: int) -> None:
    """Call a function of glibc; do nothing if there is another libc."""
    if sys.platform == "linux":
        with suppress(AttributeError):
            getattr(ctypes.CDLL(None), function)(*arguments)


Parts = tuple[tuple[int, int], ...]
"""Memory ranges of this process: (address, bytes) of each."""


def mapped(file: Path, without: Parts = ()) -> Parts:
    """Return where a file is mapped, except ranges that overlap `without`; empty if that is unknown."""
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
    """Drop pages of mapped weights from the resident set while an encoder reads each of them once.

    The system keeps the file in its page cache while there is room, so reading a page again costs a page
    fault, but no I/O. All parts must be mapped files, and stay mapped: other memory would lose its contents.
    """

    def drop() -> None:
        for address, size in parts:
            libc.madvise(ctypes.c_void_p(address), ctypes.c_size_t(size), MADV_DONTNEED)

    def drop_regularly() -> None:
        while not done.wait(DROP_S):
            drop()

    if not parts:
        yield
        return
    libc, done = ctypes.CDLL(None), threading.Event()
    dropping = submit(drop_regularly, "read once")
    try:
        yield
    finally:
        done.set()
        dropping.result()
        drop()
