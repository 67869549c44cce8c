"""The gallery loads no model and stays small."""

import base64
import os
import re
from pathlib import Path

import requests

from infra.local.process import Process, framework, free_port
from tests.gallery.test_uploads import PAGE, drop
from tests.memory.peak import peak_mb
from tests.support.app import EXPECTED, MAIN, ROOT, SAMPLES, Start

MOST_MB = 150
HEAVY = ("onnxruntime", "google.generativeai", "google.genai", "google.ai", "numpy", "pyvips")


def test_it_serves_in_150_mb_and_loads_no_model(start: Start, tmp_path: Path) -> None:
    app = start()
    upload = drop(app)
    app.deliver(upload)
    port = free_port()
    url = f"http://127.0.0.1:{port}/gallery"
    log = tmp_path / "gallery.log"
    environment = os.environ | {"PYTHONPROFILEIMPORTTIME": "1"}  # each import is a line of the log
    with Process("gallery", framework(Path(MAIN), port, "gallery"), log, environment, ROOT) as server:
        server.wait_until_answers(f"{url}/?user=ana")
        pages = ("/", "/status", "/progress", f"/picture/{upload.id}", f"/image/{upload.id}/1600")
        for path in (*pages, "/export/csv", "/export/jsonl", "/export/zip"):
            query = {"user": "ana", "upload": f"{upload.generation}:{upload.name}"}
            answer = requests.get(url + path, query, timeout=20)
            assert answer.status_code == 200, answer.text
        for name in EXPECTED:
            data = (SAMPLES / name).read_bytes()
            facts = {"name": name, "size": len(data), "head": base64.b64encode(data[:65_536]).decode()}
            answer = requests.post(f"{url}/uploads?user=ana", json=facts, headers=PAGE, timeout=20)
            assert answer.status_code == 201, answer.text
        workers = Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split()
        assert max(peak_mb(pid) for pid in workers) < MOST_MB
    loaded = set(re.findall(r"^import time:.*\| +(\S+)$", log.read_text(), re.MULTILINE))
    assert "PIL.Image" in loaded
    assert [name for name in sorted(loaded) if name.startswith(HEAVY)] == []
