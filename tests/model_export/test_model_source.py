"""`make model MODEL=...`: a name is never run, and what is no checkpoint is one line."""

import json
import logging
import os
import shutil
import subprocess
import warnings
from collections.abc import Callable
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from infra.local import captioner
from tests.support.app import ROOT
from tests.support.models.checkpoints import needs_pytorch, random_checkpoint

ODD = [
    "a b",
    "$(touch ran)",
    "`touch ran`",
    '"; touch ran; "',
    "it's",
    "';touch ran;'",
    "$(shell touch ran)",
    "a$$b",
]


def make(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """The project's `make` in `folder`, with a command that prints its arguments in place of Python."""
    show = "printf '<%s>'"
    command = ["make", "--silent", f"--file={ROOT / 'Makefile'}", f"RUN={show}", f"EXPORT={show}"]
    for environment in (".venv/installed", ".venv-model/installed"):
        (folder / environment).parent.mkdir(exist_ok=True)
        (folder / environment).touch()
        command.append(f"--old-file={environment}")
    return subprocess.run(
        [*command, *words],
        cwd=folder,
        env={key: value for key, value in os.environ.items() if key not in ("MODEL", "RESOLUTION", "MERGE")},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("name", ODD)
def test_nothing_in_a_name_is_run(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / name / "model.json").write_text("{}")
    made = make(tmp_path, "model", f"MODEL={name}")
    assert made.stdout.endswith(f"<model_export><install><--><{name}>"), made.stderr
    made = make(tmp_path, "run", f"MODEL={name}")
    assert f"<--model={name}>" in made.stdout, made.stderr
    (tmp_path / name / "model.json").rename(tmp_path / name / "config.json")
    made = make(tmp_path, "model", f"MODEL={name}")
    assert f"<export><--checkpoint={name}>" in made.stdout, made.stderr
    shutil.rmtree(tmp_path / name)
    assert f"make: no model in {name}: " in make(tmp_path, "model", f"MODEL={name}").stderr
    assert not list(tmp_path.rglob("ran"))


@pytest.mark.parametrize("name", ["./nosuch", "/nosuch/at all", "nosuch", "-h", "a/b/c", "folder"])
def test_a_name_that_is_no_model_ends_before_anything_is_downloaded(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    made = make(tmp_path, "model", f"MODEL={name}")
    assert made.returncode == 2
    assert made.stdout == ""
    assert made.stderr.splitlines()[0] == (
        f"make: no model in {name}: name a repository of the hub, a folder, an archive or an https address"
    )


@pytest.mark.parametrize(
    "name",
    ["https://example.com/a,b.tar#sha256=00", "a.tar", f"a.tar#sha256={'0' * 64}", "blip", "my blip.bin"],
)
def test_what_is_ready_is_installed_without_pytorch(tmp_path: Path, name: str) -> None:
    for file in ("blip", "my blip.bin"):
        (tmp_path / file).write_bytes(b"")
    made = make(tmp_path, "model", f"MODEL={name}")
    assert made.stdout == f"<-m><model_export><install><--><{name}>", made.stderr


@pytest.mark.parametrize("name", ["me/blip", "me/blip@refs/pr/1", "random-base", ""])
def test_what_is_not_ready_is_exported(tmp_path: Path, name: str) -> None:
    made = make(tmp_path, "model", f"MODEL={name}", "RESOLUTION=288", "MERGE=9")
    assert made.stdout == (
        f"<-m><model_export><export><--checkpoint={name}><--resolution><288><--merge><9>"
    ), made.stderr


@pytest.mark.parametrize("option", ["RESOLUTION=288", "MERGE=9"])
def test_an_option_of_an_export_is_not_passed_over_with_a_ready_model(tmp_path: Path, option: str) -> None:
    made = make(tmp_path, "model", "MODEL=a.tar", option)
    assert made.returncode == 2
    assert made.stdout == ""
    assert made.stderr.splitlines()[0] == (
        "make: RESOLUTION, MERGE and DECODER_BITS are chosen when a checkpoint is exported,"
        " and MODEL is ready: omit them"
    )


@pytest.mark.parametrize("name", ["https://example.com/blip.tar?signature=" + "x" * 3000, "x" * 3000])
def test_make_run_takes_an_address_longer_than_any_file_name(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def made(word: str) -> bool:
        asked.append(word)
        return True

    monkeypatch.setattr(captioner, "_make_model", made)
    captioner.install(name, tmp_path)
    assert asked == [f"MODEL={name}"]


def test_make_run_takes_a_folder_with_a_link_to_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "link").symlink_to("nowhere")
    monkeypatch.setattr(captioner, "_make_model", lambda *words: True)
    captioner.install(str(tmp_path / "model"), tmp_path / "state")


class Odd(BaseHTTPRequestHandler):
    """Not the hub: answers all with what the address begins with, a key of ANSWERS."""

    def do_GET(self) -> None:
        status, headers, body = ANSWERS[self.path.split("/")[1]]
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: a test's output is its own."""


NOT_THE_HUB = "some/blip could not be downloaded: What answers is not the hub. Is the name right"
ANSWERS: dict[str, tuple[int, dict[str, str], bytes]] = {
    "page": (200, {}, b"<html>Sign in to this network</html>"),
    "object": (200, {}, b"{}"),
    "list": (200, {}, b"[]"),
    "nothing": (200, {}, b"null"),
    "files": (200, {}, b'{"id": "some/blip", "siblings": [{"name": "config.json"}]}'),
    "size": (200, {}, b'{"id": "some/blip", "siblings": [{"rfilename": "config.json", "size": {"a": 1}}]}'),
    "busy": (429, {}, b"slow down"),
    "down": (503, {}, b"down"),
    "gated": (403, {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access is restricted."}, b""),
    "colours": (400, {"X-Error-Message": "\x1b[31mred"}, b""),
}
MESSAGES = {
    **dict.fromkeys(("object", "list", "nothing", "files", "size"), NOT_THE_HUB),
    "busy": "some/blip could not be downloaded: 429 ",
    "down": "some/blip could not be downloaded: 503 ",
    "gated": "some/blip is open only to those who accept its terms: do so at https://huggingface.co/some/blip",
}


@needs_pytorch
def test_what_is_not_the_hub_or_does_not_let_one_in_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import HfApi

    from model_export.conversion import hub

    with ThreadingHTTPServer(("127.0.0.1", 0), Odd) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        for kind in ANSWERS:
            there = f"http://127.0.0.1:{server.server_port}/{kind}"
            monkeypatch.setattr(hub, "HfApi", partial(HfApi, endpoint=there))
            with pytest.raises(hub.ExportError) as refused:
                hub.fetch("some/blip", lambda folder: None)
            assert str(refused.value).startswith(MESSAGES.get(kind, "some/blip could not be downloaded: "))
            assert str(refused.value).isprintable()
        server.shutdown()


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_checkpoint(tmp_path_factory.mktemp("checkpoint") / "tiny", 0)


def config(**change: Any) -> Callable[[Path], None]:
    """Change config.json, by `vision_config={...}` a part of that part."""

    def write(folder: Path) -> None:
        card = json.loads((folder / "config.json").read_text())
        for name, value in change.items():
            card[name] = card[name] | value if isinstance(value, dict) else value
        (folder / "config.json").write_text(json.dumps(card))

    return write


def size(**sides: int) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        path = folder / "preprocessor_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"size": sides}))

    return write


def weights(data: bytes, name: str = "model.safetensors") -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / "model.safetensors").unlink()
        (folder / name).write_bytes(data)

    return write


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 989820849\n"
UNUSABLE = r"has a config\.json that can't be used \(.*\): take another$"
BROKEN: dict[str, tuple[Callable[[Path], None], str]] = {
    "BLIP-2": (
        config(architectures=["Blip2ForConditionalGeneration"]),
        "is a Blip2ForConditionalGeneration, not",
    ),
    "a number as architecture": (config(architectures=5), r"has a config\.json that can't be read"),
    "patches of nothing": (config(vision_config={"patch_size": 0}), UNUSABLE),
    "a word as side": (config(vision_config={"image_size": "abc"}), UNUSABLE),
    "no heads": (config(text_config={"num_attention_heads": 0}), UNUSABLE),
    "less than nothing": (config(text_config={"hidden_size": -5}), UNUSABLE),
    "a list as text part": (config(text_config=[1]), UNUSABLE),
    "layers without end": (config(text_config={"num_hidden_layers": 10**9}), UNUSABLE),
    "a pointer as safetensors": (
        weights(POINTER),
        "is a pointer of Git LFS, not the weights: run `git lfs pull`",
    ),
    "a pointer as pickle": (
        weights(POINTER, "pytorch_model.bin"),
        "is a pointer of Git LFS, not the weights",
    ),
    "an empty pickle": (weights(b"", "pytorch_model.bin"), "is no BLIP captioner that can be loaded here: ."),
    "a shortest edge": (size(shortest_edge=48), r"makes pictures of \{'shortest_edge': 48\} by its preproc"),
    "another side": (
        size(height=64, width=64),
        "and looks at 48 x 48 px by its config.json: correct the former",
    ),
}


@needs_pytorch
@pytest.mark.parametrize("kind", BROKEN)
def test_a_checkpoint_that_can_not_be_is_one_line_with_its_name(
    tiny: Path, tmp_path: Path, kind: str
) -> None:
    from model_export.conversion.checkpoint import ExportError, load

    folder = Path(shutil.copytree(tiny, tmp_path / "broken"))
    change, problem = BROKEN[kind]
    change(folder)
    with pytest.raises(ExportError, match=problem) as refused:
        load(str(folder), tmp_path)
    assert str(refused.value).startswith(str(folder))
    assert str(refused.value).isprintable()


@needs_pytorch
@pytest.mark.parametrize("name", ["./nosuch", "nosuch", "a/b/c", "x" * 3000])
def test_a_name_that_is_no_checkpoint_is_one_line(tmp_path: Path, name: str) -> None:
    from model_export.conversion.checkpoint import ExportError, load

    with pytest.raises(
        ExportError, match=r"^no checkpoint in .*: name a repository of the hub, or a checkpoint's"
    ):
        load(name, tmp_path)


@needs_pytorch
@pytest.mark.parametrize("command", [["export", "--checkpoint", "none"], ["install", "functions/model"]])
def test_a_model_folder_that_can_not_be_written_is_one_line(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As on a file system that is read-only, which a test run by root can't make."""
    from model_export.__main__ import main

    (tmp_path / "file").write_text("no folder")
    with warnings.catch_warnings():
        assert main([*command, "--out", str(tmp_path / "file" / "model")]) == 2
    logging.disable(logging.NOTSET)
    stderr = capsys.readouterr().err
    assert str(tmp_path / "file") in stderr
    assert stderr.count("\n") == 1
