"""Forbid this process all system calls but those that decoding needs (Linux, by seccomp).

A forbidden call fails with EPERM. What remains allocates memory, starts threads, reads the clock, and reads
and writes what is open: the connection. There is no call that opens a file or a socket, starts a program,
makes a process, traces or signals another process, or makes memory executable.

Numbers: arch/x86/entry/syscalls/syscall_64.tbl and include/uapi/asm-generic/unistd.h of Linux 6.12. Filter:
Documentation/userspace-api/seccomp_filter.rst; include/uapi/linux/seccomp.h, audit.h and bpf_common.h.
"""

import ctypes
import errno
import os
import platform
import sys

AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
COLUMNS = ("x86_64", "aarch64")
NONE = -1  # the architecture does not have it
ALLOWED = {
    "read": (0, 63),
    "write": (1, 64),
    "close": (3, 57),
    "fstat": (5, 80),
    "poll": (7, NONE),
    "lseek": (8, 62),
    "munmap": (11, 215),
    "brk": (12, 214),
    "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139),
    "sched_yield": (24, 124),
    "mremap": (25, 216),
    "madvise": (28, 233),
    "nanosleep": (35, 101),
    "getpid": (39, 172),
    "sendto": (44, 206),
    "recvfrom": (45, 207),
    "exit": (60, 93),
    "gettimeofday": (96, 169),
    "getrusage": (98, 165),
    "times": (100, 153),
    "sigaltstack": (131, 132),
    "gettid": (186, 178),
    "time": (201, NONE),
    "futex": (202, 98),
    "sched_getaffinity": (204, 123),
    "restart_syscall": (219, 128),
    "clock_gettime": (228, 113),
    "clock_getres": (229, 114),
    "clock_nanosleep": (230, 115),
    "exit_group": (231, 94),
    "ppoll": (271, 73),
    "set_robust_list": (273, 99),
    "getrandom": (318, 278),
    "membarrier": (324, 283),
    "rseq": (334, 293),
}
MMAP, MPROTECT = (9, 222), (10, 226)  # without PROT_EXEC
CLONE = (56, 220)  # with CLONE_THREAD
TGKILL = (234, 131)  # to this process: abort() ends with it
CLONE3 = (435, 435)  # its flags are out of a filter's reach: with ENOSYS, glibc uses clone instead

PROT_EXEC, CLONE_THREAD = 4, 0x10000  # asm-generic/mman-common.h, linux/sched.h
LOAD, EQUAL, ANY_BIT, RETURN = 0x20, 0x15, 0x45, 0x06  # BPF_LD|W|ABS, JMP|JEQ|K, JMP|JSET|K, RET|K
NUMBER, ARCH, ARGUMENTS = 0, 4, 16  # offsets in struct seccomp_data; an argument has 8 bytes, low half first
ALLOW, ERRNO = 0x7FFF0000, 0x00050000
PR_SET_SECCOMP, SECCOMP_MODE_FILTER, PR_SET_NO_NEW_PRIVS = 22, 2, 38


class Instruction(ctypes.Structure):
    """struct sock_filter: code, jumps if true and if false, operand."""

    _fields_ = (
        ("code", ctypes.c_ushort),
        ("jt", ctypes.c_ubyte),
        ("jf", ctypes.c_ubyte),
        ("k", ctypes.c_uint),
    )


class Program(ctypes.Structure):
    """struct sock_fprog."""

    _fields_ = (("len", ctypes.c_ushort), ("filter", ctypes.POINTER(Instruction)))


def program(machine: str, pid: int) -> list[tuple[int, int, int, int]]:
    """Return the filter for an architecture and a process: (code, jump if true, if false, operand)."""
    column = COLUMNS.index(machine)
    deny, allow = (RETURN, 0, 0, ERRNO | errno.EPERM), (RETURN, 0, 0, ALLOW)
    lines = [(LOAD, 0, 0, ARCH), (EQUAL, 1, 0, AUDIT_ARCH[machine]), deny, (LOAD, 0, 0, NUMBER)]
    for numbers in ALLOWED.values():
        if numbers[column] != NONE:
            lines += [(EQUAL, 0, 1, numbers[column]), allow]
    for numbers in (MMAP, MPROTECT):
        lines += [(EQUAL, 0, 4, numbers[column]), (LOAD, 0, 0, ARGUMENTS + 2 * 8)]
        lines += [(ANY_BIT, 0, 1, PROT_EXEC), deny, allow]
    lines += [
        (EQUAL, 0, 4, CLONE[column]),
        (LOAD, 0, 0, ARGUMENTS),
        (ANY_BIT, 0, 1, CLONE_THREAD),
        allow,
        deny,
    ]
    lines += [(EQUAL, 0, 4, TGKILL[column]), (LOAD, 0, 0, ARGUMENTS), (EQUAL, 0, 1, pid), allow, deny]
    lines += [(EQUAL, 0, 1, CLONE3[column]), (RETURN, 0, 0, ERRNO | errno.ENOSYS)]
    return [*lines, deny]


def install() -> str:
    """Install the filter in this process, which must have one thread. Return why it can't, or ""."""
    if sys.platform != "linux" or platform.machine() not in COLUMNS:
        return f"there is no filter of system calls for {sys.platform} on {platform.machine()}"
    lines = program(platform.machine(), os.getpid())
    instructions = (Instruction * len(lines))(*(Instruction(*line) for line in lines))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        return f"PR_SET_NO_NEW_PRIVS: {os.strerror(ctypes.get_errno())}"
    if libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(Program(len(lines), instructions)), 0, 0):
        return f"PR_SET_SECCOMP: {os.strerror(ctypes.get_errno())}"
    return ""
