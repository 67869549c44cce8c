# ruff: noqa: S608  the SQL is made of this file's own words
"""The search finds the texts of a user's own pictures, mistyped or not, and of no other's."""

import datetime as dt
import uuid
from contextlib import closing
from typing import Any

import pytest

from dropcap.database import search
from dropcap.database.connection import connect_to_schema
from dropcap.database.schema.tables import TABLES
from dropcap.database.transactions import Database
from dropcap.gallery import wall
from dropcap.gallery.wall import Filters
from tests.support.database.uploads import race, record, upload

START = dt.datetime(2026, 3, 5, tzinfo=dt.UTC)
TEXTS = {"caption": "", "description": "", "alt_text": "", "tags": (), "text": ""}


def add(database: Database, caption: str = "", user: str = "ana", day: int = 0, **texts: Any) -> uuid.UUID:
    """Record a picture as the pipeline does."""
    picture = upload(f"{user}/{uuid.uuid4()}.png")
    at = START + dt.timedelta(days=day)
    assert record(database, picture, **TEXTS | {"caption": caption} | texts, analyzed_at=at)
    return picture.id


def found(database: Database, words: str = "", user: str = "ana", tag: str = "") -> list[uuid.UUID]:
    return [card.id for card in wall.page(database, user, Filters(words=words, tag=tag)).cards]


def corrected(database: Database, words: str) -> dict[str, tuple[str, ...]]:
    return dict(wall.page(database, "ana", Filters(words=words)).corrected)


def vocabulary(database: Database) -> dict[str, int]:
    rows = database.query("SELECT CASE WHEN tag THEN '#' ELSE '' END || word, pictures FROM vocabulary")
    return {word: pictures for word, pictures in rows if word}


@pytest.mark.parametrize("field", ["caption", "description", "alt_text", "text"])
def test_the_search_covers_all_texts_of_a_picture(database: Database, field: str) -> None:
    texts: dict[str, Any] = {field: "A lighthouse, and its keeper's DOG."}
    wanted = add(database, **texts)
    add(database, "a harbour")
    assert found(database, "lighthouse") == [wanted]
    assert found(database, "Keeper dog") == [wanted]
    assert found(database, "lighthouse harbour") == []


def test_the_words_of_a_tag_are_searched_and_a_chosen_tag_matches_exactly(database: Database) -> None:
    wanted = add(database, tags=("light house", "gold"))
    add(database, "light house")
    assert found(database, "house gold") == [wanted]
    assert found(database, tag="light house") == [wanted]
    assert found(database, "house", tag="gold") == [wanted]
    assert found(database, tag="light") == found(database, tag="Gold") == []


TYPOS = {
    **{"elefant": "elephant", "elephnat": "elephant", "lighthose": "lighthouse", "lihgthouse": "lighthouse"},
    **{"birdz": "birds", "hosue": "house", "vien": "view"},
}


def test_a_mistyped_word_is_corrected_and_the_correction_reported(database: Database) -> None:
    for typed, meant in TYPOS.items():
        wanted = add(database, f"here is one {meant}", user=typed)
        add(database, "a table with a vase", user=typed)
        page = wall.page(database, typed, Filters(words=typed))
        assert [card.id for card in page.cards] == [wanted], typed
        assert page.corrected == {typed: (meant,)}


def test_a_correct_word_is_not_corrected(database: Database) -> None:
    one, other = add(database, "a black bird"), add(database, "a blank beard")
    assert (found(database, "bird"), corrected(database, "bird")) == ([one], {})
    assert (found(database, "blank"), corrected(database, "blank")) == ([other], {})


def test_prefixes_and_other_forms_of_a_word_match(database: Database) -> None:
    many, one = add(database, "two cats", day=1), add(database, "a cat")
    for words in ("c", "cat", "cats"):
        assert found(database, words) == [many, one]
        assert corrected(database, words) == {}


def test_accents_are_optional(database: Database) -> None:
    wanted = add(database, "Café à la Plaza de España", text="Żółw")
    for words in ("cafe", "CAFÉ", "espana", "España", "zołw"):
        assert found(database, words) == [wanted], words


