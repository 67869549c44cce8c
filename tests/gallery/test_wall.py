"""The wall shows a user's own pictures, newest first, page by page, and unfinished uploads."""

import datetime as dt
import uuid
from contextlib import closing
from typing import Any

import pytest

from dropcap.database.leases import Leases
from dropcap.database.transactions import Database
from dropcap.domain.analysis import PictureFacts, Rendition, Source
from dropcap.errors import Rejected
from dropcap.gallery import pages, pictures, progress_page, wall
from dropcap.gallery.cards import Card
from dropcap.gallery.wall import Filters
from dropcap.settings import Settings
from tests.bench.database.operations import Bench
from tests.support.app import Start, small_png
from tests.support.database.uploads import record, upload

START = dt.datetime(2026, 3, 5, tzinfo=dt.UTC)
SIZES = tuple(
    Rendition(str(side), f"x/{side}.webp", side, side // 2, 9, "image/webp", "") for side in (200, 1600, 800)
)


def add(database: Database, user: str = "ana", minutes: int = 0, **others: Any) -> uuid.UUID:
    picture = upload(f"{user}/{uuid.uuid4()}/IMG 1.png")
    assert record(database, picture, analyzed_at=START + dt.timedelta(minutes=minutes), **others)
    return picture.id


def reject(database: Database, name: str) -> uuid.UUID:
    bad, leases = upload(name), Leases(database)
    leases.reject(bad, leases.acquire(bad).token, "not_a_picture", "It is no picture.")
    return bad.id


def shown(database: Database, user: str = "ana", size: int = 100, **filters: Any) -> list[uuid.UUID]:
    return [card.id for card in wall.page(database, user, Filters(**filters), size).cards]


def test_no_confidence_is_a_negative_zero() -> None:
    assert pages.confidence(Source(True, confidence=-0.001)) == "confidence 0.00"


def test_a_card_has_all_facts_of_a_picture(database: Database) -> None:
    memory, timings = {"publish": 99.5, "claim": 80.0}, {"read": 0.1, "claim": 0}
    id = add(database, pictures=SIZES, memory=memory, timings=timings)
    card = wall.card(database, "ana", id)
    assert card
    assert (card.id, card.name, card.at) == (id, "IMG 1.png", START)
    assert (card.caption, card.description, card.alt_text) == ("a crown", "A golden crown.", "Crown")
    assert (card.tags, card.text) == (("gold", "crown"), "REX")
    assert [each.label for each in card.pictures] == ["1600", "800", "200"]
    assert (card.picture.format, card.picture.bytes, card.picture.decoder) == ("PNG", 12, "pillow")
    assert list(card.memory.items()) == [("claim", 80.0), ("publish", 99.5)]
    assert list(card.timings) == ["claim", "read"]
    assert card.sources == {"blip": Source(True, "blip", "1")}
    assert (card.own_caption, card.own_alt_text, card.edited_at) == (None, None, None)
    assert card.agreement is None  # one model alone


def test_a_card_has_the_number_of_pages_of_its_source(database: Database) -> None:
    id = add(database, picture=PictureFacts("TIFF", 12, 4, 3, "pillow", pages=3))
    card = wall.card(database, "ana", id)
    assert card
    assert (card.picture.format, card.picture.bytes, card.picture.pages) == ("TIFF", 12, 3)


def test_the_page_shows_in_what_the_models_contradict_each_other(start: Start) -> None:
    app = start()
    picture = app.upload("ana/a.png", small_png())
    app.deliver(picture)
    agreement = '{"score": 0.25, "contradictions": [["number", "two dogs", "a dog"]], "contradicts": true}'
    app.services.database.query(
        "UPDATE analyses SET result = jsonb_set(result, '{agreement}', CAST(:value AS jsonb)) RETURNING 1",
        value=agreement,
    )
    page = app.gallery.get(f"/gallery/picture/{picture.id}?user=ana").text
    assert "<dd>25&nbsp;%; number: “two dogs” or “a dog”?</dd>" in page


def test_the_users_text_is_shown_and_the_models_is_kept(database: Database) -> None:
    id = add(database)
    database.query(
        "UPDATE analyses SET own_caption = 'my crown', own_alt_text = '', edited_at = now() RETURNING id"
    )
    card = wall.card(database, "ana", id)
    assert card
    assert (card.caption, card.own_caption, card.model_caption) == ("my crown", "my crown", "a crown")
    assert (card.alt_text, card.own_alt_text, card.model_alt_text) == ("", "", "Crown")
    assert card.edited_at is not None
    assert card.edited_at.tzinfo is not None


def test_pages_neither_skip_nor_repeat_a_picture_while_others_are_added(database: Database) -> None:
    ids = [add(database, minutes=minute // 3) for minute in range(20)]  # three at each instant
    filters, listed = Filters(), list[uuid.UUID]()
    while True:
        page = wall.page(database, "ana", filters, size=3)
        listed += [card.id for card in page.cards]
        if not page.next:
            break
        filters = Filters.read({"after": page.next})
        add(database, minutes=100 + len(listed))
    assert len(listed) == 20
    assert set(listed) == set(ids)
    instants = [card.at for id in listed if (card := wall.card(database, "ana", id))]
    assert instants == sorted(instants, reverse=True)


def test_a_last_page_that_is_full_has_no_next(database: Database) -> None:
    for minute in range(4):
        add(database, minutes=minute)
    page = wall.page(database, "ana", Filters(), size=2)
    assert wall.page(database, "ana", Filters(after=page.next), size=2).next == ""


def test_an_export_lists_every_card_once(database: Database) -> None:
    ids = [add(database, minutes=minute // 2) for minute in range(5)]
    add(database, "bo")
    cards, last = list[Card](), None
    while some := wall.cards(database, "ana", last, size=2):
        cards += some
        last = cards[-1]
    assert {card.id for card in cards} == set(ids)
    assert len(cards) == 5


def test_days_are_those_of_the_settings_zone(database_url: str) -> None:
    with closing(Database(Settings(database_url=database_url, time_zone="Pacific/Auckland"))) as database:
        # Midnight there is 11:00 UTC.
        before, after = add(database, minutes=11 * 60 - 1), add(database, minutes=11 * 60)
        day = dt.date(2026, 3, 5)
        next_day = day + dt.timedelta(days=1)
        assert shown(database, since=day, until=day) == [before]
        assert shown(database, since=next_day) == shown(database, since=next_day, until=next_day) == [after]
        assert shown(database, until=dt.date.max) == shown(database, since=dt.date.min) == [after, before]
        assert shown(database, words="crown", until=day) == shown(database, tag="gold", until=day) == [before]


def test_thousands_of_rejected_or_other_users_uploads_cost_a_request_little(
    database: Database, database_url: str
) -> None:
    held, leases = upload("ana/held.png"), Leases(database)
    leases.hold(held, leases.acquire(held).token, "held_no_verdict", "None yet.", 3600)
    database.query("UPDATE uploads SET created_at = now() - interval '70 hours' RETURNING 1")
    with closing(Bench(database_url, rounds=2)) as bench:

        def open_wall(database: Database) -> None:
            assert [each.id for each in wall.page(database, "ana", Filters()).pending] == [held.id]

        few = bench.measure("few", open_wall).pages
        database.query(  # Gemini is unavailable
            "INSERT INTO uploads (id, bucket, name, generation, user_id, state, reason_code, created_at) "
            "SELECT gen_random_uuid(), '', '', 0, who, state, 'why', now() - age - n * step "
            "FROM (VALUES ('ana', 'done', interval '99 h', interval '1 h', 10000), "
            "('bo', 'held', '0 h', '1 min', 2000)) AS of (who, state, age, step, number), "
            "generate_series(1, number) AS n RETURNING 1"
        )
        database.query("ANALYZE uploads")
        many = bench.measure("many", open_wall).pages
    assert many < few + 60


def test_uploads_in_work_and_those_rejected_today_are_above_the_wall(database: Database) -> None:
    add(database)
    working = upload("ana/a/new.png")
    lease = Leases(database).acquire(working)
    Leases(database).heartbeat(working, lease.token, "open", 120.4)
    bad, old = reject(database, "ana/b/bad.txt"), reject(database, "ana/old.txt")
    database.query(
        "UPDATE uploads SET created_at = now() - interval '25 hours' WHERE id = :id RETURNING id", id=old
    )
    reject(database, "bo/bad.txt")
    page = wall.page(database, "ana", Filters())
    assert [each.id for each in page.pending] == [working.id, bad]
    at_work, rejected = page.pending
    assert (at_work.name, at_work.state, at_work.stage, at_work.rss_mb) == ("new.png", "working", "open", 120)
    assert (at_work.attempts, at_work.deaths, at_work.code) == (1, 0, "")
    assert (rejected.name, rejected.state) == ("bad.txt", "rejected")
    assert (rejected.code, rejected.reason) == ("not_a_picture", "It is no picture.")
    assert wall.page(database, "ana", Filters(words="crown")).pending == ()
    Leases(database).finish(upload("ana/b/bad.txt"))
    assert [each.id for each in wall.page(database, "ana", Filters()).pending] == [working.id, bad]


def test_uploads_in_work_and_rejected_ones_are_paged_like_pictures(database: Database) -> None:
    rejected = [reject(database, f"ana/{number}.txt") for number in range(3)]
    working = upload("ana/new.png")
    Leases(database).acquire(working)
    first = wall.page(database, "ana", Filters(state="rejected"), size=2)
    then = wall.page(database, "ana", Filters(state="rejected", after=first.next), size=2)
    assert [each.id for each in (*first.pending, *then.pending)] == rejected[::-1]
    assert (first.cards, then.next) == ((), "")
    assert [each.id for each in wall.page(database, "ana", Filters(state="working")).pending] == [working.id]
    tomorrow = dt.datetime.now(dt.UTC).date() + dt.timedelta(days=2)
    assert wall.page(database, "ana", Filters(state="rejected", since=tomorrow)).pending == ()


def test_other_users_pictures_and_uploads_do_not_exist(database: Database) -> None:
    theirs, bad = add(database, "bo"), reject(database, "bo/bad.txt")
    working = upload("bo/new.png")
    Leases(database).acquire(working)
    for filters in (
        Filters(),
        Filters(since=START.date()),
        Filters(state="rejected"),
        Filters(state="working"),
    ):
        assert wall.page(database, "ana", filters) == wall.page(database, "nobody", filters)
    for id in (theirs, bad, working.id, uuid.uuid4()):
        assert wall.card(database, "ana", id) is None
        assert wall.pending(database, "ana", id) is None
    assert wall.cards(database, "ana") == []
    assert progress_page.memory(database, "ana") == ()


def test_the_page_key_of_another_user_shows_none_of_their_pictures(database: Database) -> None:
    for minute in range(3):
        add(database, "bo", minute)
    mine = add(database, "ana")
    key = wall.page(database, "bo", Filters(), size=1).next
    assert shown(database, after=key) == [mine]


INVALID = {
    "long_search": {"q": "x" * 201},
    "no_such_tag": {"tag": "x" * 101},
    "bad_date": {"from": "yesterday"},
    "bad_state": {"state": "gone"},
    "bad_page": {"after": "1-2"},
}


@pytest.mark.parametrize("code", INVALID)
def test_invalid_filters_are_refused_with_a_remedy(code: str) -> None:
    with pytest.raises(Rejected) as rejected:
        Filters.read(INVALID[code])
    assert (rejected.value.code, rejected.value.status) == (code, 400)
    assert rejected.value.remedy


@pytest.mark.parametrize(
    "key", ["x", "-", "f" * 15 + "-" + "0" * 32, "0-" + "0" * 31, "0-" + "g" * 32, "\x00", "٣-" + "0" * 32]
)
def test_a_forged_key_is_refused(key: str) -> None:
    with pytest.raises(Rejected, match="not the key of a page"):
        Filters.read({"after": key})


def test_eleven_words_are_too_many() -> None:
    assert Filters.read({"q": "x " * 10}).words
    with pytest.raises(Rejected, match="at most 10 words"):
        Filters.read({"q": "x " * 11})


def test_filters_and_query_string_convert_into_each_other() -> None:
    query = {"q": "a crown", "tag": "gold", "from": "2026-01-31", "to": "2026-02-01", "state": "rejected"}
    assert Filters.read(query).query == query
    assert not any(Filters.read({}).query.values())
    assert Filters.read({}) == Filters()


def test_pages_of_pictures_and_of_rejected_uploads_are_served(start: Start) -> None:
    app = start()
    id = add(app.services.database, pictures=())
    for path in ("/gallery/", f"/gallery/picture/{id}"):
        answer = app.gallery.get(path, query_string={"user": "ana"})
        assert answer.status_code == 200, answer.text
        assert "a crown" in answer.text
    bad = reject(app.services.database, "ana/bad.txt")
    assert (
        "It is no picture." in app.gallery.get(f"/gallery/picture/{bad}", query_string={"user": "ana"}).text
    )


def test_of_renditions_in_several_formats_the_first_format_is_shown() -> None:
    sizes = [(900, 600), (300, 200), (300, 200)]
    renditions = [
        Rendition(str(width), f"x/{width}.{kind}", width, height, 9, f"image/{kind}", "")
        for width, height in sizes
        for kind in ("webp", "jpeg")
    ]
    assert [each.object for each in pictures.distinct(renditions)] == ["x/900.webp", "x/300.webp"]
    assert pictures.distinct([]) == []


def test_the_neighbours_of_a_picture_are_those_of_its_search(database: Database) -> None:
    crowns = [add(database, minutes=each // 2) for each in range(6)]  # two at each instant
    add(database, minutes=1, caption="a cat", description="", alt_text="", tags=(), text="")
    add(database, user="bo", minutes=1)

    def beside(id: uuid.UUID, **filters: Any) -> tuple[uuid.UUID | None, uuid.UUID | None]:
        card = wall.card(database, "ana", id)
        assert card
        return wall.neighbours(database, "ana", card, Filters(**filters))

    order = shown(database, words="crown")
    assert set(order) == set(crowns)
    for index, id in enumerate(order):
        expected = (order[index - 1] if index else None, order[index + 1] if index < 5 else None)
        assert beside(id, words="crown") == beside(id, tag="gold") == expected
        assert beside(id, words="crowm", since=START.date()) == expected
    assert beside(order[2], words="zebra") == beside(order[2], until=dt.date(2001, 1, 1)) == (None, None)
    everything = shown(database)
    assert beside(everything[3]) == (everything[2], everything[4])
