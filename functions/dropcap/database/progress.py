# ruff: noqa: S608  the SQL is composed of the rules below; users and instants are parameters
"""A user's progress: counts, streaks and achievements, from the tables that `rollup.py` maintains.

A query reads a few rows by index, however many pictures there are: the user's totals, the last day, the days
of this week, the first instant of each hour, and for the n-th picture n index entries. The results of the
rules are stored only in `achievements`, for other readers of that table. `stats` evaluates the rules anew, so
a changed rule takes effect at once.
"""

import datetime as dt
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dropcap.database import rollup
from dropcap.database.connection import DatabaseUnavailable
from dropcap.database.rollup import COMPLETE, ZONE
from dropcap.database.schema.tables import UNNAMED
from dropcap.database.transactions import Database, Executor

PICTURES, DAYS = "pictures", "days in a row"


@dataclass(frozen=True, slots=True)
class Rule:
    """An achievement: it is earned at `target` of what it `counts`.

    `earned_at` is the SQL for the instant at which it was earned, or NULL.
    """

    counts: str
    target: int
    earned_at: str


def pictures(number: int) -> Rule:
    earned_at = (
        "SELECT analyzed_at FROM analyses WHERE user_id = :user "
        f"ORDER BY analyzed_at OFFSET {number - 1} LIMIT 1"
    )
    return Rule(PICTURES, number, earned_at)


def days_in_a_row(number: int) -> Rule:
    earned_at = f"SELECT min(reached_at) FROM progress_days WHERE user_id = :user AND nth = {number}"
    return Rule(DAYS, number, earned_at)


def between(first_hour: int, end_hour: int) -> Rule:
    earned_at = (
        "SELECT min(first_at) FROM progress_hours "
        f"WHERE user_id = :user AND hour >= {first_hour} AND hour < {end_hour}"
    )
    return Rule(f"picture between {first_hour}:00 and {end_hour}:00", 1, earned_at)


# Achievements by name, which is the title with underscores; of one kind, the lowest target first.
RULES: Mapping[str, Rule] = {
    "first_picture": pictures(1),
    "ten_pictures": pictures(10),
    "hundred_pictures": pictures(100),
    "thousand_pictures": pictures(1000),
    "three_days_in_a_row": days_in_a_row(3),
    "seven_days_in_a_row": days_in_a_row(7),
    "thirty_days_in_a_row": days_in_a_row(30),
    "hundred_days_in_a_row": days_in_a_row(100),
    "early_bird": between(5, 7),
    "night_owl": between(0, 4),
}
# The latest picture, and the user's current day: that of the picture's time zone.
TODAY = f"""
latest AS (
  SELECT analyzed_at AS at, time_zone AS zone
  FROM analyses WHERE user_id = :user ORDER BY analyzed_at DESC, id DESC LIMIT 1
),
today AS (
  SELECT local::date AS today, date_trunc('week', local)::date AS monday
  FROM (SELECT coalesce(CAST(:now AS timestamptz), now())
          AT TIME ZONE coalesce((SELECT zone FROM latest), {ZONE}) AS local) AS localised
)
"""


def _earned(rules: Mapping[str, Rule]) -> str:
    """Return the common table expression `earned`: name and instant of each earned rule."""
    rows = ", ".join(f"('{name}', ({rule.earned_at}))" for name, rule in rules.items())
    return f"""
earned AS (
  SELECT achievement_name, earned_at FROM (VALUES {rows}) AS rule (achievement_name, earned_at)
  WHERE earned_at IS NOT NULL
)
"""


def achievements_update(rules: Mapping[str, Rule] = RULES) -> str:
    """Return the statement that updates the stored achievements of :user to the rules named in :known.

    Achievements without a rule come from the old web app, and stay.
    """
    return f"""
WITH {_earned(rules)}, gone AS (
  DELETE FROM achievements
  WHERE user_id = :user AND achievement_name = ANY (CAST(:known AS text[]))
    AND achievement_name NOT IN (SELECT achievement_name FROM earned)
)
INSERT INTO achievements (user_id, achievement_name, earned_at)
SELECT CAST(:user AS text), achievement_name, earned_at FROM earned
EXCEPT SELECT user_id, achievement_name, earned_at FROM achievements WHERE user_id = :user
ON CONFLICT (user_id, achievement_name) DO UPDATE SET earned_at = excluded.earned_at
"""


