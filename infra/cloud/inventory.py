"""Read the existing resources: a few dozen commands in parallel, once for each plan."""

import re
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from infra.cloud import CloudError
from infra.cloud.config import Config
from infra.cloud.gcloud.command import Gcloud
from infra.cloud.gcloud.version import Tools

PARALLEL = 8
Binding = tuple[str, str]  # role, member


@dataclass
class Cloud:
    """The existing resources by name, as gcloud prints them; empty if an API is off or nothing exists."""

    gcloud: Gcloud
    tools: Tools = field(default_factory=Tools)
    number: str = ""
    created: str = ""  # when the project was created, ISO 8601
    apis: frozenset[str] = frozenset()
    buckets: dict[str, Any] = field(default_factory=dict)
    # By target: "project p", "bucket b", ...
    policies: dict[str, list[Binding]] = field(default_factory=dict)
    accounts: dict[str, Any] = field(default_factory=dict)
    secrets: dict[str, list[Any]] = field(default_factory=dict)  # versions, the newest first
    values: dict[str, str] = field(default_factory=dict, repr=False)  # of the newest version
    services: dict[str, Any] = field(default_factory=dict)
    revisions: list[Any] = field(default_factory=list)
    repositories: dict[str, Any] = field(default_factory=dict)
    triggers: dict[str, Any] = field(default_factory=dict)
    subscriptions: dict[str, Any] = field(default_factory=dict)
    jobs: dict[str, Any] = field(default_factory=dict)
    queues: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    alerts: dict[str, Any] = field(default_factory=dict)  # by userLabels.dropcap
    dashboards: dict[str, Any] = field(default_factory=dict)
    channels: list[Any] = field(default_factory=list)
    budgets: list[Any] = field(default_factory=list)
    no_topic: bool = False  # whether the topic in EVENTS is missing
    instance: Any = None
    databases: dict[str, Any] = field(default_factory=dict)
    users: dict[str, Any] = field(default_factory=dict)

    def url(self, service: str) -> str:
        """Return the URL of a service; empty if it does not exist."""
        return str(self.services.get(service, {}).get("status", {}).get("url", ""))


def read_project(gcloud: Gcloud) -> Cloud:
    """Read the project and its enabled APIs. Raises CloudError."""
    cloud = Cloud(gcloud)
    with ThreadPoolExecutor(PARALLEL) as pool:
        version, project, apis = pool.map(
            lambda words: gcloud.read(*words),
            (("version",), ("projects", "describe", gcloud.project), ("services", "list", "--enabled")),
        )
    cloud.tools = Tools.read(version)
    cloud.number, cloud.created = str(project["projectNumber"]), str(project.get("createTime", ""))
    cloud.apis = frozenset(api["config"]["name"] for api in apis or ())
    return cloud


def read_resources(config: Config, cloud: Cloud) -> None:
    """Read all resources of a deployment except the services. Raises CloudError."""
    cloud.tools.check(config)
    with ThreadPoolExecutor(PARALLEL) as pool:
        _run_all(pool, [task for api, task in _first(config, cloud) if api in cloud.apis])
        _run_all(pool, [task for api, task in _second(config, cloud) if api in cloud.apis])


Task = tuple[str, Callable[[], None]]


def _run_all(pool: ThreadPoolExecutor, tasks: Iterable[Callable[[], None]]) -> None:
    for done in [pool.submit(task) for task in tasks]:
        done.result()


def _api(name: str) -> str:
    return f"{name}.googleapis.com"


def _first(config: Config, cloud: Cloud) -> Iterable[Task]:
    """Yield the reads that depend on no other."""
    read, region = cloud.gcloud.read, config.region

    def named(into: dict[str, Any], name: Callable[[Any], str], *words: str) -> Callable[[], None]:
        return lambda: into.update({name(each): each for each in read(*words) or ()})

    def revisions() -> None:
        cloud.revisions += read("run revisions list", f"--region={region}") or ()

    def policy() -> None:
        answer = read("projects get-iam-policy", config.project)
        cloud.policies[f"project {config.project}"] = bindings(answer)

    def secrets() -> None:
        cloud.secrets.update({_last(each): [] for each in read("secrets list") or ()})

    where = f"--location={region}"
    yield _api("storage"), named(cloud.buckets, _plain, "storage buckets list", "--raw")
    yield _api("cloudresourcemanager"), policy
    yield _api("iam"), named(cloud.accounts, lambda each: each["email"], "iam service-accounts list")
    yield _api("secretmanager"), secrets
    if cloud.services:
        yield _api("run"), revisions
    yield _api("artifactregistry"), named(cloud.repositories, _last, "artifacts repositories list", where)
    yield _api("pubsub"), named(cloud.subscriptions, _plain, "pubsub subscriptions list")
    yield _api("cloudscheduler"), named(cloud.jobs, _last, "scheduler jobs list", where)
    yield _api("cloudtasks"), named(cloud.queues, _last, "tasks queues list", where)
    yield _api("logging"), named(cloud.metrics, _plain, "logging metrics list")
    yield _api("monitoring"), named(cloud.alerts, _short, f"{cloud.tools.policies} list")
    yield _api("monitoring"), named(cloud.dashboards, _last, "monitoring dashboards list")
    yield _api("billingbudgets"), lambda: _budgets(config, cloud)
    project, _, name = config.instance
    if name:
        yield _api("sqladmin"), lambda: _instance(cloud, project, name)


