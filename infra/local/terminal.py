"""A running stack, used from a terminal: upload files, watch the drop folder, show the outcomes."""

import mimetypes
import os
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from uuid import UUID

from google.api_core.exceptions import PreconditionFailed
from google.auth.credentials import AnonymousCredentials
from google.cloud.storage import Client
from rich.console import Console
from rich.text import Text

from dropcap.domain.upload import Upload
from dropcap.errors import Rejected
from dropcap.storage.buckets import check_size
from infra.local import YOU, Failed, show
from infra.local.drop import DONE, DropFolder, Refused, facts_of, object_names, opened
from infra.local.process import last_line
from infra.local.results import Outcome, Results
from infra.local.stack import Stack
from infra.text import plural, printable, short

POLL_S = 0.3
LONGEST_ERROR = 200  # characters of another program's message
LONGEST_NAME = 60  # characters of a file's name in a line
KEPT = {"delete": "deleted", "keep": "kept", "archive": "archived, then deleted"}


class Run:
    """A running stack, used from a terminal."""

    def __init__(self, stack: Stack, console: Console, drop: Path) -> None:
        self.stack = stack
        self.console = console
        self.drop = DropFolder(drop)
        self.client = Client(
            "dropcap-local",
            AnonymousCredentials(),
            client_options={"api_endpoint": stack.storage_url},
        )
        self.results = Results(stack.database_url, stack.postgres_log, stack.settings.database_schema)
        self._uploaded: dict[UUID, Path] = {}  # where files of the drop folder are now
        self._problem = ""  # with the drop folder, as printed last

    def say(self, line: str) -> None:
        """Print a line that may have names of files in it."""
        self.console.print(Text(printable(line)))

    def upload(self, path: Path, user: str) -> UUID:
        """Upload one file as a new object `user/name`; return its id.

        Raises Refused if it can't be uploaded or would not be analyzed, StackError if a part has stopped.
        """
        with opened(path) as (file, size):
            for name in object_names(path):
                upload = Upload(self.stack.settings.uploads_bucket, f"{user}/{name}", 0, size)
                self._check(upload)
                blob = self.client.bucket(upload.bucket).blob(upload.name)
                blob.metadata = {"tz": local_zone()}
                try:
                    blob.upload_from_file(
                        file,
                        rewind=True,
                        size=size,
                        content_type=mimetypes.guess_type(name)[0],
                        if_generation_match=0,  # does not replace an upload of the same name in progress
                        retry=None,  # by default 120 s; a server on this machine answers no better later
                    )
                except PreconditionFailed:
                    continue
                except Exception as error:  # whatever it is, the other files go on
                    self.stack.check()
                    reason = f"{type(error).__name__}: {error}".partition("\n")[0]
                    raise Refused(f"It can't be uploaded ({reason[:LONGEST_ERROR]}).") from error
                return replace(upload, generation=int(blob.generation)).id
        raise AssertionError("names are endless")

    def _check(self, upload: Upload) -> None:
        """Raise Refused for what the functions would reject unread, or leave alone without a word."""
        settings = self.stack.settings
        try:
            check_size(upload.size, settings)
        except Rejected as rejected:
            raise Refused(str(rejected)) from rejected
        if not upload.size:
            raise Refused("It is empty.")
        if not upload.wanted(settings.include, settings.exclude):
            raise Refused("INCLUDE and EXCLUDE leave it out, or it is named as a tool's temporary object.")

    def show_new(self) -> list[Outcome]:
        """Show and return the outcomes since the last call; put rejected files of the drop folder aside."""
        fresh = self.results.new()
        for finished in fresh:
            kept = KEPT[self.stack.settings.source]
            path = None if finished.held else self._uploaded.pop(finished.id, None)
            if finished.held:
                kept = "kept where it is"
            elif finished.analysis is None:
                kept = "kept in quarantine"
                if path:
                    kept += f"; {self._put_aside(path, finished.reason)[1]}"
            show.outcome(self.console, self.client, finished, self.stack.settings.pictures_bucket, kept)
        return fresh

    def drop_and_wait(self, paths: Sequence[Path], user: str, timeout_s: float) -> None:
        """Upload the files and show each outcome.

        Raises Failed if one is refused or rejected, or if none is finished within `timeout_s`.
        """
        pending: dict[UUID, str] = {}
        failures: list[str] = []
        with self.console.status(f"{plural(len(paths), 'picture')} dropped ..."):
            for path in paths:
                try:
                    pending[self.upload(path, user)] = path.name
                except Refused as refused:
                    failures.append(f"{_name(path)} was refused: {refused}")
                    self.say(failures[-1])
                self._finish(pending, failures)
            deadline = time.monotonic() + timeout_s
            while pending:
                if self._finish(pending, failures):
                    deadline = time.monotonic() + timeout_s
                self.stack.check()
                if time.monotonic() > deadline:
                    log = self.stack.logs / "functions.log"
                    last = last_line(log.read_text(errors="replace"))
                    raise Failed(f"Not done in time: {', '.join(pending.values())}. {last} (log: {log})")
                time.sleep(POLL_S / 3)
        if len(failures) > 1:
            raise Failed(f"{len(failures)} of {len(paths)} pictures failed. The first: {failures[0]}")
        if failures:
            raise Failed(failures[0])

    def _finish(self, pending: dict[UUID, str], failures: list[str]) -> bool:
        """Show what is new, and add the rejected ones to `failures`; return whether any was pending."""
        finished = [each for each in self.show_new() if pending.pop(each.id, None)]
        failures += [
            f"{each.name} was {'held' if each.held else 'rejected'}: {each.reason}"
            for each in finished
            if each.analysis is None
        ]
        return bool(finished)

    def stay(self) -> None:
        """Upload files from the drop folder and show outcomes, until interrupted."""
        try:
            self.drop.create()
        except OSError as error:
            raise Failed(f"The folder {self.drop.folder} can't be used: {error.strerror}.") from error
        show.ready(
            self.console,
            self.stack.exports,
            short(self.stack.state / "env"),
            short(self.drop.folder),
            self.stack.settings.uploads_bucket,
        )
        try:
            while True:
                self.show_new()
                self.stack.check()
                self.upload_dropped()
                time.sleep(POLL_S)
        finally:
            self.drop.tidy()

    def upload_dropped(self) -> None:
        """Upload each file that lies complete in the drop folder, and move it to `done` or `refused`."""
        try:
            paths, problem = self.drop.settled(), ""
        except OSError as error:
            paths, problem = [], f"{short(self.drop.folder)} can't be read: {error.strerror}."
        if problem not in ("", self._problem):
            self.say(problem)
        self._problem = problem
        for path in paths:
            before, reason, id = facts_of(path), "", None
            try:
                id = self.upload(path, YOU)
            except Refused as refused:
                reason = str(refused)
            if before is None or facts_of(path) != before:
                continue  # it is gone, or was not complete and comes again when it is
            name = _name(path.relative_to(self.drop.folder))
            moved, where = self._put_aside(path, reason)
            if id:
                self._uploaded[id] = moved
            if reason:
                self.say(f"{name} was refused: {reason} {where[0].upper()}{where[1:]}.")
            elif moved == path:
                self.say(f"{name} was uploaded; {where}.")
            self.show_new()

    def _put_aside(self, path: Path, reason: str) -> tuple[Path, str]:
        """Move a file of the drop folder to `done`, or with a reason to `refused`.

        Return its path, and in words where it is.
        """
        try:
            moved = self.drop.refuse(path, reason) if reason else self.drop.move(path, DONE)
        except OSError as error:
            self.drop.ignore(path)
            return path, f"the file stays, because it can't be moved: {error.strerror}"
        return moved, f"the file is in {short(moved.parent)}"


def local_zone() -> str:
    """Return this machine's IANA time zone, or UTC."""
    zone = os.environ.get("TZ", "").removeprefix(":")
    return zone or Path("/etc/localtime").resolve().as_posix().partition("/zoneinfo/")[2] or "UTC"


def _name(path: Path) -> str:
    """Return a path for a line of text: of a long one, the end."""
    name = printable(str(path))
    return name if len(name) <= LONGEST_NAME else f"…{name[-LONGEST_NAME:]}"
