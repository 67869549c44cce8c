"""Access: service accounts, their grants, and the switches that let a function check its own callers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from infra.cloud.config import Config
from infra.cloud.gcloud.command import Command, Word, command, output_of
from infra.cloud.inventory import Cloud
from infra.cloud.resources.base import ABSENT, Change, Facts, Resource, at

EVERYBODY = ("allUsers", "allAuthenticatedUsers")
# By kind of target: the gcloud command group that changes its policy.
SURFACES = {
    "project": "projects",
    "bucket": "storage buckets",
    "secret": "secrets",
    "function": "run services",
    "topic": "pubsub topics",
}


@dataclass(frozen=True, kw_only=True)
class Account(Resource):
    """A service account; `name` is its address."""

    kind: ClassVar[str] = "account"
    parallel_group: ClassVar[str] = "accounts"
    surface: ClassVar[str] = "iam service-accounts"
    table: ClassVar[str] = "accounts"

    @property
    def title(self) -> str:
        return f"{self.kind} {self.name.partition('@')[0]}"

    def make(self, cloud: Cloud) -> Sequence[Command]:
        shown = f"--display-name=Dropcap: {self.why}"[:115]
        return [command(f"{self.surface} create", self.name.partition("@")[0], shown)]


@dataclass(frozen=True, kw_only=True)
class Grant(Resource):
    """One grant: the role `name` for `member` on `target`: `bucket b`, `project p`."""

    kind: ClassVar[str] = "right"
    member: str
    target: str
    region: str = ""
    who: str = ""  # its name for people, if the member is a service agent
    created_by: str = ""  # the command that prints the service agent, and creates it if it is missing

    @property
    def title(self) -> str:
        return _title(self.name, self.member, self.target)

    def wanted(self, cloud: Cloud) -> Facts:
        return {"granted": True}

    def found(self, cloud: Cloud) -> Facts | None:
        held = (self.name, self.member) in cloud.policies.get(self.target, ())
        return self.wanted(cloud) if held else None

    def make(self, cloud: Cloud) -> Sequence[Command]:
        member: Word = (
            output_of("--member=serviceAccount:", self.created_by)
            if self.created_by
            else f"--member={self.member}"
        )
        return [policy_command("add", self.target, self.name, member, self.region)]

    def remove(self, cloud: Cloud) -> Sequence[Command]:
        return [policy_command("remove", self.target, self.name, f"--member={self.member}", self.region)]


@dataclass(frozen=True, slots=True)
class Check:
    """A switch of Cloud Run: who checks the callers of a service, or signs in its visitors."""

    kind: str
    annotation: str  # of a service, if it is on: command_lib/run and api_lib/run of gcloud 528 and 578
    fact: str
    on: str
    off: str
    flags: tuple[str, str]  # that turn it on and off
    shut: str  # the result when it is turned off

    def holds(self, service: Mapping[str, Any]) -> bool:
        """Return whether it is on."""
        return str(at(service, "metadata", "annotations", self.annotation)).lower() == "true"

    def command(self, name: str, region: str, cloud: Cloud, on: bool) -> Command:
        track = cloud.tools.iap if self is PROXIED else ""
        return command(f"{track} run services update", name, f"--region={region}", self.flags[not on])


# The function checks its callers itself, and Google's check for roles/run.invoker is off. Google recommends
# this over a grant to allUsers (cloud.google.com/run/docs/authenticating/public), which organizations created
# since 2024-05-03 refuse by default.
UNCHECKED = Check(
    kind="callers of",
    annotation="run.googleapis.com/invoker-iam-disabled",
    fact="checked by",
    on="the function",
    off="Google",
    flags=("--no-invoker-iam-check", "--invoker-iam-check"),
    shut="checked by Google",
)
# Identity-Aware Proxy signs people in, and lets in those who have a role. gcloud grants the proxy's service
# agent roles/run.invoker, or warns that the account does not exist yet (serverless_operations.py of gcloud
# 528): the Grant after it waits for that.
PROXIED = Check(
    kind="people at",
    annotation="run.googleapis.com/iap-enabled",
    fact="signed in by",
    on="Identity-Aware Proxy",
    off="nobody",
    flags=("--iap", "--no-iap"),
    shut="not let in by it",
)


MAY_ENTER = "roles/iap.httpsResourceAccessor"


@dataclass(frozen=True, kw_only=True)
class AccessSwitch(Resource):
    """A function for which a switch is on."""

    check: Check
    region: str
    table: ClassVar[str] = "services"

    @property
    def title(self) -> str:
        return f"{self.check.kind} {self.name}"

    def wanted(self, cloud: Cloud) -> Facts:
        return {self.check.fact: self.check.on}

    def facts(self, cloud: Cloud, there: Any) -> Facts:
        return {self.check.fact: self.check.on if self.check.holds(there) else self.check.off}

    def make(self, cloud: Cloud) -> Sequence[Command]:
        return [self.check.command(self.name, self.region, cloud, True)]

    def removal(self, cloud: Cloud) -> Change | None:
        """Return the removal of people's access, which Identity-Aware Proxy stores by the service's name."""
        if self.check is not PROXIED or "iap.googleapis.com" not in cloud.apis:
            return None
        surface = f"{cloud.tools.iap} iap web"
        where = ("--resource-type=cloud-run", f"--service={self.name}", f"--region={self.region}")
        policy = cloud.gcloud.read(f"{surface} get-iam-policy", *where) or {}
        bindings = [each for each in policy.get("bindings", ()) if each["role"] == MAY_ENTER]
        people = sorted({member for each in bindings for member in each["members"]})
        remove = (f"{surface} remove-iam-policy-binding", *where, f"--role={MAY_ENTER}", "--all")
        commands = tuple(command(*remove, f"--member={each}") for each in people)
        then = Change(self.title, f"let in: {', '.join(people)}", ABSENT, self.why, commands)
        return then if people else None


def policy_command(verb: str, target: str, role: str, member: Word, region: str) -> Command:
    """Return the command that adds or removes one binding."""
    kind, _, name = target.partition(" ")
    words: tuple[Word, ...] = (member, f"--role={role}")
    if kind == "project":
        words += ("--condition=None",)
    if kind == "function":
        words += (f"--region={region}",)
    where = f"gs://{name}" if kind == "bucket" else name
    return command(f"{SURFACES[kind]} {verb}-iam-policy-binding", where, *words)


def unwanted_access(
    config: Config, cloud: Cloud, declared: Sequence[Resource]
) -> tuple[list[Change], list[Change]]:
    """Return the removals of unwanted access to Dropcap's resources: of the public, and of its own accounts.

    Public access is removed first. That of Dropcap's accounts is removed at the end, because running
    revisions may need it, and so is the public's access to a function that checks its callers itself: earlier
    versions granted it in place of the switch.
    """
    ours = {f"serviceAccount:{config.account(name)}" for name in ACCOUNTS}
    keep = {(each.target, each.name, each.member) for each in declared if isinstance(each, Grant)}
    entrances = {(each.check, each.name) for each in declared if isinstance(each, AccessSwitch)}
    unchecked_functions = {f"function {name}" for check, name in entrances if check is UNCHECKED}
    public, own = [], []
    for name, service in sorted(cloud.services.items()):
        for check in (UNCHECKED, PROXIED):
            if name.startswith("dropcap-") and (check, name) not in entrances and check.holds(service):
                shut = check.command(name, config.region, cloud, False)
                now, why = f"{check.fact} {check.on}", "public access that is not wanted"
                public.append(Change(f"{check.kind} {name}", now, check.shut, why, (shut,)))
    for target, bindings in sorted(cloud.policies.items()):
        for role, member in bindings:
            if (target, role, member) in keep:
                continue
            remove = policy_command("remove", target, role, f"--member={member}", config.region)
            title = _title(role, member, target)
            if member in ours or (member in EVERYBODY and target in unchecked_functions):
                own.append(Change(title, "granted", ABSENT, "no longer needed", (remove,)))
            elif member in EVERYBODY and not target.startswith("project "):
                public.append(Change(title, "granted", ABSENT, "public access that is not wanted", (remove,)))
    return public, own


ACCOUNTS = ("on-upload", "analyze", "sweep", "get-progress-stats", "gallery", "trigger", "scheduler", "build")


def _title(role: str, member: str, target: str) -> str:
    return f"right {role.removeprefix('roles/')} of {short(member)} on {target}"


def short(member: str) -> str:
    """Return a member's short name: dropcap-analyze, allUsers."""
    return member.partition(":")[2].partition("@")[0] if ":" in member else member
