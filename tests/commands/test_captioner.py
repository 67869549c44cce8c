"""`make run` and the captioner: a person at a terminal is offered the real one, and MODEL= installs one."""

import io
import os
import pty
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from rich.console import Console

from infra.local import StackError, captioner
from infra.local.captioner import hub_answers
from infra.local.hub import main
from tests.support.app import ROOT
from tests.support.models.hub import Hub, serving

NOTICE = (
    "demonstration captioner: knows 60 drawn objects; "
    "`make model` installs BLIP-base (1 GB download, about 5 minutes)"
)
QUESTION = "Install BLIP-base now? [y/N]"
BLIP_BASE = "Salesforce/blip-image-captioning-base"
ASKED = f"HEAD /{BLIP_BASE}/resolve/main/config.json"
WAIT_S = 60
# `make model` for these tests: it installs another card, which no demonstration model has.
MAKEFILE = """\
model:
\t@echo installing "$(MODEL)" "$(RESOLUTION)$(MERGE)" | tee -a installed
\t@test "$(MODEL)" != broken
\t@sed -e 's/"demo": true/"demo": false/' -e 's|"source": ".*"|"source": "$(MODEL)"|' \\
\t\tfunctions/model/model.json >card; mv card functions/model/model.json
"""


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """The hub's stand-in with BLIP-base, where HF_ENDPOINT leads to."""
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "http_proxy", "HTTP_PROXY", "MODEL_FOLDER"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "config.json").write_text("{}")
    with serving({BLIP_BASE: tmp_path}) as served:
        monkeypatch.setenv("HF_ENDPOINT", served.address)
        yield served


class Copy:
    """A copy of the project whose model may be replaced; its `make run` ends before it starts anything.

    It ends as its port is in use, which is found after the captioner is chosen. `offer` and `install` are
    what `make run` calls, in this process.
    """

    def __init__(self, folder: Path) -> None:
        self.root, self.state = folder / "copy", folder / "copy" / "state"
        self.model = self.root / "functions" / "model"
        self.model.mkdir(parents=True)
        (self.root / "infra").symlink_to(ROOT / "infra")
        (self.root / "functions" / "dropcap").symlink_to(ROOT / "functions" / "dropcap")
        shutil.copy(ROOT / "functions" / "model" / "model.json", self.model)
        (self.root / "Makefile").write_text(MAKEFILE)

    @property
    def installed(self) -> list[str]:
        """What `make model` was to install, in order."""
        record = self.root / "installed"
        return record.read_text().splitlines() if record.exists() else []

    def run(self, *words: str, typed: str = "", terminal: bool = True) -> str:
        """Run it, at a terminal unless told otherwise; return what it prints to its end."""
        with socket.create_server(("127.0.0.1", 0)) as taken:
            command = [sys.executable, "-m", "infra.local.run", "--port", str(taken.getsockname()[1])]
            command += ["--state", str(self.state), *words]
            environment = os.environ | {"TERM": "xterm", "COLUMNS": "300", "PYTHONWARNINGS": "ignore"}
            environment["PYTHONPATH"] = f"{self.root}:{self.root / 'functions'}"
            if terminal:
                output = at_terminal(command, self.root, environment, typed)
            else:
                ran = subprocess.run(
                    command,
                    cwd=self.root,
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                    timeout=WAIT_S,
                    check=False,
                )
                output = ran.stdout
        assert "Traceback" not in output, output
        assert "is in use" in output, output
        return output

    def offer(self, typed: str, monkeypatch: pytest.MonkeyPatch) -> str:
        """Offer BLIP-base to somebody who types this; return what is shown."""
        monkeypatch.setattr(sys, "stdin", io.StringIO(typed))
        screen = io.StringIO()
        captioner.offer(Console(file=screen, width=300), self.state)
        return screen.getvalue()

    def install(self, model: str, **options: str) -> None:
        """`make run MODEL=...`, as far as the model."""
        for name in captioner.OPTIONS:
            os.environ.pop(name, None)
        os.environ.update(options)
        captioner.install(model, self.state)


def at_terminal(command: list[str], folder: Path, environment: dict[str, str], typed: str) -> str:
    """Run a command with a pseudo-terminal on which somebody has typed; return all that it shows."""
    master, slave = pty.openpty()
    with os.fdopen(master, "r+b", buffering=0) as screen:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
        )
        os.close(slave)
        screen.write(typed.encode())
        shown = b""
        with suppress(OSError):  # EIO: all who had it open are gone
            while data := screen.read(65536):
                shown += data
        process.wait(WAIT_S)
    return shown.decode().replace("\r", "")


@pytest.fixture
def copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Copy:
    made = Copy(tmp_path)
    monkeypatch.setattr(captioner, "ROOT", made.root)
    monkeypatch.setattr(captioner, "MODEL_FOLDER", made.model)
    return made


def test_at_a_terminal_blip_base_is_offered_and_yes_does_what_make_model_does(hub: Hub, copy: Copy) -> None:
    output = copy.run(typed="y\n")
    assert output.index(NOTICE) < output.index(QUESTION) < output.index("installing")
    assert copy.installed == ["installing  "]  # make model, without a word more
    assert captioner.notice(copy.model) == ""
    assert hub.asked == [ASKED]


