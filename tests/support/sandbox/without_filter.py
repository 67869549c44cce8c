"""The worker on a system without a filter of system calls."""

from dropcap.sandbox import syscall_filter
from dropcap.sandbox.worker import load_decoders, load_numpy, serve

__all__ = ["load_decoders", "load_numpy", "serve"]

syscall_filter.install = lambda: "no filter"
