"""Monitoring: metrics, alerts and a dashboard from monitoring/, an email address, a budget."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from infra.cloud.gcloud.command import Command, Word, command, output_of
from infra.cloud.inventory import Cloud, billing_account
from infra.cloud.monitoring import BUDGET_THRESHOLDS
from infra.cloud.resources.base import Change, Facts, Resource, at, covers

SAME = "as in infra/cloud/monitoring"
CHANNELS = "--notifications-rule-monitoring-notification-channels"  # of a budget


@dataclass(frozen=True, kw_only=True)
class Channel(Resource):
    """The email channel for alerts, identified by its address."""

    kind: ClassVar[str] = "alert address"

    def found(self, cloud: Cloud) -> Facts | None:
        return {} if channel(cloud, self.name) else None

    def make(self, cloud: Cloud) -> Sequence[Command]:
        words = (f"--channel-labels=email_address={self.name}", "--user-labels=dropcap=alerts")
        return [command("beta monitoring channels create --display-name=Dropcap --type=email", *words)]

    def remove(self, cloud: Cloud) -> Sequence[Command]:
        return [command("beta monitoring channels delete", str(channel(cloud, self.name)), "--force")]


def channel(cloud: Cloud, address: str) -> str | None:
    """Return the name of the channel for this address, if it exists."""
    for each in cloud.channels:
        if each.get("type") == "email" and each.get("labels", {}).get("email_address") == address:
            return str(each["name"])
    return None


def channel_word(cloud: Cloud, address: str, flag: str) -> tuple[Word, ...]:
    """Return a flag with the channel's name, which is read after its creation; nothing without an address."""
    if not address:
        return ()
    if name := channel(cloud, address):
        return (f"{flag}={name}",)
    chosen = f'--filter=type="email" AND labels.email_address="{address}"'
    printed = ("--limit=1", "--format=value(name)")
    return (output_of(f"{flag}=", "beta monitoring channels list", chosen, *printed),)


@dataclass(frozen=True, kw_only=True)
class Document(Resource):
    """A resource that is declared as one JSON document; additions of the server are ignored."""

    wanted_json: Any
    flag: ClassVar[str] = "--config-from-file"

    def wanted(self, cloud: Cloud) -> Facts:
        return {SAME: True}

    def facts(self, cloud: Cloud, there: Any) -> Facts:
        return {SAME: covers(there, self.wanted_json)}

    def _file(self, **more: str) -> tuple[str, str]:
        return self.flag, json.dumps(self.wanted_json | more, indent=2)

    def make(self, cloud: Cloud) -> Sequence[Command]:
        return [self.command("create", file=self._file())]

    def change(self, cloud: Cloud, differing: Facts) -> Sequence[Command]:
        return [self.command("update", file=self._file())]


@dataclass(frozen=True, kw_only=True)
class Metric(Document):
    kind: ClassVar[str] = "metric"
    parallel_group: ClassVar[str] = "metrics"
    surface: ClassVar[str] = "logging metrics"
    table: ClassVar[str] = "metrics"


@dataclass(frozen=True, kw_only=True)
class Alert(Document):
    """An alert policy; never in parallel, as Google refuses that (monitoring-busy in known_errors.toml)."""

    kind: ClassVar[str] = "alert"
    table: ClassVar[str] = "alerts"
    flag: ClassVar[str] = "--policy-from-file"
    address: str

    def wanted(self, cloud: Cloud) -> Facts:
        return {SAME: True} | ({f"sent to {self.address}": True} if self.address else {})

    def facts(self, cloud: Cloud, there: Any) -> Facts:
        sent = channel(cloud, self.address) in there.get("notificationChannels", [])
        return {**super().facts(cloud, there), f"sent to {self.address}": sent}

    def make(self, cloud: Cloud) -> Sequence[Command]:
        channels = channel_word(cloud, self.address, "--notification-channels")
        return [self._command(cloud, "create", *channels, file=self._file())]

    def change(self, cloud: Cloud, differing: Facts) -> Sequence[Command]:
        name = str(cloud.alerts[self.name]["name"])
        channels = channel_word(cloud, self.address, "--set-notification-channels")
        return [self._command(cloud, "update", name, *channels, file=self._file())]

    def remove(self, cloud: Cloud) -> Sequence[Command]:
        return [self._command(cloud, "delete", str(cloud.alerts[self.name]["name"]))]

    def _command(self, cloud: Cloud, verb: str, *words: Word, file: tuple[str, str] | None = None) -> Command:
        return command(f"{cloud.tools.policies} {verb}", *words, file=file)


