"""`make run`: what a person who has just cloned the repository meets."""

import io
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import psutil
import pytest
import requests
from google.auth.credentials import AnonymousCredentials
from google.cloud.storage import Client
from rich.console import Console

from dropcap.database.connection import connect_to_schema
from dropcap.database.leases import Leases
from dropcap.database.transactions import Database
from dropcap.domain.analysis import Source
from dropcap.domain.upload import Upload
from dropcap.errors import SettingsError
from dropcap.settings import Settings
from infra import ROOT
from infra.local import Failed, StackError, show
from infra.local.process import free_port
from infra.local.reconcile import main as reconcile
from infra.local.results import Outcome, Results
from infra.local.stack import STAND_IN, Stack
from infra.local.terminal import Run
from infra.redescribe import main as redescribe
from tests.support.app import EXPECTED, hear_ctrl_c
from tests.support.children import FUNCTIONS, python_path
from tests.support.images.pictures import RED, encoded, quadrants

WAIT_S = 90
PHOTOGRAPH = Path(__file__).parents[1] / "photographs" / "cat.jpg"
MARK = "DROPCAP_TEST_RUN"  # an environment variable that all processes of one run have in common
# These are tests of the stack, whatever the model says; a killed run's claim must not be waited for long.
SETTINGS = {"BLIP": "optional", "LEASE_S": "10", "GEMINI_ATTEMPTS": "1", "GEMINI_TIMEOUT_S": "8"}
SETTINGS["GEMINI_API_KEY"] = STAND_IN


class Person:
    """Somebody who runs `make run` with a terminal that is a file."""

    def __init__(self, folder: Path, *words: object, **settings: str) -> None:
        self.mark = uuid.uuid4().hex
        self.output, self.errors = folder / "output", folder / "errors"
        self.drop = folder / "drop"
        environment = os.environ | SETTINGS | settings
        environment |= {MARK: self.mark, "PYTHONWARNINGS": "ignore"}
        environment["PYTHONPATH"] = python_path(FUNCTIONS)
        command = [sys.executable, "-m", "infra.local.run", "--port", "0", "--drop", str(self.drop)]
        with self.output.open("wb") as output, self.errors.open("wb") as errors:
            self.process = subprocess.Popen(
                [*command, *map(str, words)],
                cwd=ROOT,
                env=environment,
                stdout=output,
                stderr=errors,
                preexec_fn=hear_ctrl_c,
            )

    def wait_for(self, text: str) -> str:
        """The output, when it has this text in it."""
        deadline = time.monotonic() + WAIT_S
        while text not in (printed := self.output.read_text()):
            assert self.process.poll() is None, self.errors.read_text()
            assert time.monotonic() < deadline, printed
            time.sleep(0.05)
        return printed

    def exit(self) -> tuple[int, str, str]:
        """Exit status, output and errors, at the end."""
        status = self.process.wait(WAIT_S)
        return status, self.output.read_text(), self.errors.read_text()

    def left_behind(self) -> list[str]:
        """The processes that this run started and that do not end."""
        deadline = time.monotonic() + WAIT_S
        while (left := list(self._processes())) and time.monotonic() < deadline:
            time.sleep(0.05)
        return left

    def _processes(self) -> Iterator[str]:
        for process in psutil.process_iter():
            try:
                if process.environ().get(MARK) == self.mark and process.status() != psutil.STATUS_ZOMBIE:
                    yield " ".join(process.cmdline())
            except psutil.Error:  # it has just ended, or is not ours to look at
                continue