def test_punctuation_never_hides_a_word(database: Database) -> None:
    """Nor do words that PostgreSQL's parser reads as a path, a host, a tag or a number."""
    glued = "gold/silver gold.silver gold@silver.com <gold>silver gold-silver “gold”—silver… gold_silver"
    texts = (*glued.split(), "-gold+silver", "http://gold/silver?x=1", "gold's silver's")
    for number, text in enumerate(texts):
        user = f"user {number}"
        wanted = add(database, text=text, user=user)
        for words in ("gold", "silver", text):
            assert found(database, words, user) == [wanted], (words, text)


def test_numbers_are_matched_exactly_and_never_corrected(database: Database) -> None:
    wanted = add(database, text="Total 4711 EUR, IMG2031")
    assert found(database, "4711") == found(database, "img2031") == [wanted]
    assert found(database, "4712") == found(database, "471") == []
    assert vocabulary(database) == {"total": 1, "eur": 1}


HOSTILE = (
    *(
        "'",
        "''",
        "\\",
        "\\'",
        "a' | b",
        "gold' & !('x",
        "gold:*",
        "!gold",
        "&",
        "|",
        "<->",
        "(",
        "gold <-> x",
    ),
    *("\x00", "gold\x00", "\ud800", "\ud800gold", "%", "_", "$1", ":words", "''); DROP TABLE analyses; --"),
    *(
        "@ana",
        "#gold",
        "'@bo' | gold",
        "\u202egold",
        "💎",
        "a" * 200,
        "ж" * 200,
        "x " * 9,
        "- " * 99,
        "<script>",
    ),
)


def test_no_search_text_causes_an_error_or_finds_another_users_pictures(database: Database) -> None:
    mine = [add(database, text, tags=(text, "gold"), text=text) for text in HOSTILE]
    theirs = {add(database, text, user="bo", tags=(text,), text=text) for text in HOSTILE}
    for text in HOSTILE:
        for page in (Filters(words=text), Filters(tag=text), Filters(words=text, tag="gold")):
            assert not theirs & {card.id for card in wall.page(database, "ana", page).cards}, text
    assert len(wall.page(database, "ana", Filters(tag="gold"), size=100).cards) == len(mine)
    assert found(database, "💎") == [mine[HOSTILE.index("💎")]]
    assert found(database, tag="\\'") == [mine[HOSTILE.index("\\'")]]


def test_a_picture_whose_texts_are_huge_or_empty_is_indexed_like_any_other(database: Database) -> None:
    long = "gold " * 100_000
    huge = add(database, "x" * 1_000_000, description=long, tags=("t" * 5000, ""), text="a" * 3000)
    assert found(database, "gold") == [huge]
    assert wall.page(database, "ana", Filters()).unindexed == 0


def test_other_users_words_are_neither_found_nor_used_as_corrections(database: Database) -> None:
    add(database, "an elephant", user="bo", tags=("savanna",))
    add(database, "a table")
    assert found(database, "elephant", user="bo")
    for words in ("elephant", "elefant", "eleph", "savanna"):
        assert found(database, words) == []
        assert corrected(database, words) == {}
    assert found(database, tag="savanna") == []
    assert wall.tags(database, "ana") == []


def test_tags_are_listed_by_their_number_of_pictures(database: Database) -> None:
    for tags in (("gold", "crown"), ("gold", "king"), ("gold", "king")):
        add(database, tags=tags)
    wall.page(database, "ana", Filters())
    assert wall.tags(database, "ana") == [("gold", 3), ("king", 2), ("crown", 1)]
    assert wall.tags(database, "ana", most=1) == [("gold", 3)]


def edit(database: Database, id: uuid.UUID, caption: str) -> None:
    """Edit a caption as the gallery does, in one transaction."""

    def work(run: Any) -> None:
        search.remove(run, "ana", id)
        run("UPDATE analyses SET own_caption = :caption WHERE id = CAST(:id AS uuid)", id=id, caption=caption)

    database.transaction(work)


def delete(database: Database, id: uuid.UUID) -> None:
    def work(run: Any) -> None:
        search.remove(run, "ana", id)
        run("DELETE FROM analyses WHERE id = CAST(:id AS uuid)", id=id)

    database.transaction(work)


