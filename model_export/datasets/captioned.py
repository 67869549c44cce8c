"""Pictures with captions: held-out scenes, or COCO captions.

Each picture is processed like an upload: a file, decoded and resized by the function's own code.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from PIL import Image

from dropcap.errors import Rejected
from dropcap.imaging import decoding
from dropcap.settings import BLIP_SIDE, Settings

from . import scenes

PAIRS = Path(__file__).with_name("pairs.json")  # captions and descriptions of photographs, written by hand
FEW = 32  # scenes, which are drawn before worker processes have started


class EvaluateError(Exception):
    """There is nothing to evaluate, or nothing to compare it with; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Sample:
    """A picture: its name, its reference captions, and the groups that it is counted in."""

    name: str
    references: tuple[str, ...]
    groups: tuple[str, ...] = ("all",)


@dataclass(frozen=True, slots=True)
class Dataset:
    """`count` pictures that `samples()` reads or draws lazily."""

    name: str
    count: int
    samples: Callable[[], Iterator[tuple[Sample, bytes]]]
    scenes: bool = False  # a scene has one right caption, which a model can match exactly


def product_copy(data: bytes) -> Image.Image:
    """Return BLIP's input for an upload, as in the function's pipeline. Raises Rejected."""
    # This process holds PyTorch too: the function's own memory limit does not apply to it.
    with decoding.open_picture(data, Settings(memory_limit_mb=32_768, memory_warning_mb=32_768)) as source:
        return source.resize(BLIP_SIDE)


def shown(sample: Sample, data: bytes) -> Image.Image:
    """Return BLIP's input for a picture of a data set. Raises EvaluateError."""
    try:
        return product_copy(data)
    except Rejected as broken:
        raise EvaluateError(f"{sample.name}: {broken.problem} Download it again.") from broken


def upload(index: int) -> tuple[Sample, bytes]:
    """Return held-out scene number `index` as a JPEG file, drawn at 480 to 2,000 px."""
    scene = scenes.held_out(index)
    ratio = scene.width / scene.height
    shape = "wide" if ratio > 1.25 else "tall" if ratio < 0.8 else "near square"
    sample = Sample(
        f"scene {index}, {scene.width} x {scene.height} px",
        (scene.caption,),
        ("all", f"things: {len(scene.things)}", f"shape: {shape}"),
    )
    return sample, scenes.encode(scenes.draw(scene), "JPEG", quality=88)


def various(index: int) -> tuple[Sample, bytes]:
    """Return scene number `index` of those that confidence.py learns from, drawn at 400 to 1,000 px.

    Seeded by (2, index): neither trained on nor held out. One of four has a plain ground.
    """
    rng = np.random.default_rng((2, index))
    scene, longest, quality = (
        scenes.random_scene(rng),
        int(rng.integers(400, 1001)),
        int(rng.integers(60, 96)),
    )
    drawn = scenes.draw(scene, longest, plain=index % 4 == 0)
    return Sample(f"scene {index}", (scene.caption,)), scenes.encode(drawn, "JPEG", quality=quality)


def held_out(count: int) -> Dataset:
    """Return `count` held-out scenes."""
    return Dataset("held-out scenes", count, lambda: _drawn(upload, count), scenes=True)


def varied(count: int) -> Dataset:
    """Return `count` scenes for confidence.py to learn from."""
    return Dataset("various scenes", count, lambda: _drawn(various, count), scenes=True)


def _drawn(draw: Callable[[int], tuple[Sample, bytes]], count: int) -> Iterator[tuple[Sample, bytes]]:
    """Yield drawn scenes; worker processes draw large numbers, because drawing takes longer than captioning.

    Workers are spawned: a fork of a process with the models' threads may deadlock.
    """
    numbers = range(count)
    if count <= FEW:
        yield from map(draw, numbers)
        return
    with ProcessPoolExecutor(min(4, os.cpu_count() or 1), get_context("spawn")) as pool:
        yield from pool.map(draw, numbers, chunksize=8)


def coco(annotations: Path, pictures: Path, count: int) -> Dataset:
    """Return the first `count` captioned pictures of a file in COCO's format.

    `annotations` is a file like captions_val2017.json, `pictures` the folder of its pictures. Raises
    EvaluateError where one of them is missing or something else.
    """
    names, captions = _annotations(annotations)
    chosen = [(pictures / names[i], tuple(captions[i])) for i in names if i in captions][:count]
    if not chosen:
        raise EvaluateError(f"{annotations} has no caption of any of its pictures: take captions_*.json")
    lost = [path for path, _ in chosen if not path.is_file()]
    if lost:
        raise EvaluateError(f"{lost[0]} is missing, the first of {len(lost):,}: is {pictures} their folder?")

    def samples() -> Iterator[tuple[Sample, bytes]]:
        for path, references in chosen:
            yield Sample(str(path), references), path.read_bytes()

    return Dataset(annotations.name, len(chosen), samples)


def _annotations(path: Path) -> tuple[dict[int, str], dict[int, list[str]]]:
    """Return file names and captions by the picture's id, in the file's order."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        names = {image["id"]: str(image["file_name"]) for image in found["images"]}
        captions: dict[int, list[str]] = {}
        for annotation in found["annotations"]:
            captions.setdefault(annotation["image_id"], []).append(str(annotation["caption"]))
    except OSError as missing:
        raise EvaluateError(
            f"{path} can't be read ({missing.strerror}): download COCO's annotations and unpack them"
        ) from missing
    except (ValueError, KeyError, TypeError) as wrong:
        raise EvaluateError(
            f"{path} is no file of captions in COCO's format ({wrong!r}): take captions_*.json, unpacked"
        ) from wrong
    return names, captions
