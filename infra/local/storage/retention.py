"""Retention policies and holds, by which Cloud Storage refuses to delete or replace objects.

A bucket's resource sets a policy (`retentionPolicy`), an object's a hold (`temporaryHold`, `eventBasedHold`),
on creation or by a patch. They are kept in memory.

The rules are in cloud.google.com/storage/docs/bucket-lock and .../object-holds: preconditions are checked
first, and metadata may still change. The messages are production's: that of a policy was measured on
2026-09-30 and published in the tests of a client in Zig, that of a hold is there and in
googleapis/google-cloud-rust #4046 (2025-12-11). The reason for a held object is `forbidden`, as for a missing
permission, not the documented `objectUnderActiveHold`.
"""

import datetime as dt
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from infra.local.storage.operations import Operation
from infra.local.storage.preconditions import Expected, Refused

HOLDS = {"temporaryHold": "Temporary", "eventBasedHold": "Event-Based"}


class Retention:
    """The policies and holds of all buckets."""

    def __init__(self) -> None:
        self._seconds: dict[str, int] = {}  # retention period by bucket
        self._held: dict[tuple[str, str], str] = {}  # by bucket and object: the kind of hold

    def note(self, operation: Operation) -> None:
        """Record the policy or hold in the resource, or a patch, of a bucket or an object."""
        resource = operation.resource
        if operation.bucket and "retentionPolicy" in resource:
            policy = resource["retentionPolicy"] or {}
            self._seconds[operation.bucket] = int(policy.get("retentionPeriod", 0))
        for of in operation.expects:
            for name, kind in HOLDS.items():
                if resource.get(name):
                    self._held[of.bucket, of.name] = kind
                elif name in resource and self._held.get((of.bucket, of.name)) == kind:
                    del self._held[of.bucket, of.name]

    def check(self, of: Expected, live: Mapping[str, Any] | None) -> None:
        """Raise Refused if this object must not be deleted or replaced."""
        if live is None:
            return
        where = f"Object '{of.bucket}/{of.name}'"
        if kind := self._held.get((of.bucket, of.name)):
            raise Refused(
                HTTPStatus.FORBIDDEN,
                f"{where} is under active {kind} hold and cannot be deleted, overwritten or archived "
                "until hold is removed.",
                "forbidden",
            )
        until = dt.datetime.fromisoformat(live["timeCreated"])
        until += dt.timedelta(seconds=self._seconds.get(of.bucket, 0))
        if until > dt.datetime.now(dt.UTC):
            raise Refused(
                HTTPStatus.FORBIDDEN,
                f"{where} is subject to bucket's retention policy or object retention and cannot be deleted "
                f"or overwritten until {until.isoformat()}",
                "retentionPolicyNotMet",
            )

    def keeps(self, of: Expected) -> bool:
        """Return whether anything may be kept there, so that the live object has to be looked at."""
        return bool(self._seconds.get(of.bucket)) or (of.bucket, of.name) in self._held
