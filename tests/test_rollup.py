# ruff: noqa: S608  the SQL is made of this file's own words
"""Each picture is counted once, in whatever way and order it comes, and counting keeps none from coming."""

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

from dropcap import progress, rollup
from dropcap.database import Database, Unreachable, connect_inside
from dropcap.settings import Settings
from infra.bench import plain
from tests.test_database import RACERS, race, record, upload

START = dt.datetime(2026, 3, 5, tzinfo=dt.UTC)
ZONES = (None, "UTC", "Pacific/Auckland", "Pacific/Honolulu", "America/New_York", "Asia/Kolkata")
SETTINGS = ("UTC", "Pacific/Auckland")  # two that the setting is, one after the other


def insert(
    database: Database, user: str, minutes: int, zone: str | None = None, counted: str = "DEFAULT"
) -> None:
    """As a revision that counts nothing does; `counted` true: before there was the column."""
    database.query(
        "INSERT INTO analyses (id, user_id, analyzed_at, time_zone, result, counted) "
        f"VALUES (:id, :user, :at, :zone, '{{}}', {counted}) RETURNING id",
        id=uuid.uuid4(),
        user=user,
        at=START + dt.timedelta(minutes=minutes),
        zone=zone,
    )


def add(database: Database, user: str, minutes: int, zone: str | None = None) -> None:
    """As this revision does."""
    at = START + dt.timedelta(minutes=minutes)
    assert record(database, upload(f"{user}/{uuid.uuid4()}.png"), analyzed_at=at, time_zone=zone)


def totals(database: Database) -> list[list[Any]]:
    return database.query("SELECT user_id, pictures FROM progress_totals ORDER BY 1")


def rules(of: Any) -> dict[str, Any]:
    """Some of each kind, in the words of one module or the other, that short histories meet."""
    pictures = {f"picture {n}": of.pictures(n) for n in (1, 2, 5)}
    days = {f"day {n}": of.days_in_a_row(n) for n in (1, 2, 3, 4)}
    return pictures | days | {f"from {hour}": of.between(hour, hour + 6) for hour in (0, 6, 12, 18)}


@pytest.fixture
def moving(database_url: str) -> Iterator[list[Database]]:
    """Instances with one setting of TIME_ZONE and with another."""
    with ExitStack() as open_:
        yield [
            open_.enter_context(closing(Database(Settings(database_url=database_url, time_zone=zone))))
            for zone in SETTINGS
        ]


