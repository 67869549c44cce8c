"""Compare quantization recipes and session settings.

measure.py measures each on one thread, in a new process with the imports of the function.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from rich.console import Console
from rich.progress import track
from rich.table import Table

from .. import write_json
from ..conversion.quantize import RECIPES, SYMMETRIC, Recipe
from . import measure

SHIPPED = Recipe()


@dataclass(frozen=True, slots=True)
class Trial:
    """`recipe` None is fp32; `without` names the setting of graphs.py or onnx_config.py that is undone."""

    name: str
    recipe: Recipe | None = SHIPPED
    without: str = ""


TRIALS = (
    Trial("as shipped: encoder int8, decoder 8 bits in blocks of 128"),
    Trial("fp32", None),
    Trial("DECODER_BITS=mixed: 8 in blocks of 128, 4 in blocks of 32", RECIPES["mixed"]),
    Trial("DECODER_BITS=4: in blocks of 32", RECIPES["4"]),
    Trial("decoder int8", Recipe(decoder="int8")),
    Trial("decoder 8 bits in blocks of 32", Recipe(blocks=(32, 32))),
    Trial("decoder 8 bits in blocks of 64", Recipe(blocks=(32, 64))),
    Trial("decoder 4 bits in blocks of 64", Recipe(decoder="4", blocks=(64, 128))),
    Trial("decoder 4 bits in blocks of 128", Recipe(decoder="4", blocks=(128, 128))),
    Trial("decoder 4 bits in blocks of 32, without zero points", Recipe(decoder="4", method=SYMMETRIC)),
    Trial("encoder 4 bits, weights alone", Recipe(encoder="4")),
    Trial("encoder 8 bits, weights alone", Recipe(encoder="8")),
    Trial("encoder's attention in fp32", Recipe(attention=False)),
    Trial("encoder's attention in fp32, not fused", Recipe(attention=False), without="fused attention"),
    Trial("encoder's weights prepacked", without="unpacked"),
    Trial("encoder's weights kept in memory", without="read once"),
    Trial("encoder without an arena", without="arena"),
    Trial("encoder's arena not given back", without="shrinking"),
)


def compare(checkpoint: str, report: Path) -> None:
    """Try each of TRIALS on a checkpoint; print a table, and write `report` as JSON."""
    results: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory(dir=report.parent) as work:
        folders = _folders(checkpoint, Path(work))
        for trial in track(TRIALS, "trying"):
            folder = folders(trial)
            command = [sys.executable, "-m", measure.__name__, str(folder), trial.without]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            results[trial.name] = json.loads(done.stdout.splitlines()[-1])
    write_json(report, results)
    _show(results)


def _folders(checkpoint: str, work: Path) -> Callable[[Trial], Path]:
    """Return a function that creates the model folder of a trial, once for all trials that share it."""
    from ..conversion.checkpoint import load
    from ..conversion.export import assemble, write_graphs

    source = load(checkpoint, work)
    made: dict[tuple[str, bool], Path] = {}

    def folder(trial: Trial) -> Path:
        plain = trial.without == "fused attention"
        raw = work / f"raw-{plain}"
        if not raw.exists():
            raw.mkdir()
            with plain_attention() if plain else nullcontext():
                write_graphs(source.model, raw)
        key = str(trial.recipe), plain
        if key not in made:
            made[key] = work / f"model-{len(made)}"
            made[key].mkdir()
            assemble(raw, made[key], trial.recipe, source)
        return made[key]

    return folder


def plain_attention() -> AbstractContextManager[Any]:
    """Export the encoder's attention as plain ONNX, not as ONNX Runtime's operator, within the context."""
    from ..conversion.onnx_config import FusedAttention

    return mock.patch.object(FusedAttention, "apply", _plain)


def _plain(query: Any, key: Any, value: Any, heads: int) -> Any:
    """Compute attention as PyTorch's exporter writes it, (P, N, heads * head_size)."""
    query, key, value = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (query, key, value))
    scores = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
    return (scores.softmax(-1) @ value).transpose(1, 2).flatten(2)


def _show(results: dict[str, dict[str, float]]) -> None:
    table = Table("tried", "files MB", "rest MB", "peak MB", "encoder s", f"{measure.TOKENS} tokens s")
    for name, result in results.items():
        sizes = (f"{result[key]:,.0f}" for key in ("file_mb", "rest_mb", "peak_mb"))
        times = (f"{result[key]:.3f}" for key in ("encoder_s", "tokens_s"))
        table.add_row(name, *sizes, *times)
    Console().print(table)
