"""What calls the functions: the event of an upload, the schedule of the sweep, the queue of the backfill."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from infra.cloud.gcloud.command import Command, Late, command
from infra.cloud.inventory import Cloud
from infra.cloud.resources.base import Change, Facts, Resource

TYPE = "google.cloud.storage.object.v1.finalized"


@dataclass(frozen=True, kw_only=True)
class Trigger(Resource):
    """Eventarc's trigger: each object that is complete in the bucket calls the service."""

    kind: ClassVar[str] = "trigger"
    location: str
    region: str
    bucket: str
    service: str
    account: str

    def wanted(self, cloud: Cloud) -> Facts:
        return {"bucket": self.bucket, "calls": self.service, "as": self.account.partition("@")[0]}

    def found(self, cloud: Cloud) -> Facts | None:
        if (trigger := cloud.triggers.get(self.name)) is None:
            return None
        filters = {each["attribute"]: each["value"] for each in trigger.get("eventFilters", ())}
        run = trigger.get("destination", {}).get("cloudRun", {})
        account = trigger.get("serviceAccount", "").rpartition("/")[2]
        return {"bucket": filters.get("bucket"), "calls": run.get("service"), "as": account.partition("@")[0]}

    def make(self, cloud: Cloud) -> Sequence[Command]:
        filters = (f"--event-filters=type={TYPE}", f"--event-filters=bucket={self.bucket}")
        return [
            command(
                "eventarc",
                "triggers",
                "create",
                self.name,
                f"--location={self.location}",
                *filters,
                *self._to(),
            )
        ]

    def change(self, cloud: Cloud, differing: Facts) -> Sequence[Command]:
        if "bucket" in differing:  # made anew; the sweep finds what is uploaded between
            return [*self.remove(cloud), *self.make(cloud)]
        return [
            command("eventarc", "triggers", "update", self.name, f"--location={self.location}", *self._to())
        ]

    def _to(self) -> tuple[str, ...]:
        service = (f"--destination-run-service={self.service}", f"--destination-run-region={self.region}")
        return (*service, f"--service-account={self.account}")

    def remove(self, cloud: Cloud) -> Sequence[Command]:
        return [command("eventarc", "triggers", "delete", self.name, f"--location={self.location}")]


@dataclass(frozen=True, kw_only=True)
class Subscription(Resource):
    """Pub/Sub's subscription that Eventarc makes for a trigger (`name`), and only sets it up."""

    kind: ClassVar[str] = "subscription of trigger"
    location: str
    SET: ClassVar[dict[str, tuple[str, str]]] = {  # by words: flag and value, and where the value is found
        "waits for an answer": ("--ack-deadline", "600s"),
        "tries again after": ("--min-retry-delay", "10s"),
        "and at most after": ("--max-retry-delay", "60s"),  # 600 s would leave instances idle
        "keeps an event": ("--message-retention-duration", "604800s"),
    }

    def _subscription(self, cloud: Cloud) -> Any:
        trigger = cloud.triggers.get(self.name, {})
        return cloud.subscriptions.get(trigger.get("transport", {}).get("pubsub", {}).get("subscription", ""))

    def wanted(self, cloud: Cloud) -> Facts:
        return {name: value for name, (_, value) in self.SET.items()}

    def found(self, cloud: Cloud) -> Facts | None:
        if (found := self._subscription(cloud)) is None:
            return None
        retry = found.get("retryPolicy", {})
        values = (
            f"{found.get('ackDeadlineSeconds')}s",
            retry.get("minimumBackoff"),
            retry.get("maximumBackoff"),
            found.get("messageRetentionDuration"),
        )
        return dict(zip(self.SET, values, strict=True))

    def make(self, cloud: Cloud) -> Sequence[Command]:
        name = Late(
            (
                "eventarc",
                "triggers",
                "describe",
                self.name,
                f"--location={self.location}",
                "--format=value(transport.pubsub.subscription)",
            )
        )
        values = (
            f"{flag}={value.removesuffix('s')}" if flag == "--ack-deadline" else f"{flag}={value}"
            for flag, value in self.SET.values()
        )
        return [command("pubsub", "subscriptions", "update", name, *values)]

    def change(self, cloud: Cloud, differing: Facts) -> Sequence[Command]:
        return self.make(cloud)

    def removal(self, cloud: Cloud) -> Change | None:
        return None  # it goes with its trigger


