"""The queue of the backfill: Cloud Tasks stores tasks, and posts them to on_upload at the queue's rate."""

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import requests
from google.api_core.exceptions import Conflict, ServerError, TooManyRequests
from google.api_core.retry import Retry
from google.auth.exceptions import TransportError
from google.cloud.tasks_v2 import CloudTasksClient, Task
from google.oauth2.credentials import Credentials

from dropcap.domain.upload import DESCRIBE, LATER, Upload
from infra.cloud import CloudError
from infra.cloud.config import QUEUE
from infra.cloud.gcloud.command import Gcloud
from infra.local.events import cloud_event

REQUEST_S = 20.0
RETRY_S = 300.0  # how long one creation is retried
LONGEST_WAIT_S = 10.0
TRANSIENT = (TooManyRequests, ServerError, requests.ConnectionError, requests.Timeout, TransportError)


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of a queue: tasks a second, and concurrent tasks."""

    per_second: float
    at_once: int


def limits(gcloud: Gcloud, region: str) -> Limits:
    """Return the limits of the queue. Raises CloudError if it is missing or does not run."""
    queues = gcloud.read("tasks", "queues", "list", f"--location={region}") or ()
    queue = next((each for each in queues if each["name"].endswith(f"/{QUEUE}")), None)
    if queue is None:
        raise CloudError(
            f"There is no queue {QUEUE}: `make deploy` creates it. Google suspends a queue that is not used "
            "for 30 days: then the same command works in a few minutes."
        )
    if queue["state"] != "RUNNING":
        raise CloudError(
            f"The queue {QUEUE} is {queue['state'].lower()}: gcloud tasks queues resume {queue['name']}"
        )
    rates = queue["rateLimits"]
    return Limits(rates["maxDispatchesPerSecond"], rates["maxConcurrentDispatches"])


class Tasks:
    """Creates tasks in the queue of this full name; they call `url` as `account`, for at most `deadline_s`.

    With `later`, the descriptions wait for a batch, at half the price.

    `put` raises Google's own exceptions.
    """

    def __init__(
        self, name: str, login: Credentials, account: str, url: str, deadline_s: int, *, later: bool
    ) -> None:
        self.name = name
        self.stopping = threading.Event()  # once set, there are no retries
        self._login = login
        self._url = url
        self._account = account
        self._metadata = {DESCRIBE: LATER} if later else {}
        self._deadline = {"seconds": deadline_s}
        self._local = threading.local()
        self._retry = Retry(
            lambda error: _is_transient(error) and not self.stopping.is_set(),
            initial=0.5,
            maximum=LONGEST_WAIT_S,
            timeout=RETRY_S,
        )

    @property
    def _client(self) -> CloudTasksClient:
        """Return the thread's client, as a session of `requests` must not be shared."""
        if not hasattr(self._local, "client"):
            self._local.client = CloudTasksClient(credentials=self._login, transport="rest")
        client: CloudTasksClient = self._local.client
        return client

    def put(self, upload: Upload) -> bool:
        """Create the task that sends an upload's event; return False if Cloud Tasks already has it.

        The task's name is the upload's id, a hash, as Cloud Tasks recommends. Cloud Tasks refuses a second
        task of that name, also for up to 24 hours after the first was done; later ones meet the lease in the
        database (cloud.google.com/tasks/docs/quotas, 2026-11-30).
        """
        headers, body = cloud_event(_resource(upload, self._metadata))
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


def _is_transient(error: Exception) -> bool:
    return isinstance(error, TRANSIENT) or (isinstance(error, Conflict) and _status(error) == "ABORTED")


def _status(error: Conflict) -> str:
    """Return Google's status of the error: two statuses are 409 over HTTP, and one of them is transient."""
    return str(error.response.json()["error"]["status"])


def _resource(upload: Upload, metadata: Mapping[str, str]) -> dict[str, Any]:
    """Return the upload as a Cloud Storage event describes it, with more metadata."""
    return upload.to_json() | {
        "generation": str(upload.generation),
        "size": str(upload.size),
        "contentType": upload.content_type,
        "metadata": {**metadata, **upload.metadata},
    }
