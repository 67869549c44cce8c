"""Clients that stall do not delay others: the real web server with real sockets."""

import errno
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest
import requests

from dropcap.http import server
from infra.local.process import Process, framework, free_port
from tests.support.app import MAIN, ROOT, Start, rows
from tests.support.database.uploads import record, upload

THREADS = 4
SOON_S = 9.0  # what a wait under pressure takes, twice, and some for a busy machine
STATIC = "/gallery/static/gallery.css"
Connect = Callable[[bytes], socket.socket]


@pytest.fixture
def port(start: Start, tmp_path: Path) -> Iterator[int]:
    """The port of a gallery that functions-framework serves, as deployed."""
    with gallery(start, tmp_path) as (port, _):
        yield port


@contextmanager
def gallery(start: Start, tmp_path: Path) -> Iterator[tuple[int, Process]]:
    """The gallery's port and its process, in whose log is no stack trace at the end."""
    app, port = start(), free_port()
    record(app.services.database, upload("ana/x.png"))
    rows("UPDATE analyses SET description = repeat('words and ', 800000)")  # more than sockets' buffers hold
    environment = os.environ | {"THREADS": str(THREADS), "PYTHONPATH": str(ROOT / "functions")}
    command = framework(Path(MAIN), port, "gallery")
    with Process("gallery", command, tmp_path / "log", environment, ROOT) as process:
        process.wait_until_answers(f"http://127.0.0.1:{port}{STATIC}")
        yield port, process
    assert "Traceback" not in (tmp_path / "log").read_text()


@pytest.fixture
def connect(port: int) -> Iterator[Connect]:
    with ExitStack() as open_sockets:

        def connect(sent: bytes) -> socket.socket:
            client = open_sockets.enter_context(socket.socket())
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.settimeout(SOON_S)
            client.connect(("127.0.0.1", port))
            client.sendall(sent)
            return client

        yield connect


def request(port: int, path: str, *headers: str, method: str = "GET") -> bytes:
    lines = (f"{method} {path} HTTP/1.1", f"Host: 127.0.0.1:{port}", *headers, "", "")
    return "\r\n".join(lines).encode()


def half_sent(port: int, size: int) -> bytes:
    own = ("Sec-Fetch-Site: same-origin", "Content-Type: application/json", f"Content-Length: {size}")
    return request(port, "/gallery/uploads?user=ana", *own, method="POST") + b"{" * (size // 2)


def check_served(port: int) -> None:
    began = time.monotonic()
    answer = requests.get(f"http://127.0.0.1:{port}{STATIC}", timeout=SOON_S)
    assert answer.status_code == 200
    assert time.monotonic() - began < SOON_S


def test_connections_with_incomplete_headers_occupy_no_thread(port: int, connect: Connect) -> None:
    for _ in range(server.CONNECTIONS + 50):
        connect(b"")
    for _ in range(50):
        connect(request(port, STATIC)[:-2] + b"X: ")
    began = time.monotonic()
    check_served(port)
    assert time.monotonic() - began < 3


@pytest.mark.parametrize("size", [100, 120_000])
def test_stalled_bodies_yield_to_other_requests(port: int, connect: Connect, size: int) -> None:
    waiting = [connect(half_sent(port, size)) for _ in range(2 * THREADS)]
    check_served(port)
    if size > 100:
        assert b" 400 " in waiting[0].recv(1000)[:20]


def test_unread_responses_leave_half_of_the_threads_free(port: int, connect: Connect) -> None:
    path = "/gallery/export/jsonl?user=ana"
    taking = [connect(request(port, path, "Accept: application/json")) for _ in range(8)]
    check_served(port)
    began = [client.recv(12) for client in taking]
    assert sorted(began) == [b"HTTP/1.1 200"] * (THREADS // 2) + [b"HTTP/1.1 503"] * (8 - THREADS // 2)


def test_slow_but_steady_transfers_are_not_aborted(port: int, connect: Connect) -> None:
    sent = half_sent(port, 120_000)
    slow = connect(sent[:-50_000])
    for at in range(50_000, 0, -10_000):
        time.sleep(0.1)
        slow.sendall(sent[-at : -at + 10_000 or None])
    slow.sendall(b"}" * 60_000)
    assert slow.recv(1000).startswith(b"HTTP/1.1 400")  # too deep, and all of it read


@pytest.fixture
def pair() -> Iterator[tuple[server.TimedSocket, socket.socket]]:
    """A connection of the server's, and its client."""
    ours, client = socket.socketpair()
    sock = server.TimedSocket(fileno=ours.detach())
    with sock, client:
        yield sock, client


Work = Callable[[server.TimedSocket], object]
WORK: dict[str, Work] = {"read": lambda ours: ours.recv(1), "write": lambda ours: ours.sendall(bytes(10**7))}


@pytest.mark.parametrize("work", WORK.values(), ids=WORK)
@pytest.mark.parametrize("queue", [(), ("another",)], ids=["no client waits", "another waits"])
def test_stalled_transfers_are_aborted_earlier_under_load(
    pair: tuple[server.TimedSocket, socket.socket],
    work: Work,
    queue: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in {"STALL_S": 0.6, "STALL_UNDER_LOAD_S": 0.2, "POLL_MS": 20}.items():
        monkeypatch.setattr(server, name, value)
    ours, _ = pair
    ours.queue = queue
    began = time.monotonic()
    with pytest.raises(server.Stalled) as stalled:
        work(ours)
    assert (time.monotonic() - began >= 0.6) == (not queue)
    assert ours.stalled
    assert stalled.value.errno == errno.ECONNRESET


@pytest.mark.parametrize("queue", [(), ("another",)], ids=["no client waits", "another waits"])
def test_an_occasional_byte_does_not_count_as_progress(
    pair: tuple[server.TimedSocket, socket.socket], queue: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"STALL_UNDER_LOAD_S" if queue else "STALL_S": 0.3, "POLL_MS": 10}.items():
        monkeypatch.setattr(server, name, value)
    ours, client = pair
    ours.queue = queue
    began = time.monotonic()

    def drip() -> None:
        with suppress(OSError):
            while True:
                client.sendall(b"x")
                time.sleep(0.05)

    dripping = threading.Thread(target=drip)
    dripping.start()
    with pytest.raises(server.Stalled):
        list(iter(lambda: ours.recv(1), b""))
    assert time.monotonic() - began < 5
    ours.close()
    dripping.join()
