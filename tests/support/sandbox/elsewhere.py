"""The worker on a system that has fork() and limits, but none of Linux's own facilities."""

import sys

from dropcap.sandbox.worker import OUT_OF_MEMORY, load_decoders, load_numpy, serve

__all__ = ["OUT_OF_MEMORY", "load_decoders", "load_numpy", "serve"]

sys.platform = "darwin"
