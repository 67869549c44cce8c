"""Run a call in its own thread with a total time limit: packages only limit each wait for bytes."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextvars import copy_context
from typing import TypeVar

T = TypeVar("T")


def begin(call: Callable[[], T], name: str) -> Future[T]:
    """Start a call in a daemon thread, in a copy of this context: its log lines have trace and upload."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(call())
        except BaseException as error:  # raised again where the result is read
            future.set_exception(error)

    threading.Thread(target=copy_context().run, args=(run,), name=name, daemon=True).start()
    return future


def within(seconds: float, call: Callable[[], T]) -> T:
    """Return or raise what `call` does; raise TimeoutError after `seconds`.

    Without the limit, a server that sends a byte now and then could block a picture for ever, and so could a
    DNS lookup. A late call keeps running; it ends with its own timeouts or with the process.
    """
    return begin(call, "within").result(seconds)
