"""Programs of the local stack: each writes a log and stops with its parent process."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from pathlib import Path

import requests

from infra.local import Part, StackError

START_S = 60.0
STOP_S = 10.0


def run_until_eof(signal_name: str) -> str:
    """Return a shell script that runs the program in its arguments until its standard input closes.

    A background process reads standard input, a pipe from this process. It closes when this process closes
    it or is killed; the program then gets the signal (TERM, INT). Requires only a POSIX sh.
    """
    return f'exec 3<&0; ( (read _ <&3; kill -{signal_name} $$) & ); exec "$@" 3<&- </dev/null'


def stop(process: subprocess.Popen[bytes], seconds: float) -> None:
    """Stop a program that runs until EOF; after `seconds`, kill its process group. Safe to call twice."""
    assert process.stdin is not None
    process.stdin.close()
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


class Process(Part):
    """A program that stops with its parent process, even if that is killed.

    It runs in `folder` and writes to `log`.
    """

    def __init__(
        self, name: str, command: Sequence[str], log: Path, environment: Mapping[str, str], folder: Path
    ) -> None:
        self.name = name
        self.log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                ["/bin/sh", "-c", run_until_eof("TERM"), name, *command],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=dict(environment),
                cwd=folder,
                start_new_session=True,  # Ctrl-C is for the parent, which stops the parts in order
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    def check(self) -> None:
        """Raise StackError if the program has stopped, with the last line of its log."""
        if self._process.poll() is not None:
            raise StackError(
                f"{self.name} stopped: {last_line(self.log.read_text(errors='replace'))} (log: {self.log})"
            )

    def wait_until_answers(self, url: str) -> None:
        """Wait until an HTTP GET of `url` returns a status below 500.

        Raises StackError if the program stops, or after START_S.
        """
        deadline = time.monotonic() + START_S
        while True:
            self.check()
            try:
                if requests.get(url, timeout=5).status_code < HTTPStatus.INTERNAL_SERVER_ERROR:
                    return
            except requests.ConnectionError:
                pass  # not listening yet
            if time.monotonic() > deadline:
                raise StackError(f"{self.name} does not answer after {START_S:.0f} s (log: {self.log})")
            time.sleep(0.03)

    def close(self) -> None:
        """Stop the program."""
        stop(self._process, STOP_S)


def free_port(port: int = 0, meant_for: str = "the stack", remedy: str = "choose another port") -> int:
    """Return `port`, or a free one for 0. Raises StackError if it is in use."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise StackError(
                f"Port {port}, meant for {meant_for}, is in use: stop the program that uses it, or {remedy}."
            ) from error
        return int(probe.getsockname()[1])


def framework(
    source: Path, port: int, target: str = "on_upload", python: Path = Path(sys.executable)
) -> tuple[str, ...]:
    """Return the command that serves a function on 127.0.0.1 under functions-framework, as deployed.

    It runs in the virtual environment of `python`.
    """
    kind = "cloudevent" if target == "on_upload" else "http"
    return (
        *(str(python.with_name("functions-framework")), "--target", target),
        *("--source", str(source), "--signature-type", kind),
        *("--host", "127.0.0.1", "--port", str(port)),
    )


def last_line(log: str) -> str:
    """Return the last line of a log that is not blank; of a JSON line, its message."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    last = lines[-1] if lines else "it said nothing"
    try:
        return str(json.loads(last)["message"])
    except (ValueError, TypeError, KeyError):
        return last