@dataclass(frozen=True, kw_only=True)
class Schedule(Resource):
    """Cloud Scheduler's job that calls a service, as an account that may."""

    kind: ClassVar[str] = "schedule"
    region: str
    service: str
    account: str
    cron: str
    deadline_s: int

    def wanted(self, cloud: Cloud) -> Facts:
        return {
            "at": self.cron,
            "calls": cloud.url(self.service) or self.service,
            "as": self.account.partition("@")[0],
            "waits": f"{self.deadline_s}s",
        }

    def found(self, cloud: Cloud) -> Facts | None:
        if (job := cloud.jobs.get(self.name)) is None:
            return None
        target = job.get("httpTarget", {})
        token = target.get("oidcToken", {})
        uri = target.get("uri", "").rstrip("/") if target.get("httpMethod") == "POST" else None
        return {
            "at": job.get("schedule"),
            "calls": uri if token.get("audience", "").rstrip("/") == uri else token.get("audience"),
            "as": token.get("serviceAccountEmail", "").partition("@")[0],
            "waits": job.get("attemptDeadline"),
        }

    def make(self, cloud: Cloud) -> Sequence[Command]:
        return [self._command("create")]

    def change(self, cloud: Cloud, differing: Facts) -> Sequence[Command]:
        return [self._command("update")]

    def _command(self, verb: str) -> Command:
        url = (
            "run",
            "services",
            "describe",
            self.service,
            f"--region={self.region}",
            "--format=value(status.url)",
        )
        return command(
            "scheduler",
            "jobs",
            verb,
            "http",
            self.name,
            f"--location={self.region}",
            f"--schedule={self.cron}",
            "--time-zone=Etc/UTC",
            Late(url, "--uri="),
            "--http-method=POST",
            f"--attempt-deadline={self.deadline_s}s",
            f"--oidc-service-account-email={self.account}",
            Late(url, "--oidc-token-audience="),
        )

    def remove(self, cloud: Cloud) -> Sequence[Command]:
        return [command("scheduler", "jobs", "delete", self.name, f"--location={self.region}")]


@dataclass(frozen=True, kw_only=True)
class Queue(Resource):
    """Cloud Tasks' queue. It outlives `make destroy`, emptied: a name that was deleted can't be had again for
    three days, and an empty queue costs nothing."""

    kind: ClassVar[str] = "queue"
    region: str
    per_second: str
    at_once: int

    def wanted(self, cloud: Cloud) -> Facts:
        return {
            "a second": float(self.per_second),
            "at once": self.at_once,
            "tries": 100,
            "tries again after": "10s",
            "and at most after": "600s",
        }

    def found(self, cloud: Cloud) -> Facts | None:
        if (queue := cloud.queues.get(self.name)) is None:
            return None
        rates, retry = queue.get("rateLimits", {}), queue.get("retryConfig", {})
        return {
            "a second": float(rates.get("maxDispatchesPerSecond", 0)),
            "at once": rates.get("maxConcurrentDispatches"),
            "tries": retry.get("maxAttempts"),
            "tries again after": retry.get("minBackoff"),
            "and at most after": retry.get("maxBackoff"),
        }

    def make(self, cloud: Cloud) -> Sequence[Command]:
        return [self._command("create")]

    def change(self, cloud: Cloud, differing: Facts) -> Sequence[Command]:
        return [self._command("update")]

    def _command(self, verb: str) -> Command:
        return command(
            "tasks",
            "queues",
            verb,
            self.name,
            f"--location={self.region}",
            f"--max-dispatches-per-second={self.per_second}",
            f"--max-concurrent-dispatches={self.at_once}",
            "--max-attempts=100",
            "--min-backoff=10s",
            "--max-backoff=600s",
        )

    def remove(self, cloud: Cloud) -> Sequence[Command]:
        where = f"--location={self.region}"
        left = cloud.gcloud.read("tasks", "list", f"--queue={self.name}", where, "--limit=1")
        return [command("tasks", "queues", "purge", self.name, where)] if left else ()
