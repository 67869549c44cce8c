"""Coordinates of the charts of memory and of days, for the templates.

Charts are SVG with coordinates in % of width and height, so that text keeps its size on a phone.
"""

import datetime as dt
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from dropcap.gallery.cards import Card
from dropcap.settings import Settings

MIB = 1.048576  # MB
AIR = 1.14  # height of the chart in limits: room for the limit's label
BAR = 0.74  # of a stage's width
WEEKS = 53
LEVELS = 4


class StageMemory(NamedTuple):
    """Resident MB at the end of a stage; over several pictures, their maximum (`mb`) and `median`."""

    stage: str
    mb: float
    median: float
    seconds: float | None = None  # that the stage took, if known


@dataclass(frozen=True, slots=True)
class Bar:
    """A stage's bar, of StageMemory; `x`, `width`, `y` and `median_y` are in % of the chart."""

    stage: str
    mb: float
    median: float
    seconds: float | None
    x: float
    width: float
    y: float
    median_y: float
    warned: bool

    @property
    def middle(self) -> float:
        return round(self.x + self.width / 2, 2)


@dataclass(frozen=True, slots=True)
class Panel:
    """Memory by stage, and the limit; `limit_y` and `warning_y` are in % from the top."""

    bars: tuple[Bar, ...]
    limit_mib: int
    limit_y: float
    warning_mb: int
    warning_y: float
    peak: Bar
    share: int  # of the limit, in %

    @property
    def limit_mb(self) -> int:
        return round(self.limit_mib * MIB)


def panel_of(card: Card, settings: Settings) -> Panel | None:
    """Return the memory panel of one picture; None if no stage was measured."""
    stages = card.memory.items()
    return panel_over([StageMemory(stage, mb, mb, card.timings.get(stage)) for stage, mb in stages], settings)


def panel_over(stages: Sequence[StageMemory], settings: Settings) -> Panel | None:
    """Return the memory panel over several pictures; None if there are none."""
    if not stages:
        return None
    limit, warning = settings.memory_limit_mb * MIB, settings.memory_warning_mb
    top = AIR * max(limit, *(each.mb for each in stages))
    step = 100 / len(stages)

    def y(mb: float) -> float:
        return round(100 - 100 * mb / top, 2)

    bars = tuple(
        Bar(
            *each,
            x=round(step * (index + (1 - BAR) / 2), 2),
            width=round(step * BAR, 2),
            y=y(each.mb),
            median_y=y(each.median),
            warned=each.mb > warning,
        )
        for index, each in enumerate(stages)
    )
    peak = max(bars, key=lambda bar: bar.mb)
    share = round(100 * peak.mb / limit)
    return Panel(bars, settings.memory_limit_mb, y(limit), warning, y(warning), peak, share)


@dataclass(frozen=True, slots=True)
class Day:
    """A day of the calendar: week in `column`, weekday in `row`, `level` from 0 (no picture) to LEVELS."""

    date: dt.date
    pictures: int
    level: int
    column: int
    row: int


@dataclass(frozen=True, slots=True)
class Calendar:
    """The weeks up to this one, from Monday; `months` are the columns in which a month begins.

    `side` of a day's square, `step` to the next one, and the margins `left` and `top` are in SVG units.
    """

    days: tuple[Day, ...]
    months: tuple[tuple[int, str], ...]
    side: int = 11
    step: int = 14
    left: int = 26
    top: int = 15

    @property
    def width(self) -> int:
        return (
            self.left + (self.days[-1].column + 2) * self.step
        )  # a month that begins last is wider than its week

    @property
    def height(self) -> int:
        return self.top + 7 * self.step

    @property
    def busy(self) -> tuple[Day, ...]:
        """Return the days with pictures, latest first."""
        return tuple(day for day in reversed(self.days) if day.pictures)

    @property
    def pictures(self) -> int:
        return sum(day.pictures for day in self.days)

    @property
    def best(self) -> Day | None:
        return max(self.busy, key=lambda day: day.pictures, default=None)


def calendar(pictures: Mapping[dt.date, int], today: dt.date) -> Calendar:
    """Return the calendar of pictures per day that ends with `today`."""
    first = today - dt.timedelta(days=today.weekday(), weeks=WEEKS - 1)
    most = max((count for day, count in pictures.items() if first <= day <= today), default=0)
    days, months = [], []
    for number in range((today - first).days + 1):
        date, count = first + dt.timedelta(days=number), pictures.get(first + dt.timedelta(days=number), 0)
        days.append(Day(date, count, _level(count, most), number // 7, number % 7))
        if date.day == 1:
            months.append((number // 7, date.strftime("%b")))
    return Calendar(tuple(days), tuple(months))


def _level(count: int, most: int) -> int:
    """Return the level on a logarithmic scale, so that one day of 1,000 pictures does not hide the others."""
    return math.ceil(LEVELS * math.log1p(count) / math.log1p(most)) if count else 0
