"""Publish CloudEvents to a signed webhook or to a Pub/Sub topic.

A webhook receives one event per request in structured mode (application/cloudevents+json), signed according
to standardwebhooks.com. A topic receives batches in binary mode: the data is the message, the other
attributes are message attributes (github.com/cloudevents/spec, Pub/Sub protocol binding).
"""

import base64
import hashlib
import hmac
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar, Protocol

from dropcap.errors import TransientError
from dropcap.outbox.event import Event
from dropcap.runtime.timeouts import run_with_timeout
from dropcap.settings import Settings

if TYPE_CHECKING:
    import requests

CONNECT_S = 5.0
MAX_READ = 65_536  # bytes of a response body, of which only the status matters
PUBSUB = "https://pubsub.googleapis.com"
SCOPE = "https://www.googleapis.com/auth/pubsub"


class PublishError(TransientError):
    """The consumer did not accept the events. The message is one line, without address or secret."""


class Publisher(Protocol):
    batch_size: ClassVar[int]

    def publish(self, events: Sequence[Event]) -> None:
        """Publish at most `batch_size` events, all or none. Raises PublishError."""


def create(settings: Settings) -> Publisher:
    """Return the publisher for EVENTS: an http(s) URL is a webhook, anything else a topic."""
    return Webhook(settings) if settings.events.startswith("http") else Topic(settings)


class Webhook:
    batch_size: ClassVar[int] = 1

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._keys = [base64.b64decode(secret.removeprefix("whsec_")) for secret in settings.events_secret]

    @cached_property
    def _session(self) -> "requests.Session":
        import requests

        session = requests.Session()
        session.auth = lambda request: request  # ignore credentials in .netrc
        return session

    def publish(self, events: Sequence[Event]) -> None:
        from cloudevents.conversion import to_structured
        from cloudevents.http import CloudEvent

        url, seconds = self._settings.events, self._settings.events_timeout_s
        for event in events:
            headers, body = to_structured(CloudEvent(event.attributes, event.data))
            headers |= signed(self._keys, str(event.id), int(time.time()), body)
            _post(lambda: self._session, url, body, headers, seconds)


def signed(keys: Sequence[bytes], id: str, at: int, body: bytes) -> dict[str, str]:
    """Return the Standard Webhooks headers, with one signature per key; `at` is in seconds since 1970."""
    text = f"{id}.{at}.".encode() + body
    digests = [base64.b64encode(hmac.digest(key, text, hashlib.sha256)).decode() for key in keys]
    signatures = " ".join(f"v1,{digest}" for digest in digests)
    return {"webhook-id": id, "webhook-timestamp": str(at), "webhook-signature": signatures}


class Topic:
    batch_size: ClassVar[int] = 100

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        emulator = os.environ.get("PUBSUB_EMULATOR_HOST")
        self._url = f"{f'http://{emulator}' if emulator else PUBSUB}/v1/{settings.events}:publish"
        self._emulated = bool(emulator)

    @cached_property
    def _session(self) -> "requests.Session":
        import google.auth
        from google.auth.credentials import AnonymousCredentials
        from google.auth.transport.requests import AuthorizedSession

        credentials = AnonymousCredentials() if self._emulated else google.auth.default(scopes=[SCOPE])[0]
        return AuthorizedSession(credentials)

    def publish(self, events: Sequence[Event]) -> None:
        messages = [_message(event) for event in events]
        headers = {"content-type": "application/json"}
        body = json.dumps({"messages": messages}).encode()
        _post(lambda: self._session, self._url, body, headers, self._settings.events_timeout_s)


def _message(event: Event) -> dict[str, object]:
    attributes = {
        f"ce-{name}": value for name, value in event.attributes.items() if name != "datacontenttype"
    }
    attributes |= {"ce-specversion": "1.0", "Content-Type": event.attributes["datacontenttype"]}
    data = base64.b64encode(json.dumps(event.data).encode()).decode()
    return {"data": data, "attributes": attributes}


def _post(
    session: Callable[[], "requests.Session"],
    url: str,
    body: bytes,
    headers: Mapping[str, str],
    seconds: float,
) -> None:
    """POST the body without following redirects. Raises PublishError unless the status is 2xx.

    `seconds` limits the whole call, including `session`, which looks up credentials and may fail or hang.
    """
    from google.auth.exceptions import GoogleAuthError
    from requests import Timeout
    from urllib3.exceptions import HTTPError

    def call() -> int:
        wait = (min(CONNECT_S, seconds), seconds)
        with session().post(
            url, body, headers=headers, timeout=wait, allow_redirects=False, stream=True
        ) as response:
            with suppress(HTTPError, OSError):  # reading to the end lets the connection be reused
                response.raw.read(MAX_READ)
            return response.status_code

    try:
        status = run_with_timeout(seconds, call)
    except (TimeoutError, Timeout) as late:
        raise PublishError(f"no answer within {seconds:g} s") from late
    except (OSError, GoogleAuthError) as failed:  # requests' errors are OSErrors
        raise PublishError(type(failed).__name__) from failed
    if not 200 <= status < 300:
        raise PublishError(f"HTTP {status}")
