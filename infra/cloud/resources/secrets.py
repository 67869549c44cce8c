"""Secrets: values go in by standard input, and functions name the version that they were deployed with."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from infra.cloud.gcloud.command import Command, command
from infra.cloud.inventory import Cloud
from infra.cloud.resources.base import Facts, Resource


@dataclass(frozen=True, kw_only=True)
class Secret(Resource):
    """A secret that holds the value of `variable`; where that is not given, what it holds stays.

    A value is never changed: a new one is a new version, a new version a new revision of each function that
    uses it, so a rollback has the value that it ran with.
    """

    kind: ClassVar[str] = "secret"
    data: ClassVar[bool] = True  # the way to a database that stays
    surface: ClassVar[str] = "secrets"
    table: ClassVar[str] = "secrets"
    region: str
    variable: str
    value: str

    def version(self, cloud: Cloud) -> int:
        """The version that functions are to use, also where it is still to be made."""
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
        # Where the functions are: a secret of all regions is refused where a policy names the locations
        # (org-policy in claims.toml), and this one costs the same.
        where = ("--replication-policy=user-managed", f"--locations={self.region}")
        return [self.command("create", *where), *self.change(cloud, {})]

    def change(self, cloud: Cloud, differing: Facts) -> Sequence[Command]:
        return [command("secrets versions add", self.name, "--data-file=-", secret=self.variable)]
