"""All of a user's pictures to take away: a table, JSON Lines, or the pictures with what is known of each.

What is sent is made while it is sent, from pages of rows and one picture at a time, so that 100,000 pictures
need no more memory than one: but for a zip's directory and index, some hundred bytes a picture. Where
something fails on the way, the answer breaks off, as a shorter one would look whole.
"""

import csv
import datetime as dt
import io
import json
import logging
import unicodedata
import uuid
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import asdict, replace
from http import HTTPStatus
from threading import BoundedSemaphore
from typing import Any
from zoneinfo import ZoneInfo

import flask

from dropcap.database import receipts
from dropcap.errors import Rejected
from dropcap.gallery import storage, wall
from dropcap.gallery.archive import Archive
from dropcap.gallery.cards import Card
from dropcap.gallery.request import Visit, stream
from dropcap.http.server import THREADS

logger = logging.getLogger(__name__)

# A slow download occupies a thread for long, so exports get half of the threads.
PLACES = BoundedSemaphore(max(1, THREADS // 2))
LATER_S = 30
SENT = 65_536  # bytes at a time
PART = 4096  # bytes of the compressed index, which may be a thousand times as many
BOM = b"\xef\xbb\xbf"  # without it, Excel takes UTF-8 for the code page of its country
# Begun so, a cell may be run as a formula, in full width too: owasp.org/www-community/attacks/CSV_Injection
FORMULA = tuple("=+-@\t\r\n\uff1d\uff0b\uff0d\uff20")
APART = frozenset('\\/:*?"<>|')  # what no file name may hold on one system or the other
LONGEST_STEM = 120  # bytes: with the rest, far below the 255 of file systems
COLUMNS: dict[str, Callable[[Card], object]] = {
    "id": lambda card: card.id,
    "name": lambda card: card.name,
    "at": lambda card: card.at.isoformat(),
    "caption": lambda card: card.caption,
    "alt_text": lambda card: card.alt_text,
    "description": lambda card: card.description,
    "tags": lambda card: ", ".join(card.tags),
    "text": lambda card: card.text,
    "own_caption": lambda card: card.own_caption,
    "model_caption": lambda card: card.model_caption,
    "own_alt_text": lambda card: card.own_alt_text,
    "model_alt_text": lambda card: card.model_alt_text,
    "edited_at": lambda card: card.edited_at and card.edited_at.isoformat(),
    "format": lambda card: card.picture.format,
    "width": lambda card: card.picture.width,
    "height": lambda card: card.picture.height,
    "bytes": lambda card: card.picture.bytes,
    "published": lambda card: " ".join(each.object for each in card.pictures),
    "receipt": lambda card: card.receipt and json.dumps(card.receipt),
    "confidence": lambda card: card.blip.confidence,
    "low_confidence": lambda card: str(card.blip.low_confidence).lower(),
    "notice": lambda card: card.notice,
}


def export(visit: Visit, kind: str) -> flask.Response:
    """The user's pictures, newest first, as `csv`, `jsonl` or `zip`; or all `receipts`, as JSON Lines.

    Receipts are those of pictures that were rejected, too, the oldest first.
    """
    if not PLACES.acquire(blocking=False):
        raise Rejected(
            "busy",
            "Other exports are being downloaded.",
            "Try again when they are done.",
            HTTPStatus.SERVICE_UNAVAILABLE,
            {"Retry-After": str(LATER_S)},
        )
    with ExitStack() as failing:
        failing.callback(PLACES.release)
        response = _response(visit, kind)
        place = failing.pop_all()
    response.response = _until_end(response.response, place)
    response.call_on_close(place.close)  # if the client never reads it
    return response


def _until_end(parts: Iterable[Any], place: ExitStack) -> Iterator[Any]:
    with place:
        yield from parts


def _response(visit: Visit, kind: str) -> flask.Response:
    services, user = visit.services, visit.user
    # Before anything is sent: a database that does not answer is an error page, not a broken download.
    if kind == "receipts":
        parts, mimetype = _lines(receipts.by_user(services.database, user)), "application/jsonl"
    else:
        make, mimetype = {
            "csv": (_csv, "text/csv; header=present"),
            "jsonl": (_jsonl, "application/jsonl"),
            "zip": (_zip, "application/zip"),
        }[kind]
        parts = make(visit, _cards(visit, wall.cards(services.database, user)))
    today = dt.datetime.now(ZoneInfo(services.settings.time_zone)).date()
    suffix = "receipts.jsonl" if kind == "receipts" else kind
    name = f'attachment; filename="dropcap-{today}.{suffix}"'
    return stream(_sent(parts), mimetype, Content_Disposition=name)


def _cards(visit: Visit, page: list[Card]) -> Iterator[Card]:
    while page:
        proofs = receipts.by_upload(visit.services.database, [card.id for card in page])
        yield from (replace(card, receipt=proofs.get(card.id)) for card in page)
        page = wall.cards(visit.services.database, visit.user, page[-1])


def _sent(parts: Iterable[bytes]) -> Iterator[bytes]:
    """The parts in larger ones. A failure is logged and raised: the server then cuts the connection."""
    waiting = bytearray()
    try:
        for part in parts:
            waiting += part
            if len(waiting) >= SENT:
                yield bytes(waiting)
                waiting.clear()
    except Exception as failed:
        logger.error("an export broke off", exc_info=failed, extra={"event": "export_failed"})
        raise
    yield bytes(waiting)


def _csv(_: Visit, cards: Iterable[Card]) -> Iterator[bytes]:
    """RFC 4180, for a spreadsheet."""
    yield BOM + _row(COLUMNS)
    for card in cards:
        yield _row(_cells(card))


def _cells(card: Card) -> list[object]:
    return [value(card) for value in COLUMNS.values()]


def _row(cells: Iterable[object]) -> bytes:
    line = io.StringIO()
    # A negative number begins like a formula, and is none.
    csv.writer(line).writerow([_harmless(cell) if isinstance(cell, str) else cell for cell in cells])
    return line.getvalue().encode()


def _harmless(cell: str) -> str:
    return f"'{cell}" if cell.startswith(FORMULA) else cell


def _jsonl(_: Visit, cards: Iterable[Card]) -> Iterator[bytes]:
    for card in cards:
        yield _json(card).encode() + b"\n"


def _lines(receipts: Iterable[Mapping[str, object]]) -> Iterator[bytes]:
    for each in receipts:
        yield json.dumps(each, ensure_ascii=False).encode() + b"\n"


def _json(card: Card, indent: int | None = None) -> str:
    """All that a card has; instants in ISO 8601 with their offset."""
    return json.dumps(asdict(card), ensure_ascii=False, indent=indent, default=_plain)


def _plain(value: dt.datetime | uuid.UUID) -> str:
    return value.isoformat() if isinstance(value, dt.datetime) else str(value)


def _zip(visit: Visit, cards: Iterable[Card]) -> Iterator[bytes]:
    """Of each picture the largest published copy with `<same name>.json` beside it, and `index.csv`.

    That is the same table with the file's name; without one where the picture is gone from the bucket.
    """
    archive = Archive()
    squeezed = zlib.compressobj()
    index = bytearray(squeezed.compress(BOM + _row(["file", *COLUMNS])))
    for card in cards:
        file = ""
        if parts := _largest(visit, card):
            largest, name = card.pictures[0], _file_name(card)
            file = f"{name}.{largest.object.rpartition('.')[2]}"
            with archive.entry(file, card.at, largest.bytes) as out:
                for part in parts:
                    out.write(part)
                    yield archive.take()
            known = _json(card, indent=2).encode()
            with archive.entry(f"{name}.json", card.at, len(known), compressed=True) as out:
                out.write(known)
            yield archive.take()
        index += squeezed.compress(_row([file, *_cells(card)]))
    index += squeezed.flush()
    plain = zlib.decompressobj()
    with archive.entry("index.csv", dt.datetime.now(), 0, compressed=True) as out:
        for start in range(0, len(index), PART):
            out.write(plain.decompress(index[start : start + PART]))
            yield archive.take()
    archive.close()
    yield archive.take()


def _largest(visit: Visit, card: Card) -> Iterator[bytes] | None:
    """The parts of the largest published copy, or None where it is gone."""
    from google.api_core.exceptions import NotFound

    if not card.pictures:
        return None
    largest = card.pictures[0]
    try:
        return storage.parts(visit.services.buckets, largest.object, largest.bytes)
    except NotFound:
        return None


def _file_name(card: Card) -> str:
    """The day, what the user called it, and of its id what makes it the only one, fit for any file system."""
    stem = unicodedata.normalize("NFC", card.name.rpartition(".")[0] or card.name)
    kept = "".join(c if c.isprintable() and c not in APART else "-" for c in stem)
    kept = kept.encode()[:LONGEST_STEM].decode(errors="ignore").strip(" .-")
    return f"{card.at:%Y-%m-%d} {kept or 'picture'} {card.id.hex[-12:]}"
