"""Counts, streaks and achievements follow from the recorded pictures, in each picture's own time zone.

Pictures are inserted here as a revision does that counts nothing, and counted at the first request. Other
ways to add them are tested in test_rollup.py.
"""

import datetime as dt
import uuid
from contextlib import closing
from types import SimpleNamespace
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from dropcap.database import progress, rollup
from dropcap.database.connection import DatabaseUnavailable
from dropcap.database.transactions import Database, Executor
from dropcap.settings import Settings

Event = tuple[dt.datetime, str | None]


def at(text: str, zone: str = "UTC") -> dt.datetime:
    return dt.datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone))


def add(database: Database, user: str, *events: Event) -> None:
    for instant, zone in events:
        database.query(
            "INSERT INTO analyses (id, user_id, analyzed_at, time_zone, result) "
            "VALUES (:id, :user, :at, :zone, '{}') RETURNING id",
            id=uuid.uuid4(),
            user=user,
            at=instant,
            zone=zone,
        )


def days(first: str, number: int, zone: str = "UTC") -> list[Event]:
    """An event at noon of each of `number` days from the first."""
    start = at(f"{first}T12:00", zone)
    return [(start + dt.timedelta(days=day), zone) for day in range(number)]


def test_the_latest_picture_and_the_first_achievement_carry_their_instants(database: Database) -> None:
    madrid = (at("2026-01-05T11:30", "Europe/Madrid"), "Europe/Madrid")
    add(database, "ana", (at("2026-01-01T10:00"), None), madrid)
    stats = progress.stats(database, "ana", at("2026-01-06T00:00"))
    assert stats["last_upload_at"] == "2026-01-05T10:30:00+00:00"
    [first] = stats["achievements"]
    assert first == {"achievement_name": "first_picture", "earned_at": "2026-01-01T10:00:00+00:00"}


@pytest.mark.parametrize(
    ("now", "current"),
    [("2026-03-03T23:59", 3), ("2026-03-04T23:59", 3), ("2026-03-05T00:00", 0)],
    ids=["today", "yesterday, as today is not over", "the day before"],
)
def test_a_streak_is_current_until_a_whole_day_is_missed(database: Database, now: str, current: int) -> None:
    add(database, "ana", *days("2026-03-01", 3))
    stats = progress.stats(database, "ana", at(now))
    assert (stats["current_streak"], stats["longest_streak"]) == (current, 3)


@pytest.mark.parametrize(
    "first", ["2024-02-28", "2026-12-30", "2027-02-27"], ids=["leap day", "new year", "no leap day"]
)
def test_a_streak_runs_over_the_ends_of_months_and_years(database: Database, first: str) -> None:
    add(database, "ana", *days(first, 4))
    assert progress.stats(database, "ana", days(first, 4)[-1][0])["current_streak"] == 4


@pytest.mark.parametrize(
    ("zone", "first"),
    [("America/New_York", "2026-03-07"), ("America/New_York", "2026-10-31"), ("Europe/Madrid", "2026-03-28")],
)
def test_a_day_of_23_or_25_hours_is_a_day(database: Database, zone: str, first: str) -> None:
    midnights = [at(f"{first}T00:00", zone) + dt.timedelta(days=day) for day in range(3)]
    last_seconds = [midnight.replace(hour=23, minute=59, second=59) for midnight in midnights]
    add(database, "early", *((instant, zone) for instant in midnights))
    add(database, "late", *((instant, zone) for instant in last_seconds))
    for user in ("early", "late"):
        assert progress.stats(database, user, last_seconds[-1])["current_streak"] == 3


def test_days_are_those_of_the_pictures_time_zone(database: Database) -> None:
    instants = [at("2026-06-01T11:30"), at("2026-06-01T12:30")]  # midnight in Auckland lies between the two
    add(database, "kiri", *((instant, "Pacific/Auckland") for instant in instants))
    add(database, "keanu", *((instant, "Pacific/Honolulu") for instant in instants))
    now = at("2026-06-01T13:00")
    assert progress.stats(database, "kiri", now)["current_streak"] == 2
    assert progress.stats(database, "keanu", now)["current_streak"] == 1


def test_a_user_who_flies_back_over_the_date_line_keeps_the_streak(database: Database) -> None:
    add(database, "ana", *days("2026-06-01", 3, "Pacific/Auckland"))
    add(database, "ana", (at("2026-06-02T20:00", "Pacific/Honolulu"), "Pacific/Honolulu"))
    stats = progress.stats(database, "ana", at("2026-06-02T21:00", "Pacific/Honolulu"))
    assert (stats["current_streak"], stats["longest_streak"]) == (3, 3)


def test_the_week_begins_on_monday_in_the_users_zone(database: Database) -> None:
    sunday, monday = at("2026-06-07T23:30", "Pacific/Auckland"), at("2026-06-08T00:30", "Pacific/Auckland")
    add(database, "ana", (sunday, "Pacific/Auckland"), (monday, "Pacific/Auckland"))
    assert progress.stats(database, "ana", monday)["this_week"] == 1
    assert progress.stats(database, "ana", sunday)["this_week"] == 1
    assert progress.stats(database, "ana", at("2026-06-15T12:00"))["this_week"] == 0


def test_another_time_zone_setting_recounts_users_without_one(database: Database, database_url: str) -> None:
    add(database, "ana", (at("2026-06-01T09:30"), None), (at("2026-06-01T12:30"), None))
    now = at("2026-06-01T13:00")
    assert progress.stats(database, "ana", now)["current_streak"] == 1
    elsewhere = Settings(database_url=database_url, time_zone="Pacific/Auckland")
    with closing(Database(elsewhere)) as moved:
        stats = progress.stats(moved, "ana", now)
    assert stats["current_streak"] == 2
    assert stats["last_upload_at"] == "2026-06-02T00:30:00+12:00"


