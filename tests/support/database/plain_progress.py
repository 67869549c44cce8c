# ruff: noqa: S608  only the rules below are put into the SQL; users and instants are parameters
"""Progress by straightforward SQL over all pictures of a user; `dropcap.database.progress` must agree."""

import datetime as dt
from collections.abc import Mapping
from typing import Any

from dropcap.database.schema.tables import UNNAMED
from dropcap.database.transactions import Database


def pictures(number: int) -> str:
    return f"SELECT at FROM event WHERE nth = {number}"


def days_in_a_row(number: int) -> str:
    return f"SELECT min(reached_at) FROM streak WHERE nth = {number}"


def between(first_hour: int, end_hour: int) -> str:
    return f"SELECT min(at) FROM event WHERE hour >= {first_hour} AND hour < {end_hour}"


# Each achievement by name, and the SQL of the instant it was earned at: NULL while it is not.
RULES: Mapping[str, str] = {
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

# A streak is a run of local days without a gap: `day` minus its place in the order is the same all along it.
# `reached_at` is when all days of the run so far had a picture; days can overlap for a user who travels.
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
    """Return the query part `earned`: each rule's name, and the instant at which it was earned."""
    rows = ", ".join(f"('{name}', ({instant}))" for name, instant in rules.items())
    return f"""
earned AS (
  SELECT achievement_name, earned_at FROM (VALUES {rows}) AS rule (achievement_name, earned_at)
  WHERE earned_at IS NOT NULL
)
"""


def stats(
    database: Database, user: str, now: dt.datetime | None = None, rules: Mapping[str, str] = RULES
) -> dict[str, Any]:
    """Return the same as `dropcap.database.progress.stats`."""
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
