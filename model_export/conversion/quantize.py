"""Convert fp32 graphs into those that the function runs: quantized, optimised, with separate weights.

ONNX Runtime maps the file of weights into memory instead of copying it. README.md compares the recipes;
`python -m model_export recipes` measures memory and speed, and `python -m model_export bits` the effect of
rounding on trained weights.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnx.utils
import onnxruntime as ort
from onnx import ModelProto, helper, numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic
from onnxruntime.quantization.matmul_nbits_quantizer import (
    DefaultWeightOnlyQuantConfig,
    HQQWeightOnlyQuantConfig,
    KQuantWeightOnlyQuantConfig,
    MatMulNBitsQuantizer,
    WeightOnlyQuantConfig,
)

from .int8_attention import quantize_attention

SYMMETRIC, ASYMMETRIC, HQQ, K_QUANT = "symmetric", "asymmetric", "HQQ", "k-quant"
METHODS: dict[str, Callable[[int, int], WeightOnlyQuantConfig]] = {
    SYMMETRIC: lambda bits, block: DefaultWeightOnlyQuantConfig(block, is_symmetric=True, bits=bits),
    ASYMMETRIC: lambda bits, block: DefaultWeightOnlyQuantConfig(block, is_symmetric=False, bits=bits),
    HQQ: lambda bits, block: HQQWeightOnlyQuantConfig(block, bits),
    K_QUANT: lambda bits, block: KQuantWeightOnlyQuantConfig(),
}
"""How ONNX Runtime chooses scale and zero point of a block: (bits, block) -> its configuration.

The first two round to nearest.
"""

# The decoder graph's matrices, in the order of onnx_config.Decoder: in each layer self-attention, then
# cross-attention. The exporter numbers equal names.
QUERY = re.compile(r"/query(?:_(\d+))?/MatMul")
OUTPUT = re.compile(r"/output/dense(?:_(\d+))?/MatMul")
VOCABULARY = "/cls/predictions/decoder/MatMul"
EMBEDDING = "/embeddings/word_embeddings/Gather"


@dataclass(frozen=True, slots=True)
class Recipe:
    """How each graph's matrices are stored.

    int8      activations quantized as they come, one scale a column; `attention`: that of the encoder, too
    4, 8      that many bits for the weights alone, one scale for so many of them as `blocks` says; those of 4
              bits by `method`, those of 8 are symmetric
    mixed     the decoder's cross-attention, vocabulary projection and word embedding in 8 bits, the rest in 4
    """

    encoder: str = "int8"
    decoder: str = "8"
    blocks: tuple[int, int] = (32, 128)  # of 4 bits, of 8 bits
    method: str = ASYMMETRIC
    attention: bool = True

    def __str__(self) -> str:
        but = ", attention fp32" if self.encoder == "int8" and not self.attention else ""
        return f"encoder {self._of(self.encoder)}{but}, decoder {self._of(self.decoder)}"

    def _of(self, kind: str) -> str:
        four, eight = self.blocks
        return {
            "4": f"4 bits in blocks of {four}",
            "8": f"8 bits in blocks of {eight}",
            "mixed": f"4 and 8 bits in blocks of {four} and {eight}",
        }.get(kind, kind)

    def block(self, bits: int) -> int:
        """Return how many weights share a scale."""
        return self.blocks[bits == 8]


RECIPES = {bits: Recipe(decoder=bits) for bits in ("4", "mixed", "8")}
"""By DECODER_BITS."""


def quantize(source: Path, target: Path, recipe: Recipe) -> None:
    """Write encoder.onnx and decoder.onnx, with their .data files, into the folder `target`.

    A large int8 encoder has the projections of the cross-attention in cross.onnx instead.
    """
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        for name, kind in (("encoder.onnx", recipe.encoder), ("decoder.onnx", recipe.decoder)):
            made = Path(scratch) / name
            if kind == "int8":
                _int8(source / name, made, attention=recipe.attention)
            else:
                _weights_alone(source / name, made, kind, recipe)
        for made in sorted(Path(scratch).glob("*.onnx")):
            optimise(made, target / made.name)


def _int8(source: Path, target: Path, *, attention: bool) -> None:
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
    model = onnx.load(target)
    for node in model.graph.node:
        if node.op_type == "MatMulInteger":
            del node.input[3:]  # a weight's zero points are 0: without them, products take 2 % less time
    if attention and quantize_attention(model):
        model, cross = _parted(model)
        onnx.save_model(cross, target.with_name("cross.onnx"))
    onnx.save_model(model, target)


def _parted(model: ModelProto) -> tuple[ModelProto, ModelProto]:
    """Return the encoder up to the states of its tokens, and the cross-attention's projections of them."""
    by_output = {output: node for node in model.graph.node for output in node.output}
    inputs, outputs = (
        [value.name for value in model.graph.input],
        [value.name for value in model.graph.output],
    )
    names = outputs[:1]
    while (node := by_output.get(names.pop(0))) is None or node.op_type != "DynamicQuantizeLinear":
        names += node.input if node else []
    states = node.input[0]  # all projections share their quantized form
    shapes = {weight.name: weight.dims for weight in model.graph.initializer}
    product = next(
        n for n in model.graph.node if n.op_type == "MatMulInteger" and n.input[0] == node.output[0]
    )
    tokens, width = (
        model.graph.output[0].type.tensor_type.shape.dim[-2].dim_value,
        shapes[product.input[1]][0],
    )
    info = helper.make_tensor_value_info(states, onnx.TensorProto.FLOAT, [1, tokens, width])
    model.graph.value_info.append(info)
    cut = onnx.utils.Extractor(model)
    return cut.extract_model(inputs, [states]), cut.extract_model([states], outputs)


