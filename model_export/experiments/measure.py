"""Measure the memory and time of a model folder in this process.

Usage: python -m model_export.experiments.measure FOLDER [WITHOUT]

The process imports what the function imports, and nothing of the exporter, so that its memory is the
function's. `WITHOUT` undoes one setting of dropcap/captioning/graphs.py, to show what it is worth.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import functions_framework  # noqa: F401  this and the next two: what the function has in memory beside BLIP
import google.cloud.storage
import google.genai  # noqa: F401
import numpy as np
import onnxruntime as ort
import psutil

from dropcap.captioning import blip, graphs
from dropcap.runtime import memory
from tests.memory.peak import peak_mb

TOKENS = 16
RUNS = 9
MB = 1e6


def measure(folder: Path, without: str) -> dict[str, float]:
    """Return MB at rest and at the peak (VmHWM), and median seconds of the encoder and of 16 tokens."""

    def undone(path: Path, options: ort.SessionOptions) -> ort.InferenceSession:
        if path.name != "decoder.onnx":
            options.enable_cpu_mem_arena = without != "arena"
            if without == "unpacked":
                options.add_session_config_entry("session.disable_prepacking", "0")
        return session(path, options)

    memory.use_one_heap()  # as the function does
    session: Callable[..., ort.InferenceSession] = graphs._session
    mapped = (lambda *_, **__: ()) if without == "read once" else memory.mapped
    with mock.patch.object(graphs, "_session", undone), mock.patch.object(memory, "mapped", mapped):
        captioner = blip.Captioner(folder)
    if without in ("shrinking", "arena"):
        captioner._encoder._shrink = ort.RunOptions()
    rng = np.random.default_rng(0)
    encoder_s, tokens_s = [], []
    for _ in range(RUNS):
        side = captioner.card.size
        pixels = rng.standard_normal((1, 3, side, side), dtype=np.float32)
        started = time.perf_counter()
        cross = captioner._encoder(pixels)
        encoder_s.append(time.perf_counter() - started)
        started = time.perf_counter()
        step, ids = captioner._decoder.steps(cross), [captioner.card.bos]
        for _ in range(TOKENS):
            ids = [int(step(np.array([ids]), None)[0].argmax())]
        tokens_s.append(time.perf_counter() - started)
        del cross, step
    memory.release()
    return {
        "file_mb": sum(path.stat().st_size for path in (*folder.glob("*coder.*"), *folder.glob("cross.*")))
        / MB,
        "rest_mb": psutil.Process().memory_info().rss / MB,
        "peak_mb": peak_mb(),
        "encoder_s": statistics.median(encoder_s),
        "tokens_s": statistics.median(tokens_s),
    }


if __name__ == "__main__":
    folder, without = (*sys.argv[1:], "")[:2]
    print(json.dumps(measure(Path(folder), without)))
