"""The two ways to tell of events: a webhook that is signed, and a topic of Pub/Sub.

A webhook gets each event as a CloudEvent in structured mode (application/cloudevents+json), signed as
standardwebhooks.com says. A topic gets them in binary mode: the data as the message, the rest as attributes
(github.com/cloudevents/spec, Pub/Sub protocol binding), many in one request.
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

from dropcap.outbox.event import Event
from dropcap.runtime.timeouts import within
from dropcap.settings import Settings

if TYPE_CHECKING:
    import requests

CONNECT_S = 5.0
MOST_READ = 65_536  # bytes of an answer, which says nothing but its status
PUBSUB = "https://pubsub.googleapis.com"
SCOPE = "https://www.googleapis.com/auth/pubsub"


class Unsent(Exception):
    """What was to be told was not taken. One line, without address or secret."""


class Sender(Protocol):
    at_once: ClassVar[int]

    def send(self, events: Sequence[Event]) -> None:
        """Send `at_once` events at most, all or none. Raises Unsent."""


def sender(settings: Settings) -> Sender:
    """The one that EVENTS asks for."""
    return Webhook(settings) if settings.events.startswith("http") else Topic(settings)


class Webhook:
    at_once: ClassVar[int] = 1

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        words = (word.removeprefix("whsec_") for word in settings.events_secret)
        self._keys = [base64.b64decode(word) for word in words]

    @cached_property
    def _session(self) -> "requests.Session":
        import requests

        session = requests.Session()
        session.auth = lambda request: request  # or a .netrc would have its say
        return session

    def send(self, events: Sequence[Event]) -> None:
        from cloudevents.conversion import to_structured
        from cloudevents.http import CloudEvent

        url, seconds = self._settings.events, self._settings.events_timeout_s
        for event in events:
            headers, body = to_structured(CloudEvent(event.attributes, event.data))
            headers |= signed(self._keys, str(event.id), int(time.time()), body)
            _post(lambda: self._session, url, body, headers, seconds)


def signed(keys: Sequence[bytes], id: str, at: int, body: bytes) -> dict[str, str]:
    """The headers that prove who sent it and when, `at` in seconds since 1970: one signature by each key."""
    text = f"{id}.{at}.".encode() + body
    digests = [base64.b64encode(hmac.digest(key, text, hashlib.sha256)).decode() for key in keys]
    signatures = " ".join(f"v1,{digest}" for digest in digests)
    return {"webhook-id": id, "webhook-timestamp": str(at), "webhook-signature": signatures}


class Topic:
    at_once: ClassVar[int] = 100

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

    def send(self, events: Sequence[Event]) -> None:
        messages = [_message(event) for event in events]
        headers = {"content-type": "application/json"}
        body = json.dumps({"messages": messages}).encode()
        _post(lambda: self._session, self._url, body, headers, self._settings.events_timeout_s)


def _message(event: "Event") -> dict[str, object]:
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
    """POST it, follow nothing, and be content with any 2xx. Raises Unsent, after `seconds` at the latest.

    To have the session may take time, and fail, too: it looks for credentials.
    """
    from google.auth.exceptions import GoogleAuthError
    from requests import Timeout
    from urllib3.exceptions import HTTPError

    def call() -> int:
        wait = (min(CONNECT_S, seconds), seconds)
        with session().post(
            url, body, headers=headers, timeout=wait, allow_redirects=False, stream=True
        ) as answer:
            with suppress(HTTPError, OSError):  # a connection whose answer was read to its end is used again
                answer.raw.read(MOST_READ)
            return answer.status_code

    try:
        status = within(seconds, call)
    except (TimeoutError, Timeout) as late:
        raise Unsent(f"no answer within {seconds:g} s") from late
    except (OSError, GoogleAuthError) as failed:  # requests' errors are OSErrors
        raise Unsent(type(failed).__name__) from failed
    if not 200 <= status < 300:
        raise Unsent(f"HTTP {status}")
