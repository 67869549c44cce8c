"""Whatever is dropped on `make run` is captioned, or refused in a line, and never ends the stack."""

import io
import os
import re
import shutil
import socket
import stat
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from uuid import UUID, uuid4

import pytest
from rich.console import Console

from infra.local import Failed, drop, show
from infra.local.drop import DropFolder, Refused, opened
from infra.local.results import Outcome
from infra.local.stack import Stack
from infra.local.start import pictures
from infra.local.terminal import Run
from infra.text import plural
from tests.support.images.pictures import encoded, quadrants

WAIT_S = 90
PICTURE = encoded(quadrants(30, 20))
LATIN_1 = os.fsdecode(b"caf\xe9.png")
CAPTIONED = {
    LATIN_1: "café.png",
    "new\nline.png": "new_line.png",
    "\x1b[2J.png": "_[2J.png",
    "[red]a[b].png": "[red]a[b].png",
    "-rf; $(x) 'y' \"z\" \\.png": "-rf; $(x) 'y' \"z\" \\.png",
    "a..png": "a..png",
    f"{'本' * 80}.png": f"{'本' * 65}.png",  # 200 bytes
    "done": "done (file)",
    "link.png": "link.png",
    "same.png": "same.png",
    "2025/same.png": "same (2).png",
    "2026/spain/same.png": "same (3).png",
}
REFUSED = {
    "dangling.png": "It can't be read: No such file or directory.",
    "device.png": "It is a device, not a file.",
    "empty.png": "It is empty.",
    "folder link": "It is a link to a folder, not a file.",
    "huge.png": "The picture has 51200.0 MiB; the limit is 32 MiB. Send a smaller file, or raise MAX_MB.",
    "pipe.png": "It is a pipe, not a file.",
    "secret.draft": "INCLUDE and EXCLUDE leave it out, or it is named as a tool's temporary object.",
    "self.png": "It can't be read: Too many levels of symbolic links.",
    "socket.png": "It is a socket, not a file.",
}
LEFT = (".hidden.png", ".folder/a.png", "...", "Thumbs.db", "a.png.crdownload", "a.png.part")


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    settings = {"BLIP": "optional", "EXCLUDE": "*.draft", "GEMINI_API_KEY": ""}
    with Stack(tmp_path_factory.mktemp("drop") / "state", environment=os.environ | settings) as running:
        yield running


