"""An alternative: BLIP's two graphs in OpenVINO, int8. Runs in its own environment.

    python -m tests.bench.openvino_int8 prepare GRAPHS FOLDER    fp32 ONNX graphs -> OpenVINO's int8
    python -m tests.bench.openvino_int8 serve FOLDER             one of the ways of ways.py

Both are done as its makers advise: the encoder calibrated and wholly in int8 (NNCF's `quantize` for
transformers), the decoder, whose single tokens wait for memory, with its weights in int8.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov

from dropcap.captioning.blip import preprocess
from dropcap.captioning.generation import greedy
from tests.bench.ways import TOKENS, Work, photo, serve

ONE_THREAD = {"INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1, "PERFORMANCE_HINT": "LATENCY"}
SIDE, BOS = 384, 30522
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # OpenAI's CLIP
CALIBRATION = 32  # pictures; random weights learn nothing from more


def prepare(graphs: Path, folder: Path) -> None:
    """Write encoder.xml and decoder.xml with their weights."""
    import nncf

    whole = photo()
    crops = (whole.crop((20 * i, 10 * i, 20 * i + 800, 10 * i + 600)) for i in range(CALIBRATION))
    pictures = [preprocess(crop, SIDE, MEAN, STD) for crop in crops]
    encoder = ov.convert_model(graphs / "encoder.onnx")
    encoder.reshape([1, 3, SIDE, SIDE])
    encoder = nncf.quantize(
        encoder, nncf.Dataset(pictures), model_type=nncf.ModelType.TRANSFORMER, subset_size=CALIBRATION
    )
    decoder = nncf.compress_weights(ov.convert_model(graphs / "decoder.onnx"))
    folder.mkdir(exist_ok=True)
    for name, model in (("encoder", encoder), ("decoder", decoder)):
        ov.save_model(model, folder / f"{name}.xml")


def ready(folder: Path) -> Work:
    core = ov.Core()
    encoder, decoder = (
        core.compile_model(folder / f"{name}.xml", "CPU", ONE_THREAD).create_infer_request()
        for name in ("encoder", "decoder")
    )
    names = [port.any_name for port in decoder.model_inputs if port.any_name.startswith("past.")]
    heads, size = (decoder.get_compiled_model().input("past.0").partial_shape[i].get_length() for i in (1, 3))
    for port in encoder.model_outputs:  # shared with the decoder: 42 MB
        decoder.set_tensor(port.any_name, encoder.get_tensor(port.any_name))
    image = photo()

    def work() -> list[int]:
        encoder.infer([preprocess(image, SIDE, MEAN, STD)], share_inputs=True)
        past: dict[str, Any] = dict.fromkeys(names, np.empty((1, heads, 0, size), np.float32))

        def step(ids: Any, rows: Sequence[int] | None) -> Any:
            nonlocal past
            out = decoder.infer({"input_ids": ids, **past}, share_inputs=True)
            past = {name: out[name.replace("past", "present")] for name in names}
            return out["logits"]

        return greedy(step, [BOS], TOKENS, eos=-1).ids

    return work


if __name__ == "__main__":
    if sys.argv[1] == "prepare":
        prepare(Path(sys.argv[2]), Path(sys.argv[3]))
    else:
        serve(ready, Path(sys.argv[2]))
