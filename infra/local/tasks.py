"""A stand-in for Cloud Tasks: queues that post what is put into them, each at its own rate.

It speaks the part of the REST API v2 that `make backfill` and `gcloud tasks queues` use, over HTTP, and reads
requests by Google's own message definitions:

    GET   /v2/projects/P/locations/L/queues/Q         its rate limits, retries and state
    PATCH /v2/projects/P/locations/L/queues/Q         change rate limits and retries
    POST  /v2/projects/P/locations/L/queues/Q:pause   and :resume
    POST  /v2/projects/P/locations/L/queues/Q/tasks   put a task in; 409 for a name that was used

A task is posted to its URL, at most `maxDispatchesPerSecond` of them and `maxConcurrentDispatches` at once,
with the headers that Cloud Tasks adds, and again after growing waits until it is answered with a 2xx or has
been tried `maxAttempts` times.

What it is not: tasks live in memory and end with the process; a name is not free again by itself (in the
cloud it is, after an hour to a day); the rate allows no burst, and neither ramps up slowly nor falls as a
worker answers 429 or 503; the OIDC token is not signed. Whatever else is asked is answered with 501.
"""

import heapq
import itertools
import json
import re
import sys
import threading
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs

import requests
from google.cloud.tasks_v2 import CreateTaskRequest, Queue, Task
from google.protobuf import json_format
from google.protobuf.field_mask_pb2 import FieldMask

from infra.local import Part
from infra.local.task_rules import FAULTS, Refused, check, invalid, token

QUEUE = re.compile(r"/v2/(projects/[^/]+/locations/[^/]+/queues/[A-Za-z0-9-]{1,100})(:pause|:resume|/tasks)?")
DEADLINE_S = 600.0  # of a task that names none: cloud.google.com/tasks/docs/reference/rest
USUAL = {  # what Cloud Tasks picks for a queue that names nothing
    "state": "RUNNING",
    "rateLimits": {"maxDispatchesPerSecond": 500, "maxConcurrentDispatches": 1000},
    "retryConfig": {"maxAttempts": 100, "minBackoff": "0.1s", "maxBackoff": "3600s", "maxDoublings": 16},
}


@dataclass(frozen=True, slots=True)
class Attempt:
    """One posting of a task: its `name`, when (`at`, monotonic, s), and its `status`, 0 for no answer."""

    name: str
    at: float
    status: int


@dataclass
class _Queue:
    """One queue: `due` is a heap of (instant, number, task); `used` are the names that it has had."""

    resource: Any
    due: list[tuple[float, int, Any]] = field(default_factory=list)
    used: set[str] = field(default_factory=set)
    running: int = 0
    next_at: float = 0.0


