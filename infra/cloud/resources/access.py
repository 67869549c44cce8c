"""Who may do what: service accounts, the rights that they have, and functions that everybody may call."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from infra.cloud.config import Config
from infra.cloud.gcloud.command import Command, Late, Word, command
from infra.cloud.inventory import Cloud
from infra.cloud.resources.base import ABSENT, Change, Facts, Resource

EVERYBODY = ("allUsers", "allAuthenticatedUsers")
# The target's kind, and how gcloud changes its policy.
SURFACES = {
    "project": ("projects",),
    "bucket": ("storage", "buckets"),
    "secret": ("secrets",),
    "function": ("run", "services"),
    "topic": ("pubsub", "topics"),
}


@dataclass(frozen=True, kw_only=True)
class Account(Resource):
    """A service account; `name` is its address."""

    kind: ClassVar[str] = "account"
    aside: ClassVar[str] = "accounts"

    @property
    def title(self) -> str:
        return f"{self.kind} {self.name.partition('@')[0]}"

    def wanted(self, cloud: Cloud) -> Facts:
        return {}

    def found(self, cloud: Cloud) -> Facts | None:
        return {} if self.name in cloud.accounts else None

    def make(self, cloud: Cloud) -> Sequence[Command]:
        name = self.name.partition("@")[0]
        return [
            command("iam", "service-accounts", "create", name, f"--display-name=Dropcap: {self.why}"[:115])
        ]

    def remove(self, cloud: Cloud) -> Sequence[Command]:
        return [command("iam", "service-accounts", "delete", self.name)]


@dataclass(frozen=True, kw_only=True)
class Grant(Resource):
    """One right: `name` is the role, `member` who has it, `target` on what: `bucket b`, `project p`."""

    kind: ClassVar[str] = "right"
    member: str
    target: str
    region: str = ""
    who: str = ""  # for people, where it is an account of Google's
    born: tuple[str, ...] = ()  # the command that prints the account, and makes it where it is not there yet

    @property
    def title(self) -> str:
        return _title(self.name, self.member, self.target)

    def wanted(self, cloud: Cloud) -> Facts:
        return {"granted": True}

    def found(self, cloud: Cloud) -> Facts | None:
        held = (self.name, self.member) in cloud.policies.get(self.target, ())
        return self.wanted(cloud) if held else None

    def make(self, cloud: Cloud) -> Sequence[Command]:
        member: Word = f"--member={self.member}"
        if self.born:
            member = Late(self.born, "--member=serviceAccount:")
        return [policy_command("add", self.target, self.name, member, self.region)]

    def remove(self, cloud: Cloud) -> Sequence[Command]:
        return [policy_command("remove", self.target, self.name, f"--member={self.member}", self.region)]


UNCHECKED = "run.googleapis.com/invoker-iam-disabled"  # command_lib/run of gcloud 528 and 578


@dataclass(frozen=True, kw_only=True)
class Door(Resource):
    """A function that checks its callers itself: Google's own check, for roles/run.invoker, is off.

    Google recommends it over a right of allUsers (cloud.google.com/run/docs/authenticating/public), which is
    refused in every organization made since 2024-05-03, unless somebody has allowed it.
    """

    kind: ClassVar[str] = "callers of"
    region: str

    def wanted(self, cloud: Cloud) -> Facts:
        return {"checked by": "the function"}

    def found(self, cloud: Cloud) -> Facts | None:
        if (service := cloud.services.get(self.name)) is None:
            return None
        return {"checked by": "the function" if unchecked(service) else "Google"}

    def make(self, cloud: Cloud) -> Sequence[Command]:
        return [_door_command(self.name, self.region, "--no-invoker-iam-check")]


def unchecked(service: Mapping[str, Any]) -> bool:
    """Return whether Google lets every caller through to a service."""
    return _noted(service, UNCHECKED)


def _noted(service: Mapping[str, Any], annotation: str) -> bool:
    return str(service["metadata"].get("annotations", {}).get(annotation, "")).lower() == "true"


def _door_command(name: str, region: str, flag: str, track: Sequence[str] = ()) -> Command:
    return command(*track, "run", "services", "update", name, f"--region={region}", flag)


PROXIED = "run.googleapis.com/iap-enabled"  # api_lib/run/service.py of gcloud 528


@dataclass(frozen=True, kw_only=True)
class Proxy(Resource):
    """A function behind Identity-Aware Proxy, which signs people in, and lets in those whom a right names.

    gcloud grants the proxy's own account roles/run.invoker, or warns that the account is not known yet
    (serverless_operations.py of gcloud 528): the Grant after it is what waits for that.
    """

    kind: ClassVar[str] = "people at"
    region: str

    def wanted(self, cloud: Cloud) -> Facts:
        return {"signed in by": "Identity-Aware Proxy"}

    def found(self, cloud: Cloud) -> Facts | None:
        if (service := cloud.services.get(self.name)) is None:
            return None
        return {"signed in by": "Identity-Aware Proxy" if proxied(service) else "nobody"}

    def make(self, cloud: Cloud) -> Sequence[Command]:
        return [_door_command(self.name, self.region, "--iap", cloud.tools.iap)]


def proxied(service: Mapping[str, Any]) -> bool:
    """Return whether Identity-Aware Proxy is before a service."""
    return _noted(service, PROXIED)


def policy_command(verb: str, target: str, role: str, member: Word, region: str) -> Command:
    """Add or remove one binding."""
    kind, _, name = target.partition(" ")
    words: tuple[Word, ...] = (member, f"--role={role}")
    if kind == "project":
        words += ("--condition=None",)
    if kind == "function":
        words += (f"--region={region}",)
    where = f"gs://{name}" if kind == "bucket" else name
    return command(*SURFACES[kind], f"{verb}-iam-policy-binding", where, *words)


def stale(config: Config, cloud: Cloud, declared: Sequence[Resource]) -> tuple[list[Change], list[Change]]:
    """Return what takes away unwanted access to what is ours: that of everybody, and of our own accounts.

    The first goes before all else; the other at the end, as what runs until then may need it. So does a right
    of everybody to call a function whose door is open: versions before had it in place of the door.
    """
    ours = {f"serviceAccount:{config.account(name)}" for name in ACCOUNTS}
    keep = {(each.target, each.name, each.member) for each in declared if isinstance(each, Grant)}
    doors = {f"function {each.name}" for each in declared if isinstance(each, Door)}
    proxies = {each.name for each in declared if isinstance(each, Proxy)}
    public, own = [], []
    for name, service in sorted(cloud.services.items()):
        if name.startswith("dropcap-") and f"function {name}" not in doors and unchecked(service):
            shut = _door_command(name, config.region, "--invoker-iam-check")
            title, now = f"{Door.kind} {name}", "checked by the function"
            public.append(Change(title, now, "checked by Google", "a door that is to be shut", (shut,)))
        if name.startswith("dropcap-") and name not in proxies and proxied(service):
            shut = _door_command(name, config.region, "--no-iap", cloud.tools.iap)
            title, now = f"{Proxy.kind} {name}", "signed in by Identity-Aware Proxy"
            public.append(Change(title, now, "not let in by it", "a door that is to be shut", (shut,)))
    for target, bindings in sorted(cloud.policies.items()):
        for role, member in bindings:
            if (target, role, member) in keep:
                continue
            remove = policy_command("remove", target, role, f"--member={member}", config.region)
            title = _title(role, member, target)
            if member in ours or (member in EVERYBODY and target in doors):
                own.append(Change(title, "granted", ABSENT, "no longer needed", (remove,)))
            elif member in EVERYBODY and not target.startswith("project "):
                public.append(Change(title, "granted", ABSENT, "a door that is to be shut", (remove,)))
    return public, own


ACCOUNTS = ("on-upload", "analyze", "sweep", "get-progress-stats", "gallery", "trigger", "scheduler", "build")


def _title(role: str, member: str, target: str) -> str:
    return f"right {role.removeprefix('roles/')} of {short(member)} on {target}"


def short(member: str) -> str:
    """A member without what is the same for all: dropcap-analyze, allUsers."""
    return member.partition(":")[2].partition("@")[0] if ":" in member else member
