"""Export the same random BLIP-base in the format of each alternative, once, to build/bench."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from infra import ROOT

NAIVE = ROOT / "build" / "naive"  # of tests/memory: fp32 weights for transformers


def prepare(build: Path, rivals_python: Path) -> dict[str, Path]:
    """Return the folders by rival: `transformers`, `onnxruntime` and `openvino`."""
    build.mkdir(parents=True, exist_ok=True)
    if not NAIVE.exists():
        subprocess.run([sys.executable, "-m", "tests.memory.naive", str(NAIVE)], cwd=ROOT, check=True)
    folders = {name: build / name for name in ("onnxruntime", "openvino")}
    if missing := [folder for folder in folders.values() if not folder.exists()]:
        with TemporaryDirectory(dir=build) as work:
            _make(missing, Path(work), rivals_python)
    return folders | {"transformers": NAIVE}


def _make(folders: list[Path], work: Path, rivals_python: Path) -> None:
    """Export as the function has it, and with attention in plain ONNX, which OpenVINO can read."""
    from model_export.conversion.checkpoint import RANDOM, load
    from model_export.conversion.export import assemble, write_graphs
    from model_export.experiments.recipes import plain_attention

    source = load(RANDOM, work)
    graphs, plain = work / "graphs", work / "plain"
    graphs.mkdir()
    plain.mkdir()
    write_graphs(source.model, graphs)
    with plain_attention():
        write_graphs(source.model, plain)

    def openvino(made: Path) -> None:
        command = ["-m", "tests.bench.openvino_int8", "prepare", str(plain), str(made)]
        subprocess.run([str(rivals_python), *command], cwd=ROOT, check=True)

    make: dict[str, Callable[[Path], None]] = {
        "onnxruntime": lambda made: assemble(_quantized(graphs, work / "int8"), made, None, source),
        "openvino": openvino,
    }
    for folder in folders:
        made = work / folder.name
        made.mkdir()
        make[folder.name](made)
        os.rename(made, folder)


def _quantized(graphs: Path, folder: Path) -> Path:
    """Quantize both graphs by ONNX Runtime's `quantize_dynamic` with its defaults; return the folder."""
    from onnxruntime.quantization import quantize_dynamic

    folder.mkdir()
    for graph in graphs.glob("*.onnx"):
        quantize_dynamic(graph, folder / graph.name)
    return folder
