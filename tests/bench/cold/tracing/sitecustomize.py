"""Trace the cold start of a function, for `tests.bench.cold`, which puts this folder on its PYTHONPATH.

Imports and the calls in CALLS are spans. The time of a span does not include the spans within it, so that the
spans of a thread add up. When the first event is answered, the worker writes one JSON object to the file
TRACE: the spans of the main thread until the event came, those of the thread that answered it, and those of
all others. A span is [seconds, CPU seconds of its thread] by name.
"""

import json
import os
import sys
import threading
import time
from collections.abc import Callable
from functools import wraps
from importlib.machinery import ExtensionFileLoader, SourceFileLoader
from pathlib import Path
from typing import Any

EVENT = "dropcap.handlers.storage_events"
CALLS: dict[str, dict[str, str]] = {  # by module: attribute and name of its span
    "dropcap.settings": {"Settings.read": "settings"},
    "dropcap.database.transactions": {
        "connect": "PostgreSQL: connect",
        "Database.query": "PostgreSQL: statements",
        "Database.transaction": "PostgreSQL: statements",
    },
    "dropcap.database.schema.repair": {"check": "PostgreSQL: schema check"},
    "dropcap.sandbox.processes": {"_ForkServer._start": "sandbox: wait for the fork server"},
    "dropcap.sandbox.client": {
        "open_picture": "picture: decode",
        "Picture._ask": "picture: resize and encode",
    },
    "dropcap.captioning.blip": {
        "Card.read": "BLIP: card",
        "Card.verify": "BLIP: verify its files",
        "Captioner.__init__": "BLIP: load the rest",
        "Captioner.caption": "BLIP: decoder's first run",
    },
    "dropcap.captioning.wordpiece": {"WordPiece.__init__": "BLIP: vocabulary"},
    "dropcap.captioning.graphs": {
        "Encoder.__init__": "BLIP: load the encoder",
        "Decoder.__init__": "BLIP: load the decoder",
        "Encoder.__call__": "BLIP: encoder's first run",
    },
    "dropcap.storage.gcs": {"Gcs.ask": "Cloud Storage: requests"},
    "dropcap.describing.gemini": {
        "Describer._load": "Gemini: client",
        "Describer._attempt": "Gemini: request",
    },
    "dropcap.runtime.memory": {"release": "memory: release"},
    "gunicorn.app.base": {"Application.run": "web server: start", "BaseApplication.run": "web server: start"},
    EVENT: {"receive": "picture: the rest"},
}
Span = list[float]
Open = list[Any]  # name, began, CPU then, seconds within others, CPU within others
spans: dict[int, dict[str, Span]] = {}  # by thread
stacks: dict[int, list[Open]] = {}
forked_cpu_s: dict[int, float] = {}  # of the main thread, before the server forked this worker


def cpu_s(thread: int) -> float:
    return time.clock_gettime(time.pthread_getcpuclockid(thread)) + forked_cpu_s.get(thread, 0.0)


def open_span(name: str) -> None:
    thread = threading.get_ident()
    stacks.setdefault(thread, []).append([name, time.monotonic(), cpu_s(thread), 0.0, 0.0])


def close_span(thread: int) -> None:
    name, began, cpu_began, within_s, cpu_within_s = stacks[thread].pop()
    whole = (time.monotonic() - began, cpu_s(thread) - cpu_began)
    span = spans.setdefault(thread, {}).setdefault(name, [0.0, 0.0])
    span[0] += whole[0] - within_s
    span[1] += whole[1] - cpu_within_s
    if stacks[thread]:
        stacks[thread][-1][3] += whole[0]
        stacks[thread][-1][4] += whole[1]


def traced(call: Callable[..., Any], name: str) -> Callable[..., Any]:
    @wraps(call)
    def run(*words: Any, **options: Any) -> Any:
        open_span(name)
        try:
            return call(*words, **options)
        finally:
            close_span(threading.get_ident())

    return run


def answering(call: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function that answers events; it ends the trace with the first one."""

    def run(*words: Any, **options: Any) -> Any:
        main, own = threading.main_thread().ident or 0, threading.get_ident()
        while stacks.get(main):
            close_span(main)
        before = spans.pop(main)
        try:
            return call(*words, **options)
        finally:
            event = spans.pop(own)
            beside: dict[str, Span] = {}
            for others in spans.values():
                for name, (seconds, cpu) in others.items():
                    span = beside.setdefault(name, [0.0, 0.0])
                    span[0] += seconds
                    span[1] += cpu
            Path(os.environ["TRACE"]).write_text(json.dumps([before, event, beside]))

    return run


def imported(module: Any) -> None:
    for path, span in CALLS.get(module.__name__, {}).items():
        owner, _, name = path.rpartition(".")
        holder = getattr(module, owner, None) if owner else module
        call = vars(holder).get(name) if holder else None
        if isinstance(call, classmethod):
            setattr(holder, name, classmethod(traced(call.__func__, span)))
        elif call:
            setattr(holder, name, traced(call, span))
    if module.__name__ == EVENT:
        module.receive = answering(module.receive)


def executing(execute: Callable[..., None]) -> Callable[..., None]:
    def run(self: Any, module: Any) -> None:
        words = module.__name__.split(".")
        open_span(f"import {'.'.join(words[:3] if words[0] == 'google' else words[:1])}")
        try:
            execute(self, module)
            imported(module)
        finally:
            close_span(threading.get_ident())

    return run


def forking() -> None:
    forked_cpu_s[threading.get_ident()] = cpu_s(threading.get_ident())


if "TRACE" in os.environ:
    open_span("web server: the rest")
    spans[threading.get_ident()] = {
        "Python": [time.monotonic() - float(os.environ["TRACE_FROM"]), time.process_time()]
    }
    for loader in (SourceFileLoader, ExtensionFileLoader):
        setattr(loader, "exec_module", executing(loader.exec_module))  # noqa: B010  mypy allows no assignment
    os.register_at_fork(before=forking)
    sys.modules.pop("sitecustomize", None)
