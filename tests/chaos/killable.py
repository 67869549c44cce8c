"""The functions in a process that can be killed or suspended at any point, without changes to their code.

An upload passes points: start and end of each stage, of each method of the buckets and the database, of each
SQL statement and of each HTTP request. The points wrap existing code, so that a new stage has them at once.
Files in CHAOS_FOLDER, if they exist, control the process:

    passed      gets the name of each point that is passed
    at          a signal and a point: `9 record > Analyses.record > COMMIT, before`; sent once
"""

import functools
import importlib
import inspect
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import requests
from pg8000.native import Connection

import main
from dropcap import pipeline
from dropcap.database.analyses import Analyses
from dropcap.database.leases import Leases
from dropcap.database.transactions import Database
from dropcap.describing import gemini
from dropcap.runtime.watchdog import Watchdog
from dropcap.storage.buckets import Buckets

FOLDER = Path(os.environ["CHAOS_FOLDER"])
WORDS = 3  # of a statement: enough to identify it
BESIDE = "(_fetch_background)"  # google-cloud-storage reads a bucket once, for traces, at any moment
WAYS = ("ask", "blob", "transaction")  # called by the other methods, which are points already
on_upload = main.on_upload

_passed: Counter[str] = Counter()
_within = threading.local()  # the names of the points around this thread


def point(name: str) -> None:
    """Pass a point: record it, and send this process the signal that was ordered for it."""
    if threading.current_thread().name.endswith(BESIDE):
        return
    name = " > ".join([*getattr(_within, "names", ()), name])
    _passed[name] += 1
    if _passed[name] > 1:
        name = f"{name} {_passed[name]}"
    if (FOLDER / "passed").exists():
        with (FOLDER / "passed").open("a") as passed:
            passed.write(f"{name}\n")
    order = FOLDER / "at"
    if order.exists():
        signal, _, where = order.read_text().partition(" ")
        if where == name:
            order.rename(FOLDER / "done")
            os.kill(os.getpid(), int(signal))


@contextmanager
def named(name: str) -> Iterator[None]:
    """Pass a point before and after the block."""
    point(f"{name}, before")
    if not hasattr(_within, "names"):
        _within.names = []
    _within.names.append(name)
    try:
        yield
    finally:
        _within.names.pop()
        point(f"{name}, after")


def wrap(owner: Any, method: str, name: Callable[..., str]) -> None:
    """Put points around a method, named by its arguments."""
    original = getattr(owner, method)

    @functools.wraps(original)
    def call(*args: Any, **kwargs: Any) -> Any:
        with named(name(*args, **kwargs)):
            return original(*args, **kwargs)

    setattr(owner, method, call)


def _statement(self: Connection, sql: str, *args: Any, **kwargs: Any) -> str:
    return " ".join(sql.split()[:WORDS])


def _request(self: requests.Session, method: str, *args: Any, **kwargs: Any) -> str:
    return method


def _watch_stages() -> None:
    original = Watchdog.stage

    @contextmanager
    def stage(self: Watchdog, name: str) -> Iterator[None]:
        with named(name), original(self, name):
            yield

    Watchdog.stage = stage  # type: ignore[method-assign]


def _count_anew() -> None:
    original = pipeline.process

    @functools.wraps(original)
    def process(*args: Any, **kwargs: Any) -> None:
        _passed.clear()
        original(*args, **kwargs)

    pipeline.process = process


# Loaded before the web server forks, so that the process after a killed one is ready at once.
for module in ("google.cloud.storage", gemini.ADAPTERS[main.SERVICES.settings.gemini_sdk]):
    importlib.import_module(module)
for part in (Buckets, Database, Leases, Analyses):
    for each, _ in inspect.getmembers(part, inspect.isfunction):
        if not each.startswith("_") and each not in WAYS:
            wrap(part, each, functools.partial(lambda label, /, *_, **__: label, f"{part.__name__}.{each}"))
wrap(Connection, "run", _statement)
wrap(requests.Session, "request", _request)
_watch_stages()
_count_anew()
