"""Draw the picture of SCALING.md: python -m infra.scaling.chart SCALING.json CHART.svg"""

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.ticker import NullFormatter

LIFTED, DEPLOYED, LINE = "#0f766e", "#b45309", "#94a3b8"
CLOSE = 1.35  # limits that are met at loads of less than this ratio share a line
SHOWN = (0.006, 30_000)


def draw(results: dict[str, Any], file: Path) -> None:
    """Latency and instances against load, and the limits, numbered in the order in which they are met."""
    plt.rcParams |= {"svg.fonttype": "none", "svg.hashsalt": "dropcap", "font.family": "sans-serif"}
    figure, (latency, number, price, names) = plt.subplots(
        4, 1, figsize=(9.6, 9.6), height_ratios=(3, 2.4, 2, 3.4), gridspec_kw={"hspace": 0.14}
    )
    rows = results["sweep"] + [row for row in results["scale"] if row["rate"] > results["sweep"][-1]["rate"]]
    for setting, colour in (("limits lifted", LIFTED), ("as deployed", DEPLOYED)):
        points = sorted((row for row in rows if row["setting"] == setting and row["keeps_up"]), key=_rate)
        loads = [row["rate"] for row in points]
        for key, style in (("p50_s", "-"), ("p95_s", "--"), ("p99_s", ":")):
            seconds = [row[key] for row in points]
            latency.plot(
                loads, seconds, style, color=colour, label=f"{setting}, {key.split('_')[0]}", zorder=3
            )
        number.plot(loads, [row["instances"] for row in points], color=colour, zorder=3)
        dollars = [sum(row["usd"].values()) for row in points]
        price.plot(loads, dollars, color=colour, zorder=3)
        for panel, last in ((number, points[-1]["instances"]), (price, dollars[-1])):
            panel.annotate(
                setting, (loads[-1], last), (5, 0), textcoords="offset points", color=colour, fontsize=8
            )
    latency.set_ylabel("upload to done, s")
    latency.set_yscale("log")
    latency.set_ylim(1, 2_000)
    latency.legend(fontsize=8, ncols=2, loc="upper right", framealpha=1)
    number.set_ylabel("instances")
    number.set_yscale("log")
    price.set_ylabel("US$ a million")
    price.set_yscale("log")
    price.set_ylim(50, 10_000)
    price.set_xlabel("uploads a second")
    last, listed = 0.0, []
    for place, limit in enumerate(results["limits"], 1):
        at = limit["described"] or limit["alone"]
        if not SHOWN[0] <= at <= SHOWN[1]:
            continue
        rate = f"{at:,.0f}" if at >= 100 else f"{at:.3g}"
        listed.append(f"{place}  {rate}/s  {limit['name']}: {limit['value']}")
        for panel in (latency, number, price):
            panel.axvline(at, color=LINE, linewidth=0.8, zorder=1)
        if at > last * CLOSE:
            latency.annotate(
                str(place),
                (at, 1),
                (0, 3),
                ("data", "axes fraction"),
                "offset points",
                ha="center",
                fontsize=8,
            )
            last = at
    for panel in (latency, number, price):
        panel.set_xscale("log")
        panel.set_xlim(*SHOWN)
        for axis in (panel.xaxis, panel.yaxis):
            axis.set_major_formatter(lambda value, _: f"{value:,.10g}")
            axis.set_minor_formatter(NullFormatter())
        panel.spines[["top", "right"]].set_visible(False)
    for panel in (latency, number):
        panel.tick_params(labelbottom=False)
    names.axis("off")
    half = -(-len(listed) // 2)
    for column, lines in enumerate((listed[:half], listed[half:])):
        names.text(0.52 * column, 0.82, "\n".join(lines), fontsize=7.5, va="top", linespacing=1.5)
    figure.savefig(file, metadata={"Date": None}, facecolor="white", bbox_inches="tight")


def _rate(row: dict[str, Any]) -> float:
    return float(row["rate"])


if __name__ == "__main__":
    draw(json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2]))
