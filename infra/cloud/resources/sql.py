"""Cloud SQL, if it is requested: functions sign in with IAM, without a password."""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from infra.cloud.gcloud.command import Command, command, output_of
from infra.cloud.inventory import Cloud
from infra.cloud.resources.base import Facts, Resource, at

VERSION = "POSTGRES_17"
DATABASE = ROLE = "dropcap"


def url(user: str, connection: str) -> str:
    """Return the DATABASE_URL of a Cloud SQL user, with Cloud Run's socket and an IAM login."""
    name = user.replace("@", "%40")
    return f"postgresql://{name}@/{DATABASE}?host=/cloudsql/{connection}&iam=true&role={ROLE}"


def grants(users: Sequence[str]) -> str:
    """Return idempotent SQL that puts all functions into one role, so that they share all tables.

    The role may create Dropcap's schema, which only the database's owner can grant. The user postgres, which
    runs this, is a member of cloudsqlsuperuser, the owner (cloud.google.com/sql/docs/postgres/users).
    """
    names = ", ".join(f'"{user}"' for user in users)
    return (
        f"DO $$ BEGIN CREATE ROLE {ROLE} NOLOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END $$;\n"
        f"GRANT {ROLE} TO {names};\n"
        f"GRANT CREATE ON DATABASE {DATABASE} TO {ROLE};\n"
    )


@dataclass(frozen=True, kw_only=True)
class Instance(Resource):
    """The smallest PostgreSQL of Cloud SQL, reachable only through Cloud Run's encrypted socket."""

    kind: ClassVar[str] = "Cloud SQL"
    data: ClassVar[bool] = True
    surface: ClassVar[str] = "sql instances"
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
            "backups": bool(at(settings, "backupConfiguration", "enabled")),
            "protected from deletion": bool(settings.get("deletionProtectionEnabled")),
        }

    def settings(self, cloud: Cloud) -> Sequence[str]:
        flags = f"cloudsql.iam_authentication=on,max_connections={self.connections}"
        return (f"--tier={self.tier}", f"--database-flags={flags}", "--backup", "--deletion-protection")

    def make(self, cloud: Cloud) -> Sequence[Command]:
        # The other edition has no small machine types.
        fixed = [f"--database-version={VERSION}", f"--region={self.region}", "--edition=enterprise"]
        fixed += ["--ssl-mode=ENCRYPTED_ONLY", "--storage-auto-increase", "--backup-start-time=03:00"]
        return [self.command("create", *fixed, *self.settings(cloud))]

    def change(self, cloud: Cloud, differing: Facts) -> Sequence[Command]:
        return [self.command("patch", *self.settings(cloud))]

    def remove(self, cloud: Cloud) -> Sequence[Command]:
        return [self.command("patch", "--no-deletion-protection"), self.command("delete")]


@dataclass(frozen=True, kw_only=True)
class InstanceResource(Resource):
    """A resource inside an instance."""

    project: str
    instance: str

    @property
    def location_flags(self) -> tuple[str, ...]:
        return (f"--instance={self.instance}", f"--project={self.project}")


@dataclass(frozen=True, kw_only=True)
class Database(InstanceResource):
    kind: ClassVar[str] = "database"
    data: ClassVar[bool] = True
    surface: ClassVar[str] = "sql databases"
    table: ClassVar[str] = "databases"


@dataclass(frozen=True, kw_only=True)
class User(InstanceResource):
    """A service account as a user of the database."""

    kind: ClassVar[str] = "database user"
    surface: ClassVar[str] = "sql users"
    table: ClassVar[str] = "users"

    def settings(self, cloud: Cloud) -> Sequence[str]:
        return ("--type=cloud_iam_service_account",)


@dataclass(frozen=True, kw_only=True)
class Grants(InstanceResource):
    """Grants that only PostgreSQL's administrator can make, through an import of a few lines of SQL.

    The SQL file is in the quarantine bucket during the import. A label of the bucket records for which users
    and on which instance it is done, because only gcloud's beta can label an instance.
    """

    kind: ClassVar[str] = "database rights"
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
        where, file = f"--project={self.project}", f"gs://{self.bucket}/dropcap-grants.sql"
        describe = ("sql instances describe", self.instance, where)
        account = "--format=value(serviceAccountEmailAddress)"
        created = "--format=value(createTime.date('%Y%m%d%H%M%S', tz='UTC'))"
        mark = output_of(f"--update-labels=dropcap-grants={self._digest}-", *describe, created)
        reader = (
            output_of("--member=serviceAccount:", *describe, account),
            "--role=roles/storage.objectViewer",
        )
        into = (f"--database={DATABASE}", "--user=postgres", where)
        return [
            Command(("storage", "cp"), file=("", grants(self.users)), last=file),
            command("storage buckets add-iam-policy-binding", f"gs://{self.bucket}", *reader),
            command("sql import sql", self.instance, file, *into),
            command("storage buckets remove-iam-policy-binding", f"gs://{self.bucket}", *reader),
            command("storage rm", file),
            command("storage buckets update", f"gs://{self.bucket}", mark),
        ]

    def remove(self, cloud: Cloud) -> Sequence[Command]:
        return ()
