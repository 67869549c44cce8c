# ruff: noqa: S608  what is put into the SQL is this file's own; users, words and keys are parameters
"""Show the wall of a user's pictures, newest first and page by page, and single pictures."""

import datetime as dt
import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import Any

import flask

from dropcap.database import receipts, search, search_tokens
from dropcap.database.transactions import Database, Executor
from dropcap.errors import Rejected
from dropcap.gallery import pages
from dropcap.gallery.cards import COLUMNS, UPLOADS, Card, Pending, card_of, pending_of
from dropcap.gallery.request import GalleryRequest, no_such_picture

SIZE = 24  # cards per page
SEARCH_S, GLANCE_S = 2.0, 0.3  # time to index pictures before a search, or before a page without one
MAX_PENDING = 50  # uploads without a card, of each kind, on the first page
STATES = ("captioned", "working", "rejected")
LONGEST_SEARCH, LONGEST_TAG = 200, 100  # characters
KEY = re.compile(r"([0-9a-f]{1,14})-([0-9a-f]{32})")  # microseconds since 1970, and the id
EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
CARDS = f"SELECT {COLUMNS} FROM analyses WHERE user_id = :user"
NEWEST_FIRST = "ORDER BY analyzed_at DESC, id DESC LIMIT :size"
# Rows after a key, newest first. The first condition can use an index on the instant.
BEYOND = "AND {0} <= :at AND ({0}, id) < (:at, CAST(:id AS uuid))"
NEWER = "AND {0} >= :at AND ({0}, id) > (:at, CAST(:id AS uuid))"
NEIGHBOUR = "SELECT id FROM analyses WHERE user_id = :user {0} ORDER BY analyzed_at {1}, id {1} LIMIT 1"
# A hold lasts three days. The first condition can use an index on the instant.
RECENT = """
created_at > now() - interval '4 days' AND (created_at > now() - interval '1 day' OR state = 'held')
"""
IN_STATE = {"working": "state = 'claimed'", "rejected": "reason_code <> ''"}


@dataclass(frozen=True, slots=True)
class Filters:
    """The requested part of the wall. Days are inclusive, in the zone of the settings.

    `state` is captioned (cards), working or rejected (uploads without a card; held ones count as rejected);
    `after` is the key of a page.
    """

    words: str = ""
    tag: str = ""
    since: dt.date | None = None
    until: dt.date | None = None
    state: str = "captioned"
    after: str = ""

    @classmethod
    def read(cls, args: Mapping[str, str]) -> "Filters":
        """Return the filters of `?q=&tag=&from=&to=&state=&after=`. Raises Rejected for invalid values."""
        found = cls(
            words=args.get("q", "").strip(),
            tag=args.get("tag", ""),
            since=_day(args.get("from", "")),
            until=_day(args.get("to", "")),
            state=args.get("state", "") or "captioned",
            after=args.get("after", ""),
        )
        if len(found.words) > LONGEST_SEARCH or search_tokens.count(found.words) > search.MOST_WORDS:
            raise Rejected(
                "long_search",
                "The search is too long.",
                f"Search for at most {search.MOST_WORDS} words, {LONGEST_SEARCH} characters.",
                HTTPStatus.BAD_REQUEST,
            )
        if len(found.tag) > LONGEST_TAG:
            raise Rejected(
                "no_such_tag",
                "The tag is too long.",
                "Choose one of the tags on the page.",
                HTTPStatus.BAD_REQUEST,
            )
        if found.state not in STATES:
            raise Rejected(
                "bad_state",
                "`state` is not a valid state.",
                f"Give one of {', '.join(STATES)}.",
                HTTPStatus.BAD_REQUEST,
            )
        if found.after:
            _parse_key(found.after)
        return found

    @property
    def query(self) -> dict[str, str]:
        """Return the filters as query parameters, without `after`; values without effect are empty."""
        return {
            "q": self.words,
            "tag": self.tag,
            "from": self.since.isoformat() if self.since else "",
            "to": self.until.isoformat() if self.until else "",
            "state": "" if self.state == "captioned" else self.state,
        }


