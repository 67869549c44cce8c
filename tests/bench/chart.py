"""Draw what `make bench` measured: python -m tests.bench.chart BENCH.json CHART.svg"""

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt

OURS, OTHERS, LINE = "#0f766e", "#cbd5e1", "#94a3b8"
BEHIND = {"facecolor": "white", "edgecolor": "none", "pad": 1.0}
LIMIT_MB = 536.9  # 512 MiB
NAMES = {
    "ours": "Dropcap",
    "transformers_fp32": "transformers, fp32",
    "torch_int8": "PyTorch, dynamic int8",
    "ort_fp32": "ONNX Runtime, fp32",
    "ort_int8_naive": "ONNX Runtime, dynamic int8",
    "openvino_int8": "OpenVINO, int8",
}


def draw(bench: dict[str, Any], file: Path) -> None:
    """Bars: a caption's seconds, and the memory of the process that makes it."""
    plt.rcParams |= {"svg.fonttype": "none", "svg.hashsalt": "dropcap", "font.family": "sans-serif"}
    figure, panels = plt.subplots(1, 2, figsize=(9.6, 2.8), sharey=True)
    names = list(NAMES)[::-1]
    for panel, key, title in (
        (panels[0], "seconds", "seconds for a caption of 16 tokens"),
        (panels[1], "peak_mb", "peak memory of the process, MB"),
    ):
        values = [bench["caption"][name][key] for name in names]
        colours = [OURS if name == "ours" else OTHERS for name in names]
        bars = panel.barh([NAMES[name] for name in names], values, color=colours, height=0.7, zorder=2)
        form = "{:,.2f}" if key == "seconds" else "{:,.0f}"
        panel.bar_label(bars, map(form.format, values), padding=4, bbox=BEHIND)
        panel.set_title(title, fontsize=10, loc="left")
        panel.set_xlim(0, max(values) * 1.18)
        panel.spines[["top", "right", "bottom"]].set_visible(False)
        panel.tick_params(left=False, bottom=False, labelbottom=False)
    panels[1].axvline(LIMIT_MB, color=LINE, linewidth=1, linestyle="--", zorder=1)
    panels[1].annotate("512 MiB", (LIMIT_MB, -0.95), xytext=(4, 0), textcoords="offset points", fontsize=8)
    panels[1].set_ylim(-1.0, len(names) - 0.5)
    figure.tight_layout()
    figure.savefig(file, metadata={"Date": None}, facecolor="white")


if __name__ == "__main__":
    draw(json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2]))
