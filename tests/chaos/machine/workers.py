"""Workers of the state machine: threads, of which one runs at a time, each with services of its own.

A worker is suspended or crashes before or after any transaction, request to the storage, or event. A crashed
one has no more effect: not even the product's own clean-up reaches the services.
"""

import threading
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any, Protocol, TypeVar

from google.cloud.storage import Client

from dropcap.database.transactions import Database, Executor
from dropcap.domain.analysis import Caption, Description
from dropcap.errors import DropcapError
from dropcap.outbox.dispatcher import Dispatcher
from dropcap.outbox.event import Event
from dropcap.services import Services
from dropcap.settings import Settings
from dropcap.storage.buckets import Buckets

T = TypeVar("T")
Task = Callable[[Services], object]
CAPTION = Caption("a square", "stub", "1")


class Shared(Protocol):
    """What workers share: settings, services, the stubs of Gemini and of the consumer, and an observer."""

    chosen: Settings
    database: Database
    client: Client
    repeats: bool  # each transaction, as after a lost response

    def describe(self, jpeg: bytes, language: str, budget: object) -> Description: ...

    def receive(self, events: Sequence[Event]) -> None: ...

    def observe(self, worker: "Worker") -> None:
        """Called after each effect, before another worker has its turn."""


class Crash(BaseException):
    """The worker's process has ended."""


class Worker(threading.Thread):
    """A worker with a task. It runs while `resume` waits, and counts the points it passes."""

    def __init__(self, shared: Shared, task: Task) -> None:
        super().__init__(daemon=True)
        self.shared, self.task = shared, task
        self.ended = self.crashed = False
        self.error: BaseException | None = None
        self._points: int | None = None
        self._go, self._stop = threading.Semaphore(0), threading.Semaphore(0)
        self.start()

    def run(self) -> None:
        self._go.acquire()
        try:
            self.task(_services(self))
        except BaseException as error:
            self.error = error
        self.ended = True
        self._stop.release()

    def resume(self, points: int | None = None) -> None:
        """Run until so many points are passed, or to the end. Raises errors that nobody expects."""
        self._points = points
        self._go.release()
        self._stop.acquire()
        if self.error and not isinstance(self.error, Crash | DropcapError):
            raise self.error

    def crash(self) -> None:
        self.crashed = True
        self.resume()

    def effect(self, call: Callable[[], T]) -> T:
        """Return the result of a call that changes or reads what others see; a point is before and after."""
        self._point()
        result = call()
        self.shared.observe(self)
        self._point()
        return result

    def _point(self) -> None:
        if self._points == 0 and not self.crashed:
            self._stop.release()
            self._go.acquire()
        if self.crashed:
            raise Crash
        if self._points is not None:
            self._points -= 1


class WorkerDatabase(Database):
    def __init__(self, worker: Worker) -> None:
        vars(self).update(vars(worker.shared.database))  # its pool of connections
        self._worker = worker

    def transaction(self, work: Callable[[Executor], T]) -> T:
        def call() -> T:
            if self._worker.shared.repeats:
                Database.transaction(self, work)
            return Database.transaction(self, work)

        return self._worker.effect(call)


class WorkerBuckets(Buckets):
    def __init__(self, worker: Worker) -> None:
        super().__init__(worker.shared.chosen)
        self.client = worker.shared.client
        self._worker = worker

    def ask(self, call: Callable[..., T], **options: Any) -> T:
        return self._worker.effect(lambda: Buckets.ask(self, call, **options))


class WorkerServices(Services):
    @property
    def captioner(self) -> Any:
        return SimpleNamespace(caption=lambda *_, **__: CAPTION, card=SimpleNamespace(notice=""))


def _services(worker: Worker) -> Services:
    shared = worker.shared
    services = WorkerServices(shared.chosen, WorkerDatabase(worker))
    dispatcher = Dispatcher(shared.chosen, services.database)

    def publish(events: Sequence[Event]) -> None:
        worker.effect(lambda: shared.receive(events))

    vars(dispatcher)["_publisher"] = SimpleNamespace(batch_size=2, publish=publish)
    describer = SimpleNamespace(describe=shared.describe)
    vars(services).update(buckets=WorkerBuckets(worker), dispatcher=dispatcher, describer=describer)
    return services
