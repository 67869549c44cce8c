"""What `make run` does: start the stack, upload the pictures or the samples, and stay."""

import argparse
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console

from dropcap.settings import MODEL_FOLDER
from infra import ROOT
from infra.local import YOU, Failed, captioner
from infra.local.drop import files_in
from infra.local.stack import Stack
from infra.local.terminal import Run

SAMPLES = ROOT / "infra" / "samples"
PICTURES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".gif", ".tif", ".tiff", ".bmp", ".heic", ".avif"})
PLAIN_WIDTH = 1000  # columns; the reader of a pipe wraps lines itself
SVG_WIDTH = 124  # columns
NOT_CONNECTED = (
    "Gemini is not connected, so there are no descriptions and no tags: GEMINI_API_KEY=... make run connects "
    "it (a key: https://aistudio.google.com/apikey)."
)


def run(arguments: argparse.Namespace) -> None:
    """Run the stack until the pictures are done, or until Ctrl-C.

    Raises Failed, StackError or SettingsError.
    """
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
    _run(arguments, console)
    if arguments.svg:
        console.save_svg(str(arguments.svg), title="make run")


def pictures(paths: Sequence[Path]) -> Iterator[Path]:
    """Yield the files, and those in the folders. Raises Failed where there is none."""
    for path in paths:
        try:
            found = [path] if path.is_file() else list(files_in(path)) if path.is_dir() else []
        except OSError as error:
            raise Failed(f"{path} can't be read ({error.strerror}): check PICTURES.") from error
        if not found:
            raise Failed(f"There is no file {path}: check PICTURES.")
        yield from found


def _run(arguments: argparse.Namespace, console: Console) -> None:
    chosen = list(pictures(arguments.pictures))
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
    connected = bool(stack.settings.gemini_api_key)
    started = time.monotonic()
    with console.status("Starting PostgreSQL, Cloud Storage and the functions ..."):
        stack.__enter__()
    try:
        gemini = ", Gemini's stand-in" if stack.stand_in else ", Google's Gemini" if connected else ""
        console.print(
            f"PostgreSQL, Cloud Storage{gemini} and the functions are up "
            f"({time.monotonic() - started:.1f} s).",
            highlight=False,
        )
        if not connected:
            console.print(NOT_CONNECTED, style="yellow", markup=False)
        if (notice := captioner.notice(folder)) and not notice_shown:
            console.print(notice, style="yellow", markup=False)
        run = Run(stack, console, arguments.drop)
        names = [f"{YOU}/{path.name}" for path in samples]
        if not (chosen or arguments.once) and run.results.analyzed(names):
            console.print("The samples were analyzed by an earlier run; its data is kept.", highlight=False)
        else:
            try:
                run.drop_and_wait(chosen or samples, YOU, arguments.timeout)
            except Failed as failed:
                if arguments.once:
                    raise
                run.say(str(failed))
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
