"""What calls the functions: the trigger for uploads, the schedule of `sweep`, the queue of the backfill."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from infra.cloud.gcloud.command import Command, command, output_of
from infra.cloud.inventory import Cloud
from infra.cloud.resources.base import Change, Facts, RegionalResource, Resource, at

TYPE = "google.cloud.storage.object.v1.finalized"


@dataclass(frozen=True, kw_only=True)
class Trigger(RegionalResource):
    """Eventarc's trigger: calls the service for each finalized object of the bucket."""

    kind: ClassVar[str] = "trigger"
    surface: ClassVar[str] = "eventarc triggers"
    table: ClassVar[str] = "triggers"
    bucket: str
    service: str
    service_region: str
    account: str

    def wanted(self, cloud: Cloud) -> Facts:
        return {"bucket": self.bucket, "calls": self.service, "as": self.account.partition("@")[0]}

    def facts(self, cloud: Cloud, there: Any) -> Facts:
        filters = {each["attribute"]: each["value"] for each in there.get("eventFilters", ())}
        account = there.get("serviceAccount", "").rpartition("/")[2].partition("@")[0]
        service = at(there, "destination", "cloudRun", "service")
        return {"bucket": filters.get("bucket"), "calls": service, "as": account}

    def settings(self, cloud: Cloud) -> Sequence[str]:
        service = (
            f"--destination-run-service={self.service}",
            f"--destination-run-region={self.service_region}",
        )
        return (*service, f"--service-account={self.account}")

    def make(self, cloud: Cloud) -> Sequence[Command]:
        filters = (f"--event-filters=type={TYPE}", f"--event-filters=bucket={self.bucket}")
        return [self.command("create", *filters, *self.settings(cloud))]

    def change(self, cloud: Cloud, differing: Facts) -> Sequence[Command]:
        if "bucket" in differing:  # created again; reconcile finds objects that are uploaded meanwhile
            return [*self.remove(cloud), *self.make(cloud)]
        return super().change(cloud, differing)


@dataclass(frozen=True, kw_only=True)
class Subscription(Resource):
    """The Pub/Sub subscription of the trigger `name`, which Eventarc creates; only its settings change."""

    kind: ClassVar[str] = "subscription of trigger"
    location: str
    # By name of the fact: flag, value, and path of the value.
    SET: ClassVar[Mapping[str, tuple[str, str, tuple[str, ...]]]] = {
        "waits for an answer": ("--ack-deadline", "600", ("ackDeadlineSeconds",)),
        "tries again after": ("--min-retry-delay", "10s", ("retryPolicy", "minimumBackoff")),
        # with 600 s, instances would be idle
        "and at most after": ("--max-retry-delay", "60s", ("retryPolicy", "maximumBackoff")),
        "keeps an event": ("--message-retention-duration", "604800s", ("messageRetentionDuration",)),
    }

    def wanted(self, cloud: Cloud) -> Facts:
        return {name: f"{value.removesuffix('s')}s" for name, (_, value, _) in self.SET.items()}

    def found(self, cloud: Cloud) -> Facts | None:
        name = at(cloud.triggers.get(self.name), "transport", "pubsub", "subscription")
        if (found := cloud.subscriptions.get(name)) is None:
            return None
        values = {name: at(found, *path) for name, (_, _, path) in self.SET.items()}
        return {name: value and f"{str(value).removesuffix('s')}s" for name, value in values.items()}

    def make(self, cloud: Cloud) -> Sequence[Command]:
        where = (f"--location={self.location}", "--format=value(transport.pubsub.subscription)")
        name = output_of("", "eventarc triggers describe", self.name, *where)
        flags = (f"{flag}={value}" for flag, value, _ in self.SET.values())
        return [command("pubsub subscriptions update", name, *flags)]

    def removal(self, cloud: Cloud) -> Change | None:
        return None  # it is removed with its trigger


@dataclass(frozen=True, kw_only=True)
class Schedule(RegionalResource):
    """The Cloud Scheduler job that calls a service, with an account that is allowed to."""

    kind: ClassVar[str] = "schedule"
    surface: ClassVar[str] = "scheduler jobs"
    table: ClassVar[str] = "jobs"
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

    def facts(self, cloud: Cloud, there: Any) -> Facts:
        target = there.get("httpTarget", {})
        token = target.get("oidcToken", {})
        uri = target.get("uri", "").rstrip("/") if target.get("httpMethod") == "POST" else None
        return {
            "at": there.get("schedule"),
            "calls": uri if token.get("audience", "").rstrip("/") == uri else token.get("audience"),
            "as": token.get("serviceAccountEmail", "").partition("@")[0],
            "waits": there.get("attemptDeadline"),
        }

    def make(self, cloud: Cloud) -> Sequence[Command]:
        return [self._command("create")]

    def change(self, cloud: Cloud, differing: Facts) -> Sequence[Command]:
        return [self._command("update")]

    def _command(self, verb: str) -> Command:
        url = (self.service, f"--region={self.region}", "--format=value(status.url)")
        return self.command(
            f"{verb} http",
            *(f"--schedule={self.cron}", "--time-zone=Etc/UTC"),
            output_of("--uri=", "run services describe", *url),
            *("--http-method=POST", f"--attempt-deadline={self.deadline_s}s"),
            f"--oidc-service-account-email={self.account}",
            output_of("--oidc-token-audience=", "run services describe", *url),
        )


@dataclass(frozen=True, kw_only=True)
class Queue(RegionalResource):
    """The Cloud Tasks queue.

    `make destroy` purges and keeps it: a deleted name cannot be used again for three days, and an empty queue
    costs nothing.
    """

    kind: ClassVar[str] = "queue"
    surface: ClassVar[str] = "tasks queues"
    table: ClassVar[str] = "queues"
    per_second: str
    at_once: int

    def wanted(self, cloud: Cloud) -> Facts:
        retry = {"tries": 100, "tries again after": "10s", "and at most after": "600s"}
        return {"a second": float(self.per_second), "at once": self.at_once} | retry

    def facts(self, cloud: Cloud, there: Any) -> Facts:
        return {
            "a second": float(at(there, "rateLimits", "maxDispatchesPerSecond") or 0),
            "at once": at(there, "rateLimits", "maxConcurrentDispatches"),
            "tries": at(there, "retryConfig", "maxAttempts"),
            "tries again after": at(there, "retryConfig", "minBackoff"),
            "and at most after": at(there, "retryConfig", "maxBackoff"),
        }

    def settings(self, cloud: Cloud) -> Sequence[str]:
        rate = f"--max-dispatches-per-second={self.per_second}"
        retry = ("--max-attempts=100", "--min-backoff=10s", "--max-backoff=600s")
        return (rate, f"--max-concurrent-dispatches={self.at_once}", *retry)

    def remove(self, cloud: Cloud) -> Sequence[Command]:
        left = cloud.gcloud.read("tasks list", f"--queue={self.name}", *self.location_flags, "--limit=1")
        return [self.command("purge")] if left else ()
