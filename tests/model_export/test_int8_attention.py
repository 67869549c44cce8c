"""The encoder's attention in int8 is near the exact one, also where one scale for all would not do."""

from collections.abc import Callable

import numpy as np
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

from tests.support.models.checkpoints import needs_pytorch

pytestmark = needs_pytorch
Array = NDArray[np.float32]
HEADS, SIZE, TOKENS = 3, 64, 200
WIDTH = HEADS * SIZE


def plain(x: Array, rng: np.random.Generator) -> None:
    """Queries, keys and values as they come."""


def a_constant_key(x: Array, rng: np.random.Generator) -> None:
    """All keys share a large part, as a bias adds it: a softmax does not see it, a scale would."""
    x[1] += 30 * rng.standard_normal(WIDTH, np.float32)


def a_constant_value(x: Array, rng: np.random.Generator) -> None:
    """All values share a large part, which is in every result."""
    x[2] += 30 * rng.standard_normal(WIDTH, np.float32)


def a_loud_head(x: Array, rng: np.random.Generator) -> None:
    """One head has values a hundred times as large as the others, and attends to few tokens."""
    x[0, :, :SIZE] *= 3
    x[2, :, :SIZE] *= 100


def a_sink(x: Array, rng: np.random.Generator) -> None:
    """Every token gives 0.8 of its attention to the first, and less than half a level of 8 bits to others."""
    x[0], x[1] = 0, 0
    x[0, :, ::SIZE], x[1, 0, ::SIZE] = 8, np.log(4 * TOKENS)
    a_constant_value(x, rng)


def nothing(x: Array, rng: np.random.Generator) -> None:
    """A picture of nothing: no scale, and no division by it."""
    x[:] = 0


@pytest.mark.parametrize("change", [plain, a_constant_key, a_constant_value, a_loud_head, a_sink, nothing])
def test_it_is_near_the_exact_one(change: Callable[[Array, np.random.Generator], None]) -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((3, TOKENS, WIDTH), np.float32)
    change(x, rng)
    joined = np.concatenate(x, axis=-1)[None]
    exact, found = (session(quantized).run(None, {"qkv": joined})[0] for quantized in (False, True))
    assert found.shape == exact.shape
    error, size = (
        np.sqrt(np.mean(y.reshape(TOKENS, HEADS, SIZE) ** 2, axis=(0, 2))) for y in (found - exact, exact)
    )
    assert (error <= 0.05 * size).all()


def test_a_small_encoder_keeps_the_fused_one(monkeypatch: pytest.MonkeyPatch) -> None:
    from model_export.conversion import int8_attention

    monkeypatch.setattr(int8_attention, "LEAST_TOKENS", TOKENS + 1)
    assert "MultiHeadAttention" in {node.op_type for node in model(quantized=True).graph.node}


def model(*, quantized: bool):  # type: ignore[no-untyped-def]  # a ModelProto
    """Attention as the exporter writes it: (1, N, 3 * width) -> (1, N, width)."""
    from onnx import TensorProto, helper, numpy_helper

    from model_export.conversion.int8_attention import quantize_attention

    sizes = numpy_helper.from_array(np.array([WIDTH] * 3, np.int64))
    parts = ["query", "key", "value"]
    nodes = [
        helper.make_node("Constant", [], ["sizes"], value=sizes),
        helper.make_node("Split", ["qkv", "sizes"], parts, axis=-1),
        helper.make_node("MultiHeadAttention", parts, ["y"], domain="com.microsoft", num_heads=HEADS),
    ]
    x, y = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, TOKENS, width])
        for name, width in (("qkv", 3 * WIDTH), ("y", WIDTH))
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
    made = helper.make_model(helper.make_graph(nodes, "one", [x], [y]), opset_imports=opsets, ir_version=8)
    if quantized:
        quantize_attention(made)
    return made


def session(quantized: bool) -> ort.InferenceSession:
    text = model(quantized=quantized).SerializeToString()
    return ort.InferenceSession(text, providers=["CPUExecutionProvider"])