MINUTES = st.integers(0, 10 * 24 * 60) | st.integers(0, 20).map(lambda hours: hours * 720)
EVENT = st.tuples(
    st.sampled_from(["before", "not counted", "recorded", "recorded", "look"]),
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
@given(events=st.lists(EVENT, min_size=1, max_size=14), now=MINUTES)
def test_however_the_pictures_come_the_figures_are_those_of_plain_sql(
    moving: list[Database], monkeypatch: pytest.MonkeyPatch, events: list[Any], now: int
) -> None:
    monkeypatch.setattr(rollup, "BATCH", 3)
    user, then = uuid.uuid4().hex, START + dt.timedelta(minutes=now)
    # What was there before there was anything to count with comes first.
    for kind, setting, minutes, zone in sorted(events, key=lambda event: event[0] != "before"):
        database = moving[setting]
        if kind == "recorded":
            add(database, user, minutes, zone)
        elif kind == "look":
            agree(database, user, then)
        else:
            insert(database, user, minutes, zone, "true" if kind == "before" else "DEFAULT")
    for database in moving:
        agree(database, user, then)
    add(database, user, 7000)
    stored = "SELECT achievement_name, to_json(earned_at) FROM achievements WHERE user_id = :user ORDER BY 1"
    earned = plain.stats(database, user)["achievements"]
    assert database.query(stored, user=user) == sorted([*each.values()] for each in earned)


def agree(database: Database, user: str, now: dt.datetime) -> None:
    ours = progress.stats(database, user, now, rules(progress))
    assert ours == plain.stats(database, user, now, rules(plain))


def test_what_was_recorded_before_is_counted_at_the_first_look_and_not_touched(database: Database) -> None:
    for n in range(3):
        insert(database, "ana", n * 1440, counted="true")
    rows = "SELECT ctid::text, xmin::text FROM analyses ORDER BY 1"
    before = database.query(rows)
    assert progress.stats(database, "ana")["longest_streak"] == 3
    assert database.query(rows) == before
    assert totals(database) == [["ana", 3]]


def test_the_next_record_counts_it_too(database: Database) -> None:
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


def test_a_question_that_finds_all_counted_is_one_query(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(database, "ana", 0)
    monkeypatch.setattr(Database, "count", lambda *_: pytest.fail("it counts"))
    for user in ("ana", "nobody"):
        progress.stats(database, user)
    assert totals(database) == [["ana", 1]]


def test_the_users_row_deleted_is_the_way_to_count_anew(database: Database) -> None:
    for n in range(3):
        add(database, "ana", n * 1440)
    database.query(
        "DELETE FROM analyses WHERE analyzed_at = :at RETURNING id", at=START + dt.timedelta(days=1)
    )
    database.query("DELETE FROM progress_totals WHERE user_id = 'ana' RETURNING 1")
    stats = progress.stats(database, "ana", START)
    assert (stats["pictures_analyzed"], stats["longest_streak"]) == (2, 1)
    agree(database, "ana", START)


def test_a_changed_time_zone_leaves_the_sums_of_a_user_who_has_zones_alone(moving: list[Database]) -> None:
    add(moving[0], "ana", 0, "UTC")
    add(moving[0], "bo", 0)
    counted = "SELECT user_id, xmin::text FROM progress_totals ORDER BY 1"
    before = moving[0].query(counted)
    for user in ("ana", "bo"):
        progress.stats(moving[1], user)
    after = moving[0].query(counted)
    assert [old == new for old, new in zip(before, after, strict=True)] == [True, False]


def test_a_user_with_very_many_is_counted_some_at_a_time_and_uploads_go_on(
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


def test_counting_that_takes_too_long_says_so_and_the_next_look_goes_on(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rollup, "BATCH", 10)
    for n in range(35):
        insert(database, "ana", n, counted="true")
    with monkeypatch.context() as slow:
        clock = count(step=1000)
        slow.setattr("dropcap.database.time", SimpleNamespace(monotonic=lambda: next(clock)))
        for counted in (10, 20):
            with pytest.raises(Unreachable, match="still being counted"):
                progress.stats(database, "ana")
            assert totals(database) == [["ana", counted]]
    assert progress.stats(database, "ana")["pictures_analyzed"] == 35


def test_all_who_look_and_record_at_once_count_each_picture_once(
    database: Database, database_url: str
) -> None:
    for n in range(50):
        insert(database, "ana", n * 300, counted="true" if n % 2 else "DEFAULT")

    def both(racer: Database, number: int) -> None:
        if number % 2:
            add(racer, "ana", number * 400, "Asia/Kolkata")
        progress.stats(racer, "ana")

    race(database_url, both)
    assert totals(database) == [["ana", 50 + RACERS // 2]]
    agree(database, "ana", START)


def test_a_row_that_another_revision_is_just_recording_is_not_missed(
    database: Database, database_url: str
) -> None:
    add(database, "ana", 0)
    with closing(connect_inside(database_url)) as outside:
        outside.run("BEGIN")
        outside.run(
            "INSERT INTO analyses (id, user_id, analyzed_at, result) "
            "VALUES (gen_random_uuid(), 'ana', now(), '{}')"
        )
        assert progress.stats(database, "ana")["pictures_analyzed"] == 1
        outside.run("COMMIT")
    assert progress.stats(database, "ana")["pictures_analyzed"] == 2
