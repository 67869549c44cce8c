"""A terminal at which a person sits: a command runs in it, and what stands there afterwards is its text."""

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

ASKS = "[y/N] "
# Nothing moves in it, and no table is folded.
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
    except OSError:  # EIO: nobody has the other end any more
        return b""
