"""Show a user's progress: calendar, counts, achievements, and memory use."""

import datetime as dt
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import flask

from dropcap.database import progress
from dropcap.database.transactions import Database
from dropcap.domain.analysis import stage_order
from dropcap.gallery import pages
from dropcap.gallery.charts import WEEKS, StageMemory
from dropcap.gallery.request import GalleryRequest


@dataclass(frozen=True, slots=True)
class Next:
    """An achievement that is not earned yet: `have` of `target` of what it `counts`."""

    title: str
    counts: str
    have: int
    target: int


def show(request: GalleryRequest) -> flask.Response:
    """Return the progress page. Its calendar has the number of pictures per day (`days`) up to `today`."""
    database = request.services.database
    stats = progress.stats(database, request.user)
    earned = {each["achievement_name"]: each["earned_at"] for each in stats["achievements"]}
    today, days = progress.days(database, request.user, WEEKS)
    return pages.page(
        request,
        "progress.html",
        stats=stats,
        earned=[(_title(name), dt.datetime.fromisoformat(at)) for name, at in earned.items()],
        next=next_ones(stats, earned.keys()),
        today=today,
        days=days,
        memory=memory(database, request.user),
    )


def memory(database: Database, user: str, pictures: int = 50) -> tuple[StageMemory, ...]:
    """Return the resident memory at the end of each stage, over the user's latest pictures."""
    rows = database.query(
        """
        SELECT stage, max(mb), percentile_cont(0.5) WITHIN GROUP (ORDER BY mb)
        FROM (SELECT result->'memory' AS memory FROM analyses WHERE user_id = :user
              ORDER BY analyzed_at DESC, id DESC LIMIT :pictures) AS latest,
             jsonb_each(memory) AS of_stage (stage, used),
             CAST(CASE jsonb_typeof(used) WHEN 'number' THEN used END AS float8) AS mb
        WHERE mb IS NOT NULL
        GROUP BY stage
        """,
        user=user,
        pictures=pictures,
    )
    return tuple(StageMemory(*row) for row in sorted(rows, key=lambda row: stage_order(row[0])))


def next_ones(stats: Mapping[str, Any], earned: Collection[str]) -> tuple[Next, ...]:
    """Return the next achievement of each kind, in the order of the rules; `stats` as of `progress.stats`."""
    reached = {progress.PICTURES: stats["pictures_analyzed"], progress.DAYS: stats["current_streak"]}
    nearest: dict[str, Next] = {}
    for name, rule in progress.RULES.items():
        if name not in earned:
            have = min(reached.get(rule.counts, 0), rule.target - 1)
            nearest.setdefault(rule.counts, Next(_title(name), rule.counts, have, rule.target))
    return tuple(nearest.values())


def _title(name: str) -> str:
    """Return an achievement's title: ours are words with underscores, the old web app's are titles."""
    return name[:1].upper() + name[1:].replace("_", " ")
