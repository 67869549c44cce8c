"""`make prove`: what it says of kills and losses is so, and a machine that can't say is told."""

import json
import os
import pwd
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dropcap.imaging import decoding
from dropcap.settings import Settings
from tests.memory.encoders import KINDS, Kind
from tests.memory.instance import DELIVERIES, Platform
from tests.memory.outside import Outside
from tests.memory.uploads import BAD, FIRST, Sample, drawn, plans
from tests.support.app import ROOT, SAMPLES
from tests.support.children import FUNCTIONS, python_path

MODEL = ROOT / "functions" / "model"
RESOURCE = {"bucket": "uploads", "name": "ana/a.png", "generation": "1"}
HUNGRY = """
import functions_framework, pathlib
@functions_framework.cloud_event
def on_upload(event):
    mark = pathlib.Path(__file__).with_name("mark")
    if not mark.exists():
        mark.touch()
        bytearray(b"x" * 10**9)
"""
NEVER_FULL = HUNGRY.replace("mark.touch()", "pass")


def prove(folder: Path, *words: str, unprivileged: bool = False) -> tuple[int, str, str]:
    """Exit status, output and errors of a short run with the model that ships."""
    command = [sys.executable, "-B", "-m", "tests.memory", "--no-naive", "--largest", "0.5"]
    command += ["--model", str(MODEL), "--build", str(folder), *words]
    environment = os.environ | {"PYTHONPATH": python_path(FUNCTIONS), "PYTHONWARNINGS": "ignore"}
    if unprivileged:
        environment["PATH"] = ""
        command = [*nobody(), *command]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    return done.returncode, done.stdout, done.stderr


def nobody() -> list[str]:
    """What makes root somebody who may read all files and change none."""
    if os.geteuid() != 0:
        return []
    user, keep = pwd.getpwnam("nobody"), "+dac_read_search"
    ids = (f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups")
    return [shutil.which("setpriv") or "setpriv", *ids, f"--inh-caps={keep}", f"--ambient-caps={keep}", "--"]


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[Outside]:
    with Outside(tmp_path / "logs") as parts:
        yield parts


@pytest.mark.usefixtures("memory_limit")
def test_where_nothing_is_killed_or_lost_it_is_proven(tmp_path: Path) -> None:
    status, output, errors = prove(tmp_path, "--uploads", "4")
    assert (status, errors) == (0, "")
    report = json.loads((tmp_path / "prove.json").read_text())
    assert (report["proven"], report["failures"], report["limit_mib"]) == (True, [], 512)
    figures = report["dropcap"]
    assert (figures["analyzed"], figures["rejected_as_bad"], figures["uploads"]) == (3, 1, 4)
    assert (figures["kills"], figures["lost"], figures["late"]) == (0, 0, 0)
    assert 50 < figures["anonymous_peak_mb"] < figures["rss_peak_mb"] < 512
    assert figures["cold_start_s"] > 0
    assert figures["max_s"] >= figures["p95_s"] >= figures["p50_s"] > 0
    assert [result["code"] for result in figures["results"] if result["state"] == "rejected"] == [
        "broken_picture"
    ]
    assert "anonymous peak mb" in output


@pytest.mark.usefixtures("memory_limit")
def test_where_the_function_is_killed_it_says_so_and_what_was_lost(tmp_path: Path) -> None:
    status, _, errors = prove(tmp_path, "--uploads", "1", "--limit", "32")
    assert status == 1
    assert "The kernel killed" in errors
    assert "bo/000-1080x1920.png (PNG) lost" in errors
    report = json.loads((tmp_path / "prove.json").read_text())
    assert not report["proven"]
    assert report["dropcap"]["kills"] >= DELIVERIES
    assert report["dropcap"]["lost"] == 1


def test_where_no_memory_can_be_limited_it_refuses_with_what_is_missing(tmp_path: Path) -> None:
    status, output, errors = prove(tmp_path / "build", unprivileged=True)
    assert (status, output, errors.count("\n")) == (2, "", 1)
    assert errors.startswith("make prove: This machine lets us limit no memory. It takes Linux, and root")
    assert "; systemd-run: " in errors
    assert "; docker: " in errors
    assert not (tmp_path / "build").exists()


@pytest.mark.usefixtures("memory_limit")
@pytest.mark.parametrize(("program", "deliveries"), [(HUNGRY, 2), (NEVER_FULL, DELIVERIES)])
def test_a_killed_instance_is_counted_and_started_anew(tmp_path: Path, program: str, deliveries: int) -> None:
    source = tmp_path / "main.py"
    source.write_text(program)
    with Platform(source, MODEL, os.environ, 128, 20, tmp_path) as platform:
        delivery = platform.deliver(RESOURCE)
        assert delivery.deliveries == platform.starts == deliveries
        # More where the kernel takes another process of the instance along.
        assert delivery.kills >= (1 if program == HUNGRY else DELIVERIES)
        assert delivery.answered == (program == HUNGRY)
        assert 50 < delivery.anonymous_mb < 128 * 1.048576


def test_what_was_never_analyzed_is_lost(outside: Outside) -> None:
    path = next(SAMPLES.glob("*.jpg"))
    sample = Sample("ana/a.jpg", "JPEG", path, 1, 1)
    outside.upload(sample)
    assert outside.outcome(sample).state == "lost"


def test_the_uploads_are_of_every_kind_and_size_and_the_same_for_a_seed() -> None:
    made = plans(100, 0, 100)
    assert made == plans(100, 0, 100) != plans(100, 1, 100)
    assert len(made) == 100
    assert made[0].size == FIRST
    assert {plan.kind for plan in made} == {*BAD, *(kind.name for kind in KINDS)}
    megapixels = sorted(plan.size[0] * plan.size[1] / 1e6 for plan in made if plan.kind not in BAD)
    assert megapixels[0] == pytest.approx(0.1, rel=0.02)
    assert 99 < megapixels[-1] <= 100
    assert sum(each > 10 for each in megapixels) > 25


def test_drawn_pictures_are_kept_for_the_next_time(tmp_path: Path) -> None:
    first = list(drawn(2, 0, 0.1, tmp_path))
    times = [sample.path.stat().st_mtime_ns for sample in first]
    assert list(drawn(2, 0, 0.1, tmp_path)) == first
    assert [sample.path.stat().st_mtime_ns for sample in first] == times


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_every_kind_that_is_drawn_is_a_picture(kind: Kind) -> None:
    with decoding.open_picture(kind.encode(kind.draw((96, 64), 0)), Settings(memory_limit_mb=4096)) as source:
        assert (source.facts.width, source.facts.height) == (96, 64)
        expected = {"WebP": "WEBP", "HEIC": "HEIF"}
        family = kind.name.partition(",")[0]
        assert source.facts.format == expected.get(family, family)
