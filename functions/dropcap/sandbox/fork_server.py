"""Fork a confined child for each picture, on request of the function that started this process.

It has one thread, no secrets in its environment, and no open descriptor but its connection, so the children
that it forks have none either. Requests and answers are lines of JSON, one at a time:

    {"fork": {"cpu_s": 100}}    with two descriptors, the picture's connection and its standard error
                                -> {"pid": 17} or {"error": "..."}
    {"load": "numpy"}           for the children that follow
                                -> {"loaded": true}
    {"wait": 17, "patience_s": 1.0}    when that child has ended; it is killed after that time
                                -> {"status": 9, "killed": true, "cpu_s": 0.3, "peak_mb": 61.2}

It ends when the function ends, because its connection does.
"""

import gc
import importlib
import json
import os
import signal
import socket
import sys
import time
from typing import Any

from dropcap.runtime import memory
from dropcap.sandbox import confinement, messages

LINE = 4096  # bytes; longer than any request
POLL_S = 0.002


def main() -> None:
    """Serve the connection whose descriptor is the first argument; the second is the worker's module."""
    control, worker = socket.socket(fileno=int(sys.argv[1])), importlib.import_module(sys.argv[2])
    memory.use_one_heap()
    worker.load_decoders()
    _freeze()
    _answer(control, {"ready": True})
    while True:
        line, descriptors, _, _ = socket.recv_fds(control, LINE, 2)
        if not line:
            return
        request = json.loads(line)
        if "wait" in request:
            _answer(control, _wait(request["wait"], request["patience_s"]))
        elif "load" in request:
            worker.load_numpy()
            _freeze()
            _answer(control, {"loaded": True})
        else:
            _answer(control, _fork(control, descriptors, worker, **request["fork"]))
            for descriptor in descriptors:
                os.close(descriptor)


def _freeze() -> None:
    """Exempt all objects from garbage collection, which in a child would copy every page with an object."""
    gc.collect()
    gc.freeze()


def _fork(control: socket.socket, descriptors: list[int], worker: Any, cpu_s: int) -> dict[str, Any]:
    try:
        pid = os.fork()
    except OSError as refused:
        return {"error": str(refused)}
    if pid:
        return {"pid": pid}
    status = 1
    try:
        control.close()
        connection, stderr = descriptors
        os.dup2(stderr, 2)
        os.close(stderr)
        with socket.socket(fileno=connection) as picture:
            worker.serve(picture, confinement.confine(cpu_s))
        status = 0
    except MemoryError:
        status = messages.OUT_OF_MEMORY
    except BaseException as failed:  # must not return into the fork server's loop
        os.write(2, f"{type(failed).__name__}: {failed}\n".encode()[:1000])
    finally:
        os._exit(status)


def _wait(pid: int, patience_s: float) -> dict[str, Any]:
    """Wait until a child has ended, and kill it after `patience_s`."""
    deadline, killed = time.monotonic() + patience_s, False
    try:
        while True:
            ended, status, usage = os.wait4(pid, 0 if killed else os.WNOHANG)
            if ended:
                break
            if time.monotonic() < deadline:
                time.sleep(POLL_S)
            else:
                os.kill(pid, signal.SIGKILL)
                killed = True
    except ChildProcessError as unknown:  # the child of an earlier fork server
        return {"error": str(unknown)}
    peak_mb = usage.ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)
    cpu_s = usage.ru_utime + usage.ru_stime
    return {"status": status, "killed": killed, "cpu_s": round(cpu_s, 3), "peak_mb": round(peak_mb, 1)}


def _answer(control: socket.socket, answer: dict[str, Any]) -> None:
    control.sendall(json.dumps(answer).encode() + b"\n")
