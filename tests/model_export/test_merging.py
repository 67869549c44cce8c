"""Token merging: what is merged, and a model that merges is exported, checked and run as any other."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from PIL import Image

from dropcap.captioning import blip, graphs
from model_export.conversion.hub import ExportError
from tests.model_export.test_evaluate import SHIPPED, run
from tests.support.models.checkpoints import needs_pytorch, random_checkpoint

pytestmark = needs_pytorch

Array = NDArray[np.float64]


def reference(x: Array, sizes: Array, keys: Array, count: int) -> tuple[Array, Array]:
    """The paper's section 3, for one picture, a token at a time: (N, width), (N,), (N, size)."""
    patches = range(1, len(x))
    first, second = list(patches[::2]), list(patches[1::2])

    def cosine(i: int, j: int) -> float:
        return float(keys[i] @ keys[j] / np.sqrt((keys[i] @ keys[i]) * (keys[j] @ keys[j])))

    edges = []
    for i in first:
        edges.append(max((cosine(i, j), i, j) for j in second))
    edges.sort(reverse=True)
    members = {i: [i] for i in range(len(x))}
    for _, i, j in edges[:count]:
        members[j] += members.pop(i)
    groups = members.values()
    means = [np.average(x[group], axis=0, weights=sizes[group]) for group in groups]
    return np.array(means), np.array([sizes[group].sum() for group in groups])


@pytest.mark.parametrize(("tokens", "count"), [(5, 1), (10, 4), (65, 4), (66, 21), (65, 32)])
@pytest.mark.parametrize("merged_before", [False, True])
def test_the_most_similar_tokens_become_their_weighted_mean(
    tokens: int, count: int, merged_before: bool
) -> None:
    import torch

    from model_export.conversion.merging import merge

    rng = np.random.default_rng(tokens * count)
    x, keys = rng.standard_normal((2, tokens, 12)), rng.standard_normal((2, tokens, 8))
    sizes = rng.integers(1, 9, (2, tokens)).astype(float) if merged_before else np.ones((2, tokens))
    before = torch.from_numpy(sizes[..., None]).float() if merged_before else None
    made = merge(torch.from_numpy(x).float(), before, torch.from_numpy(keys).float(), count)
    got, got_sizes = (tensor.numpy() for tensor in made)
    for picture in range(2):
        means, number = reference(x[picture], sizes[picture], keys[picture], count)
        assert got[picture].shape == (tokens - count, 12)
        np.testing.assert_allclose(got[picture, 0], x[picture, 0], rtol=1e-5)  # the class token
        # The order of the others means nothing to a transformer.
        mine, its = got[picture][:, 0].argsort(), means[:, 0].argsort()
        np.testing.assert_allclose(got[picture][mine], means[its], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(got_sizes[picture][mine, 0], number[its])


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a `checkpoint` of random weights, and its `model`; it has two layers and nine patches.

    In `merged`, and in `fp32`, which is not quantized, each layer merges two of the patches.
    """
    folder = tmp_path_factory.mktemp("tiny")
    random_checkpoint(folder / "checkpoint", 0)
    merging = ("--merge", "2")
    options: tuple[str, ...]
    for name, options in (("model", ()), ("merged", merging), ("fp32", (*merging, "--fp32"))):
        made = ("--checkpoint", folder / "checkpoint", "--check", "0", *options)
        assert run("export", *made, "--out", folder / name) == 0
    return folder


def test_a_merged_model_captions_in_the_function_from_fewer_tokens(tiny: Path) -> None:
    card = json.loads((tiny / "merged" / "model.json").read_text())
    assert card["merge"] == 2
    captioner = blip.Captioner(tiny / "merged")
    assert captioner.caption(Image.new("RGB", (60, 40), "red")).model == "checkpoint"
    keys, *_ = captioner.encode(Image.new("RGB", (60, 40), "red")).values()
    assert keys.shape() == [1, 4, 1 + 9 - 2 * 2, 8]


def test_the_exported_encoder_computes_what_pytorch_does(tiny: Path, tmp_path: Path) -> None:
    import torch

    from model_export.conversion.checkpoint import load
    from model_export.conversion.merging import set_merging
    from model_export.conversion.onnx_config import Encoder

    checkpoint = load(str(tiny / "checkpoint"), tmp_path)
    set_merging(checkpoint, 2)
    pixels = np.random.default_rng(0).standard_normal((1, 3, 48, 48), np.float32)
    with torch.no_grad():
        expected = Encoder(checkpoint.model)(torch.from_numpy(pixels))["cross"]
    got = graphs.Encoder(tiny / "fp32", 1)(pixels).values()
    for exported, tensor in zip(got, expected, strict=True):
        np.testing.assert_allclose(exported.numpy(), tensor.numpy(), atol=1e-4)


def test_without_merging_the_export_is_as_before(tiny: Path, tmp_path: Path) -> None:
    made = ("--checkpoint", tiny / "checkpoint", "--check", "0", "--merge", "0")
    assert run("export", *made, "--out", tmp_path / "none") == 0
    for path in (tiny / "model").iterdir():
        assert (tmp_path / "none" / path.name).read_bytes() == path.read_bytes()
    # The model that ships was exported before there was merging.
    kinds = [
        [node.op_type for node in onnx.load(folder / "encoder.onnx", load_external_data=False).graph.node]
        for folder in (tmp_path / "none", SHIPPED)
    ]
    assert set(kinds[0]) == set(kinds[1])


@pytest.mark.parametrize("merge", ["-1", "4"])
def test_a_number_of_tokens_that_the_layers_do_not_have_is_an_error(
    merge: str, tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = ("--checkpoint", tiny / "checkpoint", "--check", "0", "--merge", merge)
    assert run("export", *made, "--out", tmp_path / "none") == 2
    assert capsys.readouterr().err == f"MERGE={merge} must be between 0 and 3: 2 layers share 9 patches\n"
    assert not list(tmp_path.iterdir())


def test_merging_counts_on_the_patches_of_the_resolution(tiny: Path, tmp_path: Path) -> None:
    from model_export.conversion.checkpoint import load, resize
    from model_export.conversion.merging import set_merging

    checkpoint = load(str(tiny / "checkpoint"), tmp_path)
    resize(checkpoint, 32)
    set_merging(checkpoint, 1)
    with pytest.raises(ExportError, match=r"^MERGE=2 must be between 0 and 1: 2 layers share 4 patches$"):
        set_merging(checkpoint, 2)


@pytest.mark.parametrize(("merge", "wrong", "pictures"), [("2", 2, 3), ("2", 3, 3), ("0", 1, 1)])
def test_an_export_that_merges_is_compared_with_pytorch_on_up_to_three_pictures(
    merge: str, wrong: int, pictures: int, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from optimum.exporters.error_utils import AtolError

    compared = []

    def compare(*_: object, **__: object) -> None:
        compared.append(1)
        if len(compared) <= wrong:
            raise AtolError("a tie")

    monkeypatch.setattr("model_export.conversion.export.validate_models_outputs", compare)
    made = ("export", "--checkpoint", tiny / "checkpoint", "--check", "0", "--merge", merge)
    if wrong < pictures:
        assert run(*made, "--out", tmp_path / "made") == 0
    else:
        with pytest.raises(AtolError):
            run(*made, "--out", tmp_path / "made")
    assert len(compared) == pictures
