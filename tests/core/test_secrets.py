"""Logs give nothing away: the real process with known secrets, each part failing, every byte it wrote."""

import base64
import io
import os
import sys
import threading
import uuid
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests
from google.cloud.storage import Client
from PIL import Image

from dropcap.domain.upload import Upload
from infra import ROOT
from infra.local import StackError
from infra.local.process import Process, free_port
from tests.support.app import EVENT, PICTURE, event_of
from tests.support.children import FUNCTIONS, python_path
from tests.support.issuer import Issuer

KEY, SESSION, SIGNATURE = "AIzaSECRETkey7391", "SECRETsession7391", "SECRETsignature7391"
SIDE = 1800  # px: noise of this size makes a PNG of more than 8 MB, which is published in a session
NOWHERE = "127.0.0.1:9"
# What is wrong, and what then becomes of a picture: by event, by HTTP.
FAULTS: dict[str, tuple[dict[str, str], tuple[int, int]]] = {
    "nothing": ({}, (200, 200)),
    "Gemini quotes the key": ({"GEMINI_MODEL": "fault-suspended"}, (200, 200)),
    "and so to google-generativeai": (
        {"GEMINI_MODEL": "fault-suspended", "GEMINI_SDK": "google-generativeai"},
        (200, 200),
    ),
    "no Gemini": ({"GEMINI_ENDPOINT": f"http://{NOWHERE}", "GEMINI_ATTEMPTS": "1"}, (200, 200)),
    "no database": ({"DATABASE_URL": "postgresql://ana:{password}@" + NOWHERE + "/x"}, (500, 503)),
    "a wrong password": ({"DATABASE_URL": "{database}", "PASSWORD": "not-{password}"}, (500, 503)),
    "no storage": ({"STORAGE_EMULATOR_HOST": f"http://{NOWHERE}", "STORAGE_TIMEOUT_S": "0.5"}, (500, 200)),
    "a session is refused": (
        {"STORAGE_EMULATOR_HOST": "{sessions}", "FORMAT": "png", "SIZES": f"{SIDE}"},
        (500, 200),
    ),
    "no buckets": ({"PICTURES_BUCKET": "not-there", "QUARANTINE_BUCKET": "nor-there"}, (500, 200)),
    "no model": ({"MODEL_FOLDER": "/nowhere"}, (500, 503)),
    "no keys": ({"AUTH_CERTS_URL": f"https://{NOWHERE}/"}, (200, 503)),
    "no address": ({"DATABASE_URL": "postgresql://ana:{password}@host:port/x"}, (0, 0)),
}


class Sessions(BaseHTTPRequestHandler):
    """A storage server with one picture, whose sessions for uploads can't be used."""

    picture = b""

    def do_GET(self) -> None:
        self._answer(200, self.picture)

    def do_POST(self) -> None:
        query = f"upload_id={SESSION}&X-Goog-Signature={SIGNATURE}"
        self._answer(200, b"{}", f"http://{self.headers['Host']}/upload?{query}")

    def do_PUT(self) -> None:
        self._answer(403, b"{}")

    def _answer(self, status: int, body: bytes, location: str = "") -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_response(status)
        self.send_header("Location", location)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Silence."""


@pytest.fixture(scope="module")
def sessions() -> Iterator[str]:
    file = io.BytesIO()
    Image.frombytes("RGB", (SIDE, SIDE), os.urandom(SIDE * SIDE * 3)).save(file, "PNG", compress_level=1)
    handler = type("Handler", (Sessions,), {"picture": file.getvalue()})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@pytest.fixture(scope="module")
def issuer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Issuer]:
    with Issuer(tmp_path_factory.mktemp("issuer")) as server:
        yield server


@pytest.fixture
def uploads(storage_url: str) -> dict[str, Upload]:
    """A good picture, a broken one and none, in a bucket; and the settings of all buckets."""
    os.environ.update(STORAGE_EMULATOR_HOST=storage_url, GOOGLE_CLOUD_PROJECT="dropcap")
    client, suffix = Client(), uuid.uuid4().hex[:12]
    for word in ("uploads", "pictures", "quarantine"):
        os.environ[f"{word.upper()}_BUCKET"] = client.create_bucket(f"{word}-{suffix}").name
    uploaded = {}
    for kind, data in {"good": PICTURE, "broken": PICTURE[:3000], "none": b"Dear diary"}.items():
        blob = client.bucket(f"uploads-{suffix}").blob(f"ana/{kind}.jpg")
        blob.upload_from_string(data)
        uploaded[kind] = Upload(f"uploads-{suffix}", blob.name, int(blob.generation), len(data))
    return uploaded


@pytest.mark.parametrize("fault", FAULTS)
def test_no_key_password_token_signed_address_or_picture_is_logged(
    fault: str,
    issuer: Issuer,
    sessions: str,
    gemini_url: str,
    database_url: str,
    uploads: dict[str, Upload],
    tmp_path: Path,
) -> None:
    faulty, expected = FAULTS[fault]
    password, token, port = urlsplit(database_url).password or "", issuer.token(), free_port()
    assert len(password) > 8
    settings = {"DATABASE_URL": database_url, "GEMINI_API_KEY": KEY, "GEMINI_ENDPOINT": gemini_url}
    settings |= issuer.settings | {"MEMORY_LIMIT_MB": "4096"}
    settings["PYTHONPATH"] = python_path(FUNCTIONS)
    for name, value in faulty.items():
        settings[name] = value.format(database=database_url, password=password, sessions=sessions)
    if wrong := settings.pop("PASSWORD", ""):
        settings["DATABASE_URL"] = database_url.replace(f":{password}@", f":{wrong}@")
    command = [sys.executable, "-m", "infra.local.functions", "--port", str(port)]
    url, answers = f"http://127.0.0.1:{port}", {"good": 0, "posted": 0}
    with (
        Process("functions", command, tmp_path / "log", os.environ | settings, ROOT) as process,
        suppress(StackError),  # it did not start, as it should not
    ):
        process.wait_until_answers(f"{url}/get_progress_stats")
        for kind, upload in uploads.items():
            answers[kind] = requests.post(url, event_of(upload), headers=EVENT, timeout=60).status_code
        for shown in (f"Bearer {token}x", f"Bearer {token}.{token}", f"Basic {token}", f"Bearer {token}"):
            for kind, data in {"broken": PICTURE[:3000], "posted": PICTURE}.items():
                header = {"Authorization": shown}
                answers[kind] = requests.post(f"{url}/analyze", data, headers=header, timeout=60).status_code
    assert (answers["good"], answers["posted"]) == expected
    logged = (tmp_path / "log").read_bytes()
    assert logged
    for secret in (KEY, password, SESSION, SIGNATURE, "X-Goog-Signature=", *token.split(".")):
        assert secret.encode() not in logged
    for at in range(0, len(PICTURE) - 24, 24):
        piece = PICTURE[at : at + 24]
        for form in (piece, repr(piece)[2:-1].encode(), base64.b64encode(piece), piece.hex().encode()):
            assert form not in logged
