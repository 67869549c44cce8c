"""`make run`: start the local stack, upload pictures to the bucket, and show the results."""

import argparse
import io
import shlex
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from dropcap.errors import SettingsError
from infra import ROOT
from infra.local import Failed, StackError
from infra.text import printable, short


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


def _goodbye(state: Path) -> None:
    """Print what is left, and how to start without it."""
    print("Stopped.", end="")
    if state.exists():
        folder = shlex.quote(short(state.resolve()))
        print(f" The same command continues with the data in {folder}.")
        print(f"To start afresh, delete it first: rm -r {folder}", end="")
    print(flush=True)


def main(words: Sequence[str] | None = None) -> int:
    """Return the exit status: 0, or 1 with the reason in one line on stderr."""
    arguments = _arguments(words)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal may lack a letter of a caption
    try:
        from infra.local.start import run  # takes seconds, in which Ctrl-C works already

        run(arguments)
    except KeyboardInterrupt:
        _goodbye(arguments.state)
        return 0
    except (Failed, StackError, SettingsError) as reason:
        print(f"make run: {printable(str(reason))}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
