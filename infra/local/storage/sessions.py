"""Resumable uploads as Cloud Storage has them: what is there already, what comes next, and to whose pages.

cloud.google.com/storage/docs/performing-resumable-uploads has the rules. fake-gcs-server makes an object of
what is there when it is asked how far an upload is, tells one byte too many, takes more bytes than were
announced, and goes on after a cancellation (its issues 1362 and 2354). So the gate keeps the bytes until all
of them are there, and only then sends them on.
"""

import asyncio
import re
from collections.abc import AsyncIterator
from http import HTTPStatus
from tempfile import SpooledTemporaryFile

import aiohttp
from aiohttp import web

from infra.local.storage.preconditions import Expected, Refused

CONTENT_RANGE = re.compile(r"bytes (?:(\d{1,19})-(\d{1,19})|\*)/(\d{1,19}|\*)")
QUANTUM = 256 * 1024  # bytes: of an upload that is not complete, a multiple of it is kept
CANCELLED = 499  # "client closed request": the answer to a DELETE
MOST = 1000  # sessions that are remembered; Cloud Storage remembers each for a week
# What the page that an upload is for may send and read. The headers are those of an answer of Google's upload
# server to a browser (October 2021); `Range` is among them, which says where to go on.
ALLOWED = {
    "Access-Control-Allow-Methods": "PUT, DELETE",
    "Access-Control-Allow-Headers": "Content-Range, Content-Type",
    "Access-Control-Max-Age": "3600",
}
EXPOSED = "Content-Length, Content-Type, Date, Range, Server, Transfer-Encoding, X-GUploader-UploadID"


class Session:
    """One resumable upload: to the object that is `expected`, from pages of `origin`.

    `size` is what was announced in bytes, None where nothing was. `made` is the body that told of the object,
    once there is one: whoever asks again gets it again.
    """

    def __init__(self, expected: Expected, origin: str, size: int | None) -> None:
        self.expected = expected
        self.lock = asyncio.Lock()  # one request at a time
        self.made = b""
        self._origin = origin
        self._size = size
        self._file = SpooledTemporaryFile(QUANTUM)  # noqa: SIM115  closed when the session ends
        self._received = 0

    async def take(self, request: web.BaseRequest) -> bool:
        """Keep what a request brings, as far as it comes; whether that is all of the object now.

        Raises Refused for a range that can't be, and for more bytes than the object has.
        """
        first, end, total = self._range(request)
        if first is None:  # it asks how far this is, or says that this was all
            return total == self._received
        if first > self._received:
            raise _invalid(f"The upload offset is {first}, which exceeds the {self._received} bytes so far.")
        self._file.seek(self._received)
        try:
            async for chunk in request.content.iter_any():
                if first + len(chunk) > end:
                    raise _invalid("More bytes came than were announced.")
                # What is there already is not looked at again.
                self._received += self._file.write(chunk[self._received - first :])
                first += len(chunk)
        except (aiohttp.ClientError, ConnectionError):
            total = None  # the client is gone, and may come back
        if total == self._received:
            return True
        self._received -= self._received % QUANTUM
        self._file.truncate(self._received)
        return False

    async def content(self) -> AsyncIterator[bytes]:
        """All bytes, in parts."""
        self._file.seek(0)
        while chunk := self._file.read(QUANTUM):
            yield chunk

    def progress(self) -> web.Response:
        """How far it is: "Resume Incomplete"; without a Range where nothing is there yet."""
        range_ = {"Range": f"bytes=0-{self._received - 1}"} if self._received else {}
        return web.Response(status=HTTPStatus.PERMANENT_REDIRECT, reason="Resume Incomplete", headers=range_)

    def share(self, response: web.Response) -> web.Response:
        """The response, for scripts of the page that the upload is for, too.

        The origin of the request that began it decides for all others, whatever the bucket's configuration
        (cloud.google.com/storage/docs/cross-origin, as googleapis/google-cloud-java#1336 quotes it). Where it
        was "*", a browser could not read the last answer (googleapis/google-cloud-dotnet#4902).
        """
        if self._origin:
            response.headers["Access-Control-Allow-Origin"] = self._origin
            response.headers["Access-Control-Allow-Credentials"] = "true"
            response.headers["Access-Control-Expose-Headers"] = EXPOSED
            response.headers["Vary"] = "Origin"
        return response

    def close(self) -> None:
        """Give up what was kept."""
        self._file.close()

    def _range(self, request: web.BaseRequest) -> tuple[int | None, int, int | None]:
        """First byte that comes (None: no byte does), where they end, and the object's size if it is said."""
        text, length = request.headers.get("Content-Range"), request.content_length
        if text is None and length is None:
            raise Refused(HTTPStatus.LENGTH_REQUIRED, "Say how long it is, or which part it is.", "required")
        match = CONTENT_RANGE.fullmatch(text or f"bytes 0-{max(length or 1, 1) - 1}/{length}")
        if match is None:
            raise _invalid("Failed to parse Content-Range header.")
        first, last, total = (None if each in (None, "*") else int(each) for each in match.groups())
        if total is not None and self._size not in (None, total):
            raise _invalid(f"{self._size} bytes were announced, and {total} are to be sent.")
        return first, (last or 0) + 1, total


def _invalid(problem: str) -> Refused:
    return Refused(HTTPStatus.BAD_REQUEST, f"Invalid request. {problem}", "invalid")


class Sessions:
    """The sessions by their ids; when there are too many, those that were begun first are forgotten."""

    def __init__(self) -> None:
        self._sessions: dict[str, Session] = {}

    def add(self, id_: str, session: Session) -> None:
        self._sessions[id_] = session
        while len(self._sessions) > MOST:
            self.end(next(iter(self._sessions)))

    def find(self, id_: str) -> Session:
        """Raises Refused where there is none: never, or no more."""
        if id_ not in self._sessions:
            raise Refused(HTTPStatus.NOT_FOUND, "No such upload session.", "notFound")
        return self._sessions[id_]

    def end(self, id_: str) -> None:
        self._sessions.pop(id_).close()
