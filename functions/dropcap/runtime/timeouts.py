"""Run calls in threads of their own, with a limit on the total time, or side by side.

Packages only limit each wait for bytes.
"""

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future, wait
from contextvars import copy_context
from functools import partial
from typing import TypeVar

S = TypeVar("S")
T = TypeVar("T")


def submit(call: Callable[[], T], name: str) -> Future[T]:
    """Start a call in a daemon thread, in a copy of this context: its log lines have trace and upload."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(call())
        except BaseException as error:  # raised again where the result is read
            future.set_exception(error)

    threading.Thread(target=copy_context().run, args=(run,), name=name, daemon=True).start()
    return future


def run_with_timeout(seconds: float, call: Callable[[], T]) -> T:
    """Return the result of `call`, or raise its error; raise TimeoutError after `seconds`.

    Without the limit, a server that sends a byte now and then, or a DNS lookup, could block a picture for
    ever. A call that is late keeps running; it ends with its own timeouts or with the process.
    """
    return submit(call, "run_with_timeout").result(seconds)


def side_by_side(call: Callable[[S], T], arguments: Iterable[S], name: str) -> list[T]:
    """Return the result of `call` for each argument, in their order, each in a thread of its own.

    If calls fail, raises the first error in that order, after all calls have ended.
    """
    futures = [submit(partial(call, argument), name) for argument in arguments]
    wait(futures)
    return [future.result() for future in futures]
