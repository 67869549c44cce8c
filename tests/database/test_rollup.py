# ruff: noqa: S608  the SQL is made of this file's own words
"""Each picture is counted once, however and in whatever order it is recorded, and counting blocks none."""

import datetime as dt
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, closing
from itertools import count
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dropcap.database import progress, rollup
from dropcap.database.connection import DatabaseUnavailable, connect_to_schema
from dropcap.database.transactions import Database
from dropcap.gallery import edits
from dropcap.settings import Settings
from tests.support.database import plain_progress as plain
from tests.support.database.uploads import RACERS, race, record, upload

START = dt.datetime(2026, 3, 5, tzinfo=dt.UTC)
ZONES = (None, "UTC", "Pacific/Auckland", "Pacific/Honolulu", "America/New_York", "Asia/Kolkata")
SETTINGS = ("UTC", "Pacific/Auckland")  # two that the setting is, one after the other


def insert(
    database: Database, user: str, minutes: int, zone: str | None = None, counted: str = "DEFAULT"
) -> None:
    """Insert as a revision that counts nothing; `counted` true: as one before the column existed."""
    database.query(
        "INSERT INTO analyses (id, user_id, analyzed_at, time_zone, result, counted) "
        f"VALUES (:id, :user, :at, :zone, '{{}}', {counted}) RETURNING id",
        id=uuid.uuid4(),
        user=user,
        at=START + dt.timedelta(minutes=minutes),
        zone=zone,
    )


def add(database: Database, user: str, minutes: int, zone: str | None = None) -> None:
    """Record as this revision does."""
    at = START + dt.timedelta(minutes=minutes)
    assert record(database, upload(f"{user}/{uuid.uuid4()}.png"), analyzed_at=at, time_zone=zone)


def totals(database: Database) -> list[list[Any]]:
    return database.query("SELECT user_id, pictures FROM progress_totals ORDER BY 1")


def rules(module: Any) -> dict[str, Any]:
    """Return rules of each kind that short histories reach, made by one of the two modules."""
    pictures = {f"picture {n}": module.pictures(n) for n in (1, 2, 5)}
    days = {f"day {n}": module.days_in_a_row(n) for n in (1, 2, 3, 4)}
    return pictures | days | {f"from {hour}": module.between(hour, hour + 6) for hour in (0, 6, 12, 18)}


@pytest.fixture
def moving(database_url: str) -> Iterator[list[Database]]:
    """Instances with one setting of TIME_ZONE and with another."""
    with ExitStack() as open_:
        yield [
            open_.enter_context(closing(Database(Settings(database_url=database_url, time_zone=zone))))
            for zone in SETTINGS
        ]


def remove(database: Database, user: str, nth: int) -> None:
    """Delete the n-th of the user's pictures by time, as the gallery does."""
    ids = database.query(
        "SELECT id FROM analyses WHERE user_id = :user ORDER BY analyzed_at, time_zone, counted", user=user
    )
    if not ids:
        return
    id = ids[nth % len(ids)][0]
    database.query(
        "INSERT INTO uploads (id, bucket, name, generation, user_id, state) "
        "VALUES (:id, 'b', :name, 1, :user, 'done') "
        "ON CONFLICT (id) DO UPDATE SET state = 'done' RETURNING 1",
        id=id,
        name=f"{user}/x.png",
        user=user,
    )
    database.transaction(lambda run: edits._unpublish(run, user, id))


# What the three tables hold of a user whose pictures are all counted.
RECOUNT = f"""
WITH {plain.EVENTS}
SELECT json_build_object(
  'pictures', (SELECT count(*) FROM event),
  'days', (SELECT json_agg(json_build_array(day, pictures, at, nth, reached_at) ORDER BY day) FROM (
    SELECT day, count(*) AS pictures, min(at) AS at FROM event GROUP BY day) AS d
    JOIN (SELECT day, nth, reached_at FROM streak) AS s USING (day)),
  'hours', (SELECT json_agg(json_build_array(hour::int, at) ORDER BY hour) FROM (
    SELECT hour, min(at) AS at FROM event GROUP BY hour) AS h))
"""
STORED = """
SELECT json_build_object(
  'pictures', coalesce((SELECT pictures FROM progress_totals WHERE user_id = :user), 0),
  'days', (SELECT json_agg(json_build_array(day, pictures, first_at, nth, reached_at) ORDER BY day)
           FROM progress_days WHERE user_id = :user),
  'hours', (SELECT json_agg(json_build_array(hour, first_at) ORDER BY hour)
            FROM progress_hours WHERE user_id = :user))
"""


