"""Buckets, and the repository of the built images."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from infra.cloud.config import Config
from infra.cloud.gcloud.command import Command, command
from infra.cloud.inventory import Cloud
from infra.cloud.resources.base import ABSENT, Change, Facts, RegionalResource, Resource, at, covers

DAY_S = 86_400
Rule = dict[str, Any]
# An abandoned multipart upload costs storage and is in no listing.
ABORT: Rule = {"action": {"type": "AbortIncompleteMultipartUpload"}, "condition": {"age": 1}}


def _rule_key(rule: Rule) -> tuple[str, frozenset[str]]:
    """Return action and names of the conditions: a rule of Dropcap replaces one with the same."""
    return rule["action"]["type"], frozenset(rule.get("condition", {}))


def delete_after(days: int, **condition: Any) -> Rule:
    return {"action": {"type": "Delete"}, "condition": {"age": days} | condition}


@dataclass(frozen=True, kw_only=True)
class Bucket(Resource):
    """A bucket that cannot be made public, not even by mistake."""

    kind: ClassVar[str] = "bucket"
    parallel_group: ClassVar[str] = "buckets"
    data: ClassVar[bool] = True
    table: ClassVar[str] = "buckets"
    region: str
    soft_delete_days: int
    rules: tuple[Rule, ...] = (ABORT,)

    def wanted(self, cloud: Cloud) -> Facts:
        return {
            "one access rule": True,
            "public access": "prevented",
            "deleted objects kept": f"{self.soft_delete_days} days",
            "lifecycle": _words(self._rules(cloud)),
        }

    def facts(self, cloud: Cloud, there: Any) -> Facts:
        days = int(at(there, "softDeletePolicy", "retentionDurationSeconds") or 0) / DAY_S
        public = at(there, "iamConfiguration", "publicAccessPrevention")
        return {
            "one access rule": bool(at(there, "iamConfiguration", "uniformBucketLevelAccess", "enabled")),
            "public access": "prevented" if public == "enforced" else public,
            "deleted objects kept": f"{days:g} days",
            "lifecycle": _words(_found(there)) or None,
        }

    def make(self, cloud: Cloud) -> Sequence[Command]:
        soft = f"--soft-delete-duration={self.soft_delete_days}d".replace("=0d", "=0")
        fixed = (f"--location={self.region}", "--uniform-bucket-level-access", "--public-access-prevention")
        return [self._command("create", *fixed, soft, file=self._lifecycle(cloud))]

    def change(self, cloud: Cloud, differing: Facts) -> Sequence[Command]:
        days = self.soft_delete_days
        words = {
            "one access rule": "--uniform-bucket-level-access",
            "public access": "--public-access-prevention",
            "deleted objects kept": f"--soft-delete-duration={days}d" if days else "--clear-soft-delete",
        }
        flags = [words[name] for name in differing if name in words]
        file = self._lifecycle(cloud) if "lifecycle" in differing else None
        return [self._command("update", *flags, file=file)]

    def remove(self, cloud: Cloud) -> Sequence[Command]:
        return [command("storage rm --recursive", f"gs://{self.name}")]

    def _rules(self, cloud: Cloud) -> list[Rule]:
        """Return Dropcap's rules, and the other rules of an existing bucket."""
        ours = [_rule_key(rule) for rule in self.rules]
        others = [rule for rule in _found(cloud.buckets.get(self.name, {})) if _rule_key(rule) not in ours]
        return [*self.rules, *others]

    def _lifecycle(self, cloud: Cloud) -> tuple[str, str]:
        return "--lifecycle-file", json.dumps({"rule": self._rules(cloud)}, indent=2)

    def _command(self, verb: str, *words: str, file: tuple[str, str] | None) -> Command:
        return command(f"storage buckets {verb}", f"gs://{self.name}", *words, file=file)


def _found(bucket: Mapping[str, Any]) -> list[Rule]:
    rules: list[Rule] = bucket.get("lifecycle", {}).get("rule", [])
    return rules


def _words(rules: Sequence[Rule]) -> str:
    """Return the rules in words, in a fixed order."""
    return "; ".join(sorted(map(_rule, rules)))


def _rule(rule: Rule) -> str:
    """Return a rule in words: `Delete after 90 days`; with all conditions, if there are others."""
    condition, action = rule.get("condition", {}), rule["action"]["type"]
    days = condition.get("age")
    only_age = set(condition) == {"age"}
    return f"{action} after {days} day{'s' * (days != 1)}" if only_age else f"{action} if {condition}"


def retention_warnings(config: Config, cloud: Cloud) -> list[str]:
    """Return a warning for each bucket whose objects Dropcap cannot delete at any time.

    Until the policy or hold ends, a delete is refused with 403 (cloud.google.com/storage/docs/bucket-lock and
    .../object-holds).
    """
    found = []
    for role, name in config.buckets.items():
        bucket = cloud.buckets.get(name, {})
        period = int(bucket.get("retentionPolicy", {}).get("retentionPeriod", 0)) / DAY_S
        held = ["a hold on each new object"] if bucket.get("defaultEventBasedHold") else []
        by = " and ".join([f"a retention policy of {period:g} days"] * bool(period) + held)
        if not by or (role == "uploads" and config.settings.source == "keep"):
            continue
        remedy = "set SOURCE=keep, or lift it" if role == "uploads" else "lift it"
        found.append(f"gs://{name} has {by}, so Dropcap can't delete or replace objects there: {remedy}.")
    return found


