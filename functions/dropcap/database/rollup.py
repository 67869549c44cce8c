# ruff: noqa: S608  what is put into the SQL is this file's own; users and instants are parameters
"""Counts of a user's pictures, from which progress is read: a million cost no more than ten.

    progress_totals    a row a user: how many pictures, and up to which instant they are counted
    progress_days      a row a local day with pictures: how many, the first instant, the day's place in its
                       run of days without a gap, and when the run had come that far
    progress_hours     a row a local hour (0 to 23): the first instant in it

A picture counts for the user's local day and hour: in the picture's own time zone, or in TIME_ZONE, which the
connection has as its TimeZone. It is counted once, in the transaction that records it. Pictures that were
recorded without being counted are counted by the next recording or query for that user, under the user's
advisory lock. There are two kinds of them:

    beyond `counted_to`    all pictures of a user who is not in progress_totals yet: counted in the order of
                           their times, BATCH in one transaction; 'infinity' when none is left
    not `counted`          rows written by a revision that does not count, while one runs beside this one or
                           after a rollback; a partial index finds them

Deleting a picture subtracts it from its day. If it was the first of its day or hour, the next one takes its
place (`forget`).

So nothing has to be migrated, and there is one way to recount a user in any case: delete the row of
progress_totals. That is required after rows of `analyses` are changed or deleted by hand. A user with
pictures without a zone is also recounted when TIME_ZONE has changed since.

Each function works in the caller's transaction (transactions.py), through the `run` that it is given.
"""

import datetime as dt
from typing import Any

from dropcap.database.transactions import Executor

USERS = 0x44726F70  # "Drop": the class of the advisory locks on users
BATCH = 10_000  # pictures counted in one transaction: 0.1 s where they are in memory
ZONE = "current_setting('TimeZone')"

# Of a row of progress_totals: whether nothing of its user's is left to count.
COMPLETE = f"""
counted_to = 'infinity' AND coalesce(time_zone, {ZONE}) = {ZONE}
AND NOT EXISTS (SELECT FROM analyses WHERE user_id = :user AND NOT counted)
"""
# A row is returned where the user's sums begin at nothing; those of another TIME_ZONE are given up.
BEGIN = f"""
INSERT INTO progress_totals AS t (user_id) VALUES (:user)
ON CONFLICT (user_id) DO UPDATE SET pictures = 0, counted_to = '-infinity', time_zone = NULL
WHERE t.time_zone <> {ZONE}
RETURNING 1
"""
EMPTY = (
    "DELETE FROM progress_days WHERE user_id = :user",
    "DELETE FROM progress_hours WHERE user_id = :user",
)
COUNTED_TO = "(SELECT counted_to FROM progress_totals WHERE user_id = :user)"


def _count(new: str, counted_to: str = "counted_to") -> str:
    """The statement that adds the rows (at, time_zone) of the query part `new` to the sums.

    It gives the first day whose place in its run has to be told anew, or NULL.
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


def _late() -> str:
    """Count rows that are not `counted`; those of them beyond `counted_to` come later, with the others."""
    return _count(f"""
marked AS (
  UPDATE analyses SET counted = true
  WHERE id IN (SELECT id FROM analyses WHERE user_id = :user AND NOT counted LIMIT {BATCH})
  RETURNING analyzed_at AS at, time_zone
),
new AS (SELECT at, time_zone FROM marked WHERE at <= {COUNTED_TO})
""")


def _next() -> str:
    """Count rows beyond `counted_to` in the order of their instants, all of one instant together."""
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


def _place(until: str) -> str:
    """Return SQL that renumbers the days of a run, from :day on and before the day `until`.

    A place follows from the day before, or is the first after a gap, so none before :day changes.
    """
    return f"""
WITH before AS (
  SELECT nth, reached_at FROM progress_days WHERE user_id = :user AND day = CAST(:day AS date) - 1
),
later AS (
  SELECT day, first_at, day - (row_number() OVER (ORDER BY day))::int AS run
  FROM progress_days WHERE user_id = :user AND day >= CAST(:day AS date) AND day < {until}
),
placed AS (
  SELECT day, row_number() OVER so_far + coalesce(before.nth, 0) AS nth,
         greatest(max(first_at) OVER so_far, before.reached_at) AS reached_at
  FROM later LEFT JOIN before ON run = CAST(:day AS date) - 1
  WINDOW so_far AS (PARTITION BY run ORDER BY day)
)
UPDATE progress_days AS d SET nth = placed.nth, reached_at = placed.reached_at
FROM placed
WHERE d.user_id = :user AND d.day = placed.day
  AND (d.nth, d.reached_at) IS DISTINCT FROM (placed.nth, placed.reached_at)
RETURNING 1
"""


PLACE = _place("'infinity'")
# If a day was only removed, or starts later, no other run changes.
PLACE_RUN = _place("""coalesce((
    SELECT day FROM progress_days WHERE user_id = :user AND day > CAST(:day AS date) AND nth = 1
    ORDER BY day LIMIT 1
  ), 'infinity')""")
# Subtract one picture from the counts, if it is in them; with its day, hour and zone as counted.
LESS = f"""
UPDATE progress_totals SET pictures = pictures - 1
WHERE user_id = :user AND CAST(:at AS timestamptz) <= counted_to
RETURNING (CAST(:at AS timestamptz) AT TIME ZONE coalesce(CAST(:zone AS text), time_zone, {ZONE}))::date,
  CAST(extract(hour FROM CAST(:at AS timestamptz) AT TIME ZONE coalesce(:zone, time_zone, {ZONE})) AS bigint),
  coalesce(time_zone, {ZONE})
