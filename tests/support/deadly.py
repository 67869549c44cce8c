"""The functions with a way to die: a source for functions-framework, of the tests alone.

The file that DEADLY names says where: `after record` kills this process at that boundary, once. A picture
whose bytes end with `kill`, `grow` or `hang` does so whenever it is decoded; `slow` takes a second.
"""

import ctypes
import importlib
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import google.cloud.storage  # noqa: F401  before the web server forks: no death has it loaded anew

from dropcap.database.analyses import Analyses
from dropcap.database.leases import Leases
from dropcap.describing import gemini
from dropcap.imaging import decoding
from dropcap.storage.buckets import Buckets
from main import SERVICES
from main import on_upload as on_upload

DEADLY = Path(os.environ["DEADLY"])


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def grow() -> None:
    bytearray(b"x" * 10**9)


def hang() -> None:
    ctypes.PyDLL(None).sleep(3600)  # a call by PyDLL keeps the GIL, as a bad decoder does


def slow() -> None:
    time.sleep(1)


def mortal(owner: Any, name: str) -> None:
    """Let the process die, where the file says so, when this is done and the next has not begun."""
    work: Callable[..., Any] = getattr(owner, name)

    def wrapped(*arguments: Any, **options: Any) -> Any:
        result = work(*arguments, **options)
        if DEADLY.exists() and DEADLY.read_text() == f"after {name}":
            DEADLY.unlink()
            die()
        return result

    setattr(owner, name, wrapped)


def decode(data: bytes, *others: Any) -> decoding.Picture:
    print("a decoder at work", flush=True)
    fates: dict[bytes, Callable[[], None]] = {b"kill": die, b"grow": grow, b"hang": hang, b"slow": slow}
    fates.get(data[-4:], lambda: None)()
    return open_picture(data, *others)


if SERVICES.settings.gemini_api_key:
    importlib.import_module(gemini.ADAPTERS[SERVICES.settings.gemini_sdk])
open_picture = decoding.open_picture
decoding.open_picture = decode  # type: ignore[assignment]  # it passes on what it is given
for method in ("acquire", "reject", "finish"):
    mortal(Leases, method)
mortal(Analyses, "record")
for method in ("read", "publish", "quarantine", "check", "dispose"):
    mortal(Buckets, method)
mortal(decoding, "open_picture")
