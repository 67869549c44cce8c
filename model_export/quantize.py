"""From fp32 graphs to the ones the function runs: smaller, optimised once, weights beside the graph.

The encoder's matrices become int8 with activations quantized as they come; the decoder's, and its word
embedding, 4-bit numbers in blocks of 32. Weights lie in a file of their own, which ONNX Runtime maps into
memory instead of copying it.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import onnx
import onnxruntime as ort
from onnxruntime.quantization import QuantType, quantize_dynamic
from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

BLOCK = 32  # weights that share a scale


def quantize(source: Path, target: Path) -> None:
    """Write encoder.onnx and decoder.onnx, with their .data files, into the folder `target`."""
    with tempfile.TemporaryDirectory() as scratch:
        encoder, decoder = Path(scratch) / "encoder.onnx", Path(scratch) / "decoder.onnx"
        # reduce_range keeps 7 bits: without VNNI (processors before 2019), 8 overflow silently. The patch
        # convolution stays fp32: int8 convolutions are slower here.
        quantize_dynamic(
            source / "encoder.onnx",
            encoder,
            op_types_to_quantize=["MatMul"],
            per_channel=True,
            reduce_range=True,
            weight_type=QuantType.QInt8,
        )
        model = onnx.load(source / "decoder.onnx")
        # accuracy_level 4: activations as int8, the fast kernel.
        worker = MatMulNBitsQuantizer(
            model,
            block_size=BLOCK,
            is_symmetric=True,
            accuracy_level=4,
            op_types_to_quantize=("MatMul", "Gather"),
        )
        worker.process()
        worker.model.save_model_to_file(str(decoder))
        for graph in (encoder, decoder):
            optimise(graph, target / graph.name)


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
    ort.InferenceSession(os.fspath(source), options, providers=["CPUExecutionProvider"])
