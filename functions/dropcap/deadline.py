"""A bound on all of a call, where the package that makes it bounds each wait for bytes alone."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")


def within(seconds: float, call: Callable[[], T]) -> T:
    """What `call` returns or raises; TimeoutError after `seconds`.

    A server that sends a byte now and then would hold a picture for ever, and so would the look-up of a name.
    A late call is left to itself; it ends with its own timeouts or with the process.
    """
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(call())
        except BaseException as error:  # raised again where the result is read
            future.set_exception(error)

    threading.Thread(target=run, name="within", daemon=True).start()
    return future.result(seconds)
