"""The web server under functions-framework: no slow client can occupy a thread for long.

gunicorn's own threads wait without limit for the rest of a header, for a body, and until a response is read.
Here a connection gets a thread only when its header and the first PART bytes of its body have arrived, which
is the whole body of most requests. A stalled read or write is aborted, earlier if other requests wait for a
thread.
"""

import errno
import os
import re
import select
import socket
import time
from collections import deque
from collections.abc import Callable, Sized
from contextlib import suppress
from functools import partial
from typing import Any, ClassVar

import flask
from gunicorn import config, util
from gunicorn.workers import gthread

from dropcap.errors import TransientError
from dropcap.http.bodies import LARGEST_JSON, MAX_DISCARDED
from dropcap.runtime.timeouts import submit

HEAD_S = 10.0  # time limit until a connection is ready for a thread
LARGEST_HEAD = 98_304  # bytes: the longest allowed query, and 32 KiB for the rest
STALL_S = 30.0  # longest time without a byte in or out
STALL_UNDER_LOAD_S = 2.5  # the same while another request waits for a thread
MIN_RATE = 4096  # bytes/s: minimum rate of a body or response after STALL_S, as in mod_reqtimeout
LINGER_S = 1.0  # time for a client to close a finished connection, or to send more of its body
CONNECTIONS = 400  # at once; below the limit of 1,024 open files on many systems
PART = 32_768  # bytes
LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]{1,12})[ \t]*\r\n", re.IGNORECASE)
EXPECT = re.compile(rb"\r\nexpect:", re.IGNORECASE)  # the client waits for 100 Continue
THREADS = int(os.environ.get("THREADS", (os.cpu_count() or 1) * 4))  # as in functions-framework
POLL_MS = 250  # interval at which a wait checks whether others wait
TOO_LARGE = b"HTTP/1.1 431 Request Header Fields Too Large\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"


def prepare(warm_up: Callable[[], None]) -> None:
    """Make gunicorn serve the application with `Worker`, which calls `warm_up` in a thread when it starts.

    functions-framework 3.10 has no options for that and ignores GUNICORN_CMD_ARGS, so change gunicorn's
    defaults. Flask's own responses also read a body, so limit that, too.
    """
    Worker.warm_up = staticmethod(warm_up)
    config.WorkerClass.default = f"{__name__}.Worker"
    config.WorkerConnections.default = CONNECTIONS
    flask.current_app.config["MAX_CONTENT_LENGTH"] = LARGEST_JSON


class Stalled(TransientError, TimeoutError):
    """The client stopped reading or sending. gunicorn treats it like a disconnect, and logs nothing."""

    def __init__(self) -> None:
        super().__init__(errno.ECONNRESET, "the client was too slow")


class TimedSocket(socket.socket):
    """A socket whose blocking reads and writes can raise Stalled; `queue` holds the waiting requests."""

    queue: Sized = ()
    stalled = False
    _moved, _waited_s = 0, 0.0

    def begin(self) -> None:
        """Reset the counters for a new request."""
        self._moved, self._waited_s = 0, 0.0

    def recv(self, size: int, flags: int = 0) -> bytes:
        """Return received bytes. A thread only reads missing parts of a request: an end is premature.

        gunicorn and werkzeug would treat a truncated body as complete.
        """
        waits = self.gettimeout() != 0
        if waits:
            self._wait(select.POLLIN)
        data = super().recv(size, flags)
        if waits and not data:
            raise ConnectionResetError(errno.ECONNRESET, "the client went away")
        self._moved += len(data)
        return data

    def sendall(self, data: Any, flags: int = 0) -> None:
        view = memoryview(data).cast("B")
        while view:
            self._wait(select.POLLOUT)
            try:
                sent = self.send(view, flags | socket.MSG_DONTWAIT)
            except BlockingIOError:
                continue
            self._moved += sent
            view = view[sent:]

    def _wait(self, event: int) -> None:
        ready, began, timeout_s = select.poll(), time.monotonic(), self.gettimeout()
        ready.register(self, event)
        earned_s, waited_s = self._moved / MIN_RATE - self._waited_s, 0.0
        while not ready.poll(POLL_MS):
            waited_s = time.monotonic() - began
            grace_s = STALL_UNDER_LOAD_S if self.queue else STALL_S
            if waited_s >= min(grace_s, grace_s + earned_s, timeout_s or STALL_S):
                self.stalled = True
                raise Stalled
        self._waited_s += waited_s


