"""The progress page: a calendar year, counts, earned and next achievements, and memory use."""

import datetime as dt
import html
import json
import re

import pytest

from dropcap.database import progress
from dropcap.database.transactions import Database
from dropcap.gallery.charts import WEEKS, calendar
from dropcap.gallery.progress_page import Next, memory, next_ones
from tests.database.test_progress import add, at
from tests.support.app import App, Start, rows
from tests.support.database.uploads import record, upload

NOW = at("2026-06-10T12:00")  # a Wednesday


def page(app: App, user: str) -> str:
    """Return the text of the page."""
    answer = app.gallery.get("/gallery/progress", query_string={"user": user})
    assert answer.status_code == 200, answer.text
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", answer.text)).split())


def stats(pictures: int, streak: int) -> dict[str, int]:
    return {"pictures_analyzed": pictures, "current_streak": streak}


def test_a_user_without_pictures_sees_the_first_achievements(start: Start) -> None:
    app = start()
    add(app.services.database, "bob", (dt.datetime.now(dt.UTC), None))
    text = page(app, "ana")
    assert "0 pictures" in text
    assert "First picture" in text
    assert "0 of 3 days in a row" in text


def test_counts_achievements_and_the_next_ones_are_the_users(start: Start) -> None:
    app = start()
    now = dt.datetime.now(dt.UTC)
    add(app.services.database, "ana", *((now - dt.timedelta(days=day), "UTC") for day in range(4)))
    add(app.services.database, "ana", *((now, "UTC") for _ in range(33)))
    rows("INSERT INTO achievements VALUES ('ana', 'Picture Collector', '2020-01-01Z')")
    add(app.services.database, "bob", *((now, "UTC") for _ in range(200)))
    text = page(app, "ana")
    for words in ("37 of 100 pictures", "4 of 7 days in a row", "Ten pictures", "Picture Collector"):
        assert words in text
    assert " First picture A picture " in page(app, "dora")  # the next one of somebody who has none


def test_memory_by_stage_is_shown_below_the_limit(start: Start) -> None:
    app = start(MEMORY_LIMIT_MB="512", MEMORY_WARNING_MB="400")
    add(app.services.database, "ana", (dt.datetime.now(dt.UTC), None))
    assert "512 MiB" not in page(app, "ana")
    rows("UPDATE analyses SET result = :result", result=json.dumps({"memory": {"open": 123.4, "resize": 98}}))
    text = page(app, "ana")
    for words in ("123 MB", "537 MB (512 MiB)", "400 MB", "resize"):
        assert words in text


def test_the_calendar_has_53_weeks_and_ends_today(database: Database) -> None:
    first = dt.date(2026, 6, 8) - dt.timedelta(weeks=WEEKS - 1)  # a Monday
    instants = [
        dt.datetime.combine(first, dt.time(12), dt.UTC) + dt.timedelta(days=day) for day in (-1, 0, 1)
    ]
    add(database, "ana", *((instant, "UTC") for instant in [*instants, instants[-1], NOW]))
    add(database, "bob", (NOW, "UTC"))
    progress.stats(database, "ana", NOW)
    today, days = progress.days(database, "ana", WEEKS, NOW)
    assert today == NOW.date()
    assert days == {first: 1, first + dt.timedelta(days=1): 2, today: 1}


def test_the_name_of_a_month_that_has_just_begun_is_not_cut_off() -> None:
    year = calendar({}, dt.date(2026, 12, 1))
    column, name = year.months[-1]
    assert name == "Dec"
    assert year.width - year.left - column * year.step > 20  # a browser draws it 18.2 units wide


def test_today_is_that_of_the_users_time_zone(database: Database) -> None:
    late = at("2026-06-10T23:30")
    add(database, "kiri", (late, "Pacific/Auckland"))
    add(database, "keanu", (late, "Pacific/Honolulu"))
    for user, day in (("kiri", dt.date(2026, 6, 11)), ("keanu", dt.date(2026, 6, 10))):
        progress.stats(database, user, late)
        assert progress.days(database, user, WEEKS, late) == (day, {day: 1})


def test_an_unknown_user_has_no_days(database: Database) -> None:
    assert progress.days(database, "nobody", WEEKS, NOW) == (NOW.date(), {})


@pytest.mark.parametrize(
    ("counts", "earned", "nearest"),
    [
        (stats(0, 0), set(), ("First picture", 0, 1)),
        (stats(37, 0), {"first_picture", "ten_pictures"}, ("Hundred pictures", 37, 100)),
        (stats(100, 0), {"first_picture", "ten_pictures"}, ("Hundred pictures", 99, 100)),
    ],
    ids=["none", "some", "counted a moment before it was earned"],
)
def test_the_next_achievement_of_a_kind_is_the_nearest_that_is_not_earned(
    counts: dict[str, int], earned: set[str], nearest: tuple[str, int, int]
) -> None:
    title, have, target = nearest
    assert Next(title, progress.PICTURES, have, target) in next_ones(counts, earned)


def test_after_the_last_achievement_none_is_next() -> None:
    assert next_ones(stats(5000, 200), progress.RULES.keys()) == ()


def test_each_kind_has_one_next_achievement() -> None:
    kinds = [each.counts for each in next_ones(stats(0, 0), ())]
    assert sorted(kinds) == sorted({rule.counts for rule in progress.RULES.values()})


def test_memory_is_reported_by_stage_over_the_latest_pictures(database: Database) -> None:
    for day, used in enumerate((500.0, 100.0, 120.0, 110.0)):
        measured = {"publish": used, "open": used + 1, "anew": 1.0}
        taken = NOW + dt.timedelta(days=day)
        assert record(database, upload(f"ana/{day}.png"), analyzed_at=taken, memory=measured)
    stages = [(each.stage, each.median, each.mb) for each in memory(database, "ana", pictures=3)]
    assert stages == [("open", 111.0, 121.0), ("publish", 110.0, 120.0), ("anew", 1.0, 1.0)]
