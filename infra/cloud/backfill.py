"""`make backfill`: put what already lies in the uploads bucket into the queue that sends it to on_upload.

The engine is Google's: Cloud Tasks keeps a task for each object and posts it at the queue's rate, Cloud Run
scales within its bounds, and the claim in the database sees to it that nothing is done twice. Here objects
are listed, counted, priced and put in, and it is kept how far that went: the same command goes on from there.
"""

import argparse
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
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

from dropcap.upload import Upload
from infra import cost
from infra.cloud import CloudError, settings_file
from infra.cloud.backlog import Journal, State, enqueue, listing
from infra.cloud.config import QUEUE, Config
from infra.cloud.estimate import (
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
from infra.cloud.gcloud import refusals
from infra.cloud.gcloud.command import Gcloud
from infra.cloud.gcloud.login import credentials
from infra.cloud.tasks import Limits, Tasks
from infra.local.storage import ROOT

COUNT = 1_000_000  # objects that are counted before the question: three minutes and half a cent
RETENTION_S = 28 * 86_400  # Cloud Tasks drops what is 31 days old: cloud.google.com/tasks/docs/quotas
WIDTH = 1000  # columns where the output is no terminal; what reads a pipe wraps lines itself


class Backfill:
    """One run of the command, with a person in front of it."""

    def __init__(self, arguments: argparse.Namespace, console: Console) -> None:
        self.arguments = arguments
        self.console = console
        self.bucket: str = arguments.bucket.removeprefix("gs://").rstrip("/")
        self.prefix: str = arguments.prefix
        self.gcloud = Gcloud(arguments.project)
        self.deployed = deployed(self.gcloud, arguments.region)
        region = self.region = self.deployed.region
        settings = self.deployed.settings
        check_bucket(self.bucket, settings.uploads_bucket, settings)
        self.seconds: float = arguments.each_s or cost.seconds(bool(settings.gemini_api_key))
        login = credentials(self.gcloud)
        self.client = Client(arguments.project, login)
        self.tasks = Tasks(
            f"projects/{arguments.project}/locations/{region}/queues/{QUEUE}",
            login,
            Config(project=arguments.project, region=region).account("trigger"),
            self.deployed.url,
            min(self.deployed.timeout_s + 5, 1800),  # Task.dispatch_deadline: a little more, 30 min at most
        )
        self.journal = Journal(arguments.state / "backfill", self.tasks.name, self.bucket, self.prefix)
        self.state = State() if arguments.restart else self.journal.read()

    def run(self) -> None:
        """Say what would be done, ask, and do it. Raises CloudError, and Google's own exceptions."""
        if self.state.complete:
            self._say(
                f"All of {self._where} was put into the queue already: {self.counts()}. "
                "RESTART=1 goes through it again; what is done is not done twice."
            )
            return
        limits = self.tasks.limits()
        if self.arguments.rate:
            limits = replace(limits, per_second=self.arguments.rate)
        rate = pace(limits, self.deployed.instances, self.seconds)
        with self.console.status(f"Counting {self._where} ..."):
            counted = count(self._listing(), self._wanted, self.arguments.count)
        if not counted.pictures and counted.exact:
            self._say(
                f"There is nothing to do in {self._where}: "
                f"{counted.ignored} objects, and none of them is to be taken."
            )
            return
        most = self._room(rate)
        self._explain(counted, limits, rate, most)
        self._ask(f"Put {counted.least}{min(counted.pictures, most):,.0f} pictures into the queue?")
        if self.arguments.rate:
            words = ("tasks", "queues", "update", self.tasks.name)
            self.gcloud.read(*words, f"--max-dispatches-per-second={self.arguments.rate:g}")
        self._enqueue(counted, most)
        self._report(rate)

    @property
    def _where(self) -> str:
        return printable(f"gs://{self.bucket}/{self.prefix}")

    def _wanted(self, upload: Upload) -> bool:
        return upload.wanted(self.deployed.settings.include, self.deployed.settings.exclude)

    def _listing(self) -> Iterator[Upload]:
        return listing(self.client, self.bucket, self.prefix, self.state.last)

    def _say(self, line: str, style: str = "") -> None:
        self.console.print(line, style=style, markup=False, soft_wrap=True)

    def counts(self) -> str:
        """How far it is, for a person."""
        state = self.state
        return f"{state.enqueued:,} enqueued, {state.known:,} known before, {state.ignored:,} left alone"

    def _room(self, rate: float) -> float:
        """Tasks that this run may put in, so that none grows too old to be sent."""
        state = self.state
        waiting = max(0.0, state.enqueued - rate * (time.time() - state.began)) if state.began else 0.0
        room = rate * RETENTION_S - waiting
        if room < 1:
            raise CloudError(
                f"About {waiting:,.0f} tasks wait, four weeks' work at this rate, and Cloud Tasks drops what "
                "is a month old: raise RATE and MAX_INSTANCES, or run it again in some days."
            )
        return room

    def _explain(self, counted: Count, limits: Limits, rate: float, most: float) -> None:
        """What there is, how long it takes, what it costs, and what becomes of the sources."""
        settings, total = self.deployed.settings, counted.pictures + counted.ignored
        if self.state.last:
            self._say(
                f"Going on after {printable(self.state.last)}: {self.counts()}. RESTART=1 begins anew.\n"
            )
        prices = costs(counted.pictures, total, settings, self.seconds)
        parts = ", ".join(
            f"{name} {'not known' if price is None else f'{price:,.2f}'}" for name, price in prices.items()
        )
        alone = f"; {counted.ignored:,} are left alone (empty, folders, temporary, INCLUDE and EXCLUDE)"
        lines = {
            "from": self._where,
            "to": f"{SERVICE} by the queue {QUEUE} ({self.arguments.project}, {self.region})",
            "pictures": f"{counted.least}{counted.pictures:,}, {size(counted.bytes)}"
            + alone * bool(counted.ignored),
            "rate": f"{rate:.3g} a second: the queue sends {limits.per_second:g} a second, {limits.at_once} "
            f"at once, to {self.deployed.instances} instances at most, for {self.seconds:g} s each (EACH_S)",
            "time": f"{counted.least}{duration(counted.pictures / rate)}, of which this command has "
            f"{duration(counted.pictures / PUT)}",
            "US$": f"{counted.least}{sum(each or 0 for each in prices.values()):,.2f} at list price: {parts}",
            "sources": {
                "delete": "DELETED, each when its result is recorded and its pictures stored: SOURCE=delete",
                "archive": f"moved to gs://{settings.archive_bucket}, each when its result is recorded",
                "keep": "kept",
            }[settings.source],
        }
        for name, line in lines.items():
            self._say(f"{name:10}{line}", "bold red" if line.startswith("DELETED") else "")
        if self.prefix:
            self._say(
                "The sweep takes what lies outside of this prefix too, a few hundred an hour, "
                "unless INCLUDE and EXCLUDE leave it out."
            )
        if counted.pictures > most:
            self._say(
                f"Cloud Tasks drops what is a month old: this run ends after {most:,.0f}, others go on."
            )

    def _ask(self, question: str) -> None:
        """Raise CloudError unless the person says yes."""
        if self.arguments.yes:
            return
        if not sys.stdin.isatty():
            raise CloudError(f"{question} Say so with YES=1.")
        if self.console.input(f"{question} \\[y/N] ").strip().lower() not in ("y", "yes"):
            raise CloudError("Nothing was changed.")

    def _enqueue(self, counted: Count, most: float) -> None:
        self.state = replace(self.state, began=self.state.began or time.time())
        before = self.state.enqueued + self.state.known
        columns = (
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[name]}", markup=False),
        )
        with Progress(*columns, console=self.console) as progress:
            bar = progress.add_task("", total=counted.pictures if counted.exact else None, rate="", name="")

            def keep(state: State) -> None:
                self.state = state
                self.journal.write(state)
                speed = progress.tasks[0].speed
                progress.update(
                    bar,
                    completed=state.enqueued + state.known - before,
                    rate=f"{speed:.0f}/s" if speed else "",
                    name=printable(state.last)[-40:],
                )

            try:
                with _halting(self.tasks.stopping):
                    enqueue(self._listing(), self._wanted, self.tasks, self.state, keep, most)
            finally:
                self.journal.write(self.state, now=True)

    def _report(self, rate: float) -> None:
        """What was done, and what goes on without us."""
        self._say(
            f"{self.counts()}. Cloud Tasks sends them now, for about {duration(self.state.enqueued / rate)}."
        )
        if not self.state.complete:
            self._say("That is a month's work, and there are more: run the same again in some weeks.")
        queue = f"--location={self.region} --project={self.arguments.project}"
        self._say(f"what waits   gcloud tasks list --queue={QUEUE} {queue} --limit=10")
        self._say(f"halt         gcloud tasks queues pause {QUEUE} {queue}    (resume goes on)")
        self._say(f"drop it      gcloud tasks queues purge {QUEUE} {queue}")


