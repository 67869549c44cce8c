"""From fp32 graphs to the ones the function runs: smaller, optimised once, weights beside the graph.

Weights lie in a file of their own, which ONNX Runtime maps into memory instead of copying it. Which recipe
won, against which others, stands in README.md; `python -m model_export recipes` measures them again.
"""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnxruntime as ort
from onnxruntime.quantization import QuantType, quantize_dynamic
from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer


@dataclass(frozen=True, slots=True)
class Recipe:
    """How each graph's matrices are stored: one of

    int8  with activations quantized as they come, one scale a column
    w4    4-bit numbers, one scale for `block` of them; the word embedding too
    w8    the same with 8 bits, the word embedding as it is
    """

    encoder: str = "int8"
    decoder: str = "w4"
    block: int = 32

    def __str__(self) -> str:
        return f"encoder {self.encoder}, decoder {self.decoder}, blocks of {self.block}"


def quantize(source: Path, target: Path, recipe: Recipe) -> None:
    """Write encoder.onnx and decoder.onnx, with their .data files, into the folder `target`."""
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        for name, kind in (("encoder.onnx", recipe.encoder), ("decoder.onnx", recipe.decoder)):
            made = Path(scratch) / name
            if kind == "int8":
                _int8(source / name, made)
            else:
                _weights_alone(source / name, made, int(kind.removeprefix("w")), recipe.block)
            optimise(made, target / name)


def _int8(source: Path, target: Path) -> None:
    # reduce_range keeps 7 bits: without VNNI (processors before 2019), 8 overflow silently. The patch
    # convolution stays fp32: int8 convolutions are slower here.
    quantize_dynamic(
        source,
        target,
        op_types_to_quantize=["MatMul"],
        per_channel=True,
        reduce_range=True,
        weight_type=QuantType.QInt8,
    )


def _weights_alone(source: Path, target: Path, bits: int, block: int) -> None:
    worker = MatMulNBitsQuantizer(
        onnx.load(source),
        bits=bits,
        block_size=block,
        is_symmetric=True,
        accuracy_level=4,  # activations as int8, the fast kernel
        op_types_to_quantize=("MatMul", "Gather") if bits == 4 else ("MatMul",),
    )
    worker.process()
    worker.model.save_model_to_file(str(target), use_external_data_format=True)


def optimise(source: Path, target: Path) -> None:
    """Fuse what ONNX Runtime fuses on any processor; weights go to `<name>.data` beside the graph."""
    options = ort.SessionOptions()
    # Not ALL: that lays weights out for the processor at hand.
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = os.fspath(target)
    options.log_severity_level = 3
    entry = "session.optimized_model_external_initializers_"
    options.add_session_config_entry(entry + "file_name", target.stem + ".data")
    options.add_session_config_entry(entry + "min_size_in_bytes", "1024")
    # ONNX Runtime has kernels for one row, which is what a token is, but none that scale as they multiply:
    # BLIP-base's cross-attention would take more than twice as long.
    unwanted = ["MatMulScaleFusion"]
    ort.InferenceSession(
        os.fspath(source), options, providers=["CPUExecutionProvider"], disabled_optimizers=unwanted
    )
