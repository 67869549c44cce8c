"""What Cloud Tasks takes, and its words for what it does not: for the stand-in in tasks.py."""

import base64
import json
import re
from http import HTTPStatus
from typing import Any

TASK_ID = re.compile(r"[A-Za-z0-9_-]{1,500}")
LARGEST_TASK, LARGEST_HEADERS = 2**20, 80_000  # bytes: cloud.google.com/tasks/docs/quotas, and of HttpRequest
SHORTEST_DEADLINE_S, LONGEST_DEADLINE_S = 15.0, 1800.0  # of Task.dispatch_deadline
FAULTS = {
    403: "PERMISSION_DENIED",
    409: "ABORTED",
    429: "RESOURCE_EXHAUSTED",
    500: "INTERNAL",
    503: "UNAVAILABLE",
}


class Refused(Exception):
    """An answer other than 200, in Google's form."""

    def __init__(self, status: HTTPStatus, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.body = {"error": {"code": int(status), "message": message, "status": code}}


def check(task: Any, parent: str, size: int) -> None:
    """Raise Refused for what Cloud Tasks would not take."""
    queue, _, task_id = task.name.rpartition("/tasks/")
    if task.name and (queue != parent or not TASK_ID.fullmatch(task_id)):
        raise invalid(f"Task name must be formatted: {parent}/tasks/TASK_ID.")
    if not task.http_request.url.startswith(("http://", "https://")):
        raise invalid("HttpRequest.url must begin with http:// or https://.")
    if not all(
        f"{key}{value}".isascii() and f"{key}{value}".isprintable()
        for key, value in task.http_request.headers.items()
    ):
        raise invalid("HttpRequest.headers must be printable ASCII.")
    if sum(len(key) + len(value) for key, value in task.http_request.headers.items()) >= LARGEST_HEADERS:
        raise invalid("HttpRequest.headers are too large.")
    if size > LARGEST_TASK:
        raise invalid("Task size too large.")
    deadline = task.dispatch_deadline.ToTimedelta().total_seconds()
    if deadline and not SHORTEST_DEADLINE_S <= deadline <= LONGEST_DEADLINE_S:
        raise invalid("Task.dispatchDeadline must be between [15s, 30m].")


def invalid(message: str) -> Refused:
    """The refusal of a request that is malformed."""
    return Refused(HTTPStatus.BAD_REQUEST, "INVALID_ARGUMENT", message)


def token(oidc: Any, url: str) -> str:
    """A JSON Web Token without a signature: for whom it is, and who shows it."""
    claims = {"aud": oidc.audience or url, "email": oidc.service_account_email, "email_verified": True}
    parts = (base64.urlsafe_b64encode(json.dumps(each).encode()) for each in ({"alg": "none"}, claims))
    return ".".join(part.decode().rstrip("=") for part in parts) + "."
