"""A short run of each fuzzer finds nothing, and finds what is there. `make fuzz` runs for longer."""

import importlib.util
import os
from pathlib import Path

import pytest

from tests.fuzz import decoding, guided, inputs, json_mutations, mutations
from tests.fuzz.corpus import small
from tests.fuzz.targets import TARGETS, Target
from tests.support.images.pictures import FORMATS

RUNS, FILES = 4_000, 64
MISSING = "There is no atheris for this system."


@pytest.fixture
def atheris() -> None:
    """Skip by name where there is no atheris; with ATHERIS=required, as in CI, fail."""
    if not importlib.util.find_spec("atheris"):
        (pytest.fail if os.environ.get("ATHERIS") == "required" else pytest.skip)(MISSING)


@pytest.mark.usefixtures("atheris")
def test_a_short_run_of_every_parser_finds_nothing(tmp_path: Path) -> None:
    result = guided.run([*TARGETS], tmp_path, runs=RUNS, seconds=0, seed=1)
    assert result.findings == {}
    assert result.executions >= RUNS
    assert result.covered
    assert list(tmp_path.iterdir()) == []


def test_a_short_run_of_the_whole_decoder_finds_nothing(tmp_path: Path) -> None:
    found = decoding.run(tmp_path, runs=FILES, seconds=0, seed=1, small=True)
    assert found.findings == {}
    assert found.files == FILES
    assert any(outcome.endswith("decoded") for outcome in found.counts)


@pytest.mark.parametrize("name", TARGETS)
def test_every_seed_and_its_cuts_pass(name: str) -> None:
    target = TARGETS[name]
    for data in target.seeds():
        for part in (data, data[:-1], data[: len(data) // 2], data[: len(data) // 3]):
            target.check(part)


def test_a_fault_is_found_with_the_input_that_shows_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(data: bytes, *_: object) -> tuple[str, bool]:
        return "decoder_crashed: SIGSEGV", data[:2] == b"BM"

    monkeypatch.setattr(decoding, "outcome", fails)
    found = decoding.run(tmp_path, runs=80, seconds=0, seed=1, small=True)
    assert 0 < found.findings["decoder_crashed: SIGSEGV"] <= 10
    assert all(file.read_bytes()[:2] == b"BM" for file in tmp_path.iterdir())


def test_a_number_makes_the_same_file_again() -> None:
    for kind in FORMATS:
        made = [mutations.changed(small(), kind, f"7:{at}") for at in range(40)]
        assert made == [mutations.changed(small(), kind, f"7:{at}") for at in range(40)]
        assert len({*made}) > 20
    events: Target = TARGETS["events"]
    [seed, *_] = events.seeds()
    changed = {json_mutations.mutate(seed, number) for number in range(50)}
    assert len(changed) > 30
    assert json_mutations.mutate(seed, 1) == json_mutations.mutate(seed, 1)
    assert inputs.FIELD in seed