@contextmanager
def person(folder: Path, *words: object, **settings: str) -> Iterator[Person]:
    """A run that is over when the test is."""
    started = Person(folder, *words, **settings)
    try:
        yield started
    finally:
        started.process.kill()
        started.process.wait()


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with Stack(tmp_path_factory.mktemp("stack") / "state", environment=os.environ | SETTINGS) as running:
        yield running


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for one run after the other, so that the database is made once."""
    return tmp_path_factory.mktemp("kept") / "state"


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "picture.png"
    path.write_bytes(encoded(quadrants(300, 200)))
    return path


@pytest.fixture(scope="module")
def results(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> list[Outcome]:
    """What became of one picture."""
    folder = tmp_path_factory.mktemp("analyzed")
    (folder / "analyzed.png").write_bytes(encoded(quadrants(300, 200)))
    run = Run(stack, Console(file=io.StringIO()), folder / "drop")
    upload = run.upload(folder / "analyzed.png", "one")
    deadline = time.monotonic() + WAIT_S
    found: list[Outcome] = []
    while not found and time.monotonic() < deadline:
        found = [each for each in run.results.new() if each.id == upload]
        time.sleep(0.05)
    return found


def client(storage_url: str) -> Client:
    return Client("demo", AnonymousCredentials(), client_options={"api_endpoint": storage_url})


def exports(stack: Stack) -> dict[str, str]:
    """The environment of a shell that has read the stack's file."""
    script = f". {stack.state}/env; env -0"
    lines = subprocess.run(["/bin/sh", "-c", script], capture_output=True, text=True, check=True).stdout
    return dict(line.split("=", 1) for line in lines.split("\0") if line)


