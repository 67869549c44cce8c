"""`make run`: start the local stack, upload pictures to the bucket, and show the results."""

import argparse
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from uuid import UUID

from google.auth.credentials import AnonymousCredentials
from google.cloud.storage import Client
from rich.console import Console

from dropcap.domain.upload import Upload
from dropcap.errors import SettingsError
from dropcap.settings import MODEL_FOLDER
from infra import ROOT
from infra.local import StackError, captioner, show
from infra.local.process import last_line
from infra.local.results import Outcome, Results
from infra.local.stack import Stack

SAMPLES = ROOT / "infra" / "samples"
PICTURES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".gif", ".tif", ".tiff", ".bmp", ".heic", ".avif"})
POLL_S = 0.3
PLAIN_WIDTH = 1000  # columns; the reader of a pipe wraps lines itself
SVG_WIDTH = 124  # columns
KEPT = {"delete": "deleted", "keep": "kept", "archive": "archived, then deleted"}


class Failed(Exception):
    """The run failed; the message is one line with cause and remedy."""


class Run:
    """A running stack, used from a terminal."""

    def __init__(self, stack: Stack, console: Console, drop: Path) -> None:
        self.stack = stack
        self.console = console
        self.drop = drop
        self.client = Client(
            "dropcap-local",
            AnonymousCredentials(),
            client_options={"api_endpoint": stack.storage_url},
        )
        self.results = Results(stack.database_url, stack.postgres_log, stack.settings.database_schema)
        self._sizes: dict[Path, tuple[int, int]] = {}

    def upload(self, path: Path, user: str) -> UUID | None:
        """Upload one file as `user/name`; return its id, or None if the settings do not select it."""
        settings = self.stack.settings
        blob = self.client.bucket(settings.uploads_bucket).blob(f"{user}/{path.name}")
        blob.metadata = {"tz": local_zone()}
        blob.upload_from_filename(path)
        upload = Upload(settings.uploads_bucket, blob.name, int(blob.generation), path.stat().st_size)
        return upload.id if upload.wanted(settings.include, settings.exclude) else None

    def show_new(self) -> list[Outcome]:
        """Show and return the outcomes since the last call."""
        settings = self.stack.settings
        fresh = self.results.new()
        for finished in fresh:
            show.outcome(self.console, self.client, finished, settings.pictures_bucket, KEPT[settings.source])
        return fresh

    def drop_and_wait(self, paths: Iterable[Path], user: str, timeout_s: float) -> None:
        """Upload the files and show each outcome. Raises Failed if one is rejected or late."""
        pending: dict[UUID, str] = {}
        for path in paths:
            upload = self.upload(path, user)
            if upload is None:
                raise Failed(f"{path} is left alone: it is empty, or INCLUDE and EXCLUDE do not choose it.")
            pending[upload] = path.name
        with self.console.status(f"{len(pending)} pictures dropped ..."):
            self._wait(pending, time.monotonic() + timeout_s)

    def _wait(self, pending: dict[UUID, str], deadline: float) -> None:
        rejected = ""
        while pending:
            for finished in self.show_new():
                if pending.pop(finished.id, None) and finished.analysis is None:
                    rejected = rejected or (
                        f"{finished.name} was {'held' if finished.held else 'rejected'}: {finished.reason}"
                    )
            self.stack.check()
            if time.monotonic() > deadline:
                log = self.stack.logs / "functions.log"
                last = last_line(log.read_text(errors="replace"))
                raise Failed(f"Not done in time: {', '.join(pending.values())}. {last} (log: {log})")
            time.sleep(POLL_S / 3)
        if rejected:
            raise Failed(rejected)

    def stay(self) -> None:
        """Upload files from the drop folder and show outcomes, until interrupted."""
        self.drop.mkdir(parents=True, exist_ok=True)
        env = self.stack.state / "env"
        show.ready(
            self.console,
            self.stack.exports,
            _short(env),
            _short(self.drop),
            self.stack.settings.uploads_bucket,
        )
        while True:
            self.show_new()
            self.stack.check()
            self._upload_dropped()
            time.sleep(POLL_S)

    def _upload_dropped(self) -> None:
        """Upload each file that has not changed since the last call, and move it to `done`."""
        before, self._sizes = self._sizes, {}
        for path in sorted(self.drop.iterdir()):
            if path.name.startswith(".") or not path.is_file():
                continue
            facts = path.stat()
            self._sizes[path] = (facts.st_size, facts.st_mtime_ns)
            if before.get(path) == self._sizes[path]:
                if self.upload(path, show.YOU) is None:
                    self.console.print(
                        f"{path.name} is left alone: empty, or not chosen by INCLUDE and EXCLUDE."
                    )
                done = self.drop / "done"
                done.mkdir(exist_ok=True)
                shutil.move(path, done / path.name)


