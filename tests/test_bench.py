"""`make bench`: what it compares does the same work, and what it says is what was measured."""

import json
import statistics
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from tests.app import ROOT, SAMPLES
from tests.bench import cost, deployed, extras
from tests.bench.floor import products
from tests.bench.workers import Failed, Turn, figures, growth, take_turns

MODEL = ROOT / "functions" / "model"
PICTURE = next(SAMPLES.glob("*.jpg"))
WAYS = (sys.executable, "tests.bench.ways")


def turn(seconds: float, rss_mb: float = 0.0) -> Turn:
    return Turn(seconds, seconds / 2, rss_mb, rss_mb)


def test_every_way_to_resize_takes_its_turns() -> None:
    ways = {way: (*WAYS, f"resize_{way}", PICTURE) for way in ("ours", "pillow", "libvips")}
    taken = take_turns(ways, range(2))
    assert {way: len(turns) for way, turns in taken.items()} == dict.fromkeys(ways, 2)
    assert all(
        t.seconds > 0 and t.cpu_s > 0 and t.peak_mb >= t.rss_mb for turns in taken.values() for t in turns
    )


def test_memory_is_flat_from_caption_to_caption() -> None:
    # From the second tenth to the last are 80 captions: 0.16 % of 95 MB, 2 kB for each, would be 2 % in a
    # thousand. In each of five runs on a busy machine it was less than 0.02 %.
    turns = take_turns({"ours": (*WAYS, "function", MODEL)}, range(100))["ours"]
    assert growth(turns) < 0.0016


def test_a_median_leaves_out_the_turn_that_warms_up() -> None:
    from tests.bench.workers import Figure

    figure = Figure.of([turn(100), *map(turn, (1, 2, 3, 4, 5))])
    assert (figure.seconds, figure.quartiles, figure.cpu_s) == (3, (2, 4), 1.5)


def test_growth_compares_the_last_tenth_with_the_second() -> None:
    assert growth([turn(1, 900)] * 10 + [turn(1, 100)] * 80 + [turn(1, 103)] * 10) == pytest.approx(0.03)


def test_a_way_that_fails_is_named() -> None:
    with pytest.raises(Failed, match="ours"):
        figures({"ours": (*WAYS, "ours", "/nowhere")}, range(2))


def test_the_floor_counts_every_product_of_the_encoder() -> None:
    multiplications = sum(times * a * b * c for (a, b, c), times in products().items())
    tokens, width = 577, 768
    layer = 12 * tokens * width**2 + 2 * tokens**2 * width  # QKV, projection and a fourfold MLP; attention
    assert multiplications == 12 * layer + 24 * tokens * width**2 + 576 * width * 16 * 16 * 3


def test_half_a_vcpu_takes_twice_as_long_to_compute_and_as_long_to_wait() -> None:
    assert cost.seconds(cost.Size(0.5, 0.5), warm=3, cpu=2) == 5
    assert cost.seconds(cost.Size(1, 0.5), warm=3, cpu=2) == 3
    assert cost.seconds(cost.Size(2, 0.5), warm=3, cpu=2) == 3  # one thread


def test_a_bench_of_extras_begins_with_none_of_them_on(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RECEIPTS": "1", "SAFETY": "low", "DAILY_MONEY": "5", "SIZES": "100"}.items():
        monkeypatch.setenv(name, value)
    assert extras._shell().keys() & {"RECEIPTS", "SAFETY", "DAILY_MONEY", "SIZES"} == {"SIZES"}


def test_whoever_takes_the_events_of_a_bench_ends_with_it_however_it_ends() -> None:
    before = threading.enumerate()
    with suppress(RuntimeError), extras._consumer():
        [thread] = [each for each in threading.enumerate() if each not in before]
        raise RuntimeError
    thread.join(5)
    assert not thread.is_alive()


def test_a_folder_that_a_killed_bench_has_left_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository, folder = tmp_path / "repository", tmp_path / "before"
    monkeypatch.setattr(extras, "ROOT", repository)
    (repository / "functions").mkdir(parents=True)
    (repository / "functions" / "main.py").touch()
    identity = ("-c", "user.name=Ana", "-c", "user.email=ana@example.com", "-c", "commit.gpgsign=false")
    for words in (
        ("init", "-q"),
        ("add", "."),
        (*identity, "commit", "-qm", "first"),
        ("worktree", "add", "--detach", str(folder)),
    ):
        subprocess.run(["git", "-C", str(repository), *words], check=True, capture_output=True)  # noqa: S607
    (folder / "functions" / "main.py").write_text("cut")
    with extras._revision("HEAD", folder) as program:
        assert program.read_text() == ""
    assert not folder.exists()


def test_every_begun_tenth_of_a_second_is_paid() -> None:
    size = cost.Size(1, 2)
    assert cost.per_thousand(size, 0.91) == cost.per_thousand(size, 1.0) == pytest.approx(0.0290 + 0.0004)


def test_the_deployed_function_is_measured_by_stage(tmp_path: Path) -> None:
    run = deployed.run(deployed.MAIN, MODEL, PICTURE, 3, tmp_path, Path(sys.executable))
    assert 0 < run.listening < run.cold_start
    assert run.cpu > 0
    assert {"claim", "describe and caption", "delete the source"} < run.stages.keys()
    logged = [
        json.loads(line) for line in (tmp_path / "main-0.log").read_text().splitlines() if line[:1] == "{"
    ]
    claims = [entry["seconds"] for entry in logged if entry.get("stage") == "claim"]
    assert run.stages["claim"] == (claims[0], statistics.median(claims[1:]))


def test_progress_is_answered_by_a_process_of_its_own(tmp_path: Path) -> None:
    progress = deployed.progress(tmp_path, Path(sys.executable))
    assert progress.seconds > 0
    assert progress.memory_mb > 20
