"""Check what a child process answers: a crafted picture may have taken it over.

Only known codes, formats, sizes and log events pass; everything else is a rejection of the picture.
"""

import logging
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from dropcap import logs
from dropcap.domain.analysis import PictureFacts
from dropcap.domain.body import Body
from dropcap.domain.naming import CONTENT_TYPES, Encoded, Side
from dropcap.errors import NotDecoded, Rejected
from dropcap.sandbox.processes import DecoderError, Exhausted, nonsense

logger = logging.getLogger(__name__)

MAX_TEXT = 500  # characters of a text that comes from a child
MAX_NUMBER = 2**31
MAX_LINES = 5  # of what decoders logged
STATUSES = (413, 415, 422)  # of rejections by decoders
DECODERS = ("pillow", "libvips", "libheif")
FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "GIF", "TIFF", "BMP", "HEIF", "AVIF")  # Pillow's names
BEGINNINGS = {"webp": b"RIFF", "jpeg": b"\xff\xd8", "png": b"\x89PNG", "avif": b"\0\0\0"}
CODES = (  # of rejections by decoders
    "empty_picture",
    "not_a_picture",
    "unsupported_format",
    "broken_picture",
    "side_too_long",
    "too_many_pixels",
    "needs_too_much_memory",
)


def check(answer: Mapping[str, Any]) -> None:
    """Log what a child reports. Raises Rejected, Exhausted or NotDecoded if it reports an error."""
    for line in list(answer.get("log", ()))[:MAX_LINES]:
        _log(line)
    if missing := answer.get("unconfined"):
        text = f"Decoders are less confined here: {_text(missing)}."
        logs.once(logger, logging.WARNING, text, "decoder_less_confined")
    if answer.get("exhausted"):
        raise Exhausted
    if "failed" in answer:
        raise NotDecoded(_text(answer["failed"]))
    if reason := answer.get("rejected"):
        if reason["code"] not in CODES or reason["status"] not in STATUSES:
            raise ValueError("a rejection that no decoder raises")
        caused = DecoderError(_text(answer["cause"])) if answer["cause"] else None
        problem, remedy = _text(reason["problem"]), _text(reason["remedy"])
        raise Rejected(reason["code"], problem, remedy, HTTPStatus(reason["status"])) from caused


def _log(line: Mapping[str, Any]) -> None:
    """Log a line of a child, if it is one that decoders log."""
    if line["event"] == "decoder_problems":
        texts = [_text(text) for text in line["said"][:MAX_LINES]]
        fields = {"kind": _text(line["kind"]), "said": texts, "times": int(line["times"])}
        logger.info("decoders reported problems in the file", extra={"event": "decoder_problems", **fields})
    elif line["event"] == "animation_not_published":
        log_still(_text(line["problem"]))


def log_still(problem: str) -> None:
    """Log why an animation is published as its first frame."""
    text = "the animation is published as its first frame"
    logger.warning(text, extra={"event": "animation_not_published", "problem": problem})


def _text(text: Any) -> str:
    """Return a text of a child as one short line. Raises TypeError if it is none."""
    if not isinstance(text, str):
        raise TypeError("not a text")
    return " ".join(text.split())[:MAX_TEXT]


def read_facts(answer: Mapping[str, Any], body: Body) -> PictureFacts:
    """Return the facts about an upload, of which the child's part is checked."""
    try:
        facts = answer["facts"]
        numbers = [facts[name] for name in ("width", "height", "pages")]
        known = facts["format"] in FORMATS and facts["decoder"] in DECODERS
        if not known or not all(type(number) is int and 0 < number <= MAX_NUMBER for number in numbers):
            raise ValueError("facts that no picture has")
    except (KeyError, TypeError, ValueError) as wrong:
        raise nonsense() from wrong
    width, height, pages = numbers
    return PictureFacts(facts["format"], body.size, width, height, facts["decoder"], body.sha256, pages)


def read_encoded(answer: Mapping[str, Any], data: bytes, side: Side, kind: str) -> Encoded:
    """Return an encoded picture, which must fit in `side` and begin as its kind does."""
    size = read_size(answer, side if isinstance(side, tuple) else (side, side))
    if not data.startswith(BEGINNINGS[kind]):
        raise nonsense()
    return Encoded(data, *size, CONTENT_TYPES[kind])


def read_size(answer: Mapping[str, Any], most: tuple[int, int]) -> tuple[int, int]:
    """Return the size in an answer, which must be within `most`."""
    match answer.get("size"):
        case [int(width), int(height)] if 0 < width <= most[0] and 0 < height <= most[1]:
            return int(width), int(height)  # true is a number, too
    raise nonsense()
