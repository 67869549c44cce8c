"""Identifiers use the standard terms, and folders stay small."""

import io
import keyword
import re
import subprocess
import tokenize
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import PurePath

import pytest

from infra import ROOT

# Each retired word and the standard term.
RETIRED = {
    "ancestor": "legacy migration",
    "brake": "budget",
    "looking": "inference",
    "publishing": "renditions",
    "senders": "publishers",
    "spending": "usage",
    "surroundings": "services",
    "teller": "dispatcher",
    "unsent": "PublishError",
    "withdraw": "unpublish",
    "withdrawn": "unpublished",
    "witness": "consistency check",
    "witnesses": "consistency check",
    "zombies": "stale workers",
}
MOST_FILES = 15  # in a folder; a newcomer takes these in at a glance


@cache
def tracked(pattern: str = "*") -> tuple[str, ...]:
    command = ["/usr/bin/env", "git", "ls-files", "-z", "--", pattern]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return tuple(name for name in listed.split("\0") if name and (ROOT / name).is_file())


def words(identifier: str) -> list[str]:
    """Split snake_case and CamelCase: `HTTPSender_of` into http, sender, of."""
    return [word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", identifier)]


def identifiers(source: str) -> Iterator[tuple[str, int]]:
    """Yield each name in Python source, and its line; words in strings and comments are not names."""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.NAME and not keyword.iskeyword(token.string):
            yield token.string, token.start[0]


@cache
def names() -> tuple[tuple[str, str], ...]:
    """Return all names that may contain a retired word, modules' included, each with its place."""
    found = []
    for file in tracked("*.py"):
        found.append((PurePath(file).stem, file))
        source = (ROOT / file).read_text()
        if any(word in source.lower() for word in RETIRED):  # splitting all files takes 8 s
            found += [(name, f"{file}:{line}") for name, line in identifiers(source)]
    return tuple(found)


def test_identifiers_are_split_into_words() -> None:
    assert words("HTTPSender_of") == ["http", "sender", "of"]
    assert words("_MAX_DEATHS2") == ["max", "deaths"]
    assert words("DailyBrake") == ["daily", "brake"]


def test_strings_and_comments_have_no_identifiers() -> None:
    assert [name for name, _ in identifiers('a = "brake"  # teller\n')] == ["a"]


@pytest.mark.parametrize("word", RETIRED)
def test_no_identifier_has_a_retired_word(word: str) -> None:
    found = [f"{place}: {name}" for name, place in names() if word in words(name)]
    assert not found, f"the standard term is {RETIRED[word]}"


def test_no_folder_has_too_many_files() -> None:
    counts = Counter(str(PurePath(file).parent) for file in tracked())
    crowded = {folder: count for folder, count in counts.items() if count > MOST_FILES}
    assert not crowded