def test_once_shows_what_became_of_the_pictures_of_a_folder_and_ends_well(
    tmp_path: Path, picture: Path, state: Path
) -> None:
    """Even where a name is not UTF-8, and the terminal has only ASCII."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    shutil.copy(picture, folder / os.fsdecode(b"caf\xe9.png"))
    picture.rename(folder / picture.name)
    with person(tmp_path, "--state", state, "--once", folder, PYTHONIOENCODING="ascii") as run:
        status, output, errors = run.exit()
        assert (status, errors) == (0, "")
        assert r"gs://dropcap-uploads/you/caf\xe9.png" in output
        assert (
            "\ndemonstration captioner: knows 60 drawn objects; `make model` installs BLIP-base (" in output
        )
        assert "gs://dropcap-uploads/you/picture.png" in output
        assert "Gemini (stand-in): This is Dropcap's stand-in" in output
        assert re.search(r"^BLIP \(demonstration\): ", output, re.MULTILINE)
        assert "PNG, 300 x 200 px" in output
        assert "gs://dropcap-pictures/" in output
        assert re.search(r"200\.webp +200 x 133 px +\d", output)
        assert re.search(r"^publish +\d+\.\d\d +\d+", output, re.MULTILINE)
        assert "Source: deleted" in output
        assert "\x1b" not in output
        assert not run.left_behind()


@pytest.mark.parametrize(
    ("source", "line"),
    [
        (Source(True, demo=True), "BLIP (demonstration): a red square"),
        (
            Source(True, confidence=-2.314, low_confidence=True, demo=True),
            "BLIP (demonstration): no caption: the demonstration model does not know such a picture "
            "(confidence -2.31)",
        ),
        (
            Source(True, confidence=-1.5, low_confidence=True),
            "BLIP: no caption: the model is not certain (confidence -1.50)",
        ),
        (Source(True, confidence=-0.1), "BLIP: a red square (confidence -0.10)"),
        (Source(True, confidence=-0.001), "BLIP: a red square (confidence 0.00)"),
        (Source(False, problem="model.json is missing."), "BLIP: model.json is missing."),
    ],
)
def test_a_caption_is_shown_as_what_it_is(
    stack: Stack, results: list[Outcome], source: Source, line: str
) -> None:
    [outcome] = results
    assert outcome.analysis
    captions = {} if source.low_confidence else {"blip": "a red square"}
    changed = replace(outcome.analysis, captions=captions, sources={"blip": source})
    screen = io.StringIO()
    show.outcome(
        Console(file=screen, width=200),
        client(stack.storage_url),
        replace(outcome, analysis=changed),
        "dropcap-pictures",
        "deleted",
    )
    printed = [line for line in screen.getvalue().splitlines() if line.startswith("BLIP")]
    assert printed == [line]


def test_a_rejected_picture_is_shown_and_ends_it_with_the_reason(stack: Stack, tmp_path: Path) -> None:
    bad = tmp_path / "bad.jpg"
    bad.write_text("not a picture")
    screen = io.StringIO()
    run = Run(stack, Console(file=screen, width=200), tmp_path / "drop")
    with pytest.raises(Failed, match=r"^you/bad.jpg was rejected: The upload is not a picture\. .*\.$"):
        run.drop_and_wait([bad], "you", WAIT_S)
    assert "Rejected The upload is not a picture." in screen.getvalue()


def test_a_picture_that_is_late_ends_it_with_its_name_and_the_log(
    stack: Stack, tmp_path: Path, picture: Path
) -> None:
    run = Run(stack, Console(file=io.StringIO()), tmp_path / "drop")
    with pytest.raises(Failed, match=r"^Not done in time: picture.png\. .*functions\.log\)$"):
        run.drop_and_wait([picture], "late", timeout_s=-1)


def test_an_empty_file_is_not_waited_for(stack: Stack, tmp_path: Path) -> None:
    empty = tmp_path / "empty.jpg"
    empty.touch()
    run = Run(stack, Console(file=io.StringIO()), tmp_path / "drop")
    with pytest.raises(Failed, match=r"empty\.jpg was refused: It is empty\."):
        run.drop_and_wait([empty], "you", WAIT_S)


def test_in_a_terminal_the_picture_is_drawn_in_colour(stack: Stack, tmp_path: Path, picture: Path) -> None:
    screen = io.StringIO()
    terminal = Console(file=screen, width=120, force_terminal=True, color_system="truecolor")
    Run(stack, terminal, tmp_path / "drop").drop_and_wait([picture], "you", WAIT_S)
    red = ";".join(map(str, RED))
    near_red = r"38;2;(19\d|20\d);(2\d|3\d);(3\d|4\d)"
    assert re.search(near_red, screen.getvalue()), f"no half block near {red}"


def test_a_photograph_has_no_false_caption(tmp_path: Path, state: Path) -> None:
    """The demonstration model has only seen drawings: of this cat it once said "a bear and an elephant"."""
    with person(tmp_path, "--state", state, "--once", PHOTOGRAPH) as run:
        status, output, errors = run.exit()
    assert (status, errors) == (0, "")
    assert "\ndemonstration captioner: knows 60 drawn objects; `make model` installs BLIP-base (" in output
    [line] = [line for line in output.splitlines() if line.startswith("BLIP")]
    why = "no caption: the demonstration model does not know such a picture"
    assert re.fullmatch(rf"BLIP \(demonstration\): {why} \(confidence -\d+\.\d\d\)", line)
    printed = re.findall(r"^(?:Caption|Alt text): (.*)", output, re.MULTILINE)
    assert printed
    assert all("stand-in" in text for text in printed)  # nothing but the stand-in for Gemini's own


def test_without_a_key_nothing_is_said_for_gemini_and_one_line_says_how_to_connect_it(
    tmp_path: Path, picture: Path, state: Path
) -> None:
    with person(tmp_path, "--state", state, "--once", picture, GEMINI_API_KEY="") as run:
        status, output, errors = run.exit()
    assert (status, errors) == (0, "")
    assert re.match(r"PostgreSQL, Cloud Storage and the functions are up \(", output)
    assert output.count("Gemini") == 1
    assert "\nGemini is not connected, so there are no descriptions and no tags: GEMINI_API_KEY=..." in output
    assert not re.search("^(Agreement|Tags|Alt text|Caption): ", output, re.MULTILINE)


def test_a_missing_file_is_one_line_before_anything_starts(tmp_path: Path) -> None:
    with person(tmp_path, "--state", tmp_path / "state", "--once", "no such.jpg") as run:
        assert run.exit() == (1, "", "make run: There is no file no such.jpg: check PICTURES.\n")
    assert not (tmp_path / "state").exists()


def test_a_port_in_use_is_one_line_with_the_remedy(tmp_path: Path, state: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with person(tmp_path, "--state", state, "--port", port) as run:
            status, output, errors = run.exit()
    assert (status, output, errors.count("\n")) == (1, "", 1)
    assert f"Port {port}" in errors
    assert f"make run PORT={port + 10}" in errors


def test_a_wrong_setting_is_one_line_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"SIZES='big' is not allowed"):
        Stack(tmp_path / "state", environment={"SIZES": "big"})
    with person(tmp_path, "--state", tmp_path / "state", SIZES="big") as run:
        status, output, errors = run.exit()
    assert (status, output, errors.count("\n")) == (1, "", 1)
    assert errors.startswith("make run: SIZES='big' is not allowed")


def test_a_second_run_on_the_same_data_is_refused_and_harmless(tmp_path: Path, stack: Stack) -> None:
    with person(tmp_path, "--state", stack.state) as run:
        status, _, errors = run.exit()
    assert (status, errors.count("\n")) == (1, 1)
    assert "make run STATE=other" in errors
    stack.check()
    assert requests.get(f"{stack.url}/get_progress_stats?user=ana", timeout=WAIT_S).status_code == 200
    assert (stack.state / "env").exists()


def test_the_next_run_keeps_the_data_takes_dropped_files_and_does_not_drop_the_samples_again(
    tmp_path: Path, picture: Path
) -> None:
    with person(tmp_path, "--state", tmp_path / "state") as run:
        output = run.wait_for("all in ")
        assert output.count("gs://dropcap-uploads/you/") == len(EXPECTED) + 1  # of all, and how to add one
        ready = output.partition("Ctrl-C ends it.\n")[2]
        page = re.match(r"a browser +(http://127\.0\.0\.1:\d+/gallery/\?user=you)\s", ready)
        assert page
        shown = requests.get(page[1], timeout=WAIT_S).text
        assert len(set(re.findall(r"/gallery/picture/([0-9a-f-]{36})", shown))) == len(EXPECTED)
        run.process.send_signal(signal.SIGINT)
        status, output, _ = run.exit()
        assert status == 0
        assert output.endswith(
            f"Stopped. The same command continues with the data in {tmp_path}/state.\n"
            f"To start afresh, delete it first: rm -r {tmp_path}/state\n"
        )
    with person(tmp_path, "--state", tmp_path / "state") as run:
        output = run.wait_for("all in ")
        assert "The samples were analyzed by an earlier run" in output
        assert output.count("gs://dropcap-uploads/you/") == 1
        picture.rename(run.drop / "dropped.png")
        run.wait_for("gs://dropcap-uploads/you/dropped.png")
        assert (run.drop / "done" / "dropped.png").exists()
        assert not (run.drop / "dropped.png").exists()
        run.process.send_signal(signal.SIGINT)
        run.exit()


def test_ctrl_c_before_all_is_imported_is_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "rich.py").write_text("import os, signal; os.kill(os.getpid(), signal.SIGINT)")
    done = subprocess.run(
        [sys.executable, "-m", "infra.local.run", "--state", tmp_path / "state"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": f"{tmp_path}:{python_path(FUNCTIONS)}"},
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=hear_ctrl_c,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "Stopped.\n", "")


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_no_process_is_left_behind(tmp_path: Path, state: Path, picture: Path, end: signal.Signals) -> None:
    with person(tmp_path, "--state", state, picture) as run:
        run.wait_for("Ctrl-C ends it")
        run.process.send_signal(end)
        status = run.process.wait(WAIT_S)
        assert status == (-end if end == signal.SIGKILL else 0)
        assert not run.left_behind()


def test_after_a_kill_the_next_run_takes_the_same_port_and_finishes_what_lay_there(
    tmp_path: Path, state: Path, picture: Path
) -> None:
    port = free_port()
    with person(tmp_path, "--state", state, "--port", port, picture) as run:
        run.wait_for("Ctrl-C ends it")
        [storage_url] = re.findall(r"STORAGE_EMULATOR_HOST=(\S+)", (state / "env").read_text())
        client(storage_url).bucket("dropcap-uploads").blob("ana/late.png").upload_from_filename(picture)
        run.process.kill()
        run.process.wait()
    with Stack(state, port, environment=os.environ | SETTINGS) as running:
        assert running.port == port
        results = Results(running.database_url, running.postgres_log)
        deadline = time.monotonic() + WAIT_S
        while not results.analyzed(["ana/late.png"]) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert results.analyzed(["ana/late.png"])


def test_any_program_can_be_pointed_at_the_stack_by_its_file(stack: Stack, picture: Path) -> None:
    assert stat.S_IMODE((stack.state / "env").stat().st_mode) == 0o600
    exported = exports(stack)
    assert exported["DROPCAP_URL"] == stack.url
    script = "import sys, google.cloud.storage as s; print(*(b.name for b in s.Client().list_buckets()))"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script],
        env=exported,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["dropcap-pictures", "dropcap-quarantine", "dropcap-uploads"]
    connection = connect_to_schema(exported["DATABASE_URL"])
    try:
        assert connection.run("SELECT count(*) FROM uploads") is not None
    finally:
        connection.close()


def test_all_functions_share_a_port(stack: Stack, picture: Path) -> None:
    body, png_type = picture.read_bytes(), {"Content-Type": "image/png"}
    answer = requests.post(f"{stack.url}/analyze", data=body, headers=png_type, timeout=WAIT_S)
    assert (answer.status_code, answer.json()["picture"]["format"]) == (200, "PNG")
    stats = requests.get(f"{stack.url}/get_progress_stats?user=nobody", timeout=WAIT_S)
    assert stats.json()["pictures_analyzed"] == 0
    assert requests.get(f"{stack.url}/get_progress_stats", timeout=WAIT_S).status_code == 400
    assert requests.post(f"{stack.url}/sweep", timeout=WAIT_S).json()["complete"]
    assert "Whose pictures?" in requests.get(f"{stack.url}/gallery", timeout=WAIT_S).text
    front = requests.get(stack.url, timeout=WAIT_S)
    assert (front.status_code, front.url) == (200, f"{stack.url}/gallery/?user=you")
    assert requests.put(stack.url, timeout=WAIT_S).status_code == 405  # events are posted


def test_an_upload_by_any_client_is_analyzed(stack: Stack, picture: Path) -> None:
    results = Results(stack.database_url, stack.postgres_log)
    client(stack.storage_url).bucket("dropcap-uploads").blob("bo/one.png").upload_from_filename(picture)
    deadline = time.monotonic() + WAIT_S
    new = results.new()
    while not any(each.name == "bo/one.png" for each in new) and time.monotonic() < deadline:
        time.sleep(0.05)
        new = results.new()
    [outcome] = [each for each in new if each.name == "bo/one.png"]
    assert outcome.analysis
    assert outcome not in results.new()
    assert results.analyzed(["bo/one.png"])


def test_a_key_of_your_own_is_used_and_never_written_down(state: Path) -> None:
    secret = "AIza-of-your-own"  # noqa: S105  not one
    environment = os.environ | SETTINGS | {"GEMINI_API_KEY": secret}
    with Stack(state, environment=environment) as running:
        assert not running.stand_in
        assert "GEMINI" not in (running.state / "env").read_text()
    assert not (state / "env").exists()


def test_a_part_that_ends_is_named_with_its_log(state: Path, tmp_path: Path, picture: Path) -> None:
    with Stack(state, environment=os.environ | SETTINGS) as running:
        run = Run(running, Console(file=io.StringIO()), tmp_path / "drop")
        gate = next(part for part in running.parts if part.name == "gate")
        os.kill(gate.pid, signal.SIGKILL)
        deadline = time.monotonic() + WAIT_S
        while psutil.pid_exists(gate.pid) and time.monotonic() < deadline:
            with suppress(StackError):
                running.check()
        for work in (running.check, lambda: run.upload(picture, "you")):
            with pytest.raises(StackError, match=r"gate stopped: .*gate\.log"):
                work()


def test_make_reconcile_finishes_what_lies_unfinished_and_says_so_in_a_line(
    stack: Stack, capsys: pytest.CaptureFixture[str]
) -> None:
    with closing(Database(Settings(database_url=stack.database_url, lease_s=1))) as database:
        Leases(database).acquire(Upload("dropcap-uploads", "ana/gone.png", 1, 12))
        while database.query("SELECT 1 FROM uploads WHERE lease_until > now() AND state = 'claimed'"):
            time.sleep(0.1)
    assert reconcile(["--state", str(stack.state)]) == 0
    printed = capsys.readouterr().out
    assert printed == "1 upload was unfinished: 1 done, 0 quarantined, 0 failed, 0 left for the next run.\n"


def test_make_redescribe_counts_asks_and_marks_and_reconcile_does_it(
    stack: Stack, picture: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    posted = {"keep": "true", "user": "cleo"}
    answer = requests.post(f"{stack.url}/analyze", data=picture.read_bytes(), params=posted, timeout=WAIT_S)
    assert answer.status_code == 200, answer.text
    there = ["--state", str(stack.state)]
    monkeypatch.setenv("OWNER", "cleo")
    assert redescribe(there) == 0
    assert "nothing to describe anew" in capsys.readouterr().out
    monkeypatch.setenv("ALL", "0")
    assert redescribe(there) == 0
    assert "nothing to describe anew" in capsys.readouterr().out
    monkeypatch.setenv("ALL", "1")
    assert redescribe(there) == 1
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == (
        "",
        "make redescribe: Have Gemini describe 1 picture anew? Confirm with YES=1.\n",
    )
    monkeypatch.setenv("YES", "1")
    assert redescribe(there) == 0
    assert capsys.readouterr().out.startswith("1 marked")
    assert reconcile(there) == 0
    assert "1 pending description added" in capsys.readouterr().out
    monkeypatch.setenv("SINCE", "soon")
    assert redescribe(there) == 1
    assert "make redescribe: SINCE='soon' is not allowed" in capsys.readouterr().err


def test_make_reconcile_without_a_run_says_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "env").write_text("export DROPCAP_URL=http://127.0.0.1:9\n")  # a run that was killed left it
    for folder in (tmp_path / "none", tmp_path):
        assert reconcile(["--state", str(folder)]) == 1
        printed = capsys.readouterr().err
        assert printed.startswith(f"make reconcile: Nothing runs in {folder}: start it with make run")
        assert printed.count("\n") == 1


class Dying(BaseHTTPRequestHandler):
    """Functions that answer until they are to reconcile."""

    def do_GET(self) -> None:
        self.send_error(400)

    def do_POST(self) -> None:
        self.close_connection = True


class Other(Dying):
    """Something else, at the address that was theirs."""

    def do_POST(self) -> None:
        self.send_error(502)


@pytest.mark.parametrize(
    ("command", "functions", "printed"),
    [
        (reconcile, Dying, "make reconcile: The functions crashed during an upload."),
        (redescribe, Dying, "make redescribe: The functions gave no answer that can be read (log: "),
        (redescribe, Other, "make redescribe: The functions gave no answer that can be read (log: "),
    ],
)
def test_where_the_functions_die_or_are_others_make_says_so(
    command: Callable[[list[str]], int],
    functions: type[Dying],
    printed: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with HTTPServer(("127.0.0.1", 0), functions) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        (tmp_path / "env").write_text(f"export DROPCAP_URL=http://127.0.0.1:{server.server_port}\n")
        assert command(["--state", str(tmp_path)]) == 1
        server.shutdown()
    assert printed in capsys.readouterr().err


def make(*words: str) -> str:
    """What make says."""
    program = shutil.which("make") or "make"
    return subprocess.run([program, *words], cwd=ROOT, capture_output=True, text=True, check=True).stdout


def test_make_help_has_a_line_for_each_target() -> None:
    makefile = (ROOT / "Makefile").read_text()
    variables = dict(re.findall(r"^([A-Z]+) = (.+)$", makefile, re.MULTILINE))
    (phony,) = re.findall(r"^\.PHONY: (.+)$", makefile, re.MULTILINE)
    targets = re.sub(r"\$\((\w+)\)", lambda name: variables[name[1]], phony)
    lines = make("help")
    listed = re.findall(r"^  make ([\w-]+) +\S", lines, re.MULTILINE)
    aliases = ["sweep", "torture"]  # deprecated
    assert sorted([*listed, "help", *aliases]) == sorted(targets.split())
    assert max(map(len, lines.splitlines())) <= 80


def test_make_passes_its_words_on() -> None:
    printed = make("-n", "-o", ".venv/installed", "run", "ONCE=1", "PICTURES=a.jpg b.png", "PORT=8090")
    assert "--port 8090" in printed
    assert "--once -- a.jpg b.png" in printed


def test_without_a_python_make_says_what_to_do(tmp_path: Path) -> None:
    script = ["/bin/sh", str(ROOT / "infra" / "environment.sh"), str(tmp_path / "venv")]
    done = subprocess.run(script, env=os.environ | {"PYTHON": "/no/python"}, capture_output=True, text=True)
    assert done.returncode == 1
    assert "Dropcap needs Python 3.11 or newer" in done.stderr
    assert not (tmp_path / "venv").exists()
