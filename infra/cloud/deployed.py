"""Read the settings of the last deployment from its resources, so that omitted settings stay as they are.

The services store the settings, not a file: so a fresh clone knows them, and a colleague's deployment too.
"""

import re
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from infra.cloud import CloudError
from infra.cloud.config import (
    DEFAULT,
    DEFAULTS,
    NAMES,
    QUEUE,
    SECRETS,
    SETTINGS,
    Config,
    budget_name,
    fits,
    usual_buckets,
)
from infra.cloud.gcloud.command import Gcloud
from infra.cloud.inventory import Cloud, read_project, read_resources
from infra.cloud.resources.base import at
from infra.cloud.resources.buckets import DAY_S
from infra.cloud.resources.functions import CLOUD_SQL_LABEL, PATHS, variables

LOCATION_SETTINGS = re.compile("REGION|CLOUD_SQL|SOURCE|.*_BUCKET")  # settings that determine where data is
LOCATION = "cloud.googleapis.com/location"  # as gcloud reads it: api_lib/run/k8s_object.py, 528.0.0
WITH_ALL_SETTINGS = (
    "on-upload",
    "analyze",
    "sweep",
)  # these have all settings; the small functions lack some


def begin(environment: Mapping[str, str], gcloud: Gcloud, tolerant: bool = False) -> tuple[Config, Cloud]:
    """Return the deployment that the environment describes, and the existing services.

    Omitted settings stay as the services have them. Raises CloudError.
    """
    cloud, region = read_project(gcloud), ""
    if "run.googleapis.com" in cloud.apis:
        region, cloud.services = services(gcloud, environment.get("REGION", "").strip())
    return read(environment, of_services(gcloud.project, region, cloud.services), tolerant), cloud


def complete(config: Config, cloud: Cloud, tolerant: bool = False) -> Config:
    """Read all resources into `cloud`; return the deployment with their settings. Raises CloudError."""
    read_resources(config, cloud)
    return read(config.environment, {**config.deployed, **of_the_rest(config, cloud)}, tolerant)


def read(environment: Mapping[str, str], deployed: Mapping[str, str], tolerant: bool) -> Config:
    """Return the deployment that the environment and the last deployment describe.

    If `tolerant`, warn of a setting that is not allowed and use its default, unless it determines where
    data is: `make destroy` must also work on settings that an older version allowed. Raises CloudError.
    """
    values = dict(environment)
    while True:
        try:
            return Config.read(values, deployed)
        except CloudError as wrong:
            for name in re.findall(r"[A-Z][A-Z_]+", str(wrong)) if tolerant else ():
                if (
                    name in NAMES | SETTINGS
                    and values.get(name) != DEFAULT
                    and not LOCATION_SETTINGS.fullmatch(name)
                ):
                    break
            else:
                raise
            print(f"Warning: {wrong} The default is used instead.", file=sys.stderr)
            values[name] = DEFAULT


def services(gcloud: Gcloud, wanted: str) -> tuple[str, dict[str, Any]]:
    """Return the region of the deployment, and its services by name; "" and none if there is no deployment.

    `wanted` is the value of REGION. Raises CloudError if Dropcap is deployed in another region, or in several
    and REGION is not set: a second deployment would share buckets, accounts and alerts with the first.
    """
    wanted = str(DEFAULTS["REGION"]) if wanted == DEFAULT else wanted
    try:
        found = gcloud.read("run", "services", "list") or ()
    except CloudError as refused:
        if not wanted or "did not respond" not in str(refused):
            raise
        found = gcloud.read("run", "services", "list", f"--region={wanted}") or ()
    by_region: dict[str, dict[str, Any]] = {}
    for each in found:
        if (name := each["metadata"]["name"]).startswith("dropcap-"):
            by_region.setdefault(each["metadata"]["labels"][LOCATION], {})[name] = each
    if wanted in by_region:
        return wanted, by_region[wanted]
    if len(by_region) > 1:
        where, first = " and ".join(sorted(by_region)), min(by_region)
        raise CloudError(
            f"Dropcap is deployed in {where}: choose one with REGION={first}. To keep one: make destroy "
            f"PROJECT={gcloud.project} REGION=... for the other, then make deploy for the one that stays, "
            "as both use the same accounts and alerts."
        )
    if not by_region:
        return "", {}
    [(region, there)] = by_region.items()
    if wanted:
        raise CloudError(
            f"Dropcap is deployed in {region}, and REGION={wanted} would add a second deployment: omit "
            f"REGION to change the existing one. To move it: make destroy PROJECT={gcloud.project} "
            f"REGION={region} (buckets, database and secrets stay where they are), then make deploy "
            f"PROJECT={gcloud.project} REGION={wanted}."
        )
    return region, there


