"""Memory is a budget: watched, given back, and enough within the 512 MiB that the kernel enforces."""

import gc
import json
import os
import sys
from contextlib import ExitStack
from http import HTTPStatus
from pathlib import Path

import pytest
import requests
from PIL import Image

from dropcap.runtime import memory
from infra.local.process import Process, free_port
from tests.memory.limit import kernel_limit
from tests.support.app import EVENT, EXPECTED, ROOT, SAMPLES, Start, event_of, rows, small_png
from tests.support.children import FUNCTIONS, python_path

LIMIT_MIB = 512
LARGE_MIB = 32_768  # this process may hold PyTorch as well


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
    limit = memory.limit_mb(LARGE_MIB)
    assert limit <= LARGE_MIB * 1.048576
    assert memory.left_mb(LARGE_MIB) == pytest.approx(limit - memory.rss_mb(), abs=5)
    assert memory.left_mb(1) == 0


@pytest.mark.usefixtures("memory_limit")
def test_every_sample_is_captioned_under_512_mib_that_the_kernel_enforces(
    start: Start, tmp_path: Path
) -> None:
    app = start()  # gives buckets, database and Gemini; the pictures go to a process of its own
    port = free_port()
    with ExitStack() as running:
        limit = running.enter_context(kernel_limit(LIMIT_MIB))
        command = limit.command(sys.executable, "-m", "infra.local.functions", "--port", str(port))
        environment = os.environ | {"PYTHONPATH": python_path(FUNCTIONS, ROOT), "THREADS": "1"}
        functions = running.enter_context(Process("functions", command, tmp_path / "log", environment, ROOT))
        functions.wait_until_answers(f"http://127.0.0.1:{port}/get_progress_stats")
        for name in EXPECTED:
            upload = app.upload(f"ana/{name}", (SAMPLES / name).read_bytes())
            answer = requests.post(f"http://127.0.0.1:{port}/", event_of(upload), headers=EVENT, timeout=60)
            assert answer.status_code == HTTPStatus.OK, (tmp_path / "log").read_text()[-2000:]
        functions.check()
        assert limit.usage(functions.pid).kills == 0
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
