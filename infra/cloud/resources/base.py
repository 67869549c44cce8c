"""What every kind of resource has in common: wanted facts, found facts, and the commands between them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from infra.cloud.gcloud.command import Command, Word, command
from infra.cloud.inventory import Cloud

Facts = Mapping[str, Any]
ABSENT = "none"


@dataclass(frozen=True, slots=True)
class Change:
    """One line of the plan, and the commands that do it, in order. Neighbours of one `aside` run together."""

    what: str
    now: str
    then: str
    why: str
    commands: tuple[Command, ...]
    aside: str = ""


@dataclass(frozen=True, kw_only=True)
class Resource:
    """Something that exists in the cloud. What is found beyond the wanted facts is left as it is.

    Most kinds have commands of one form: `gcloud SURFACE VERB NAME PLACE SETTINGS`.
    """

    name: str
    why: str
    kind: ClassVar[str]
    data: ClassVar[bool] = False  # destroyed with DATA=1 alone
    aside: ClassVar[str] = ""
    surface: ClassVar[str] = ""  # gcloud's words before the verb
    table: ClassVar[str] = ""  # the field of Cloud that has what is there, by name

    @property
    def title(self) -> str:
        """The name in a plan."""
        return f"{self.kind} {self.name}".strip()

    @property
    def place(self) -> tuple[str, ...]:
        """The flags that say where it is, which each command has."""
        return ()

    def settings(self, cloud: Cloud) -> Sequence[Word]:
        """Return the flags that make it, and change it, to what is wanted."""
        return ()

    def wanted(self, cloud: Cloud) -> Facts:
        """Return what it should be, by words for people."""
        return {}

    def facts(self, cloud: Cloud, there: Any) -> Facts:
        """Return what it is, by the same words; `there` is what gcloud says of it."""
        return {}

    def found(self, cloud: Cloud) -> Facts | None:
        """Return what it is, by the words of `wanted`; None where there is none."""
        there = getattr(cloud, self.table).get(self.name)
        return None if there is None else self.facts(cloud, there)

    def command(self, verb: str, *words: Word, file: tuple[str, str] | None = None) -> Command:
        return command(f"{self.surface} {verb}", self.name, *self.place, *words, file=file)

    def make(self, cloud: Cloud) -> Sequence[Command]:
        """Return the commands that make it."""
        return [self.command("create", *self.settings(cloud))]

    def change(self, cloud: Cloud, differing: Facts) -> Sequence[Command]:
        """Return the commands that change it, where `differing` is wanted."""
        return [self.command("update", *self.settings(cloud))]

    def remove(self, cloud: Cloud) -> Sequence[Command]:
        """Return the commands that take it down; none for what stays."""
        return [self.command("delete")]

    def summary(self, wanted: Facts) -> str:
        """Return what is made, in words."""
        return ", ".join(_fact(name, value) for name, value in wanted.items()) or "there"

    def difference(self, cloud: Cloud) -> Change | None:
        """Return what is to be done, if anything."""
        wanted, found = self.wanted(cloud), self.found(cloud)
        if found is None:
            return Change(
                self.title, ABSENT, self.summary(wanted), self.why, tuple(self.make(cloud)), self.aside
            )
        differing = {name: value for name, value in wanted.items() if found.get(name) != value}
        if not differing:
            return None
        now = ", ".join(_fact(name, found.get(name)) for name in differing)
        then = ", ".join(_fact(name, value) for name, value in differing.items())
        return Change(self.title, now, then, self.why, tuple(self.change(cloud, differing)), self.aside)

    def removal(self, cloud: Cloud) -> Change | None:
        """Return what takes it down, where it is there."""
        if self.found(cloud) is None:
            return None
        commands = tuple(self.remove(cloud))
        return Change(self.title, "there", ABSENT, self.why, commands) if commands else None


def _fact(name: str, value: Any) -> str:
    if value is None:
        return f"no {name}"
    if value is True:
        return name
    return f"no {name}" if value is False else f"{name} {value}"


def at(found: Any, *path: str | int) -> Any:
    """Return what JSON has at a path of names and places; None where it has nothing there."""
    for part in path:
        found = (found or (None,))[part] if isinstance(part, int) else (found or {}).get(part)
    return found


def covers(found: Any, wanted: Any) -> bool:
    """Whether JSON that was found says all that is wanted; what the server adds is ignored."""
    if isinstance(wanted, Mapping):
        known = found if isinstance(found, Mapping) else {}
        return all(covers(known.get(name), value) for name, value in wanted.items())
    if isinstance(wanted, list):
        items = found or []
        return len(items) == len(wanted) and all(map(covers, items, wanted))
    if isinstance(wanted, str) or isinstance(found, str):
        return str(found if found is not None else "") == str(wanted)  # int64 comes as text
    return bool(found == wanted) or not (found or wanted)  # nothing, 0 and false are left out
