"""Achievements follow from the recorded pictures; those that are stored follow from the rules."""

import pytest

from dropcap.database import progress
from dropcap.database.schema.tables import UNNAMED
from dropcap.database.transactions import Database
from tests.database.test_progress import add, at, days


def names(stats: dict[str, object]) -> list[str]:
    earned = stats["achievements"]
    assert isinstance(earned, list)
    return [each["achievement_name"] for each in earned]


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
        ("04:59", "UTC", None),
        ("05:00", "UTC", "early_bird"),
        ("06:59", "Asia/Kolkata", "early_bird"),
        ("07:00", "UTC", None),
        ("00:00", "UTC", "night_owl"),
        ("03:59", "America/New_York", "night_owl"),
        ("04:00", "UTC", None),
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


def test_an_achievement_is_earned_the_first_time(database: Database) -> None:
    add(database, "ana", *days("2026-01-01", 3), *days("2026-02-01", 3))
    add(database, "ana", (at("2026-03-02T05:30"), None), (at("2026-03-01T06:30"), None))
    earned = {
        each["achievement_name"]: each["earned_at"]
        for each in progress.stats(database, "ana")["achievements"]
    }
    assert earned["three_days_in_a_row"] == "2026-01-03T12:00:00+00:00"
    assert earned["early_bird"] == "2026-03-01T06:30:00+00:00"
    assert progress.RULES["early_bird"].target == 1


def test_stored_achievements_are_written_only_if_they_change(database: Database) -> None:
    add(database, "ana", (at("2026-01-02T12:00"), None))
    progress.stats(database, "ana")
    versions = "SELECT user_id, xmin::text, earned_at::text FROM achievements ORDER BY 1"
    first = database.query(versions)
    database.transaction(lambda execute: progress.update_achievements(execute, "ana"))
    assert database.query(versions) == first
    add(database, "ana", (at("2026-01-01T12:00"), None))  # a picture whose event came late
    add(database, "ben", (at("2026-01-01T12:00"), None))
    for user in ("ana", "ben"):
        progress.count_pictures(database, user)
    earned = [[user, at] for user, _, at in database.query(versions)]
    assert earned == [[user, "2026-01-01 12:00:00+00"] for user in ("ana", "ben")]


def test_achievements_are_ordered_and_those_without_a_name_are_hidden(database: Database) -> None:
    for name, day in (("B", 2), ("A", 2), ("Z (2)", 1), (UNNAMED, 3), (f"{UNNAMED} (2)", 3)):
        database.query(
            "INSERT INTO achievements VALUES ('ana', :name, CAST(:day AS date)) RETURNING 1",
            name=name,
            day=f"2020-01-0{day}",
        )
    assert names(progress.stats(database, "ana")) == ["Z (2)", "A", "B"]
