"""Decode, resize and encode one picture in a confined child process, on request of the function.

    request                                          answer
    {"op": "check_head"}, the first bytes            {}
    {"op": "count_frames", "format"}, a picture      {"frames"}
    {"op": "open"}, a picture                        {"facts"}; before it, several times, {"needs": [MB]},
                                                     which is answered by {"index": 0 or null, "left_mb"}
    {"op": "raster", "side"}                         {"size"}, RGB
    {"op": "encode", "side", "kind", "quality"}      {"size"}, a picture
    {"op": "open_animation", "sizes"}                {"frames"}, 0 if only the first is published
    {"op": "encode_animation", "side", "quality"}    {"size"}, a picture; {} if it is damaged

Each answer has the lines that decoders logged. An error is {"rejected"}, {"exhausted"} for memory,
{"lacks_numpy"}, or {"failed"} for what is not the picture's fault.
"""

import logging
import os
import socket
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib import import_module
from typing import Any

from dropcap.domain import naming
from dropcap.domain.naming import Side
from dropcap.errors import Rejected, TransientError, cause, causes
from dropcap.imaging import animation, decoder_errors, decoding
from dropcap.imaging.decoders import libvips
from dropcap.sandbox import confinement, messages

MAX_PICTURE = 2**31  # bytes; MAX_MB is much lower
MAX_TEXT = 500  # characters
MAX_LOGGED = 20  # lines for one picture
LOGGED = ("kind", "said", "times", "problem")  # fields


@dataclass(frozen=True, slots=True)
class Limits:
    """The settings that decoding needs, as in `Settings`."""

    max_side: int
    max_megapixels: int
    largest_side: int


def load_decoders() -> None:
    """Load the libraries and modules that almost all pictures need: the child can open no file."""
    decoding.load_readers()
    with suppress(ImportError):  # without it, a HEIC picture is tried again later
        decoding.register_heif()
    with suppress(ImportError, OSError):
        libvips.library()


def load_numpy() -> None:
    """Load what pictures with gamma, HDR or bit masks need: 0.1 s and 6 MB."""
    import_module("dropcap.imaging.linear_light")


class _Log(logging.Handler):
    """Keep what decoders log, for the function to write."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[dict[str, Any]] = []

    def emit(self, record: logging.LogRecord) -> None:
        if (event := getattr(record, "event", "")) and len(self.lines) < MAX_LOGGED:
            fields = {name: getattr(record, name) for name in LOGGED if hasattr(record, name)}
            self.lines.append({"event": event, **fields})


class Worker:
    """The state of one picture: its bytes, its raster, its animation."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._read = connection.makefile("rb").read
        self._data = b""
        self._picture: decoding.Picture | None = None
        self._animation: animation.Animation | None = None
        self._stderr_at = 0

    def receive(self) -> tuple[dict[str, Any], bytes]:
        return messages.receive(self._read, MAX_PICTURE)

    def read_stderr(self) -> list[str]:
        """Return the lines that libraries wrote to standard error, which is a file, since the last call."""
        os.lseek(2, self._stderr_at, os.SEEK_SET)
        text = os.read(2, confinement.STDERR_BYTES)
        self._stderr_at += len(text)
        return text.decode(errors="replace").splitlines()

    def admit(self, needs: Sequence[float]) -> tuple[int | None, float]:
        """Ask the function which need of memory, MB, can be met."""
        messages.send(self._connection, {"needs": list(needs)})
        answer, _ = self.receive()
        return answer["index"], answer["left_mb"]

    def answer(self, request: dict[str, Any], body: bytes) -> tuple[dict[str, Any], bytes]:
        """Return the answer to a request and its body."""
        match request.pop("op"):
            case "check_head":
                decoding.check_head(body, Limits(**request["limits"]))
                return {}, b""
            case "count_frames":
                return {"frames": animation.count_frames(body, request["format"])}, b""
            case "open":
                self._picture = decoding.open_picture(body, Limits(**request["limits"]), self.admit)
                animated = self._picture.facts.format in naming.ANIMATED_FORMATS
                self._data = body if animated else b""
                return {"facts": asdict(self._picture.facts)}, b""
            case "open_animation":
                assert self._picture
                sizes = [_side(side) for side in request["sizes"]]
                self._animation = animation.open_animation(self._data, self._picture.facts, sizes, self.admit)
                return {"frames": self._animation.frames if self._animation else 0}, b""
            case "raster":
                assert self._picture
                with self._picture.resize(request["side"]) as raster:
                    return {"size": raster.size}, raster.tobytes()
            case "encode":
                assert self._picture
                made = self._picture.encode(_side(request["side"]), request["kind"], request["quality"])
                return {"size": (made.width, made.height)}, made.data
            case "encode_animation":
                assert self._animation
                moving = self._animation.encode(_side(request["side"]), request["quality"])
                return ({"size": (moving.width, moving.height)}, moving.data) if moving else ({}, b"")
            case unknown:
                raise ValueError(f"there is no operation {unknown}")


def _side(side: int | list[int]) -> Side:
    return side if isinstance(side, int) else (side[0], side[1])


def serve(connection: socket.socket, unconfined: str) -> None:
    """Answer requests about one picture until the function closes the connection.

    `unconfined` says which part of the confinement is missing, and goes with the first answer.
    """
    log, worker = _Log(), Worker(connection)
    decoder_errors.read_stderr = worker.read_stderr
    logging.getLogger("dropcap").addHandler(log)
    logging.getLogger("dropcap").setLevel(logging.INFO)
    while True:
        try:
            request, body = worker.receive()
        except messages.Closed:
            return
        result = b""
        try:
            answer, result = worker.answer(request, body)
        except decoder_errors.OutOfMemory:
            answer = {"exhausted": True}
        except Rejected as error:
            reason = {"code": error.code, "problem": error.problem, "remedy": error.remedy}
            answer = {"rejected": reason | {"status": error.status}, "cause": cause(error)}
        except TransientError as error:
            import_failed = any(isinstance(link, ImportError) for link in causes(error))
            lacks_numpy = import_failed and "numpy" not in sys.modules
            answer = {"lacks_numpy": True} if lacks_numpy else {"failed": str(error)}
        except MemoryError:
            answer = {"exhausted": True}
        except Exception as error:  # a fault of ours, or of the installation: not of the picture
            answer = {"failed": f"{type(error).__name__}: {error}"[:MAX_TEXT]}
        del request, body
        messages.send(connection, answer | {"log": log.lines, "unconfined": unconfined}, result)
        log.lines.clear()
        unconfined = ""
