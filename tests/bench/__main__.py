"""`make bench`: compare Dropcap with other ways to caption and resize a picture; see --help."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track
from rich.table import Table

from infra import ROOT, cost
from infra.local import StackError
from tests.bench import chart, deployed
from tests.bench.models import prepare
from tests.bench.workers import Failed, Processor, Way, figures
from tests.memory.encoders import photo, pillow

BENCH_PYTHON = ROOT / ".venv-bench" / "bin" / "python"  # has OpenVINO
WAYS = (sys.executable, "tests.bench.ways")
PHOTOS = {"12 MP": (4032, 3024), "48 MP": (8064, 6048)}  # a phone's JPEG
RIVALS = {
    "ours": "Dropcap",
    "transformers": "transformers, fp32",
    "onnxruntime": "ONNX Runtime, dynamic int8",
    "openvino": "OpenVINO, int8",
}
GEMINI_S = (None, 0.5, 1.5, 4.0)  # None: without Gemini
Report = dict[str, Any]


def main(words: Sequence[str] | None = None) -> int:
    """Measure, print the table, draw the chart; return the exit status."""
    asked = _arguments(words)
    console = Console()
    try:
        report = measure(asked, console)
    except (Failed, StackError, subprocess.CalledProcessError) as failed:
        console.print(f"make bench: {failed}", style="red", markup=False)
        return 2
    file = asked.build / "bench.json"
    file.write_text(json.dumps(report, indent=1) + "\n")
    console.print(table(report), deployed.table_of_flows(report["flow"], asked.queue))
    console.print(
        f"Descriptions by Gemini, at list price:\n\n{cost.descriptions()}\n", soft_wrap=True, markup=False
    )
    asked.chart.write_text(chart.svg(report["caption"], RIVALS))
    console.print(f"All of it: {file}\nThe chart: {asked.chart}")
    return 0


def measure(asked: argparse.Namespace, console: Console) -> Report:
    """Return all figures, measured one after the other: nothing else should run meanwhile."""
    work = asked.build / "bench"
    with console.status("Writing BLIP-base for each rival (once) ..."):
        folders = prepare(work, BENCH_PYTHON)
        photos = _photos(work)
    rounds = asked.rounds + 1
    captions: dict[str, Way] = {
        "ours": (*WAYS, "ours", asked.model),
        "transformers": (*WAYS, "transformers", folders["transformers"]),
        "onnxruntime": (*WAYS, "onnxruntime", folders["onnxruntime"]),
        "openvino": (BENCH_PYTHON, "tests.bench.openvino_int8", "serve", folders["openvino"]),
    }
    caption = figures(captions, track(range(rounds), "captions", console=console))
    resize = {
        name: figures(
            {way: (*WAYS, f"resize_{way}", path) for way in ("ours", "pillow")},
            track(range(rounds), f"resizing {name}", console=console),
        )
        for name, path in photos.items()
    }
    with console.status("The deployed function and the naive one, cold and warm ..."):
        uploads = {
            name: deployed.run(*function, photos["12 MP"], rounds, work)
            for name, function in {
                "ours": (deployed.MAIN, asked.model, deployed.DEPLOYED),
                "naive": (deployed.NAIVE, folders["transformers"], Path(sys.executable)),
            }.items()
        }
    flows = [
        deployed.flow(asked.model, photos["12 MP"], gemini_s, rounds, asked.queue, work)
        for gemini_s in track(GEMINI_S, "pictures through one instance", console=console)
    ]
    cpuinfo = Path("/proc/cpuinfo")
    return {
        "processor": asdict(Processor.read(cpuinfo.read_text() if cpuinfo.exists() else "")),
        "flow": [asdict(each) for each in flows],
        "caption": {name: asdict(figure) for name, figure in caption.items()},
        "resize": {name: {way: asdict(f) for way, f in ways.items()} for name, ways in resize.items()},
        "upload": {name: asdict(run) for name, run in uploads.items()},
    }


def _photos(folder: Path) -> dict[str, Path]:
    """Return JPEGs to resize, made once."""
    files = {name: folder / f"{name.removesuffix(' MP')}.jpg" for name in PHOTOS}
    for name, file in files.items():
        if not file.exists():
            file.write_bytes(pillow("JPEG", quality=85)(photo(PHOTOS[name], 0)))
    return files


def table(report: Mapping[str, Any]) -> Table:
    """Return the report as a table."""
    shown = Table("", *RIVALS.values(), title="BLIP-base, one thread, in turns")
    shown.caption = str(Processor(**report["processor"]))
    captions = [report["caption"][name] for name in RIVALS]
    shown.add_row("a caption of 16 tokens, s", *(f"{each['seconds']:.2f}" for each in captions))
    shown.add_row("memory of its process at the peak, MB", *(f"{each['peak_mb']:.0f}" for each in captions))
    for name, ways in report["resize"].items():
        pair = (ways["ours"], ways["pillow"])
        cells = (f"{each['seconds']:.2f}; {each['peak_mb']:.0f}" for each in pair)
        shown.add_row(f"a {name} JPEG to 1600, 800 and 200 px, s; MB (beside Pillow)", *cells)
    ours, naive = (deployed.Run(**report["upload"][name]) for name in ("ours", "naive"))
    pair_of_runs = ((ours, deployed.OURS_GIB), (naive, deployed.NAIVE_GIB))
    start = "start of the process to the first caption, s (beside Pillow and transformers)"
    shown.add_row(start, *(f"{run.cold_start_s:.2f}" for run, _ in pair_of_runs))
    an_hour = (f"{3600 / run.warm_s:,.0f}" for run, _ in pair_of_runs)
    shown.add_row("pictures of 12 MP an hour with 1 vCPU", *an_hour)
    usd = (f"{deployed.usd_per_1000(run.warm_s, gib):.3f}" for run, gib in pair_of_runs)
    gib = f"{deployed.OURS_GIB:g} and {deployed.NAIVE_GIB:g} GiB"
    shown.add_row(f"US$ for 1,000 of them at Google's list price, {gib}", *usd)
    return shown


def _arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="make bench",
        description="Measure captions, resizing, cold starts and uploads beside other ways to do the same, "
        "in turns on one thread. Takes about 25 minutes and 8 GB; nothing else should run meanwhile.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--rounds", type=int, default=9, metavar="N", help="turns of each, after a first one")
    parser.add_argument("--queue", type=int, default=100, metavar="N", help="pictures that come at once")
    parser.add_argument("--model", type=Path, default=ROOT / "build" / "random-base", help="BLIP's folder")
    parser.add_argument("--build", type=Path, default=ROOT / "build", help="folder for models and bench.json")
    parser.add_argument("--chart", type=Path, default=ROOT / "build" / "bench.svg", help="SVG to draw")
    return parser.parse_args(words)


if __name__ == "__main__":
    sys.exit(main())
