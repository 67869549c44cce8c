"""A stand-in for Eventarc and its Pub/Sub subscription: send an event for each finalized object.

Delivery is at least once: an event that is not acknowledged with a 2xx is retried with exponential backoff.
"""

import asyncio
import json
import random
import uuid
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

import aiohttp

FINALIZED = "google.cloud.storage.object.v1.finalized"
AT_ONCE = 4  # events in delivery; fewer than the stack's THREADS, so that the HTTP functions answer too
GIVE_UP_S = 86_400
FIRST_WAIT_S = 0.5
LONGEST_WAIT_S = 60.0
ACKNOWLEDGE_S = 600  # the longest acknowledgement deadline of Pub/Sub
# A header value keeps printable ASCII except space, quote and percent (CloudEvents HTTP binding, 3.1.3.2).
KEEP = "".join(chr(code) for code in range(0x21, 0x7F) if chr(code) not in '"%')


class Events:
    """Send events to `url`, at most AT_ONCE at a time; retry each for at most GIVE_UP_S seconds."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session = session
        self._url = url
        self._slots = asyncio.Semaphore(AT_ONCE)
        self._tasks: set[asyncio.Task[None]] = set()

    def send(self, resource: Mapping[str, Any]) -> None:
        """Send the event of an object (a resource of the JSON API) in the background."""
        task = asyncio.create_task(self._deliver(*cloud_event(resource)))
        self._tasks.add(task)  # the event loop keeps only a weak reference
        task.add_done_callback(self._tasks.discard)

    async def _deliver(self, headers: Mapping[str, str], body: bytes) -> None:
        what = f"event {headers['ce-id']} ({headers['ce-bucket']}, {headers['ce-subject']})"
        for wait in waits(GIVE_UP_S):
            async with self._slots:
                outcome = await self._post(headers, body)
            if outcome.startswith("2"):
                return
            print(f"{what} answered with {outcome}, again in {wait:.1f} s", flush=True)
            await asyncio.sleep(wait)
        print(f"{what} given up: the next start sends it again", flush=True)

    async def _post(self, headers: Mapping[str, str], body: bytes) -> str:
        """Return the HTTP status, or the error if there was no response."""
        limit = aiohttp.ClientTimeout(total=ACKNOWLEDGE_S)
        try:
            async with self._session.post(self._url, data=body, headers=headers, timeout=limit) as answer:
                return str(answer.status)
        except (aiohttp.ClientError, TimeoutError) as failed:
            return f"{type(failed).__name__}: {failed}"


def waits(give_up_s: float) -> Iterator[float]:
    """Yield the waits between tries in seconds: doubling with jitter, until the sum exceeds `give_up_s`."""
    wait, total = FIRST_WAIT_S, 0.0
    while total < give_up_s:
        this = random.uniform(0.75, 1.25) * wait  # noqa: S311  jitter is no secret
        yield this
        total += this
        wait = min(2 * wait, LONGEST_WAIT_S)


def cloud_event(resource: Mapping[str, Any]) -> tuple[dict[str, str], bytes]:
    """Return headers and body of the finalized event in binary mode; the body is a StorageObjectData."""
    data = {key: value for key, value in resource.items() if key != "acl"}
    headers = {
        "ce-specversion": "1.0",
        "ce-id": uuid.uuid4().hex,
        "ce-type": FINALIZED,
        "ce-source": f"//storage.googleapis.com/projects/_/buckets/{resource['bucket']}",
        "ce-subject": quote(f"objects/{resource['name']}", safe=KEEP),
        "ce-bucket": str(resource["bucket"]),
        "ce-time": str(resource.get("timeCreated") or datetime.now(UTC).isoformat()),
        "content-type": "application/json",
    }
    return headers, json.dumps(data).encode()