def local_zone() -> str:
    """Return this machine's IANA time zone, or UTC."""
    zone = os.environ.get("TZ", "").removeprefix(":")
    return zone or Path("/etc/localtime").resolve().as_posix().partition("/zoneinfo/")[2] or "UTC"


def _short(path: Path) -> str:
    """Return the path relative to the working folder if it is below it."""
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)


def _arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="make run",
        description="Start the local stack, drop pictures, show what comes of them. "
        "With make: make run PORT=8090 ONCE=1 PICTURES='a.jpg b.png'. "
        "Settings of the functions are taken from the environment (SIZES=800,200 make run).",
    )
    parser.add_argument(
        "pictures", nargs="*", type=Path, metavar="PICTURE", help="files in place of the samples"
    )
    parser.add_argument(
        "--once", action="store_true", help="end when the pictures are done; not 0 where one failed"
    )
    parser.add_argument("--port", type=int, default=8080, help="port of the functions (%(default)s)")
    parser.add_argument(
        "--storage-port", type=int, default=0, help="port of Cloud Storage (the next free one)"
    )
    parser.add_argument("--postgres-port", type=int, default=0, help="port of PostgreSQL (any free one)")
    parser.add_argument("--state", type=Path, default=ROOT / ".dropcap", help="folder of the data (.dropcap)")
    parser.add_argument("--drop", type=Path, default=ROOT / "drop", help="folder to watch (drop)")
    parser.add_argument("--model", help="install what make model MODEL=... would, if it is another model")
    parser.add_argument(
        "--timeout", type=float, default=300, metavar="S", help="longest wait for the pictures, s"
    )
    parser.add_argument(
        "--svg", type=Path, metavar="FILE", help="save what a terminal would show as a picture"
    )
    return parser.parse_args(words)


def _run(arguments: argparse.Namespace, console: Console) -> None:
    for path in arguments.pictures:
        if not path.is_file():
            raise Failed(f"There is no file {path}: check PICTURES.")
    samples = sorted(path for path in SAMPLES.iterdir() if path.suffix.lower() in PICTURES)
    stack = Stack(arguments.state, arguments.port, arguments.storage_port, arguments.postgres_port)
    folder, notice_shown = stack.settings.model_folder, False
    if arguments.model and folder != MODEL_FOLDER:
        raise Failed(
            f"MODEL_FOLDER={folder} is used, and MODEL would be installed elsewhere: unset one of the two."
        )
    if arguments.model:
        captioner.install(arguments.model, stack.state)
    elif folder == MODEL_FOLDER and captioner.notice(folder) and _is_interactive(arguments):
        notice_shown = captioner.offer(console, stack.state)
    started = time.monotonic()
    with console.status("Starting PostgreSQL, Cloud Storage, Gemini and the functions ..."):
        stack.__enter__()
    try:
        gemini = "Gemini's stand-in" if stack.stand_in else "Google's Gemini"
        console.print(
            f"PostgreSQL, Cloud Storage, {gemini} and the functions are up after "
            f"{time.monotonic() - started:.1f} s.",
            highlight=False,
        )
        if (notice := captioner.notice(folder)) and not notice_shown:
            console.print(notice, style="yellow", markup=False)
        run = Run(stack, console, arguments.drop)
        if arguments.pictures:
            run.drop_and_wait(arguments.pictures, show.YOU, arguments.timeout)
        elif arguments.once or not run.results.analyzed([f"{show.YOU}/{path.name}" for path in samples]):
            run.drop_and_wait(samples, show.YOU, arguments.timeout)
        else:
            console.print("The samples were analyzed by an earlier run; its data is kept.", highlight=False)
        if not arguments.once:
            run.stay()
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C must not leave processes behind
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        with console.status("Stopping ..."):
            stack.close()


def _is_interactive(arguments: argparse.Namespace) -> bool:
    """Return whether the command can ask a question in a terminal."""
    return not (arguments.once or arguments.svg) and sys.stdin.isatty() and sys.stdout.isatty()


def main(words: Sequence[str] | None = None) -> int:
    """Return the exit status: 0, or 1 with the reason in one line on stderr."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C
    arguments = _arguments(words)
    console = Console(width=None if sys.stdout.isatty() else PLAIN_WIDTH, highlight=False)
    if arguments.svg:
        console = Console(
            record=True,
            width=SVG_WIDTH,
            highlight=False,
            force_terminal=True,
            force_interactive=False,
            color_system="truecolor",
        )
    try:
        _run(arguments, console)
        if arguments.svg:
            console.save_svg(str(arguments.svg), title="make run")
    except KeyboardInterrupt:
        return 0
    except (Failed, StackError, SettingsError) as reason:
        print(f"make run: {reason}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