def printable(name: str) -> str:
    """An object's name without what would steer a terminal."""
    return "".join(character if character.isprintable() else "\ufffd" for character in name)


def _arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="make backfill",
        description="Put what already lies in the uploads bucket into the queue that sends it to on_upload. "
        "With make: make backfill PROJECT=my-project BUCKET=my-project-uploads PREFIX=ana/ RATE=5",
    )
    given = os.environ.get  # what stands after `make backfill` is in the environment
    options = {
        "project": (given("CLOUDSDK_CORE_PROJECT", ""), str, "where Dropcap is deployed"),
        "region": ("", str, "and in which region, where it is in several"),
        "bucket": ("", str, "the deployed UPLOADS_BUCKET"),
        "prefix": ("", str, "only objects whose names begin so"),
        "rate": (0.0, float, "set how many tasks a second the queue sends"),
        "each-s": (0.0, float, "what a picture takes, for time and cost, s"),
        "count": (COUNT, int, "objects to count before it starts, at most"),
        "state": (ROOT / ".dropcap", Path, "folder of what is kept of it"),
    }
    for name, (default, kind, meaning) in options.items():
        value = given(name.upper().replace("-", "_")) or default
        parser.add_argument(f"--{name}", default=value, type=kind, help=f"{meaning} (%(default)s)")
    for name, meaning in {"restart": "begin anew, not where the last run ended", "yes": "do not ask"}.items():
        parser.add_argument(f"--{name}", action="store_true", default=bool(given(name.upper())), help=meaning)
    arguments = parser.parse_args(words)
    settings_file.check(arguments.project, os.environ)
    if not arguments.project or not arguments.bucket:
        raise CloudError("Say what and where: make backfill PROJECT=my-project BUCKET=my-project-uploads")
    if not 0 <= arguments.rate <= 500:
        raise CloudError(f"RATE={arguments.rate:g} is not allowed: it must be from 0.01 to 500 a second.")
    return arguments