@dataclass(frozen=True, slots=True)
class Page:
    """Cards, newest first; `next` is the key of the next page, empty at the end.

    `pending` are uploads without a card: those in the requested state, and on the first page of the
    unfiltered wall those working, held, or rejected within a day. `corrected` maps mistyped words to those
    searched for instead; `unindexed` counts pictures that no search finds yet.
    """

    cards: tuple[Card, ...]
    pending: tuple[Pending, ...]
    next: str
    corrected: Mapping[str, tuple[str, ...]]
    unindexed: int


def show(request: GalleryRequest) -> flask.Response:
    """Return the requested page of the wall."""
    filters = Filters.read(request.http.args)
    database = request.services.database
    found = page(database, request.user, filters)  # first, because it indexes pictures for `tags`
    return pages.page(request, "wall.html", page=found, filters=filters, tags=tags(database, request.user))


def picture(request: GalleryRequest, picture: uuid.UUID) -> flask.Response:
    """Return the page of one picture (`card`) or unfinished upload (`pending`). Raises Rejected.

    The filters of the query choose the wall to go back to, and the pictures beside it.
    """
    filters = Filters.read(request.http.args)
    database = request.services.database
    found = card(database, request.user, picture)
    upload = None if found else pending(database, request.user, picture)
    if not found and not upload:
        raise no_such_picture()
    proof = receipts.by_upload(request.services.database, [picture]).get(picture)
    newer, older = neighbours(database, request.user, found, filters) if found else (None, None)
    # The page of the wall that begins with the picture.
    at = key(found.at + dt.timedelta(microseconds=1), found.id) if found and newer else ""
    back = request.link("/", **dict(filters.query, after=at))
    return pages.page(
        request,
        "picture.html",
        card=found,
        pending=upload,
        receipt=proof,
        filters=filters,
        newer=newer,
        older=older,
        back=back,
    )


def page(database: Database, user: str, filters: Filters, size: int = SIZE) -> Page:
    """Return the requested page of the user's wall, after indexing new pictures for the search."""
    if filters.state != "captioned":
        uploads = database.transaction(lambda run: _uploads(run, user, filters, size + 1))
        return Page((), *_cut(uploads, size), {}, 0)

    searched = bool(filters.words or filters.tag)
    unindexed = search.refresh(database, user, SEARCH_S if searched else GLANCE_S)

    def work(run: Executor) -> Page:
        conditions, values = _bounds(filters, "analyzed_at")
        corrected: Mapping[str, tuple[str, ...]] = {}
        if searched:
            asked = search.query(run, user, filters.words, filters.tag)
            ids = search.newest(run, user, asked.text, size + 1, conditions, values) if asked.text else []
            conditions, values = "AND id = ANY (CAST(:ids AS uuid[]))", {"ids": [str(id) for id in ids]}
            corrected = asked.corrected
        rows = run(f"{CARDS} {conditions} {NEWEST_FIRST}", user=user, size=size + 1, **values)
        cards, after = _cut([card_of(*row) for row in rows], size)
        return Page(
            cards, _recent_pending(run, user) if filters == Filters() else (), after, corrected, unindexed
        )

    return database.transaction(work)


def _recent_pending(run: Executor, user: str) -> tuple[Pending, ...]:
    working = _uploads(run, user, Filters(state="working"), MAX_PENDING)
    rejected = _uploads(run, user, Filters(state="rejected"), MAX_PENDING, RECENT)
    return (*working, *rejected)


def card(database: Database, user: str, id: uuid.UUID) -> Card | None:
    """Return the user's picture with this id; None if there is none, or it is another user's."""
    rows = database.query(f"{CARDS} AND id = CAST(:id AS uuid)", user=user, id=id)
    return card_of(*rows[0]) if rows else None


def pending(database: Database, user: str, id: uuid.UUID) -> Pending | None:
    """Return the user's upload with this id if it is in progress, held or rejected."""
    wanted = f"{UPLOADS} AND id = CAST(:id AS uuid) AND ({' OR '.join(IN_STATE.values())})"
    rows = database.query(wanted, user=user, id=id)
    return pending_of(*rows[0]) if rows else None


