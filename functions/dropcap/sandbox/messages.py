"""Exchange messages between a function and a decoder: a JSON object and bytes.

    4 + 8 bytes   the lengths of both, big-endian
    JSON          an object
    bytes         a picture, a raster or an XMP packet

JSON and not pickle: a message of a compromised decoder must not execute anything.
"""

import json
import socket
import struct
import time
from collections.abc import Callable, Mapping
from typing import Any

from dropcap.errors import DropcapError

LENGTHS = struct.Struct(">IQ")
MAX_JSON = 65_536  # bytes
OUT_OF_MEMORY = 41  # exit status of a child that has no memory for an answer


class Closed(DropcapError):
    """The other process ended, or sent something that is not a message."""


def send(connection: socket.socket, message: Mapping[str, Any], body: bytes = b"") -> None:
    """Send a message. Raises OSError if the other process has ended, and TimeoutError."""
    text = json.dumps(message).encode()
    connection.sendall(LENGTHS.pack(len(text), len(body)) + text)
    connection.sendall(body)


def receive(read: Callable[[int], bytes], max_body: int) -> tuple[dict[str, Any], bytes]:
    """Return a message and its body of at most `max_body` bytes. Raises Closed.

    `read(n)` returns n bytes, or fewer if the other process has ended.
    """
    lengths = read(LENGTHS.size)
    if len(lengths) < LENGTHS.size:
        raise Closed
    text_length, body_length = LENGTHS.unpack(lengths)
    if text_length > MAX_JSON or body_length > max_body:
        raise Closed
    text, body = read(text_length), read(body_length) if body_length else b""
    if len(text) < text_length or len(body) < body_length:
        raise Closed
    try:
        message = json.loads(text)
    except (ValueError, RecursionError) as wrong:
        raise Closed from wrong
    if not isinstance(message, dict):
        raise Closed
    return message, body


def reader(connection: socket.socket, deadline: float) -> Callable[[int], bytes]:
    """Return a function that reads n bytes, or none at the end. It raises TimeoutError after `deadline`.

    `deadline` is on the monotonic clock, for all reads together: a decoder may send a byte now and then.
    """

    def read(length: int) -> bytes:
        data, at = bytearray(length), 0
        while at < length:
            connection.settimeout(max(0.001, deadline - time.monotonic()))
            got = connection.recv_into(memoryview(data)[at:])
            if not got:
                break
            at += got
        return bytes(data) if at == length else b""

    return read
