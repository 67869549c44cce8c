"""Declare every role that a deployment grants: to which account, on which resource, and why."""

from infra.cloud.config import NO_SECRET, SECRETS, Config
from infra.cloud.gcloud.command import Gcloud
from infra.cloud.inventory import Cloud
from infra.cloud.resources.access import PROXIED, UNCHECKED, AccessSwitch, Grant, short
from infra.cloud.resources.secrets import Secret

FUNCTIONS = {  # name: entry point in functions/main.py, and what it is for
    "on-upload": ("on_upload", "analyzes uploads to the bucket"),
    "analyze": ("analyze", "analyzes posted pictures"),
    "sweep": ("sweep", "finishes uploads that no event has finished"),
    "get-progress-stats": ("get_progress_stats", "returns a user's progress"),
    "gallery": ("gallery", "the web page for uploading and finding pictures"),
}
WHY_ACCOUNT = {name: why for name, (_, why) in FUNCTIONS.items()} | {
    "trigger": "Eventarc and Cloud Tasks call on-upload with it",
    "scheduler": "Cloud Scheduler and Cloud Tasks call sweep with it",
    "build": "Cloud Build runs builds with it",
}
WHY_BUCKET = {
    "uploads": "reads the source, and deletes this generation when all outputs are stored",
    "pictures": "writes the resized pictures, and overwrites them when an event is redelivered",
    "quarantine": "stores copies of rejected uploads, with the reason",
    "archive": "stores sources with SOURCE=archive",
}
WHY_SECRET = {
    "DATABASE_URL": "URL of PostgreSQL, with the password",
    "GEMINI_API_KEY": "key of the Gemini API",
    "EVENTS_SECRET": "signs the events that are sent to a webhook",
}
# The gallery's roles. legacyBucketWriter creates, lists and deletes objects, and cannot read them: it is the
# smallest predefined role that deletes. objectUser is the smallest that also reads:
# cloud.google.com/storage/docs/access-control/iam-roles.
DELETES = ("legacyBucketWriter", "deletes the copies of pictures that users delete; can't read objects")
GALLERY_BUCKET = {
    "uploads": (
        "legacyBucketWriter",
        "starts uploads, deletes pictures that users delete; can't read objects",
    ),
    "pictures": ("objectUser", "shows the resized pictures, and deletes those that users delete"),
    "quarantine": DELETES,
    "archive": DELETES,
}
GALLERY = "dropcap-gallery"
# Functions that need only the database's secret, and little memory, as they decode no pictures.
SMALL = ("get-progress-stats", "gallery")
# Only projects created earlier need one more role:
# cloud.google.com/eventarc/docs/run/create-trigger-storage-gcloud#before-you-begin
OLD_PROJECT = "2021-04-09"


def functions_of(config: Config) -> dict[str, tuple[str, str]]:
    """Return the functions of this deployment: the gallery only with GALLERY=1, and all others."""
    return {name: each for name, each in FUNCTIONS.items() if config.gallery == "1" or name != "gallery"}


def grants(config: Config, cloud: Cloud) -> list[Grant]:
    """Return every role that this deployment grants: the least privileges that work."""

    made: list[Grant] = []

    def give(role: str, to: str, target: str, why: str, who: str = "", created_by: str = "") -> None:
        """Add a grant; `to` is a short name of a Dropcap account, or the address of a service agent."""
        member = f"serviceAccount:{to if '@' in to else config.account(to)}"
        more = {"why": why, "region": config.region, "who": who, "created_by": created_by}
        made.append(Grant(name=f"roles/{role}", member=member, target=target, **more))

    functions, project = functions_of(config), f"project {config.project}"
    analyzing = [name for name in functions if name not in SMALL]
    # cloud.google.com/iam/docs/service-agents
    agents = f"service-{cloud.number}@{{}}.iam.gserviceaccount.com".format
    give(
        "run.builder", "build", project, "runs builds: in new projects the default account has no permission"
    )
    give("eventarc.eventReceiver", "trigger", project, "receives the events of the bucket")
    why, who = (
        "publishes the events of uploads; Google does not grant it by itself",
        "Cloud Storage's service agent",
    )
    give("pubsub.publisher", agents("gs-project-accounts"), project, why, who, "storage service-agent")
    if cloud.created and cloud.created < OLD_PROJECT:
        why, who = "signs its calls; newer projects do not need it", "Pub/Sub's service agent"
        give("iam.serviceAccountTokenCreator", agents("gcp-sa-pubsub"), project, why, who)
    for name in analyzing:
        for kind, bucket in config.buckets.items():
            give("storage.objectUser", name, f"bucket {bucket}", WHY_BUCKET[kind])
    for kind, bucket in config.buckets.items() if "gallery" in functions else ():
        role, why = GALLERY_BUCKET[kind]
        give(f"storage.{role}", "gallery", f"bucket {bucket}", why)
    for variable, secret in secrets_of(config, cloud).items():
        for name in functions if variable == "DATABASE_URL" else analyzing:
            give("secretmanager.secretAccessor", name, f"secret {secret.name}", f"reads {variable}")
    if (topic := config.settings.events).startswith("projects/"):
        for name in analyzing:
            give("pubsub.publisher", name, f"topic {topic}", "publishes the outcome of each upload")
    for name in functions if config.cloud_sql else ():
        where = f"project {config.instance[0]}"
        give("cloudsql.client", name, where, "opens the socket of Cloud SQL")
        give("cloudsql.instanceUser", name, where, "signs in to Cloud SQL by IAM")
    why = "calls it for each upload, and for the tasks of make backfill"
    give("run.invoker", "trigger", "function dropcap-on-upload", why)
    why = "calls it every ten minutes, and for the tasks of make redescribe"
    give("run.invoker", "scheduler", "function dropcap-sweep", why)
    if proxied_functions(config):
        why, who = (
            "AUTH=iap: forwards the requests of people whom it lets in",
            "Identity-Aware Proxy's service agent",
        )
        give("run.invoker", agents("gcp-sa-iap"), f"function {GALLERY}", why, who)
    return made


