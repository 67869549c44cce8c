"""Structured logs: one JSON object a line with Cloud Logging's field names; readable at a terminal.

https://cloud.google.com/logging/docs/structured-logging names the fields that Cloud Logging understands.
"""

import json
import os
import sys
import traceback
from contextvars import ContextVar
from functools import cache
from typing import Any

COLOURS = {"INFO": "2", "WARNING": "33", "ERROR": "31", "CRITICAL": "31;1"}
_trace: ContextVar[str] = ContextVar("trace", default="")


def follow(traceparent: str) -> None:
    """Tie this request's log lines to its trace, a W3C `traceparent`, as Cloud Logging groups them."""
    parts = traceparent.split("-")
    project = os.environ.get("GOOGLE_CLOUD_PROJECT", "")
    _trace.set(f"projects/{project}/traces/{parts[1]}" if project and len(parts) == 4 else "")


def write(severity: str, message: str, **facts: Any) -> None:
    """One log line on stdout. Facts must be names, numbers and words: never keys, addresses or pictures."""
    if sys.stdout.isatty():
        details = " ".join(f"{key}={value}" for key, value in facts.items() if value not in (None, ""))
        print(f"\x1b[{COLOURS.get(severity, '0')}m{severity:7} {message} {details}\x1b[0m", flush=True)
        return
    entry = {"severity": severity, "message": message} | facts
    if _trace.get():
        entry["logging.googleapis.com/trace"] = _trace.get()
    print(json.dumps(entry, default=str), flush=True)


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
