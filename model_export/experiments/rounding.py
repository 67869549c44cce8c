"""Measure the effect of rounding a decoder's trained weights, on each product and on the model's output.

The products are computed with ONNX Runtime's own kernel, on the inputs that the fp32 model has for real
examples. They therefore include the rounding of activations, and would reveal a wrong kernel.
The model's output is computed by PyTorch with the rounded weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import torch
from onnx import TensorProto, helper, numpy_helper
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor

from .. import write_json
from ..conversion.quantize import ASYMMETRIC, HQQ, K_QUANT, SYMMETRIC, blockwise
from ..metrics.fidelity import drift
from .trained_models import CROSS, EMBEDDING, FORWARD, SELF, VOCABULARY, Trained, part, read

Weights = dict[str, Tensor]
"""Matrices, (outputs, inputs), by their path in the model."""

PARTS = (SELF, CROSS, FORWARD, VOCABULARY, EMBEDDING)
ROWS = 512  # inputs kept for each product
BLOCK = 32  # the default in the tables


@dataclass(frozen=True, slots=True)
class Way:
    """How a matrix is stored: bits, the weights that share a scale, and how that is chosen."""

    bits: int
    block: int
    method: str

    def __str__(self) -> str:
        return f"{self.bits} bits, blocks of {self.block}, {self.method}"

    @property
    def stored(self) -> float:
        """Return the bits in the file for each weight, with its share of scale (fp32) and zero point."""
        zero = {SYMMETRIC: 0, HQQ: 32}.get(self.method, self.bits)
        return self.bits + (32 + zero) / self.block


FOUR, EIGHT = Way(4, BLOCK, SYMMETRIC), Way(8, BLOCK, SYMMETRIC)
WAYS = (
    *(Way(8, block, SYMMETRIC) for block in (16, 32, 64, 128)),
    *(Way(4, block, method) for method in (SYMMETRIC, ASYMMETRIC, HQQ) for block in (16, 32, 64, 128)),
    # ONNX Runtime has no kernel for HQQ's zero points in 8 bits.
    *(Way(bits, block, K_QUANT) for bits, block in ((4, 32), (4, 64), (4, 16))),
)


def measure(weights: str, examples: Path | None, report: Path) -> None:
    """Print tables of the errors, and write them to `report` as JSON.

    `weights` and `examples` are as for `trained_models.read`, and so are the errors that are raised.
    """
    trained = read(weights, examples)
    parts = {path: part(path) for path in trained.weights()}
    names = [name for name in PARTS if name in parts.values()]
    inputs, before = _inputs(trained), trained.outputs()
    ways: dict[str, dict[str, Any]] = {}
    rounded: dict[Way, Weights] = {}
    usable = [way for way in WAYS if _has(trained, way)]
    for way in track(usable, f"rounding {trained.name}"):
        errors, made = _round(trained, inputs, way)
        if way in (FOUR, EIGHT):
            rounded[way] = made
        each = {name: [errors[path] for path in errors if parts[path] == name] for name in names}
        ways[str(way)] = {
            "bits_stored": way.stored,
            "errors": {name: float(np.mean(those)) for name, those in each.items()},
            "worst": {name: max(those) for name, those in each.items()},
            "effect": _effect(trained, before, made),
        }
        # It takes minutes for each model: save the results so far.
        write_json(report, {"model": trained.name, "ways": ways})
    four = rounded[FOUR]
    high = {path: weight for path, weight in rounded[EIGHT].items() if parts[path] not in (SELF, FORWARD)}
    ways["mixed"] = {"effect": _effect(trained, before, four | high)}
    alone = {
        name: {
            "weights": sum(four[path].numel() for path in four if parts[path] == name),
            "effect": _effect(trained, before, {path: four[path] for path in four if parts[path] == name}),
        }
        for name in names
    }
    result = {"model": trained.name, "ways": ways, "alone": alone}
    write_json(report, result)
    _show(result, names)


def _has(trained: Trained, way: Way) -> bool:
    """Return whether ONNX Runtime can round all matrices so: k-quant fails where a row's blocks are odd."""
    widths = {module.weight.shape[1] for module in trained.weights().values()}
    return way.method != K_QUANT or all(-(-width // way.block) % 2 == 0 for width in widths)


def _inputs(trained: Trained) -> dict[str, Tensor]:
    """Return some inputs of each matrix, (rows, width); of an embedding, ids of words."""
    kept: dict[str, list[Tensor]] = {}

    def keep(path: str) -> Any:
        return lambda module, inputs, result: kept.setdefault(path, []).append(inputs[0][0].detach())

    hooks = [module.register_forward_hook(keep(path)) for path, module in trained.weights().items()]
    trained.outputs()
    for hook in hooks:
        hook.remove()
    joined = {path: torch.cat(those) for path, those in kept.items()}
    return {path: rows[:: max(1, len(rows) // ROWS)] for path, rows in joined.items()}


def _round(trained: Trained, inputs: dict[str, Tensor], way: Way) -> tuple[dict[str, float], Weights]:
    """Return the relative mean square error of each matrix's output, and the rounded matrices."""
    errors: dict[str, float] = {}
    made: Weights = {}
    same: dict[int, tuple[ort.InferenceSession, Tensor]] = {}  # an embedding may be the projection, too
    for path, module in trained.weights().items():
        weight = module.weight.detach()
        if weight.data_ptr() not in same:
            same[weight.data_ptr()] = kernel(weight, way)
        product, made[path] = same[weight.data_ptr()]
        if part(path) == EMBEDDING:
            right, found = weight[inputs[path]], made[path][inputs[path]]
        else:
            right = inputs[path] @ weight.T
            found = torch.from_numpy(product.run(None, {"x": inputs[path].numpy()})[0])
        errors[path] = float(((found - right) ** 2).sum() / (right**2).sum())
    return errors, made


def kernel(weight: Tensor, way: Way) -> tuple[ort.InferenceSession, Tensor]:
    """Return ONNX Runtime's product with a rounded matrix, and that matrix, (outputs, inputs)."""
    outputs, width = weight.shape
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", width])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", outputs])
    matrix = numpy_helper.from_array(np.ascontiguousarray(weight.T.numpy()), "w")
    product = helper.make_node("MatMul", ["x", "w"], ["y"], name="product")
    graph = helper.make_graph([product], "one", [x], [y], [matrix])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    model = blockwise(model, {"product"}, way.bits, way.block, way.method)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    # Rows of the identity matrix are exact, so the output is the rounded matrix.
    (back,) = session.run(None, {"x": np.eye(width, dtype=np.float32)})
    return session, torch.from_numpy(np.ascontiguousarray(back.T))


def _effect(trained: Trained, before: list[Tensor], rounded: Weights) -> dict[str, float]:
    """Return how far the rounded model is from the original: of token distributions, or of embeddings."""
    with _replaced(trained, rounded):
        after = trained.outputs()
    if not trained.logits:
        same = torch.cosine_similarity(torch.cat(before), torch.cat(after))
        return {"cosine_lost": float(1 - same.mean()), "worst": float(1 - same.min())}
    moved = drift(torch.cat(before).numpy(), torch.cat(after).numpy())
    return {
        "divergence": float(moved.divergence.mean()),
        "worst": float(moved.divergence.max()),
        "same_choice": float(moved.same.mean()),
    }


@contextmanager
def _replaced(trained: Trained, rounded: Weights) -> Iterator[None]:
    """Replace these matrices of the model until the context ends."""
    modules = {path: trained.model.get_submodule(path) for path in rounded}
    kept = {path: module.weight for path, module in modules.items()}
    for path, module in modules.items():
        module.weight = torch.nn.Parameter(rounded[path], requires_grad=False)
    try:
        yield
    finally:
        for path, module in modules.items():
            module.weight = kept[path]


def _show(result: dict[str, Any], names: list[str]) -> None:
    effect = next(iter(result["alone"].values()))["effect"]
    heads = [word.replace("_", " ") for word in effect]
    table = Table("stored as", "bits a weight", *names, *heads, title=result["model"])

    def row(way: str, found: dict[str, Any]) -> list[str]:
        errors = [f"{found['errors'][name]:.2e}" if "errors" in found else "" for name in names]
        bits = f"{found['bits_stored']:.2f}" if "bits_stored" in found else ""
        return [way, bits, *errors, *(_figure(*pair) for pair in found["effect"].items())]

    for way, found in result["ways"].items():
        table.add_row(*row(way, found))
    parts = Table(f"{FOUR}: this alone", "weights", *heads)
    for name, found in result["alone"].items():
        parts.add_row(name, f"{found['weights']:,}", *(_figure(*pair) for pair in found["effect"].items()))
    console = Console()
    console.print(table)
    console.print(parts)


def _figure(name: str, value: float) -> str:
    return f"{value:.2%}" if name == "same_choice" else f"{value:.2e}"
