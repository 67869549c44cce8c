"""Google's client for Cloud Storage, with a time limit for each call."""

from collections.abc import Callable
from functools import cached_property
from threading import BoundedSemaphore
from typing import TYPE_CHECKING, Any, TypeVar

from dropcap.errors import DropcapError, TransientError
from dropcap.runtime.timeouts import run_with_timeout
from dropcap.settings import Settings

if TYPE_CHECKING:
    from google.cloud.storage import Blob, Client

T = TypeVar("T")

CONNECT_S = 5
CONNECTIONS = 10  # what the client's pool keeps (requests.adapters.DEFAULT_POOLSIZE); it discards more


class NotStored(TransientError):
    """Transient error: an object is missing or not as written. The source stays, the event is redelivered."""


def transient_summary(failed: BaseException) -> str:
    """Return one line about an expected failure of database, network or storage; empty for other errors."""
    from google.api_core.exceptions import GoogleAPIError

    if not isinstance(failed, DropcapError | GoogleAPIError | OSError):
        return ""
    return f"{type(failed).__name__}: {failed}".splitlines()[0]


class Gcs:
    """Access to objects by bucket, name and generation."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._connections = BoundedSemaphore(CONNECTIONS)

    @cached_property
    def client(self) -> "Client":
        """Return Google's client, created on first use: it takes 33 MB, and get_progress_stats needs none."""
        from google.cloud.storage import Client

        return Client()

    def blob(self, bucket: str, name: str, generation: int | None = None) -> "Blob":
        """Return a handle for the object, or for this generation, which may be noncurrent or missing.

        In a bucket with versioning, a delete without a generation makes the live version noncurrent; a delete
        with a generation removes just that one for good
        (cloud.google.com/storage/docs/json_api/v1/objects/delete, 2026-11-30).
        """
        return self.client.bucket(bucket).blob(name, generation=generation)

    def ask(self, call: Callable[..., T], **options: Any) -> T:
        """Return or raise what the call does; raise TimeoutError after STORAGE_TIMEOUT_S with retries."""
        from google.cloud.storage.retry import DEFAULT_RETRY

        seconds = self.settings.storage_timeout_s
        options |= {"timeout": (CONNECT_S, seconds), "retry": DEFAULT_RETRY.with_timeout(seconds)}

        def connected() -> T:
            with self._connections:
                return call(**options)

        return run_with_timeout(seconds, connected)

    def _found(self, blob: "Blob", **conditions: int) -> "Blob | None":
        from google.api_core.exceptions import NotFound, PreconditionFailed

        try:
            self.ask(blob.reload, **conditions)
        except (NotFound, PreconditionFailed):
            return None
        return blob
