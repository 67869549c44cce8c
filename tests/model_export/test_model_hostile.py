"""A ready model from anywhere: cards that lie, files that do not belong together, servers that misbehave."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dropcap.captioning.blip import Captioner, Card, ModelError
from model_export.install import download
from model_export.install.model_folder import InstallError, archive, install, swap
from tests.support.app import ROOT
from tests.support.models.installing import unchanged

SHIPPED = ROOT / "functions" / "model"
CARD: dict[str, Any] = json.loads((SHIPPED / "model.json").read_text())
PIN = "0" * 64


pytestmark = pytest.mark.usefixtures("downloads")


@pytest.fixture
def model(tmp_path: Path) -> Callable[..., Path]:
    """Make the model that ships with another card, and with other files of which the card knows."""

    def make(card: dict[str, Any] | bytes | None = None, **files: bytes) -> Path:
        folder = tmp_path / "source"
        shutil.copytree(SHIPPED, folder)
        listed = dict(CARD["files"])
        for name, data in files.items():
            (folder / name.replace("_", ".")).write_bytes(data)
            listed[name.replace("_", ".")] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        card_bytes = (
            card if isinstance(card, bytes) else json.dumps(CARD | {"files": listed} | (card or {})).encode()
        )
        (folder / "model.json").write_bytes(card_bytes)
        return folder

    return make


CARDS: dict[str, dict[str, Any] | bytes] = {
    "a name that writes on terminals": {"name": "\x1b[2J"},
    "a name of two lines": {"name": "a\nb"},
    "no name": {"name": ""},
    "a name without end": {"name": "x" * 900_000},
    "a revision that writes on terminals": {"revision": "\x1b]0;x\x07"},
    "a list of files": {"files": []},
    "no files": {"files": None},
    "an infinite file": {"files": {"vocab.txt": {"bytes": float("inf"), "sha256": ""}}},
    "nesting": b"[" * 400_000,
    "bytes that are no text": b"\xff" * 400_000,
    "no side": {"image": CARD["image"] | {"size": 0}},
    "a side that takes 3 TB": {"image": CARD["image"] | {"size": 500_000}},
    "words as colours": {"image": CARD["image"] | {"mean": ["a", "b", "c"]}},
    "four colours": {"image": CARD["image"] | {"mean": [1, 2, 3, 4]}},
    "a division by zero": {"image": CARD["image"] | {"std": [0, 0, 0]}},
    "a token that is no number of 64 bits": {"tokens": CARD["tokens"] | {"bos": 10**40}},
    "no room for a caption": {"max_length": 0},
    "a list as confidence": {"confidence": []},
    "a threshold that rejects nothing": {"confidence": {"threshold": "nan"}},
    "a demonstration that knows nothing": {"knows": {"things": []}},
    "a demonstration that does not say what it knows": {"knows": None},
}


@pytest.mark.parametrize("kind", CARDS)
def test_a_card_that_can_not_be_is_one_short_line_for_the_function_and_for_make_model(
    model: Callable[..., Path], old: Path, kind: str
) -> None:
    folder = model(CARDS[kind])
    with pytest.raises(ModelError) as at_start:
        Card.read(folder)
    with pytest.raises(InstallError, match=r"^the model of .* can't be used \(.*: take another$") as refused:
        install(str(folder), old)
    for line in (str(at_start.value), str(refused.value)):
        assert line.isprintable()
        assert len(line) < 1000
    assert unchanged(old)


FILES: dict[str, tuple[dict[str, Any] | None, dict[str, bytes]]] = {
    "a vocabulary that is no text": (None, {"vocab_txt": b"\xff\xfe\x00" * 100}),
    "a vocabulary that its decoder has no room for": (None, {"vocab_txt": b"a\n" * 40_000}),
    "a first token that its decoder has not": ({"tokens": CARD["tokens"] | {"bos": 9_999_999}}, {}),
    "a last token that its decoder has not": ({"tokens": CARD["tokens"] | {"eos": 30_524}}, {}),
    "a graph that is none": (None, {"encoder_onnx": b"junk"}),
    "an encoder as decoder": (None, {"decoder_onnx": (SHIPPED / "encoder.onnx").read_bytes()}),
    "a decoder as encoder": (None, {"encoder_onnx": (SHIPPED / "decoder.onnx").read_bytes()}),
    "a side that its encoder does not take": ({"image": CARD["image"] | {"size": 64}}, {}),
    "an empty table of distances": (None, {"known_data": b""}),
    "a table of distances of another shape": (None, {"known_data": b"abcde"}),
    "a table of distances of another width": (None, {"known_data": bytes(4 * 10 * 9)}),
}


@pytest.mark.parametrize("kind", FILES)
def test_files_that_do_not_belong_together_are_not_installed(
    model: Callable[..., Path], old: Path, kind: str
) -> None:
    card, files = FILES[kind]
    folder = model(card, **files)
    with pytest.raises(
        InstallError, match=r"^the model of .*/source can't be used \(.*: take another$"
    ) as refused:
        install(str(folder), old)
    assert str(refused.value).isprintable()
    assert "/.model-" not in str(refused.value)  # a folder that is gone by then
    assert unchanged(old)


@pytest.mark.parametrize("kind", list(FILES)[:6])
def test_a_model_that_can_not_be_loaded_is_an_error_of_the_model_for_the_function(
    model: Callable[..., Path], kind: str
) -> None:
    card, files = FILES[kind]
    with pytest.raises(ModelError):
        Captioner(model(card, **files))


def test_an_archive_lies_where_it_should_whatever_its_model_is_called(
    model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("model_export.install.model_folder.ROOT", tmp_path / "a" / "b")
    path, _ = archive(model({"name": "../up", "revision": "../../evil"}))
    assert path.parent == tmp_path / "a" / "b" / "build"


def test_weights_without_their_licence_are_not_published(tmp_path: Path, model: Callable[..., Path]) -> None:
    files = {name: file for name, file in CARD["files"].items() if name != "LICENSE"}
    with pytest.raises(InstallError, match=r"has no LICENSE, which belongs to its weights"):
        archive(model({"files": files}), tmp_path / "made.tar")
    assert not (tmp_path / "made.tar").exists()


def test_no_model_can_not_be_archived_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"model\.json is missing"):
        archive(tmp_path, tmp_path / "made.tar")
    (tmp_path / "folder").mkdir()
    with pytest.raises(InstallError, match=r"folder could not be written: "):
        archive(SHIPPED, tmp_path / "folder")


def test_a_pin_of_a_folder_is_not_passed_over(old: Path) -> None:
    with pytest.raises(InstallError, match=r"a SHA-256 is of an archive, and .* is a folder"):
        install(f"{SHIPPED}#sha256={PIN}", old)
    assert unchanged(old)


@pytest.mark.parametrize(
    "source", ["x" * 5000, "https://[::1", "https://example.com/ü.tar", "https://a b/c", ""]
)
def test_a_source_that_can_not_be_is_one_line(old: Path, source: str) -> None:
    with pytest.raises(InstallError):
        install(source, old)
    assert unchanged(old)


def test_a_place_that_can_not_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(InstallError, match=r"file/model could not be written: .*It is left as it was"):
        install(str(SHIPPED), tmp_path / "file" / "model")


@pytest.mark.parametrize("stop", [KeyboardInterrupt, OSError])
def test_ctrl_c_between_the_two_renames_leaves_the_old_model(
    old: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: type[BaseException]
) -> None:
    new = tmp_path / "work" / "new"
    new.mkdir(parents=True)
    rename = os.rename

    def interrupted(source: Path, target: Path) -> None:
        if source == new:
            raise stop
        rename(source, target)

    monkeypatch.setattr(os, "rename", interrupted)
    with pytest.raises(stop):
        swap(new, old)
    assert unchanged(old)


@pytest.mark.parametrize("type", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.GNUTYPE_SPARSE])
def test_what_is_no_regular_file_is_refused_even_with_the_right_bytes(
    old: Path, tmp_path: Path, type: bytes
) -> None:
    with tarfile.open(tmp_path / "odd.tar", "w", format=tarfile.USTAR_FORMAT) as packed:
        for name in ("model.json", *sorted(CARD["files"])):
            member = tarfile.TarInfo(name)
            member.size = (SHIPPED / name).stat().st_size
            member.type = type if name == "vocab.txt" else tarfile.REGTYPE
            with (SHIPPED / name).open("rb") as file:
                packed.addfile(member, file)
    with pytest.raises(InstallError, match=r"has 'vocab\.txt', which is no regular file"):
        install(str(tmp_path / "odd.tar"), old)
    assert unchanged(old)


def test_what_the_disk_has_no_room_for_is_not_copied(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(InstallError, match=r"^the disk has 0\.0 GB free, and 0\.0 are needed$"):
        install(str(SHIPPED), old)
    assert unchanged(old)


def tar(folder: Path) -> bytes:
    return archive(SHIPPED, folder / "model.tar")[0].read_bytes()


@contextmanager
def serving(answer: Callable[[BaseHTTPRequestHandler], None]) -> Iterator[str]:
    """The address of a server that answers every GET like this."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer(self)

        def log_message(self, format: str, *args: object) -> None:
            """Nothing: a test's output is its own."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/model.tar"
        server.shutdown()


def test_a_length_that_is_no_number_is_passed_over(old: Path, tmp_path: Path) -> None:
    body = tar(tmp_path)

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "many")
        handler.end_headers()
        handler.wfile.write(body)

    with serving(answer) as address:
        assert install(address, old).revision == CARD["revision"]


def test_what_the_disk_has_no_room_for_is_not_downloaded(old: Path, downloads: Path) -> None:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(10**18))
        handler.end_headers()

    with (
        serving(answer) as address,
        pytest.raises(InstallError, match=r"GB free, and 1000000000\.0 are needed"),
    ):
        install(address, old)
    assert unchanged(old)
    assert not list(downloads.iterdir())


def test_a_page_in_place_of_the_archive_is_told_with_its_address(old: Path) -> None:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        handler.wfile.write(b"<html>Sign in to this network</html>")

    with serving(answer) as address:
        with pytest.raises(InstallError) as refused:
            install(address, old)
        assert str(refused.value).startswith(f"{address} is cut, or no archive of make model-archive")
        with pytest.raises(InstallError, match=f"^{address} is not the file whose SHA-256 was given"):
            install(f"{address}#sha256={PIN}", old)
    assert unchanged(old)


def test_no_page_of_the_network_leads_to_a_server_of_this_machine() -> None:
    """CWE-918. A redirect from one to another server here stays allowed, as tests and tunnels use it."""
    from urllib.request import Request

    def redirect(source: str, target: str) -> None:
        from email.message import Message
        from io import BytesIO

        headers: Any = Message()
        download._Redirects().redirect_request(Request(source), BytesIO(), 302, "", headers, target)  # noqa: S310

    with pytest.raises(InstallError, match="is not encrypted"):
        redirect("https://example.com/model.tar", "http://127.0.0.1:9000/admin")
    redirect("http://127.0.0.1:8000/model.tar", "http://127.0.0.1:9000/model.tar")
    redirect("https://example.com/model.tar", "https://cdn.example.com/model.tar")


def test_two_downloads_of_one_archive_do_not_write_into_each_other(
    old: Path, tmp_path: Path, downloads: Path
) -> None:
    body = tar(tmp_path)
    halfway, go_on = threading.Event(), threading.Event()

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body[:1_000_000])
        halfway.set()
        go_on.wait(60)
        handler.wfile.write(body[1_000_000:])

    with serving(answer) as address:
        first = threading.Thread(target=install, args=(address, old))
        first.start()
        assert halfway.wait(60)
        while not list(downloads.glob("*")) or not next(downloads.iterdir()).stat().st_size:
            threading.Event().wait(0.01)  # until it has the file
        with pytest.raises(InstallError, match="is being downloaded by another make model: wait for it"):
            install(address, tmp_path / "other" / "model")
        go_on.set()
        first.join(60)
    assert Card.read(old).revision == CARD["revision"]


@pytest.mark.parametrize("signal", ["INT", "TERM", "HUP"])
def test_a_stopped_download_leaves_the_old_model_and_no_folder(
    old: Path, tmp_path: Path, signal: str
) -> None:
    """Ctrl-C, kill, and a terminal that is closed."""
    reached, go_on = threading.Event(), threading.Event()

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        handler.wfile.write(b"x" * 1000)
        reached.set()
        go_on.wait(60)

    code = (
        "import runpy, signal; from pathlib import Path; from model_export.install import download\n"
        # As at a terminal: what runs in the background of a shell, or under nohup, ignores these.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "signal.signal(signal.SIGHUP, signal.SIG_DFL)\n"
        f"download.DOWNLOADS = Path({str(tmp_path / 'downloads')!r})\n"
        "runpy.run_module('model_export', run_name='__main__')"
    )
    with serving(answer) as address:
        process = subprocess.Popen(
            [sys.executable, "-c", code, "install", address, "--out", str(old)],
            cwd=ROOT,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert reached.wait(60)
        subprocess.run(["/bin/kill", f"-{signal}", str(process.pid)], check=True)
        stderr = process.communicate(timeout=60)[1]
        go_on.set()
    assert process.returncode == 2
    assert stderr.splitlines()[-1] == "stopped"
    assert "Traceback" not in stderr
    assert unchanged(old)
