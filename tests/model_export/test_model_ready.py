"""A ready model is installed from a folder, an archive or an address, without PyTorch; a bad one is not."""

import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from PIL import Image

from dropcap.captioning.blip import Captioner, ModelError
from model_export.install import download
from model_export.install.model_folder import InstallError, archive, install
from tests.support.app import ROOT
from tests.support.models.checkpoints import needs_pytorch
from tests.support.models.installing import unchanged

SHIPPED = ROOT / "functions" / "model"
CARD = json.loads((SHIPPED / "model.json").read_text())
FILES = ["model.json", *sorted(CARD["files"])]


pytestmark = pytest.mark.usefixtures("downloads")


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return archive(SHIPPED, tmp_path_factory.mktemp("packed") / "model.tar")[0]


def test_the_same_model_makes_the_same_archive_without_the_files_that_its_card_does_not_list(
    packed: Path, tmp_path: Path
) -> None:
    twin = Path(shutil.copytree(SHIPPED, tmp_path / "twin", copy_function=shutil.copyfile))
    (twin / "notes.txt").write_text("mine")
    os.utime(twin / "model.json", (1, 1))
    (twin / "model.json").chmod(0o600)
    path, sha256 = archive(twin, tmp_path / "twin.tar")
    assert path.read_bytes() == packed.read_bytes()
    assert sha256 == hashlib.sha256(packed.read_bytes()).hexdigest()
    with tarfile.open(packed) as opened:
        assert opened.getnames() == FILES
        assert {(m.mtime, m.uid, m.gid, m.uname, m.gname, m.mode) for m in opened} == {
            (0, 0, 0, "", "", 0o644)
        }


def test_a_model_that_is_not_whole_is_not_packed(tmp_path: Path) -> None:
    cut = Path(shutil.copytree(SHIPPED, tmp_path / "cut"))
    (cut / "vocab.txt").write_text("cut")
    with pytest.raises(ModelError, match=r"vocab\.txt has 3 bytes"):
        archive(cut, tmp_path / "cut.tar")
    assert not list(tmp_path.glob("*.tar*"))


@pytest.mark.parametrize("kind", ["folder", "archive"])
def test_a_ready_model_takes_the_place_of_the_old_one(
    packed: Path, old: Path, tmp_path: Path, kind: str
) -> None:
    source = Path(shutil.copytree(SHIPPED, tmp_path / "source")) if kind == "folder" else packed
    if kind == "folder":
        (source / "notes.txt").write_text("mine")
    assert install(str(source), old).revision == CARD["revision"]
    assert contents(old) == contents(SHIPPED)
    assert list(old.parent.iterdir()) == [old]
    assert Captioner(old).caption(Image.new("RGB", (60, 40), "red")).model == CARD["name"]


def test_it_takes_no_pytorch(packed: Path, old: Path) -> None:
    blocked = ["torch", "transformers", "optimum", "huggingface_hub", "onnx"]
    code = (
        f"import sys; sys.modules |= dict.fromkeys({blocked}); from model_export.__main__ import main; "
        "sys.exit(main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", code, "install", str(packed), "--out", str(old)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == f"{old}: dropcap-scenes {CARD['revision']}, {CARD['bytes'] / 1e6:.1f} MB\n"


def member(name: str, data: bytes = b"", **fields: object) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for field, value in fields.items():
        setattr(info, field, value)
    return info, data


def tar(*members: tuple[tarfile.TarInfo, bytes], format: int = tarfile.USTAR_FORMAT) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=format) as packed:
        for info, data in members:
            packed.addfile(info, io.BytesIO(data) if data else None)
    return made.getvalue()


def card(**files: int) -> tuple[tarfile.TarInfo, bytes]:
    """A card that lists these files."""
    listed = {name: {"bytes": size, "sha256": "0" * 64} for name, size in files.items()}
    return member("model.json", json.dumps(CARD | {"files": listed}).encode())


def real(name: str, change: Callable[[bytes], bytes] = lambda data: data) -> tuple[tarfile.TarInfo, bytes]:
    return member(name, change((SHIPPED / name).read_bytes()))


