"""Confine a child process before it sees a picture: limits of the kernel, and the filter of system calls.

Each part is applied where the system has it. The function sets the limit on memory itself, from outside, as
it changes with what else the instance holds.
"""

import ctypes
import os
import resource
import signal
import sys
from contextlib import suppress
from pathlib import Path

from dropcap.sandbox import syscall_filter

STDERR_BYTES = 65_536  # what libraries may write to standard error, which is in memory
PR_SET_PDEATHSIG = 1  # linux/prctl.h


def confine(cpu_s: int) -> str:
    """Confine this process, whose CPU time may be `cpu_s`. Return what is missing, or ""."""
    for name, soft, hard in (
        ("RLIMIT_CORE", 0, 0),
        ("RLIMIT_FSIZE", STDERR_BYTES, STDERR_BYTES),
        ("RLIMIT_NOFILE", 0, 0),  # nothing can be opened; what is open stays
        ("RLIMIT_CPU", cpu_s, cpu_s + 1),  # SIGXCPU, then SIGKILL
    ):
        with suppress(ValueError, OSError):  # a stricter limit is there already
            resource.setrlimit(getattr(resource, name), (soft, hard))
    if sys.platform == "linux":
        with suppress(OSError):  # first to be killed if the container runs out of memory
            Path("/proc/self/oom_score_adj").write_text("1000")
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() == 1:  # the fork server ended before this
            os._exit(1)
    return syscall_filter.install()
