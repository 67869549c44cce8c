"""`make run`: start the local stack, upload pictures to the bucket, and show the results."""

import argparse
import io
import shlex
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console
from rich.text import Text

from dropcap.errors import SettingsError
from dropcap.settings import MODEL_FOLDER
from infra import ROOT
from infra.local import YOU, StackError, captioner
from infra.local.drop import files_in
from infra.local.stack import Stack
from infra.local.terminal import Failed, Run, short
from infra.text import printable

SAMPLES = ROOT / "infra" / "samples"
PICTURES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".gif", ".tif", ".tiff", ".bmp", ".heic", ".avif"})
PLAIN_WIDTH = 1000  # columns; the reader of a pipe wraps lines itself
SVG_WIDTH = 124  # columns


def _arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="make run",
        description="Start the local stack, drop pictures, show what comes of them. "
        "With make: make run PORT=8090 ONCE=1 PICTURES='a.jpg b.png'. "
        "Settings of the functions are taken from the environment (SIZES=800,200 make run).",
    )
    parser.add_argument(
        "pictures", nargs="*", type=Path, metavar="PICTURE", help="files or folders in place of the samples"
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
        "--timeout", type=float, default=300, metavar="S", help="longest wait for the next picture, s"
    )
    parser.add_argument(
        "--svg", type=Path, metavar="FILE", help="save what a terminal would show as a picture"
    )
    return parser.parse_args(words)


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
    started = time.monotonic()
    with console.status("Starting PostgreSQL, Cloud Storage, Gemini and the functions ..."):
        stack.__enter__()
    try:
        gemini = "Gemini's stand-in" if stack.stand_in else "Google's Gemini"
        console.print(
            f"PostgreSQL, Cloud Storage, {gemini} and the functions are up "
            f"({time.monotonic() - started:.1f} s).",
            highlight=False,
        )
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


def _goodbye(console: Console, state: Path) -> None:
    """Print what is left, and how to start without it."""
    folder = shlex.quote(short(state.resolve()))
    if not state.exists():
        console.print("Stopped.")
        return
    console.print(Text(f"Stopped. The same command continues with the data in {folder}."))
    console.print(Text(f"To start afresh, delete it first: rm -r {folder}"), soft_wrap=True)


def _is_interactive(arguments: argparse.Namespace) -> bool:
    """Return whether the command can ask a question in a terminal."""
    return not (arguments.once or arguments.svg) and sys.stdin.isatty() and sys.stdout.isatty()


def main(words: Sequence[str] | None = None) -> int:
    """Return the exit status: 0, or 1 with the reason in one line on stderr."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal may lack a letter of a caption
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
        _goodbye(console, arguments.state)
        return 0
    except (Failed, StackError, SettingsError) as reason:
        print(f"make run: {printable(str(reason))}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