class TasksStandIn(Part):
    """The stand-in on 127.0.0.1, in threads of this process; `port` 0 takes a free one.

    `attempts` are the latest postings, `created` the names of the tasks that were taken, `refused` how many
    were not, as their names were used. `faults` are statuses with which the next creations are answered; each
    takes `creation_s` seconds.
    """

    def __init__(self, port: int = 0) -> None:
        self.attempts: deque[Attempt] = deque(maxlen=100_000)
        self.faults: deque[int] = deque()
        self.created: list[str] = []
        self.refused = 0
        self.creation_s = 0.0
        self._queues: dict[str, _Queue] = {}
        self._numbers = itertools.count()
        self._changed = threading.Condition()
        self._closing = False
        self._posts = ThreadPoolExecutor(64, "tasks")
        handler = type("Handler", (_Handler,), {"stand_in": self})
        self._server = Server(("127.0.0.1", port), handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def start(self) -> None:
        for serve in (lambda: self._server.serve_forever(poll_interval=0.05), self._dispatch):
            threading.Thread(target=serve, daemon=True).start()

    def close(self) -> None:
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._server.shutdown()
        self._server.server_close()
        self._posts.shutdown(cancel_futures=True)

    def make(self, name: str, **resource: Any) -> None:
        """Make a queue of this full name, with the fields of a Queue in JSON."""
        queue = Queue.pb(Queue())
        json_format.ParseDict(USUAL, queue)
        json_format.ParseDict({"name": name} | resource, queue)
        with self._changed:
            self._queues[name] = _Queue(queue)

    def left(self) -> int:
        """Tasks that are in a queue or being posted."""
        with self._changed:
            return sum(len(queue.due) + queue.running for queue in self._queues.values())

    def forget(self) -> None:
        """Let every name be used again, as Cloud Tasks does after a while."""
        with self._changed:
            for queue in self._queues.values():
                queue.used.clear()

    def answer(self, method: str, path: str, query: str, body: bytes) -> Any:
        """The message that answers a request. Raises Refused."""
        sent = json.loads(body or b"{}")
        if not (match := QUEUE.fullmatch(path)):
            raise Refused(HTTPStatus.NOT_IMPLEMENTED, "UNIMPLEMENTED", f"No {method} {path} here.")
        name, verb = match[1], match[2] or ""
        if (method, verb) == ("POST", "/tasks"):
            return self._create(name, body)
        with self._changed:
            queue = self._queue(name)
            if method == "PATCH":
                given = json_format.ParseDict(sent, Queue.pb(Queue()))
                mask = FieldMask()
                mask.FromJsonString(parse_qs(query)["updateMask"][0])
                mask.MergeMessage(given, queue.resource)
            elif method == "POST" and verb:
                queue.resource.state = Queue.State.PAUSED if verb == ":pause" else Queue.State.RUNNING
            elif method != "GET":
                raise Refused(HTTPStatus.NOT_IMPLEMENTED, "UNIMPLEMENTED", f"No {method} {path} here.")
            self._changed.notify_all()
            return queue.resource

    def _queue(self, name: str) -> _Queue:
        if name not in self._queues:
            raise Refused(HTTPStatus.NOT_FOUND, "NOT_FOUND", "Requested entity was not found.")
        return self._queues[name]

    def _create(self, parent: str, body: bytes) -> Any:
        time.sleep(self.creation_s)
        with suppress(IndexError):
            status = HTTPStatus(self.faults.popleft())
            raise Refused(status, FAULTS[status], "Refused on purpose.")
        request = CreateTaskRequest.pb(CreateTaskRequest())
        try:
            json_format.Parse(body, request)
        except json_format.ParseError as wrong:
            raise invalid(str(wrong)) from wrong
        task = request.task
        check(task, parent, len(body))
        with self._changed:
            queue = self._queue(parent)
            number = next(self._numbers)
            task.name = task.name or f"{parent}/tasks/{number}"
            if task.name in queue.used:
                self.refused += 1
                raise Refused(
                    HTTPStatus.CONFLICT, "ALREADY_EXISTS", "The task cannot be created because it exists."
                )
            queue.used.add(task.name)
            self.created.append(task.name)
            heapq.heappush(queue.due, (time.monotonic(), number, task))
            self._changed.notify_all()
        basic = Task.pb(Task())
        basic.CopyFrom(task)
        basic.http_request.ClearField("body")
        return basic

    def _dispatch(self) -> None:
        """Post what is due, whenever a queue's rate and number at once allow it, until `close`."""
        with self._changed:
            while not self._closing:
                now = time.monotonic()
                wait = 1.0
                for queue in self._queues.values():
                    limits = queue.resource.rate_limits
                    if (
                        queue.resource.state != Queue.State.RUNNING
                        or not queue.due
                        or queue.running >= limits.max_concurrent_dispatches
                    ):
                        continue
                    at = max(queue.due[0][0], queue.next_at)
                    if at > now:
                        wait = min(wait, at - now)
                        continue
                    _, number, task = heapq.heappop(queue.due)
                    queue.next_at = max(now, queue.next_at) + 1 / limits.max_dispatches_per_second
                    queue.running += 1
                    self._posts.submit(self._post, queue, number, task)
                    wait = 0.0
                if wait:
                    self._changed.wait(wait)

    def _post(self, queue: _Queue, number: int, task: Any) -> None:
        """One attempt: the task is gone when it is answered with a 2xx, or was its last."""
        request, name = task.http_request, task.name.rpartition("/")[2]
        headers = dict(request.headers) | {
            "User-Agent": "Google-Cloud-Tasks",
            "X-CloudTasks-QueueName": queue.resource.name.rpartition("/")[2],
            "X-CloudTasks-TaskName": name,
            "X-CloudTasks-TaskRetryCount": str(task.dispatch_count),
        }
        if request.oidc_token.service_account_email:
            headers["Authorization"] = f"Bearer {token(request.oidc_token, request.url)}"
        at, status = time.monotonic(), 0
        deadline = task.dispatch_deadline.ToTimedelta().total_seconds() or DEADLINE_S
        with suppress(requests.RequestException):
            status = requests.post(
                request.url, request.body, headers=headers, timeout=deadline, allow_redirects=False
            ).status_code
        retry = queue.resource.retry_config
        with self._changed:
            task.dispatch_count += 1
            queue.running -= 1
            self.attempts.append(Attempt(name, at, status))
            if not 200 <= status < 300 and (
                retry.max_attempts < 0 or task.dispatch_count < retry.max_attempts
            ):
                first, longest = (
                    each.ToTimedelta().total_seconds() for each in (retry.min_backoff, retry.max_backoff)
                )
                backoff = min(longest, first * 2 ** min(task.dispatch_count - 1, retry.max_doublings))
                heapq.heappush(queue.due, (time.monotonic() + backoff, number, task))
            self._changed.notify_all()


def _json(message: Any) -> str:
    return json.dumps(message) if isinstance(message, dict) else json_format.MessageToJson(message)


class Server(ThreadingHTTPServer):
    """One thread for each connection, and no word about a client that is gone."""

    request_queue_size = 128
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "dropcap-stand-in"
    wbufsize = -1  # an answer in one piece: two would wait for each other, 40 ms
    stand_in: TasksStandIn

    def _answer(self) -> None:
        path, _, query = self.path.partition("?")
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        try:
            message = self.stand_in.answer(self.command, path, query, body)
            status, text = HTTPStatus.OK, _json(message)
        except Refused as refused:
            status, text = refused.status, json.dumps(refused.body)
        data = text.encode()
        with suppress(ConnectionError):  # the client gave up
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    do_GET = do_POST = do_PATCH = _answer

    def log_message(self, *_: Any) -> None:
        """Nothing: the attempts are kept."""
