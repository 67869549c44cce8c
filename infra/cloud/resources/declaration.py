"""Declare every resource of a deployment, in the order in which it is created, each with its reason."""

from collections.abc import Sequence

from infra.cloud import monitoring
from infra.cloud.config import FUNCTION_TIMEOUT_S, QUEUE, Config, budget_name
from infra.cloud.inventory import Cloud, trigger_location
from infra.cloud.resources import sql
from infra.cloud.resources.access import ACCOUNTS, Account
from infra.cloud.resources.base import Resource
from infra.cloud.resources.buckets import ABORT, Bucket, BuildSources, Images, delete_after, sources_bucket
from infra.cloud.resources.events import Queue, Schedule, Subscription, Trigger
from infra.cloud.resources.functions import Function
from infra.cloud.resources.rights import (
    FUNCTIONS,
    SMALL,
    WHY_ACCOUNT,
    audience,
    functions_of,
    grants,
    proxied_functions,
    secrets_of,
    unchecked_functions,
)
from infra.cloud.resources.secrets import Secret
from infra.cloud.resources.watched import Alert, Apis, Budget, Channel, Dashboard, Metric, channel
from infra.cloud.source import Source

BUILT = "on-upload"  # the function that is built; the others run its image
EXPORT_S = 3600  # Cloud Run's maximum: cloud.google.com/run/docs/configuring/request-timeout
# Requests of an instance at once. While one picture uses the CPU, the others wait for Gemini and the buckets,
# and hold their encoded renditions: so many that these fit into HELD_MB. A posted picture is in memory before
# its turn as well.
GALLERY_AT_ONCE = PICTURES_AT_ONCE = 8
HELD_MB, POSTED_MB = 32, 64  # choices: within what the decoder leaves free of 512 MiB (make prove)
BYTES_A_PX = {"webp": 0.5, "jpeg": 0.5, "avif": 0.5, "png": 3.0, "original": 3.0}  # photographs have less
IMAGES_KEPT = 5
SOURCES_KEPT_DAYS = 30
RECONCILE_SCHEDULE = "*/10 * * * *"


def resources(config: Config, cloud: Cloud, source: Source) -> list[Resource]:
    """Return all resources of a deployment, in the order in which they are created."""
    secrets, functions = secrets_of(config, cloud), functions_of(config)
    accounts = [name for name in ACCOUNTS if name in functions or name not in FUNCTIONS]
    return [
        _apis(config),
        *_metrics(config),  # first, as alerts may have to wait ten minutes until they are known
        *(Account(name=config.account(name), why=WHY_ACCOUNT[name]) for name in accounts),
        *_buckets(config),
        *secrets.values(),
        *_sql(config, tuple(functions)),
        Images(
            name="cloud-run-source-deploy",
            why="old images cost storage; a rollback needs some of them",
            region=config.region,
            keep=IMAGES_KEPT,
        ),
        *(grant for grant in grants(config, cloud) if not grant.target.startswith("function ")),
        *(_function(config, cloud, name, source, secrets) for name in functions),
        BuildSources(
            name=sources_bucket(config.project, config.region),
            why="sources of earlier builds, which are not needed again",
            functions=tuple(f"dropcap-{name}" for name in FUNCTIONS),
            days=SOURCES_KEPT_DAYS,
        ),
        *proxied_functions(config),
        *(grant for grant in grants(config, cloud) if grant.target.startswith("function ")),
        *unchecked_functions(config),
        *_calls(config, cloud),
        *_watched(config, cloud),
    ]


def _apis(config: Config) -> Apis:
    apis = ["artifactregistry", "cloudbuild", "cloudresourcemanager", "cloudscheduler", "cloudtasks"]
    apis += ["eventarc", "iam", "logging", "monitoring", "pubsub", "run", "secretmanager", "storage"]
    apis += ["iap"] if proxied_functions(config) else []
    apis += ["sql-component", "sqladmin"] if config.cloud_sql else []
    apis += ["cloudbilling", "billingbudgets"] if config.budget else []
    return Apis(name="", why="Dropcap needs them", apis=tuple(apis))