def audience(config: Config, cloud: Cloud) -> str:
    """Return the audience that Identity-Aware Proxy's assertions for the gallery must have.

    docs.cloud.google.com/iap/docs/signed-headers-howto (2026-11)
    """
    return f"/projects/{cloud.number}/locations/{config.region}/services/{GALLERY}"


def proxied_functions(config: Config) -> list[AccessSwitch]:
    """Return the functions behind Identity-Aware Proxy: only the gallery, as the others serve programs."""
    if config.settings.auth != "iap" or "gallery" not in functions_of(config):
        return []
    why = "AUTH=iap: it signs people in, and identifies them in a signed assertion"
    return [AccessSwitch(name=GALLERY, why=why, check=PROXIED, region=config.region)]


def unchecked_functions(config: Config) -> list[AccessSwitch]:
    """Return the functions whose callers Google does not check, as they verify ID tokens themselves."""
    if config.settings.auth != "token":
        return []
    why = "AUTH=token: it verifies the caller's ID token"
    named = [f"dropcap-{name}" for name in functions_of(config) if name in ("analyze", *SMALL)]
    return [AccessSwitch(name=name, why=why, check=UNCHECKED, region=config.region) for name in named]


def secret(variable: str, config: Config) -> Secret:
    """Return the secret that stores this variable's value."""
    name, value = f"dropcap-{variable.lower().replace('_', '-')}", config.value_of(variable)
    return Secret(name=name, why=WHY_SECRET[variable], region=config.region, variable=variable, value=value)


def secrets_of(config: Config, cloud: Cloud) -> dict[str, Secret]:
    """Return the secrets in use, by variable; an existing secret whose value is not given stays."""
    unwanted = {
        "DATABASE_URL": bool(config.cloud_sql),  # by IAM, without a password
        "EVENTS_SECRET": not config.settings.events.startswith("https:"),
    }
    secrets = {name: secret(name, config) for name in SECRETS if not unwanted.get(name)}
    return {
        name: each
        for name, each in secrets.items()
        if each.value
        or (cloud.values.get(each.name) and (name not in config.reset or name == "DATABASE_URL"))
    }


EXAMPLE = {
    "PROJECT": "my-project",
    "CLOUD_SQL": "new",
    "SOURCE": "archive",
    "GEMINI_API_KEY": "example",
    "AUTH": "token",
    "AUTH_AUDIENCE": "my-project",
    "GALLERY": "1",
    "EVENTS": "https://example.com",
    "EVENTS_SECRET": NO_SECRET,
}
OTHERWISE = {
    "CLOUD_SQL": "",
    "DATABASE_URL": "postgresql://dropcap@example.com",
    "EVENTS": "projects/my-project/topics/done",
    "AUTH": "iap",
}


def table() -> str:
    """Return the roles as a Markdown table, for a deployment with every option."""
    rows = ["| role | on what | who | why |", "|---|---|---|---|"]
    members: dict[tuple[str, str, str], list[str]] = {}
    for environment in (EXAMPLE, EXAMPLE | OTHERWISE):
        config = Config.read(environment)
        cloud = Cloud(Gcloud(config.project, {}), number="NUMBER", created="2020-01-01")
        for each in grants(config, cloud):
            where = each.target.replace("my-project-", "").replace("project my-project", "the project")
            known = members.setdefault((each.name, where, each.why), [])
            if (who := each.who or f"`{short(each.member)}`") not in known:
                known.append(who)
    rows += [
        f"| `{role}` | {where} | {', '.join(who)} | {why} |" for (role, where, why), who in members.items()
    ]
    return "\n".join(rows)
