"""All that exists in the cloud, top to bottom in the order in which it is made, each with its reason."""

from collections.abc import Sequence

from infra.cloud import monitoring
from infra.cloud.config import FUNCTION_TIMEOUT_S, QUEUE, Config, budget_name
from infra.cloud.inventory import Cloud, trigger_location
from infra.cloud.resources import sql
from infra.cloud.resources.access import ACCOUNTS, Account
from infra.cloud.resources.base import Resource
from infra.cloud.resources.buckets import ABORT, Bucket, Images, Sources, delete_after, sources_bucket
from infra.cloud.resources.events import Queue, Schedule, Subscription, Trigger
from infra.cloud.resources.functions import Function
from infra.cloud.resources.rights import (
    FUNCTIONS,
    SMALL,
    WHY_ACCOUNT,
    audience,
    doors,
    functions_of,
    grants,
    proxies,
    secrets_of,
)
from infra.cloud.resources.secrets import Secret
from infra.cloud.resources.watched import Alert, Apis, Budget, Channel, Dashboard, Metric, channel
from infra.cloud.source import Source

BUILT = "on-upload"  # the first of the functions, whose image all of them are
EXPORT_S = 3600  # the longest that Cloud Run has: cloud.google.com/run/docs/configuring/request-timeout
GALLERY_AT_ONCE = 8
IMAGES_KEPT = 5
SOURCES_KEPT_DAYS = 30
SWEEP = "*/10 * * * *"


def resources(config: Config, cloud: Cloud, source: Source) -> list[Resource]:
    """The declaration."""
    secrets, functions = secrets_of(config, cloud), functions_of(config)
    accounts = [name for name in ACCOUNTS if name in functions or name not in FUNCTIONS]
    return [
        _apis(config),
        *_metrics(config),  # an alert may have to wait ten minutes for them: these pass meanwhile
        *(Account(name=config.account(name), why=WHY_ACCOUNT[name]) for name in accounts),
        *_buckets(config),
        *secrets.values(),
        *_sql(config, tuple(functions)),
        Images(
            name="cloud-run-source-deploy",
            why="a build a deployment, and each is an image that costs storage",
            region=config.region,
            keep=IMAGES_KEPT,
        ),
        *(grant for grant in grants(config, cloud) if not grant.target.startswith("function ")),
        *(_function(config, cloud, name, source, secrets) for name in functions),
        Sources(
            name=sources_bucket(config.project, config.region),
            why="what was built, which nothing needs again",
            functions=tuple(f"dropcap-{name}" for name in FUNCTIONS),
            days=SOURCES_KEPT_DAYS,
        ),
        *proxies(config),
        *(grant for grant in grants(config, cloud) if grant.target.startswith("function ")),
        *doors(config),
        *_calls(config, cloud),
        *_watched(config, cloud),
    ]


def _apis(config: Config) -> Apis:
    apis = ["artifactregistry", "cloudbuild", "cloudresourcemanager", "cloudscheduler", "cloudtasks"]
    apis += ["eventarc", "iam", "logging", "monitoring", "pubsub", "run", "secretmanager", "storage"]
    apis += ["iap"] if proxies(config) else []
    apis += ["sql-component", "sqladmin"] if config.cloud_sql else []
    apis += ["cloudbilling", "billingbudgets"] if config.budget else []
    return Apis(name="", why="what Dropcap runs on", apis=tuple(apis))


def _buckets(config: Config) -> list[Bucket]:
    # Never by age from uploads: with SOURCE=keep what lies there is what somebody wants to keep.
    rules = {"quarantine": (ABORT, delete_after(int(config.quarantine_days)))}
    why = {
        "uploads": "pictures are dropped here",
        "pictures": "resized pictures are published here",
        "quarantine": "uploads that can't be used, with the reason; what nobody looked at for so long goes",
        "archive": "sources that are done",
    }
    return [
        Bucket(
            name=name,
            why=why[kind],
            region=config.region,
            soft_delete_days=int(config.soft_delete_days),
            rules=rules.get(kind, (ABORT,)),
        )
        for kind, name in config.buckets.items()
    ]


def _instances(config: Config, name: str) -> int:
    """Return the maximum number of instances of a function."""
    return 1 if name == "sweep" else int(config.max_instances)


def _connections(config: Config, name: str) -> int:
    """Return the most database connections of all instances of a function: one a concurrent request."""
    at_once = GALLERY_AT_ONCE if name == "gallery" else 1
    return _instances(config, name) * min(at_once, config.settings.database_connections)


def _sql(config: Config, functions: Sequence[str]) -> list[Resource]:
    project, _, instance = config.instance
    if not instance:
        return []
    users = tuple(config.database_user(name) for name in functions)
    made: list[Resource] = []
    if config.cloud_sql == "new":
        # Twice what the functions may open, as two revisions run while one takes over, and a few.
        most = sum(_connections(config, name) for name in functions)
        made.append(
            sql.Instance(
                name=instance,
                why="PostgreSQL, the smallest there is",
                region=config.region,
                tier=config.cloud_sql_tier,
                connections=2 * most + 10,
            )
        )
    where = {"project": project, "instance": instance}
    made.append(sql.Database(name=sql.DATABASE, why="tables of Dropcap, and of nobody else", **where))
    made += [sql.User(name=user, why="signs in by IAM, without a password", **where) for user in users]
    return [
        *made,
        sql.Grants(
            name=sql.ROLE,
            why="one role owns the tables, whichever function made them",
            users=users,
            bucket=config.buckets["quarantine"],
            **where,
        ),
    ]


