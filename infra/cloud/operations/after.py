"""Commands after a deployment: next step, rollback, logs, addresses."""

import os
import sys
import time
import webbrowser
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from rich.console import Console

from infra.cloud import CloudError
from infra.cloud.config import Config
from infra.cloud.gcloud.command import Gcloud
from infra.cloud.inventory import Cloud
from infra.cloud.operations import gallery
from infra.cloud.resources.base import Change
from infra.cloud.resources.functions import traffic
from infra.cloud.resources.rights import FUNCTIONS, functions_of

POLL_S = 2.0
CONSOLE = "https://console.cloud.google.com"


def deployed(console: Console, config: Config, cloud: Cloud) -> None:
    """Print the URLs of the functions and the next step."""
    for line in gallery.instructions(config, cloud):
        console.print(line, markup=False, soft_wrap=True)
    for name in ("analyze", "get-progress-stats"):
        console.print(f"{name}: {cloud.url(f'dropcap-{name}')}", soft_wrap=True)
    verify_command = f"make verify PROJECT={config.project}"
    console.print(
        f"Next: {verify_command}, or drop a picture: gcloud storage cp photo.jpg gs://{config.buckets['uploads']}/ana/photo.jpg",
        soft_wrap=True,
    )


def rollback(config: Config, cloud: Cloud) -> list[Change]:
    """Return the changes that send each function's traffic to the newest revision of the previous code.

    Raises CloudError if a function has none: all are rolled back together, or none. A new gallery stays.
    """
    revisions = cloud.gcloud.read("run", "revisions", "list", f"--region={config.region}") or []
    revisions.sort(key=lambda each: each["metadata"]["creationTimestamp"], reverse=True)
    planned = []
    for name in (f"dropcap-{name}" for name in functions_of(config)):
        if name not in cloud.services:
            raise CloudError(f"{name} is not deployed: make deploy PROJECT={config.project}")
        own = [
            each for each in revisions if each["metadata"]["labels"]["serving.knative.dev/service"] == name
        ]
        now = _serving(cloud.services[name])
        index = next((index for index, each in enumerate(own) if each["metadata"]["name"] == now), 0)
        code = _label(own[index], "dropcap-source") if own else ""
        previous = next(
            (each for each in own[index + 1 :] if _label(each, "dropcap-source") != code and _ready(each)),
            None,
        )
        if previous is None and name == gallery.GALLERY:
            planned.append(Change(f"traffic of {name}", now, "stays", "it has no earlier code", ()))
            continue
        if previous is None:
            raise CloudError(
                f"{name} has no revision with other code before {now}. "
                "To undo a setting, run make deploy with its old value."
            )
        to = previous["metadata"]["name"]
        done = traffic(name, config.region, f"--to-revisions={to}=100")
        planned.append(
            Change(f"traffic of {name}", now, to, f"commit {_label(previous, 'dropcap-commit')}", (done,))
        )
    return planned


def _serving(service: Mapping[str, Any]) -> str:
    """Return the revision with the most traffic."""
    shares = service.get("status", {}).get("traffic", ())
    most: Mapping[str, Any] = max(shares, key=lambda each: each.get("percent", 0), default={})
    return str(most.get("revisionName") or service.get("status", {}).get("latestReadyRevisionName", ""))


def _label(revision: Mapping[str, Any], name: str) -> str:
    return str(revision["metadata"].get("labels", {}).get(name, ""))


def _ready(revision: Mapping[str, Any]) -> bool:
    conditions = revision.get("status", {}).get("conditions", ())
    return all(each.get("status") != "False" for each in conditions if each["type"] == "Ready")


def logs(console: Console, config: Config, cloud: Cloud) -> None:
    """Print the functions' log entries, the oldest first, one line each."""
    environment = config.environment
    name = environment.get("FUNCTION", "").removeprefix("dropcap-").replace("_", "-")
    if name and name not in FUNCTIONS:
        raise CloudError(f"FUNCTION={name!r} is not allowed: it must be {' or '.join(FUNCTIONS)}.")
    lines = entries(
        config,
        cloud.gcloud,
        name,
        environment.get("SEVERITY", ""),
        environment.get("SINCE", "1h"),
        environment.get("LIMIT", "200"),
    )
    for each in lines:
        console.print(each, markup=False, soft_wrap=True)
    if not lines:
        console.print(
            f"Nothing was logged in the last {environment.get('SINCE', '1h')}: SINCE=1d looks further back."
        )


def entries(config: Config, gcloud: Gcloud, name: str, severity: str, since: str, limit: str) -> list[str]:
    """Return readable log lines of one function or all, at or above a severity."""
    query = f'resource.type="cloud_run_revision" AND resource.labels.service_name:"dropcap-{name}"'
    query += f' AND resource.labels.location="{config.region}"'
    if severity:
        query += f" AND severity>={severity.upper()}"
    limits = (f"--freshness={since}", f"--limit={limit}", "--order=desc")
    return [line(each) for each in reversed(gcloud.read("logging read", query, *limits) or [])]


def await_payload(gcloud: Gcloud, query: str, patience_s: float) -> Mapping[str, Any] | None:
    """Return the JSON of the log line that a query finds; None if none comes in time. Raises CloudError."""
    query = f'resource.type="cloud_run_revision" AND resource.labels.service_name:"dropcap-" AND {query}'
    ends = time.monotonic() + patience_s
    while True:
        for entry in gcloud.read("logging read", query, "--freshness=1h", "--limit=1") or ():
            found: Mapping[str, Any] = entry["jsonPayload"]
            return found
        if time.monotonic() > ends:
            return None
        time.sleep(max(0.0, min(POLL_S, ends - time.monotonic())))


def line(entry: Mapping[str, Any]) -> str:
    """Return a log entry as one line: time, severity, function, message and its fields."""
    when = str(entry.get("timestamp", ""))[:19].replace("T", " ")
    service = entry.get("resource", {}).get("labels", {}).get("service_name", "").removeprefix("dropcap-")
    payload = dict(entry.get("jsonPayload") or {})
    message = payload.pop("message", "") or entry.get("textPayload", "")
    request = entry.get("httpRequest", {})
    if not message and request:
        message = f"{request.get('requestMethod')} {request.get('status')} {request.get('latency', '')}"
    facts = " ".join(
        f"{name}={value}" for name, value in payload.items() if isinstance(value, str | int | float)
    )
    return f"{when} {entry.get('severity', 'DEFAULT'):8} {service:18} {message} {facts}".rstrip()


def addresses(console: Console, config: Config, cloud: Cloud) -> None:
    """Print the addresses for people, and open them if there is a browser."""
    where = f"project={quote(config.project)}"
    private = not gallery.is_open(cloud)
    for line in gallery.instructions(config, cloud) if private else ():
        console.print(line, markup=False, soft_wrap=True)
    boards = cloud.gcloud.read("monitoring", "dashboards", "list") or ()
    pages = [] if private else [gallery.address(cloud)]
    pages += [
        f"{CONSOLE}/monitoring/dashboards/builder/{each['name'].rpartition('/')[2]}?{where}"
        for each in boards
        if each["name"].endswith("/dropcap")
    ]
    pages += [
        f"{CONSOLE}/run/detail/{config.region}/dropcap-{name}/metrics?{where}"
        for name in functions_of(config)
    ]
    pages += [f"{CONSOLE}/storage/browser/{name}?{where}" for name in config.buckets.values()]
    browser = sys.stdout.isatty() and (sys.platform == "darwin" or os.environ.get("DISPLAY"))
    for page in pages:
        console.print(page, markup=False, soft_wrap=True)
        if browser:
            webbrowser.open(page)
