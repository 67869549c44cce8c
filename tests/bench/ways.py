"""One way to caption or resize a picture, in a process of its own: python -m tests.bench.ways WAY ARGUMENT

It makes itself ready, says so, then does its work once for each line that it is sent. Every line that it
writes is JSON: how long that took by the clock and of the CPU, the memory of the process then, and the most
that it ever had.
"""

from __future__ import annotations

import io
import json
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

from PIL import Image

from dropcap.memory import rss_mb
from tests.memory.peak import peak_mb

TOKENS = 16  # of each caption: random weights would end where rounding says
SIDES = (1600, 800, 200)
QUALITY = 80
PICTURE = (1600, 1067)  # what a caption is asked for: what the function keeps of a photo
Work = Callable[[], Any]


def photo() -> Image.Image:
    """The picture that all captioners see."""
    return Image.effect_mandelbrot(PICTURE, (-2, -1, 1, 1), 100).convert("RGB")


def ours(folder: Path) -> Work:
    """The function's own captioner."""
    from dropcap.blip import Captioner

    captioner = Captioner(folder)
    captioner.card = replace(captioner.card, eos=-1)
    start, image = [captioner.card.bos], photo()
    return lambda: captioner.generate(captioner.encode(image), start, 1, TOKENS)


def function(folder: Path) -> Work:
    """The same, and after each caption memory is given back, as the pipeline does after each picture."""
    from dropcap import memory

    caption = ours(folder)

    def work() -> None:
        caption()
        memory.release()

    return work


def encoder(folder: Path) -> Work:
    """Its encoder alone."""
    import numpy as np

    from dropcap.graphs import Encoder

    run = Encoder(folder, 1)
    pixels = np.random.default_rng(0).standard_normal((1, 3, 384, 384), dtype=np.float32)
    return lambda: run(pixels)


def onnxruntime(folder: Path) -> Work:
    """The same code on ONNX Runtime as it comes, of whose settings only the number of threads is set."""
    import onnxruntime as ort

    from dropcap import graphs, memory

    def session(path: Path, _: ort.SessionOptions) -> ort.InferenceSession:
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    kept = mock.patch.object(memory, "mapped", return_value=())
    with mock.patch.object(graphs, "_session", session), kept:
        return ours(folder)


def transformers(folder: Path, int8: bool = False) -> Work:
    """transformers' `generate`, fp32 or with PyTorch's dynamic int8."""
    import torch
    from transformers import BlipForConditionalGeneration, BlipImageProcessor

    torch.set_num_threads(1)
    model = BlipForConditionalGeneration.from_pretrained(folder, low_cpu_mem_usage=True).eval()
    if int8:
        model = torch.ao.quantization.quantize_dynamic(model, {torch.nn.Linear}, dtype=torch.qint8)
    processor, image = BlipImageProcessor(), photo()

    @torch.inference_mode()
    def work() -> Any:
        pixels = processor(image, return_tensors="pt")["pixel_values"]
        return model.generate(pixel_values=pixels, min_new_tokens=TOKENS, max_new_tokens=TOKENS)

    return work


def transformers_int8(folder: Path) -> Work:
    return transformers(folder, int8=True)


def resize_ours(path: Path) -> Work:
    """The function's own decoders."""
    from dropcap import picture
    from dropcap.settings import Settings

    settings = Settings(sizes=SIDES)

    def work() -> None:
        with picture.opened(path.read_bytes(), settings) as source:
            for side in SIDES:
                source.published(side, "webp", QUALITY)

    return work


def direct(path: Path) -> Work:
    """What the pipeline does with a picture, without the pipeline: decode, encode each size, caption."""
    from dropcap import memory, picture
    from dropcap.blip import load
    from dropcap.settings import Settings

    settings = Settings.read()
    captioner = load(settings.model_folder, settings.caption_threads)

    def work() -> None:
        with picture.opened(path.read_bytes(), settings) as source:
            source.for_gemini(settings)
            captioner.caption(source.fitted(picture.BLIP_SIDE))
            for side in settings.sizes:
                source.published(side, settings.format[0], settings.quality)
        memory.release()

    return work


def resize_pillow(path: Path) -> Work:
    """Pillow as its documentation has it: the whole picture, then a copy of each size."""
    from PIL import ImageOps

    Image.MAX_IMAGE_PIXELS = None

    def work() -> None:
        whole = ImageOps.exif_transpose(Image.open(io.BytesIO(path.read_bytes()))).convert("RGB")
        for side in SIDES:
            copy = ImageOps.contain(whole, (side, side), Image.Resampling.LANCZOS)
            copy.save(io.BytesIO(), "WEBP", quality=QUALITY)

    return work


def resize_libvips(path: Path) -> Work:
    """libvips as its documentation has it: `thumbnail`, which shrinks as it loads, once for each size."""
    import pyvips

    pyvips.cache_set_max(0)
    pyvips.concurrency_set(1)

    def work() -> None:
        data = path.read_bytes()
        for side in SIDES:
            copy = pyvips.Image.thumbnail_buffer(data, side, height=side, size="down")
            copy.webpsave_buffer(Q=QUALITY, keep="none")

    return work


WAYS: dict[str, Callable[[Path], Work]] = {
    way.__name__: way
    for way in (
        *(ours, function, encoder, onnxruntime, transformers, transformers_int8),
        *(resize_ours, resize_pillow, resize_libvips, direct),
    )
}


def serve(ready: Callable[[Path], Work], argument: Path) -> None:
    """Make ready, then work once for each line of the input."""
    started, used = time.perf_counter(), time.process_time()
    work = ready(argument)
    while True:
        seconds, cpu_s = time.perf_counter() - started, time.process_time() - used
        facts = {"seconds": seconds, "cpu_s": cpu_s, "rss_mb": rss_mb(), "peak_mb": peak_mb()}
        print(json.dumps(facts), flush=True)
        if not sys.stdin.readline():
            return
        started, used = time.perf_counter(), time.process_time()
        work()


if __name__ == "__main__":
    serve(WAYS[sys.argv[1]], Path(sys.argv[2]))
