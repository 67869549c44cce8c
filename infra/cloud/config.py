"""The settings of a deployment: read once from environment variables, checked before any command runs."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any
from urllib.parse import urlsplit

from dropcap import database_url
from dropcap.database_url import LOCAL
from dropcap.errors import SettingsError
from dropcap.setting_parsers import PROJECT
from dropcap.settings import Settings
from infra.cloud import CloudError

# Stored in Secret Manager, never in a variable of a function.
SECRETS = ("DATABASE_URL", "GEMINI_API_KEY", "EVENTS_SECRET")
SETTINGS = frozenset(item.name.upper() for item in fields(Settings))
NOT_KEPT = ("WAIT_S", "DEMO_MODEL")  # apply to one command
DEFAULT = "default"  # this value returns a setting to its default
QUEUE = "dropcap-backfill"  # of make backfill and make redescribe
NO_SECRET = f"whsec_{'A' * 32}"  # placeholder for the check, if none is given; it is not stored
NO_AUDIENCE = "/projects/0/locations/none/services/none"  # placeholder for the check
FUNCTION_TIMEOUT_S = 540  # shorter than the 600 s after which Pub/Sub redelivers
MEMORY_MB = (512, 4096)  # second generation and 1 vCPU: cloud.google.com/run/docs/configuring/memory-limits
INSTANCE_NAME = "dropcap"  # of CLOUD_SQL=new
INSTANCE = re.compile(r"([a-z][a-z0-9-]{4,28}[a-z0-9]):([a-z0-9-]+):([a-z][a-z0-9-]*)")
EMAIL = re.compile(r"[^\s@,]+@[^\s@,]+\.[^\s@,]+")


def _variable(default: str, meaning: str, allowed: str = "", fits: str = ".*") -> Any:
    return field(default=default, metadata={"meaning": meaning, "allowed": allowed, "fits": fits})


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """One deployment. A field's environment variable is its name in capitals; build it with `Config.read`.

    `settings` are the functions' settings, `variables` their environment. `given` is the environment of the
    command, `reset` the settings that it returns to their defaults, `deployed` those of the last deployment.
    """

    project: str = _variable("", "id of the Google Cloud project")
    region: str = _variable(
        "europe-west1", "region of all resources", "a region: europe-west1", r"[a-z]+-[a-z]+\d+"
    )
    cloud_sql: str = _variable(
        "",
        "Cloud SQL in place of DATABASE_URL: an existing instance, or new to create one",
        "project:region:name, or new",
        rf"|new|{INSTANCE.pattern}",
    )
    cloud_sql_tier: str = _variable(
        "db-f1-micro", "machine type of CLOUD_SQL=new", "a tier: db-f1-micro", r"db-[\w-]+"
    )
    max_instances: str = _variable(
        "5",
        "maximum instances of a function; each has one database connection, the gallery DATABASE_CONNECTIONS",
        "a number from 1 to 1000",
        r"[1-9]\d{0,2}|1000",
    )
    quarantine_days: str = _variable(
        "90",
        "days after which objects in quarantine are deleted",
        "a number from 1 to 36500",
        r"[1-9]\d{0,3}",
    )
    soft_delete_days: str = _variable(
        "7",
        "days for which a deleted object can be restored",
        "0, or a number from 7 to 90",
        r"0|[7-9]|[1-8]\d|90",
    )
    gallery: str = _variable("0", "the web page for uploads: 1 deploys it, 0 removes it", "0 or 1", "0|1")
    alerts: str = _variable("1", "alerts: 1 creates them, 0 removes them", "0 or 1", "0|1")
    alert_email: str = _variable("", "email address for alerts", "an address", rf"|{EMAIL.pattern}")
    budget: str = _variable(
        "", "monthly budget, in the billing account's currency", "a number", r"|[1-9]\d{0,8}"
    )
    demo_model: str = _variable(
        "", "1: deploy the demonstration captioner, which knows 60 drawn objects", "0 or 1", r"|0|1"
    )
    backfill_per_second: str = _variable(
        "2",
        "pictures a second that make backfill sends",
        "a number from 0.01 to 500",
        r"0\.\d{1,2}|[1-9]\d{0,2}(\.\d{1,2})?",
    )
    wait_s: str = _variable(
        "",
        "seconds that make verify (180) and make redescribe (300) wait for a result",
        "a whole number of seconds",
        r"|\d{1,5}",
    )
    settings: Settings = field(default_factory=Settings)
    variables: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    reset: frozenset[str] = frozenset()
    deployed: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def read(
        cls, environment: Mapping[str, str] = os.environ, deployed: Mapping[str, str] | None = None
    ) -> "Config":
        """Return the deployment that the environment describes; settings that it omits stay as `deployed`.

        Raises CloudError with one line and its remedy.
        """
        # A blank value counts as not given.
        environment = {name: value if value.strip() else "" for name, value in environment.items()}
        project = project_of(environment)
        deployed = deployed or {}
        reset = frozenset(name for name in NAMES | SETTINGS if environment.get(name) == DEFAULT)
        kept = {name: value for name, value in deployed.items() if not environment.get(name)}
        values = environment | dict.fromkeys(reset, "") | kept
        if environment.get("DATABASE_URL") and "CLOUD_SQL" in kept:
            values["CLOUD_SQL"] = ""
        if values.get("AUTH") == "iap":
            values["AUTH_AUDIENCE"] = ""  # rights.audience knows it, and no other value works
        chosen = check(values)
        variables = {name: value for name, value in sorted(values.items()) if value and name in SETTINGS}
        buckets = usual_buckets(project)
        if variables.get("SOURCE") != "archive":
            del buckets["ARCHIVE_BUCKET"]
        variables = buckets | variables
        # If a webhook's secret is not given, plan.py checks whether it exists.
        unknown = {"EVENTS_SECRET": NO_SECRET} if not variables.get("EVENTS_SECRET") else {}
        if variables.get("AUTH") == "iap":
            unknown["AUTH_AUDIENCE"] = NO_AUDIENCE
        try:
            settings = Settings.read(variables | unknown)
        except SettingsError as wrong:
            raise CloudError(str(wrong)) from wrong
        for name in SECRETS:
            variables.pop(name, None)
        config = cls(
            **chosen,
            settings=settings,
            variables=variables,
            environment=environment,
            reset=reset,
            deployed=deployed,
        )
        config._check()
        return config

    def _check(self) -> None:
        """Raise CloudError for values that are only wrong in the cloud."""
        settings = self.settings
        for name in ("lease_s", "timeout_s"):
            if getattr(settings, name) >= FUNCTION_TIMEOUT_S:
                raise CloudError(
                    f"{name.upper()}='{getattr(settings, name)}' is not allowed: it must be less than the "
                    f"{FUNCTION_TIMEOUT_S} s after which the platform ends a function."
                )
        if not MEMORY_MB[0] <= settings.memory_limit_mb <= MEMORY_MB[1]:
            raise CloudError(
                f"MEMORY_LIMIT_MB='{settings.memory_limit_mb}' is not allowed: an instance of 1 vCPU "
                f"has from {MEMORY_MB[0]} to {MEMORY_MB[1]} MiB."
            )
        if int(self.quarantine_days) > settings.retention_days:
            raise CloudError(
                f"QUARANTINE_DAYS='{self.quarantine_days}' is not allowed: it must be at most RETENTION_DAYS "
                f"({settings.retention_days}), or users could no longer delete their pictures in quarantine."
            )
        if self.cloud_sql and settings.database_url:
            raise CloudError(
                "DATABASE_URL and CLOUD_SQL are both set: unset DATABASE_URL, or set CLOUD_SQL=default."
            )
        if settings.database_url:
            address = database_url.read(settings.database_url)
            if address.local and not address.host.startswith("/"):
                raise CloudError(
                    "DATABASE_URL points to this machine, which the functions can't reach: "
                    "use another database."
                )
        for name in ("gemini_endpoint", "events"):
            if (urlsplit(getattr(settings, name)).hostname or "") in LOCAL:
                raise CloudError(
                    f"{name.upper()} points to this machine, which the functions can't reach: unset it."
                )

    def value_of(self, name: str) -> str:
        """Return a variable of the environment; "" if it is reset to its default."""
        return "" if name in self.reset else self.environment.get(name, "")

    @property
    def stays(self) -> dict[str, str]:
        """Return the deployed settings that stay and differ from their defaults, by variable."""
        return {name: value for name, value in self.chosen.items() if self.deployed.get(name) == value}

    @property
    def chosen(self) -> dict[str, str]:
        """Return all settings that differ from their defaults, by variable, without secrets."""
        names = [name for name in DEFAULTS if name in NAMES and name not in NOT_KEPT]
        own = {name: str(getattr(self, name.lower())) for name in names}
        own = {name: value for name, value in own.items() if value != DEFAULTS[name]}
        usual = usual_buckets(self.project)
        return own | {name: value for name, value in self.variables.items() if usual.get(name) != value}

    @property
    def buckets(self) -> dict[str, str]:
        """Return the names of the buckets by purpose; the archive only with SOURCE=archive."""
        settings = self.settings
        named = {
            "uploads": settings.uploads_bucket,
            "pictures": settings.pictures_bucket,
            "quarantine": settings.quarantine_bucket,
        }
        return named | ({"archive": settings.archive_bucket} if settings.source == "archive" else {})

    def account(self, name: str) -> str:
        """Return the address of the service account dropcap-NAME."""
        return f"dropcap-{name}@{self.project}.iam.gserviceaccount.com"

    def database_user(self, name: str) -> str:
        """Return the Cloud SQL user of a service account: cloud.google.com/sql/docs/postgres/iam-logins."""
        return self.account(name).removesuffix(".gserviceaccount.com")

    @property
    def instance(self) -> tuple[str, str, str]:
        """Return project, region and name of the Cloud SQL instance; three empty strings if there is none."""
        if self.cloud_sql == "new":
            return self.project, self.region, INSTANCE_NAME
        found = INSTANCE.fullmatch(self.cloud_sql)
        return (found[1], found[2], found[3]) if found else ("", "", "")


DEFAULTS = {item.name.upper(): item.default for item in fields(Config) if item.metadata}
NAMES = frozenset(DEFAULTS) - {"PROJECT"}


def project_of(environment: Mapping[str, str]) -> str:
    """Return the project id. Raises CloudError if it is missing or not a project id."""
    project = environment.get("PROJECT", "").strip()
    if not PROJECT.fullmatch(project):
        problem = f"PROJECT={project!r} is not a project id" if project else "PROJECT is not set"
        raise CloudError(f"{problem}: make deploy PROJECT=my-project (gcloud projects list shows yours)")
    if ":" in project:
        raise CloudError(
            f"PROJECT={project!r} is a domain-scoped project, in which gcloud can't build: use another."
        )
    return project


def usual_buckets(project: str) -> dict[str, str]:
    """Return the default names of the buckets, by variable."""
    return {
        f"{kind}_BUCKET": f"{project}-{kind.lower()}"
        for kind in ("UPLOADS", "PICTURES", "QUARANTINE", "ARCHIVE")
    }


def budget_name(project: str) -> str:
    """Return the name of a project's budget, of at most 60 characters."""
    return f"Dropcap {project}"[:60]


def fits(name: str, value: str) -> bool:
    """Return whether a variable of a deployment may have this value."""
    return bool(re.fullmatch(Config.__dataclass_fields__[name.lower()].metadata["fits"], value))


def check(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the given variables of a deployment, by field. Raises CloudError if one is not allowed."""
    chosen = {}
    for item in fields(Config):
        name = item.name.upper()
        if not item.metadata or not (value := environment.get(name)):
            continue
        if not fits(name, value):
            raise CloudError(f"{name}={value!r} is not allowed: it must be {item.metadata['allowed']}.")
        chosen[item.name] = value
    return chosen


def help_lines() -> str:
    """Return the variables of a deployment, for --help."""
    lines = [
        f"  {item.name.upper():20} {item.metadata['meaning']}"
        + (f" ({item.default})" if item.default else "")
        for item in fields(Config)
        if item.metadata
    ]
    return "\n".join(lines)
