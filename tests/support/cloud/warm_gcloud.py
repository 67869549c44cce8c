"""Run the real gcloud faster: import it once, and fork a process for each call.

A gcloud command spends most of its second on starting Python, importing, and building the tree of commands,
and tests make thousands of calls. `WarmGcloud` starts one process with gcloud's own Python and code,
and creates a folder with a small program `gcloud` for PATH. That program passes its arguments, folder,
environment and standard streams to a fork of the process, and exits with the fork's status. Flags, output and
requests are the real gcloud's.

This file runs in three places: as a module of the tests, as the process that serves (in gcloud's Python) and
as the program that calls; so its top imports only what the last, which runs most often, needs.
"""

import _socket
import os
import sys

TYPE_CHECKING = (
    False  # as mypy reads it; `typing`, and `socket` too, take longer to import than the rest runs
)
if TYPE_CHECKING:
    import socket
    import subprocess
    from collections.abc import Callable
    from types import TracebackType
    from typing import Any, Self

STREAMS = 3  # standard input, output and error
REPLAY = "GCLOUD_REPLAY"  # a variable: the socket of replayed_gcloud.py
READING = {"list", "describe", "get-iam-policy", "access", "version"}
PAUSE_S = 0.02  # the longest pause between gcloud's polls; the stand-in never needs more
BROKEN = 70  # EX_SOFTWARE: the fork died without a word
PYTHON = os.path.join("platform", "bundledpythonunix", "bin", "python3")


class WarmGcloud:
    """A context manager that provides `folder` with a fast program `gcloud`.

    `temporary` is an empty folder. If this machine's gcloud has another layout, `folder` has a link to it.
    """

    def __init__(self, temporary: str) -> None:
        self.folder = str(temporary)
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "Self":
        import py_compile
        import shlex
        import shutil
        import subprocess

        gcloud, plain = os.path.join(self.folder, "gcloud"), shutil.which("gcloud")
        assert plain, "gcloud is not installed"
        root = os.path.dirname(os.path.dirname(os.path.realpath(plain)))
        address = os.path.join(self.folder, "socket")
        words = [os.path.join(root, PYTHON), os.path.abspath(__file__), address, root]
        if not all(os.path.exists(path) for path in (words[0], os.path.join(root, "lib", "gcloud.py"))):
            os.symlink(plain, gcloud)
            return self
        environment = {name: value for name, value in os.environ.items() if "CLOUDSDK" not in name}
        environment |= _usual(root)
        # Nothing of the machine's own configuration is read, or logged, before there is a call.
        environment |= {
            "CLOUDSDK_CONFIG": os.path.join(self.folder, "config"),
            "CLOUDSDK_CORE_DISABLE_FILE_LOGGING": "1",
        }
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(words, env=environment, stdin=pipe, stdout=pipe, cwd=self.folder)
        ready = self._process.stdout.readline() if self._process.stdout else b""
        assert ready == b"ready\n", f"{root} could not be imported"
        with open(gcloud, "w") as program:
            compiled = os.path.join(self.folder, "caller.pyc")  # else each call would compile all of this
            py_compile.compile(words[1], compiled, doraise=True)
            python = os.path.realpath(sys.executable)  # no virtual environment is looked for
            caller = shlex.join([python, "-IS", compiled, address])
            program.write(f'#!/bin/sh\nexec {caller} "$@"\n')
        os.chmod(gcloud, 0o700)
        return self

    def __exit__(
        self, kind: "type[BaseException] | None", error: "BaseException | None", trace: "TracebackType | None"
    ) -> None:
        if self._process:
            self._process.communicate()  # its standard input ends, and so does it


def call(address: str, words: list[str]) -> int:
    """Run these arguments with the gcloud at this address, and return its exit status."""
    if "--quiet" in words and READING.intersection(words):
        address = os.environ.get(REPLAY, address)
    variables = [f"{name}={value}" for name, value in os.environ.items()]
    message = b"\0".join(map(os.fsencode, [os.getcwd(), str(len(words)), *words, *variables]))
    streams = b"".join(number.to_bytes(4, sys.byteorder) for number in range(STREAMS))
    link = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    link.connect(address)
    rights = (_socket.SOL_SOCKET, _socket.SCM_RIGHTS, streams)
    link.sendmsg([len(message).to_bytes(4, "big")], [rights])
    link.sendall(message)
    status = link.recv(1)
    return status[0] if status else BROKEN


