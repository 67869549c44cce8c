"""`make bench-cold`, and what a cold start does: nothing early that it does not need, and nothing late."""

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra import ROOT
from infra.cloud.resources.functions import BUILD_VARIABLES
from tests.bench.cold import __main__ as cold
from tests.memory.outside import Outside
from tests.support.app import SAMPLES

MODEL = ROOT / "functions" / "model"
PICTURE = next(SAMPLES.glob("*.jpg"))
PYTHON = Path(sys.executable)
HASHED = 3  # flags of bytecode that is checked by the hash of its source (PEP 552)


def bytecode(source: Path) -> bytes:
    return Path(importlib.util.cache_from_source(str(source))).read_bytes()


def test_bytecode_of_the_build_is_valid_in_the_image_whose_files_have_other_times(tmp_path: Path) -> None:
    main = cold.build(ROOT, tmp_path, BUILD_VARIABLES, PYTHON)
    modules = [main, *(tmp_path / "dropcap").rglob("*.py")]
    assert {int.from_bytes(bytecode(module)[4:8], "little") for module in modules} == {HASHED}


def test_without_the_variable_of_the_build_bytecode_names_a_time_that_no_file_of_the_image_has(
    tmp_path: Path,
) -> None:
    main = cold.build(ROOT, tmp_path, {}, PYTHON)
    assert int.from_bytes(bytecode(main)[8:12], "little") != int(main.stat().st_mtime)


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[cold.Start]:
    folder = tmp_path_factory.mktemp("cold")
    way = cold.Way("this", cold.build(ROOT, folder / "this", BUILD_VARIABLES, PYTHON), MODEL, PYTHON)
    with Outside(folder) as outside:
        yield cold.start(way, outside, "ana/a.jpg", PICTURE, 2, folder)


def test_the_parts_of_a_start_add_up_to_its_time(started: cold.Start) -> None:
    until, event, _ = (sum(s for s, _ in started.sections[name].values()) for name in cold.SECTIONS)
    assert 0 < started.listening_s < started.answered_s
    assert 0.8 * started.answered_s < until + event < started.answered_s
    assert 0 < started.sandbox_cpu_s < started.cpu_s


def test_before_it_listens_a_function_loads_nothing_that_only_a_picture_needs(started: cold.Start) -> None:
    early = set(started.sections["start"])
    assert {"Python", "settings", "PostgreSQL: schema check", "import flask"} <= early
    assert not [name for name in early if "onnxruntime" in name or "google.cloud.storage" in name]
    assert not [name for name in early if "genai" in name or "pydantic" in name or "pyvips" in name]


def test_model_sandbox_and_gemini_are_loaded_beside_the_first_event(started: cold.Start) -> None:
    beside = {"BLIP: load the encoder", "BLIP: load the decoder", "sandbox: wait for the fork server"}
    assert beside | {"import google.genai"} <= set(started.sections["beside"])
    assert not beside & set(started.sections["first event"])


def test_one_start_connects_to_postgresql_and_checks_the_schema_once(started: cold.Start) -> None:
    for name in ("PostgreSQL: connect", "PostgreSQL: schema check"):
        assert [section for section in cold.SECTIONS if name in started.sections[section]] == ["start"]


def test_the_table_shows_the_parts_that_are_large_in_one_of_the_ways() -> None:
    few = {"start": {"Python": (0.05, 0.04)}, "first event": {"read": (1.0, 0.25)}, "beside": {}}
    many = {**few, "start": {"Python": (0.001, 0.001), "import x": (0.2, 0.1), "import y": (0.004, 0.004)}}
    shown = cold.table(
        {"a": cold.Start(0.1, 1.2, 0.9, 0.3, few), "b": cold.Start(0.3, 1.5, 1.1, 0.3, many)}, 5
    )
    names, a, b = (list(column.cells) for column in shown.columns)
    rows = dict(zip(names, zip(a, b, strict=True), strict=True))
    assert rows["  Python"] == ("50 (40)", "1 (1)")
    assert rows["  import x"] == ("", "200 (100)")
    assert "  import y" not in rows
    assert rows["[bold]until the first caption"] == ("1200 (900)", "1500 (1100)")
