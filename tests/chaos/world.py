"""The world of a scenario: services, uploads and their expected outcomes, functions, the clock."""

import base64
import hashlib
import io
import os
import random
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from threading import Lock
from typing import Any
from uuid import UUID, uuid4

import psutil
from pg8000.native import Connection
from PIL import Image

from dropcap.database.connection import connect_to_schema
from dropcap.database.schema.tables import INSTANT, TABLES
from dropcap.describing import moderation
from dropcap.domain.upload import Upload, from_event
from dropcap.settings import Settings
from infra import ROOT
from infra.local import Part, StackError
from infra.local.events import cloud_event
from infra.local.process import Process, framework, free_port
from tests.support.backing_services import BackingServices, post_event

KILLABLE = Path(__file__).with_name("killable.py")
ARCHIVE = "dropcap-archive"
USERS = ("ana", "bo", "cy")
BAD = "not_a_picture"
TIMEOUT_S = 18  # the function's 540 s (infra/cloud/config.py), by the same measure as the bounds below
LEASE_S = 20  # as the lease of 600 s is longer than 540 s
# A thirtieth of the defaults, unless that is too short for a busy machine.
BOUNDS = {
    "STORAGE_TIMEOUT_S": "2",
    "DATABASE_TIMEOUT_S": "1",
    "GEMINI_TIMEOUT_S": "1",
    "GEMINI_ATTEMPTS": "2",
    "TIMEOUT_S": "16",
}
# Events are written, but there is no consumer at port 9.
EVENTS = {
    "RECEIPTS": "1",
    "EVENTS": "projects/dropcap-chaos/topics/done",
    "PUBSUB_EMULATOR_HOST": "127.0.0.1:9",
    "EVENTS_TIMEOUT_S": "1",
}
USUAL = (
    {"SIZES": "96,48", "THREADS": "4", "LEASE_S": str(LEASE_S), "ARCHIVE_BUCKET": ARCHIVE} | BOUNDS | EVENTS
)
NONE: Mapping[str, str] = {}
# With SAFETY: the response of Gemini, and the outcome of the picture.
UNSAFE, NO_VERDICT = {"GEMINI_MODEL": "fault-unsafe-high"}, {"GEMINI_MODEL": "fault-missing-safety"}
BECOMES = {UNSAFE["GEMINI_MODEL"]: moderation.UNSAFE, NO_VERDICT["GEMINI_MODEL"]: moderation.NO_VERDICT}
START_S = 20.0  # in which the web server forks another process
TIMED = ("uploads", "receipts", "events")  # tables whose instants are compared with the database's clock
POSTGRES = ("-c", "fsync=off", "-c", "max_connections=100")  # no power fails here


@dataclass(slots=True)
class Sent:
    """An upload that was sent: its colour, and the code of its rejection, empty for a picture."""

    resource: Mapping[str, Any]
    upload: Upload
    md5: str  # in base64, as Cloud Storage has it
    size: tuple[int, int]
    colour: tuple[int, int, int]
    code: str = ""
    or_code: str | None = None  # also correct, because two workers with different settings were involved
    overwritten: bool = False  # a newer upload of the same name exists or is being sent, or it was deleted
    erased: bool = False  # by its user

    @property
    def id(self) -> UUID:
        return self.upload.id

    def __str__(self) -> str:
        return f"{self.upload.name}#{self.upload.generation}"