def test_an_edit_replaces_the_models_text_in_the_index(database: Database) -> None:
    id = add(database, "an elephant", description="grey")
    assert found(database, "elephant") == [id]
    edit(database, id, "a walrus")
    assert found(database, "walrus") == found(database, "grey") == [id]
    assert found(database, "elephant") == []
    assert "elephant" not in vocabulary(database)


def test_no_word_of_a_deleted_picture_is_left_in_any_table(database: Database) -> None:
    gone = add(database, "an elephant", tags=("savanna",), text="secretword")
    add(database, "an apple")
    wall.page(database, "ana", Filters())
    delete(database, gone)
    assert vocabulary(database) == {"an": 1, "apple": 1}
    everything = "; ".join(
        str(row) for table in TABLES for row in database.query(f"SELECT * FROM {table.name} WHERE true")
    )
    assert not any(word in everything for word in ("elephant", "savanna", "secretword"))


def test_removing_a_picture_that_is_not_indexed_changes_no_count(database: Database) -> None:
    add(database, "an apple")
    assert found(database, "apple")
    for id in (add(database, "an apple"), uuid.uuid4()):
        delete(database, id)
    assert vocabulary(database) == {"an": 1, "apple": 1}


def test_another_users_picture_can_not_be_removed_from_the_index(database: Database) -> None:
    theirs = add(database, "an apple", user="bo")
    assert found(database, "apple", user="bo")
    database.transaction(lambda run: search.remove(run, "ana", theirs))
    assert found(database, "apple", user="bo") == [theirs]


LOST = (
    "TRUNCATE vocabulary",
    "TRUNCATE vocabulary, documents",
    "TRUNCATE vocabulary; UPDATE analyses SET searchable = false",
)


@pytest.mark.parametrize("lost", LOST)
def test_a_lost_index_is_rebuilt(
    database: Database, database_url: str, monkeypatch: pytest.MonkeyPatch, lost: str
) -> None:
    ids = [add(database, f"an apple {name}", day=-day) for day, name in enumerate(("pie", "tree", "cake"))]
    assert found(database, "apple") == ids
    before = vocabulary(database)
    with closing(connect_to_schema(database_url)) as outside:
        outside.run(lost)
    monkeypatch.setattr(search, "BATCH", 2)
    assert found(database, "apple") == ids
    assert vocabulary(database) == before


def test_many_pictures_are_indexed_in_batches_newest_first_and_the_page_has_the_number_left(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = [add(database, "an apple", day=day) for day in range(7)]
    monkeypatch.setattr(search, "BATCH", 3)
    monkeypatch.setattr(wall, "SEARCH_S", 0.0)
    for left in (4, 1, 0):
        page = wall.page(database, "ana", Filters(words="apple"))
        assert page.unindexed == left
        assert [card.id for card in page.cards] == ids[left:][::-1]
    assert vocabulary(database)["apple"] == 7


def test_concurrent_requests_index_each_picture_once(database: Database, database_url: str) -> None:
    for _ in range(20):
        add(database, "an apple")
    race(database_url, lambda racer, _: search.refresh(racer, "ana", 5.0))
    assert search.refresh(database, "ana", 5.0) == 0
    assert vocabulary(database) == {"an": 20, "apple": 20}


def test_searching_an_empty_wall_writes_nothing(database: Database) -> None:
    assert found(database, "apple", user="nobody") == []
    assert database.query("SELECT count(*) FROM vocabulary") == [[0]]


def test_every_plan_returns_the_newest_first(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """The plans: search the newest rows, use the index, or scan when there are too many matches to sort."""
    ids = [add(database, "an apple" if day % 2 else "a pear", day=-day) for day in range(20)]
    for rows, most in ((2000, 5000), (1, 5000), (1, 2)):
        monkeypatch.setattr(search, "NEWEST", rows)
        monkeypatch.setattr(search, "MOST_SORTED", most)
        first = wall.page(database, "ana", Filters(words="apple"), size=4)
        assert [card.id for card in first.cards] == ids[1:8:2]
        then = wall.page(database, "ana", Filters(words="apple", after=first.next), size=10)
        assert [card.id for card in then.cards] == ids[9::2]
        assert then.next == ""
