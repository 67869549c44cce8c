"""A memory limit that the kernel enforces, without swap: an instance's memory on a machine that has more.

    with kernel_limit(512) as limit:
        process = subprocess.Popen(limit.command("python", "-m", "something"))
        limit.usage(process.pid).kills

It is a cgroup of our own (v1 or v2) where we are root, else systemd's, else a container that sees this
machine's files. Tried so far: cgroup v1, and Docker on it; v2 and systemd follow their manuals.
"""

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from dropcap.runtime import memory
from infra.local import StackError

EMPTY_S = 10.0  # how long the kernel may take to forget the processes that ended
TRY_S = 120.0  # Docker may have to fetch its image first
# Files with the number of kills, the peak memory with page cache, and the current memory without it.
V1 = ("memory.oom_control", "memory.max_usage_in_bytes", "total_rss")
V2 = ("memory.events", "memory.peak", "anon")
# The machine's own files, network and environment, so that a command is the same inside: FILE SIZE COMMAND.
IN_CONTAINER = r"""
file=$1 size=$2 names=$(env | sed -n 's/^\([A-Za-z_][A-Za-z_0-9]*\)=.*/--env \1/p')
shift 2
rm -f "$file"
exec docker run --rm --cidfile "$file" --network host --memory "$size" --memory-swap "$size" \
    --cpus 1 --volume /:/host $names busybox chroot /host sh -c 'cd "$0" && exec "$@"' "$PWD" "$@"
"""


class NoLimit(StackError):
    """This machine lets us limit no memory; the message says what is missing."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What the kernel says of all processes under a limit: how many it killed, and MB."""

    kills: int = 0
    peak_mb: float = 0.0  # page cache included, which is taken back before anything is killed
    anonymous_mb: float = 0.0  # now, without page cache


@dataclass(frozen=True, slots=True)
class Limit:
    """A limit by these means; `group` finds the cgroup of the process that a command was started as."""

    means: str
    prefix: tuple[str, ...]
    group: Callable[[int], Path]

    def command(self, *words: str) -> list[str]:
        """Return a command that runs these words under the limit."""
        return [*self.prefix, *words]

    def usage(self, pid: int) -> Usage:
        """Return the memory use of the command's processes; nothing after they have ended."""
        with suppress(OSError, StopIteration):
            group = self.group(pid)
            events, peak, anonymous = V2 if (group / V2[0]).exists() else V1
            most = int((group / peak).read_text()) if (group / peak).exists() else 0  # v2 before Linux 5.19
            now = _facts(group / "memory.stat")[anonymous]
            return Usage(_facts(group / events)["oom_kill"], most / 1e6, now / 1e6)
        return Usage()

    def processes(self, pid: int) -> list[int]:
        """Return the ids of all processes under the limit, given the process `pid` that was started."""
        with suppress(OSError, StopIteration):
            return [int(word) for word in (self.group(pid) / "cgroup.procs").read_text().split()]
        return []


def _no_group(pid: int) -> Path:
    raise FileNotFoundError


NO_LIMIT = Limit("none", (), _no_group)  # all that the machine has, and nothing is known of it


@contextmanager
def kernel_limit(mib: int) -> Iterator[Limit]:
    """Limit memory by the first means that works here. Raises NoLimit if none does."""
    with ExitStack() as made:
        yield _first(mib, made)


def _first(mib: int, made: ExitStack) -> Limit:
    missing = []
    for name, means in (("cgroup", _cgroup), ("systemd-run", _systemd), ("docker", _docker)):
        try:
            limit = made.enter_context(means(mib))
            subprocess.run(limit.command("true"), check=True, capture_output=True, text=True, timeout=TRY_S)
            return limit
        except subprocess.CalledProcessError as failed:
            missing.append(f"{name}: {' '.join(failed.stderr.split())}")
        except OSError as failed:
            missing.append(f"{name}: {failed.strerror}")
        except subprocess.TimeoutExpired:
            missing.append(f"{name}: no answer after {TRY_S:.0f} s")
    raise NoLimit(
        "This machine lets us limit no memory. It takes Linux, and root with a memory cgroup that can be "
        f"written, or systemd, or Docker. Tried {'; '.join(missing)}"
    )


@contextmanager
def _cgroup(mib: int) -> Iterator[Limit]:
    ours = memory.cgroup_files()
    if ours and ours[0].name == "memory.usage_in_bytes":
        version, parent = 1, ours[0].parent
        files = {"memory.limit_in_bytes": mib * 2**20, "memory.memsw.limit_in_bytes": mib * 2**20}
    else:  # v2 has limits only below a group that is the root or has no processes of its own
        version, parent = 2, memory.CGROUP
        files = {"memory.max": mib * 2**20, "memory.swap.max": 0}
        (parent / "cgroup.subtree_control").write_text("+memory")
    group = parent / f"dropcap-{os.getpid()}-{time.monotonic_ns()}"
    group.mkdir()
    try:
        for name, value in files.items():
            (group / name).write_text(str(value))
        join = ("/bin/sh", "-c", 'echo $$ > "$0" && exec "$@"', str(group / "cgroup.procs"))
        yield Limit(f"cgroup v{version}", join, lambda pid: group)
    finally:
        _remove(group)


@contextmanager
def _systemd(mib: int) -> Iterator[Limit]:
    whose = () if os.geteuid() == 0 else ("--user",)
    limits = ("-p", f"MemoryMax={mib}M", "-p", "MemorySwapMax=0")

    def group(pid: int) -> Path:
        lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
        return memory.CGROUP / next(line for line in lines if line.startswith("0::")).removeprefix("0::/")

    yield Limit("systemd-run", ("systemd-run", *whose, "--scope", "--quiet", *limits, "--"), group)


@contextmanager
def _docker(mib: int) -> Iterator[Limit]:
    with TemporaryDirectory(prefix="dropcap-docker-") as folder:
        file = Path(folder) / "id"
        prefix = ("/bin/sh", "-c", IN_CONTAINER, "docker", str(file), f"{mib}m")
        yield Limit("docker", prefix, lambda pid: _container(file.read_text() or "none yet"))


@cache
def _container(its_id: str) -> Path:
    return next(each for each in memory.CGROUP.rglob(f"*{its_id}*") if (each / "memory.stat").exists())


def _facts(file: Path) -> dict[str, int]:
    return {name: int(value) for name, value in map(str.split, file.read_text().splitlines())}


def _remove(group: Path) -> None:
    deadline = time.monotonic() + EMPTY_S
    while True:
        try:
            return group.rmdir()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)