def _second(config: Config, cloud: Cloud) -> Iterable[Task]:
    """Yield the reads that need the names from the first ones."""
    read = cloud.gcloud.read

    def policy(target: str, *words: str) -> Callable[[], None]:
        return lambda: cloud.policies.update({target: bindings(read(*words))})

    for name in {*config.buckets.values()} & {*cloud.buckets}:
        asked = policy(f"bucket {name}", "storage buckets get-iam-policy", f"gs://{name}")
        yield _api("storage"), asked
    for name in [name for name in cloud.secrets if name.startswith("dropcap-")]:
        yield _api("secretmanager"), policy(f"secret {name}", "secrets get-iam-policy", name)
        yield _api("secretmanager"), partial(_versions, cloud, name)
    for name in cloud.services:
        where = (name, f"--region={config.region}")
        yield _api("run"), policy(f"function {name}", "run services get-iam-policy", *where)
    notifies = any(each.get("notificationChannels") for each in cloud.alerts.values())
    if config.alert_email or ((notifies or "dropcap" in cloud.dashboards) and cloud.tools.has("beta")):
        channels = "beta monitoring channels list"
        yield _api("monitoring"), lambda: cloud.channels.extend(read(channels) or ())

    def triggers() -> None:
        found = read("eventarc triggers list", f"--location={trigger_location(config, cloud)}")
        cloud.triggers.update({_last(each): each for each in found or ()})

    yield _api("eventarc"), triggers
    if (topic := config.settings.events).startswith("projects/"):
        yield _api("pubsub"), lambda: _topic(cloud, topic)
    project = config.instance[0]
    if project and project != config.project:
        asked = policy(f"project {project}", "projects get-iam-policy", project)
        yield _api("cloudresourcemanager"), asked


def _topic(cloud: Cloud, topic: str) -> None:
    try:
        policy = cloud.gcloud.read("pubsub topics get-iam-policy", topic)
    except CloudError as refused:
        if "not found" in str(refused).lower():
            cloud.no_topic = True
            return
        raise
    cloud.policies[f"topic {topic}"] = bindings(policy)


def trigger_location(config: Config, cloud: Cloud) -> str:
    """Return the location of the trigger: that of its bucket, which may be older than this deployment."""
    return str(cloud.buckets.get(config.buckets["uploads"], {}).get("location", config.region)).lower()


def bindings(policy: Mapping[str, Any] | None) -> list[Binding]:
    """Return role and member of each binding that has no condition."""
    unconditional = [each for each in (policy or {}).get("bindings", ()) if "condition" not in each]
    return [(each["role"], member) for each in unconditional for member in each["members"]]


def _versions(cloud: Cloud, name: str) -> None:
    """Read the versions, destroyed ones included, as their numbers are taken, and the newest value."""
    found = cloud.gcloud.read("secrets versions list", name) or []
    versions = cloud.secrets[name] = sorted(found, key=lambda each: int(_last(each)), reverse=True)
    if versions and versions[0].get("state", "ENABLED").upper() == "ENABLED":
        words = (_last(versions[0]), f"--secret={name}")
        cloud.values[name] = cloud.gcloud.text("secrets versions access", *words)


def _budgets(config: Config, cloud: Cloud) -> None:
    """Read the budgets of the billing account; without permission, only if BUDGET is not given."""
    try:
        account = cloud.gcloud.text(*billing_account(config.project)).strip()
        found = cloud.gcloud.read("billing budgets list", f"--billing-account={account}")
    except CloudError:
        if config.environment.get("BUDGET"):
            raise
    else:
        cloud.budgets += found or ()


def billing_account(project: str) -> tuple[str, ...]:
    """Return the command that prints the billing account of a project."""
    return ("billing projects describe", project, "--format=value(billingAccountName.basename())")


def _instance(cloud: Cloud, project: str, name: str) -> None:
    read, where = cloud.gcloud.read, f"--project={project}"
    found = [each for each in read("sql instances list", where) or () if each["name"] == name]
    if not found:
        return
    cloud.instance = found[0]
    for kind, into in (("databases", cloud.databases), ("users", cloud.users)):
        resources = read(f"sql {kind} list", f"--instance={name}", where) or ()
        into.update({each["name"]: each for each in resources})


def _short(each: Any) -> str:
    """Return the name of a Dropcap alert; empty for others."""
    return str(each.get("userLabels", {}).get("dropcap", ""))


def _plain(each: Any) -> str:
    return str(each["name"])


def _last(each: Any) -> str:
    """Return the last part of a resource's name: projects/p/secrets/NAME."""
    return re.sub(r".*/", "", str(each["name"]))