def neighbours(
    database: Database, user: str, card: Card, filters: Filters
) -> tuple[uuid.UUID | None, uuid.UUID | None]:
    """Return the ids of the next newer and the next older picture of a search; None at its ends."""

    def work(run: Executor) -> tuple[uuid.UUID | None, uuid.UUID | None]:
        within, values = _bounds(replace(filters, after=""), "analyzed_at")
        values |= {"at": card.at, "id": card.id}
        searched = bool(filters.words or filters.tag)
        query = search.query(run, user, filters.words, filters.tag).text if searched else ""

        def beside(beyond: str, order: str) -> uuid.UUID | None:
            conditions = f"{within} {beyond.format('analyzed_at')}"
            if not searched:
                rows = run(NEIGHBOUR.format(conditions, order), user=user, **values)
                return rows[0][0] if rows else None
            found = search.newest(run, user, query, 1, conditions, values, order) if query else []
            return found[0] if found else None

        return beside(NEWER, "ASC"), beside(BEYOND, "DESC")

    return database.transaction(work)


def cards(database: Database, user: str, after: Card | None = None, size: int = 200) -> list[Card]:
    """Return the next `size` cards after `after`, newest first."""
    values = {"at": after.at, "id": after.id} if after else {}
    beyond = BEYOND.format("analyzed_at") if after else ""
    rows = database.query(f"{CARDS} {beyond} {NEWEST_FIRST}", user=user, size=size, **values)
    return [card_of(*row) for row in rows]


def tags(database: Database, user: str, most: int = 40) -> list[tuple[str, int]]:
    """Return the user's tags with their number of pictures, most frequent first; `page` indexes new ones."""
    return database.transaction(lambda run: search.tags(run, user, most))


def key(at: dt.datetime, id: uuid.UUID) -> str:
    """Return the key of the page after a picture."""
    return f"{(at - EPOCH) // dt.timedelta(microseconds=1):x}-{id.hex}"


def _uploads(run: Executor, user: str, filters: Filters, size: int, more: str = "true") -> list[Pending]:
    conditions, values = _bounds(filters, "created_at")
    wanted = f"{UPLOADS} AND {IN_STATE[filters.state]} AND {more} {conditions}"
    rows = run(f"{wanted} ORDER BY created_at DESC, id DESC LIMIT :size", user=user, size=size, **values)
    return [pending_of(*row) for row in rows]


def _bounds(filters: Filters, instant: str) -> tuple[str, dict[str, Any]]:
    """Return the conditions on the column `instant`, and their parameters."""
    conditions = ""
    values: dict[str, Any] = {}
    if filters.after:
        conditions += BEYOND.format(instant)
        values["at"], values["id"] = _parse_key(filters.after)
    if filters.since:
        conditions += f" AND {instant} >= CAST(CAST(:since AS date) AS timestamptz)"
        values["since"] = filters.since
    if filters.until:
        conditions += f" AND {instant} < CAST(CAST(:until AS date) + 1 AS timestamptz)"
        values["until"] = filters.until
    return conditions, values


def _cut(found: list[Any], size: int) -> tuple[tuple[Any, ...], str]:
    """Return the first `size` items and the key of the next page."""
    shown = tuple(found[:size])
    if len(found) <= size:
        return shown, ""
    return shown, key(shown[-1].at, shown[-1].id)


def _parse_key(key: str) -> tuple[dt.datetime, uuid.UUID]:
    found = KEY.fullmatch(key)
    if found:
        return EPOCH + dt.timedelta(microseconds=int(found[1], 16)), uuid.UUID(found[2])
    raise Rejected(
        "bad_page",
        "`after` is not the key of a page.",
        "Start at the first page, and follow its links.",
        HTTPStatus.BAD_REQUEST,
    )


def _day(text: str) -> dt.date | None:
    try:
        return dt.date.fromisoformat(text) if text else None
    except ValueError:
        raise Rejected(
            "bad_date", "A date can't be read.", "Give days as 2026-01-31.", HTTPStatus.BAD_REQUEST
        ) from None