def test_no_is_remembered_with_the_data(hub: Hub, copy: Copy, monkeypatch: pytest.MonkeyPatch) -> None:
    output = copy.run(typed="\n")  # no is what Enter means
    assert QUESTION in output
    assert "`make model` installs it at any time." in output
    assert QUESTION not in copy.run(typed="y\n")
    assert copy.installed == []
    assert hub.asked == [ASKED]
    copy.state = copy.root / "other"
    assert QUESTION in copy.offer("n\n", monkeypatch)


@pytest.mark.parametrize("terminal", [True, False])
def test_who_can_not_or_need_not_answer_is_not_asked(hub: Hub, copy: Copy, terminal: bool) -> None:
    """With ONCE=1 at a terminal, and without a terminal."""
    assert QUESTION not in copy.run(*(["--once"] if terminal else []), terminal=terminal)
    assert hub.asked == []


def test_what_is_not_a_no_is_not_remembered(hub: Hub, copy: Copy, monkeypatch: pytest.MonkeyPatch) -> None:
    assert QUESTION in copy.offer("", monkeypatch)  # Ctrl-D
    (copy.root / "Makefile").write_text("model:\n\t@false\n")
    output = copy.offer("yes\n", monkeypatch)
    assert "BLIP-base was not installed: continuing with the demonstration model." in output
    repositories, hub.repositories = hub.repositories, {}
    assert copy.offer("y\n", monkeypatch) == ""
    hub.repositories = repositories
    assert QUESTION in copy.offer("n\n", monkeypatch)


def test_the_hub_is_asked_as_its_own_client_would(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    assert hub_answers()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert not hub_answers()
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    assert hub_answers()
    monkeypatch.setenv("HF_ENDPOINT", "http://hub.invalid/")
    assert not hub_answers()
    monkeypatch.setenv("http_proxy", hub.address)
    assert hub_answers()
    assert set(hub.asked) == {ASKED}
    hub.repositories.clear()
    assert not hub_answers()


def test_a_hub_that_hangs_is_not_waited_for(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(captioner, "HUB_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        began = time.monotonic()
        assert not hub_answers()
        assert time.monotonic() - began < 30


def test_make_model_asks_first_whether_the_hub_answers(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    assert main("me/unknown") == 0  # whether it has it, its own client finds out
    with socket.create_server(("127.0.0.1", 0)) as closed:
        address = f"http://127.0.0.1:{closed.getsockname()[1]}"
    monkeypatch.setenv("HF_ENDPOINT", address)
    for needs_no_hub in ("random-base", str(tmp_path)):
        assert main(needs_no_hub) == 0
    assert capsys.readouterr().err == ""
    assert main(f"{BLIP_BASE}@main") == 1
    problem = f"{address} does not answer (Connection refused). Is the network up?"
    assert capsys.readouterr().err == f"make: {BLIP_BASE}@main can't be downloaded: {problem}\n"
    (tmp_path / "home" / "hub" / f"models--{BLIP_BASE.replace('/', '--')}" / "snapshots").mkdir(parents=True)
    assert main(f"{BLIP_BASE}@main") == 0
    monkeypatch.setenv("HF_ENDPOINT", hub.address)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert main("me/unknown") == 1


def test_a_model_that_is_named_is_installed_once(copy: Copy) -> None:
    for model in ("me/blip", "https://example.com/blip.tar", "me/blip"):
        for _ in range(2):
            copy.install(model)
    assert [line.split()[1] for line in copy.installed] == [
        "me/blip",
        "https://example.com/blip.tar",
        "me/blip",
    ]


def test_another_option_or_a_folder_that_has_changed_is_another_model(copy: Copy, tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint"
    checkpoint.mkdir()
    (checkpoint / "config.json").write_text("{}")
    copy.install(str(checkpoint))
    os.utime(checkpoint / "config.json", (0, 2**31))
    options: dict[str, str]
    for options in ({}, {"RESOLUTION": "288"}, {"MERGE": "9"}):
        for _ in range(2):
            copy.install(str(checkpoint), **options)
    assert [line.split()[2:] for line in copy.installed] == [[], [], ["288"], ["9"]]


def test_a_model_that_can_not_be_installed_ends_it_in_one_line(copy: Copy) -> None:
    with pytest.raises(StackError, match=r"^MODEL=broken was not installed; the lines above say why\."):
        copy.install("broken")
    with pytest.raises(StackError):
        copy.install("broken")


def test_make_run_hands_on_a_model_that_is_named_on_its_command_line_and_no_other() -> None:
    def recipe(*words: str, **variables: str) -> str:
        command = ["make", "--dry-run", "--old-file=.venv/installed", "run", *words]
        return subprocess.run(
            command,
            cwd=ROOT,
            env=os.environ | variables,
            capture_output=True,
            text=True,
            check=True,
        ).stdout

    assert "--model" not in recipe()
    assert "--model" not in recipe(MODEL="gpt")
    assert "--model='me/blip'" in recipe("MODEL=me/blip")
