"""Peak memory of a process."""

from pathlib import Path


def peak_mb(pid: int | str = "self") -> float:
    """Return the peak resident set (VmHWM, proc(5)), mapped files included, MB.

    Raises OSError if the process has ended, or there is no /proc.
    """
    status = Path(f"/proc/{pid}/status").read_text()
    words = status.partition("VmHWM:")[2].split()
    return int(words[0]) * 1024 / 1e6 if words else 0.0  # zombie processes have none


def proportional_mb(pid: int) -> float:
    """Return the resident set now, in which a page of n processes counts as 1/n (Pss, proc(5)), MB.

    Raises OSError if the process has ended, or there is no /proc.
    """
    words = Path(f"/proc/{pid}/smaps_rollup").read_text().partition("\nPss:")[2].split()
    return int(words[0]) * 1024 / 1e6 if words else 0.0