def recounted(database: Database, user: str) -> None:
    assert database.query(STORED, user=user) == database.query(RECOUNT, user=user)


def settled(database: Database, user: str) -> None:
    """Check that after a deletion the figures are right, or the next request recounts the user."""
    complete = f"SELECT {rollup.COMPLETE} FROM progress_totals WHERE user_id = :user"
    if database.query(complete, user=user) == [[True]]:
        recounted(database, user)


MINUTES = st.integers(0, 10 * 24 * 60) | st.integers(0, 20).map(lambda hours: hours * 720)
EVENT = st.tuples(
    st.sampled_from(["before", "not counted", *["recorded"] * 3, "request", "deleted", "deleted"]),
    st.sampled_from([0, 0, 0, 1]),
    MINUTES,
    st.sampled_from(ZONES),
)


@settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],  # each example has a user of its own
)
@given(events=st.lists(EVENT, min_size=1, max_size=18), now=MINUTES)
def test_the_figures_are_those_of_plain_sql_for_any_history(
    moving: list[Database], monkeypatch: pytest.MonkeyPatch, events: list[Any], now: int
) -> None:
    monkeypatch.setattr(rollup, "BATCH", 3)
    user, then = uuid.uuid4().hex, START + dt.timedelta(minutes=now)
    # Rows from before the column existed come first.
    for kind, setting, minutes, zone in sorted(events, key=lambda event: event[0] != "before"):
        database = moving[setting]
        if kind == "recorded":
            add(database, user, minutes, zone)
        elif kind == "request":
            agree(database, user, then)
        elif kind == "deleted":
            remove(database, user, minutes)
            settled(database, user)
        else:
            insert(database, user, minutes, zone, "true" if kind == "before" else "DEFAULT")
    for database in moving:
        agree(database, user, then)
        recounted(database, user)
        remove(database, user, now)
        settled(database, user)
    add(database, user, 7000)
    agree(database, user, then)  # by now the user is recounted
    stored = "SELECT achievement_name, to_json(earned_at) FROM achievements WHERE user_id = :user ORDER BY 1"
    earned = plain.stats(database, user)["achievements"]
    assert database.query(stored, user=user) == sorted([*each.values()] for each in earned)


def agree(database: Database, user: str, now: dt.datetime) -> None:
    ours = progress.stats(database, user, now, rules(progress))
    assert ours == plain.stats(database, user, now, rules(plain))


def test_earlier_rows_are_counted_at_the_first_request_and_not_rewritten(database: Database) -> None:
    for n in range(3):
        insert(database, "ana", n * 1440, counted="true")
    rows = "SELECT ctid::text, xmin::text FROM analyses ORDER BY 1"
    before = database.query(rows)
    assert progress.stats(database, "ana")["longest_streak"] == 3
    assert database.query(rows) == before
    assert totals(database) == [["ana", 3]]


def test_the_next_record_counts_earlier_rows(database: Database) -> None:
    for n in range(3):
        insert(database, "ana", n * 1440, counted="true")
    add(database, "ana", 3 * 1440)
    assert totals(database) == [["ana", 4]]
    names = database.query("SELECT achievement_name FROM achievements ORDER BY 1")
    assert names == [["first_picture"], ["night_owl"], ["three_days_in_a_row"]]


def test_rows_of_a_revision_that_does_not_count_are_counted_once(database: Database) -> None:
    add(database, "ana", 0)
    for n in range(1, 3):
        insert(database, "ana", n)
        for _ in range(2):
            assert progress.stats(database, "ana")["pictures_analyzed"] == n + 1
    insert(database, "ana", 3)
    add(database, "ana", 4)
    assert totals(database) == [["ana", 5]]
    assert database.query("SELECT count(*) FROM analyses WHERE NOT counted") == [[0]]


