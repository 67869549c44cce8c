"""Structured logs: one JSON object a line with Cloud Logging's field names; readable at a terminal.

https://cloud.google.com/logging/docs/structured-logging names the fields that Cloud Logging understands.
"""

import json
import logging
import os
import re
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import Any

# What follows the "?" of an address. Clients quote whole addresses in their errors, and that of an upload of
# more than 8 MB or a signed one opens what it names to whoever reads it.
QUERY = re.compile(r"\?[\w.$%-]+=[^\s\"'<>\\]*")
COLOURS = {"INFO": "2", "WARNING": "33", "ERROR": "31", "CRITICAL": "31;1"}
# Each thread that we start gets a copy of the context (deadline.begin).
_trace: ContextVar[str] = ContextVar("trace", default="")
_upload: ContextVar[str] = ContextVar("upload", default="")


def follow(traceparent: str) -> None:
    """Tie this request's log lines to its trace, a W3C `traceparent`, as Cloud Logging groups them."""
    parts = traceparent.split("-")
    project = os.environ.get("GOOGLE_CLOUD_PROJECT", "")
    _trace.set(f"projects/{project}/traces/{parts[1]}" if project and len(parts) == 4 else "")


@contextmanager
def about(upload: object) -> Iterator[None]:
    """Add the id of an upload to all log lines within the block, including those of packages."""
    before = _upload.set(str(upload))
    try:
        yield
    finally:
        _upload.reset(before)


def write(severity: str, message: str, **facts: Any) -> None:
    """One log line on stdout. Facts must be names, numbers and words: never keys, addresses or pictures."""
    if _upload.get():
        facts = {"upload": _upload.get()} | facts
    if sys.stdout.isatty():
        details = " ".join(f"{key}={value}" for key, value in facts.items() if value not in (None, ""))
        line = _safe(f"{message} {details}")
        print(f"\x1b[{COLOURS.get(severity, '0')}m{severity:7} {line}\x1b[0m", flush=True)
        return
    entry = {"severity": severity, "message": message} | facts
    if _trace.get():
        entry["logging.googleapis.com/trace"] = _trace.get()
    print(_safe(json.dumps(entry, default=str)), flush=True)


@cache
def once(severity: str, message: str) -> None:
    """One log line for what will come again with every picture, the first time in this process."""
    write(severity, message)


def exception(message: str, error: BaseException, **facts: Any) -> None:
    """An error with its stack trace: for the log alone, never for a client."""
    write(
        "ERROR",
        message,
        error=type(error).__name__,
        stack_trace="".join(traceback.format_exception(error)),
        **facts,
    )


def guard() -> None:
    """Format the log lines of packages like ours: with trace and upload, without queries of addresses.

    That includes Flask's line for each error that a function raises.
    """
    logging.setLogRecordFactory(_Record)
    logging.captureWarnings(True)
    root = logging.getLogger()
    if not any(isinstance(handler, _Handler) for handler in root.handlers):
        root.addHandler(_Handler(logging.WARNING))


class _Handler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        stack = {"stack_trace": record.exc_text} if record.exc_text else {}
        write(record.levelname, record.getMessage(), logger=record.name, **stack)


class _Record(logging.LogRecord):
    def __init__(self, *args: Any, **facts: Any) -> None:
        super().__init__(*args, **facts)
        if self.exc_info and self.exc_info[1]:  # a formatter takes the text where there is one
            self.exc_text = _safe("".join(traceback.format_exception(self.exc_info[1])))

    def getMessage(self) -> str:
        return _safe(super().getMessage())


def _safe(text: str) -> str:
    return QUERY.sub("?...", text)
