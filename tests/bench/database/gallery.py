"""The gallery's part of `make bench-database`: many searchable pictures of one user."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator
from functools import partial
from itertools import accumulate

from pg8000.native import Connection

from dropcap.database import search
from dropcap.database.transactions import Database
from dropcap.domain.analysis import STAGES
from dropcap.gallery import wall
from dropcap.gallery.wall import Filters
from infra import ROOT
from tests.bench.database.operations import Bench, Figure

USER = "gallery"
BOUND_MS = 50.0
CHUNK = 5000
WORDS = 70  # of a picture: caption, alt text, tags, and a description of 40
INSERT = """
INSERT INTO analyses (id, user_id, analyzed_at, caption, alt_text, tags, description, picture_text,
                      format, bytes, width, height, result)
SELECT md5('gallery' || n)::uuid, :user, now() - interval '1 day' - (:count - n) * interval '50 minutes',
       caption, alt_text, string_to_array(tags, ' '), description, 'No ' || n,
       'JPEG', 3145728, 4032, 3024, CAST(:result AS jsonb) || jsonb_build_object('description', description)
FROM unnest(CAST(:numbers AS bigint[]), CAST(:captions AS text[]), CAST(:alt_texts AS text[]),
            CAST(:tags AS text[]), CAST(:descriptions AS text[]))
  AS made (n, caption, alt_text, tags, description)
"""
RESULT = {
    "upload": {"bucket": "dropcap-uploads", "name": f"{USER}/{'0' * 32}/IMG_2031.jpg", "generation": 1},
    "picture": {"decoder": "libvips"},
    "sources": {name: {"answered": True, "model": name, "version": "1"} for name in ("blip", "gemini")},
    "pictures": [
        {"label": str(side), "object": f"{'0' * 36}/{side}.webp", "width": side, "height": side * 3 // 4}
        | {"bytes": 123_456, "content_type": "image/webp", "md5": "1B2M2Y8AsgTpgAmY7PhCfg=="}
        for side in (1600, 800, 200)
    ],
    "memory": dict.fromkeys(STAGES, 123.4),
    "timings": dict.fromkeys(STAGES, 0.1234),
}
SEARCHES = {
    "a rare word": Filters(words="unicorn"),
    "a common word": Filters(words="harbour"),
    "two common words that hardly meet": Filters(words="harbour mountain"),
    "a mistyped word": Filters(words="lihgthouse"),
    "four words": Filters(words="harbour lighthouse view station"),
    "the beginning of a word": Filters(words="s"),
    "a word that none has": Filters(words="qwertyuiop"),
    "a word of the oldest third alone": Filters(words="festival"),
    "a tag": Filters(tag="sunset"),
}


def load(connection: Connection, count: int) -> Iterator[int]:
    """Insert `count` pictures of USER over at most ten years; yield the rows of each chunk.

    Words are as frequent as in a language, by Zipf's law; some are put in by hand, to be looked for.
    """
    chance = random.Random(7)  # noqa: S311  the same words each time
    words = re.findall(r"^[a-z]{3,}$", (ROOT / "functions/model/vocab.txt").read_text(), re.MULTILINE)
    by_hand = {word for each in SEARCHES.values() for word in (*each.words.split(), each.tag)}
    words = [word for word in words if word not in by_hand]
    chance.shuffle(words)
    weights = list(accumulate(1 / (rank + 3) for rank in range(len(words))))
    for first in range(0, count, CHUNK):
        numbers = range(first, min(first + CHUNK, count))
        texts = [chance.choices(words, cum_weights=weights, k=WORDS) for _ in numbers]
        connection.run(
            INSERT,
            user=USER,
            count=count,
            result=json.dumps(RESULT),
            numbers=list(numbers),
            captions=[" ".join(each[:9]) for each in texts],
            alt_texts=[" ".join(each[9:24]) for each in texts],
            tags=[
                " ".join(each[24:30] + ["sunset"] * (n % 40 == 0))
                for n, each in zip(numbers, texts, strict=True)
            ],
            descriptions=[
                " ".join(each[30:] + _by_hand(n, count)) for n, each in zip(numbers, texts, strict=True)
            ],
        )
        yield len(numbers)


def _by_hand(n: int, count: int) -> list[str]:
    found = {
        "unicorn": n % (count // 5) == 7,
        "harbour": n % 10 < 3 or n % 10_000 == 9,
        "mountain": 4 <= n % 10 < 7 or n % 10_000 == 9,
        "lighthouse": n % 97 == 0,
        "view": n % 7 == 0,
        "station": n % 11 == 0,
        "festival": n < count // 3,
    }
    return [word for word, is_there in found.items() if is_there]


def index(database: Database, user: str = USER) -> None:
    """Make a user's pictures searchable, as the user's visits do one after the other."""
    while search.refresh(database, user, 60.0):
        pass


def operations(bench: Bench, count: int) -> Iterator[Figure]:
    """Measure what a page of the wall asks of the database."""
    middle = (
        "SELECT analyzed_at, id FROM analyses WHERE user_id = :user ORDER BY analyzed_at OFFSET :n LIMIT 1"
    )
    [[at, id]] = bench.plain.query(middle, user=USER, n=count // 10)
    pages = {"first page": Filters(), "page nine tenths down": Filters(after=wall.key(at, id))}
    for about, filters in pages.items():
        yield bench.measure(f"wall, {about}", partial(_page, filters), bound_ms=BOUND_MS)
    yield bench.measure("wall, the tags", lambda database: wall.tags(database, USER), bound_ms=BOUND_MS)
    for about, filters in SEARCHES.items():
        yield bench.measure(f"search, {about}", partial(_page, filters), bound_ms=BOUND_MS)


def _page(filters: Filters, database: Database) -> None:
    wall.page(database, USER, filters)
