"""Start the processes of the sandbox, talk to them, and explain how one ended."""

import json
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from http import HTTPStatus
from tempfile import TemporaryFile
from typing import IO, Any

from dropcap.errors import DropcapError, NotDecoded, Rejected, TransientError
from dropcap.runtime import memory
from dropcap.sandbox import messages

WORKER = "dropcap.sandbox.worker"
PROGRAM = "import json, sys; sys.path[:] = json.loads(sys.argv.pop(1)); "
PROGRAM += "from dropcap.sandbox.fork_server import main; main()"
ENVIRONMENT = ("PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH")  # what a fork server gets of the environment
VARIABLES = {  # and what it gets besides
    "OPENBLAS_NUM_THREADS": "1",  # NumPy would start threads, which a fork loses
    # Large pages: a child touches all its memory for the first time, which took 12 to 28 ms a picture, now
    # -2 to 4 (`python -m tests.bench.sandbox`).
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
}
START_S = 30.0  # the fork server takes 0.3 s
UNUSED_MB = 32.0  # address space that is never touched: stacks of threads, and what malloc reserves
COPIED_MB = 4.2  # what a child changes of the memory that it shares with the fork server: 3.6 to 4.2
MAX_QUESTIONS = 10  # about memory, in one request
PATIENCE_S = 1.0  # until a child that closed its connection is killed; dying takes milliseconds
MAX_STDERR = 500  # bytes of standard error that are shown
MEMORY = ("failed to allocate", "bad_alloc", "out of memory", "MemoryError")  # GLib, C++, libvips, Python
THREADS = ("creating thread", "can't start new thread")  # GLib, Python


class DecoderHung(TransientError):
    """Transient error: a decoder waited for ever. Counts as a crash, so that MAX_DEATHS ends its retries."""


class Exhausted(DropcapError):
    """A child needs more memory than it was given."""


class NumPyNeeded(DropcapError):
    """A child needs NumPy, which its fork server has not loaded."""


class DecoderError(DropcapError):
    """What a child reported, or how it ended: the cause of another error."""


@dataclass(frozen=True, slots=True)
class ExitReport:
    """How a child ended: wait status, whether killed by us, CPU s, peak MB, and its last standard error."""

    status: int
    killed: bool
    cpu_s: float
    peak_mb: float
    stderr: str

    def __str__(self) -> str:
        how = f"exit status {os.waitstatus_to_exitcode(self.status)}"
        if os.WIFSIGNALED(self.status):
            how = signal.Signals(os.WTERMSIG(self.status)).name
        stderr = f": {self.stderr}" if self.stderr else ""
        return f"{how} after {self.cpu_s:.1f} s of CPU, with at most {self.peak_mb:.0f} MB{stderr}"


class _ForkServer:
    """The process that forks the children; started with the first picture, and again if it has ended."""

    def __init__(self, worker: str) -> None:
        self._worker, self._lock = worker, threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self.has_numpy = False

    def fork(self, cpu_s: int, descriptors: Iterable[int]) -> int:
        """Return the pid of a new child that has the two descriptors. Raises NotDecoded."""
        pid = int(self._ask({"fork": {"cpu_s": cpu_s}}, descriptors)["pid"])
        assert self._process
        memory.helpers[pid] = memory.anonymous_mb(self._process.pid) - COPIED_MB
        return pid

    def load_numpy(self) -> None:
        """Load NumPy for the children that follow. Raises NotDecoded."""
        self._ask({"load": "numpy"})
        self.has_numpy = True

    def wait(self, pid: int, patience_s: float) -> Mapping[str, Any]:
        """Wait until a child has ended, and kill it after `patience_s`. Raises NotDecoded."""
        memory.helpers.pop(pid, None)
        return self._ask({"wait": pid, "patience_s": patience_s})

    def start(self) -> None:
        """Start the process if it does not run; the first picture need not wait for it then."""
        with self._lock, suppress(OSError, ValueError):  # the picture's own attempt explains it
            self._start_once()

    def _ask(self, request: Mapping[str, Any], descriptors: Iterable[int] = ()) -> dict[str, Any]:
        with self._lock:
            try:
                self._start_once()
                socket.send_fds(self._control, [json.dumps(request).encode()], descriptors)
                answer: dict[str, Any] = self._line()
            except (OSError, ValueError) as ended:
                self._end()
                raise NotDecoded(f"The decoders' process ended: {ended!r}.") from ended
        if problem := answer.get("error"):
            raise NotDecoded(f"No process could be started for the picture: {problem}.")
        return answer

    def _start_once(self) -> None:
        if self._process is None or self._process.poll() is not None:
            self._start()

    def _start(self) -> None:
        """Start the process: without this one's environment, descriptors and modules."""
        self._end()
        own, other = socket.socketpair()
        own.settimeout(START_S)
        paths = json.dumps([os.path.abspath(path) for path in sys.path])
        with other:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", PROGRAM, paths, str(other.fileno()), self._worker],
                env={name: os.environ[name] for name in ENVIRONMENT if name in os.environ} | VARIABLES,
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                start_new_session=True,  # it ends with its connection, not with a signal to the terminal
                pass_fds=[other.fileno()],
            )
        self._control, self.has_numpy = own, False
        memory.helpers[self._process.pid] = 0.0
        self._line()

    def _line(self) -> dict[str, Any]:
        line = b""
        while not line.endswith(b"\n"):
            part = self._control.recv(4096)
            if not part:
                raise ConnectionError("it closed the connection")
            line += part
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _end(self) -> None:
        if self._process:
            self._process.kill()
            self._process.wait()
            memory.helpers.pop(self._process.pid, None)
            self._control.close()
        self._process = None


