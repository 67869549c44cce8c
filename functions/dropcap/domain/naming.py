"""Names of renditions and their aliases, and the settings SIZES, FORMAT and LAYOUT that determine them.

The renditions of an upload are `<id>/<label>.<kind>`, a folder that belongs to this upload alone. With
LAYOUT=beside, or a folder, each has an alias with the name that the Firebase extension Resize Images would
have chosen (storage/aliases.py):

    upload            size      format     beside                     thumbs/
    ana/garden.JPG    200x200   webp       ana/garden_200x200.webp    ana/thumbs/garden_200x200.webp
    ana/garden.JPG    200x200   original   ana/garden_200x200.JPG     ana/thumbs/garden_200x200.JPG
    ana/garden        200x200   any        ana/garden_200x200         ana/thumbs/garden_200x200

Each alias begins with the folder of the upload, in which nothing is interpreted, not even `..`, so that no
name leads into a folder of another user. Uploads in one folder whose names differ only in their endings have
the same aliases; the newer upload owns them.
"""

import os.path
import re
from collections.abc import Iterable
from typing import NamedTuple

from dropcap.domain.upload import is_object

Side = int | tuple[int, int]
"""The box that a rendition fits in: a square of that side, or (width, height); px."""

ORIGINAL = "original"  # the format of the source, or WebP if that format can't be written
KINDS = {"JPEG": "jpeg", "MPO": "jpeg", "PNG": "png", "WEBP": "webp", "AVIF": "avif"}  # Pillow's name: kind
CONTENT_TYPES = {
    "webp": "image/webp",
    "jpeg": "image/jpeg",
    "png": "image/png",
    "avif": "image/avif",
}  # by kind
ANIMATED_FORMATS = frozenset({"GIF", "WEBP"})  # sources that may be animated, by Pillow's names
OWNER, COPIES = "dropcap-upload", "dropcap-copies"  # keys of metadata: aliases.py
# Endings that the extension removes from a name (supportedExtensions of its resize-image.ts), and endings of
# formats that it does not process, for which we choose the name.
THEIRS = frozenset({".jpg", ".jpeg", ".jfif", ".png", ".tif", ".tiff", ".webp", ".gif", ".avif"})
OURS = frozenset({".heic", ".heif", ".bmp"})

FORMATS = ("webp", "jpeg", "png", "avif", ORIGINAL)
SIDE = re.compile(r"\d{1,4}(x\d{1,4})?", re.ASCII)
FOLDER = re.compile(r"([^\x00-\x1f\x7f/]{1,64}/){1,4}")  # relative, and short: a name has at most 1,024 bytes


class Encoded(NamedTuple):
    """An encoded picture: bytes, sides in px and content type."""

    data: bytes
    width: int
    height: int
    content_type: str


def as_words(value: str) -> tuple[str, ...]:
    """Split a setting at commas. Raises ValueError if no item is left."""
    words = tuple(word.strip() for word in value.split(",") if word.strip())
    if not words:
        raise ValueError(value)
    return words


def as_sizes(value: str) -> tuple[Side, ...]:
    """Return the boxes in SIZES, largest first. Raises ValueError."""
    sizes = {_side(word) for word in as_words(value)}
    if len(sizes) > 10:
        raise ValueError(value)
    return tuple(sorted(sizes, key=lambda side: (longest(side), label(side)), reverse=True))


def _side(word: str) -> Side:
    if not SIDE.fullmatch(word) or not all(1 <= int(side) <= 8192 for side in word.split("x")):
        raise ValueError(word)
    width, box, height = word.partition("x")
    return (int(width), int(height)) if box else int(width)


def as_formats(value: str) -> tuple[str, ...]:
    """Return the formats in FORMAT, in their order. Raises ValueError."""
    formats = tuple(dict.fromkeys(as_words(value)))
    if not {*FORMATS}.issuperset(formats):
        raise ValueError(value)
    return formats


def as_layout(value: str) -> str:
    """Return LAYOUT if it is `id`, `beside` or a folder. Raises ValueError."""
    folder = FOLDER.fullmatch(value) and not {".", ".."} & {*value.split("/")}
    if not folder and value not in ("id", "beside"):
        raise ValueError(value)
    return value


def longest(side: Side) -> int:
    return side if isinstance(side, int) else max(side)


def label(side: Side) -> str:
    """Return a box as it is written in SIZES: `800` or `200x100`."""
    return str(side) if isinstance(side, int) else f"{side[0]}x{side[1]}"


def kinds(name: str, layout: str, size: str, formats: Iterable[str], source: str) -> dict[str, list[str]]:
    """Return the kinds of rendition that FORMAT makes of a source, each with its aliases in one size.

    `name` is the upload's, `size` a label, and `source` Pillow's name of the format. If two formats have the
    same alias, it belongs to the first. An alias that is too long for an object's name is left out.
    """
    found: dict[str, list[str]] = {}
    taken: set[str] = set()
    for word in formats:
        kind = KINDS.get(source, "webp") if word == ORIGINAL else word
        names = found.setdefault(kind, [])
        alias = "" if layout == "id" else _alias(name, layout, size, word, kind)
        if is_object(alias) and alias not in taken:
            names.append(alias)
            taken.add(alias)
    return found


def _alias(name: str, layout: str, size: str, word: str, kind: str) -> str:
    folder, slash, file = name.rpartition("/")
    stem, ending = os.path.splitext(file)
    if ending.lower() in THEIRS:
        file = f"{stem}_{size}{ending if word == ORIGINAL else f'.{word}'}"
    elif ending.lower() in OURS:
        file = f"{stem}_{size}.{kind}"
    else:
        file = f"{file}_{size}"
    return f"{folder}{slash}{'' if layout == 'beside' else layout}{file}"
