"""The local stack: PostgreSQL, Cloud Storage, Gemini and the functions, started and stopped together.

state/env         shell variables that point any client at the stack: `. .dropcap/env`
state/logs/       the log of each part
state/objects/    the buckets            state/postgres/   the database
"""

import fcntl
import os
import shlex
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from dropcap.settings import Settings
from infra import ROOT
from infra.local import Part, StackError
from infra.local.postgres import Postgres
from infra.local.process import Process, free_port
from infra.local.storage.server import Storage

STAND_IN = "stand-in"  # as GEMINI_API_KEY
NEXT_PORTS = 50
ENDING_S = 5.0  # how long the parts of a killed run may hold its port
THREADS = 8
LEASE_S = 110  # short, so that the next run soon continues what a killed run had begun; Gemini may take 100


class Stack(Part):
    """The stack with its data in `state`, kept between runs, and the functions on 127.0.0.1:`port`.

    Port 0 takes any free one. `environment` has the variables of the parts. Its GEMINI_API_KEY connects
    Google's Gemini, or the stand-in if it is STAND_IN; without it, BLIP captions alone. Raises StackError if
    it can't start, SettingsError for an invalid setting.
    """

    def __init__(
        self,
        state: Path,
        port: int = 0,
        storage_port: int = 0,
        postgres_port: int = 0,
        environment: Mapping[str, str] = os.environ,
    ) -> None:
        self.state = state.resolve()
        self.logs = self.state / "logs"
        self.port = port
        self.storage_port = storage_port
        self.postgres_port = postgres_port
        self.stand_in = environment.get("GEMINI_API_KEY") == STAND_IN
        self.environment = dict(environment)
        self.exports: dict[str, str] = {}
        self.settings = Settings.read(self.environment)
        self.parts: list[Process] = []  # except PostgreSQL
        self._exit = ExitStack()

    @property
    def url(self) -> str:
        """Return the URL of the functions."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def storage_url(self) -> str:
        return self.exports["STORAGE_EMULATOR_HOST"]

    @property
    def postgres_log(self) -> Path:
        return self.state / "postgres" / "log"

    @property
    def database_url(self) -> str:
        return self.exports["DATABASE_URL"]

    def check(self) -> None:
        """Raise StackError if a part has stopped, with the last line of its log."""
        for part in self.parts:
            part.check()

    def close(self) -> None:
        """Stop all parts, the functions first."""
        self._exit.close()
        self.parts.clear()

    def start(self) -> None:
        """Start all parts, in parallel where possible, and wait until all of them answer."""
        self.state.mkdir(parents=True, exist_ok=True)
        self._lock()
        self._take_port()
        self._exit.callback((self.state / "env").unlink, missing_ok=True)
        storage = self._start_storage()
        gemini = self._start_gemini() if self.stand_in else None
        postgres = self._exit.enter_context(Postgres(self.state / "postgres", self.postgres_port))
        self.exports["DATABASE_URL"] = postgres.database("dropcap")
        self.exports["DROPCAP_URL"] = self.url
        self.environment |= self.exports
        self.environment = {"THREADS": str(THREADS), "LEASE_S": str(LEASE_S)} | self.environment
        self._write_exports()
        functions = self._run("functions", "infra.local.functions", "--port", str(self.port))
        storage.wait()
        settings = self.settings
        names = (settings.uploads_bucket, settings.pictures_bucket, settings.quarantine_bucket)
        for bucket in {*names, settings.archive_bucket} - {""}:
            storage.create_bucket(bucket)
        if gemini:
            gemini.wait_until_answers(f"{self.exports['GEMINI_ENDPOINT']}/_calls")
        functions.wait_until_answers(f"{self.url}/get_progress_stats")  # without a user it answers 400

    def _lock(self) -> None:
        """Allow one run for a state folder; the kernel releases the lock even if a run is killed."""
        file = self._exit.enter_context((self.state / "lock").open("w"))
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as held:
            raise StackError(
                f"Another `make run` uses {self.state}: stop it, or take another folder: make run STATE=other"
            ) from held

    def _take_port(self) -> None:
        deadline = time.monotonic() + ENDING_S
        while True:
            try:
                remedy = f"choose another port: make run PORT={self.port + 10}"
                self.port = free_port(self.port, "the functions", remedy)
                return
            except StackError:
                if not self._was_killed() or time.monotonic() > deadline:
                    raise
                time.sleep(0.1)

    def _was_killed(self) -> bool:
        """Return whether the previous run was killed: a run that stops deletes `env` last."""
        return (self.state / "env").exists()

    def _start_storage(self) -> Storage:
        port = self.storage_port or next_free(self.port + 1)
        storage = Storage(
            self.state / "objects",
            self.logs,
            port,
            events_to=f"{self.url}/",
            watch=[self.settings.uploads_bucket],
        )
        self._exit.callback(storage.close)
        storage.start()
        self.parts += storage.parts
        token = self.state / "token"
        token.write_text("local")
        self.exports |= {
            "STORAGE_EMULATOR_HOST": storage.url,
            "CLOUDSDK_API_ENDPOINT_OVERRIDES_STORAGE": f"{storage.url}/storage/v1/",
            "CLOUDSDK_AUTH_ACCESS_TOKEN_FILE": str(token),
            "CLOUDSDK_CORE_PROJECT": "dropcap-local",
        }
        return storage

    def _start_gemini(self) -> Process:
        port = free_port()
        self.exports |= {"GEMINI_API_KEY": STAND_IN, "GEMINI_ENDPOINT": f"http://127.0.0.1:{port}"}
        return self._run("gemini", "infra.local.gemini", "--port", str(port))

    def _run(self, name: str, module: str, *words: str) -> Process:
        log, command = self.logs / f"{name}.log", [sys.executable, "-m", module, *words]
        part = self._exit.enter_context(Process(name, command, log, self.environment, ROOT))
        self.parts.append(part)
        return part

    def _write_exports(self) -> None:
        path = self.state / "env"
        path.unlink(missing_ok=True)
        with open(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_EXCL, 0o600), "w") as file:
            for name, value in sorted(self.exports.items()):
                file.write(f"export {name}={shlex.quote(value)}\n")


def next_free(first: int) -> int:
    """Return the first free port from `first` on, so that addresses stay the same from run to run."""
    for port in range(first, min(first + NEXT_PORTS, 65_536)):
        try:
            return free_port(port)
        except StackError:
            continue
    return free_port()
