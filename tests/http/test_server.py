"""The real web server with real sockets stays available whatever its connections do."""

import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from dropcap.http import server
from infra.local import StackError
from infra.local.process import Process
from tests.http.test_slow_clients import STATIC, check_served, gallery, half_sent, request
from tests.support.app import Start, rows

SOON_S = 5.0


class Served:
    """A gallery as it is deployed; connections to it, closed at the end."""

    def __init__(self, port: int, process: Process, opened: ExitStack) -> None:
        self.port, self.process, self._opened = port, process, opened

    def connect(self, sent: bytes = b"") -> socket.socket:
        client = self._opened.enter_context(socket.create_connection(("127.0.0.1", self.port), timeout=9))
        client.sendall(sent)
        return client

    def workers(self) -> list[int]:
        """The ids of gunicorn's worker processes."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return [int(pid) for pid in children if b"gallery" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def poll(work: Callable[[], object], within_s: float) -> None:
    """Repeat `work` until the time is over."""
    ends = time.monotonic() + within_s
    while time.monotonic() < ends:
        work()
        time.sleep(0.05)


@pytest.fixture
def served(start: Start, tmp_path: Path) -> Iterator[Served]:
    with gallery(start, tmp_path) as (port, process), ExitStack() as opened:
        yield Served(port, process, opened)


def test_a_connection_closed_while_sending_affects_no_other(served: Served) -> None:
    waiting = [served.connect() for _ in range(server.CONNECTIONS - 1)]
    check_served(served.port)  # all of them have been taken
    [worker] = served.workers()
    os.kill(worker, signal.SIGSTOP)
    served.connect()
    waiting[0].sendall(b"GET")
    waiting[1].sendall(b"GET")
    os.kill(worker, signal.SIGCONT)
    check_served(served.port)
    assert served.workers() == [worker]


def test_idle_connections_are_closed_for_new_ones(served: Served) -> None:
    for _ in range(server.CONNECTIONS + 10):
        kept = served.connect(request(served.port, STATIC))
        assert kept.recv(15) == b"HTTP/1.1 200 OK"


def test_a_pipelined_header_has_the_same_limit(served: Served) -> None:
    client = served.connect(request(served.port, STATIC) + b"GET /")
    began = time.monotonic()
    with pytest.raises(OSError, match=r"reset|pipe"):
        client.sendall(b"a" * 10_000_000)
    assert time.monotonic() - began < SOON_S


@pytest.mark.parametrize("size", [3 * 10**7, 5 * 10**7])
def test_a_client_that_sends_a_large_body_receives_the_refusal(served: Served, size: int) -> None:
    own = ("Sec-Fetch-Site: same-origin", f"Content-Length: {size}")
    client = served.connect(request(served.port, "/gallery/no-such-page", *own, method="POST"))
    client.sendall(bytes(size))
    assert client.recv(12) == b"HTTP/1.1 404"


def test_shutdown_finishes_running_requests_and_drops_idle_connections(served: Served) -> None:
    sent = half_sent(served.port, 120_000)
    running, coming = served.connect(sent), served.connect(request(served.port, STATIC)[:-2])
    served.connect()
    check_served(served.port)
    os.kill(served.process.pid, signal.SIGTERM)
    time.sleep(0.5)
    running.sendall(b"}" * 60_000)
    coming.sendall(b"\r\n")
    assert running.recv(12) == b"HTTP/1.1 400"
    assert coming.recv(12) == b"HTTP/1.1 200"
    with pytest.raises(StackError, match="gallery stopped"):
        poll(served.process.check, within_s=SOON_S)


def test_pipelined_requests_are_answered_in_order(served: Served) -> None:
    posted = half_sent(served.port, 100) + b"}" * 50
    last = request(served.port, STATIC, "Connection: close")
    client = served.connect(posted + request(served.port, STATIC) + posted + last)
    answers = b"".join(iter(lambda: client.recv(65_536), b""))
    assert [part[:3] for part in answers.split(b"HTTP/1.1 ")[1:]] == [b"400", b"200", b"400", b"200"]


@pytest.mark.parametrize("more", [0, server.PART])
def test_a_truncated_body_is_not_processed(served: Served, more: int) -> None:
    [[picture]] = rows("SELECT id FROM analyses")
    form = b"more=" + bytes(more) + b"&caption=Not+the+whole"
    kinds = ("Content-Type: application/x-www-form-urlencoded", "Accept: application/json")
    own = ("Sec-Fetch-Site: same-origin", *kinds, f"Content-Length: {len(form) + 9}")
    path = f"/gallery/picture/{picture}/edit?user=ana"
    client = served.connect(request(served.port, path, *own, method="POST") + form)
    client.shutdown(socket.SHUT_WR)
    answer = client.recv(12)
    assert rows("SELECT own_caption FROM analyses") == [[None]]
    assert answer in {b"", b"HTTP/1.1 400"}
