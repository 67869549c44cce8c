"""What lies in a bucket, put into a queue in the order of its names, from where the last run ended.

    the listing ──▶ a window of creations under way ──▶ the journal: all up to this name is done

Pages are read as they are needed and the window is bounded, so memory stays flat. The journal is written once
a second and once a window; after a kill, what it does not know yet, two windows at most, is offered to the
queue once more, which refuses it.
"""

import json
import os
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Protocol

from google.cloud.storage import Client
from google.cloud.storage.retry import DEFAULT_RETRY

from dropcap.upload import Upload
from infra.cloud import CloudError

PAGE = (
    1000  # objects, the most that Cloud Storage gives: cloud.google.com/storage/docs/json_api/v1/objects/list
)
THREADS = 32  # at 50 ms a task these make 450 a second; Python's lock allows one process 600, measured
WINDOW = 250  # creations that are under way or wait, less than a page
SAVE_S = 1.0
REQUEST_S = 60.0


@dataclass(frozen=True, slots=True)
class State:
    """How far a backfill is: all names up to `last` are dealt with.

    `enqueued` tasks are new, `known` ones Cloud Tasks had already, `ignored` objects on_upload would ignore.
    `began` is in seconds since 1970. `complete` when the end of the listing was reached.
    """

    last: str = ""
    enqueued: int = 0
    known: int = 0
    ignored: int = 0
    began: float = 0.0
    complete: bool = False

    @property
    def listed(self) -> int:
        return self.enqueued + self.known + self.ignored


class Queue(Protocol):
    """Where uploads go. `put` answers whether one is new; once `stopping` is set, it tries no more."""

    stopping: threading.Event

    def put(self, upload: Upload) -> bool: ...


class Journal:
    """The state of one backfill on disk, in `folder`; each bucket and prefix of a project has its own."""

    def __init__(self, folder: Path, queue: str, bucket: str, prefix: str) -> None:
        key = uuid.uuid5(uuid.NAMESPACE_URL, f"{queue} gs://{bucket}/{prefix}").hex[:8]
        self.path = folder / f"{bucket}-{key}.json"
        self._prefix = prefix
        self._saved_at, self._saved = 0.0, 0

    def read(self) -> State:
        """What the last run has left, or a new state. Raises CloudError where it is damaged."""
        try:
            found = json.loads(self.path.read_text())
            return State(**{each.name: found[each.name] for each in fields(State)})
        except FileNotFoundError:
            return State()
        except (ValueError, KeyError, TypeError) as damaged:
            raise CloudError(f"{self.path} can't be read: begin anew with RESTART=1.") from damaged

    def write(self, state: State, now: bool = False) -> None:
        """Keep the state, if the last time is SAVE_S or WINDOW objects ago; a reader sees a whole one."""
        if not now and state.listed - self._saved < WINDOW and time.monotonic() - self._saved_at < SAVE_S:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        new = self.path.with_suffix(".new")
        with new.open("w") as file:
            json.dump({"prefix": self._prefix} | asdict(state), file)
            file.flush()
            os.fsync(file.fileno())
        new.replace(self.path)
        self._saved_at, self._saved = time.monotonic(), state.listed


def listing(client: Client, bucket: str, prefix: str, after: str) -> Iterator[Upload]:
    """The objects of a bucket whose names begin with `prefix` and come after `after`, in their order."""
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
    uploads: Iterable[Upload],
    wanted: Callable[[Upload], bool],
    queue: Queue,
    state: State,
    keep: Callable[[State], None],
    most: float,
) -> State:
    """Put what is wanted into the queue, at most `most` tasks, and tell `keep` of each step.

    Whatever ends it, `keep` has the state that is true then; failures of `queue.put` are raised, and
    KeyboardInterrupt once somebody has set `queue.stopping`.
    """
    window: deque[tuple[str, Future[bool] | None]] = deque()

    def go_on() -> None:
        if queue.stopping.is_set():
            raise KeyboardInterrupt

    def settle() -> None:
        nonlocal state
        name, created = window[0]
        new = created.result() if created else None
        window.popleft()
        state = replace(
            state,
            last=name,
            enqueued=state.enqueued + (new is True),
            known=state.known + (new is False),
            ignored=state.ignored + (new is None),
        )
        keep(state)

    asked, ended = 0, True
    with ThreadPoolExecutor(THREADS, "enqueue") as pool:
        try:
            for upload in uploads:
                go_on()
                created = None
                if wanted(upload):
                    if asked >= most:
                        ended = False
                        break
                    asked += 1
                    created = pool.submit(queue.put, upload)
                window.append((upload.name, created))
                if len(window) >= WINDOW:
                    settle()
            while window:
                go_on()
                settle()
        except BaseException:
            queue.stopping.set()
            pool.shutdown(cancel_futures=True)
            while window and _is_well(window[0][1]):
                settle()
            raise
    state = replace(state, complete=ended)
    keep(state)
    return state


def _is_well(created: Future[bool] | None) -> bool:
    return created is None or not (created.cancelled() or created.exception())
