"""Cloud SQL, where it is asked for: functions sign in as themselves, by IAM, and no password exists."""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from infra.cloud.gcloud.command import Command, Late, command
from infra.cloud.inventory import Cloud
from infra.cloud.resources.base import Facts, Resource

VERSION = "POSTGRES_17"
DATABASE = ROLE = "dropcap"


def url(user: str, connection: str) -> str:
    """DATABASE_URL of a user of Cloud SQL, by the socket that Cloud Run puts there, signing in by IAM."""
    name = user.replace("@", "%40")
    return f"postgresql://{name}@/{DATABASE}?host=/cloudsql/{connection}&iam=true&role={ROLE}"


def grants(users: Sequence[str]) -> str:
    """Return idempotent SQL that puts all functions in one role, so that they share all tables.

    The role may create Dropcap's schema, which only the database's owner can grant. postgres, who runs this,
    is a member of cloudsqlsuperuser, and so of the owner (cloud.google.com/sql/docs/postgres/users).
    """
    names = ", ".join(f'"{user}"' for user in users)
    return (
        f"DO $$ BEGIN CREATE ROLE {ROLE} NOLOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END $$;\n"
        f"GRANT {ROLE} TO {names};\n"
        f"GRANT CREATE ON DATABASE {DATABASE} TO {ROLE};\n"
    )


@dataclass(frozen=True, kw_only=True)
class Instance(Resource):
    """The smallest PostgreSQL that Cloud SQL has, reached by Cloud Run's own encrypted socket alone."""

    kind: ClassVar[str] = "Cloud SQL"
    data: ClassVar[bool] = True
    region: str
    tier: str
    connections: int

    def wanted(self, cloud: Cloud) -> Facts:
        flags = {"cloudsql.iam_authentication": "on", "max_connections": str(self.connections)}
        return {"machine": self.tier, **flags, "backups": True, "protected from deletion": True}

    def found(self, cloud: Cloud) -> Facts | None:
        if cloud.instance is None:
            return None
        settings = cloud.instance.get("settings", {})
        flags = {each["name"]: each["value"] for each in settings.get("databaseFlags", ())}
        return {
            "machine": settings.get("tier"),
            **flags,
            "backups": bool(settings.get("backupConfiguration", {}).get("enabled")),
            "protected from deletion": bool(settings.get("deletionProtectionEnabled")),
        }

    def make(self, cloud: Cloud) -> Sequence[Command]:
        return [
            command(
                "sql",
                "instances",
                "create",
                self.name,
                f"--database-version={VERSION}",
                f"--region={self.region}",
                "--edition=enterprise",  # the other one has no small machines
                "--ssl-mode=ENCRYPTED_ONLY",
                "--storage-auto-increase",
                "--backup-start-time=03:00",
                *self._flags(cloud),
            )
        ]

    def change(self, cloud: Cloud, differing: Facts) -> Sequence[Command]:
        return [command("sql", "instances", "patch", self.name, *self._flags(cloud))]

    def _flags(self, cloud: Cloud) -> tuple[str, ...]:
        flags = f"cloudsql.iam_authentication=on,max_connections={self.connections}"
        return (f"--tier={self.tier}", f"--database-flags={flags}", "--backup", "--deletion-protection")

    def remove(self, cloud: Cloud) -> Sequence[Command]:
        unprotected = command("sql", "instances", "patch", self.name, "--no-deletion-protection")
        return [unprotected, command("sql", "instances", "delete", self.name)]


@dataclass(frozen=True, kw_only=True)
class Database(Resource):
    kind: ClassVar[str] = "database"
    data: ClassVar[bool] = True
    project: str
    instance: str

    def wanted(self, cloud: Cloud) -> Facts:
        return {}

    def found(self, cloud: Cloud) -> Facts | None:
        return {} if self.name in cloud.databases else None

    def _command(self, verb: str) -> Command:
        where = (f"--instance={self.instance}", f"--project={self.project}")
        return command("sql", "databases", verb, self.name, *where)

    def make(self, cloud: Cloud) -> Sequence[Command]:
        return [self._command("create")]

    def remove(self, cloud: Cloud) -> Sequence[Command]:
        return [self._command("delete")]


@dataclass(frozen=True, kw_only=True)
class User(Resource):
    """A service account as a user of the database."""

    kind: ClassVar[str] = "database user"
    project: str
    instance: str

    def wanted(self, cloud: Cloud) -> Facts:
        return {}

    def found(self, cloud: Cloud) -> Facts | None:
        return {} if self.name in cloud.users else None

    def _command(self, verb: str, *words: str) -> Command:
        where = (f"--instance={self.instance}", f"--project={self.project}")
        return command("sql", "users", verb, self.name, *where, *words)

    def make(self, cloud: Cloud) -> Sequence[Command]:
        return [self._command("create", "--type=cloud_iam_service_account")]

    def remove(self, cloud: Cloud) -> Sequence[Command]:
        return [self._command("delete")]


@dataclass(frozen=True, kw_only=True)
class Grants(Resource):
    """What only PostgreSQL's own administrator can grant, by an import of a few lines.

    The lines lie in the quarantine bucket while it lasts, and a label of the bucket says that it is done, for
    which users and on which instance: gcloud can label an instance in its beta alone.
    """

    kind: ClassVar[str] = "database rights"
    project: str
    instance: str
    users: tuple[str, ...]
    bucket: str

    @property
    def _digest(self) -> str:
        return hashlib.sha256(grants(self.users).encode()).hexdigest()[:12]

    def wanted(self, cloud: Cloud) -> Facts:
        return {"of the functions": self._digest}

    def found(self, cloud: Cloud) -> Facts | None:
        labels = cloud.buckets.get(self.bucket, {}).get("labels", {})
        digest, _, made = labels.get("dropcap-grants", "").partition("-")
        created = re.sub(r"\D", "", (cloud.instance or {}).get("createTime", "").partition(".")[0])
        return {"of the functions": digest} if made and made == created else None

    def make(self, cloud: Cloud) -> Sequence[Command]:
        where = f"--project={self.project}"
        file = f"gs://{self.bucket}/dropcap-grants.sql"
        describe = ("sql", "instances", "describe", self.instance, where)
        account = (*describe, "--format=value(serviceAccountEmailAddress)")
        created = (*describe, "--format=value(createTime.date('%Y%m%d%H%M%S', tz='UTC'))")
        mark = Late(created, f"--update-labels=dropcap-grants={self._digest}-")
        reader = (Late(account, "--member=serviceAccount:"), "--role=roles/storage.objectViewer")
        policy = ("storage", "buckets")
        return [
            Command(("storage", "cp"), file=("", grants(self.users)), last=file),
            command(*policy, "add-iam-policy-binding", f"gs://{self.bucket}", *reader),
            command(
                "sql",
                "import",
                "sql",
                self.instance,
                file,
                f"--database={DATABASE}",
                "--user=postgres",
                where,
            ),
            command(*policy, "remove-iam-policy-binding", f"gs://{self.bucket}", *reader),
            command("storage", "rm", file),
            command(*policy, "update", f"gs://{self.bucket}", mark),
        ]

    def change(self, cloud: Cloud, differing: Facts) -> Sequence[Command]:
        return self.make(cloud)
