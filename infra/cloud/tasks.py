"""The queue of the backfill: Cloud Tasks keeps what is put in, and posts it to on_upload at its own rate."""

import os
import threading
from dataclasses import dataclass
from typing import Any

import requests
from google.api_core.client_options import ClientOptions
from google.api_core.exceptions import Conflict, NotFound, ServerError, TooManyRequests
from google.api_core.retry import Retry
from google.auth.exceptions import TransportError
from google.cloud.tasks_v2 import CloudTasksClient, Queue, Task
from google.oauth2.credentials import Credentials

from dropcap.upload import Upload
from infra.cloud import CloudError
from infra.cloud.config import QUEUE
from infra.local.events import cloud_event

REQUEST_S = 20.0
RETRY_S = 300.0  # how long one creation is tried
LONGEST_WAIT_S = 10.0
PASSING = (TooManyRequests, ServerError, requests.ConnectionError, requests.Timeout, TransportError)


@dataclass(frozen=True, slots=True)
class Limits:
    """What a queue sends at most: tasks a second, and tasks at once."""

    per_second: float
    at_once: int


class Tasks:
    """The queue of this full name, whose tasks call `url` as `account`, for `deadline_s` s at most.

    Methods raise Google's own exceptions, and CloudError where it is said.
    """

    def __init__(self, name: str, login: Credentials, account: str, url: str, deadline_s: int) -> None:
        self.name = name
        self.stopping = threading.Event()  # once it is set, nothing is tried again
        self._login = login
        self._url = url
        self._account = account
        self._deadline = {"seconds": deadline_s}
        self._local = threading.local()
        self._retry = Retry(
            lambda error: _passes(error) and not self.stopping.is_set(),
            initial=0.5,
            maximum=LONGEST_WAIT_S,
            timeout=RETRY_S,
        )

    @property
    def _client(self) -> CloudTasksClient:
        """One for each thread: a session of `requests` is not made to be shared."""
        if not hasattr(self._local, "client"):
            # The variable by which gcloud itself is pointed elsewhere.
            host = os.environ.get("CLOUDSDK_API_ENDPOINT_OVERRIDES_CLOUDTASKS", "").rstrip("/") or None
            self._local.client = CloudTasksClient(
                credentials=self._login, transport="rest", client_options=ClientOptions(api_endpoint=host)
            )
        client: CloudTasksClient = self._local.client
        return client

    def limits(self) -> Limits:
        """What the queue sends at most. Raises CloudError where it is missing or halted."""
        try:
            queue = self._client.get_queue(name=self.name, retry=self._retry, timeout=REQUEST_S)
        except NotFound as missing:
            raise CloudError(
                f"There is no queue {QUEUE}: `make deploy` makes it. One that nobody has used for 30 days "
                "sleeps: then the same command works in a few minutes."
            ) from missing
        if queue.state != Queue.State.RUNNING:
            raise CloudError(
                f"The queue {QUEUE} is {queue.state.name.lower()}: gcloud tasks queues resume {self.name}"
            )
        return Limits(
            queue.rate_limits.max_dispatches_per_second, queue.rate_limits.max_concurrent_dispatches
        )

    def put(self, upload: Upload) -> bool:
        """Put an upload's event into the queue; False where Cloud Tasks had it already.

        It is named for the upload's id, a hash, as Cloud Tasks likes names best; by that name it refuses a
        second one, also while an hour has not passed since the first one was done.
        """
        headers, body = cloud_event(_resource(upload))
        task: dict[str, Any] = {
            "name": f"{self.name}/tasks/{upload.id}",
            "http_request": {
                "url": self._url,
                "headers": headers | {"ce-id": str(upload.id)},
                "body": body,
                "oidc_token": {"service_account_email": self._account, "audience": self._url},
            },
            "dispatch_deadline": self._deadline,
        }
        try:
            self._client.create_task(parent=self.name, task=Task(task), retry=self._retry, timeout=REQUEST_S)
        except Conflict as refused:
            if _status(refused) != "ALREADY_EXISTS":
                raise
            return False
        return True


def _passes(error: Exception) -> bool:
    return isinstance(error, PASSING) or (isinstance(error, Conflict) and _status(error) == "ABORTED")


def _status(error: Conflict) -> str:
    """Google's own word for the error: two of them are 409 over HTTP, and one of these is passing."""
    return str(error.response.json()["error"]["status"])


def _resource(upload: Upload) -> dict[str, Any]:
    """The upload as a Cloud Storage event tells of it."""
    return upload.to_json() | {
        "generation": str(upload.generation),
        "size": str(upload.size),
        "contentType": upload.content_type,
        "metadata": dict(upload.metadata),
    }
