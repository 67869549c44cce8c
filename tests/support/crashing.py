"""The functions with ways to crash: a source for functions-framework, for tests only.

The file CRASH_FILE holds a step: `after record` kills this process once, after that step. A picture whose
bytes end with `kill`, `grow` or `hang` does so whenever it is decoded; `slow` takes a second.
"""

import ctypes
import importlib
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import google.cloud.storage  # noqa: F401  before the web server forks: no restarted worker loads it again

from dropcap.database.analyses import Analyses
from dropcap.database.leases import Leases
from dropcap.describing import gemini
from dropcap.domain.body import Body
from dropcap.sandbox import client
from dropcap.storage.buckets import Buckets
from main import SERVICES
from main import on_upload as on_upload

CRASH_FILE = Path(os.environ["CRASH_FILE"])


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def grow() -> None:
    bytearray(b"x" * 10**9)


def hang() -> None:
    ctypes.PyDLL(None).sleep(3600)  # a call by PyDLL keeps the GIL, as a faulty decoder does


def slow() -> None:
    time.sleep(1)


def crash_after(owner: Any, name: str) -> None:
    """Kill the process after this step, if CRASH_FILE names it."""
    work: Callable[..., Any] = getattr(owner, name)

    def wrapped(*arguments: Any, **options: Any) -> Any:
        result = work(*arguments, **options)
        if CRASH_FILE.exists() and CRASH_FILE.read_text() == f"after {name}":
            CRASH_FILE.unlink()
            kill()
        return result

    setattr(owner, name, wrapped)


def decode(body: Body, *others: Any) -> client.Picture:
    print("a decoder at work", flush=True)
    effects: dict[bytes, Callable[[], None]] = {b"kill": kill, b"grow": grow, b"hang": hang, b"slow": slow}
    data = body.take()
    effects.get(data[-4:], lambda: None)()
    return open_picture(Body(lambda: data), *others)


if SERVICES.settings.gemini_api_key:
    importlib.import_module(gemini.ADAPTERS[SERVICES.settings.gemini_sdk])
open_picture = client.open_picture
client.open_picture = decode  # type: ignore[assignment]  # it forwards its arguments
for method in ("acquire_new", "acquire", "reject", "finish"):
    crash_after(Leases, method)
crash_after(Analyses, "record")
for method in ("read", "publish", "quarantine", "check", "dispose"):
    crash_after(Buckets, method)
crash_after(client, "open_picture")