def _interrupt(signum: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


@contextmanager
def _halting(stopping: Event) -> Iterator[None]:
    """Meanwhile the first Ctrl-C or SIGTERM only sets `stopping`; a second is raised.

    Raised while threads are at work, it can strike between a lock and its release, and wait for ever.
    """

    def halt(signum: int, frame: FrameType | None) -> None:
        if stopping.is_set():
            raise KeyboardInterrupt
        stopping.set()

    heard = [each for each in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(each) != signal.SIG_IGN]
    before = {each: signal.signal(each, halt) for each in heard}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def main(words: Sequence[str] | None = None) -> int:
    """The exit status: 0, 1 with the reason in one line on stderr, or 130 where it was interrupted."""
    console = Console(width=None if sys.stdout.isatty() else WIDTH, highlight=False)
    backfill = None
    try:
        backfill = Backfill(_arguments(words), console)
        backfill.run()
    except KeyboardInterrupt:
        return _ended(backfill, "Interrupted", 130)
    except CloudError as reason:
        return _ended(backfill, str(reason), 1)
    except GoogleAPICallError as refused:
        said = f"PERMISSION_DENIED {refused}" if refused.code == HTTPStatus.FORBIDDEN else str(refused)
        project = backfill.gcloud.project if backfill else ""
        return _ended(backfill, str(refusals.refusal(["tasks", "create"], said, project, str)), 1)
    except (GoogleAuthError, RequestException) as lost:
        return _ended(backfill, f"Google can't be reached: {lost}", 1)
    return 0


def _ended(backfill: Backfill | None, reason: str, status: int) -> int:
    """Say why it ended before its time, and how to go on where something was enqueued."""
    print(f"make backfill: {reason}", file=sys.stderr)
    if backfill and backfill.state.listed:
        print(f"{backfill.counts()}. The same command goes on from there.", file=sys.stderr)
    return status


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _interrupt)
    sys.exit(main())
