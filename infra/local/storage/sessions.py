"""Resumable uploads as in Cloud Storage: received ranges, offsets, cancellation, and CORS of upload sessions.

cloud.google.com/storage/docs/performing-resumable-uploads has the rules. fake-gcs-server breaks them: asked
for the status of an upload, it creates the object from the bytes so far; it reports one byte too many, takes
more bytes than were announced, and continues after a cancellation (its issues 1362 and 2354). So the gate
buffers the bytes until the upload is complete, and only then forwards them.
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
QUANTUM = 256 * 1024  # bytes: an incomplete upload keeps a multiple of it
CANCELLED = 499  # "client closed request": the response to a DELETE
MOST = 1000  # sessions that are kept; Cloud Storage keeps each for a week
# What the page that began an upload may send and read. The headers are those of a response of Google's upload
# server to a browser (October 2021); `Range` is among them, which says where to continue.
ALLOWED = {
    "Access-Control-Allow-Methods": "PUT, DELETE",
    "Access-Control-Allow-Headers": "Content-Range, Content-Type",
    "Access-Control-Max-Age": "3600",
}
EXPOSED = "Content-Length, Content-Type, Date, Range, Server, Transfer-Encoding, X-GUploader-UploadID"


class Session:
    """One resumable upload to the object in `expected`, from pages of `origin`.

    `size` is the announced size in bytes, if any. `made` is the response body with the finished object; a
    repeated request gets it again.
    """

    def __init__(self, expected: Expected, origin: str, size: int | None) -> None:
        self.expected = expected
        self.lock = asyncio.Lock()  # one request at a time
        self.made = b""
        self._origin = origin
        self._size = size
        self._file = SpooledTemporaryFile(QUANTUM)  # noqa: SIM115  closed when the session ends
        self._received = 0

    async def append(self, request: web.BaseRequest) -> bool:
        """Append the bytes of a request; return whether the object is complete.

        Raises Refused for an invalid range, and for more bytes than the object has.
        """
        first, end, total = self._range(request)
        if first is None:  # a status query, or the final size
            return total == self._received
        if first > self._received:
            raise _invalid(f"The upload offset is {first}, which exceeds the {self._received} bytes so far.")
        self._file.seek(self._received)
        try:
            async for chunk in request.content.iter_any():
                if first + len(chunk) > end:
                    raise _invalid("More bytes came than were announced.")
                # Bytes that were received before are skipped.
                self._received += self._file.write(chunk[self._received - first :])
                first += len(chunk)
        except (aiohttp.ClientError, ConnectionError):
            total = None  # the client disconnected, and may resume
        if total == self._received:
            return True
        self._received -= self._received % QUANTUM
        self._file.truncate(self._received)
        return False

    async def content(self) -> AsyncIterator[bytes]:
        """Yield all bytes in chunks."""
        self._file.seek(0)
        while chunk := self._file.read(QUANTUM):
            yield chunk

    def progress(self) -> web.Response:
        """Return the status response "Resume Incomplete"; it has no Range before the first byte."""
        range_ = {"Range": f"bytes=0-{self._received - 1}"} if self._received else {}
        return web.Response(status=HTTPStatus.PERMANENT_REDIRECT, reason="Resume Incomplete", headers=range_)

    def add_cors_headers(self, response: web.Response) -> web.Response:
        """Return the response with the CORS headers for the page that began the upload.

        The origin of the first request applies to all others, whatever the bucket's configuration
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
        """Discard the bytes."""
        self._file.close()

    def _range(self, request: web.BaseRequest) -> tuple[int | None, int, int | None]:
        """Return the first byte's offset (None: no bytes), the end offset, and the object's size if given."""
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
    """The sessions by id; beyond MOST, the oldest are discarded."""

    def __init__(self) -> None:
        self._sessions: dict[str, Session] = {}

    def add(self, id_: str, session: Session) -> None:
        self._sessions[id_] = session
        while len(self._sessions) > MOST:
            self.end(next(iter(self._sessions)))

    def find(self, id_: str) -> Session:
        """Return the session. Raises Refused if there is none."""
        if id_ not in self._sessions:
            raise Refused(HTTPStatus.NOT_FOUND, "No such upload session.", "notFound")
        return self._sessions[id_]

    def end(self, id_: str) -> None:
        self._sessions.pop(id_).close()