@dataclass(frozen=True, kw_only=True)
class Dashboard(Document):
    kind: ClassVar[str] = "dashboard"
    surface: ClassVar[str] = "monitoring dashboards"
    table: ClassVar[str] = "dashboards"

    def facts(self, cloud: Cloud, there: Any) -> Facts:
        # The server knows the project by number.
        return super().facts(cloud, there | {"name": self.wanted_json.get("name")})

    def make(self, cloud: Cloud) -> Sequence[Command]:
        return [command(f"{self.surface} create", file=self._file())]

    def change(self, cloud: Cloud, differing: Facts) -> Sequence[Command]:
        return [self.command("update", file=self._file(etag=cloud.dashboards[self.name].get("etag", "")))]


@dataclass(frozen=True, kw_only=True)
class Budget(Resource):
    """A budget for this project in its billing account. It sends warnings and stops nothing."""

    kind: ClassVar[str] = "budget"
    amount: str
    address: str

    def _budget(self, cloud: Cloud) -> Any:
        return next((each for each in cloud.budgets if each.get("displayName") == self.name), None)

    def wanted(self, cloud: Cloud) -> Facts:
        facts = {"a month": self.amount, "says so at": ", ".join(BUDGET_THRESHOLDS)}
        return facts | ({f"sent to {self.address}": True} if self.address else {})

    def found(self, cloud: Cloud) -> Facts | None:
        if (budget := self._budget(cloud)) is None:
            return None
        rules = sorted(map(_threshold, budget.get("thresholdRules", ())), key=_order)
        goes_to = at(budget, "notificationsRule", "monitoringNotificationChannels") or ()
        return {
            "a month": at(budget, "amount", "specifiedAmount", "units"),
            "says so at": ", ".join(rules),
            f"sent to {self.address}": channel(cloud, self.address) in goes_to,
        }

    def make(self, cloud: Cloud) -> Sequence[Command]:
        return [
            command(
                "billing budgets create",
                output_of("--billing-account=", *billing_account(cloud.gcloud.project)),
                *(f"--display-name={self.name}", f"--budget-amount={self.amount}"),
                f"--filter-projects=projects/{cloud.gcloud.project}",
                *(f"--threshold-rule={rule}" for rule in BUDGET_THRESHOLDS),
                *channel_word(cloud, self.address, CHANNELS),
            )
        ]

    def change(self, cloud: Cloud, differing: Facts) -> Sequence[Command]:
        words: list[Word] = []
        if "a month" in differing:
            words.append(f"--budget-amount={self.amount}")
        if "says so at" in differing:
            rules = (f"--add-threshold-rule={rule}" for rule in BUDGET_THRESHOLDS)
            words += ["--clear-threshold-rules", *rules]
        if f"sent to {self.address}" in differing:
            words += channel_word(cloud, self.address, CHANNELS)
        return [command("billing budgets update", self._path(cloud), *words)]

    def remove(self, cloud: Cloud) -> Sequence[Command]:
        return [command("billing budgets delete", self._path(cloud))]

    def _path(self, cloud: Cloud) -> str:
        return str(self._budget(cloud)["name"])


def _threshold(rule: Mapping[str, Any]) -> str:
    """Return a budget's rule as a value of --threshold-rule."""
    forecast = rule.get("spendBasis") == "FORECASTED_SPEND"
    return f"percent={float(rule['thresholdPercent'])}" + (",basis=forecasted-spend" if forecast else "")


def _order(rule: str) -> tuple[int, str]:
    """Return the sort key: the order of BUDGET_THRESHOLDS, then others, as Google may reorder them."""
    known = rule in BUDGET_THRESHOLDS
    return (BUDGET_THRESHOLDS.index(rule) if known else len(BUDGET_THRESHOLDS)), rule


@dataclass(frozen=True, kw_only=True)
class Apis(Resource):
    """Google's APIs. They stay enabled, as other services of the project may use them."""

    kind: ClassVar[str] = "APIs"
    apis: tuple[str, ...]

    def wanted(self, cloud: Cloud) -> Facts:
        return dict.fromkeys(self.apis, True)

    def found(self, cloud: Cloud) -> Facts | None:
        return {api: f"{api}.googleapis.com" in cloud.apis for api in self.apis}

    def make(self, cloud: Cloud) -> Sequence[Command]:
        return self.change(cloud, self.wanted(cloud))

    def change(self, cloud: Cloud, differing: Facts) -> Sequence[Command]:
        return [command("services enable", *(f"{api}.googleapis.com" for api in differing))]

    def difference(self, cloud: Cloud) -> Change | None:
        change = super().difference(cloud)
        return replace(change, now="off") if change else None

    def removal(self, cloud: Cloud) -> Change | None:
        return None