def _weights_alone(source: Path, target: Path, kind: str, recipe: Recipe) -> None:
    model = onnx.load(source)
    _embedding_as_product(model)
    bits = {name: _bits(name, kind) for name in _products(model)}
    for width in sorted(set(bits.values())):
        chosen = {name for name, its in bits.items() if its == width}
        method = recipe.method if width == 4 else SYMMETRIC
        model = blockwise(model, chosen, width, recipe.block(width), method)
    _embedding_as_rows(model)
    onnx.save_model(model, target, save_as_external_data=True, location=f"{target.stem}.data")


def is_cross_attention(name: str) -> bool:
    """Return whether a MatMul of the decoder graph belongs to the cross-attention.

    Its keys and values are no part of that graph: they are computed once a picture, in the encoder's.
    """
    query, output = QUERY.fullmatch(name), OUTPUT.fullmatch(name)
    if query:
        return int(query[1] or 0) % 2 == 1
    return output is not None and int(output[1] or 0) % 3 == 1


def _bits(name: str, kind: str) -> int:
    if kind == "mixed":
        return 8 if is_cross_attention(name) or name in (VOCABULARY, EMBEDDING) else 4
    return int(kind)


def _products(model: ModelProto) -> list[str]:
    """Return the names of the products with weights."""
    weights = {weight.name for weight in model.graph.initializer}
    return [node.name for node in model.graph.node if node.op_type == "MatMul" and node.input[1] in weights]


def blockwise(model: ModelProto, chosen: set[str], bits: int, block: int, method: str) -> ModelProto:
    """Return the model with the weights of the `chosen` MatMuls in so many bits, in blocks.

    Activations are rounded to int8, block by block, in the kernel: accuracy_level 4, the fast one.
    """
    config = METHODS[method](bits, block)
    config.customized_weight_config = {name: {"bits": bits} for name in chosen}
    others = [name for name in _products(model) if name not in chosen]
    worker = MatMulNBitsQuantizer(
        model, block_size=block, accuracy_level=4, nodes_to_exclude=others, algo_config=config
    )
    with contextlib.redirect_stdout(io.StringIO()):  # k-quant draws a progress bar
        worker.process()
    model = worker.model.model
    for node in model.graph.node:
        if node.op_type == "MatMulNBits" and all(a.name != "accuracy_level" for a in node.attribute):
            node.attribute.append(helper.make_attribute("accuracy_level", 4))
    if all(opset.domain != "com.microsoft" for opset in model.opset_import):
        model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    return model


def _embedding_as_product(model: ModelProto) -> None:
    """Make the look-up of words a product meanwhile, so that it is quantized as products are."""
    weights = {weight.name: weight for weight in model.graph.initializer}
    for node in model.graph.node:
        if node.name == EMBEDDING:
            table = numpy_helper.to_array(weights[node.input[0]])
            turned = numpy_helper.from_array(np.ascontiguousarray(table.T), node.input[0])
            weights[node.input[0]].CopyFrom(turned)
            product = helper.make_node("MatMul", [node.input[1], node.input[0]], node.output, name=node.name)
            node.CopyFrom(product)


def _embedding_as_rows(model: ModelProto) -> None:
    """Make it a look-up again, in the quantized table.

    ONNX Runtime's quantizer has that for 4 bits alone, and without zero points. The table is one of its own:
    shared with the vocabulary projection, it would stay mapped as a whole.
    """
    weights = {weight.name: weight for weight in model.graph.initializer}
    for node in model.graph.node:
        if not node.name.startswith(EMBEDDING):
            continue
        options = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
        words, width, bits, block = (options[key] for key in ("N", "K", "bits", "block_size"))
        ids, packed, *rest = node.input
        table = numpy_helper.to_array(weights[packed]).reshape(words, -1)[:, : width * bits // 8]
        weights[packed].CopyFrom(numpy_helper.from_array(table, packed))
        for name in rest:
            weights[name].CopyFrom(
                numpy_helper.from_array(numpy_helper.to_array(weights[name]).reshape(words, -1), name)
            )
        rows = helper.make_node(
            "GatherBlockQuantized",
            [packed, ids, *rest],
            node.output,
            name=node.name,
            domain="com.microsoft",
            gather_axis=0,
            quantize_axis=1,
            block_size=block,
            bits=bits,
        )
        node.CopyFrom(rows)


def optimise(source: Path, target: Path) -> None:
    """Fuse what ONNX Runtime fuses on any processor, and write weights to `<name>.data` beside the graph."""
    options = ort.SessionOptions()
    # Not ALL: its layout of weights depends on the processor.
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = os.fspath(target)
    options.log_severity_level = 3
    entry = "session.optimized_model_external_initializers_"
    options.add_session_config_entry(entry + "file_name", target.stem + ".data")
    options.add_session_config_entry(entry + "min_size_in_bytes", "1024")
    # ONNX Runtime has kernels for a single row, as a token is, but none that also scale: with scaling,
    # BLIP-base's cross-attention would take more than twice as long.
    unwanted = ["MatMulScaleFusion"]
    ort.InferenceSession(
        os.fspath(source), options, providers=["CPUExecutionProvider"], disabled_optimizers=unwanted
    )
