# ruff: noqa: S608  the SQL is composed of this module's constants; users and instants are parameters
"""Counts of each user's pictures, from which progress is computed at a cost that does not grow with them.

    progress_totals    one row per user: the number of pictures, and up to which instant they are counted
    progress_days      one row per local day with pictures: their number, the first instant, the day's
                       position in its streak (days without a gap), and when the streak reached it
    progress_hours     one row per local hour (0 to 23): the first instant in it

A picture counts for its local day and hour: in its own time zone, or in TIME_ZONE, which the connection has
as its TimeZone. It is counted once, in the transaction that records it. Pictures that were recorded without
being counted are counted by the next recording or query for that user, under the user's advisory lock:

    beyond `counted_to`    all pictures of a user without a row in progress_totals: counted in the order of
                           their times, BATCH per transaction; 'infinity' when none is left
    not `counted`          rows of a revision that does not count, which ran beside this one or after a
                           rollback; a partial index finds them

Deleting a picture subtracts it from its day. If it was the first of its day or hour, the next one takes its
place (`subtract`).

So no migration is needed, and there is one way to recount a user: delete the row of progress_totals. That is
required after rows of `analyses` are changed or deleted by hand. Users with pictures without a zone are also
recounted after TIME_ZONE has changed.

Each function runs in the caller's transaction, through its `execute`.
"""

import datetime as dt
from typing import Any

from dropcap.database.transactions import Executor

USER_LOCKS = 0x44726F70  # "Drop": the class of the advisory locks on users
BATCH = 10_000  # pictures counted in one transaction: 0.1 s where they are in memory
ZONE = "current_setting('TimeZone')"

# For a row of progress_totals: whether all pictures of its user are counted.
COMPLETE = f"""
counted_to = 'infinity' AND coalesce(time_zone, {ZONE}) = {ZONE}
AND NOT EXISTS (SELECT FROM analyses WHERE user_id = :user AND NOT counted)
"""
# Start counting a user, or reset counts made in another TIME_ZONE. Returns a row if the counts start at zero.
START = f"""
INSERT INTO progress_totals AS t (user_id) VALUES (:user)
ON CONFLICT (user_id) DO UPDATE SET pictures = 0, counted_to = '-infinity', time_zone = NULL
WHERE t.time_zone <> {ZONE}
RETURNING 1
"""
RESET_DAYS_AND_HOURS = (
    "DELETE FROM progress_days WHERE user_id = :user",
    "DELETE FROM progress_hours WHERE user_id = :user",
)
COUNTED_TO = "(SELECT counted_to FROM progress_totals WHERE user_id = :user)"


def _count(new: str, counted_to: str = "counted_to") -> str:
    """Return the statement that adds the rows (at, time_zone) of the expression `new` to the counts.

    It returns the first day from which streaks have to be renumbered, or NULL.
    """
    return f"""
WITH {new},
placed AS (
  SELECT at, time_zone, local::date AS day, extract(hour FROM local) AS hour
  FROM (SELECT at, time_zone, at AT TIME ZONE coalesce(time_zone, {ZONE}) AS local FROM new) AS localised
),
totals AS (
  UPDATE progress_totals SET pictures = pictures + (SELECT count(*) FROM placed), counted_to = {counted_to},
    time_zone = CASE WHEN EXISTS (SELECT FROM placed WHERE time_zone IS NULL) THEN {ZONE} ELSE time_zone END
  WHERE user_id = :user
),
by_day AS (
  INSERT INTO progress_days AS d (user_id, day, pictures, first_at, nth, reached_at)
  SELECT :user, day, count(*), min(at), 0, min(at) FROM placed GROUP BY day
  ON CONFLICT (user_id, day) DO UPDATE SET
    pictures = d.pictures + excluded.pictures, first_at = least(d.first_at, excluded.first_at),
    nth = CASE WHEN excluded.first_at < d.first_at THEN 0 ELSE d.nth END
  RETURNING day, nth
),
by_hour AS (
  INSERT INTO progress_hours AS h (user_id, hour, first_at)
  SELECT :user, hour, min(at) FROM placed GROUP BY hour
  ON CONFLICT (user_id, hour) DO UPDATE SET first_at = excluded.first_at WHERE excluded.first_at < h.first_at
)
SELECT min(day) FILTER (WHERE nth = 0) FROM by_day
"""


