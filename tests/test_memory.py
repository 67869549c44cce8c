"""Memory is a budget: watched, given back, and enough within the 512 MiB that the kernel enforces."""

import gc
import json
import os
import shlex
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http import HTTPStatus
from pathlib import Path

import pytest
import requests
from PIL import Image

from dropcap import memory
from infra.local.ports import free_port
from infra.local.process import Process
from tests.app import EVENT, EXPECTED, ROOT, SAMPLES, Start, event_of, rows, small_png

LIMIT_MIB = 512


def rasters() -> list[Image.Image]:
    """The pictures in this process; palettes, the stand-in's say, are no pictures."""
    gc.collect()
    return [
        each for each in gc.get_objects() if isinstance(each, Image.Image) and each.height > 1 < each.width
    ]


def test_every_copy_of_a_picture_is_freed_when_it_is_done(start: Start) -> None:
    app = start()
    before = {id(each) for each in rasters()}
    assert app.deliver(app.upload("ana/a.png", small_png())) == HTTPStatus.OK
    assert [each for each in rasters() if id(each) not in before] == []


def test_nothing_of_a_picture_is_left_in_the_instances_files(start: Start, tmp_path: Path) -> None:
    app = start(TMPDIR=str(tmp_path))
    assert app.deliver(app.upload("ana/a.png", small_png())) == HTTPStatus.OK
    assert app.analyze(data=small_png()).status_code == HTTPStatus.OK
    assert list(tmp_path.iterdir()) == []


def test_what_is_left_is_the_limit_less_what_is_used() -> None:
    limit = memory.limit_mb(LIMIT_MIB)
    assert limit <= LIMIT_MIB * 1.048576
    assert memory.left_mb(LIMIT_MIB) == pytest.approx(limit - memory.rss_mb(), abs=5)
    assert memory.left_mb(1) == 0


@contextmanager
def kernel_limit(mib: int) -> Iterator[Path]:
    """A memory cgroup (v1 or v2) of this size without swap; skips where this machine allows none."""
    used = memory.cgroup_files()
    if used is None or os.geteuid() != 0:
        pytest.skip("this machine lets us make no memory cgroup")
    group = used[0].parent / f"dropcap-test-{os.getpid()}"
    names = ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes")
    limits = names if used[0].name == "memory.usage_in_bytes" else ("memory.max",)
    try:
        group.mkdir()
        for name in limits:
            (group / name).write_text(f"{mib}M" if len(limits) == 2 else str(mib * 1048576))
        if len(limits) == 1:
            (group / "memory.swap.max").write_text("0")
    except OSError as refused:
        if group.exists():
            group.rmdir()
        pytest.skip(f"this machine lets us make no memory cgroup: {refused}")
    try:
        yield group
    finally:
        group.rmdir()


def kills(group: Path) -> int:
    events = next(group / name for name in ("memory.oom_control", "memory.events") if (group / name).exists())
    facts = dict(line.split() for line in events.read_text().splitlines())
    return int(facts["oom_kill"])


def test_every_sample_is_captioned_under_512_mib_that_the_kernel_enforces(
    start: Start, tmp_path: Path
) -> None:
    app = start()  # gives buckets, database and Gemini; the pictures go to a process of its own
    port = free_port()
    with ExitStack() as running:
        group = running.enter_context(kernel_limit(LIMIT_MIB))
        serve = shlex.join([sys.executable, "-m", "infra.local.functions", "--port", str(port)])
        command = ["sh", "-c", f"echo $$ > {group}/cgroup.procs; exec {serve}"]
        environment = os.environ | {"PYTHONPATH": f"{ROOT / 'functions'}{os.pathsep}{ROOT}", "THREADS": "1"}
        functions = running.enter_context(Process("functions", command, tmp_path / "log", environment, ROOT))
        functions.wait_until_answers(f"http://127.0.0.1:{port}/get_progress_stats")
        for name in EXPECTED:
            upload = app.upload(f"ana/{name}", (SAMPLES / name).read_bytes())
            answer = requests.post(f"http://127.0.0.1:{port}/", event_of(upload), headers=EVENT, timeout=60)
            assert answer.status_code == HTTPStatus.OK, (tmp_path / "log").read_text()[-2000:]
        functions.check()
        assert kills(group) == 0
    captions = {
        str(name).removeprefix("ana/"): caption
        for name, caption in rows("SELECT name, caption FROM analyses JOIN uploads USING (id)")
    }
    assert captions == EXPECTED
    lines = (tmp_path / "log").read_text().splitlines()
    logged = [json.loads(line) for line in lines if line.startswith("{")]
    measured = [line for line in logged if line.get("container_mb")]
    assert measured
    assert max(line["container_mb"] for line in measured) <= LIMIT_MIB * 1.048576
