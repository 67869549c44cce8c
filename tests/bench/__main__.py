"""make bench: Dropcap beside other ways to do the same, in one run; see --help."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track
from rich.table import Table

from infra.local import StackError
from infra.local.storage import ROOT
from tests.bench import cost, deployed, extras
from tests.bench.floor import floor_seconds
from tests.bench.models import prepare
from tests.bench.workers import Failed, Figure, Way, figures, growth, take_turns
from tests.memory.encoders import graphic, photo, pillow

BENCH_PYTHON = ROOT / ".venv-bench" / "bin" / "python"  # of the rival from outside
WAYS = (sys.executable, "tests.bench.ways")
PHOTO_MP = (4032, 3024)  # what a telephone takes
LARGE_MP = (8064, 6048)
Report = dict[str, Any]


def main(words: Sequence[str] | None = None) -> int:
    """Run it all; the exit status."""
    asked = _arguments(words)
    console = Console()
    os.environ["MODEL_FOLDER"] = str(asked.model)
    try:
        report = measure(asked, console)
    except (Failed, StackError, subprocess.CalledProcessError) as failed:
        console.print(f"make bench: {failed}", style="red", markup=False)
        return 2
    file = asked.build / "bench.json"
    file.write_text(json.dumps(report, indent=1) + "\n")
    show(report, console)
    chart = [str(BENCH_PYTHON), "-m", "tests.bench.chart", str(file), str(asked.chart)]
    subprocess.run(chart, check=True, cwd=ROOT)
    console.print(f"All of it: {file}\nThe chart: {asked.chart}")
    return 0


def measure(asked: argparse.Namespace, console: Console) -> Report:
    """Everything, one after the other: nothing else should run meanwhile."""
    with console.status("Writing BLIP-base for each rival (once) ..."):
        folders = prepare(asked.build / "bench", BENCH_PYTHON)
        photos = _photos(asked.build / "bench")
    rounds = asked.rounds + 1
    captions: dict[str, Way] = {
        "ours": (*WAYS, "ours", asked.model),
        "transformers_fp32": (*WAYS, "transformers", folders["transformers"]),
        "torch_int8": (*WAYS, "transformers_int8", folders["transformers"]),
        "ort_fp32": (*WAYS, "onnxruntime", folders["fp32"]),
        "ort_int8_naive": (*WAYS, "onnxruntime", folders["int8_naive"]),
        "openvino_int8": (BENCH_PYTHON, "tests.bench.openvino_int8", "serve", folders["openvino"]),
        "encoder": (*WAYS, "encoder", asked.model),
    }
    caption = figures(captions, track(range(rounds), "captions", console=console))
    encoder = {"seconds": caption.pop("encoder").seconds, "floor_seconds": floor_seconds()}
    resize = {
        name: figures(
            {way: (*WAYS, f"resize_{way}", path) for way in ("ours", "pillow", "libvips")},
            track(range(rounds), f"resizing {name}", console=console),
        )
        for name, path in photos.items()
    }
    path = photos["JPEG, 12 MP"]
    logs, python = asked.build / "bench", Path(sys.executable)
    with console.status("The deployed function, cold and warm ..."):
        ours = deployed.run(deployed.MAIN, asked.model, path, rounds, logs, deployed.DEPLOYED)
        direct = figures({"direct": (*WAYS, "direct", path)}, range(rounds))["direct"]
        progress = deployed.progress(logs, deployed.DEPLOYED)
    with console.status("The naive function, cold and warm ..."):
        naive = deployed.run(deployed.NAIVE, folders["transformers"], path, rounds, logs, python)
    turns_of_extras = track(range(rounds), "extras", console=console)
    of_extras = extras.measure(asked.model, path, turns_of_extras, logs, asked.before)
    many = track(range(asked.captions), "memory over many captions", console=console)
    turns = take_turns({"function": (*WAYS, "function", asked.model)}, many)["function"]
    return {
        "caption": {name: asdict(figure) for name, figure in caption.items()},
        "memory": {"captions": len(turns), "growth": growth(turns), "rest_mb": turns[-1].rss_mb},
        "encoder": encoder | {"ratio": encoder["seconds"] / encoder["floor_seconds"]},
        "resize": {name: {way: asdict(f) for way, f in ways.items()} for name, ways in resize.items()},
        "cold_start": {name: _cold(run) for name, run in (("ours", ours), ("naive", naive))},
        "get_progress_stats": asdict(progress),
        "overhead": _overhead(ours, direct),
        "extras": {name: asdict(each) for name, each in of_extras.items()},
        "cost": {name: _cost(run) for name, run in (("ours", ours), ("naive", naive))},
    }


def _photos(folder: Path) -> dict[str, Path]:
    """Files to resize, made once."""
    made: dict[str, tuple[str, Callable[[], bytes]]] = {
        "JPEG, 12 MP": ("12.jpg", lambda: pillow("JPEG", quality=85)(photo(PHOTO_MP, 0))),
        "JPEG, 48 MP": ("48.jpg", lambda: pillow("JPEG", quality=85)(photo(LARGE_MP, 0))),
        "PNG, 12 MP": ("12.png", lambda: pillow("PNG", compress_level=6)(graphic(PHOTO_MP, 0))),
    }
    for name, encode in made.values():
        if not (folder / name).exists():
            (folder / name).write_bytes(encode())
    return {kind: folder / name for kind, (name, _) in made.items()}


def _cold(run: deployed.Run) -> Report:
    """From the start of the process to the end of its first upload, by part."""
    parts = {"process, framework, settings, schema": run.listening}
    parts |= {stage: first for stage, (first, _) in run.stages.items()}
    parts["event and answer"] = run.cold_start - sum(parts.values())
    return {"seconds": run.cold_start, "parts": parts}


def _overhead(run: deployed.Run, direct: Figure) -> Report:
    """CPU time, as waiting for the network is not the pipeline's."""
    return {"pipeline_s": run.cpu, "direct_s": direct.cpu_s, "ratio": run.cpu / direct.cpu_s - 1}


