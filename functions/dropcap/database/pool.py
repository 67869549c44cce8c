"""Connection pool of a process for PostgreSQL.

No package pools pg8000's native interface; SQLAlchemy's pool needs its DB-API interface, and ten megabytes.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from pg8000.native import Connection, InterfaceError

from dropcap.database.connection import DatabaseUnavailable


class Pool:
    """At most `size` connections, opened by `connect` on demand. Call `clear` before a fork.

    A thread waits up to `wait_s` seconds for a free connection.
    """

    def __init__(self, connect: Callable[[], Connection], size: int, wait_s: float) -> None:
        self._connect, self._wait_s = connect, wait_s
        self._slots = threading.BoundedSemaphore(size)
        self._idle: list[Connection] = []  # last in, first out, so that few are opened

    @contextmanager
    def slot(self) -> Iterator[None]:
        """Wait for a slot, which allows one connection. Raises DatabaseUnavailable if none becomes free."""
        if not self._slots.acquire(timeout=self._wait_s):
            raise DatabaseUnavailable(f"No connection to PostgreSQL was free for {self._wait_s:g} s.")
        try:
            yield
        finally:
            self._slots.release()

    def acquire(self) -> tuple[Connection, bool]:
        """Return a connection, and whether it was used before: then it may have died since."""
        try:
            return self._idle.pop(), True
        except IndexError:
            return self._connect(), False

    def release(self, connection: Connection) -> None:
        """Return a connection to the pool. It must be outside a transaction, with no response pending."""
        self._idle.append(connection)

    def clear(self) -> None:
        """Close the idle connections; new ones are opened on demand."""
        with suppress(IndexError):
            while True:
                close(self._idle.pop())


def close(connection: Connection) -> None:
    """Close a connection, which may already be dead."""
    with suppress(InterfaceError, OSError):
        connection.close()
