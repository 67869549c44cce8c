"""Estimate a backfill before it starts: number of pictures, rate, duration and cost."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from dropcap.domain.upload import Upload
from dropcap.settings import Settings
from infra import cost
from infra.cloud import CloudError
from infra.cloud.backfill.backlog import PAGE
from infra.cloud.backfill.tasks import Limits
from infra.cloud.inventory import Cloud
from infra.cloud.resources import functions

SERVICE = "dropcap-on-upload"
PUT = 400  # tasks a second that this command creates, measured
USUAL_INSTANCES = 100  # of a service without a limit: cloud.google.com/run/docs/configuring/max-instances
GIB = 0.5  # memory of an instance
TASK = 0.40e-6  # US$ an operation: cloud.google.com/tasks/pricing, read on 2026-11-24


@dataclass(frozen=True, slots=True)
class Deployed:
    """The deployed on_upload: its URL, its settings, maximum instances, and timeout."""

    url: str
    settings: Settings
    instances: int
    timeout_s: int


@dataclass(frozen=True, slots=True)
class Count:
    """The contents of a listing; `exact` if it was read to its end."""

    pictures: int
    bytes: int
    ignored: int
    exact: bool

    @property
    def least(self) -> str:
        return "" if self.exact else "at least "


def deployed(cloud: Cloud) -> Deployed:
    """Return the deployed on_upload. Raises CloudError if there is none."""
    if (service := cloud.services.get(SERVICE)) is None:
        raise CloudError(f"{SERVICE} is not deployed in {cloud.gcloud.project}: run make deploy first.")
    template = service["spec"]["template"]
    annotations = {
        **service["metadata"].get("annotations", {}),
        **template["metadata"].get("annotations", {}),
    }
    bounds = [
        annotations.get(name) for name in ("run.googleapis.com/maxScale", "autoscaling.knative.dev/maxScale")
    ]
    instances = min((int(bound) for bound in bounds if bound), default=USUAL_INSTANCES)
    return Deployed(
        service["status"]["url"],
        functions.settings(service),
        instances,
        int(template["spec"].get("timeoutSeconds", 300)),
    )


def check_bucket(bucket: str, watched: str, settings: Settings) -> None:
    """Raise CloudError unless on_upload accepts events of the bucket."""
    if bucket == watched:
        return
    others = (settings.pictures_bucket, settings.quarantine_bucket, settings.archive_bucket)
    remedy = f"copy the objects: gcloud storage cp --recursive gs://{bucket}/FOLDER gs://{watched}/"
    if bucket not in others:
        remedy = f"deploy for it, make deploy UPLOADS_BUCKET={bucket} SOURCE=keep, or {remedy}"
    raise CloudError(f"{SERVICE} watches gs://{watched} and ignores gs://{bucket}: {remedy}")


def count(uploads: Iterable[Upload], wanted: Callable[[Upload], bool], most: int) -> Count:
    """Count the wanted uploads among the first `most` objects."""
    pictures = total = ignored = 0
    for upload in uploads:
        if pictures + ignored >= most:
            return Count(pictures, total, ignored, exact=False)
        if wanted(upload):
            pictures, total = pictures + 1, total + upload.size
        else:
            ignored += 1
    return Count(pictures, total, ignored, exact=True)


def pace(limits: Limits, instances: int, seconds: float) -> float:
    """Return the pictures a second that queue and function together allow.

    An instance takes `seconds` for a picture, as it works on others while one waits for Gemini.
    """
    return min(limits.per_second, min(limits.at_once, instances) / seconds)


def costs(pictures: int, objects: int, settings: Settings, seconds: float) -> Mapping[str, float | None]:
    """Return the US$ that these pictures add, at list price without free tiers; None: not known.

    `objects` are listed to find them. There are no events to pay for, and instances stay warm.
    """
    described = bool(settings.gemini_api_key)
    nothing = cost.month(0, described)
    more = {name: each - nothing[name] for name, each in cost.month(pictures, described).items()}
    more |= {"vcpu": pictures * seconds, "memory": pictures * seconds * GIB, "requests": pictures / 1e6}
    more["class A"] += 2 * objects / PAGE / 1000  # listed twice: to count, and to create tasks

    def usd(*names: str) -> float:
        return sum(cost.usd(name, more[name], free=False) for name in names)

    found: dict[str, float | None] = {
        "Cloud Run": usd("vcpu", "memory", "requests"),
        "Cloud Storage": usd("class A", "class B"),
        "Cloud Tasks": pictures * 2 * TASK,  # created, and dispatched
        "logs": usd("logs"),
    }
    if described:
        read, written = (round(1e6 * more[name]) for name in ("input", "output"))
        found["Gemini"] = settings.usd(read, written, batch=settings.defers) if settings.prices else None
    return found


def size(number: float) -> str:
    """Return bytes as text."""
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:,.4g} TB"


def duration(seconds: float) -> str:
    """Return a duration as text."""
    for unit, length in (("days", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.3g} {unit}"
    return f"{seconds:.0f} s"
