"""A reverse proxy for fake-gcs-server that adds the rules of Cloud Storage that it lacks.

    client ──▶ gate ──▶ fake-gcs-server          stands in for Cloud Storage
                 └────▶ functions (events.py)    stands in for Eventarc with its Pub/Sub subscription

- **Preconditions.** fake-gcs-server checks `ifGenerationMatch` on some uploads and nothing else. The gate
  checks the preconditions of each request (JSON API parameters, XML API headers) and holds the objects'
  locks until the request is done, so that check and change are atomic.
  cloud.google.com/storage/docs/request-preconditions has the rules.
- **Generations.** A request for a generation gets exactly that one, or 404. A bucket keeps versions if it was
  created so and objects are in memory; versions.py adds what the server does not track.
- **Resumable uploads** are buffered until they are complete (sessions.py); pages of the origin that an upload
  was begun for may continue it. No other request of another origin is allowed, because no bucket here has a
  CORS configuration.
- **Events.** Each object that is finalized in a watched bucket (by an upload of any kind, a copy, a rewrite
  or a compose) is sent to the functions, and so are, at the start, the objects that are already there.

Bodies are streamed. What differs from Cloud Storage: metageneration is always 1; with objects kept as files,
a metadata update creates a new generation, names that are not safe file paths are refused, and there are no
versions; responses are not compressed, and nothing is soft-deleted; there are no managed folders; batch
requests and all others that the gate does not know get 501.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from http import HTTPStatus
from typing import Any
from urllib.parse import quote
from weakref import WeakValueDictionary

import aiohttp
from aiohttp import web
from yarl import URL

from infra.local.events import Events
from infra.local.storage.operations import (
    LAYOUT,
    SIZE,
    XML_OBJECT,
    Operation,
    check_source,
    parse_request,
    path_of,
    session_of,
)
from infra.local.storage.preconditions import PRECONDITIONS, PREFIXES, Expected, Refused, check_path
from infra.local.storage.responses import HOP_BY_HOP, error, headers_of, layout_of
from infra.local.storage.retention import Retention
from infra.local.storage.sessions import ALLOWED, CANCELLED, Session, Sessions
from infra.local.storage.versions import Versions

GENERATIONS = {"generation", "sourceGeneration"}  # the server tracks them only for objects in memory
CHECKED_HERE = {prefix + each for prefix in PREFIXES for each in PRECONDITIONS}


class Gate:
    """The reverse proxy to the storage server at `storage`."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        storage: str,
        events: Events,
        watched: frozenset[str],
        names_are_paths: bool = True,
    ) -> None:
        self._session = session
        self._storage = storage
        self._events = events
        self._watched = watched
        self._names_are_paths = names_are_paths
        self._locks: WeakValueDictionary[tuple[str, str], asyncio.Lock] = WeakValueDictionary()
        self._sessions = Sessions()
        self._versions = Versions()
        self._retention = Retention()

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request of a client."""
        if request.headers.get("Expect", "").lower() == "100-continue" and request.transport:
            request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        try:
            id_ = session_of(request)
            check_source(request, bool(id_))
            if id_:
                return await self._continue_upload(request, id_)
            if request.method == "OPTIONS":
                return web.Response()
            if match := LAYOUT.fullmatch(path_of(request)):
                return await self._layout(match[1])
            operation = await parse_request(request)
            async with self._locked(operation):
                found = await self._check(operation)
                if request.method == "DELETE" and found and "timeDeleted" in found:
                    self._versions.delete(found)
                    return web.Response(status=HTTPStatus.NO_CONTENT)
                answer = await self._forward(request, operation)
                if request.method == "DELETE" and found and await self._resource(operation.expects[0]):
                    self._versions.delete(found)  # permanently, not kept as a noncurrent version
                if answer.ok and operation.resource:
                    self._retention.note(operation)
                if operation.starts_session:
                    return await self._begin_upload(request, answer, operation)
                if not operation.keeps_objects or (operation.lists and answer.ok):
                    return await self._finish(answer, operation)
            return await self._stream(request, answer)
        except Refused as refused:
            return error(request, refused)
        except (aiohttp.ClientError, ConnectionError) as lost:
            return error(request, Refused(HTTPStatus.BAD_GATEWAY, f"No answer: {lost}", "backendError"))

    async def send_orphans(self) -> None:
        """Send an event for each object that is already in a watched bucket."""
        for bucket in sorted(self._watched):
            page: str | None = ""
            while page is not None:
                url = f"{self._storage}/storage/v1/b/{bucket}/o?pageToken={quote(page, safe='')}"
                async with self._session.get(URL(url, encoded=True)) as answer:
                    found = await answer.json() if answer.status == HTTPStatus.OK else {}
                for resource in found.get("items", ()):
                    self._events.send(resource)
                page = found.get("nextPageToken")

    @asynccontextmanager
    async def _locked(self, operation: Operation) -> AsyncIterator[None]:
        """Hold the locks of all objects of an operation; an unconditional read needs none."""
        if operation.keeps_objects and not any(each.conditional for each in operation.expects):
            yield
            return
        async with AsyncExitStack() as held:
            for key in sorted({(each.bucket, each.name) for each in operation.expects}):
                await held.enter_async_context(self._locks.setdefault(key, asyncio.Lock()))
            yield

    async def _check(self, operation: Operation) -> dict[str, Any] | None:
        """Check a request, and return the resource of the generation that it names, if any."""
        first = None
        for index, expected in enumerate(operation.expects):
            if self._names_are_paths:
                check_path(expected.name)
            if expected.conditional:
                live = await self._resource(expected)
                expected.check(live, operation.keeps_objects, creating=operation.creates and index == 0)
                first = live if index == 0 and expected.generation else first
            if index == 0 and operation.replaces and self._retention.keeps(expected):
                self._retention.check(expected, first or await self._resource(expected))
        return first

    async def _resource(self, of: Expected) -> dict[str, Any] | None:
        """Return the resource of the named generation, or of the live object; None if there is none."""
        url = f"{self._storage}/storage/v1/b/{quote(of.bucket, safe='')}/o/{quote(of.name, safe='')}"
        if of.generation and not self._names_are_paths:
            url += f"?generation={quote(of.generation, safe='')}"
        async with self._session.get(URL(url, encoded=True)) as answer:
            if answer.status == HTTPStatus.NOT_FOUND:
                return None
            answer.raise_for_status()
            found = self._versions.corrected(await answer.json())
        return found if found and of.generation in ("", found["generation"]) else None

    async def _layout(self, bucket: str) -> web.Response:
        async with self._session.get(URL(f"{self._storage}/storage/v1/b/{bucket}", encoded=True)) as answer:
            found = await answer.json()
        return web.json_response(layout_of(found) if answer.ok else found, status=answer.status)

    async def _forward(self, request: web.BaseRequest, operation: Operation) -> aiohttp.ClientResponse:
        path, query = path_of(request), request.raw_path.partition("?")[2]
        dropped = CHECKED_HERE | (GENERATIONS if self._names_are_paths else set())
        kept = [part for part in query.split("&") if part and part.partition("=")[0] not in dropped]
        kept = [
            "versions=true" if part == "versions=True" else part for part in kept
        ]  # the server's spelling
        if request.method == "PUT" and XML_OBJECT.fullmatch(path):
            kept.append("X-Goog-Algorithm=none")  # without a signature the server takes it for another upload
        left_out = HOP_BY_HOP | {
            "content-encoding"
        }  # gcloud storage cp -J compresses, the framework decompresses
        if "Content-Encoding" in request.headers or isinstance(operation.body, bytes):
            left_out |= {"content-length"}
        left_out |= {"accept-encoding"} if operation.lists else set()
        headers = [(key, value) for key, value in request.headers.items() if key.lower() not in left_out]
        return await self._session.request(
            request.method,
            URL(f"{self._storage}{path}?{'&'.join(kept)}", encoded=True),
            headers=headers,  # Host too: the server makes its links from it
            data=request.content if operation.body is None else operation.body,
            allow_redirects=False,
        )

    async def _begin_upload(
        self, request: web.BaseRequest, answer: aiohttp.ClientResponse, operation: Operation
    ) -> web.Response:
        """Return the response that begins a resumable upload, and keep its session."""
        async with answer:
            body = await answer.read()
        if answer.ok:
            size = request.headers.get(SIZE, "")
            session = Session(
                operation.expects[0],
                request.headers.get("Origin", ""),
                int(size) if size.isdecimal() else None,
            )
            self._sessions.add(URL(answer.headers["Location"]).query["upload_id"], session)
        return web.Response(status=answer.status, reason=answer.reason, headers=headers_of(answer), body=body)

    async def _continue_upload(self, request: web.BaseRequest, id_: str) -> web.Response:
        """Handle a request of a resumable upload's session."""
        session = self._sessions.find(id_)
        if request.method == "OPTIONS":
            return session.add_cors_headers(web.Response(headers=ALLOWED))
        async with session.lock:
            try:
                response = await self._answer(request, session, id_)
            except Refused as refused:
                response = error(request, refused)
        return session.add_cors_headers(response)

    async def _answer(self, request: web.BaseRequest, session: Session, id_: str) -> web.Response:
        if request.method == "DELETE" and not session.made:
            self._sessions.end(id_)
            return web.Response(status=CANCELLED, reason="Client Closed Request")
        if request.method not in ("PUT", "POST"):
            raise Refused(HTTPStatus.METHOD_NOT_ALLOWED, "Use PUT.", "methodNotAllowed")
        if session.made:
            return web.Response(body=session.made, content_type="application/json")
        if not await session.append(request):
            return session.progress()
        operation = Operation((session.expected,), creates=True, body=session.content())
        async with self._locked(operation):
            await self._check(operation)
            answer = await self._session.put(
                URL(f"{self._storage}{request.raw_path}", encoded=True),
                headers={"Host": request.headers["Host"]},
                data=operation.body,
            )
            response = await self._finish(answer, operation)
        if answer.ok and isinstance(response.body, bytes):
            session.made = response.body
            session.close()
        return response

    async def _finish(self, answer: aiohttp.ClientResponse, operation: Operation) -> web.Response:
        """Return the response to a change, which is small; send the event of the object that it finalized."""
        async with answer:
            body = await answer.read()
        if (
            answer.ok and answer.method == "DELETE"
        ):  # the server returns 200 and `null`, which gcloud can't parse
            return web.Response(status=HTTPStatus.NO_CONTENT)
        if answer.status in (HTTPStatus.OK, HTTPStatus.CREATED) and operation.creates:
            target = operation.expects[0]
            resource = await self._resource(target)
            if resource and operation.composes:
                self._versions.compose(resource, operation.composes)
            if resource and target.bucket in self._watched:
                self._events.send(self._versions.corrected(resource) or {})
        headers = headers_of(answer)
        if answer.ok and operation.lists:
            body = json.dumps(self._versions.answer(json.loads(body))).encode()
            headers = [each for each in headers if each[0].lower() != "content-length"]
        return web.Response(status=answer.status, reason=answer.reason, headers=headers, body=body)

    async def _stream(self, request: web.BaseRequest, answer: aiohttp.ClientResponse) -> web.StreamResponse:
        async with answer:
            headers = headers_of(answer)
            response = web.StreamResponse(status=answer.status, reason=answer.reason, headers=headers)
            await response.prepare(request)
            async for chunk in answer.content.iter_any():
                await response.write(chunk)
            await response.write_eof()
            return response
