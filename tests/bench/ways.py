"""Run one way to caption or resize a picture in its own process: python -m tests.bench.ways WAY ARGUMENT

The process loads what it needs, then works once for each line of its input. It writes one JSON line after the
load and after each turn: seconds by the clock, CPU seconds, resident memory and its peak so far.
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

from dropcap.runtime.memory import rss_mb
from tests.memory.peak import peak_mb

TOKENS = 16  # of each caption: random weights would end where rounding says
SIDES = (1600, 800, 200)
QUALITY = 80
PICTURE = (1600, 1067)  # the size to which the function reduces a photo
Work = Callable[[], Any]


def photo() -> Image.Image:
    """Return the picture that all captioners get."""
    return Image.effect_mandelbrot(PICTURE, (-2, -1, 1, 1), 100).convert("RGB")


def ours(folder: Path) -> Work:
    """Caption by the function's own captioner, with the heap that services.py sets up."""
    from dropcap.runtime import memory

    memory.use_one_heap()
    return _captioner(folder)


def _captioner(folder: Path) -> Work:
    from dropcap.captioning.blip import Captioner

    captioner = Captioner(folder)
    captioner.card = replace(captioner.card, eos=-1)
    start, image = [captioner.card.bos], photo()
    return lambda: captioner.generate(captioner.encode(image), start, 1, TOKENS)


def function(folder: Path) -> Work:
    """Caption as `ours` does, and release memory after each caption, as the pipeline does."""
    from dropcap.runtime import memory

    caption = ours(folder)

    def work() -> None:
        caption()
        memory.release()

    return work


def onnxruntime(folder: Path) -> Work:
    """Caption by the same code on ONNX Runtime with its default settings, one thread."""
    import onnxruntime as ort

    from dropcap.captioning import graphs
    from dropcap.runtime import memory

    def session(path: Path, _: ort.SessionOptions) -> ort.InferenceSession:
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    kept = mock.patch.object(memory, "mapped", return_value=())
    with mock.patch.object(graphs, "_session", session), kept:
        return _captioner(folder)


def transformers(folder: Path) -> Work:
    """Caption by transformers' `generate`, fp32."""
    import torch
    from transformers import BlipForConditionalGeneration, BlipImageProcessor

    torch.set_num_threads(1)
    model = BlipForConditionalGeneration.from_pretrained(folder, low_cpu_mem_usage=True).eval()
    processor, image = BlipImageProcessor(), photo()

    @torch.inference_mode()
    def work() -> Any:
        pixels = processor(image, return_tensors="pt")["pixel_values"]
        return model.generate(pixel_values=pixels, min_new_tokens=TOKENS, max_new_tokens=TOKENS)

    return work


def resize_ours(path: Path) -> Work:
    """Resize by the function's own decoders; `tests.bench.sandbox` says what the sandbox costs besides."""
    from dropcap.imaging import decoding
    from dropcap.settings import Settings

    settings = Settings(sizes=SIDES)

    def work() -> None:
        with decoding.open_picture(path.read_bytes(), settings) as source:
            for side in SIDES:
                source.encode(side, "webp", QUALITY)

    return work


def resize_pillow(path: Path) -> Work:
    """Resize by Pillow as its documentation shows: decode all of the picture, then copy it to each size."""
    from PIL import ImageOps

    Image.MAX_IMAGE_PIXELS = None

    def work() -> None:
        whole = ImageOps.exif_transpose(Image.open(io.BytesIO(path.read_bytes()))).convert("RGB")
        for side in SIDES:
            copy = ImageOps.contain(whole, (side, side), Image.Resampling.LANCZOS)
            copy.save(io.BytesIO(), "WEBP", quality=QUALITY)

    return work


WAYS: dict[str, Callable[[Path], Work]] = {
    way.__name__: way for way in (ours, function, onnxruntime, transformers, resize_ours, resize_pillow)
}


def serve(ready: Callable[[Path], Work], argument: Path) -> None:
    """Load by `ready`, then work once for each line of the input."""
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