"""
DAY_LESS = """
UPDATE progress_days SET pictures = pictures - 1 WHERE user_id = :user AND day = CAST(:day AS date)
RETURNING pictures, first_at
"""
NO_DAY = "DELETE FROM progress_days WHERE user_id = :user AND day = CAST(:day AS date)"
DAY_FROM = "UPDATE progress_days SET first_at = :first_at WHERE user_id = :user AND day = CAST(:day AS date)"
HOUR = "SELECT first_at FROM progress_hours WHERE user_id = :user AND hour = :hour"
NO_HOUR = "DELETE FROM progress_hours WHERE user_id = :user AND hour = :hour"
HOUR_FROM = "UPDATE progress_hours SET first_at = :first_at WHERE user_id = :user AND hour = :hour"
# Counted pictures from the time :at on, in order.
FROM_THERE = f"""
SELECT analyzed_at AS at, analyzed_at AT TIME ZONE coalesce(time_zone, CAST(:zone AS text)) AS local
FROM analyses
WHERE user_id = :user AND counted AND analyzed_at >= CAST(:at AS timestamptz) AND analyzed_at <= {COUNTED_TO}
"""
# No zone differs from UTC by a day or more.
NEXT_OF_DAY = f"""
SELECT at FROM ({FROM_THERE} AND analyzed_at < CAST(CAST(:day AS date) + 2 AS timestamp) AT TIME ZONE 'UTC'
                ORDER BY analyzed_at) AS near
WHERE local::date = CAST(:day AS date) LIMIT 1
"""
NEXT_OF_HOUR = f"""
SELECT at FROM ({FROM_THERE} ORDER BY analyzed_at LIMIT :most) AS few
WHERE extract(hour FROM local) = :hour LIMIT 1
"""
MORE = f"SELECT 1 FROM ({FROM_THERE}) AS rest OFFSET :most LIMIT 1"
COUNT_ANEW = "DELETE FROM progress_totals WHERE user_id = :user"
# A user without pictures has no row.
NOBODY = f"{COUNT_ANEW} AND NOT EXISTS (SELECT FROM analyses WHERE user_id = :user) RETURNING 1"


def lock(run: Executor, user: str) -> None:
    """Let nobody else record or count for the user until the end of the transaction."""
    run("SELECT pg_advisory_xact_lock(:class, hashtext(:user))", **{"class": USERS}, user=user)


def record(run: Executor, user: str, **analysis: Any) -> bool:
    """Store an analysis, unless it is there, and count it. Needs the user's lock.

    False where not all of the user's pictures are counted yet: some more are at each call.
    """
    complete = count(run, user)
    _add(run, RECORD, user, **analysis)
    return complete


def forget(run: Executor, user: str, at: dt.datetime, zone: str | None, counted: bool) -> bool:
    """Subtract a picture that was just deleted; return whether all other pictures are counted.

    Needs the user's lock. The cost depends on the picture's day and its run of days, not on the number of
    pictures. If that is not enough, the next query recounts the user.
    """
    if counted and not _take_out(run, user, at, zone):
        run(COUNT_ANEW, user=user)
    return bool(run(NOBODY, user=user)) or _complete(run, user)


def _take_out(run: Executor, user: str, at: dt.datetime, zone: str | None) -> bool:
    """Return False if the hour's next picture is not among BATCH, or the counts are inconsistent."""
    for day, hour, setting in run(LESS, user=user, at=at, zone=zone):
        counted = {"user": user, "at": at, "zone": setting}
        left = run(DAY_LESS, user=user, day=day)
        if not left:
            return False
        if left[0][0] < 1:
            run(NO_DAY, user=user, day=day)
            run(PLACE_RUN, user=user, day=day + dt.timedelta(days=1))
        elif left[0][1] == at:
            following = run(NEXT_OF_DAY, day=day, **counted)
            if not following:
                return False
            run(DAY_FROM, user=user, day=day, first_at=following[0][0])
            run(PLACE_RUN, user=user, day=day)
        if run(HOUR, user=user, hour=hour) == [[at]]:
            following = run(NEXT_OF_HOUR, hour=hour, most=BATCH, **counted)
            if following:
                run(HOUR_FROM, user=user, hour=hour, first_at=following[0][0])
            elif run(MORE, most=BATCH, **counted):
                return False
            else:
                run(NO_HOUR, user=user, hour=hour)
    return True


def count(run: Executor, user: str) -> bool:
    """Count what of the user's pictures is not counted, BATCH at most of each kind; whether that was all.

    Needs the user's lock.
    """
    if _complete(run, user):
        return True
    if run(BEGIN, user=user):
        for statement in EMPTY:
            run(statement, user=user)
    for statement in (_late(), _next()):
        _add(run, statement, user)
    return _complete(run, user)


def _complete(run: Executor, user: str) -> bool:
    return run(f"SELECT {COMPLETE} FROM progress_totals WHERE user_id = :user", user=user) == [[True]]


def _add(run: Executor, statement: str, user: str, **values: Any) -> None:
    [[day]] = run(statement, user=user, **values)
    if day is not None:
        run(PLACE, user=user, day=day)
