"""Names of what is published: of sizes, of formats, and of the copies that lie where an app looks for them.

The pictures of an upload are `<id>/<label>.<kind>`, where nobody else writes. With LAYOUT=beside, or a
folder, each is copied to where the Firebase extension Resize Images would have put it as well (aliases.py):

    upload            size      format     beside                     thumbs/
    ana/garden.JPG    200x200   webp       ana/garden_200x200.webp    ana/thumbs/garden_200x200.webp
    ana/garden.JPG    200x200   original   ana/garden_200x200.JPG     ana/thumbs/garden_200x200.JPG
    ana/garden        200x200   any        ana/garden_200x200         ana/thumbs/garden_200x200

The folder of the upload begins each name and nothing in it is interpreted, `..` included, so that no name
leads into a folder of somebody else. Uploads of one folder whose names differ in their endings alone want the
same names; the newer has them.
"""

import os.path
import re
from collections.abc import Iterable

from dropcap.domain.upload import is_object

Side = int | tuple[int, int]
"""What a picture fits in: a square of that side, or (width, height); px."""

ORIGINAL = "original"  # the format of the source, where it is one that we write
KINDS = {"JPEG": "jpeg", "MPO": "jpeg", "PNG": "png", "WEBP": "webp", "AVIF": "avif"}  # by Pillow's names
OWNER, COPIES = "dropcap-upload", "dropcap-copies"  # keys of metadata: aliases.py
# Endings that the extension takes off a name (supportedExtensions of its resize-image.ts), and those of what
# it takes no pictures of, whose names are ours to choose.
THEIRS = frozenset({".jpg", ".jpeg", ".jfif", ".png", ".tif", ".tiff", ".webp", ".gif", ".avif"})
OURS = frozenset({".heic", ".heif", ".bmp"})

FORMATS = ("webp", "jpeg", "png", "avif", ORIGINAL)
SIDE = re.compile(r"\d{1,4}(x\d{1,4})?", re.ASCII)
FOLDER = re.compile(r"([^\x00-\x1f\x7f/]{1,64}/){1,4}")  # relative; it takes a part of a name's 1,024 bytes


def as_words(value: str) -> tuple[str, ...]:
    """Split a setting at commas. Raises ValueError if no item is left."""
    words = tuple(word.strip() for word in value.split(",") if word.strip())
    if not words:
        raise ValueError(value)
    return words


def as_sizes(value: str) -> tuple[Side, ...]:
    """SIZES, the largest first. Raises ValueError."""
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
    """FORMAT, in its order. Raises ValueError."""
    formats = tuple(dict.fromkeys(as_words(value)))
    if not {*FORMATS}.issuperset(formats):
        raise ValueError(value)
    return formats


def as_layout(value: str) -> str:
    """LAYOUT. Raises ValueError."""
    folder = FOLDER.fullmatch(value) and not {".", ".."} & {*value.split("/")}
    if not folder and value not in ("id", "beside"):
        raise ValueError(value)
    return value


def longest(side: Side) -> int:
    return side if isinstance(side, int) else max(side)


def label(side: Side) -> str:
    """As SIZES says it: 800, or 200x100."""
    return str(side) if isinstance(side, int) else f"{side[0]}x{side[1]}"


def kinds(name: str, layout: str, size: str, formats: Iterable[str], source: str) -> dict[str, list[str]]:
    """The kinds that FORMAT makes of a source, each with the names of the copies of one size.

    `name` is the upload's, `size` a label, `source` a format as Pillow calls it. Of two formats that want the
    same name, the first has it; what can be no object's name, as it is too long, is left out.
    """
    found: dict[str, list[str]] = {}
    taken: set[str] = set()
    for word in formats:
        kind = KINDS.get(source, "webp") if word == ORIGINAL else word
        names = found.setdefault(kind, [])
        copy = "" if layout == "id" else _copy(name, layout, size, word, kind)
        if is_object(copy) and copy not in taken:
            names.append(copy)
            taken.add(copy)
    return found


def _copy(name: str, layout: str, size: str, word: str, kind: str) -> str:
    folder, slash, file = name.rpartition("/")
    stem, ending = os.path.splitext(file)
    if ending.lower() in THEIRS:
        file = f"{stem}_{size}{ending if word == ORIGINAL else f'.{word}'}"
    elif ending.lower() in OURS:
        file = f"{stem}_{size}.{kind}"
    else:
        file = f"{file}_{size}"
    return f"{folder}{slash}{'' if layout == 'beside' else layout}{file}"
