"""`make backfill`: put the existing objects of the uploads bucket into the queue that calls on_upload.

Cloud Tasks stores a task for each object and posts it at the queue's rate, Cloud Run scales within its
limits, and the lease in the database ensures that no object is processed twice. This command lists the
objects, shows their number and cost, and creates the tasks. It stores its progress, so the same command
continues.
"""

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http import HTTPStatus
from pathlib import Path
from threading import Event
from types import FrameType

from google.api_core.exceptions import GoogleAPICallError
from google.auth.exceptions import GoogleAuthError
from google.cloud.storage import Client
from requests import RequestException
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from dropcap.domain.upload import Upload
from infra import ROOT, cost
from infra.cloud import CloudError
from infra.cloud.backfill.backlog import Journal, State, enqueue, listing
from infra.cloud.backfill.estimate import (
    PUT,
    SERVICE,
    Count,
    check_bucket,
    costs,
    count,
    deployed,
    duration,
    pace,
    size,
)
from infra.cloud.backfill.tasks import Limits, Tasks, limits
from infra.cloud.config import QUEUE, Config
from infra.cloud.gcloud import known_errors
from infra.cloud.gcloud.login import credentials
from infra.cloud.inventory import Cloud
from infra.confirm import confirm
from infra.text import plural, printable

COUNT = 1_000_000  # objects counted before the confirmation: three minutes and half a cent
RETENTION_S = 28 * 86_400  # Cloud Tasks drops tasks after 31 days: cloud.google.com/tasks/docs/quotas


def backfill(console: Console, config: Config, cloud: Cloud) -> None:
    """Show the estimate, ask for confirmation, and create the tasks. Raises CloudError."""
    try:
        Backfill(console, config, cloud).run()
    except GoogleAPICallError as refused:
        message = f"PERMISSION_DENIED {refused}" if refused.code == HTTPStatus.FORBIDDEN else str(refused)
        reason = known_errors.translate(["tasks", "create"], message, config.project, str)
        raise CloudError(f"{reason} Run the same command again to continue.") from refused
    except (GoogleAuthError, RequestException) as lost:
        raise CloudError(
            f"Google can't be reached: {lost}. Run the same command again to continue."
        ) from lost


