"""Secrets: values go in by standard input, and functions name the version that they were deployed with."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

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
    region: str
    data: ClassVar[bool] = True  # the way to a database that stays
    variable: str
    value: str

    def version(self, cloud: Cloud) -> int:
        """The version that functions are to use, also where it is still to be made."""
        newest = (
            int(cloud.secrets[self.name][0]["name"].rpartition("/")[2]) if cloud.secrets.get(self.name) else 0
        )
        return newest if self._held(cloud) else newest + 1

    def _held(self, cloud: Cloud) -> bool:
        held = cloud.values.get(self.name)
        return held is not None and (not self.value or held == self.value)

    def wanted(self, cloud: Cloud) -> Facts:
        return {"version": self.version(cloud)}

    def found(self, cloud: Cloud) -> Facts | None:
        if self.name not in cloud.secrets:
            return None
        version = self.version(cloud)
        return {"version": version if self._held(cloud) else version - 1 or None}

    def make(self, cloud: Cloud) -> Sequence[Command]:
        return [
            # Where the functions are: a secret of all regions is refused where a policy names the locations
            # (org-policy in claims.toml), and this one costs the same.
            command(
                "secrets",
                "create",
                self.name,
                "--replication-policy=user-managed",
                f"--locations={self.region}",
            ),
            *self.change(cloud, {}),
        ]

    def change(self, cloud: Cloud, differing: Facts) -> Sequence[Command]:
        return [command("secrets", "versions", "add", self.name, "--data-file=-", secret=self.variable)]

    def remove(self, cloud: Cloud) -> Sequence[Command]:
        return [command("secrets", "delete", self.name)]
