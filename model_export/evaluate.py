"""How good the shipped model is: captions of held-out scenes, drawn as large as uploads, right or not.

A scene goes the whole way of an upload: drawn at 480 to 2,000 px, saved as JPEG, opened and resized by the
function's `picture`, captioned by its `blip`.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from PIL import Image
from rich.console import Console
from rich.progress import track
from rich.table import Table

from dropcap import picture
from dropcap.blip import Captioner
from dropcap.settings import Settings

from . import scenes


def product_copy(data: bytes) -> Image.Image:
    """What the function's pipeline shows to BLIP of an upload."""
    # This process holds PyTorch too: the function's own memory limit does not apply to it.
    with picture.opened(data, Settings(memory_limit_mb=32_768)) as source:
        return source.fitted(picture.BLIP_SIDE)


def upload(index: int) -> tuple[scenes.Scene, bytes]:
    """Held-out scene number `index` as a JPEG file."""
    scene = scenes.held_out(index)
    return scene, scenes.encode(scenes.draw(scene), "JPEG", quality=88)


def uploads(count: int) -> Iterator[tuple[scenes.Scene, bytes]]:
    """The first `count` held-out scenes, drawn by worker processes: drawing takes longer than captioning."""
    with ProcessPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        yield from pool.map(upload, range(count), chunksize=8)


def evaluate(folder: Path, count: int, beams: int, report: Path) -> float:
    """Print a table, write `report` as JSON; the share of captions that are exactly right."""
    captioner = Captioner(folder, threads=os.cpu_count() or 1)
    right: Counter[str] = Counter()
    seen: Counter[str] = Counter()
    mistakes = []
    for index, (scene, data) in enumerate(track(uploads(count), f"captioning {count} scenes", total=count)):
        said = captioner.caption(product_copy(data), beams=beams).text
        for group in ("all", f"things: {len(scene.things)}", f"shape: {_shape(scene)}"):
            seen[group] += 1
            right[group] += said == scene.caption
        if said != scene.caption:
            mistakes.append(
                {"scene": index, "size": [scene.width, scene.height], "is": scene.caption, "said": said}
            )
    table = Table(
        "held-out scenes", "number", "exactly right", title=f"{captioner.card.name} {captioner.card.revision}"
    )
    for group in sorted(seen):
        table.add_row(group, f"{seen[group]:,}", f"{right[group] / seen[group]:.1%}")
    console = Console()
    console.print(table)
    for mistake in mistakes[:10]:
        console.print(f"scene {mistake['scene']} {mistake['size']}: “{mistake['said']}” is “{mistake['is']}”")
    result: dict[str, Any] = {
        "model": captioner.card.name,
        "revision": captioner.card.revision,
        "beams": beams,
        "groups": {
            group: {"number": seen[group], "exact": right[group] / seen[group]} for group in sorted(seen)
        },
        "mistakes": mistakes,
    }
    report.parent.mkdir(parents=True, exist_ok=True)
    report.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return right["all"] / count


def _shape(scene: scenes.Scene) -> str:
    ratio = scene.width / scene.height
    return "wide" if ratio > 1.25 else "tall" if ratio < 0.8 else "near square"