@dataclass(frozen=True, kw_only=True)
class Images(RegionalResource):
    """The repository of images, which keeps the last few for rollbacks."""

    kind: ClassVar[str] = "image repository"
    surface: ClassVar[str] = "artifacts repositories"
    table: ClassVar[str] = "repositories"
    keep: int

    def _policy(self) -> list[dict[str, Any]]:
        """Return policies for Dropcap's images only: other services share the repository."""
        ours = {"packageNamePrefixes": ["dropcap-"]}
        kept, old = ours | {"keepCount": self.keep}, ours | {"olderThan": "86400s"}
        return [
            {"name": "dropcap-keep", "action": {"type": "KEEP"}, "mostRecentVersions": kept},
            {"name": "dropcap-delete", "action": {"type": "DELETE"}, "condition": old},
        ]

    def wanted(self, cloud: Cloud) -> Facts:
        return {"images kept of a function": self.keep}

    def facts(self, cloud: Cloud, there: Any) -> Facts:
        policies = there.get("cleanupPolicies", {})
        wanted = {each["name"]: each for each in self._policy()}
        kept = at(policies, "dropcap-keep", "mostRecentVersions", "keepCount")
        return {"images kept of a function": self.keep if covers(policies, _as_stored(wanted)) else kept}

    def make(self, cloud: Cloud) -> Sequence[Command]:
        described = "--description=Images of services deployed from source"
        made = self.command("create", "--repository-format=docker", described)
        return [made, *self.change(cloud, {})]

    def change(self, cloud: Cloud, differing: Facts) -> Sequence[Command]:
        file = "--policy", json.dumps(self._policy(), indent=2)
        return [self.command("set-cleanup-policies", "--no-dry-run", file=file)]

    def removal(self, cloud: Cloud) -> Change | None:
        """Return the removal of Dropcap's images; the repository may contain those of other services."""
        if self.name not in cloud.repositories:
            return None
        where = (f"--repository={self.name}", *self.location_flags)
        packages = cloud.gcloud.read("artifacts packages list", *where) or ()
        names = sorted(each["name"].rpartition("/")[2] for each in packages)
        ours = [name for name in names if name.startswith("dropcap-")]
        done = tuple(command("artifacts packages delete", name, *where) for name in ours)
        title = f"images in {self.name}"
        return Change(title, ", ".join(ours), ABSENT, self.why, done) if ours else None


@dataclass(frozen=True, kw_only=True)
class BuildSources(Resource):
    """The sources that gcloud uploads for builds, to a shared bucket that it creates (`name`).

    Dropcap's are deleted after some days, as each build uploads its own: 190 MB with BLIP-base.
    """

    kind: ClassVar[str] = "sources in"
    functions: tuple[str, ...]
    days: int

    def _rule(self) -> Rule:
        return delete_after(self.days, matchesPrefix=["services/dropcap-"])

    def wanted(self, cloud: Cloud) -> Facts:
        return {"kept": f"{self.days} days"}

    def found(self, cloud: Cloud) -> Facts | None:
        if self.name not in cloud.buckets:  # the first build creates it
            return self.wanted(cloud) if {*self.functions} & {*cloud.services} else None
        ours = self._rule() in _found(cloud.buckets[self.name])
        return self.wanted(cloud) if ours else {"kept": "indefinitely"}

    def make(self, cloud: Cloud) -> Sequence[Command]:
        ours = self._rule()["condition"]["matchesPrefix"]
        found = _found(cloud.buckets.get(self.name, {}))
        others = [rule for rule in found if rule.get("condition", {}).get("matchesPrefix") != ours]
        file = "--lifecycle-file", json.dumps({"rule": [self._rule(), *others]}, indent=2)
        return [command("storage buckets update", f"gs://{self.name}", file=file)]

    def remove(self, cloud: Cloud) -> Sequence[Command]:
        if self.name not in cloud.buckets:
            return ()
        folders = cloud.gcloud.listed(f"gs://{self.name}/services/")
        ours = [f"gs://{self.name}/services/{name}" for name in self.functions]
        return [command("storage rm --recursive", each) for each in ours if f"{each}/" in folders]


def sources_bucket(project: str, region: str) -> str:
    """Return gcloud's name of that bucket: googlecloudsdk/command_lib/run/sourcedeploys/sources.py."""
    return f"run-sources-{project}-{region}"


def _as_stored(policies: dict[str, Any]) -> dict[str, Any]:
    """Return policies as the API returns them: actions are strings, not objects."""
    return {name: each | {"action": each["action"]["type"]} for name, each in policies.items()}