def test_a_users_progress_is_of_the_users_own_pictures(database: Database) -> None:
    now = at("2026-03-03T13:00")
    pictures: dict[str, list[Event]] = {
        "ana": [(at("2026-03-03T12:00"), None)],
        "ben": [*days("2026-03-01", 3, "Asia/Tokyo"), (at("2026-03-02T01:00"), None), (now, "Asia/Tokyo")],
        "cleo": [(at("2026-02-01T05:00"), "Asia/Tokyo"), (at("2026-03-02T20:30"), "Asia/Tokyo")],
    }

    def progress_of(user: str) -> tuple[dict[str, Any], object]:
        return progress.stats(database, user, now), progress.days(database, user, 9, now)

    alone = {}
    for user, events in pictures.items():
        add(database, user, *events)
        database.query(
            "INSERT INTO achievements VALUES (:user, :name, '2020-01-01Z') RETURNING 1",
            user=user,
            name=f"Old app, {user}",
        )
        alone[user] = progress_of(user)
        # Nobody else's achievements are stored for the user, or deleted.
        stored = database.query("SELECT count(*) FROM achievements WHERE user_id = :user", user=user)
        assert stored == [[len(alone[user][0]["achievements"])]]
    assert {user: progress_of(user) for user in pictures} == alone
    stored = database.query("SELECT user_id, count(*) FROM achievements GROUP BY 1 ORDER BY 1")
    assert stored == [[user, len(stats["achievements"])] for user, (stats, _) in alone.items()]


def test_an_unknown_user_has_zeros_and_gets_no_rows(database: Database) -> None:
    counts = dict.fromkeys(("pictures_analyzed", "this_week", "current_streak", "longest_streak"), 0)
    nothing: dict[str, Any] = {"user": "nobody", **counts, "last_upload_at": None, "achievements": []}
    assert progress.stats(database, "nobody") == nothing
    assert progress.days(database, "nobody", 1, at("2026-06-01T12:00")) == (dt.date(2026, 6, 1), {})
    assert database.query("SELECT * FROM progress_totals") == []


def test_now_is_the_databases_clock(database: Database) -> None:
    [[now]] = database.query("SELECT now()")
    add(database, "ana", (now, None))
    stats = progress.stats(database, "ana")
    assert (stats["current_streak"], stats["this_week"]) == (1, 1)
    for hours in range(-14, 13):  # in one of these zones it is nearly midnight
        zone = f"Etc/GMT{hours:+}"
        add(database, zone, (now, zone))
        before = dt.datetime.now(ZoneInfo(zone)).date()
        today = progress.days(database, zone, 1)[0]
        assert today in (before, dt.datetime.now(ZoneInfo(zone)).date())


def test_of_pictures_at_the_same_instant_the_one_with_the_greater_id_has_the_zone(database: Database) -> None:
    instant = at("2026-06-01T12:30")
    for number, zone in enumerate(("Pacific/Honolulu", "Pacific/Auckland", "Pacific/Honolulu")):
        database.query(
            "INSERT INTO analyses (id, user_id, analyzed_at, time_zone, result) "
            "VALUES (:id, 'ana', :at, :zone, '{}') RETURNING id",
            id=uuid.UUID(int=(2, 3, 1)[number]),
            at=instant,
            zone=zone,
        )
    progress.stats(database, "ana", instant)
    assert progress.days(database, "ana", 1, instant)[0] == dt.date(2026, 6, 2)


def test_days_are_those_of_the_last_weeks_until_today(database: Database) -> None:
    add(database, "ana", *days("2026-05-17", 23), (at("2026-05-18T13:00"), None))  # a Sunday to a Monday
    now = at("2026-06-03T12:00")  # a Wednesday
    progress.stats(database, "ana", now)
    today, counts = progress.days(database, "ana", 3, now)
    assert (today, min(counts), max(counts)) == (now.date(), dt.date(2026, 5, 18), now.date())
    assert (len(counts), counts[dt.date(2026, 5, 18)], counts[today]) == (17, 2, 1)
    assert min(progress.days(database, "ana", 1, now)[1]) == dt.date(2026, 6, 1)


def test_counting_ends_after_the_timeout_and_goes_on_from_there(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(database, "ana", *days("2026-01-01", 5))
    monkeypatch.setattr(rollup, "BATCH", 1)
    limit = database.settings.database_timeout_s
    clock = iter([100, 100 + limit, 100.1 + limit])
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    with pytest.raises(DatabaseUnavailable, match="still being counted"):
        progress.count_pictures(database, "ana")
    assert database.query("SELECT pictures FROM progress_totals") == [[2]]
    monkeypatch.undo()
    assert progress.stats(database, "ana")["pictures_analyzed"] == 5


def test_one_request_at_a_time_counts_a_users_pictures(database: Database, database_url: str) -> None:
    add(database, "ana", *days("2026-01-01", 1))
    hasty = Settings(database_url=database_url, database_timeout_s=0.3)
    with closing(Database(hasty)) as other:

        def work(execute: Executor) -> None:
            rollup.lock(execute, "ana")
            with pytest.raises(DatabaseUnavailable):
                progress.count_pictures(other, "ana")

        database.transaction(work)
    assert database.query("SELECT * FROM progress_totals") == []
