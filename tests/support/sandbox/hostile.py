"""A worker that a crafted picture has taken over: the end of the picture says what it does.

attempt <name>    try to reach something; the rejection says what the system answered
<deed>            crash, loop, grow, hang or lie, in the middle of decoding
"""

import ctypes
import errno
import json
import mmap
import os
import resource
import socket
import sys
import time
from collections.abc import Callable
from http import HTTPStatus
from math import inf
from pathlib import Path
from typing import Any

from dropcap.errors import Rejected
from dropcap.imaging import decoding
from dropcap.sandbox import messages, worker
from dropcap.sandbox.worker import load_decoders as load_decoders
from dropcap.sandbox.worker import load_numpy as load_numpy

MARK = b"\0deed:"  # before what the picture makes its decoder do
METADATA_SERVER = ("169.254.169.254", 80)  # it gives tokens of the function's service account
PTRACE_ATTACH, PR_SET_DUMPABLE = 16, 4
libc = ctypes.CDLL(None, use_errno=True)


def _call(function: str, *arguments: Any) -> None:
    """Call a function of libc. Raises OSError."""
    if getattr(libc, function)(*arguments) < 0:
        raise OSError(ctypes.get_errno(), function)


def _connect() -> None:
    with socket.socket() as connection:
        connection.connect(METADATA_SERVER)


PARENT = os.getpid()  # the fork server, as this module is loaded there
ATTEMPTS: dict[str, Callable[[], Any]] = {
    "fork": os.fork,
    "exec": lambda: os.execv("/bin/true", ["true"]),  # noqa: S606
    "open a socket": socket.socket,
    "open a pair of sockets": socket.socketpair,
    "ask the metadata server for a token": _connect,
    "read the parent's environment": Path(f"/proc/{PARENT}/environ").read_bytes,
    "read the parent's memory": Path(f"/proc/{PARENT}/mem").read_bytes,
    "read a file": Path("/etc/passwd").read_bytes,
    "list a folder": lambda: os.listdir("/"),
    "write a file": lambda: Path("/tmp/dropcap-decoder").write_bytes(b""),  # noqa: S108
    "trace the parent": lambda: _call("ptrace", PTRACE_ATTACH, PARENT, None, None),
    "copy the parent's memory": lambda: _call("process_vm_readv", PARENT, None, 0, None, 0, 0),
    "signal the parent": lambda: os.kill(PARENT, 0),
    "raise its limits": lambda: _call("setrlimit", resource.RLIMIT_CPU, ctypes.byref((ctypes.c_ulong * 2)())),
    "make memory executable": lambda: mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_EXEC),
    "open a descriptor": os.pipe,
    "become dumpable": lambda: _call("prctl", PR_SET_DUMPABLE, 1, 0, 0, 0),
}


def _answer(what: str) -> str:
    """Return what the system answers to an attempt."""
    try:
        ATTEMPTS[what]()
    except OSError as refused:
        return errno.errorcode[refused.errno or 0]
    return "it worked"


def _inventory() -> str:
    """Return what this process was given: variables, arguments and open descriptors."""
    descriptors = []
    for number in range(64):
        try:
            os.lseek(number, 0, os.SEEK_CUR)
        except OSError as error:
            if error.errno == errno.EBADF:
                continue
        descriptors.append(number)
    inventory = {"variables": [*os.environ], "arguments": sys.argv, "descriptors": len(descriptors)}
    return json.dumps(inventory)


def _loop() -> None:
    while True:
        pass


def _grow() -> None:
    kept = []
    while True:
        kept.append(bytes(10**8))


def _lie(message: bytes) -> Callable[[socket.socket], None]:
    return lambda connection: connection.sendall(message)


def _wait(_: socket.socket) -> None:
    time.sleep(3600)


def _leave(connection: socket.socket) -> None:
    """Close the connection, and go on."""
    os.close(connection.fileno())
    time.sleep(3600)


def _reply(**answer: Any) -> Callable[[socket.socket], None]:
    return lambda connection: messages.send(connection, answer)


REASON = {"code": "broken_picture", "problem": "x", "remedy": "x", "status": 422}
FACTS = {"format": "PNG", "width": 1, "height": 1, "pages": 1, "decoder": "pillow"}
DEEDS: dict[str, Callable[[socket.socket], Any]] = {
    "read address 0": lambda _: ctypes.string_at(0),
    "abort": lambda _: os.abort(),
    "abort for memory": lambda _: (os.write(2, b"GLib-ERROR: failed to allocate 9 bytes"), os.abort()),
    "abort for a thread": lambda _: (os.write(2, b"GLib-ERROR: creating thread 'worker'"), os.abort()),
    "exit": lambda _: os._exit(3),
    "loop": lambda _: _loop(),
    "grow": lambda _: _grow(),
    "hang": _wait,
    "close the connection": _leave,
    "answer with noise": _lie(bytes(range(256)) * 4),
    "announce a gigabyte": _lie(messages.LENGTHS.pack(2, 2**30) + b"{}"),
    "answer a list": _lie(messages.LENGTHS.pack(2, 0) + b"[]"),
    "answer nothing": _reply(),
    "answer a side of 10^9 px": _reply(facts=FACTS | {"width": 10**10}, log=[]),
    "answer a format with markup": _reply(facts=FACTS | {"format": "<b>"}, log=[]),
    "reject with a code of its own": _reply(
        rejected={"code": "<b>", "problem": "", "remedy": "", "status": 200}
    ),
    "reject with a status of its own": _reply(rejected=REASON | {"status": 100}, cause=""),
    "reject with a number for a cause": _reply(rejected=REASON, cause=[[7]]),
    "log endless problems": _reply(
        log=[{"event": "decoder_problems", "kind": "PNG", "said": [], "times": inf}], facts=FACTS
    ),
    "log an event of its own": _reply(log=[{"event": "picture_analyzed"}]),
    "ask for NumPy for ever": _reply(lacks_numpy=True, log=[]),
    "ask for memory for ever": _reply(needs=["x"]),
}


def serve(connection: socket.socket, unconfined: str) -> None:
    """Serve as the worker does, until a picture with a deed is opened."""
    real = decoding.open_picture

    def open_picture(data: bytes, *others: Any) -> decoding.Picture:
        if MARK not in data:
            return real(data, *others)
        name = data.rpartition(MARK)[2].decode()
        if name in DEEDS:
            DEEDS[name](connection)
            time.sleep(3600)
        result = _inventory() if name == "inventory" else _answer(name)
        raise Rejected("not_a_picture", result, "", HTTPStatus.UNSUPPORTED_MEDIA_TYPE)

    decoding.open_picture = open_picture  # type: ignore[assignment]  # it passes on what it is given
    worker.serve(connection, unconfined)
