"""Names, paths and counts as a terminal shows them."""

import os
import re
from pathlib import Path

# What would move the cursor, colour the terminal or reverse its text, and bytes that are not UTF-8.
UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(name: str) -> str:
    """Return a name of a file or an object as a terminal may show it, in one line."""

    def escaped(found: re.Match[str]) -> str:
        code = ord(found[0])
        if 0xDC80 <= code <= 0xDCFF:  # how Python keeps a byte that is not UTF-8 (PEP 383)
            code -= 0xDC00
        return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"

    return UNPRINTABLE.sub(escaped, name)


def plural(number: int, noun: str) -> str:
    """Return the number with its noun, which takes an s."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def short(path: Path) -> str:
    """Return the path relative to the working folder if it is below it."""
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)
