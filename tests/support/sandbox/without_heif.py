"""The worker on a machine that lacks pillow-heif."""

import sys

sys.modules["pillow_heif"] = None  # type: ignore[assignment]

from dropcap.sandbox.worker import load_decoders, load_numpy, serve  # noqa: E402  after the module is gone

__all__ = ["load_decoders", "load_numpy", "serve"]
