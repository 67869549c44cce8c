"""A TCP proxy that injects faults between a function and one of its services.

It knows turns, not protocols: a turn is a request and its answer, in HTTP as in PostgreSQL's protocol. It
begins when the client speaks after the server did. A Fault strikes some turns, the others pass:

    latency     the request waits `seconds`
    refuse      the request does not get through, the connection is reset
    lose        the request gets through, and in place of its answer the connection is reset
    half-open   the request is swallowed; nothing more comes, and the connection stays open
    drip        the answer comes byte by byte, `seconds` apart
    cut         the connection ends within the answer
    status      HTTP: the request is answered with `status`, and does not get through
"""

import asyncio
import json
import socket
import struct
import threading
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus

from infra.local import Part

CHUNK = 65_536  # bytes
HEAD_ENDS = b"\r\n\r\n"  # of an HTTP message
BODY_CUT_AT = 10  # bytes of an HTTP body
RESET = struct.pack("ii", 1, 0)  # SO_LINGER: on, for no time
FOR_EVER = 10**9  # turns


@dataclass(frozen=True, slots=True)
class Fault:
    """What happens to turns `first` to `first + times - 1`, counted from when it was set."""

    kind: str = ""
    first: int = 0
    times: int = FOR_EVER
    seconds: float = 0.0
    status: int = 0

    def __str__(self) -> str:
        what = self.kind + (
            f" {self.status}" if self.status else f" {self.seconds:g} s" if self.seconds else ""
        )
        when = f"from turn {self.first}" if self.times == FOR_EVER else f"turn {self.first}"
        return f"{what}, {when}"


NONE = Fault(times=0)


class Proxy(Part):
    """127.0.0.1:`port`, which leads to 127.0.0.1:`target`. `turns` are counted since the fault was set."""

    def __init__(self, target: int) -> None:
        self.target = target
        self.port = 0
        self.turns = 0
        self._fault = NONE
        self._loop = asyncio.new_event_loop()
        self._listens = threading.Event()
        self._thread = threading.Thread(target=self._run, name="proxy", daemon=True)

    def set(self, fault: Fault) -> None:
        """Set the fault from now on, and reset the count of turns."""
        self._fault, self.turns = fault, 0

    def clear(self) -> None:
        self.set(NONE)

    def start(self) -> None:
        self._thread.start()

    def wait(self) -> None:
        self._listens.wait()

    def close(self) -> None:
        """Close all connections."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join()

    def next_turn(self) -> Fault:
        """Return the fault of the turn that begins now."""
        turn, fault = self.turns, self._fault
        self.turns += 1
        return fault if fault.first <= turn < fault.first + fault.times else NONE

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._serve())
        self._loop.close()

    async def _serve(self) -> None:
        self._stop = asyncio.Event()
        talks: set[asyncio.Task[None]] = set()

        def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.create_task(_Talk(self, reader, writer).run())
            talks.add(task)
            task.add_done_callback(talks.discard)

        server = await asyncio.start_server(connected, "127.0.0.1", self.port)
        self.port = server.sockets[0].getsockname()[1]
        self._listens.set()
        await self._stop.wait()
        server.close()
        for task in talks:
            task.cancel()
        await asyncio.gather(*talks, return_exceptions=True)


class _Over(Exception):
    """The connection has ended, as it should."""


class _Talk:
    """One connection."""

    def __init__(self, proxy: Proxy, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        self.proxy, self.client, self.to_client = proxy, client, to_client
        self.fault = NONE
        self.answered = True  # the next words of the client begin a turn

    async def run(self) -> None:
        writers = [self.to_client]
        try:
            self.server, self.to_server = await asyncio.open_connection("127.0.0.1", self.proxy.target)
            writers.append(self.to_server)
            pumps = [asyncio.create_task(self._up()), asyncio.create_task(self._down())]
            try:
                await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for pump in pumps:
                    pump.cancel()
                await asyncio.gather(*pumps, return_exceptions=True)
        except OSError:
            self._reset()  # the server is not there
        finally:
            for writer in writers:
                writer.close()

    async def _up(self) -> None:
        while data := await self.client.read(CHUNK):
            if self.answered:
                self.fault, self.answered = self.proxy.next_turn(), False
                await self._begin(self.fault)
            if self.fault.kind not in ("half-open", "status"):
                self.to_server.write(data)
                await self.to_server.drain()

    async def _begin(self, fault: Fault) -> None:
        match fault.kind:
            case "latency":
                await asyncio.sleep(fault.seconds)
            case "refuse":
                self._reset()
                raise _Over
            case "status":
                self.to_client.write(_answer(fault.status))
                await self.to_client.drain()
                self.to_client.write_eof()  # what still comes is read and forgotten, so that nothing is reset

    async def _down(self) -> None:
        while data := await self.server.read(CHUNK):
            self.answered = True
            match self.fault.kind:
                case "lose":
                    self._reset()
                    raise _Over
                case "cut":
                    head, found, _ = data.partition(HEAD_ENDS)
                    end = len(head) + len(HEAD_ENDS) + BODY_CUT_AT if found else len(data) // 2
                    self.to_client.write(data[:end])
                    with suppress(ConnectionError):
                        await self.to_client.drain()
                    raise _Over
                case "drip":
                    for byte in data:
                        self.to_client.write(bytes([byte]))
                        await self.to_client.drain()
                        await asyncio.sleep(self.fault.seconds)
                case _:
                    self.to_client.write(data)
                    await self.to_client.drain()

    def _reset(self) -> None:
        connection = self.to_client.get_extra_info("socket")
        with suppress(OSError):
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        self.to_client.transport.abort()


def _answer(status: int) -> bytes:
    """Return an HTTP error as Google's APIs word it (google.aip.dev/193)."""
    phrase = HTTPStatus(status).phrase
    body = json.dumps(
        {"error": {"code": status, "message": phrase, "errors": [{"message": phrase}]}}
    ).encode()
    head = f"HTTP/1.1 {status} {phrase}\r\nContent-Type: application/json\r\nConnection: close\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