def update_achievements(execute: Executor, user: str) -> None:
    """Update the user's stored achievements to RULES. Call it when all pictures are counted."""
    execute(achievements_update(), user=user, known=sorted(RULES))


def count_pictures(database: Database, user: str) -> None:
    """Count the user's pictures that are not counted yet (rollup.py), and update the achievements.

    Raises DatabaseUnavailable after DATABASE_TIMEOUT_S; the next call continues from there.
    """
    ends = time.monotonic() + database.settings.database_timeout_s

    def work(execute: Executor) -> bool:
        rollup.lock(execute, user)
        complete = rollup.count_batch(execute, user)
        if complete:
            update_achievements(execute, user)
        return complete

    while not database.transaction(work):
        if time.monotonic() > ends:
            raise DatabaseUnavailable("The user's pictures are still being counted: try again.")


def stats(
    database: Database, user: str, now: dt.datetime | None = None, rules: Mapping[str, Rule] = RULES
) -> dict[str, Any]:
    """Return the progress of a user, ready for JSON; zeros, an empty list and None for an unknown user.

    Today and the ISO week are those of the time zone of the user's latest picture. A streak is current if its
    last day is today or yesterday, because today is not over. Instants are ISO 8601 with the offset of
    TIME_ZONE. Takes one query, unless pictures have to be counted first.
    """
    sql = f"""
WITH totals AS (SELECT pictures, {COMPLETE} AS complete FROM progress_totals WHERE user_id = :user),
{TODAY},
{_earned(rules)},
all_earned AS (
  SELECT achievement_name, earned_at FROM earned
  UNION ALL
  SELECT achievement_name, earned_at FROM achievements
  WHERE user_id = :user AND achievement_name <> ALL (CAST(:known AS text[]))
    AND split_part(achievement_name, ' (', 1) <> :unnamed
)
SELECT coalesce((SELECT complete FROM totals), NOT EXISTS (SELECT FROM latest)), json_build_object(
  'user', CAST(:user AS text),
  'pictures_analyzed', coalesce((SELECT pictures FROM totals), 0),
  'this_week', coalesce((
    SELECT sum(pictures) FROM progress_days, today
    WHERE user_id = :user AND day >= monday AND day < monday + 7
  ), 0),
  'current_streak', coalesce((
    SELECT nth FROM progress_days, today WHERE user_id = :user AND day >= today - 1 ORDER BY day DESC LIMIT 1
  ), 0),
  'longest_streak', coalesce((SELECT max(nth) FROM progress_days WHERE user_id = :user), 0),
  'last_upload_at', (SELECT at FROM latest),
  'achievements',
    coalesce((SELECT json_agg(all_earned ORDER BY earned_at, achievement_name) FROM all_earned), '[]')
)
"""
    while True:
        known = sorted(rules)
        [[complete, progress]] = database.query(sql, user=user, now=now, known=known, unnamed=UNNAMED)
        if complete:
            return dict(progress)
        count_pictures(database, user)


def days(
    database: Database, user: str, weeks: int, now: dt.datetime | None = None
) -> tuple[dt.date, dict[dt.date, int]]:
    """Return the user's current day, and the number of pictures on each day that has any.

    Covers the last `weeks` ISO weeks, this one included. Call `stats` first, so that all are counted.
    """
    rows = database.query(
        f"""
        WITH {TODAY}
        SELECT today, day, pictures FROM today
        LEFT JOIN progress_days
        ON user_id = :user AND day >= monday - 7 * CAST(:earlier_weeks AS int) AND day <= today
        """,
        user=user,
        now=now,
        earlier_weeks=weeks - 1,
    )
    return rows[0][0], {day: pictures for _, day, pictures in rows if day}