class World(BackingServices):
    """Empty services. Random choices follow from `seed`.

    `variables` apply to every function in the world, and the invariants depend on them.
    """

    def __init__(self, folder: Path, seed: int, variables: Mapping[str, str] = NONE) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        super().__init__(folder, Settings(archive_bucket=ARCHIVE), in_memory=True, options=POSTGRES)
        self.variables = variables
        self.chance = random.Random(seed)  # noqa: S311  no secret
        self.sent: list[Sent] = []
        self.delivered: set[tuple[UUID, str]] = set()  # to a consumer: upload, type
        self.deliveries = self.kills = 0
        self.earlier = 0  # uploads sent before `renewed`
        self._lock = Lock()

    def upload(self, bad: bool = False, over: Sent | None = None, new: bool = False) -> Sent:
        """Put a small picture into the bucket, or a text if `bad`; replace `over` under its name.

        `new`: for a user without uploads, which passes a few points more.
        """
        with self._lock:
            number = len(self.sent)
            size = (48 + number % 97, 48 + number % 89)
            red, green, blue = (self.chance.randrange(16, 240) for _ in range(3))
            data = f"Dear Ana, this is letter {number}.".encode() if bad else png(size, (red, green, blue))
            user = f"new-{number}" if new else USERS[number % len(USERS)]
            name = over.upload.name if over else f"{user}/{number}.png"
            if over:
                over.overwritten = True
            return self.send(name, data, size, (red, green, blue), BAD if bad else "")

    def send(
        self,
        name: str,
        data: bytes,
        size: tuple[int, int],
        colour: tuple[int, int, int] = (0, 0, 0),
        code: str = "",
    ) -> Sent:
        """Put these bytes into the bucket; `size` in px, and `code` is that of the expected rejection."""
        resource = self.put(name, data)
        sent = Sent(resource, from_event(resource), _md5(data), size, colour, code)
        self.sent.append(sent)
        return sent

    def renewed(self) -> Settings:
        """Start again with empty tables and new buckets; return the settings that name them."""
        self.earlier += len(self.sent)
        self.sent, self.delivered = [], set()
        self.settings = replace(
            self.settings,
            database_url=self.database_url,
            uploads_bucket=f"uploads-{uuid4()}",
            pictures_bucket=f"pictures-{uuid4()}",
            quarantine_bucket=f"quarantine-{uuid4()}",
        )
        for bucket in self.buckets[:3]:
            self.client.create_bucket(bucket)
        with self.connected() as connection:
            connection.run(f"TRUNCATE {', '.join(table.name for table in TABLES)}")
        return self.settings

    def later(self, seconds: float) -> None:
        """Let time pass for the database: move its instants back, because its clock can't be moved.

        Those that it compares with its clock; `analyses` and the progress keep theirs.
        """
        with self.connected() as connection:
            for table in TABLES:
                names = [each.name for each in table.columns if each.type == INSTANT]
                if table.name in TIMED:
                    earlier = ", ".join(f"{name} = {name} - CAST(:by AS interval)" for name in names)
                    sql = f"UPDATE {table.name} SET {earlier}"  # noqa: S608  ours
                    connection.run(sql, by=timedelta(seconds=seconds))

    @contextmanager
    def connected(self) -> Iterator[Connection]:
        """Open a separate connection to the database."""
        connection = connect_to_schema(self.database_url)
        try:
            yield connection
        finally:
            connection.close()

    def function(self, name: str, **settings: str) -> "Function":
        """Return an instance of the function, not yet started; keywords are its variables."""
        return Function(self, name, settings)

    def deliver(self, function: "Function", sent: Sent) -> str:
        """Deliver once; return the outcome in the words of `post_event`."""
        with self._lock:
            self.deliveries += 1
        return post_event(function.url, *cloud_event(sent.resource), TIMEOUT_S)


class Function(Part):
    """An instance of the function whose process can be killed or suspended at a point (killable.py)."""

    def __init__(self, world: World, name: str, settings: Mapping[str, str]) -> None:
        self.world = world
        self.name = name
        self.folder = world.logs / name
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir()
        path = ":".join(filter(None, (str(ROOT / "functions"), str(ROOT), os.environ.get("PYTHONPATH"))))
        own = {"CHAOS_FOLDER": str(self.folder), "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}
        usual = {"PATH": "", "HOME": str(self.folder)} | world.environment | USUAL | own
        self.environment = usual | dict(world.variables) | dict(settings)

    def start(self) -> None:
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        log = self.world.logs / f"{self.name}.log"
        self._process = Process(self.name, framework(KILLABLE, port), log, self.environment, ROOT)

    def wait(self) -> None:
        self._process.wait_until_answers(self.url)

    def close(self) -> None:
        if hasattr(self, "_process"):
            self._process.close()

    def worker(self) -> psutil.Process:
        """Return the worker process. When it is killed, the preloaded web server forks another one."""
        return max(psutil.Process(self._process.pid).children(), key=lambda each: each.create_time())

    def fresh(self) -> None:
        """Replace the worker by a new process."""
        old = self.worker()
        old.kill()
        self.wait_for_another(old)

    def wait_for_another(self, old: psutil.Process) -> None:
        """Wait until a new worker has replaced this one, which was killed."""
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            with suppress(psutil.NoSuchProcess, ValueError):
                if self.worker() != old:
                    return
            time.sleep(0.005)
        raise StackError(f"{self.name} works no more (log: {self.world.logs / self.name}.log)")

    def passes(self) -> Path:
        """Return the file to which passed points are written from now on."""
        file = self.folder / "passed"
        file.write_text("")
        return file

    def order(self, signal: int, point: str) -> None:
        """Have the process send itself a signal at this point, once."""
        new = self.folder / "new"
        new.write_text(f"{signal} {point}")
        new.rename(self.folder / "at")

    def obeyed(self) -> bool:
        """Return whether the order was carried out."""
        return (self.folder / "done").exists()

    def called_off(self) -> bool:
        """Cancel the order; return whether it was carried out before."""
        (self.folder / "at").unlink(missing_ok=True)
        done = self.obeyed()
        (self.folder / "done").unlink(missing_ok=True)
        return done


def png(size: tuple[int, int], colour: tuple[int, ...]) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, "PNG")
    return file.getvalue()


def _md5(data: bytes) -> str:
    return base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()
