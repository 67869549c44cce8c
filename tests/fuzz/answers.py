"""What a decoder's process may answer after a picture has taken it over: each check raises what must not
happen.

The function may raise Rejected, NotDecoded and DecoderHung, and what it returns has the types and limits that
it promises, whatever the process says.
"""

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any
from unittest.mock import patch

from dropcap.domain.naming import Encoded
from dropcap.errors import NotDecoded, Rejected, cause
from dropcap.sandbox import answers, client, messages, processes
from dropcap.sandbox.processes import Child, DecoderHung
from dropcap.settings import Settings
from tests.fuzz.inputs import FIELD
from tests.support.sandbox import open_bytes

SETTINGS = Settings(memory_limit_mb=4096, memory_warning_mb=4096)
CODES = {*answers.CODES, "decoder_crashed", "decoder_timed_out"}
MAX_PROBLEM = 600  # characters
MOST = 2**20  # bytes of a message's body
SIDE = 64


class _Connection:
    """The connection to a process that says what was written before."""

    def __init__(self, stream: io.BytesIO) -> None:
        self._stream = stream

    def settimeout(self, seconds: float) -> None:
        """Wait for nothing."""

    def sendall(self, data: bytes) -> None:
        """Send nothing: nobody listens."""

    def recv_into(self, buffer: memoryview) -> int:
        return self._stream.readinto(buffer)

    def close(self) -> None:
        """Close nothing."""


class _Liar(Child):
    """A process that says what it likes, without a process."""

    def __init__(self, stream: io.BytesIO) -> None:
        self.ended, self._timeout_s, self._kills = False, 1.0, 0
        self._connection = _Connection(stream)  # type: ignore[assignment]
        self._stderr = io.BytesIO()

    def limit_memory(self, more_mb: float) -> None:
        assert isinstance(more_mb, float | int)

    def _end(self, patience_s: float = 0.0) -> processes.ExitReport:
        self.ended = True
        return processes.ExitReport(0, False, 0.1, 20.0, "")


def check_messages(data: bytes) -> None:
    """Check that any bytes are a message or Closed."""
    read = io.BytesIO(data).read
    try:
        while True:
            message, body = messages.receive(read, MOST)
            assert isinstance(message, dict)
            assert isinstance(body, bytes)
    except messages.Closed:
        return


def framed(data: bytes) -> bytes:
    """Return the messages in a byte string as a process sends them: fields of JSON, a newline, and bytes."""
    made = b""
    for part in data.split(FIELD):
        text, _, body = part.partition(b"\n")
        made += messages.LENGTHS.pack(len(text), len(body)) + text + body
    return made


@contextmanager
def _lying(data: bytes) -> Iterator[None]:
    stream = io.BytesIO(framed(data))
    with (
        patch.object(client, "new_child", lambda _: _Liar(stream)),
        patch.object(client, "_left_mb", lambda _: 999.0),
    ):
        yield


def check_answers(data: bytes) -> None:
    """Check everything that is asked about a picture, with these answers one after the other."""
    with _lying(data):
        picture = _harmless(lambda: open_bytes(b"picture", SETTINGS, lambda: None))
        if picture is None:
            return
        facts = picture.facts
        assert all(type(number) is int and number > 0 for number in (facts.width, facts.height, facts.pages))
        assert {type(facts.format), type(facts.decoder)} == {str}
        for ask in (
            lambda: picture.raster(SIDE),
            lambda: picture.encode(SIDE, "webp", 80),
            lambda: picture.open_animation(),
            lambda: picture.encode_animation((SIDE, SIDE), 80),
        ):
            found: Any = _harmless(ask)
            if isinstance(found, Encoded):
                assert all(type(side) is int and 0 < side <= SIDE for side in (found.width, found.height))
        picture.close()


def check_small_answers(data: bytes) -> None:
    """Check what is asked about the first bytes, and about a WebP."""
    with _lying(data):
        _harmless(lambda: client.check_head(b"head", SETTINGS))
        found = _harmless(lambda: client.is_animated(b"picture", SETTINGS))
        assert found in (None, True, False)


def _harmless(ask: Callable[[], Any]) -> Any:
    """Return what is returned; None if an error is raised that may be."""
    try:
        return ask()
    except Rejected as rejected:
        assert rejected.code in CODES, rejected.code
        assert HTTPStatus.BAD_REQUEST <= rejected.status < HTTPStatus.INTERNAL_SERVER_ERROR, rejected.status
        assert len(str(rejected)) <= 2 * MAX_PROBLEM
        assert "\n" not in str(rejected)
        cause(rejected)
    except (NotDecoded, DecoderHung) as failed:
        assert len(str(failed)) <= MAX_PROBLEM
        assert "\n" not in str(failed)
        cause(failed)
    return None