def _cost(run: deployed.Run) -> Report:
    sizes = {}
    for size in cost.SIZES:
        each = cost.seconds(size, run.warm, run.cpu)
        sizes[str(size)] = {
            "seconds": each,
            "pictures_an_hour": 3600 / each,
            "usd_per_1000": cost.per_thousand(size, each),
        }
    return sizes


def show(report: Mapping[str, Any], console: Console) -> None:
    """The report in tables."""
    ours = report["caption"]["ours"]
    table = Table("caption", "s", "quartiles", "x ours", "peak MB", "x ours", title="One caption, one thread")
    for name, figure in report["caption"].items():
        spread = " to ".join(f"{quartile:.3f}" for quartile in figure["quartiles"])
        times = (f"{figure[key] / ours[key]:.2f}" for key in ("seconds", "peak_mb"))
        slower, larger = times
        table.add_row(name, f"{figure['seconds']:.3f}", spread, slower, f"{figure['peak_mb']:.0f}", larger)
    console.print(table)
    memory, encoder = report["memory"], report["encoder"]
    console.print(
        f"Over {memory['captions']:,} captions our memory went from its second tenth to its last by "
        f"{memory['growth']:+.2%}; at rest it was {memory['rest_mb']:.0f} MB."
    )
    console.print(
        f"Encoder {encoder['seconds']:.3f} s, {encoder['ratio']:.2f} times the "
        f"{encoder['floor_seconds']:.3f} s that its matrix products alone take in int8 here.\n"
    )
    table = Table("resize to 1600, 800, 200 px", "", "s", "peak MB", title="Pictures")
    for kind, ways in report["resize"].items():
        for way, figure in ways.items():
            table.add_row(kind, way, f"{figure['seconds']:.3f}", f"{figure['peak_mb']:.0f}")
    console.print(table)
    table = Table("cold start to first caption", "ours, s", "naive, s", title="Cold start")
    cold = report["cold_start"]
    for part, seconds in cold["ours"]["parts"].items():
        other = cold["naive"]["parts"].get(part)
        table.add_row(part, f"{seconds:.2f}", "" if other is None else f"{other:.2f}")
    table.add_row("in all", f"{cold['ours']['seconds']:.2f}", f"{cold['naive']['seconds']:.2f}", style="bold")
    console.print(table)
    progress, overhead = report["get_progress_stats"], report["overhead"]
    console.print(
        f"get_progress_stats, from the start of its process to the answer: {progress['seconds']:.2f} s, "
        f"{progress['memory_mb']:.0f} MB."
    )
    console.print(
        f"A picture costs the function {overhead['pipeline_s']:.3f} s of CPU, and decoding, encoding and"
        f" captioning alone {overhead['direct_s']:.3f} s: the pipeline adds {overhead['ratio']:.1%}.\n"
    )
    console.print(extras.table({name: extras.Cost(**each) for name, each in report["extras"].items()}))
    table = Table(
        "instance", "ours: s", "an hour", "US$ per 1,000", "naive: s", "US$ per 1,000", title="Cost"
    )
    for size, figure in report["cost"]["ours"].items():
        other = report["cost"]["naive"][size]
        table.add_row(
            size,
            *(f"{figure['seconds']:.2f}", f"{figure['pictures_an_hour']:,.0f}"),
            *(f"{figure['usd_per_1000']:.3f}", f"{other['seconds']:.2f}", f"{other['usd_per_1000']:.3f}"),
        )
    console.print(table)


def _arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="make bench",
        description="Measure captions, resizing, cold starts, the pipeline's own work and what it costs, "
        "beside other ways to do the same, in turns on one thread. Takes about 20 minutes and 8 GB; "
        "nothing else should run meanwhile.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "--rounds", type=int, default=9, metavar="N", help="turns of each way, one more to warm up"
    )
    parser.add_argument(
        "--captions", type=int, default=1000, metavar="N", help="how many to look at our memory over"
    )
    parser.add_argument(
        "--before", default="", metavar="REVISION", help="a revision of ours to compare the extras with"
    )
    parser.add_argument("--model", type=Path, default=ROOT / "build" / "random-base", help="BLIP's folder")
    parser.add_argument("--build", type=Path, default=ROOT / "build", help="folder for models and bench.json")
    parser.add_argument("--chart", type=Path, default=ROOT / "build" / "bench.svg", help="SVG to draw")
    return parser.parse_args(words)


if __name__ == "__main__":
    sys.exit(main())