def _memory_file() -> IO[bytes]:
    """Return an open file without a name; in memory where possible, as the disk may be full."""
    return os.fdopen(os.memfd_create("stderr"), "w+b") if sys.platform == "linux" else TemporaryFile()


@cache
def _fork_server(worker: str) -> _ForkServer:
    return _ForkServer(worker)


def start() -> None:
    """Start the fork server, which takes 0.3 s, before there is a picture."""
    _fork_server(WORKER).start()


class Child:
    """One confined process, and the connection to it."""

    def __init__(self, timeout_s: float, cpu_s: int) -> None:
        self.ended = False
        self._timeout_s, self._server = timeout_s, _fork_server(WORKER)
        self._connection, other = socket.socketpair()
        self._stderr = _memory_file()
        self._kills = memory.kills()
        try:
            with other:
                self._pid = self._server.fork(cpu_s, (other.fileno(), self._stderr.fileno()))
        except BaseException:
            self._connection.close()
            self._stderr.close()
            raise
        self.has_numpy = self._server.has_numpy

    def limit_memory(self, more_mb: float) -> None:
        """Let the child allocate `more_mb` besides what it has."""
        if hasattr(resource, "prlimit"):  # Linux
            with suppress(OSError):  # it has ended
                has = memory.address_space_mb(self._pid)
                limit = round((has + max(0.0, more_mb) + UNUSED_MB) * 1e6)
                resource.prlimit(self._pid, resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))

    def ask(
        self,
        request: Mapping[str, Any],
        body: Callable[[], bytes],
        largest: int,
        admit: memory.Admit | None = None,
    ) -> tuple[dict[str, Any], bytes]:
        """Return the child's answer and its body of up to `largest` bytes.

        `body` returns the body of the request, which this process does not hold while it waits. `admit`
        answers the child's questions about memory.

        If the child ends instead, raises Rejected, Exhausted, NotDecoded or DecoderHung.
        """
        read = messages.reader(self._connection, time.monotonic() + self._timeout_s)
        try:
            self._connection.settimeout(self._timeout_s)
            messages.send(self._connection, request, body())
            answer, result = messages.receive(read, largest)
            for _ in range(MAX_QUESTIONS):
                if admit is None or "needs" not in answer:
                    return answer, result
                index, left_mb = admit([float(need) for need in answer["needs"]])
                self.limit_memory(left_mb)
                messages.send(self._connection, {"index": index, "left_mb": left_mb})
                answer, result = messages.receive(read, largest)
            raise ValueError("it never answers")
        except TimeoutError as late:
            raise self._explain(self._end(), late=True) from late
        except (messages.Closed, ConnectionError) as ended:  # it dies, or hides
            raise self._explain(self._end(PATIENCE_S)) from ended
        except (KeyError, TypeError, ValueError) as wrong:
            self._end()
            raise nonsense() from wrong

    def load_numpy(self) -> None:
        """Load NumPy for the children that follow. Raises NotDecoded."""
        self._server.load_numpy()

    def close(self) -> None:
        """End the child. Its memory is free when this returns."""
        if not self.ended:
            with suppress(NotDecoded):
                self._end()
        self._connection.close()
        self._stderr.close()

    def _end(self, patience_s: float = 0.0) -> ExitReport:
        """Wait until the child has ended, kill it after `patience_s`, and return how it ended."""
        self.ended = True
        report = self._server.wait(self._pid, patience_s)
        return ExitReport(
            report["status"], report["killed"], report["cpu_s"], report["peak_mb"], self._stderr_end()
        )

    def _stderr_end(self) -> str:
        """Return the end of what the child wrote to standard error, as one line."""
        self._stderr.seek(0, os.SEEK_END)
        self._stderr.seek(max(0, self._stderr.tell() - MAX_STDERR))
        return " ".join(self._stderr.read().decode(errors="replace").split())

    def _explain(self, report: ExitReport, late: bool = False) -> Exception:
        """Return the error that the end of a child means."""
        number = os.WTERMSIG(report.status) if os.WIFSIGNALED(report.status) else 0
        if number == signal.SIGXCPU:
            return _caused_by(
                report,
                Rejected(
                    "decoder_timed_out",
                    f"Decoding took more than {report.cpu_s:.0f} s of CPU and was stopped.",
                    "Open the original in a picture editor, save it again and upload that.",
                    HTTPStatus.UNPROCESSABLE_ENTITY,
                ),
            )
        if late:
            return DecoderHung(f"A decoder did not answer within {self._timeout_s:.0f} s: {report}.")
        if report.killed:
            return _caused_by(report, nonsense())
        if report.status == messages.OUT_OF_MEMORY << 8 or any(word in report.stderr for word in MEMORY):
            return Exhausted(str(report))
        if number == signal.SIGKILL and memory.kills() > self._kills:
            return Exhausted(str(report))
        if number == signal.SIGKILL or any(word in report.stderr for word in THREADS):
            return NotDecoded(f"A decoder was ended by the system: {report}.")
        return _caused_by(
            report,
            Rejected(
                "decoder_crashed",
                "A decoder crashed on these bytes.",
                "Open the original in a picture editor, save it again and upload that.",
                HTTPStatus.UNPROCESSABLE_ENTITY,
            ),
        )


def _caused_by(report: ExitReport, rejection: Rejected) -> Rejected:
    rejection.__cause__ = DecoderError(str(report))
    return rejection


def nonsense() -> Rejected:
    """Return the rejection of a picture whose decoder does not behave as one."""
    return Rejected(
        "decoder_crashed",
        "A decoder's answer makes no sense.",
        "Open the original in a picture editor, save it again and upload that.",
        HTTPStatus.UNPROCESSABLE_ENTITY,
    )