def test_a_request_with_all_counted_is_one_query(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    add(database, "ana", 0)
    monkeypatch.setattr(progress, "count_pictures", lambda *_: pytest.fail("it counts"))
    for user in ("ana", "nobody"):
        progress.stats(database, user)
    assert totals(database) == [["ana", 1]]


def test_deleting_the_users_row_recounts_them(database: Database) -> None:
    for n in range(3):
        add(database, "ana", n * 1440)
    database.query(
        "DELETE FROM analyses WHERE analyzed_at = :at RETURNING id", at=START + dt.timedelta(days=1)
    )
    database.query("DELETE FROM progress_totals WHERE user_id = 'ana' RETURNING 1")
    stats = progress.stats(database, "ana", START)
    assert (stats["pictures_analyzed"], stats["longest_streak"]) == (2, 1)
    agree(database, "ana", START)


def test_a_changed_time_zone_setting_recounts_only_users_without_a_zone(moving: list[Database]) -> None:
    add(moving[0], "ana", 0, "UTC")
    add(moving[0], "bo", 0)
    counted = "SELECT user_id, xmin::text FROM progress_totals ORDER BY 1"
    before = moving[0].query(counted)
    for user in ("ana", "bo"):
        progress.stats(moving[1], user)
    after = moving[0].query(counted)
    assert [old == new for old, new in zip(before, after, strict=True)] == [True, False]


def test_many_pictures_are_counted_in_batches_while_uploads_continue(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rollup, "BATCH", 10)
    for n in range(35):
        insert(database, "ana", n, counted="true")
    for n in range(5):
        insert(database, "ana", n)
    counted = []
    for n in range(5):
        add(database, "ana", 100 + n)
        counted.append(totals(database)[0][1])
    assert counted == [10, 20, 30, 40, 45]
    agree(database, "ana", START)


def test_more_rows_of_another_revision_than_one_transaction_takes_are_counted_once(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rollup, "BATCH", 4)
    for n in reversed(range(10)):
        insert(database, "ana", n)
    agree(database, "ana", START)
    assert totals(database) == [["ana", 10]]


def test_counting_that_takes_too_long_is_a_transient_error_and_continues_at_the_next_request(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rollup, "BATCH", 10)
    for n in range(35):
        insert(database, "ana", n, counted="true")
    with monkeypatch.context() as slow:
        clock = count(step=1000)
        slow.setattr("dropcap.database.progress.time", SimpleNamespace(monotonic=lambda: next(clock)))
        for counted in (10, 20):
            with pytest.raises(DatabaseUnavailable, match="still being counted"):
                progress.stats(database, "ana")
            assert totals(database) == [["ana", counted]]
    assert progress.stats(database, "ana")["pictures_analyzed"] == 35


def test_concurrent_requests_and_records_count_pictures_once(database: Database, database_url: str) -> None:
    for n in range(50):
        insert(database, "ana", n * 300, counted="true" if n % 2 else "DEFAULT")

    def both(racer: Database, number: int) -> None:
        if number % 2:
            add(racer, "ana", number * 400, "Asia/Kolkata")
        progress.stats(racer, "ana")

    race(database_url, both)
    assert totals(database) == [["ana", 50 + RACERS // 2]]
    agree(database, "ana", START)


def test_a_row_committed_late_is_counted_by_the_next_request(database: Database, database_url: str) -> None:
    add(database, "ana", 0)
    with closing(connect_to_schema(database_url)) as outside:
        outside.run("BEGIN")
        outside.run(
            "INSERT INTO analyses (id, user_id, analyzed_at, result) "
            "VALUES (gen_random_uuid(), 'ana', now(), '{}')"
        )
        assert progress.stats(database, "ana")["pictures_analyzed"] == 1
        outside.run("COMMIT")
    assert progress.stats(database, "ana")["pictures_analyzed"] == 2


def test_a_deletion_costs_the_same_with_many_pictures(database: Database) -> None:
    """Of a user with 200 pictures and of one with 4,000: ten a day, a week on and a day off."""
    for user, number in (("few", 200), ("many", 4000)):
        database.query(
            "INSERT INTO analyses (id, user_id, analyzed_at, time_zone, result, counted) "
            "SELECT gen_random_uuid(), :user, CAST(:start AS timestamptz) + n * interval '144 minutes' "
            "+ n / 70 * interval '1 day', 'UTC', '{}', true "
            "FROM generate_series(1, :number) AS n RETURNING 1",
            user=user,
            start=START,
            number=number,
        )
        progress.stats(database, user)
    database.query(
        "INSERT INTO analyses (id, user_id, analyzed_at, result) SELECT gen_random_uuid(), "
        "'u' || n, now(), '{}' FROM generate_series(1, 2000) AS n RETURNING 1"
    )
    with closing(connect_to_schema(database.settings.database_url)) as outside:
        outside.run("VACUUM ANALYZE")
    touched = {
        user: [rows_of_deletion(database, user, nth) for nth in (0, 50, 100)] for user in ("few", "many")
    }
    for few, many in zip(touched["few"], touched["many"], strict=True):
        assert many <= 1.5 * few + 10, touched
    for user in ("few", "many"):
        recounted(database, user)


def rows_of_deletion(database: Database, user: str, nth: int) -> int:
    """Return the rows that deleting the n-th picture by time reads and writes."""
    [[id]] = database.query(
        "SELECT id FROM analyses WHERE user_id = :user ORDER BY analyzed_at OFFSET :nth LIMIT 1",
        user=user,
        nth=nth,
    )
    rows = 0

    def work(run: Any) -> None:
        def explained(sql: str, **values: Any) -> Any:
            nonlocal rows
            run("SAVEPOINT explained")
            [[[plan]]] = run(f"EXPLAIN (ANALYZE, FORMAT JSON) {sql}", **values)
            run("ROLLBACK TO SAVEPOINT explained")
            rows += read(plan["Plan"])
            return run(sql, **values)

        run("SET LOCAL enable_seqscan = off")  # which is taken in tables of so few pages
        rollup.lock(run, user)
        [[at, zone, counted]] = explained(edits.DELETE, user=user, id=id)
        assert rollup.subtract(explained, user, at, zone, counted)

    database.transaction(work)
    return rows


def read(plan: dict[str, Any]) -> int:
    """Return the rows that a plan's scans read."""
    own = 0
    if "Relation Name" in plan:
        own = plan["Actual Loops"] * (plan["Actual Rows"] + plan.get("Rows Removed by Filter", 0))
    return own + sum(map(read, plan.get("Plans", ())))


def nth_of(database: Database, at: int, user: str = "ana") -> int:
    """Return the index by time of the user's picture of that minute."""
    times = database.query("SELECT analyzed_at FROM analyses WHERE user_id = :user ORDER BY 1", user=user)
    return times.index([START + dt.timedelta(minutes=at)])


@pytest.mark.parametrize("gone", range(8))
def test_deleting_a_day_splits_a_streak(database: Database, gone: int) -> None:
    """And deleting the first picture of a day can move when that day and those after it were reached."""
    for day in (0, 1, 2, 3, 4, 5, 7, 8):
        add(database, "ana", day * 1440, "UTC")
    for hour in (30, 100):  # the second picture of a day, later than the first of the days that follow it
        add(database, "ana", hour * 60, "Pacific/Honolulu")
    remove(database, "ana", nth_of(database, (0, 1, 2, 3, 4, 5, 7, 8)[gone] * 1440))
    recounted(database, "ana")


def test_deleting_an_uncounted_picture_keeps_sums(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(database, "ana", 0, "UTC")
    insert(database, "ana", 10, "UTC")
    insert(database, "ana", 20, "UTC")
    remove(database, "ana", nth_of(database, 10))
    assert totals(database) == [["ana", 1]]
    agree(database, "ana", START)
    recounted(database, "ana")
    for n in range(3, 9):
        insert(database, "bo", n * 10, "UTC", counted="true")
    monkeypatch.setattr(rollup, "BATCH", 2)
    add(database, "bo", 0, "UTC")  # which counts two more of the earlier ones
    assert totals(database)[1] == ["bo", 3]
    remove(database, "bo", nth_of(database, 80, "bo"))
    assert totals(database)[1] == ["bo", 3]
    agree(database, "bo", START)
    recounted(database, "bo")


def test_a_deletion_that_would_search_too_far_recounts_the_user_at_the_next_request(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    for n in range(12):
        insert(database, "ana", 720 + n, "UTC")
    for minutes in (0, 3 * 1440):
        add(database, "ana", minutes, "UTC")
    monkeypatch.setattr(rollup, "BATCH", 5)
    remove(database, "ana", 0)
    assert totals(database) == []
    agree(database, "ana", START)
    recounted(database, "ana")


def test_deleting_the_last_picture_deletes_the_users_sums_and_achievements(database: Database) -> None:
    add(database, "ana", 0)
    remove(database, "ana", 0)
    for table in ("progress_totals", "progress_days", "progress_hours", "achievements"):
        assert database.query(f"SELECT count(*) FROM {table}") == [[0]]
