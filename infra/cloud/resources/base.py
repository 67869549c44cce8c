"""The base of every kind of resource: wanted facts, found facts, and the commands between them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from infra.cloud.gcloud.command import Command, Word, command
from infra.cloud.inventory import Cloud

Facts = Mapping[str, Any]
ABSENT = "none"


@dataclass(frozen=True, slots=True)
class Change:
    """One line of the plan, with its commands in order.

    Neighbours of the same `parallel_group` run in parallel.
    """

    what: str
    now: str
    then: str
    why: str
    commands: tuple[Command, ...]
    parallel_group: str = ""


@dataclass(frozen=True, kw_only=True)
class Resource:
    """A resource in the cloud. Only the wanted facts are compared and changed.

    Most kinds have commands of the form `gcloud SURFACE VERB NAME LOCATION SETTINGS`.
    """

    name: str
    why: str
    kind: ClassVar[str]
    data: ClassVar[bool] = False  # whether only DATA=1 destroys it
    parallel_group: ClassVar[str] = ""
    surface: ClassVar[str] = ""  # gcloud's command group
    table: ClassVar[str] = ""  # the field of Cloud with the existing ones, by name

    @property
    def title(self) -> str:
        """Return its name in a plan."""
        return f"{self.kind} {self.name}".strip()

    @property
    def location_flags(self) -> tuple[str, ...]:
        """Return the flags for its location, which every command has."""
        return ()

    def settings(self, cloud: Cloud) -> Sequence[Word]:
        """Return the flags that create it as wanted, or change it to that."""
        return ()

    def wanted(self, cloud: Cloud) -> Facts:
        """Return the wanted facts, with names for people."""
        return {}

    def facts(self, cloud: Cloud, there: Any) -> Facts:
        """Return the facts of an existing one, with the same names; `there` is gcloud's description."""
        return {}

    def found(self, cloud: Cloud) -> Facts | None:
        """Return its facts, with the names of `wanted`; None if it does not exist."""
        there = getattr(cloud, self.table).get(self.name)
        return None if there is None else self.facts(cloud, there)

    def command(self, verb: str, *words: Word, file: tuple[str, str] | None = None) -> Command:
        return command(f"{self.surface} {verb}", self.name, *self.location_flags, *words, file=file)

    def make(self, cloud: Cloud) -> Sequence[Command]:
        """Return the commands that create it."""
        return [self.command("create", *self.settings(cloud))]

    def change(self, cloud: Cloud, differing: Facts) -> Sequence[Command]:
        """Return the commands that change it to the `differing` facts.

        A kind without a command group of its own is made again: its commands are idempotent.
        """
        return [self.command("update", *self.settings(cloud))] if self.surface else self.make(cloud)

    def remove(self, cloud: Cloud) -> Sequence[Command]:
        """Return the commands that remove it; none if it stays."""
        return [self.command("delete")]

    def summary(self, wanted: Facts) -> str:
        """Return a description of a new one."""
        return ", ".join(_fact(name, value) for name, value in wanted.items()) or "exists"

    def difference(self, cloud: Cloud) -> Change | None:
        """Return the change that it needs, if any."""
        wanted, found = self.wanted(cloud), self.found(cloud)
        if found is None:
            return Change(
                self.title,
                ABSENT,
                self.summary(wanted),
                self.why,
                tuple(self.make(cloud)),
                self.parallel_group,
            )
        differing = {name: value for name, value in wanted.items() if found.get(name) != value}
        if not differing:
            return None
        now = ", ".join(_fact(name, found.get(name)) for name in differing)
        then = ", ".join(_fact(name, value) for name, value in differing.items())
        return Change(
            self.title, now, then, self.why, tuple(self.change(cloud, differing)), self.parallel_group
        )

    def removal(self, cloud: Cloud) -> Change | None:
        """Return its removal, if it exists."""
        if self.found(cloud) is None:
            return None
        commands = tuple(self.remove(cloud))
        return Change(self.title, "exists", ABSENT, self.why, commands) if commands else None


@dataclass(frozen=True, kw_only=True)
class RegionalResource(Resource):
    """A resource whose commands name its region as `--location`."""

    region: str

    @property
    def location_flags(self) -> tuple[str, ...]:
        return (f"--location={self.region}",)


def _fact(name: str, value: Any) -> str:
    if value is None:
        return f"no {name}"
    if value is True:
        return name
    return f"no {name}" if value is False else f"{name} {value}"


def at(found: Any, *path: str | int) -> Any:
    """Return the JSON value at a path of keys and indexes; None if there is none."""
    for part in path:
        found = (found or (None,))[part] if isinstance(part, int) else (found or {}).get(part)
    return found


def covers(found: Any, wanted: Any) -> bool:
    """Return whether found JSON contains all that is wanted; additions of the server are ignored."""
    if isinstance(wanted, Mapping):
        known = found if isinstance(found, Mapping) else {}
        return all(covers(known.get(name), value) for name, value in wanted.items())
    if isinstance(wanted, list):
        items = found or []
        return len(items) == len(wanted) and all(map(covers, items, wanted))
    if isinstance(wanted, str) or isinstance(found, str):
        return str(found if found is not None else "") == str(wanted)  # int64 is returned as text
    return bool(found == wanted) or not (found or wanted)  # the server omits empty values, 0 and false
