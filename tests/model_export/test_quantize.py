"""How the decoder's weights are stored: each part in the bits of its recipe, and close to what they were."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

from tests.support.models.checkpoints import needs_pytorch, random_checkpoint

pytestmark = needs_pytorch
Matrix = NDArray[np.float32]


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of random weights, and its two graphs in fp32 in `graphs`."""
    from model_export.conversion.checkpoint import load
    from model_export.conversion.export import write_graphs

    folder = tmp_path_factory.mktemp("raw")
    (folder / "graphs").mkdir()
    random_checkpoint(folder / "checkpoint", 0)
    write_graphs(load(str(folder / "checkpoint"), folder).model, folder / "graphs")
    return folder


def stored(graph: Path) -> Iterator[tuple[Matrix, int, dict[str, Any]]]:
    """Each quantized matrix of a graph as a function would see it, (outputs, inputs), its bits, its node."""
    import onnx
    from onnx import helper, numpy_helper

    model = onnx.load(graph)
    weights = {weight.name: numpy_helper.to_array(weight) for weight in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type not in ("MatMulNBits", "GatherBlockQuantized"):
            continue
        options = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
        bits, block = options["bits"], options["block_size"]
        # A product's inputs are x, numbers, scales, zero points; a look-up's second is the words.
        indexes = (1, 2) if node.op_type == "MatMulNBits" else (0, 2)
        packed, scales = (weights[node.input[index]] for index in indexes)
        points = weights.get(node.input[3]) if len(node.input) > 3 else None
        rows = len(packed)
        scale = scales.reshape(rows, -1)
        zero = np.full_like(scale, 2 ** (bits - 1))
        if points is not None:
            zero = numbers(points.reshape(rows, -1), bits)[:, : scale.shape[1]]
        found = numbers(packed.reshape(rows, -1), bits)
        scale, zero = (np.repeat(each, block, axis=1)[:, : found.shape[1]] for each in (scale, zero))
        yield (found - zero) * scale, bits, {"type": node.op_type, "output": node.output[0]} | options


def numbers(packed: NDArray[np.uint8], bits: int) -> Matrix:
    """The numbers of each row; of two in a byte the lower half comes first."""
    if bits == 4:
        packed = np.stack((packed & 15, packed >> 4), axis=-1).reshape(len(packed), -1)
    return packed.astype(np.float32)


def parts(checkpoint: Path) -> dict[str, Matrix]:
    """The matrices of the text decoder, by name."""
    from safetensors.numpy import load_file

    weights = load_file(checkpoint / "model.safetensors")
    return {name: w for name, w in weights.items() if name.startswith("text_decoder") and w.ndim == 2}


def nearest(matrix: Matrix, weights: dict[str, Matrix]) -> str:
    """The name of the weights that a rounded matrix was made of; its width may have been padded."""
    found = {
        name: float(np.abs(matrix[:, : w.shape[1]] - w).mean())
        for name, w in weights.items()
        if len(w) == len(matrix) and w.shape[1] <= matrix.shape[1]
    }
    return min(found, key=lambda name: found[name])


@pytest.mark.parametrize("bits", ["4", "mixed", "8"])
def test_each_matrix_of_the_decoder_has_the_bits_that_are_asked(raw: Path, tmp_path: Path, bits: str) -> None:
    from model_export.conversion.quantize import RECIPES, quantize

    (tmp_path / "out").mkdir()
    quantize(raw / "graphs", tmp_path / "out", RECIPES[bits])
    weights = parts(raw / "checkpoint")
    found: dict[str, int] = {}
    for matrix, width, options in stored(tmp_path / "out" / "decoder.onnx"):
        name = nearest(matrix, weights)
        if options["type"] == "GatherBlockQuantized":
            assert name == "text_decoder.bert.embeddings.word_embeddings.weight"
            name = "embedding"
        else:
            assert options["accuracy_level"] == 4  # or the kernel is another, which is slow
        found[name] = width
        step = np.abs(weights.get(name, matrix)).max() / 2 ** (width - 1)
        assert (
            np.abs(matrix[:, : weights[name].shape[1]] - weights[name]).max() <= step
            if name in weights
            else 1
        )
    layers = 2
    # Query, key, value and output; query and output of the cross-attention; two of the feed-forward part.
    assert len(found) == layers * (4 + 2 + 2) + 3
    high = {name for name, width in found.items() if width == 8}
    cross = {name for name in found if "crossattention" in name}
    assert len(cross) == 2 * layers
    vocabulary = {
        "embedding",
        *(name for name in found if "word_embeddings" in name or "predictions.decoder" in name),
    }
    assert high == {"4": set(), "mixed": cross | vocabulary, "8": set(found)}[bits]


def test_a_large_encoder_has_its_attention_in_int8_and_is_in_two_parts(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dropcap.captioning.graphs import Encoder
    from model_export.conversion import int8_attention
    from model_export.conversion.quantize import Recipe, quantize

    monkeypatch.setattr(int8_attention, "LEAST_TOKENS", 0)
    found = {}
    for attention in (False, True):
        folder = tmp_path / str(attention)
        folder.mkdir()
        quantize(raw / "graphs", folder, Recipe(attention=attention))
        assert (folder / "cross.onnx").exists() == attention
        encoder = Encoder(folder, 1)
        (shape,) = (value.shape for value in encoder._parts[0].get_inputs())
        pixels = np.random.default_rng(0).standard_normal((1, *shape[1:]), np.float32)
        found[attention] = {name: value.numpy().copy() for name, value in encoder(pixels).items()}
    assert found[True].keys() == found[False].keys()
    for name, exact in found[False].items():
        error = np.linalg.norm(found[True][name] - exact) / np.linalg.norm(exact)
        assert 0 < error < 0.05


@pytest.mark.parametrize("number", range(19))
def test_the_product_with_rounded_weights_is_near_the_exact_one(number: int) -> None:
    import torch

    from model_export.experiments.rounding import WAYS, kernel

    assert len(WAYS) == 19
    way = WAYS[number]
    bits = way.bits
    rng = np.random.default_rng(0)
    weight = torch.from_numpy(rng.standard_normal((48, 256)).astype(np.float32))
    session, rounded = kernel(weight, way)
    # Half a step of a block's range, which is at most that of all weights; a whole one at its clipped end.
    step = float(weight.max() - weight.min()) / (2**bits - 1)
    assert float((rounded - weight).abs().max()) <= 1.1 * step
    x = rng.standard_normal((5, 256)).astype(np.float32)
    (found,) = session.run(None, {"x": x})
    right = x @ rounded.numpy().T
    # The kernel rounds `x` to 8 bits: half a step of 1/127 of its largest, in each of 256 places.
    assert np.abs(found - right).max() < 0.02 * np.abs(right).max()
    assert ((found - right) ** 2).mean() / (right**2).mean() < 2e-4


@pytest.mark.parametrize("bits", ["4", "8"])
def test_a_word_is_looked_up_in_the_rounded_table(raw: Path, tmp_path: Path, bits: str) -> None:
    """In BLIP it is the vocabulary projection, too; ONNX Runtime's quantizer has look-ups of 4 bits alone."""
    import onnx
    from onnx import helper

    from model_export.conversion.quantize import RECIPES, quantize

    (tmp_path / "out").mkdir()
    quantize(raw / "graphs", tmp_path / "out", RECIPES[bits])
    found = list(stored(tmp_path / "out" / "decoder.onnx"))
    table, projection = (matrix[:, :32] for matrix, *_ in found if len(matrix) == 30524)
    assert np.array_equal(table, projection)
    [name] = [options["output"] for *_, options in found if options["type"] == "GatherBlockQuantized"]
    model = onnx.load(tmp_path / "out" / "decoder.onnx")
    model.graph.output.append(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    words = np.array([[30522, 2003, 0, 30523]])
    feeds = {
        i.name: np.zeros([n if isinstance(n, int) else 1 for n in i.shape], np.float32)
        for i in inputs(session)
    }
    (rows,) = session.run([name], feeds | {"input_ids": words})
    assert np.abs(rows[0] - table[words[0]]).max() < 1e-6


def inputs(session: ort.InferenceSession) -> list[Any]:
    return [value for value in session.get_inputs() if value.name != "input_ids"]
