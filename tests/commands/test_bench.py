"""`make bench`: what it compares does the same work, and what it says is what was measured."""

import os
import re
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import Any
from xml.etree import ElementTree

import pytest

from tests.bench import __main__ as bench
from tests.bench import chart, deployed
from tests.bench.workers import Failed, Figure, Processor, Turn, Worker, figures, take_turns
from tests.support.app import ROOT, SAMPLES

MODEL = ROOT / "functions" / "model"
PICTURE = next(SAMPLES.glob("*.jpg"))
SVG = "{http://www.w3.org/2000/svg}"
WAYS = (sys.executable, "tests.bench.ways")


def turn(seconds: float, rss_mb: float = 0.0) -> Turn:
    return Turn(seconds, seconds / 2, rss_mb, rss_mb)


def test_every_way_to_resize_takes_its_turns() -> None:
    ways = {way: (*WAYS, f"resize_{way}", PICTURE) for way in ("ours", "pillow")}
    taken = take_turns(ways, range(2))
    assert {way: len(turns) for way, turns in taken.items()} == dict.fromkeys(ways, 2)
    assert all(
        t.seconds > 0 and t.cpu_s > 0 and t.peak_mb >= t.rss_mb for turns in taken.values() for t in turns
    )


def growth(turns: Sequence[Turn]) -> float:
    """Return by what share the last tenth of the turns took more memory than the second tenth."""
    tenth = len(turns) // 10
    parts = (turns[tenth : 2 * tenth], turns[-tenth:])
    second, last = (fmean(turn.rss_mb for turn in part) for part in parts)
    return last / second - 1


def test_memory_is_flat_from_caption_to_caption() -> None:
    # From the second tenth to the last are 80 captions: 0.16 % of 95 MB, 2 kB for each, would be 2 % in a
    # thousand. In each of five runs on a busy machine it was less than 0.02 %.
    turns = take_turns({"ours": (*WAYS, "function", MODEL)}, range(100))["ours"]
    assert growth(turns) < 0.0016


def test_a_median_leaves_out_the_turn_that_warms_up() -> None:
    figure = Figure.of([turn(100), *map(turn, (1, 2, 3, 4, 5))])
    assert (figure.seconds, figure.quartiles, figure.cpu_s) == (3, (2, 4), 1.5)


def test_growth_compares_the_last_tenth_with_the_second() -> None:
    assert growth([turn(1, 900)] * 10 + [turn(1, 100)] * 80 + [turn(1, 103)] * 10) == pytest.approx(0.03)


def test_a_way_that_fails_is_named() -> None:
    with pytest.raises(Failed, match="ours"):
        figures({"ours": (*WAYS, "ours", "/nowhere")}, range(2))


def test_every_begun_tenth_of_a_second_is_paid() -> None:
    each = deployed.usd_per_1000(0.91, 2)
    assert each == deployed.usd_per_1000(1.0, 2) == pytest.approx(0.0290 + 0.0004)


def test_the_deployed_function_is_measured_cold_and_warm(tmp_path: Path) -> None:
    run = deployed.run(deployed.MAIN, MODEL, Path(sys.executable), PICTURE, 3, tmp_path)
    assert 0 < run.listening_s < run.cold_start_s
    assert 0 < run.warm_s < run.cold_start_s


@pytest.mark.parametrize("gemini_s", [None, 0.1])
def test_pictures_flow_through_one_instance(gemini_s: float | None, tmp_path: Path) -> None:
    run = deployed.flow(MODEL, PICTURE, gemini_s, 2, 4, tmp_path, Path(sys.executable))
    assert (gemini_s or 0) < run.alone_p50_s <= run.alone_p95_s
    assert run.billed_s < run.queue_p50_s <= run.queue_p95_s <= 4 * run.billed_s
    columns = [list(column.cells) for column in deployed.table_of_flows([asdict(run)], 4).columns]
    assert columns[0] == ["without" if gemini_s is None else "0.1 s"]
    assert columns[1] == [f"{3600 / run.billed_s:,.0f}"]


XEON = {"name": "Intel Xeon", "features": ["avx512_vnni", "amx_int8"], "visible": 2}
REPORT: dict[str, Any] = {
    "processor": XEON,
    "caption": {name: {"seconds": n / 8, "peak_mb": 300.0 * n} for n, name in enumerate(bench.RIVALS, 5)},
    "resize": {
        "12 MP": {"ours": {"seconds": 0.25, "peak_mb": 90.4}, "pillow": {"seconds": 0.5, "peak_mb": 160}}
    },
    "upload": {
        "ours": {"listening_s": 0.2, "cold_start_s": 2.95, "warm_s": 1.25},
        "naive": {"listening_s": 5, "cold_start_s": 9.0, "warm_s": 3.6},
    },
}


def test_the_table_shows_what_was_measured() -> None:
    table = bench.table(REPORT)
    columns = [list(column.cells) for column in table.columns]
    assert [column.header for column in table.columns] == ["", *bench.RIVALS.values()]
    assert columns[1] == ["0.62", "1500", "0.25; 90", "2.95", "2,880", "0.033"]
    assert columns[2] == ["0.75", "1800", "0.50; 160", "9.00", "1,000", "0.105"]
    assert columns[4][:2] == ["1.00", "2400"]
    assert str(table.caption).startswith("Intel Xeon (avx512_vnni, amx_int8); each process loads with 2 CPUs")


def test_the_report_names_the_processor_and_what_matters_of_its_features() -> None:
    first = "processor\t: 0\nmodel name\t: Intel Xeon\nflags\t\t: fpu amx_int8 avx512_vnni\n"
    cpuinfo = f"{first}\nprocessor\t: 1\nmodel name\t: another\n"
    read = Processor.read(cpuinfo)
    assert (read.name, read.features) == ("Intel Xeon", ("avx512_vnni", "amx_int8"))


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="only Linux pins a process")
def test_a_way_loads_with_every_cpu_in_sight_and_works_on_one(tmp_path: Path) -> None:
    python, counted = tmp_path / "python", tmp_path / "counted"
    count = "import os; print(len(os.sched_getaffinity(0)))"
    python.write_text(f'#!/bin/sh\n{sys.executable} -c "{count}" >{counted}\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    with Worker("pillow", str(python), WAYS[1], "resize_pillow", str(PICTURE)) as worker:
        assert len(os.sched_getaffinity(worker._process.pid)) == 1
    assert int(counted.read_text()) == len(os.sched_getaffinity(0))


def test_the_bars_of_the_chart_are_as_long_as_the_figures() -> None:
    drawn = ElementTree.fromstring(chart.svg(REPORT["caption"], bench.RIVALS))  # noqa: S314  our own
    texts = [each.text or "" for each in drawn.iter(f"{SVG}text")]
    assert set(bench.RIVALS.values()) <= set(texts)
    assert [text for text in texts if re.fullmatch(r"[\d,.]+", text)] == [
        *("0.62", "0.75", "0.88", "1.00"),
        *("1,500", "1,800", "2,100", "2,400"),
    ]
    bars = [float(each.attrib["width"]) for each in drawn.iter(f"{SVG}rect") if "x" in each.attrib]
    for panel, key in ((bars[:4], "seconds"), (bars[4:], "peak_mb")):
        values = [each[key] for each in REPORT["caption"].values()]
        shares = [value / values[-1] for value in values]
        assert [bar / panel[-1] for bar in panel] == pytest.approx(shares, rel=0.01)
