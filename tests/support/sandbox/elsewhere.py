"""The worker on a system that has fork() and limits, but none of Linux's own facilities."""

import sys

from dropcap.sandbox.worker import load_decoders, load_numpy, serve

__all__ = ["load_decoders", "load_numpy", "serve"]

sys.platform = "darwin"