class Connection(gthread.TConn):  # type: ignore[misc]
    """One client; `head` is the received part of its next request."""

    def __init__(self, *facts: Any) -> None:
        super().__init__(*facts)
        self.head = bytearray()

    @property
    def complete(self) -> bool:
        """Return whether a thread can handle the request without waiting."""
        end = self.head.find(b"\r\n\r\n") + 4
        if end < 4:
            return False
        length = LENGTH.search(self.head, 0, end)
        body = min(int(length[1]), PART) if length and not EXPECT.search(self.head, 0, end) else 0
        return len(self.head) >= end + body

    def close(self, graceful: bool = False) -> None:
        util.close(self.sock)  # `handle` has already waited for the client


class Worker(gthread.ThreadWorker):  # type: ignore[misc]
    """gunicorn's threaded worker; its event loop waits for the headers of all connections at once."""

    warm_up: ClassVar[Callable[[], None]] = staticmethod(lambda: None)

    def __init__(self, *facts: Any) -> None:
        super().__init__(*facts)
        self.queue: set[Connection] = set()

    def run(self) -> None:
        """Serve, and warm up meanwhile: threads and child processes from before the fork would be lost."""
        submit(type(self).warm_up, "warm up")
        super().run()

    def accept(self, listener: socket.socket) -> None:
        """Accept a connection; if there are too many, close the one whose deadline is next."""
        try:
            client, address = listener.accept()
        except OSError as failed:
            if failed.errno not in (errno.EAGAIN, errno.ECONNABORTED):
                raise
            return
        sock = TimedSocket(fileno=client.detach())
        sock.queue = self.queue
        self.nr_conns += 1
        self._expect(Connection(self.cfg, sock, address, listener.getsockname()))
        if self.nr_conns >= self.worker_connections:
            waiting = [conns for conns in (self.keepalived_conns, self.pending_conns) if conns]
            ending = min(waiting, key=lambda conns: conns[0].timeout)
            self._drop(ending, ending[0])

    def on_client_socket_readable(self, conn: Connection, client: TimedSocket) -> None:
        """Begin another request on a keep-alive connection."""
        if client.fileno() < 0:  # it was closed to make room in this turn of the loop
            return
        self.poller.unregister(client)
        self.keepalived_conns.remove(conn)
        self._expect(conn)

    def on_pending_socket_readable(self, conn: Connection, client: TimedSocket) -> None:
        """Read the available part of a request; hand it to a thread when it is complete."""
        if client.fileno() < 0:
            return
        try:
            part = client.recv(PART)
        except BlockingIOError:
            return
        except OSError:
            part = b""
        conn.head += part
        too_large = not conn.complete and len(conn.head) > LARGEST_HEAD + PART
        if too_large:
            with suppress(OSError):
                client.send(TOO_LARGE)
        if too_large or not (part or conn.complete):
            self._drop(self.pending_conns, conn)
        elif conn.complete:
            self.poller.unregister(client)
            self.pending_conns.remove(conn)
            conn.init()
            self.enqueue_req(conn)

    def enqueue_req(self, conn: Connection) -> None:
        """Hand a request to a thread if enough of it has arrived; it may have been pipelined."""
        conn.head += conn.parser.unreader.take_buffered()
        if not conn.complete:
            self._expect(conn)
            return
        conn.parser.unreader.unread(bytes(conn.head))
        conn.head.clear()
        self.queue.add(conn)
        super().enqueue_req(conn)

    def handle(self, conn: Connection) -> Any:
        """Handle a request in a thread."""
        self.queue.discard(conn)
        conn.sock.begin()
        kept = super().handle(conn)
        if not kept and not conn.sock.stalled:
            with suppress(OSError):
                self._drain(conn.sock)
        return kept

    def _drain(self, sock: TimedSocket) -> None:
        """Read what the client still sends, up to its end, while no other request waits for the thread."""
        sock.shutdown(socket.SHUT_WR)
        sock.settimeout(LINGER_S)
        began, taken = time.monotonic(), 0
        while taken < MAX_DISCARDED:
            taken += len(sock.recv(PART))
            if self.queue and time.monotonic() - began > STALL_UNDER_LOAD_S:
                return

    def _expect(self, conn: Connection) -> None:
        conn.sock.setblocking(False)
        conn.timeout = time.monotonic() + HEAD_S
        self.pending_conns.append(conn)
        readable = partial(self.on_pending_socket_readable, conn)
        self.poller.register(conn.sock, gthread.selectors.EVENT_READ, readable)

    def _drop(self, conns: deque[Connection], conn: Connection) -> None:
        self.poller.unregister(conn.sock)
        conns.remove(conn)
        self.nr_conns -= 1
        conn.close()

    def _cap_keepalive(self, deadline: float) -> None:
        """Cap the wait for idle connections at shutdown: Cloud Run kills the process 10 s after SIGTERM."""
        super()._cap_keepalive(deadline)
        for conn in self.pending_conns:
            conn.timeout = min(conn.timeout, deadline)