# Insert an analysis unless it exists, and count it unless its turn comes later.
RECORD = _count(f"""
recorded AS (
  INSERT INTO analyses (id, user_id, analyzed_at, time_zone, caption, description, alt_text,
                        tags, picture_text, format, bytes, width, height, result, counted)
  VALUES (:id, :user, :analyzed_at, :time_zone, :caption, :description, :alt_text,
          :tags, :picture_text, :format, :bytes, :width, :height, :result, true)
  ON CONFLICT (id) DO NOTHING RETURNING analyzed_at AS at, time_zone
),
new AS (SELECT at, time_zone FROM recorded WHERE at <= {COUNTED_TO})
""")


def _uncounted() -> str:
    """Count rows that are not `counted`. Those beyond `counted_to` are only marked, and counted in order."""
    return _count(f"""
marked AS (
  UPDATE analyses SET counted = true
  WHERE id IN (SELECT id FROM analyses WHERE user_id = :user AND NOT counted LIMIT {BATCH})
  RETURNING analyzed_at AS at, time_zone
),
new AS (SELECT at, time_zone FROM marked WHERE at <= {COUNTED_TO})
""")


def _next() -> str:
    """Count rows beyond `counted_to` in the order of their instants; equal instants stay together."""
    return _count(
        f"""
reach AS (
  SELECT coalesce((
      SELECT analyzed_at FROM analyses WHERE user_id = :user AND analyzed_at > {COUNTED_TO}
      ORDER BY analyzed_at OFFSET {BATCH - 1} LIMIT 1
    ), 'infinity') AS high
),
new AS (
  SELECT analyzed_at AS at, time_zone FROM analyses
  WHERE user_id = :user AND counted AND analyzed_at > {COUNTED_TO} AND analyzed_at <= (SELECT high FROM reach)
)
""",
        "(SELECT high FROM reach)",
    )


def _renumber(until: str) -> str:
    """Return SQL that renumbers the days of streaks, from :day on and before the day `until`.

    A position depends only on the day before, so none before :day changes.
    """
    return f"""
WITH previous AS (
  SELECT nth, reached_at FROM progress_days WHERE user_id = :user AND day = CAST(:day AS date) - 1
),
later AS (
  SELECT day, first_at, day - (row_number() OVER (ORDER BY day))::int AS streak
  FROM progress_days WHERE user_id = :user AND day >= CAST(:day AS date) AND day < {until}
),
placed AS (
  SELECT day, row_number() OVER so_far + coalesce(previous.nth, 0) AS nth,
         greatest(max(first_at) OVER so_far, previous.reached_at) AS reached_at
  FROM later LEFT JOIN previous ON streak = CAST(:day AS date) - 1
  WINDOW so_far AS (PARTITION BY streak ORDER BY day)
)
UPDATE progress_days AS d SET nth = placed.nth, reached_at = placed.reached_at
FROM placed
WHERE d.user_id = :user AND d.day = placed.day
  AND (d.nth, d.reached_at) IS DISTINCT FROM (placed.nth, placed.reached_at)
RETURNING 1
"""


RENUMBER = _renumber("'infinity'")
# If a day was only removed, or starts later, no other streak changes.
RENUMBER_STREAK = _renumber("""coalesce((
    SELECT day FROM progress_days WHERE user_id = :user AND day > CAST(:day AS date) AND nth = 1
    ORDER BY day LIMIT 1
  ), 'infinity')""")
# Subtract one picture from the totals, if it is in them. Returns its day, hour and zone as counted.
SUBTRACT = f"""
UPDATE progress_totals SET pictures = pictures - 1
WHERE user_id = :user AND CAST(:at AS timestamptz) <= counted_to
RETURNING (CAST(:at AS timestamptz) AT TIME ZONE coalesce(CAST(:zone AS text), time_zone, {ZONE}))::date,
  CAST(extract(hour FROM CAST(:at AS timestamptz) AT TIME ZONE coalesce(:zone, time_zone, {ZONE})) AS bigint),
  coalesce(time_zone, {ZONE})
"""
SUBTRACT_FROM_DAY = """
UPDATE progress_days SET pictures = pictures - 1 WHERE user_id = :user AND day = CAST(:day AS date)
RETURNING pictures, first_at
"""
DELETE_DAY = "DELETE FROM progress_days WHERE user_id = :user AND day = CAST(:day AS date)"
SET_FIRST_OF_DAY = (
    "UPDATE progress_days SET first_at = :first_at WHERE user_id = :user AND day = CAST(:day AS date)"
)
HOUR = "SELECT first_at FROM progress_hours WHERE user_id = :user AND hour = :hour"
DELETE_HOUR = "DELETE FROM progress_hours WHERE user_id = :user AND hour = :hour"
SET_FIRST_OF_HOUR = "UPDATE progress_hours SET first_at = :first_at WHERE user_id = :user AND hour = :hour"
# Counted pictures from the instant :at on.
COUNTED_FROM = f"""
SELECT analyzed_at AS at, analyzed_at AT TIME ZONE coalesce(time_zone, CAST(:zone AS text)) AS local
FROM analyses
WHERE user_id = :user AND counted AND analyzed_at >= CAST(:at AS timestamptz) AND analyzed_at <= {COUNTED_TO}
"""
# Time zones differ from UTC by less than a day, so :day ends before :day + 2 in UTC.
NEXT_OF_DAY = f"""
SELECT at FROM ({COUNTED_FROM} AND analyzed_at < CAST(CAST(:day AS date) + 2 AS timestamp) AT TIME ZONE 'UTC'
                ORDER BY analyzed_at) AS near
WHERE local::date = CAST(:day AS date) LIMIT 1
"""
NEXT_OF_HOUR = f"""
SELECT at FROM ({COUNTED_FROM} ORDER BY analyzed_at LIMIT :most) AS few
WHERE extract(hour FROM local) = :hour LIMIT 1
"""
IS_MORE = f"SELECT 1 FROM ({COUNTED_FROM}) AS rest OFFSET :most LIMIT 1"
RESET_TOTALS = "DELETE FROM progress_totals WHERE user_id = :user"
# A user without pictures has no row.
DELETE_EMPTY_USER = f"{RESET_TOTALS} AND NOT EXISTS (SELECT FROM analyses WHERE user_id = :user) RETURNING 1"