@pytest.fixture
def run(stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A run for which each file is complete at once."""
    monkeypatch.setattr(drop, "SETTLED_S", 0.0)
    monkeypatch.setattr(drop, "EMPTY_S", 0.0)
    made = Run(stack, Console(file=io.StringIO(), width=1000), tmp_path / "drop")
    made.drop.create()
    return made


def screen(run: Run) -> str:
    assert isinstance(run.console.file, io.StringIO)
    return run.console.file.getvalue()


def titles(run: Run) -> list[str]:
    """The names of the objects whose outcome was shown."""
    return re.findall(r"^gs://dropcap-uploads/you/(.*)$", screen(run), re.MULTILINE)


def until(run: Run, done: Callable[[], bool]) -> None:
    """Watch the drop folder until it is done."""
    deadline = time.monotonic() + WAIT_S
    while not done():
        assert time.monotonic() < deadline, screen(run)
        run.stack.check()
        run.upload_dropped()
        run.show_new()


def names(folder: Path) -> set[str]:
    """The names of all that is below a folder and is none itself."""
    return {
        os.path.relpath(path, folder) for path in folder.rglob("*") if path.is_symlink() or not path.is_dir()
    }


def fill(folder: Path, target: Path) -> None:
    """Drop every kind of thing; a link leads to a picture at `target`."""
    for name in (*CAPTIONED, *LEFT, "secret.draft"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(PICTURE)
    (folder / "link.png").rename(target)
    (folder / "link.png").symlink_to(target)
    (folder / "dangling.png").symlink_to("nowhere")
    (folder / "self.png").symlink_to("self.png")
    (folder / "folder link").symlink_to(".")
    os.mkfifo(folder / "pipe.png")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("socket.png")  # from its folder: the path of a socket has at most 108 bytes
    if not os.geteuid():
        os.mknod(folder / "device.png", stat.S_IFCHR | 0o600, os.makedev(1, 3))
    (folder / "empty.png").touch()
    with (folder / "huge.png").open("wb") as huge:
        huge.truncate(50 * 2**30)
    (folder / "notes.txt").write_text("no picture")
    (folder / "empty").mkdir()


def test_every_file_is_captioned_or_refused_in_a_line_and_the_next_goes_on(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = run.drop.folder
    refused = {name: reason for name, reason in REFUSED.items() if name != "device.png" or not os.geteuid()}
    (folder / "refused" / "empty.png").write_text("of an earlier day")
    (folder / "refused" / "notes.txt.txt").write_text("its reason")
    (folder / "done").rmdir()
    monkeypatch.chdir(folder)
    fill(folder, tmp_path / "target.png")
    until(run, lambda: len(titles(run)) > len(CAPTIONED) and screen(run).count("was refused") == len(refused))
    run.drop.tidy()

    assert sorted(titles(run)) == sorted([*CAPTIONED.values(), "notes.txt"])
    assert "\x1b" not in screen(run)
    assert names(folder / "done") == {"done (file)" if name == "done" else name for name in CAPTIONED}
    moved = {name: "empty (2).png" if name == "empty.png" else name for name in refused}
    for name, reason in refused.items():
        assert (folder / "refused" / f"{moved[name]}.txt").read_text() == f"{reason}\n"
        assert f"{name} was refused: {reason} The file is in refused." in screen(run).splitlines()
    assert (folder / "refused" / "notes.txt (2).txt").read_text().startswith("The upload is not a picture. ")
    assert "\nkept in quarantine; the file is in refused\n" in screen(run)
    assert names(folder / "refused") == {
        *(name for each in moved.values() for name in (each, f"{each}.txt")),
        *("empty.png", "notes.txt", "notes.txt.txt", "notes.txt (2).txt"),
    }
    assert {name for name in names(folder) if not name.startswith(("done/", "refused/"))} == {*LEFT}
    assert (folder / "empty").is_dir()  # somebody made it
    assert not (folder / "2026").exists()


def test_a_file_that_changes_while_it_is_uploaded_is_uploaded_again(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, upload = run.drop.folder / "written.png", run.upload
    path.write_bytes(PICTURE[:-50])

    def slow(path: Path, user: str) -> UUID:
        monkeypatch.undo()
        monkeypatch.setattr(drop, "SETTLED_S", 0.0)
        id = upload(path, user)
        path.write_bytes(PICTURE)
        return id

    monkeypatch.setattr(run, "upload", slow)
    until(run, lambda: "PNG, 30 x 20 px" in screen(run))
    assert names(run.drop.folder) == {"done/written.png"}


def test_a_file_that_can_not_be_moved_is_uploaded_once_and_said_so(run: Run) -> None:
    folder = run.drop.folder
    while len(str(folder)) < 3800:
        folder /= "d" * 200
    folder /= "d" * (4087 - len(str(folder)))
    folder.mkdir(parents=True)
    (folder / "a.png").write_bytes(PICTURE)  # 4,092 bytes, of the 4,095 that a path can have
    until(run, lambda: "PNG, 30 x 20 px" in screen(run))
    run.upload_dropped()
    moved = "can't be moved: File name too long"
    assert re.fullmatch(
        rf"…d+/a\.png was uploaded; the file stays, because it {moved}\.", screen(run).splitlines()[0]
    )
    assert screen(run).count(moved) == 1
    assert (folder / "a.png").exists()


def test_a_file_that_is_held_moves_only_when_it_is_rejected(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    id = uuid4()
    outcomes = [Outcome(id, "dropcap-uploads", "you/a.png", "Why.", None, held) for held in (True, False)]
    monkeypatch.setattr(run, "upload", lambda path, user: id)
    monkeypatch.setattr(run.results, "new", lambda: [outcomes.pop(0)])
    (run.drop.folder / "a.png").write_bytes(PICTURE)
    run.upload_dropped()
    assert names(run.drop.folder) == {"done/a.png"}
    run.show_new()
    assert names(run.drop.folder) == {"refused/a.png", "refused/a.png.txt"}


def test_a_drop_folder_that_can_not_be_read_is_said_once_and_used_again_when_it_can(run: Run) -> None:
    folder = run.drop.folder
    shutil.rmtree(folder)
    folder.write_text("")
    for _ in range(3):
        run.upload_dropped()
    assert screen(run) == f"{folder} can't be read: Not a directory.\n"
    folder.unlink()
    run.upload_dropped()
    (folder / "notes.txt").write_text("no picture")
    until(run, lambda: titles(run) == ["notes.txt"])


def test_pictures_go_on_after_one_that_is_refused_and_a_folder_stands_for_what_is_in_it(
    run: Run, tmp_path: Path
) -> None:
    folder = tmp_path / "pictures"
    for name in (LATIN_1, "spain/same.png", "same.png", ".hidden.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(PICTURE)
    os.mkfifo(folder / "pipe\x1b.png")
    (folder / "notes.txt").write_text("no picture")
    with pytest.raises(
        Failed,
        match=r"^2 of 5 pictures failed\. The first: .*/pipe.* was refused: It is a pipe, not a file\.$",
    ):
        run.drop_and_wait(list(pictures([folder])), "you", WAIT_S)
    assert sorted(titles(run)) == ["café.png", "notes.txt", "same (2).png", "same.png"]
    assert r"pipe\x1b.png was refused: It is a pipe, not a file." in screen(run)
    assert names(folder) == {
        LATIN_1,
        "spain/same.png",
        "same.png",
        ".hidden.png",
        "pipe\x1b.png",
        "notes.txt",
    }


def test_a_file_that_the_storage_server_does_not_take_is_refused_at_once(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.png").write_bytes(PICTURE)
    monkeypatch.setattr("infra.local.terminal.object_names", lambda path: iter([LATIN_1]))
    with pytest.raises(Refused, match=r"^It can't be uploaded \(InternalServerError: 500 POST .*\)\.$"):
        run.upload(tmp_path / "a.png", "you")


@pytest.mark.parametrize(("size", "seconds"), [(0, 10.0), (1, 1.0)])
def test_a_file_is_complete_when_it_has_not_changed_for_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int, seconds: float
) -> None:
    clock, folder, path = SimpleNamespace(now=0.0), DropFolder(tmp_path), tmp_path / "a.png"
    monkeypatch.setattr(drop, "time", SimpleNamespace(monotonic=lambda: clock.now))

    def settled(after: float) -> list[Path]:
        clock.now += after
        return folder.settled()

    path.write_bytes(b"." * size)
    os.utime(path, (0, 0))  # a file that was moved here keeps the time of its last change
    assert settled(0) == settled(seconds - 0.1) == []
    os.utime(path, (1, 1))
    assert settled(0.2) == settled(seconds - 0.1) == []
    assert settled(0.2) == [path]
    folder.ignore(path)
    assert settled(60) == []
    os.utime(path, (2, 2))
    assert settled(0) == []
    assert settled(seconds) == [path]
    path.unlink()
    assert settled(60) == []


def test_folders_may_be_nested_deeper_than_pythons_stack(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drop, "SETTLED_S", 0.0)
    folder, path = DropFolder(tmp_path), tmp_path
    folder.create()
    for _ in range(250):
        path /= "d"
        path.mkdir()
    path /= "a.png"
    path.write_bytes(PICTURE)
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(200)
    try:
        assert folder.settled() == [path]
        assert folder.move(path, "done") == tmp_path / "done" / path.relative_to(tmp_path)
        folder.tidy()
    finally:
        sys.setrecursionlimit(limit)
    assert not (tmp_path / "d").exists()


def test_a_file_that_is_gone_or_can_not_be_read_is_refused(tmp_path: Path) -> None:
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o000 if os.geteuid() else 0o700)
    for path in (tmp_path / "gone", locked):
        with pytest.raises(Refused, match=r"can't be read"), opened(path):
            pass


def test_one_is_no_plural() -> None:
    counts = [plural(number, "picture") for number in (0, 1, 2500)]
    assert counts == ["0 pictures", "1 picture", "2,500 pictures"]


def test_the_hints_fit_into_80_columns_and_are_never_broken() -> None:
    exports = {"DROPCAP_URL": "http://127.0.0.1:8080", "STORAGE_EMULATOR_HOST": "http://127.0.0.1:8081"}

    def printed(width: int) -> str:
        console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None)
        show.ready(console, exports, ".dropcap/env", "drop", "dropcap-uploads")
        assert isinstance(console.file, io.StringIO)
        return console.file.getvalue()

    lines = printed(80).splitlines()
    assert max(map(len, lines)) <= 80
    assert "HTTP       curl -F picture=@PICTURE http://127.0.0.1:8080/analyze" in lines
    assert printed(60).splitlines()[2:] == lines[2:]