HOSTILE = {
    "a path out of the folder": tar(real("model.json"), member("../evil", b"x")),
    "an absolute path": tar(real("model.json"), member("/tmp/evil", b"x")),  # noqa: S108
    "a link": tar(real("model.json"), member("vocab.txt", type=tarfile.SYMTYPE, linkname="/etc/passwd")),
    "a hard link": tar(real("model.json"), member("vocab.txt", type=tarfile.LNKTYPE, linkname="model.json")),
    "a device": tar(real("model.json"), member("vocab.txt", type=tarfile.CHRTYPE, devmajor=1, devminor=5)),
    "a pipe": tar(real("model.json"), member("vocab.txt", type=tarfile.FIFOTYPE)),
    "a folder": tar(real("model.json"), member("vocab.txt", type=tarfile.DIRTYPE)),
    "a sparse file": tar(real("model.json"), member("vocab.txt", type=tarfile.GNUTYPE_SPARSE)),
    "a header of another format": tar(
        real("model.json"), member("a" * 120, b"x", pax_headers={"size": "9"}), format=tarfile.PAX_FORMAT
    ),
    "a file that is not listed": tar(real("model.json"), *map(real, FILES[1:-1]), member("evil.py", b"x")),
    "a file twice": tar(real("model.json"), real("vocab.txt"), real("vocab.txt")),
    "a file of another size": tar(real("model.json"), real("vocab.txt", lambda data: data[:-1])),
    "a file of another content": tar(
        real("model.json"), *map(real, FILES[1:-1]), real(FILES[-1], lambda data: data[:-1] + b"x")
    ),
    "a file that is missing": tar(real("model.json"), *map(real, FILES[1:-1])),
    "a card that is not the first": tar(*map(real, FILES[1:]), real("model.json")),
    "no card": tar(member("a", b"x")),
    "a card that is none": tar(member("model.json", b"{")),
    "a card that lists a path": tar(card(**{"../evil": 1}), member("../evil", b"x")),
    "a card that lists itself": tar(card(**{"model.json": 1}), member("model.json", b"x")),
    "a card that lists too much": tar(card(**{"vocab.txt": 5_000_000_000})),
    "a card that lists a negative size": tar(card(**{"vocab.txt": -1, "decoder.data": 2})),
    "too large a card": tar(member("model.json", b" " * 2_000_000)),
    "a cut archive": tar(real("model.json"), *map(real, FILES[1:]))[:-20_000],
    "no archive": b"<html>Not found</html>",
    "nothing": b"",
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_archive_is_one_line_and_changes_nothing(old: Path, tmp_path: Path, kind: str) -> None:
    (tmp_path / "hostile.tar").write_bytes(HOSTILE[kind])
    with pytest.raises((InstallError, ModelError)) as refused:
        install(str(tmp_path / "hostile.tar"), old)
    assert "\n" not in str(refused.value)
    assert unchanged(old)
    assert not list(tmp_path.rglob("evil*"))
    assert not Path("/tmp/evil").exists()  # noqa: S108


class Server(ThreadingHTTPServer):
    """One file, at /model.tar; /elsewhere redirects to another host, /here to the file."""

    body = b""
    cut = False
    asked: list[str]

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        asked = self.headers.get("Range", "")
        self.server.asked.append(asked)
        if self.path != "/model.tar":
            self.send_response(302)
            elsewhere = "http://example.com/model.tar"
            self.send_header("Location", elsewhere if self.path == "/elsewhere" else "/model.tar")
            self.end_headers()
            return
        first = int(asked.removeprefix("bytes=").removesuffix("-") or 0)
        rest = self.server.body[first:]
        if asked and not rest:
            self.send_error(416)
            return
        self.send_response(206 if asked else 200)
        self.send_header("Content-Length", str(len(rest)))
        self.end_headers()
        self.wfile.write(rest[: len(rest) // 2] if self.server.cut else rest)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: a test's output is its own."""


@pytest.fixture
def server(packed: Path) -> Iterator[Server]:
    with serving(packed.read_bytes()) as made:
        yield made


@contextmanager
def serving(body: bytes) -> Iterator[Server]:
    with Server(("127.0.0.1", 0), Handler) as made:
        made.body, made.asked = body, []
        Thread(target=made.serve_forever, daemon=True).start()
        yield made
        made.shutdown()


def test_an_address_is_downloaded_with_its_pin_checked_and_nothing_is_left(
    server: Server, old: Path, downloads: Path
) -> None:
    pin = hashlib.sha256(server.body).hexdigest()
    install(f"{server.address}/here#sha256={pin}", old)
    assert contents(old) == contents(SHIPPED)
    assert not list(downloads.iterdir())


def test_another_file_than_the_pin_says_is_refused(server: Server, old: Path, downloads: Path) -> None:
    with pytest.raises(InstallError, match="not the file whose SHA-256 was given"):
        install(f"{server.address}/model.tar#sha256={'0' * 64}", old)
    assert unchanged(old)
    assert not list(downloads.iterdir())


def test_a_download_that_broke_off_is_gone_on_with(server: Server, old: Path) -> None:
    server.cut = True
    with pytest.raises(InstallError, match="The same command goes on where it stopped"):
        install(f"{server.address}/model.tar", old)
    assert unchanged(old)
    server.cut = False
    install(f"{server.address}/model.tar", old)
    assert server.asked == ["", f"bytes={len(server.body) // 2}-"]
    assert contents(old) == contents(SHIPPED)


def test_what_is_left_of_another_file_is_dropped(server: Server, old: Path) -> None:
    server.cut = True
    for _ in range(2):  # more than half of it
        with pytest.raises(InstallError):
            install(f"{server.address}/model.tar", old)
    server.cut, server.body = False, server.body[: len(server.body) // 2]  # a smaller one lies there now
    with pytest.raises(InstallError, match="HTTP 416"):
        install(f"{server.address}/model.tar", old)
    with pytest.raises(InstallError, match="is cut"):
        install(f"{server.address}/model.tar", old)
    assert server.asked[-1] == ""


def test_a_download_has_a_bound(
    server: Server, old: Path, downloads: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "MAX_BYTES", 2_000_000)
    with pytest.raises(InstallError, match="the archive has more than"):
        install(f"{server.address}/model.tar", old)
    assert unchanged(old)
    assert not list(downloads.iterdir())


@pytest.mark.parametrize(
    "address", ["http://example.com/model.tar", "ftp://example.com/m.tar", "file:///m.tar"]
)
def test_an_address_that_is_not_encrypted_is_refused(old: Path, address: str) -> None:
    with pytest.raises(InstallError, match="is not encrypted: take an https:// address"):
        install(address, old)


def test_a_redirect_to_one_is_refused_too(server: Server, old: Path) -> None:
    with pytest.raises(InstallError, match=r"http://example\.com/model\.tar is not encrypted"):
        install(f"{server.address}/elsewhere", old)
    assert unchanged(old)


@pytest.mark.parametrize("source", ["none", "none.tar", "none#sha256=1", "none#md5=1"])
def test_a_source_that_is_none_is_one_line_with_a_remedy(old: Path, tmp_path: Path, source: str) -> None:
    with pytest.raises(InstallError, match=r"no model in|what follows #"):
        install(str(tmp_path / source), old)
    assert unchanged(old)


@needs_pytorch
def test_the_licence_of_the_model_that_ships_is_that_of_what_train_makes_and_names_no_captions() -> None:
    from model_export.conversion.export import revision
    from model_export.conversion.licence import SCENES

    assert (SHIPPED / "LICENSE").read_bytes() == SCENES.read_bytes()
    assert CARD["licence"] == "Apache-2.0"
    assert revision(CARD["files"]) == CARD["revision"]
    for name in ("LICENSE", "known.data"):
        assert revision(CARD["files"] | {name: {"bytes": 1, "sha256": ""}}) == CARD["revision"]