def lock(execute: Executor, user: str) -> None:
    """Acquire the user's advisory lock, so that transactions that record or count run one at a time."""
    execute("SELECT pg_advisory_xact_lock(:class, hashtext(:user))", **{"class": USER_LOCKS}, user=user)


def record(execute: Executor, user: str, **analysis: Any) -> bool:
    """Insert an analysis unless it exists, and count it. Requires the user's lock.

    Returns False if not all pictures of the user are counted yet; each call counts some more.
    """
    complete = count_batch(execute, user)
    _add(execute, RECORD, user, **analysis)
    return complete


def subtract(execute: Executor, user: str, at: dt.datetime, zone: str | None, counted: bool) -> bool:
    """Subtract a picture that was just deleted, and return whether all other pictures are counted.

    Requires the user's lock. The cost depends on the picture's day and its streak, not on the number of
    pictures. If the picture can't be subtracted that way, the next query recounts the user.
    """
    if counted and not _subtract(execute, user, at, zone):
        execute(RESET_TOTALS, user=user)
    return bool(execute(DELETE_EMPTY_USER, user=user)) or _complete(execute, user)


def _subtract(execute: Executor, user: str, at: dt.datetime, zone: str | None) -> bool:
    """Return False if the hour's next picture is not among BATCH, or the counts are inconsistent."""
    for day, hour, setting in execute(SUBTRACT, user=user, at=at, zone=zone):
        counted = {"user": user, "at": at, "zone": setting}
        left = execute(SUBTRACT_FROM_DAY, user=user, day=day)
        if not left:
            return False
        if left[0][0] < 1:
            execute(DELETE_DAY, user=user, day=day)
            execute(RENUMBER_STREAK, user=user, day=day + dt.timedelta(days=1))
        elif left[0][1] == at:
            following = execute(NEXT_OF_DAY, day=day, **counted)
            if not following:
                return False
            execute(SET_FIRST_OF_DAY, user=user, day=day, first_at=following[0][0])
            execute(RENUMBER_STREAK, user=user, day=day)
        if execute(HOUR, user=user, hour=hour) == [[at]]:
            following = execute(NEXT_OF_HOUR, hour=hour, most=BATCH, **counted)
            if following:
                execute(SET_FIRST_OF_HOUR, user=user, hour=hour, first_at=following[0][0])
            elif execute(IS_MORE, most=BATCH, **counted):
                return False
            else:
                execute(DELETE_HOUR, user=user, hour=hour)
    return True


def count_batch(execute: Executor, user: str) -> bool:
    """Count at most BATCH uncounted pictures of each kind, and return whether all are counted.

    Requires the user's lock.
    """
    if _complete(execute, user):
        return True
    if execute(START, user=user):
        for statement in RESET_DAYS_AND_HOURS:
            execute(statement, user=user)
    for statement in (_uncounted(), _next()):
        _add(execute, statement, user)
    return _complete(execute, user)


def _complete(execute: Executor, user: str) -> bool:
    return execute(f"SELECT {COMPLETE} FROM progress_totals WHERE user_id = :user", user=user) == [[True]]


def _add(execute: Executor, statement: str, user: str, **values: Any) -> None:
    [[day]] = execute(statement, user=user, **values)
    if day is not None:
        execute(RENUMBER, user=user, day=day)