def _function(
    config: Config, cloud: Cloud, name: str, source: Source, secrets: dict[str, Secret]
) -> Function:
    """1 vCPU, as the default of a third would make BLIP three times slower. One request at a time, as two
    pictures need twice the memory; a peer's default of 80 ran out of it (firebase/extensions #3203). Few
    instances, as each holds database connections and costs money. The second generation, as the
    first is reported to need more memory for the same program; it begins at 512 MiB, so the small functions
    run in the first. A boost of the CPU while an instance starts, for which somebody waits.

    The gallery opens no picture: it waits for the database and hands bytes on, and a page asks for dozens of
    images, so it answers several requests at once, with as many threads (functions-framework has four a
    vCPU). An export is one answer, which lasts for as long as there are pictures to send.
    """
    # An instance that stayed when Dropcap moved is in another region.
    connection = (cloud.instance or {}).get("connectionName") or ":".join(filter(None, config.instance))
    # Eventarc, Cloud Scheduler and Cloud Tasks of the project call from inside.
    inside, small, page = name in ("on-upload", "sweep"), name in SMALL, name == "gallery"
    entry, why = FUNCTIONS[name]
    variables = dict(config.variables)
    if config.settings.auth == "iap":
        variables["AUTH_AUDIENCE"] = audience(config, cloud)
    if connection:
        variables["DATABASE_URL"] = sql.url(config.database_user(name), connection)
    if small:
        variables.pop("SAFETY", None)  # nothing there asks for a verdict, nor has the key for it
        variables.pop("EVENTS", None)  # its secret is not for them
    if page:
        variables["THREADS"] = str(GALLERY_AT_ONCE)
    if name != BUILT:
        variables["FUNCTION_TARGET"] = entry
    return Function(
        name=f"dropcap-{name}",
        why=why,
        entry=entry,
        image_of="" if name == BUILT else f"dropcap-{BUILT}",
        source=source,
        region=config.region,
        account=config.account(name),
        builder=f"projects/{config.project}/serviceAccounts/{config.account('build')}",
        memory_mb=256 if small else config.settings.memory_limit_mb,
        environment="gen1" if small else "gen2",
        at_once=GALLERY_AT_ONCE if page else 1,
        timeout_s=EXPORT_S if page else 30 if small else FUNCTION_TIMEOUT_S,
        instances=_instances(config, name),
        ingress="internal" if inside else "all",
        variables=dict(sorted(variables.items())),
        secrets=tuple(each for each in secrets.values() if not small or each.variable == "DATABASE_URL"),
        sql=connection,
        sql_is=("new" if config.cloud_sql == "new" else "named") if connection else "",
    )


def _calls(config: Config, cloud: Cloud) -> Sequence[Resource]:
    region, trigger, location = config.region, config.account("trigger"), trigger_location(config, cloud)
    return [
        Trigger(
            name="dropcap-on-upload",
            why="each upload calls the function",
            location=location,
            region=region,
            bucket=config.buckets["uploads"],
            service="dropcap-on-upload",
            account=trigger,
        ),
        Subscription(
            name="dropcap-on-upload",
            location=location,
            why="waits longer than a picture may take, or it would come again while in work",
        ),
        Schedule(
            name="dropcap-sweep",
            why="what no event has finished is finished",
            region=region,
            service="dropcap-sweep",
            account=config.account("scheduler"),
            cron=SWEEP,
            deadline_s=FUNCTION_TIMEOUT_S,
        ),
        Queue(
            name=QUEUE,
            why="paces make backfill, and leaves an instance to those who upload now",
            region=region,
            per_second=config.backfill_per_second,
            at_once=max(1, int(config.max_instances) - 1),
        ),
    ]


def _metrics(config: Config) -> list[Metric]:
    return [
        Metric(name=name, why=each.get("description", ""), wanted_json=each)
        for name, each in monitoring.metrics(monitoring.Values(config.project, config.region)).items()
    ]


def _watched(config: Config, cloud: Cloud) -> list[Resource]:
    values = monitoring.Values(config.project, config.region)
    address, alerts = config.alert_email, monitoring.alerts(values) if config.alerts == "1" else {}
    made: list[Resource] = []
    if address and (alerts or config.budget or channel(cloud, address)):  # it remembers the address
        made.append(Channel(name=address, why="alerts are sent there"))
    for name, each in alerts.items():
        policy = {key: value for key, value in each.items() if key != "notificationChannels"}
        made.append(Alert(name=name, why=each["displayName"], wanted_json=policy, address=address))
    made.append(
        Dashboard(name="dropcap", why="all of it at a glance", wanted_json=monitoring.dashboard(values))
    )
    if config.budget:
        why = "says so when half, nine tenths, all of it is spent; it stops nothing"
        made.append(Budget(name=budget_name(config.project), why=why, amount=config.budget, address=address))
    return made
