"""What every kind of resource has in common: facts that are wanted, facts that are found, the way there."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from infra.cloud.gcloud.command import Command

if TYPE_CHECKING:
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
class Resource(ABC):
    """Something that exists in the cloud. What is found beyond the wanted facts is left as it is."""

    name: str
    why: str
    kind: ClassVar[str]
    data: ClassVar[bool] = False  # destroyed with DATA=1 alone
    aside: ClassVar[str] = ""

    @property
    def title(self) -> str:
        """What it is called in a plan."""
        return f"{self.kind} {self.name}".strip()

    @abstractmethod
    def wanted(self, cloud: "Cloud") -> Facts:
        """What it should be, by words for people."""

    @abstractmethod
    def found(self, cloud: "Cloud") -> Facts | None:
        """What it is, by the same words; None where there is none."""

    @abstractmethod
    def make(self, cloud: "Cloud") -> Sequence[Command]:
        """The commands that make it."""

    def change(self, cloud: "Cloud", differing: Facts) -> Sequence[Command]:
        """The commands that change it, where `differing` is wanted; if no others, those that make it."""
        return self.make(cloud)

    def remove(self, cloud: "Cloud") -> Sequence[Command]:
        """The commands that take it down; none for what stays."""
        return ()

    def summary(self, wanted: Facts) -> str:
        """What is made, in words."""
        return ", ".join(_fact(name, value) for name, value in wanted.items()) or "there"

    def difference(self, cloud: "Cloud") -> Change | None:
        """What is to be done, if anything."""
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

    def removal(self, cloud: "Cloud") -> Change | None:
        """What takes it down, where it is there."""
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
