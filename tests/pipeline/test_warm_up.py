"""An instance loads what its first picture needs while no request waits for it, and never fails by that."""

import json
import os
import subprocess
import sys
import threading
import time
from http import HTTPStatus
from pathlib import Path

import psutil
import pytest

from dropcap.captioning import blip
from dropcap.sandbox import client
from infra.local.process import Process, framework, free_port
from tests.support.app import MAIN, ROOT, Start, rows, small_png
from tests.support.instances import Instance


@pytest.mark.parametrize(("target", "warm"), [("on_upload", True), ("gallery", False)])
def test_an_instance_that_captions_starts_its_sandbox_before_a_picture_comes(
    start: Start, tmp_path: Path, target: str, warm: bool
) -> None:
    start()
    port = free_port()
    with Process(target, framework(Path(MAIN), port, target), tmp_path / "log", os.environ, ROOT) as function:
        function.wait_until_answers(f"http://127.0.0.1:{port}/gallery/")
        ends, sandbox = time.monotonic() + (30 if warm else 1), False
        while not sandbox and time.monotonic() < ends:
            family = psutil.Process(function.pid).children(recursive=True)
            sandbox = any("fork_server" in " ".join(each.cmdline()) for each in family)
    assert sandbox == warm


LOADED = """
import json, sys
from dropcap import services

services.start().warm_up()
print(json.dumps([name for name in ("onnxruntime", "google.genai", "psutil") if name in sys.modules]))
"""


@pytest.mark.parametrize(
    ("target", "key", "loaded"),
    [
        ("on_upload", "", ["onnxruntime"]),
        ("analyze", "key", ["onnxruntime", "google.genai"]),
        ("sweep", "key", []),
    ],
)
def test_an_instance_loads_the_model_and_the_package_for_gemini_if_it_is_to_use_them(
    start: Start, target: str, key: str, loaded: list[str]
) -> None:
    start()
    environment = os.environ | {"FUNCTION_TARGET": target, "GEMINI_API_KEY": key}
    command, folder = [sys.executable, "-W", "ignore", "-c", LOADED], ROOT / "functions"
    printed = subprocess.run(command, cwd=folder, env=environment, capture_output=True, check=True).stdout
    assert json.loads(printed.splitlines()[-1]) == loaded


def test_an_instance_without_a_model_starts_and_its_pictures_do_without_a_caption(
    start: Start, tmp_path: Path
) -> None:
    app = start(BLIP="optional", MODEL_FOLDER=str(tmp_path))
    upload, port = app.upload("ana/a.png", small_png()), free_port()
    log = tmp_path / "log"
    with Process("functions", framework(Path(MAIN), port), log, os.environ, ROOT) as function:
        function.wait_until_answers(f"http://127.0.0.1:{port}")
        assert Instance(f"http://127.0.0.1:{port}", log, log).deliver(upload) == HTTPStatus.OK
    assert rows("SELECT result->'sources'->'blip'->>'answered' FROM analyses") == [["false"]]


def test_no_picture_is_decoded_while_the_model_still_takes_memory(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = start(GEMINI_API_KEY="")
    order: list[str] = []
    loads, real, opens = threading.Event(), blip.load, client.open_picture

    def slow(folder: Path, threads: int) -> blip.Captioner:
        loads.set()
        time.sleep(0.3)
        captioner = real(folder, threads)
        order.append("loaded")
        return captioner

    def opened(*words: object) -> client.Picture:
        order.append("decoded")
        return opens(*words)  # type: ignore[arg-type]

    monkeypatch.setattr(blip, "load", slow)
    monkeypatch.setattr(client, "open_picture", opened)
    monkeypatch.setenv("FUNCTION_TARGET", "on_upload")
    warming = threading.Thread(target=app.services.warm_up)
    warming.start()
    assert loads.wait(30)
    assert app.deliver(app.upload("ana/a.png", small_png())) == HTTPStatus.OK
    warming.join()
    assert order[:2] == ["loaded", "decoded"]
