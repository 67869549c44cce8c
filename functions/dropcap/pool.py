"""The connections of a process to PostgreSQL, which its threads share.

No package does this for pg8000's native interface; SQLAlchemy's pool takes its DB-API one, and ten megabytes.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from pg8000.native import Connection, InterfaceError

from dropcap.connection import Unreachable


class Pool:
    """At most `most` connections, opened by `connect` when they are needed and kept for the next thread.

    A thread waits `wait_s` seconds for its turn. Before a fork, `clear` it.
    """

    def __init__(self, connect: Callable[[], Connection], most: int, wait_s: float) -> None:
        self._connect, self._wait_s = connect, wait_s
        self._turns = threading.BoundedSemaphore(most)
        self._idle: list[Connection] = []  # the last used is used first, so that few are opened

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Within it, a thread may have one connection. Raises Unreachable where all stay in use."""
        if not self._turns.acquire(timeout=self._wait_s):
            raise Unreachable(f"No connection to PostgreSQL was free for {self._wait_s:g} s.")
        try:
            yield
        finally:
            self._turns.release()

    def take(self) -> tuple[Connection, bool]:
        """A connection, and whether it was used before: it may have died since."""
        try:
            return self._idle.pop(), True
        except IndexError:
            return self._connect(), False

    def give_back(self, connection: Connection) -> None:
        """Keep a connection that waits for no answer and is in no transaction."""
        self._idle.append(connection)

    def clear(self) -> None:
        """Close what nobody uses; the next to come open others."""
        with suppress(IndexError):
            while True:
                close(self._idle.pop())


def close(connection: Connection) -> None:
    """Close a connection that may be dead already."""
    with suppress(InterfaceError, OSError):
        connection.close()
