"""How fast BLIP-base's encoder could be here, if it did nothing but multiply its matrices in int8."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np

TOKENS, HEADS, HEAD, WIDTH, LAYERS, WIDE = 577, 12, 64, 768, 12, 3072  # transformers' BlipConfig()
Product = tuple[int, int, int]
"""(rows, common side, columns) of a matrix product."""
RUNS = 15


def products() -> Counter[Product]:
    """Every matrix product of the encoder for one picture, and how often it is done."""
    layer = {
        (TOKENS, WIDTH, 3 * WIDTH): 1,
        (TOKENS, HEAD, TOKENS): HEADS,  # queries by keys
        (TOKENS, TOKENS, HEAD): HEADS,  # their weights by values
        (TOKENS, WIDTH, WIDTH): 1,
        (TOKENS, WIDTH, WIDE): 1,
        (TOKENS, WIDE, WIDTH): 1,
    }
    once = {(TOKENS - 1, WIDTH, WIDTH): 1, (TOKENS, WIDTH, WIDTH): 2 * LAYERS}  # patches; keys, values
    return Counter({shape: times * LAYERS for shape, times in layer.items()}) + Counter(once)


def floor_seconds() -> float:
    """All of them at the best rate that PyTorch's (oneDNN) or ONNX Runtime's int8 reach here, one thread.

    The best rate of any of these shapes is taken for every shape, so that nothing can be below it.
    """
    operations = {shape: 2.0 * shape[0] * shape[1] * shape[2] for shape in products()}
    rate = max(operations[shape] / _seconds(shape) for shape in products())
    return sum(times * operations[shape] for shape, times in products().items()) / rate


def _seconds(shape: Product) -> float:
    """The best of some runs: a floor is not a median."""
    import onnxruntime as ort
    import torch
    from onnx import TensorProto, helper, numpy_helper

    torch.set_num_threads(1)
    rows, common, columns = shape
    random = np.random.default_rng(0)
    a = random.integers(0, 127, (rows, common), np.uint8)
    b = random.integers(-127, 127, (common, columns), np.int8)
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger", ["a", "b"], ["c"])],
        "product",
        [helper.make_tensor_value_info("a", TensorProto.UINT8, a.shape)],
        [helper.make_tensor_value_info("c", TensorProto.INT32, (rows, columns))],
        [numpy_helper.from_array(b, "b")],
    )
    make_model: Any = helper.make_model  # it has no types
    model = make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    left, right = torch.from_numpy(a.astype(np.int8)), torch.from_numpy(b)
    ways: tuple[Callable[[], Any], ...] = (
        lambda: session.run(None, {"a": a}),
        lambda: torch._int_mm(left, right),
    )
    best = float("inf")
    for _ in range(RUNS):
        for way in ways:
            started = time.perf_counter()
            way()
            best = min(best, time.perf_counter() - started)
    return best
