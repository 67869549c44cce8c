"""Counts, streaks and achievements follow from the recorded pictures, in each picture's own time zone.

Pictures are inserted here as a revision does that counts nothing, and counted at the first request. Other
ways to add them are tested in test_rollup.py.
"""

import datetime as dt
import uuid
from contextlib import closing
from zoneinfo import ZoneInfo

import pytest

from dropcap.database import progress
from dropcap.database.transactions import Database
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


def names(stats: dict[str, object]) -> list[str]:
    earned = stats["achievements"]
    assert isinstance(earned, list)
    return [each["achievement_name"] for each in earned]


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


def test_a_changed_rule_applies_at_once(database: Database) -> None:
    add(database, "ana", *days("2026-01-01", 2))
    assert names(progress.stats(database, "ana")) == ["first_picture"]
    never = progress.Rule("pictures", 1, "SELECT NULL::timestamptz")
    rules = {"two_pictures": progress.pictures(2), "first_picture": never}
    assert names(progress.stats(database, "ana", rules=rules)) == ["two_pictures"]


def test_stored_achievements_follow_the_rules_and_those_of_the_old_app_are_kept(database: Database) -> None:
    add(database, "ana", *days("2026-01-01", 1))
    database.query("INSERT INTO achievements VALUES ('ana', 'Collector', '2020-01-01Z') RETURNING 1")
    rules = {"first_picture": progress.pictures(1), "two_pictures": progress.pictures(2)}

    def stored() -> list[list[object]]:
        database.query(progress.achievements_update(rules), user="ana", known=sorted(rules))
        return database.query("SELECT achievement_name FROM achievements WHERE user_id = 'ana' ORDER BY 1")

    assert stored() == [["Collector"], ["first_picture"]]
    rules["first_picture"], rules["two_pictures"] = rules["two_pictures"], rules["first_picture"]
    assert stored() == [["Collector"], ["two_pictures"]]
    assert sorted(names(progress.stats(database, "ana", rules=rules))) == ["Collector", "two_pictures"]


@pytest.mark.parametrize(
    ("hour", "zone", "name"),
    [
        ("06:59", "Asia/Kolkata", "early_bird"),
        ("03:59", "America/New_York", "night_owl"),
        ("12:00", "UTC", None),
    ],
)
def test_achievements_use_the_local_hour(database: Database, hour: str, zone: str, name: str | None) -> None:
    add(database, "ana", (at(f"2026-06-01T{hour}", zone), zone))
    assert sorted(names(progress.stats(database, "ana"))) == sorted(filter(None, ["first_picture", name]))


def test_each_achievement_is_earned_at_the_picture_that_completes_it(database: Database) -> None:
    database.query(
        "INSERT INTO analyses (id, user_id, analyzed_at, result) SELECT gen_random_uuid(), 'ana', "
        "timestamptz '2026-01-01 12:00Z' + n / 10 * interval '1 day' + n % 10 * interval '1 second', '{}' "
        "FROM generate_series(0, 999) AS n RETURNING 1"
    )
    earned = {
        each["achievement_name"]: each["earned_at"]
        for each in progress.stats(database, "ana")["achievements"]
    }
    assert earned == {
        "first_picture": "2026-01-01T12:00:00+00:00",
        "ten_pictures": "2026-01-01T12:00:09+00:00",
        "hundred_pictures": "2026-01-10T12:00:09+00:00",
        "thousand_pictures": "2026-04-10T12:00:09+00:00",
        "three_days_in_a_row": "2026-01-03T12:00:00+00:00",
        "seven_days_in_a_row": "2026-01-07T12:00:00+00:00",
        "thirty_days_in_a_row": "2026-01-30T12:00:00+00:00",
        "hundred_days_in_a_row": "2026-04-10T12:00:00+00:00",
    }
