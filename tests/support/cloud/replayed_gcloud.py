"""Answer repeated reading commands of gcloud from memory: same arguments and same responses, same output.

A plan reads thirty resources with a gcloud for each, and the tests make hundreds of plans. What a reading
command prints depends on its arguments, its configuration and the responses to its requests. The real gcloud
runs each command first, and its requests and responses are recorded. When the command is repeated, the
stand-in answers the recorded requests again, from its present state. If each response is byte for byte the
recorded one, the recorded output is returned; otherwise the real gcloud runs again.
"""

import os
import socket
import subprocess
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path

from tests.support.cloud.control_plane import ControlPlane, Response
from tests.support.cloud.control_plane_store import Request
from tests.support.cloud.warm_gcloud import REPLAY, receive

# Each stand-in has its own, and they do not affect what a command prints.
OWN = ("CONFIG", "AUTH_ACCESS_TOKEN_FILE", "CORE_CUSTOM_CA_CERTS_FILE", "PROXY_PORT")
OWN_VARIABLES = {f"CLOUDSDK_{name}" for name in OWN}

Command = tuple[str, ...]  # the arguments, then the configuration
Result = tuple[int, bytes, bytes]  # exit status, standard output and standard error
_known: dict[tuple[Command, tuple[Response, ...]], Request | Result] = {}  # what follows these responses
_numbers = count()


@contextmanager
def replayed(plane: ControlPlane, folder: str) -> Iterator[None]:
    """Give the stand-in the gcloud of the `WarmGcloud` in this folder, with repeated reads from memory."""
    address = os.path.join(folder, f"replay-{next(_numbers)}")
    plane.environment |= {"PATH": f"{folder}:{os.environ['PATH']}", REPLAY: address}
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen(64)
        threading.Thread(target=_serve, args=(listener, plane, folder), daemon=True).start()
        yield
        listener.shutdown(socket.SHUT_RDWR)
    os.unlink(address)


def _serve(listener: socket.socket, plane: ControlPlane, folder: str) -> None:
    with suppress(OSError):  # the listener is closed
        while True:
            link, _ = listener.accept()
            threading.Thread(target=_answer, args=(link, plane, folder), daemon=True).start()


def _answer(link: socket.socket, plane: ControlPlane, folder: str) -> None:
    with link, suppress(OSError):  # the caller is gone
        directory, words, variables, streams = receive(link)
        try:
            command = _command(words, variables)
            result = _replay(plane, command) or _run(plane, command, folder, directory, words, variables)
            for stream, text in zip(streams[1:], result[1:], strict=True):
                with open(stream, "wb", closefd=False) as file:
                    file.write(text)
            link.send(bytes([result[0]]))
        finally:
            for stream in streams:
                os.close(stream)


def _command(words: list[str], variables: Mapping[str, str]) -> Command:
    names = {name for name in variables if name.startswith("CLOUDSDK_")} - OWN_VARIABLES
    file = Path(variables["CLOUDSDK_CONFIG"], "configurations", "config_default")
    configuration = file.read_text() if file.exists() else ""
    return (*words, *(f"{name}={variables[name]}" for name in sorted(names)), configuration)


def _replay(plane: ControlPlane, command: Command) -> Result | None:
    """Return the recorded result if the stand-in responds as recorded, else None."""
    responses: tuple[Response, ...] = ()
    requests = []
    while isinstance(step := _known.get((command, responses)), Request):
        requests.append(step)
        if (response := plane.respond_again(step)) is None:
            return None
        responses += (response,)
    if step:
        plane.requests += requests
    return step


def _run(
    plane: ControlPlane, command: Command, folder: str, directory: str, words: list[str], env: dict[str, str]
) -> Result:
    """Run the real gcloud, record the result if it only read, and return it."""
    del env[REPLAY]
    with plane.recording() as (port, exchange):
        for name in ("CLOUDSDK_PROXY_PORT", "HTTPS_PROXY", "https_proxy"):
            env[name] = env[name].removesuffix(plane.port) + port
        program = [os.path.join(folder, "gcloud"), *words]
        done = subprocess.run(program, cwd=directory, env=env, stdin=subprocess.DEVNULL, capture_output=True)
    result = done.returncode, done.stdout, done.stderr
    if not any(request.writes or status == 0 for request, (status, _) in exchange):
        responses: tuple[Response, ...] = ()
        for request, response in exchange:
            _known[command, responses] = request
            responses += (response,)
        _known[command, responses] = result
    return result
