# ruff: noqa: S608  what is put into the SQL are the rules below; users and instants are parameters
"""A user's progress, computed in SQL from the recorded analyses: counts, streaks, achievements.

Each analysis counts for the day it fell on in its own time zone, or in the setting's, which the connection
carries as its TimeZone. Nothing that is derived is stored but `achievements`, for whoever reads that table;
`stats` computes them afresh, so a changed rule or zone shows at once.
"""

import datetime as dt
from collections.abc import Mapping
from typing import Any, Protocol

from dropcap.tables import UNNAMED


class Queries(Protocol):
    """What runs a query; `database.Database` does."""

    def query(self, sql: str, **values: Any) -> list[list[Any]]: ...


def _pictures(number: int) -> str:
    return f"SELECT at FROM event WHERE nth = {number}"


def _days_in_a_row(number: int) -> str:
    return f"SELECT min(reached_at) FROM streak WHERE nth = {number}"


def _between(first_hour: int, end_hour: int) -> str:
    return f"SELECT min(at) FROM event WHERE hour >= {first_hour} AND hour < {end_hour}"


# Each achievement by name, and the SQL of the instant it was earned at: NULL while it is not.
RULES: Mapping[str, str] = {
    "first_picture": _pictures(1),
    "ten_pictures": _pictures(10),
    "hundred_pictures": _pictures(100),
    "thousand_pictures": _pictures(1000),
    "three_days_in_a_row": _days_in_a_row(3),
    "seven_days_in_a_row": _days_in_a_row(7),
    "thirty_days_in_a_row": _days_in_a_row(30),
    "hundred_days_in_a_row": _days_in_a_row(100),
    "early_bird": _between(5, 7),
    "night_owl": _between(0, 4),
}

# A streak is a run of local days without a gap: `day` minus its place in the order is the same all along it.
# `reached_at` is when all days of the run so far had been seen; days can overlap for a user who travels.
EVENTS = """
event AS (
  SELECT analyzed_at AS at, zone, local::date AS day, extract(hour FROM local) AS hour,
         row_number() OVER (ORDER BY analyzed_at, id) AS nth
  FROM (SELECT id, analyzed_at, zone, analyzed_at AT TIME ZONE zone AS local
        FROM (SELECT id, analyzed_at, coalesce(time_zone, current_setting('TimeZone')) AS zone
              FROM analyses WHERE user_id = :user) AS zoned) AS localised
),
run AS (
  SELECT day, min(at) AS at, day - (row_number() OVER (ORDER BY day))::int AS run FROM event GROUP BY day
),
streak AS (
  SELECT day, run, row_number() OVER so_far AS nth, max(at) OVER so_far AS reached_at
  FROM run WINDOW so_far AS (PARTITION BY run ORDER BY day)
)
"""


def _earned(rules: Mapping[str, str]) -> str:
    """The query part `earned`: each rule's name and instant, where it is earned."""
    rows = ", ".join(f"('{name}', ({instant}))" for name, instant in rules.items())
    return f"""
earned AS (
  SELECT achievement_name, earned_at FROM (VALUES {rows}) AS rule (achievement_name, earned_at)
  WHERE earned_at IS NOT NULL
)
"""


def update_achievements(rules: Mapping[str, str] = RULES) -> str:
    """The statement that brings the stored achievements of `:user` in line with the rules in `:known`.

    Names that no rule knows stay: they come from the old web app.
    """
    return f"""
WITH {EVENTS}, {_earned(rules)}, gone AS (
  DELETE FROM achievements
  WHERE user_id = :user AND achievement_name = ANY (CAST(:known AS text[]))
    AND achievement_name NOT IN (SELECT achievement_name FROM earned)
)
INSERT INTO achievements AS stored (user_id, achievement_name, earned_at)
SELECT :user, achievement_name, earned_at FROM earned
ON CONFLICT (user_id, achievement_name) DO UPDATE SET earned_at = excluded.earned_at
WHERE stored.earned_at <> excluded.earned_at
"""


def stats(
    database: Queries, user: str, now: dt.datetime | None = None, rules: Mapping[str, str] = RULES
) -> dict[str, Any]:
    """The progress of a user, ready for JSON; zeros, an empty list and None for one who is unknown.

    Today and the ISO week are those of the zone of the user's latest picture. A streak is current while its
    last day is today or yesterday, as today is not over. Instants are ISO 8601 with the offset of the
    setting's zone. One query.
    """
    sql = f"""
WITH {EVENTS}, {_earned(rules)},
latest AS (SELECT at, zone FROM event ORDER BY nth DESC LIMIT 1),
today AS (
  SELECT (coalesce(CAST(:now AS timestamptz), now())
    AT TIME ZONE coalesce((SELECT zone FROM latest), current_setting('TimeZone')))::date AS today
),
all_earned AS (
  SELECT achievement_name, earned_at FROM earned
  UNION ALL
  SELECT achievement_name, earned_at FROM achievements
  WHERE user_id = :user AND achievement_name <> ALL (CAST(:known AS text[]))
    AND split_part(achievement_name, ' (', 1) <> :unnamed
)
SELECT json_build_object(
  'user', CAST(:user AS text),
  'pictures_analyzed', (SELECT count(*) FROM event),
  'this_week', (SELECT count(*) FROM event, today WHERE date_trunc('week', day) = date_trunc('week', today)),
  'current_streak',
    coalesce((SELECT nth FROM streak, today WHERE day >= today - 1 ORDER BY day DESC LIMIT 1), 0),
  'longest_streak', coalesce((SELECT max(nth) FROM streak), 0),
  'last_upload_at', (SELECT at FROM latest),
  'achievements',
    coalesce((SELECT json_agg(all_earned ORDER BY earned_at, achievement_name) FROM all_earned), '[]')
)
"""
    known = sorted(rules)
    [[progress]] = database.query(sql, user=user, now=now, known=known, unnamed=UNNAMED)
    return dict(progress)
