"""Run BLIP's two graphs in ONNX Runtime, and configure its memory and CPU use.

    encoder   pixels -> keys and values of every cross-attention layer: computed once a picture. Of a
              large model, it has two parts: encoder.onnx and cross.onnx
    decoder   ids, past keys and values, the encoder's -> logits of the last position, present keys and values

model_export/README.md has the effect of each setting, measured with BLIP-base.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dropcap.errors import TransientError
from dropcap.runtime import memory

if TYPE_CHECKING:
    import onnxruntime as ort

# Since 1.29 ONNX Runtime reports its use to Microsoft, unless this is set before it is loaded (ORT #27379).
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

REMEDY = "restore the folder from the repository, or install it again with `make model`"

Floats = NDArray[np.float32]
Ids = NDArray[np.int64]
Cross = dict[str, "ort.OrtValue"]
"""The keys and values of one picture, (1, heads, image tokens, head_size) each."""
Step = Callable[[Ids, Sequence[int] | None], Floats]
"""(ids (B, L), which rows of the last call they continue) -> logits (B, vocabulary) of the last position."""


class ModelError(TransientError):
    """The model can't be loaded or run; the message names the file and the remedy."""


_mapping = threading.Lock()  # load one encoder at a time, so that new mappings belong to it


class Encoder:
    """The encoder graph. It reads each weight once per picture, so that no weight stays in memory.

    If a second graph, cross.onnx, makes the keys and values from what the first gives, the memory of the
    first is released before they take theirs: 25 MB less at BLIP-base's peak.
    """

    def __init__(self, folder: Path, threads: int) -> None:
        with _on_any_cpu():
            import onnxruntime as ort

        options = _options(threads)
        # Prepacking would copy the int8 weights into private memory (90 MB), for 6 % less time.
        options.add_session_config_entry("session.disable_prepacking", "1")
        # Without an arena, one picture fragments the heap (+70 MB). An arena that is released after each run
        # does not.
        options.enable_cpu_mem_arena = True
        self._shrink = ort.RunOptions()
        self._shrink.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
        graphs = [folder / "encoder.onnx", folder / "cross.onnx"]
        graphs = graphs[: 1 + graphs[1].exists()]
        weights = [graph.with_suffix(".data") for graph in graphs]
        with _mapping:
            # Another encoder of the same folder may be freed before this one.
            others = [memory.mapped(file) for file in weights]
            self._parts = [_session(graph, options) for graph in graphs]
            found = zip(weights, others, strict=True)
            self._weights = tuple(part for file, them in found for part in memory.mapped(file, without=them))
        self._outputs = {output.name: output.shape[1:] for output in self._parts[-1].get_outputs()}

    @property
    def width(self) -> int:
        """Return the width of the keys of a picture part: heads times head_size."""
        heads, _, head_size = next(iter(self._outputs.values()))
        return int(heads * head_size)

    def __call__(self, pixels: Floats) -> Cross:
        """Return the keys and values for `pixels`, (1, 3, side, side). Raises ModelError."""
        from onnxruntime import OrtValue

        shape = next(iter(self._outputs.values()))
        # One block for all outputs (42 MB in BLIP-base), which is freed as a whole. ORT writes into it.
        block = np.empty((len(self._outputs), 1, *shape), np.float32)
        cross = {
            name: OrtValue.ortvalue_from_numpy(part) for name, part in zip(self._outputs, block, strict=True)
        }
        *first, last = self._parts
        try:
            with memory.read_once(self._weights):
                for part in first:
                    (output,) = part.get_outputs()
                    states = np.empty(output.shape, np.float32)
                    self._run(part, pixels, {output.name: OrtValue.ortvalue_from_numpy(states)})
                    pixels = states
                self._run(last, pixels, cross)
        except Exception as failed:  # onnxruntime's errors have no common base but Exception
            raise _run_error(failed) from failed
        return cross

    def _run(self, part: ort.InferenceSession, values: Floats, outputs: Cross) -> None:
        from onnxruntime import OrtValue

        binding, (taken,) = part.io_binding(), part.get_inputs()
        binding.bind_ortvalue_input(taken.name, OrtValue.ortvalue_from_numpy(values))
        for name, value in outputs.items():
            binding.bind_ortvalue_output(name, value)
        part.run_with_iobinding(binding, self._shrink)


class Decoder:
    """The decoder graph. It reads its weights for every token, so they stay in memory, prepacked."""

    def __init__(self, folder: Path, threads: int) -> None:
        options = _options(threads)
        options.enable_cpu_mem_arena = False  # an arena would keep the memory of a caption
        self._session = _session(folder / "decoder.onnx", options)
        self._present = [o.name for o in self._session.get_outputs() if o.name != "logits"]
        shapes = {value.name: value.shape for value in self._session.get_inputs()}
        _, self._heads, _, self._head_size = shapes["past.0"]
        self.vocabulary = int(next(o.shape[-1] for o in self._session.get_outputs() if o.name == "logits"))

    def steps(self, cross: Cross) -> Step:
        """Return a function that computes the next token's logits and keeps past keys and values."""
        from onnxruntime import OrtValue

        past: list[Any] = []

        def step(ids: Ids, rows: Sequence[int] | None) -> Floats:
            nonlocal past
            if not past:
                empty = np.zeros((len(ids), self._heads, 0, self._head_size), np.float32)
                past = [OrtValue.ortvalue_from_numpy(empty) for _ in self._present]
            elif rows is not None and list(rows) != list(range(len(ids))):
                past = [OrtValue.ortvalue_from_numpy(value.numpy()[rows]) for value in past]
            feeds = {f"past.{i}": value for i, value in enumerate(past)}
            feeds["input_ids"] = OrtValue.ortvalue_from_numpy(ids)
            try:
                # OrtValues, because NumPy arrays would copy BLIP-base's 42 MB of `cross` for every token.
                logits, *past = self._session.run_with_ort_values(["logits", *self._present], cross | feeds)
            except Exception as failed:  # as above
                raise _run_error(failed) from failed
            scores: Floats = logits.numpy()
            return scores

        return step


@contextmanager
def _on_any_cpu() -> Iterator[None]:
    """Let this thread run on every CPU of the container until the context ends, even if it is pinned to some.

    ONNX Runtime 1.32 uses AMX only if the thread that imports it may run on two CPUs. On a Xeon that has it,
    BLIP-base's encoder takes 1.5 times as long without. docs/reference/onnxruntime-amx.md explains why.
    """
    pinned: set[int] = set()
    if hasattr(os, "sched_getaffinity"):  # Linux
        with suppress(OSError):  # a sandbox may forbid it
            pinned = os.sched_getaffinity(0)
            os.sched_setaffinity(0, range(os.cpu_count() or 1))  # the kernel leaves out what a cpuset does
    try:
        yield
    finally:
        if pinned:
            with suppress(OSError):
                os.sched_setaffinity(0, pinned)


def _run_error(why: Exception) -> ModelError:
    return ModelError(f"BLIP failed on a picture: {why}")


def _options(threads: int) -> ort.SessionOptions:
    import onnxruntime as ort

    options = ort.SessionOptions()
    # One thread per vCPU: more threads than vCPUs only wait for each other.
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # idle threads burn no CPU time
    options.enable_mem_pattern = False
    # model_export has optimised the graphs. Optimising again costs time and memory at every cold start.
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    return options


def _session(path: Path, options: ort.SessionOptions) -> ort.InferenceSession:
    import onnxruntime as ort

    try:
        return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as wrong:  # as above
        raise ModelError(f"onnxruntime can't load {path} ({wrong}): {REMEDY}.") from wrong
