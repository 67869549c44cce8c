"""Export all of a user's pictures: as CSV, as JSON Lines, or as a zip with the pictures themselves.

An export is made while it is sent, from pages of rows and one picture at a time, so that 100,000 pictures
need no more memory than one, except for a zip's directory and index: a few hundred bytes a picture. If it
fails midway, the connection is cut, because a shorter file would look complete.
"""

import csv
import datetime as dt
import io
import json
import logging
import unicodedata
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
from dropcap.gallery import wall
from dropcap.gallery.archive import Archive
from dropcap.gallery.cards import Card
from dropcap.gallery.request import GalleryRequest, stream
from dropcap.http.server import THREADS

logger = logging.getLogger(__name__)

# A slow download occupies a thread for a long time, so exports get half of the threads.
SLOTS = BoundedSemaphore(max(1, THREADS // 2))
RETRY_AFTER_S = 30
SENT = 65_536  # bytes sent at once
PART = 4096  # bytes of the compressed index, which may expand a thousandfold
BOM = b"\xef\xbb\xbf"  # without it, Excel reads UTF-8 as the regional code page
# Spreadsheets run cells that begin so as formulas: owasp.org/www-community/attacks/CSV_Injection
FORMULA = tuple("=+-@\t\r\n\uff1d\uff0b\uff0d\uff20")
APART = frozenset('\\/:*?"<>|')  # not allowed in file names on some systems
LONGEST_STEM = 120  # bytes: with the rest, far below the limit of 255
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


def export(request: GalleryRequest, kind: str) -> flask.Response:
    """Return the user's pictures, newest first, as `csv`, `jsonl` or `zip`; or all `receipts` as JSON Lines.

    Receipts come oldest first, and include those of rejected pictures.
    """
    if not SLOTS.acquire(blocking=False):
        raise Rejected(
            "busy",
            "Other exports are being downloaded.",
            "Try again when they are done.",
            HTTPStatus.SERVICE_UNAVAILABLE,
            {"Retry-After": str(RETRY_AFTER_S)},
        )
    with ExitStack() as failing:
        failing.callback(SLOTS.release)
        response = _response(request, kind)
        slot = failing.pop_all()
    response.response = _hold_slot(response.response, slot)
    response.call_on_close(slot.close)  # if the client never reads it
    return response


def _hold_slot(parts: Iterable[Any], slot: ExitStack) -> Iterator[Any]:
    with slot:
        yield from parts


def _response(request: GalleryRequest, kind: str) -> flask.Response:
    services, user = request.services, request.user
    # Query before sending anything: a database failure is then an error page, not a broken download.
    if kind == "receipts":
        parts, mimetype = _lines(receipts.by_user(services.database, user)), "application/jsonl"
    else:
        make, mimetype = {
            "csv": (_csv, "text/csv; header=present"),
            "jsonl": (_jsonl, "application/jsonl"),
            "zip": (_zip, "application/zip"),
        }[kind]
        parts = make(request, _cards(request, wall.cards(services.database, user)))
    today = dt.datetime.now(ZoneInfo(services.settings.time_zone)).date()
    suffix = "receipts.jsonl" if kind == "receipts" else kind
    name = f'attachment; filename="dropcap-{today}.{suffix}"'
    return stream(_buffered(parts), mimetype, Content_Disposition=name)


def _cards(request: GalleryRequest, page: list[Card]) -> Iterator[Card]:
    while page:
        proofs = receipts.by_upload(request.services.database, [card.id for card in page])
        yield from (replace(card, receipt=proofs.get(card.id)) for card in page)
        page = wall.cards(request.services.database, request.user, page[-1])


def _buffered(parts: Iterable[bytes]) -> Iterator[bytes]:
    """Join parts into larger ones. Log and raise errors: the server then cuts the connection."""
    waiting = bytearray()
    try:
        for part in parts:
            waiting += part
            if len(waiting) >= SENT:
                yield bytes(waiting)
                waiting.clear()
    except Exception as failed:
        logger.error("an export failed", exc_info=failed, extra={"event": "export_failed"})
        raise
    yield bytes(waiting)


def _csv(_: GalleryRequest, cards: Iterable[Card]) -> Iterator[bytes]:
    """Return a table for spreadsheets (RFC 4180)."""
    yield BOM + _row(COLUMNS)
    for card in cards:
        yield _row(_cells(card))


def _cells(card: Card) -> list[object]:
    return [value(card) for value in COLUMNS.values()]


def _row(cells: Iterable[object]) -> bytes:
    line = io.StringIO()
    # Only strings: a negative number begins like a formula.
    csv.writer(line).writerow(
        [f"'{cell}" if isinstance(cell, str) and cell.startswith(FORMULA) else cell for cell in cells]
    )
    return line.getvalue().encode()


def _jsonl(_: GalleryRequest, cards: Iterable[Card]) -> Iterator[bytes]:
    for card in cards:
        yield _json(card).encode() + b"\n"


def _lines(receipts: Iterable[Mapping[str, object]]) -> Iterator[bytes]:
    for each in receipts:
        yield json.dumps(each, ensure_ascii=False).encode() + b"\n"


def _json(card: Card, indent: int | None = None) -> str:
    """Return a card with all its fields as JSON; instants in ISO 8601 with their offset."""
    return json.dumps(asdict(card), ensure_ascii=False, indent=indent, default=receipts.plain)


def _zip(request: GalleryRequest, cards: Iterable[Card]) -> Iterator[bytes]:
    """Return a zip with each picture's largest rendition, its data as `<same name>.json`, and `index.csv`.

    The index is the CSV export with file names, empty for pictures that are no longer in the bucket.
    """
    archive = Archive()
    compressor = zlib.compressobj()
    index = bytearray(compressor.compress(BOM + _row(["file", *COLUMNS])))
    for card in cards:
        file = ""
        if parts := _largest(request, card):
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
        index += compressor.compress(_row([file, *_cells(card)]))
    index += compressor.flush()
    decompressor = zlib.decompressobj()
    with archive.entry("index.csv", dt.datetime.now(), 0, compressed=True) as out:
        for start in range(0, len(index), PART):
            out.write(decompressor.decompress(index[start : start + PART]))
            yield archive.take()
    archive.close()
    yield archive.take()


def _largest(request: GalleryRequest, card: Card) -> Iterator[bytes] | None:
    """Return the largest rendition in parts; None if there is none."""
    from google.api_core.exceptions import NotFound

    if not card.pictures:
        return None
    largest = card.pictures[0]
    try:
        return request.services.buckets.read_parts(largest.object, largest.bytes)
    except NotFound:
        return None


def _file_name(card: Card) -> str:
    """Return a unique file name for any file system: the day, the user's name for it, and part of its id."""
    stem = unicodedata.normalize("NFC", card.name.rpartition(".")[0] or card.name)
    kept = "".join(c if c.isprintable() and c not in APART else "-" for c in stem)
    kept = kept.encode()[:LONGEST_STEM].decode(errors="ignore").strip(" .-")
    return f"{card.at:%Y-%m-%d} {kept or 'picture'} {card.id.hex[-12:]}"
