"""Secrets: values are passed on standard input, and functions use the version of their deployment."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from infra.cloud.gcloud.command import Command, command
from infra.cloud.inventory import Cloud
from infra.cloud.resources.base import Facts, Resource


@dataclass(frozen=True, kw_only=True)
class Secret(Resource):
    """A secret with the value of `variable`; if no value is given, the existing one stays.

    A new value is a new version, and a new revision of each function that uses it, so a rollback uses the old
    value again.
    """

    kind: ClassVar[str] = "secret"
    data: ClassVar[bool] = True  # needed to reach a database that is kept
    surface: ClassVar[str] = "secrets"
    table: ClassVar[str] = "secrets"
    region: str
    variable: str
    value: str

    def version(self, cloud: Cloud) -> int:
        """Return the version that functions should use, which may not exist yet."""
        versions = cloud.secrets.get(self.name)
        newest = int(versions[0]["name"].rpartition("/")[2]) if versions else 0
        return newest if self._held(cloud) else newest + 1

    def _held(self, cloud: Cloud) -> bool:
        held = cloud.values.get(self.name)
        return held is not None and (not self.value or held == self.value)

    def wanted(self, cloud: Cloud) -> Facts:
        return {"version": self.version(cloud)}

    def facts(self, cloud: Cloud, there: Any) -> Facts:
        version = self.version(cloud)
        return {"version": version if self._held(cloud) else version - 1 or None}

    def make(self, cloud: Cloud) -> Sequence[Command]:
        # In the functions' region: a policy on locations refuses a secret of all regions (org-policy in
        # known_errors.toml), and this one costs the same.
        where = ("--replication-policy=user-managed", f"--locations={self.region}")
        return [self.command("create", *where), *self.change(cloud, {})]

    def change(self, cloud: Cloud, differing: Facts) -> Sequence[Command]:
        return [command("secrets versions add", self.name, "--data-file=-", secret=self.variable)]
