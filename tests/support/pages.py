"""The code blocks of the pages in docs."""

import re
import shlex
from pathlib import Path

from tests.support.app import ROOT

DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))


def blocks(page: Path, kind: str) -> list[str]:
    """Return the code blocks of a kind."""
    return re.findall(rf"^```{kind}\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


def commands(page: Path, *first: str) -> list[list[str]]:
    """Return the words of each shell command on a page that begins with these words, in order."""
    joined = [block.replace("\\\n", " ") for block in blocks(page, "sh")]
    # A line break within quotes does not end a command.
    found = [shlex.split(line) for block in joined for line in re.findall(r"(?:[^\n']|'[^']*')+", block)]
    return [words for words in found if tuple(words[: len(first)]) == first]
