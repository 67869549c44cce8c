"""Retention policies and holds: by them Cloud Storage keeps what somebody wants to delete or replace.

A bucket's policy comes with its resource (`retentionPolicy`), and a hold with an object's (`temporaryHold`,
`eventBasedHold`), each when it is made and when it is patched. They are kept in memory.

cloud.google.com/storage/docs/bucket-lock and .../object-holds have the rules; preconditions come first, and
metadata may still be changed. The words are production's: of a policy as measured on 2026-09-30 and published
by the tests of a client in Zig, of a hold as there and in googleapis/google-cloud-rust #4046 (2025-12-11).
There the reason of a held object is `forbidden`, as that of a missing permission, and never
`objectUnderActiveHold`, which is documented.
"""

import datetime as dt
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from infra.local.operations import Operation
from infra.local.rules import Expected, Refused

HOLDS = {"temporaryHold": "Temporary", "eventBasedHold": "Event-Based"}


class Retention:
    """What is kept, of all buckets."""

    def __init__(self) -> None:
        self._seconds: dict[str, int] = {}  # by bucket
        self._held: dict[tuple[str, str], str] = {}  # by bucket and object: the kind of hold

    def note(self, operation: Operation) -> None:
        """Note what the resource of a bucket or an object, or a patch of it, says."""
        says = operation.says
        if operation.bucket and "retentionPolicy" in says:
            policy = says["retentionPolicy"] or {}
            self._seconds[operation.bucket] = int(policy.get("retentionPeriod", 0))
        for of in operation.expects:
            for name, kind in HOLDS.items():
                if says.get(name):
                    self._held[of.bucket, of.name] = kind
                elif name in says and self._held.get((of.bucket, of.name)) == kind:
                    del self._held[of.bucket, of.name]

    def check(self, of: Expected, live: Mapping[str, Any] | None) -> None:
        """Raise Refused where this object must be neither deleted nor replaced."""
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
        """Whether anything may be kept there, so that the live object has to be looked at."""
        return bool(self._seconds.get(of.bucket)) or (of.bucket, of.name) in self._held