def receive(link: "socket.socket") -> "tuple[str, list[str], dict[str, str], list[int]]":
    """Return folder, arguments, environment and standard streams of a `call`."""
    import socket

    head, streams, _, _ = socket.recv_fds(link, 4, STREAMS)
    message = b""
    while len(message) < int.from_bytes(head, "big"):
        message += link.recv(1 << 20)
    folder, count, *rest = map(os.fsdecode, message.split(b"\0"))
    pairs = [variable.partition("=") for variable in rest[int(count) :]]
    return folder, rest[: int(count)], {name: value for name, _, value in pairs}, streams


def serve(address: str, root: str) -> None:
    """Import the gcloud of the SDK in the folder `root`, and answer calls until standard input ends."""
    import gc
    import importlib
    import select
    import signal
    import socket

    sys.path.insert(0, os.path.join(root, "lib"))
    gcloud = importlib.import_module("gcloud")
    gcloud_main: Any = importlib.import_module("googlecloudsdk.gcloud_main")
    cli = gcloud_main.CreateCLI([])
    gcloud_main.CreateCLI = lambda _: _as_new(cli)
    lessons, lesson = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen(64)
        print("ready", flush=True)
        while True:
            ready, _, _ = select.select([listener.fileno(), lessons.fileno(), 0], [], [])
            if 0 in ready:
                return
            if lessons.fileno() in ready:
                _learn(cli, lessons.recv(1 << 20))
                continue
            link, _ = listener.accept()
            gc.freeze()  # a collection in a fork would copy every page
            signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the forks are not waited for
            if os.fork() == 0:
                gc.disable()  # it ends soon
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                listener.close()
                _run(gcloud.main, root, link, lesson)
            link.close()


def _learn(cli: "Any", lesson: bytes) -> None:
    """Load the imports and the command of one fork, so that later forks have them."""
    import importlib
    from contextlib import suppress

    modules, _, words = lesson.decode().partition("\0")
    for name in modules.split():
        with suppress(Exception):
            importlib.import_module(name)
    element = cli.top_element
    for word in words.split():
        with suppress(Exception):
            element = element and element.LoadSubElement(word)


def _as_new(cli: "Any") -> "Any":
    """Return the tree of commands, with its environment-dependent parts rebuilt for this fork."""
    core = "googlecloudsdk.core"
    sys.modules[f"{core}.configurations.named_configs"].ActivePropertiesFile.Invalidate()
    sys.modules[f"{core}.log"].AddFileLogging(sys.modules[f"{core}.config"].Paths().logs_dir)
    return cli


def _run(main: "Callable[[], None]", root: str, link: "socket.socket", lesson: "socket.socket") -> None:
    """Run gcloud in a fork, send its exit status, and exit."""
    import atexit
    import itertools
    import threading
    import time
    from contextlib import suppress

    folder, words, variables, streams = receive(link)
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(variables)
    os.environ.update(_usual(root))
    sys.argv = [os.path.join(root, "lib", "gcloud.py"), *words]

    def watch() -> None:
        if not link.recv(1):
            os._exit(BROKEN)  # the caller is gone, as after Ctrl-C

    threading.Thread(target=watch, daemon=True).start()
    sleep = time.sleep
    time.sleep = lambda seconds: sleep(min(float(seconds), PAUSE_S))
    known = set(sys.modules)
    status: object = 1
    try:
        main()
    except SystemExit as end:
        status = end.code
        if isinstance(status, str):
            print(status, file=sys.stderr)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    imported = " ".join(name for name in sys.modules if name not in known)
    path = " ".join(itertools.takewhile(str.isidentifier, (word.replace("-", "_") for word in words)))
    with suppress(OSError):  # too long, or the server has ended
        lesson.send(f"{imported}\0{path}".encode())
    link.send(bytes([int(status or 0) if isinstance(status, int | None) else 1]))
    os._exit(0)


def _usual(root: str) -> dict[str, str]:
    """Return the variables that gcloud's start script sets."""
    return {
        "CLOUDSDK_ROOT_DIR": root,
        "CLOUDSDK_PYTHON": os.path.join(root, PYTHON),
        "CLOUDSDK_PYTHON_SITEPACKAGES": "1",
        "CLOUDSDK_ENCODING": "UTF-8",
        "PYTHONIOENCODING": "UTF-8",
    }


if __name__ == "__main__":
    if sys.flags.isolated:
        sys.exit(call(sys.argv[1], sys.argv[2:]))
    serve(*sys.argv[1:])
