"""Run a command in a pseudo-terminal, answer its questions, and return the text on the screen."""

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

ASKS = "[y/N] "
# Without animations, and wide enough for tables.
PLAIN = {"TERM": "dumb", "COLUMNS": "500", "LINES": "50"}


def typed(command: str, folder: Path, environment: Mapping[str, str], answer: str) -> str:
    """Return what a shell's command shows, where each question is answered so."""
    leader, follower = os.openpty()
    shell = subprocess.Popen(
        ["/bin/sh", "-c", command],
        cwd=folder,
        env={**environment, **PLAIN},
        stdin=follower,
        stdout=follower,
        stderr=follower,
    )
    os.close(follower)
    shown = b""
    while part := _read(leader):
        shown += part
        if shown.endswith(ASKS.encode()):
            os.write(leader, f"{answer}\n".encode())
    os.close(leader)
    shell.wait()
    return shown.decode().replace("\r\n", "\n")


def _read(leader: int) -> bytes:
    try:
        return os.read(leader, 65_536)
    except OSError:  # EIO: the other end is closed
        return b""
