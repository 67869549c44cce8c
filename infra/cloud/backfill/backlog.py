"""Put the objects of a bucket into a queue, in batches, ordered by name.

The journal stores the name up to which all objects are in the queue. After a crash, the last batch is sent
again, and the queue refuses tasks that it already has. Pages are listed on demand, so memory stays constant.
"""

import json
import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields, replace
from itertools import islice
from pathlib import Path
from typing import Protocol

from google.cloud.storage import Client
from google.cloud.storage.retry import DEFAULT_RETRY

from dropcap.domain.upload import Upload
from infra.cloud import CloudError

PAGE = 1000  # objects, the maximum of one response: cloud.google.com/storage/docs/json_api/v1/objects/list
THREADS = 32  # at 50 ms a task, 450 tasks a second; Python's lock limits a process to 600, measured
BATCH = 250
REQUEST_S = 60.0


@dataclass(frozen=True, slots=True)
class State:
    """The progress of a backfill: all names up to `last` are processed.

    `enqueued` tasks are new, `known` ones Cloud Tasks already had, `ignored` objects on_upload would ignore.
    `began` is in seconds since 1970. `complete` when the end of the listing was reached.
    """

    last: str = ""
    enqueued: int = 0
    known: int = 0
    ignored: int = 0
    began: float = 0.0
    complete: bool = False


class Queue(Protocol):
    """A queue of uploads. `put` returns whether one is new; it does not retry once `stopping` is set."""

    stopping: threading.Event

    def put(self, upload: Upload) -> bool: ...


class Journal:
    """The state of one backfill on disk, in `folder`; each bucket and prefix of a project has its own."""

    def __init__(self, folder: Path, queue: str, bucket: str, prefix: str) -> None:
        key = uuid.uuid5(uuid.NAMESPACE_URL, f"{queue} gs://{bucket}/{prefix}").hex[:8]
        self.path = folder / f"{bucket}-{key}.json"
        self._prefix = prefix

    def read(self) -> State:
        """Return the state of the last run, or a new one. Raises CloudError if it is damaged."""
        try:
            found = json.loads(self.path.read_text())
            return State(**{each.name: found[each.name] for each in fields(State)})
        except FileNotFoundError:
            return State()
        except (ValueError, KeyError, TypeError) as damaged:
            raise CloudError(f"{self.path} can't be read: start again with RESTART=1.") from damaged

    def write(self, state: State) -> None:
        """Write the state atomically."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        new = self.path.with_suffix(".new")
        new.write_text(json.dumps({"prefix": self._prefix} | asdict(state)))
        new.replace(self.path)


def listing(client: Client, bucket: str, prefix: str, after: str) -> Iterator[Upload]:
    """Yield the objects of a bucket whose names begin with `prefix` and come after `after`, in order."""
    found = client.list_blobs(
        bucket,
        prefix=prefix or None,
        start_offset=after or None,
        page_size=PAGE,
        fields="items(name,generation,size,contentType,metadata),nextPageToken",
        timeout=REQUEST_S,
        retry=DEFAULT_RETRY,
    )
    for blob in found:
        if blob.name != after:
            yield Upload(
                bucket,
                blob.name,
                int(blob.generation),
                int(blob.size or 0),
                blob.content_type or "",
                blob.metadata or {},
            )


def enqueue(
    uploads: Iterator[Upload], wanted: Callable[[Upload], bool], queue: Queue, state: State, most: int
) -> Iterator[State]:
    """Put the wanted uploads into the queue, at most `most` tasks, and yield the state after each batch.

    Raises what `queue.put` raises, and KeyboardInterrupt once `queue.stopping` is set.
    """

    def put(upload: Upload) -> bool:
        if queue.stopping.is_set():
            raise KeyboardInterrupt
        return queue.put(upload)

    with ThreadPoolExecutor(THREADS, "enqueue") as pool:
        try:
            while most and (batch := list(islice(uploads, min(BATCH, most)))):
                if queue.stopping.is_set():
                    raise KeyboardInterrupt
                new = list(pool.map(put, filter(wanted, batch)))
                most -= len(new)
                state = replace(
                    state,
                    last=batch[-1].name,
                    enqueued=state.enqueued + sum(new),
                    known=state.known + len(new) - sum(new),
                    ignored=state.ignored + len(batch) - len(new),
                )
                yield state
        except BaseException:
            queue.stopping.set()
            raise
    if most:
        yield replace(state, complete=True)
