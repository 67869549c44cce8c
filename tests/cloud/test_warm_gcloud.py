"""The warm gcloud prints the same output as the real one, and calls do not affect each other."""

import json
import os
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO
from unittest.mock import Mock

import pytest

from tests.support.cloud import replayed_gcloud
from tests.support.cloud.control_plane import ControlPlane
from tests.support.cloud.warm_gcloud import WarmGcloud

Done = subprocess.CompletedProcess[str]


@pytest.fixture
def caller(warm_gcloud: str, tmp_path: Path) -> dict[str, str]:
    """Provide a warm gcloud without configuration."""
    kept = {name: value for name, value in os.environ.items() if "CLOUDSDK" not in name}
    path = f"{warm_gcloud}:{os.environ['PATH']}"
    return kept | {"PATH": path, "CLOUDSDK_CONFIG": str(tmp_path / "config"), "WARM": warm_gcloud}


def run(caller: dict[str, str], *words: str, text: str = "", folder: Path | None = None) -> Done:
    command = ["gcloud", *words]
    return subprocess.run(command, env=caller, input=text, capture_output=True, text=True, cwd=folder)


@pytest.mark.parametrize("words", [("config", "list", "--format=json"), ("run", "deploy", "--no-such-flag")])
def test_output_and_exit_status_are_those_of_the_plain_gcloud(
    caller: dict[str, str], words: tuple[str, ...]
) -> None:
    cold = caller | {"PATH": caller["PATH"].removeprefix(f"{caller['WARM']}:")}
    once, again = run(caller, *words), run(caller, *words)
    plain = run(cold, *words)
    results = [(done.returncode, done.stdout, done.stderr) for done in (plain, once, again)]
    assert results[1:] == [results[0], results[0]]


def test_each_call_has_its_own_environment_and_folder_also_at_the_same_time(
    caller: dict[str, str], tmp_path: Path
) -> None:
    def project_of(name: str) -> str:
        return run(caller | {"CLOUDSDK_CORE_PROJECT": name}, "config", "get", "project").stdout.strip()

    names = [f"project-{number}" for number in range(8)]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(project_of, names)) == names
    assert run(caller, "config", "get", "project").stdout.strip() == ""

    (tmp_path / "flags.yaml").write_text("--format: json")
    listed = run(caller, "config", "list", "--flags-file=flags.yaml", folder=tmp_path)
    json.loads(listed.stdout)


def test_a_call_reads_and_logs_in_its_own_configuration(caller: dict[str, str]) -> None:
    run(caller, "config", "set", "core/project", "kept")
    assert run(caller, "config", "get", "project").stdout == "kept\n"
    assert [*Path(caller["CLOUDSDK_CONFIG"]).glob("logs/*/*.log")]
    assert run(caller | {"CLOUDSDK_CORE_PROJECT": "own"}, "config", "get", "project").stdout == "own\n"
    other = caller | {"CLOUDSDK_CONFIG": f"{caller['CLOUDSDK_CONFIG']}-2"}
    assert run(other, "config", "get", "project").stdout.strip() == ""


def test_what_is_piped_into_a_call_is_its_input(plane: ControlPlane) -> None:
    caller = os.environ | plane.environment
    run(caller, "services", "enable", "secretmanager.googleapis.com")
    run(caller, "secrets", "create", "s", "--data-file=-", text="from a pipe")
    assert run(caller, "secrets", "versions", "access", "1", "--secret=s").stdout == "from a pipe"


def test_a_call_that_is_killed_stops_working(caller: dict[str, str]) -> None:
    read, write = os.pipe()
    waiting = ["gcloud", "secrets", "create", "s", "--project=p", "--data-file=-"]  # for its standard input
    call = subprocess.Popen(waiting, env=caller, stdin=read)
    os.close(read)
    time.sleep(0.5)
    call.kill()
    call.wait()
    with open(write, "wb", 0) as pipe, pytest.raises(BrokenPipeError):  # nobody is left to read it
        write_slowly(pipe)


def write_slowly(pipe: BinaryIO) -> None:
    for _ in range(100):
        pipe.write(b"a")
        time.sleep(0.1)


def test_a_gcloud_of_another_layout_is_used_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, folder = tmp_path / "bin" / "gcloud", tmp_path / "warm"
    for each in (plain.parent, folder):
        each.mkdir()
    plain.write_text("#!/bin/sh\necho plain $*\n")
    plain.chmod(0o700)
    monkeypatch.setenv("PATH", f"{plain.parent}:{os.environ['PATH']}")
    with WarmGcloud(str(folder)) as warm:
        done = subprocess.run([f"{warm.folder}/gcloud", "config", "list"], capture_output=True, text=True)
    assert done.stdout == "plain config list\n"


def test_a_repeated_read_is_replayed_only_while_the_responses_are_the_same(
    plane: ControlPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    caller, record = os.environ | plane.environment, Mock(side_effect=replayed_gcloud._run)
    monkeypatch.setattr(replayed_gcloud, "_run", record)

    def read() -> tuple[int, str, str]:
        done = run(caller, "secrets", "list", "--format=value(name)", "--quiet")
        return done.returncode, done.stdout, done.stderr

    run(caller, "services", "enable", "secretmanager.googleapis.com")
    run(caller, "secrets", "create", "s")
    assert (read(), read(), record.call_count) == ((0, "s\n", ""), (0, "s\n", ""), 1)
    run(caller, "secrets", "create", "t")
    assert (read(), read(), record.call_count) == ((0, "s\nt\n", ""), (0, "s\nt\n", ""), 2)
    sent = len(plane.requests)
    assert (read(), len(plane.requests)) == ((0, "s\nt\n", ""), sent + 1)  # a replay sends the request, too
    plane.refuse("GET secretmanager", 403, "secretmanager.secrets.list")
    assert (read()[0], record.call_count) == (1, 3)
    assert (read(), record.call_count) == ((0, "s\nt\n", ""), 3)