def of_services(project: str, region: str, there: Mapping[str, Any]) -> dict[str, str]:
    """Return the settings that the services store, by variable, without secrets."""
    service = next(
        (there[f"dropcap-{name}"] for name in WITH_ALL_SETTINGS if f"dropcap-{name}" in there), None
    )
    if service is None:
        return {"REGION": region} if there else {}
    usual, labels = usual_buckets(project), service["metadata"].get("labels", {})
    found = {
        name: value
        for name, value in variables(service).items()
        if name in SETTINGS and name not in SECRETS and value != usual.get(name)
    }
    if found.get("AUTH") == "iap":
        found.pop("AUTH_AUDIENCE", None)  # which follows from AUTH
    found |= {"REGION": region, "GALLERY": str(int("dropcap-gallery" in there))}
    if instance := at(service, *PATHS["Cloud SQL"]):
        found["CLOUD_SQL"] = "new" if labels.get(CLOUD_SQL_LABEL) == "new" else instance
    if service["metadata"]["name"] != "dropcap-sweep":  # which always has one instance
        found["MAX_INSTANCES"] = at(service, *PATHS["at most instances"]) or ""
    return {name: value for name, value in found.items() if value}


def of_the_rest(config: Config, cloud: Cloud) -> dict[str, str]:
    """Return the settings that buckets, queue, database, alerts and budget store, by variable."""
    found = dict(_rest(config, cloud)) if cloud.services else {}
    return {
        name: value for name, value in found.items() if fits(name, value)
    }  # a manual change may not be allowed


def _rest(config: Config, cloud: Cloud) -> Iterator[tuple[str, str]]:
    uploads, quarantine = (cloud.buckets.get(config.buckets[kind], {}) for kind in ("uploads", "quarantine"))
    if "softDeletePolicy" in uploads:
        days = int(uploads["softDeletePolicy"].get("retentionDurationSeconds", 0)) // DAY_S
        yield "SOFT_DELETE_DAYS", str(days)
    for rule in quarantine.get("lifecycle", {}).get("rule", []):
        if rule["action"]["type"] == "Delete" and set(rule["condition"]) == {"age"}:
            yield "QUARANTINE_DAYS", str(rule["condition"]["age"])
    for queue in (each for name, each in cloud.queues.items() if name == QUEUE):
        yield "BACKFILL_PER_SECOND", f"{float(queue['rateLimits']['maxDispatchesPerSecond']):g}"
    if config.cloud_sql == "new" and cloud.instance:
        yield "CLOUD_SQL_TIER", cloud.instance.get("settings", {}).get("tier", "")
    if "dropcap" in cloud.dashboards and not any(cloud.alerts):  # the dashboard is created after the alerts
        yield "ALERTS", "0"
    in_use_channels = {
        name for each in cloud.alerts.values() for name in each.get("notificationChannels", ())
    }
    # Dropcap's address stays while there are no alerts; the last one is used.
    channels = [
        (each["name"] in in_use_channels, "dropcap" in each.get("userLabels", {}), each)
        for each in cloud.channels
    ]
    for in_use, ours, each in sorted(channels, key=lambda found: found[:2]):
        if (in_use or ours) and each.get("type") == "email":
            yield "ALERT_EMAIL", each["labels"]["email_address"]
    for budget in cloud.budgets:
        if budget.get("displayName") == budget_name(config.project):
            yield "BUDGET", budget.get("amount", {}).get("specifiedAmount", {}).get("units", "")
