"""Every right that a deployment gives, to whom, on what and why: the least that works."""

from infra.cloud.config import NO_SECRET, SECRETS, Config
from infra.cloud.gcloud.command import Gcloud
from infra.cloud.inventory import Cloud
from infra.cloud.resources.access import PROXIED, UNCHECKED, Entrance, Grant, short
from infra.cloud.resources.secrets import Secret

FUNCTIONS = {  # name: entry point in functions/main.py, and what it is for
    "on-upload": ("on_upload", "analyzes what is dropped into the bucket"),
    "analyze": ("analyze", "analyzes what is posted"),
    "sweep": ("sweep", "finishes what no event has finished"),
    "get-progress-stats": ("get_progress_stats", "tells how a user is doing"),
    "gallery": ("gallery", "the page to drop pictures on and to find them again"),
}
WHY_ACCOUNT = {name: why for name, (_, why) in FUNCTIONS.items()} | {
    "trigger": "Eventarc and Cloud Tasks call on-upload as it",
    "scheduler": "Cloud Scheduler calls sweep as it",
    "build": "Cloud Build builds as it",
}
WHY_BUCKET = {
    "uploads": "reads the source, and deletes this generation of it when all is stored",
    "pictures": "writes the resized pictures, and writes them anew where a delivery comes again",
    "quarantine": "keeps a copy of what can't be used, with the reason",
    "archive": "keeps the source where SOURCE=archive",
}
WHY_SECRET = {
    "DATABASE_URL": "address and password of PostgreSQL",
    "GEMINI_API_KEY": "key of the Gemini API",
    "EVENTS_SECRET": "what the events of a webhook are signed with",
}
# The gallery's, with their roles. legacyBucketWriter creates, lists and deletes objects, and can't read one:
# no predefined role that deletes does less. objectUser is the least that also reads them:
# cloud.google.com/storage/docs/access-control/iam-roles.
DELETES = ("legacyBucketWriter", "deletes the copy of what its user deletes, and can't read it")
GALLERY_BUCKET = {
    "uploads": ("legacyBucketWriter", "begins uploads, deletes what its user deletes, and can't read it"),
    "pictures": ("objectUser", "shows the resized pictures, and deletes what its user deletes"),
    "quarantine": DELETES,
    "archive": DELETES,
}
GALLERY = "dropcap-gallery"
# What needs no secret but the database's, and little memory: no picture is opened there.
SMALL = ("get-progress-stats", "gallery")
# For projects from before: cloud.google.com/eventarc/docs/run/create-trigger-storage-gcloud#before-you-begin
OLD_PROJECT = "2021-04-09"


def functions_of(config: Config) -> dict[str, tuple[str, str]]:
    """Return the functions of this deployment: all but the gallery, which is one where GALLERY=1."""
    return {name: each for name, each in FUNCTIONS.items() if config.gallery == "1" or name != "gallery"}


def grants(config: Config, cloud: Cloud) -> list[Grant]:
    """Every right that this deployment gives, and to whom: the least that works."""

    made: list[Grant] = []

    def give(role: str, to: str, target: str, why: str, who: str = "", born: str = "") -> None:
        """Add a right; `to` is a short name of ours, or the address of an account of Google's."""
        member = f"serviceAccount:{to if '@' in to else config.account(to)}"
        more = {"why": why, "region": config.region, "who": who, "born": born}
        made.append(Grant(name=f"roles/{role}", member=member, target=target, **more))

    functions, project = functions_of(config), f"project {config.project}"
    analyzing = [name for name in functions if name not in SMALL]
    agents = f"service-{cloud.number}@gcp-sa-{{}}.iam.gserviceaccount.com".format
    give("run.builder", "build", project, "builds: in new projects the default account may not")
    give("eventarc.eventReceiver", "trigger", project, "receives the events of the bucket")
    why, who = "tells of uploads, by Pub/Sub; nobody else gives it this right", "Cloud Storage's own account"
    give("pubsub.publisher", cloud.storage_agent, project, why, who, "storage service-agent")
    if cloud.created and cloud.created < OLD_PROJECT:
        why, who = "signs its calls; newer projects need no such right", "Pub/Sub's own account"
        give("iam.serviceAccountTokenCreator", agents("pubsub"), project, why, who)
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
            give("pubsub.publisher", name, f"topic {topic}", "tells what became of each upload")
    for name in functions if config.cloud_sql else ():
        where = f"project {config.instance[0]}"
        give("cloudsql.client", name, where, "opens the socket of Cloud SQL")
        give("cloudsql.instanceUser", name, where, "signs in to Cloud SQL by IAM")
    why = "calls it with each upload, and make backfill's queue does"
    give("run.invoker", "trigger", "function dropcap-on-upload", why)
    why = "calls it every ten minutes, and make redescribe's tasks do"
    give("run.invoker", "scheduler", "function dropcap-sweep", why)
    if proxies(config):
        why, who = (
            "AUTH=iap: passes on whom it has signed in and let in",
            "Identity-Aware Proxy's own account",
        )
        give("run.invoker", agents("iap"), f"function {GALLERY}", why, who)
    return made


def audience(config: Config, cloud: Cloud) -> str:
    """Return what assertions of Identity-Aware Proxy for the gallery must be made out to.

    docs.cloud.google.com/iap/docs/signed-headers-howto (2026-11)
    """
    return f"/projects/{cloud.number}/locations/{config.region}/services/{GALLERY}"


def proxies(config: Config) -> list[Entrance]:
    """Return the functions behind Identity-Aware Proxy: the gallery alone, as the others serve programs."""
    if config.settings.auth != "iap" or "gallery" not in functions_of(config):
        return []
    why = "AUTH=iap: it signs people in, and says by a signed assertion who they are"
    return [Entrance(name=GALLERY, why=why, check=PROXIED, region=config.region)]


def doors(config: Config) -> list[Entrance]:
    """Return the functions that everybody may call, as they check the caller's ID token themselves."""
    if config.settings.auth != "token":
        return []
    why = "AUTH=token: it checks the caller's ID token"
    named = [f"dropcap-{name}" for name in functions_of(config) if name in ("analyze", *SMALL)]
    return [Entrance(name=name, why=why, check=UNCHECKED, region=config.region) for name in named]


def secret(variable: str, config: Config) -> Secret:
    """What holds this variable's value."""
    name, value = f"dropcap-{variable.lower().replace('_', '-')}", config.said(variable)
    return Secret(name=name, why=WHY_SECRET[variable], region=config.region, variable=variable, value=value)


def secrets_of(config: Config, cloud: Cloud) -> dict[str, Secret]:
    """Return the secrets in use, by variable: what is not given, and is there, stays."""
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
    """Who has which role on what, and why, as Markdown: with every option on."""
    rows = ["| role | on what | who | why |", "|---|---|---|---|"]
    who_of: dict[tuple[str, str, str], list[str]] = {}
    for given in (EXAMPLE, EXAMPLE | OTHERWISE):
        config = Config.read(given)
        cloud = Cloud(Gcloud(config.project, {}), number="NUMBER", created="2020-01-01")
        for each in grants(config, cloud):
            where = each.target.replace("my-project-", "").replace("project my-project", "the project")
            known = who_of.setdefault((each.name, where, each.why), [])
            if (who := each.who or f"`{short(each.member)}`") not in known:
                known.append(who)
    rows += [
        f"| `{role}` | {where} | {', '.join(who)} | {why} |" for (role, where, why), who in who_of.items()
    ]
    return "\n".join(rows)