class Backfill:
    """One interactive run of the command."""

    def __init__(self, console: Console, config: Config, cloud: Cloud) -> None:
        self.console, self.config, self.gcloud = console, config, cloud.gcloud
        self.bucket = config.environment.get("BUCKET", "").removeprefix("gs://").rstrip("/")
        self.prefix = config.environment.get("PREFIX", "")
        if not self.bucket:
            raise CloudError("BUCKET is not set: make backfill PROJECT=my-project BUCKET=my-project-uploads")
        self.rate = self._number("RATE", 0)
        if self.rate and not 0.01 <= self.rate <= 500:
            raise CloudError(f"RATE={self.rate:g} is not allowed: it must be from 0.01 to 500 a second.")
        self.deployed = deployed(cloud)
        settings = self.deployed.settings
        check_bucket(self.bucket, settings.uploads_bucket, settings)
        self.seconds = self._number("EACH_S", cost.seconds(False))
        login = credentials(self.gcloud)
        self.client = Client(config.project, login)
        self.tasks = Tasks(
            f"projects/{config.project}/locations/{config.region}/queues/{QUEUE}",
            login,
            config.account("trigger"),
            self.deployed.url,
            min(self.deployed.timeout_s + 5, 1800),  # Task.dispatch_deadline: slightly more, at most 30 min
            later=settings.defers,
        )
        folder = Path(config.environment.get("STATE") or ROOT / ".dropcap") / "backfill"
        self.journal = Journal(folder, self.tasks.name, self.bucket, self.prefix)
        self.state = State() if config.environment.get("RESTART") else self.journal.read()

    def _number(self, name: str, default: float) -> float:
        text = self.config.environment.get(name)
        try:
            value = float(text or default)
        except ValueError:
            value = -1.0
        if text and not value > 0:
            raise CloudError(f"{name}={text} is not allowed: it must be a number above 0.")
        return value

    def run(self) -> None:
        """Show the estimate, ask for confirmation, and create the tasks.

        Raises CloudError, and Google's own exceptions.
        """
        if self.state.complete:
            self._print(
                f"All of {self._where} is already in the queue: {self.counts()}. "
                "RESTART=1 goes through it again; no picture is processed twice."
            )
            return
        most = limits(self.gcloud, self.config.region)
        if self.rate:
            most = replace(most, per_second=self.rate)
        rate = pace(most, self.deployed.instances, self.seconds)
        with self.console.status(f"Counting {self._where} ..."):
            counted = count(self._listing(), self._wanted, int(self._number("COUNT", COUNT)))
        if not counted.pictures and counted.exact:
            self._print(
                f"There is nothing to do in {self._where}: "
                f"{plural(counted.ignored, 'object')}, all of them ignored."
            )
            return
        room = self._room(rate)
        self._explain(counted, most, rate, room)
        question = f"Put {counted.least}{plural(min(counted.pictures, room), 'picture')} into the queue?"
        confirm(question, self.config.environment.get("YES"))
        if self.rate:
            words = ("tasks", "queues", "update", self.tasks.name)
            self.gcloud.read(*words, f"--max-dispatches-per-second={self.rate:g}")
        self._enqueue(counted, room)
        self._report(rate)

    @property
    def _where(self) -> str:
        return printable(f"gs://{self.bucket}/{self.prefix}")

    def _wanted(self, upload: Upload) -> bool:
        return upload.wanted(self.deployed.settings.include, self.deployed.settings.exclude)

    def _listing(self) -> Iterator[Upload]:
        return listing(self.client, self.bucket, self.prefix, self.state.last)

    def _print(self, line: str, style: str = "") -> None:
        self.console.print(line, style=style, markup=False, soft_wrap=True)

    def counts(self) -> str:
        """Return the progress in words."""
        state = self.state
        return f"{state.enqueued:,} enqueued, {state.known:,} known before, {state.ignored:,} ignored"

    def _room(self, rate: float) -> int:
        """Return how many tasks this run may create, so that none expires before it is sent."""
        state = self.state
        waiting = max(0.0, state.enqueued - rate * (time.time() - state.began)) if state.began else 0.0
        room = int(rate * RETENTION_S - waiting)
        if room < 1:
            raise CloudError(
                f"About {waiting:,.0f} tasks wait, four weeks' work at this rate, and Cloud Tasks drops "
                "tasks after a month: raise RATE and MAX_INSTANCES, or run it again in some days."
            )
        return room

    def _explain(self, counted: Count, limits: Limits, rate: float, room: int) -> None:
        """Print the number of pictures, the duration, the cost, and the handling of sources."""
        settings, total = self.deployed.settings, counted.pictures + counted.ignored
        if self.state.last:
            self._print(
                f"Continuing after {printable(self.state.last)}: {self.counts()}. RESTART=1 starts again.\n"
            )
        prices = costs(counted.pictures, total, settings, self.seconds)
        parts = ", ".join(
            f"{name} {'not known' if price is None else f'{price:,.2f}'}" for name, price in prices.items()
        )
        alone = f"; {counted.ignored:,} are ignored (empty, folders, temporary, INCLUDE and EXCLUDE)"
        lines = {
            "from": self._where,
            "to": f"{SERVICE} by the queue {QUEUE} ({self.config.project}, {self.config.region})",
            "pictures": f"{counted.least}{counted.pictures:,}, {size(counted.bytes)}"
            + alone * bool(counted.ignored),
            "rate": f"{rate:.3g} a second: the queue sends {limits.per_second:g} a second, {limits.at_once} "
            f"at once, to {self.deployed.instances} instances at most, for {self.seconds:g} s each (EACH_S)",
            "time": f"{counted.least}{duration(counted.pictures / rate)}, of which this command takes "
            f"{duration(counted.pictures / PUT)}",
            "US$": f"{counted.least}{sum(each or 0 for each in prices.values()):,.2f} at list price: {parts}",
            "sources": {
                "delete": "DELETED, each after its result and its pictures are stored: SOURCE=delete",
                "archive": f"moved to gs://{settings.archive_bucket}, each after its result is stored",
                "keep": "kept",
            }[settings.source],
        }
        if settings.defers:
            lines["texts"] = "BLIP's at once, Gemini's in batches at half the price, within 24 hours each"
        for name, line in lines.items():
            self._print(f"{name:10}{line}", "bold red" if line.startswith("DELETED") else "")
        if self.prefix:
            self._print(
                "`sweep` also processes objects outside this prefix, a few hundred an hour, "
                "unless INCLUDE and EXCLUDE leave them out."
            )
        if counted.pictures > room:
            self._print(
                f"Cloud Tasks drops tasks after a month: this run ends after {room:,}, a later one continues."
            )

    def _enqueue(self, counted: Count, room: int) -> None:
        self.state = replace(self.state, began=self.state.began or time.time())
        before = self.state.enqueued + self.state.known
        columns = (
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.description}", markup=False),
        )
        with Progress(*columns, console=self.console) as progress, _interruptible(self.tasks.stopping):
            bar = progress.add_task("", total=counted.pictures if counted.exact else None)
            for state in enqueue(self._listing(), self._wanted, self.tasks, self.state, room):
                self.state = state
                self.journal.write(state)
                done = state.enqueued + state.known - before
                progress.update(bar, completed=done, description=printable(state.last)[-40:])

    def _report(self, rate: float) -> None:
        """Print the result, and the remaining work of Cloud Tasks."""
        self._print(
            f"{self.counts()}. Cloud Tasks sends them now, for about {duration(self.state.enqueued / rate)}."
        )
        if not self.state.complete:
            self._print(
                "That is a month's work, and there are more: run the same command again in some weeks."
            )
        queue = f"--location={self.config.region} --project={self.config.project}"
        self._print(f"waiting      gcloud tasks list --queue={QUEUE} {queue} --limit=10")
        self._print(f"pause        gcloud tasks queues pause {QUEUE} {queue}    (resume continues)")
        self._print(f"discard      gcloud tasks queues purge {QUEUE} {queue}")


@contextmanager
def _interruptible(stopping: Event) -> Iterator[None]:
    """On the first Ctrl-C, only set `stopping`; raise KeyboardInterrupt on the second.

    An exception while threads are running could occur between acquiring and releasing a lock, and deadlock.
    """

    def interrupt(signum: int, frame: FrameType | None) -> None:
        if stopping.is_set():
            raise KeyboardInterrupt
        stopping.set()

    before = signal.getsignal(signal.SIGINT)
    if before != signal.SIG_IGN:
        signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
