"""How a user is doing: days, counts, achievements, and what the user's pictures took."""

import datetime as dt
from collections.abc import Collection
from dataclasses import dataclass

import flask

from dropcap.database import progress
from dropcap.gallery import pages, wall
from dropcap.gallery.charts import WEEKS
from dropcap.gallery.request import Visit


@dataclass(frozen=True, slots=True)
class Stats:
    """What `progress.stats` tells, but for the achievements. Streaks are in days."""

    pictures_analyzed: int
    this_week: int
    current_streak: int
    longest_streak: int
    last_upload_at: dt.datetime | None


@dataclass(frozen=True, slots=True)
class Earned:
    """An achievement, and when it was earned."""

    title: str
    at: dt.datetime


@dataclass(frozen=True, slots=True)
class Next:
    """An achievement that is not earned yet: `have` of `target`, of what it `counts`."""

    title: str
    counts: str
    have: int
    target: int


def show(visit: Visit) -> flask.Response:
    """The page; its calendar is the number of pictures by day, `days`, up to `today`."""
    database = visit.services.database
    told = progress.stats(database, visit.user)
    achievements = {each["achievement_name"]: each["earned_at"] for each in told["achievements"]}
    last = told["last_upload_at"]
    stats = Stats(
        told["pictures_analyzed"],
        told["this_week"],
        told["current_streak"],
        told["longest_streak"],
        dt.datetime.fromisoformat(last) if last else None,
    )
    today, days = progress.days(database, visit.user, WEEKS)
    return pages.page(
        visit,
        "progress.html",
        stats=stats,
        earned=tuple(
            Earned(_title(name), dt.datetime.fromisoformat(at)) for name, at in achievements.items()
        ),
        next=next_ones(stats, achievements.keys()),
        today=today,
        days=days,
        memory=wall.memory(database, visit.user),
    )


def next_ones(stats: Stats, earned: Collection[str]) -> tuple[Next, ...]:
    """Of each kind of achievement the nearest that is open, in the order of the rules."""
    reached = {progress.PICTURES: stats.pictures_analyzed, progress.DAYS: stats.current_streak}
    nearest: dict[str, Next] = {}
    for name, rule in progress.RULES.items():
        if name not in earned:
            have = min(reached.get(rule.counts, 0), rule.target - 1)
            nearest.setdefault(rule.counts, Next(_title(name), rule.counts, have, rule.target))
    return tuple(nearest.values())


def _title(name: str) -> str:
    """Ours are words with underscores; the old web app's are titles."""
    return name[:1].upper() + name[1:].replace("_", " ")
