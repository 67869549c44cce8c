"""Dropcap's errors. The message of each is one line; it is logged without a stack trace.

    DropcapError
    ├── Rejected              permanent: quarantine the input, record the reason and acknowledge; over HTTP
    │                         also a request that is not allowed or exceeds a limit
    ├── SettingsError         permanent: the operator must change a setting; the function does not start
    ├── SchemaError           permanent: the operator must change the database; the function does not start
    ├── TooLong               permanent: the body of a request is too large
    ├── Closed                a decoder's process ended, or sent what is no message; sandbox/ explains why
    ├── Exhausted             a decoder needs more memory than it has; sandbox/ tries once more
    ├── NumPyNeeded           a decoder needs NumPy; sandbox/ loads it and tries once more
    ├── DecoderError          the cause of a rejection: what a decoder reported, or how it ended
    └── TransientError        transient: a retry may succeed, so the platform redelivers the event
        ├── DatabaseUnavailable   PostgreSQL did not answer as expected
        ├── DecoderHung           a decoder waited for ever; counts as a crash
        ├── KeysUnavailable       the public keys of the ID tokens' issuer could not be fetched
        ├── LeaseHeld             another delivery holds the lease
        ├── ModelError            the captioning model can't be loaded or can't run
        ├── NotDecoded            this instance could not decode the picture
        ├── NotDescribed          Gemini did not describe the picture
        ├── NotStored             an object is missing or not as written
        ├── PublishError          an event was not delivered
        ├── Stalled               the client stopped reading or sending
        ├── StillPublished        an unsafe picture is still published
        └── DeletionRefused           the bucket refuses a deletion

An error of one package is defined there. `retryable` says whether it is transient. All other exceptions
(a full disk, a missing library, a bug) are transient too; they are logged with their stack trace.
"""

from collections.abc import Iterator, Mapping
from http import HTTPStatus


class DropcapError(Exception):
    """Base class of all errors that Dropcap raises on purpose."""

    retryable = False


class TransientError(DropcapError):
    """Transient error: the same input may succeed later."""

    retryable = True


class NotDecoded(TransientError):
    """Transient error: this instance could not decode a picture; its bytes are not the cause."""


class SettingsError(DropcapError):
    """Permanent error: a setting is not allowed. Names the variable, its value and what is allowed."""


class SchemaError(DropcapError):
    """Permanent error: the schema can't be used. Names the table, the column and the difference."""


class Rejected(DropcapError):
    """Permanent error: retrying the same input cannot succeed.

    `code` is a stable identifier for programs (`not_a_picture`), `problem` one sentence for people, and
    `remedy` what they can do. `analyze` answers with the HTTP `status` and `headers`.
    """

    def __init__(
        self,
        code: str,
        problem: str,
        remedy: str,
        status: HTTPStatus,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(f"{problem} {remedy}")
        self.code = code
        self.problem = problem
        self.remedy = remedy
        self.status = status
        self.headers = dict(headers or {})


def causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and its chain of causes: what it was raised from, or during whose handling."""
    visited: set[int] = set()
    current: BaseException | None = error
    while current and id(current) not in visited:
        visited.add(id(current))
        yield current
        current = current.__cause__ or current.__context__


def cause(error: BaseException) -> str:
    """Return the causes of an error as text, each with type and message; empty if it has none.

    The chain ends at an error raised `from None`: the causes behind it may contain a secret.
    """
    found = []
    for link in causes(error):
        if link is not error:
            found.append(f"{type(link).__name__}: {link}")
        if link.__suppress_context__ and not link.__cause__:
            break
    return "; ".join(found)[:1000]
