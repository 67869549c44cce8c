"""Structured logs: one JSON object a line with Cloud Logging's field names; readable at a terminal.

Each module logs with `logging.getLogger(__name__)`. `extra` holds the `event`, a stable id by which metrics
and alerts select lines, and more fields: names, numbers and texts, but no keys, URLs or pictures. Trace and
upload are bound once, and are then in each line, also of packages and other threads.

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
from functools import lru_cache
from typing import Any

PACKAGE = "dropcap"
# The query of a URL. Clients quote URLs in their errors, and the query of a signed URL, or of an upload of
# more than 8 MB, grants access to the object.
QUERY = re.compile(r"\?[\w.$%-]+=[^\s\"'<>\\]*")
COLOURS = {"INFO": "2", "WARNING": "33", "ERROR": "31", "CRITICAL": "31;1"}
STANDARD = {*vars(logging.makeLogRecord({})), "message", "asctime"}  # a record's attributes without `extra`
# A thread gets a copy of its starter's context (timeouts.submit).
_trace: ContextVar[str] = ContextVar("trace", default="")
_upload: ContextVar[str] = ContextVar("upload", default="")


def bind_trace(traceparent: str) -> None:
    """Add a request's trace, a W3C `traceparent`, to its log lines, by which Cloud Logging groups them."""
    parts = traceparent.split("-")
    project = os.environ.get("GOOGLE_CLOUD_PROJECT", "")
    _trace.set(f"projects/{project}/traces/{parts[1]}" if project and len(parts) == 4 else "")


@contextmanager
def bind_upload(upload: object) -> Iterator[None]:
    """Add an upload's id to all log lines within the block, including those of packages."""
    before = _upload.set(str(upload))
    try:
        yield
    finally:
        _upload.reset(before)


@lru_cache(maxsize=256)  # bounded, as a text may come from a decoder
def once(logger: logging.Logger, level: int, message: str, event: str) -> None:
    """Log a line that would be repeated for every picture, but only once in this process."""
    logger.log(level, message, extra={"event": event})


def configure() -> None:
    """Write log lines to stdout: ours from INFO, those of packages from WARNING, with Python's warnings."""
    logging.setLogRecordFactory(_Record)
    logging.captureWarnings(True)
    ours = logging.getLogger(PACKAGE)
    ours.setLevel(logging.INFO)
    ours.propagate = False  # the framework may give the root logger more handlers
    for logger, level in ((ours, logging.INFO), (logging.getLogger(), logging.WARNING)):
        if not any(isinstance(handler, _Handler) for handler in logger.handlers):
            logger.addHandler(_Handler(level))


class _Handler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        try:
            print(_safe(_line(record)), flush=True)  # the framework replaces sys.stdout during requests
        except Exception:  # as in the standard library's handlers: logging must not fail its caller
            self.handleError(record)


class _Record(logging.LogRecord):
    """A record without the queries of URLs, for the handlers of packages, too."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        if self.exc_info and self.exc_info[1]:  # formatters use the text if there is one
            self.exc_text = _safe("".join(traceback.format_exception(self.exc_info[1])))

    def getMessage(self) -> str:
        return _safe(super().getMessage())


def _line(record: logging.LogRecord) -> str:
    fields: dict[str, Any] = {"upload": _upload.get()} if _upload.get() else {}
    if record.name.startswith(f"{PACKAGE}."):
        fields |= {name: value for name, value in vars(record).items() if name not in STANDARD}
    else:
        fields["logger"] = record.name
    if record.exc_info and record.exc_info[0]:
        fields |= {"error": record.exc_info[0].__name__, "stack_trace": record.exc_text}
    event = fields.pop("event", None)
    if sys.stdout.isatty():
        details = " ".join(f"{name}={value}" for name, value in fields.items() if value not in (None, ""))
        colour = COLOURS.get(record.levelname, "0")
        return f"\x1b[{colour}m{record.levelname:7} {record.getMessage()} {details}\x1b[0m"
    entry = {"severity": record.levelname} | ({"event": event} if event else {})
    entry |= {"message": record.getMessage()} | fields
    if _trace.get():
        entry["logging.googleapis.com/trace"] = _trace.get()
    return json.dumps(entry, default=str)


def _safe(text: str) -> str:
    return QUERY.sub("?...", text)
