"""Google's client of Cloud Storage, asked with a time limit."""

from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

from dropcap.deadline import within
from dropcap.errors import DropcapError, Passing
from dropcap.settings import Settings

if TYPE_CHECKING:
    from google.cloud.storage import Blob, Client

T = TypeVar("T")

CONNECT_S = 5


class NotStored(Passing):
    """What must be in a bucket is not there as it was written: the source stays, the event comes again."""


def expected(failed: BaseException) -> str:
    """Return in one line what failed, where database, network or storage did; empty: its trace says more."""
    from google.api_core.exceptions import GoogleAPIError

    if not isinstance(failed, Passing | DropcapError | GoogleAPIError | OSError):
        return ""
    return f"{type(failed).__name__}: {failed}".splitlines()[0]


class Gcs:
    """Objects by bucket, name and generation."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    @cached_property
    def client(self) -> "Client":
        """Google's own client: 33 MB that get_progress_stats never pays."""
        from google.cloud.storage import Client

        return Client()

    def blob(self, bucket: str, name: str, generation: int | None = None) -> "Blob":
        """The object of this name, or of this generation, which may be noncurrent; it need not be there.

        In a bucket that keeps versions, a delete without a generation makes the live one noncurrent, and one
        with it deletes that one for good, whatever else has the name:
        cloud.google.com/storage/docs/json_api/v1/objects/delete, of 2026-11-30.
        """
        return self.client.bucket(bucket).blob(name, generation=generation)

    def ask(self, call: Callable[..., T], **options: Any) -> T:
        """What the call returns or raises, repetitions included; TimeoutError after STORAGE_TIMEOUT_S."""
        from google.cloud.storage.retry import DEFAULT_RETRY

        seconds = self.settings.storage_timeout_s
        options |= {"timeout": (CONNECT_S, seconds), "retry": DEFAULT_RETRY.with_timeout(seconds)}
        return within(seconds, lambda: call(**options))

    def _found(self, blob: "Blob", **conditions: int) -> "Blob | None":
        from google.api_core.exceptions import NotFound, PreconditionFailed

        try:
            self.ask(blob.reload, **conditions)
        except (NotFound, PreconditionFailed):
            return None
        return blob