def _buckets(config: Config) -> list[Bucket]:
    # No deletion by age in uploads: SOURCE=keep keeps the sources there.
    rules = {"quarantine": (ABORT, delete_after(int(config.quarantine_days)))}
    why = {
        "uploads": "users upload pictures here",
        "pictures": "Dropcap publishes resized pictures here",
        "quarantine": "rejected uploads, with the reason, until QUARANTINE_DAYS have passed",
        "archive": "sources of finished uploads",
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
    """Return the maximum database connections of a function: one for each concurrent request."""
    return _instances(config, name) * min(_at_once(config, name), config.settings.database_connections)


def _at_once(config: Config, name: str) -> int:
    """Return how many requests an instance of a function handles at once."""
    if name not in ("on-upload", "analyze"):
        return GALLERY_AT_ONCE if name == "gallery" else 1
    settings = config.settings
    px = sum(side**2 if isinstance(side, int) else side[0] * side[1] for side in settings.sizes)
    held_mb = px * sum(BYTES_A_PX[each] for each in settings.format) / 1e6
    most = min(PICTURES_AT_ONCE, 1 + int(HELD_MB / held_mb))
    return min(most, 1 + POSTED_MB // settings.max_mb) if name == "analyze" else most


def _sql(config: Config, functions: Sequence[str]) -> list[Resource]:
    project, _, instance = config.instance
    if not instance:
        return []
    users = tuple(config.database_user(name) for name in functions)
    made: list[Resource] = []
    if config.cloud_sql == "new":
        # Twice the functions' maximum, as two revisions run during a deployment, and a reserve.
        most = sum(_connections(config, name) for name in functions)
        made.append(
            sql.Instance(
                name=instance,
                why="the smallest PostgreSQL",
                region=config.region,
                tier=config.cloud_sql_tier,
                connections=2 * most + 10,
            )
        )
    where = {"project": project, "instance": instance}
    made.append(sql.Database(name=sql.DATABASE, why="contains only Dropcap's tables", **where))
    made += [sql.User(name=user, why="signs in with IAM, without a password", **where) for user in users]
    return [
        *made,
        sql.Grants(
            name=sql.ROLE,
            why="one role owns all tables, so that every function can use them",
            users=users,
            bucket=config.buckets["quarantine"],
            **where,
        ),
    ]


def _function(
    config: Config, cloud: Cloud, name: str, source: Source, secrets: dict[str, Secret]
) -> Function:
    """Return the declaration of one function.

    - 1 vCPU: with the default of a third, BLIP would be three times slower.
    - One request at a time: two pictures need twice the memory, and a similar extension ran out of it with
      the default of 80 (firebase/extensions #3203).
    - Few instances: each holds database connections and costs money.
    - The second generation: the first is reported to need more memory for the same program. The second starts
      at 512 MiB, so the small functions run in the first.
    - A CPU boost at startup, as users wait for it.

    The gallery decodes no pictures: it waits for the database and forwards bytes, and a page requests dozens
    of images. So it handles several requests at once, with as many threads (functions-framework has four a
    vCPU).
    An export is one response that lasts as long as there are pictures to send.
    """
    # An instance that was kept when Dropcap moved is in another region.
    connection = (cloud.instance or {}).get("connectionName") or ":".join(filter(None, config.instance))
    # Eventarc, Cloud Scheduler and Cloud Tasks of the project count as internal traffic.
    inside, small, page = name in ("on-upload", "sweep"), name in SMALL, name == "gallery"
    entry, why = FUNCTIONS[name]
    variables = dict(config.variables)
    if config.settings.auth == "iap":
        variables["AUTH_AUDIENCE"] = audience(config, cloud)
    if connection:
        variables["DATABASE_URL"] = sql.url(config.database_user(name), connection)
    if small:
        variables.pop("SAFETY", None)  # these functions request no verdict and have no Gemini key
        variables.pop("EVENTS", None)  # these functions do not have its secret
    at_once = _at_once(config, name)
    if at_once > 1:
        variables["THREADS"] = str(at_once)  # of functions-framework; its default is 4 for each vCPU
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
        at_once=at_once,
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
            why="calls the function for each upload",
            region=location,
            bucket=config.buckets["uploads"],
            service="dropcap-on-upload",
            service_region=region,
            account=trigger,
        ),
        Subscription(
            name="dropcap-on-upload",
            location=location,
            why="its deadline is longer than a picture may take, or an event would be redelivered meanwhile",
        ),
        Schedule(
            name="dropcap-sweep",
            why="finishes uploads that no event has finished",
            region=region,
            service="dropcap-sweep",
            account=config.account("scheduler"),
            cron=RECONCILE_SCHEDULE,
            deadline_s=FUNCTION_TIMEOUT_S,
        ),
        Queue(
            name=QUEUE,
            why="limits the rate of make backfill, and leaves an instance free for new uploads",
            region=region,
            per_second=config.backfill_per_second,
            at_once=max(1, int(config.max_instances) - 1) * _at_once(config, BUILT),
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
    if address and (
        alerts or config.budget or channel(cloud, address)
    ):  # an existing channel stores the address
        made.append(Channel(name=address, why="receives alerts"))
    for name, each in alerts.items():
        made.append(Alert(name=name, why=each["displayName"], wanted_json=each, address=address))
    made.append(Dashboard(name="dropcap", why="shows all metrics", wanted_json=monitoring.dashboard(values)))
    if config.budget:
        why = "sends a mail at 50 %, 90 % and 100 %; it does not stop anything"
        made.append(Budget(name=budget_name(config.project), why=why, amount=config.budget, address=address))
    return made
