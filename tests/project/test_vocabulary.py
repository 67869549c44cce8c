"""Identifiers use the standard terms, and folders stay small."""

import ast
import re
import subprocess
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
    "claim": "acquire the lease",
    "claims": "known errors, or the claims of a token",
    "death": "crash",
    "deaths": "crashes",
    "doors": "entry points",
    "fate": "disposition",
    "fates": "dispositions",
    "given": "what it is: parameters, environment, ...",
    "holder": "owner",
    "lent": "leased",
    "looking": "inference",
    "passing": "transient",
    "place": "location, index, path, ...",
    "places": "locations, indexes, paths, ...",
    "publishing": "renditions",
    "said": "what it is: message, text, output, ...",
    "seen": "visited",
    "senders": "publishers",
    "spending": "usage",
    "strangers": "other users",
    "surroundings": "services",
    "sweeper": "reconcile",
    "sweeps": "reconcile runs",
    "swept": "reconciled",
    "teller": "dispatcher",
    "told": "delivered, reported",
    "unreachable": "DatabaseUnavailable, or what does not answer",
    "unsent": "PublishError",
    "visit": "request",
    "whoever": "who it is",
    "withdraw": "unpublish",
    "withdrawn": "unpublished",
    "witness": "consistency check",
    "witnesses": "consistency check",
    "zombies": "stale workers",
}
STABLE = {"MAX_DEATHS", "deaths", "holder", "max_deaths", "source_fate"}  # docs/reference/stable-names.md
FOREIGN = {"claim", "claims", "all_claims", "with_other_claims"}  # of an ID token: RFC 7519
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
    """Yield each name in Python source with its line, except names of tests, which are sentences."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                if not name.startswith("test_"):
                    yield name, node.lineno
            case ast.Name(id=name) | ast.Attribute(attr=name) | ast.arg(arg=name):
                yield name, node.lineno
            case ast.keyword(arg=str(name)):
                yield name, node.value.lineno


@cache
def names() -> dict[str, list[str]]:
    """Return where each name is, modules' included, by name: `file:line`."""
    found: dict[str, list[str]] = {}
    for file in tracked("*.py"):
        found.setdefault(PurePath(file).stem, []).append(file)
        source = (ROOT / file).read_text()
        for name, line in identifiers(source):
            if name != "given" or "from hypothesis import" not in source:
                found.setdefault(name, []).append(f"{file}:{line}")
    return found


def test_identifiers_are_split_into_words() -> None:
    assert words("HTTPSender_of") == ["http", "sender", "of"]
    assert words("_MAX_DEATHS2") == ["max", "deaths"]
    assert words("DailyBrake") == ["daily", "brake"]


def test_strings_and_comments_have_no_identifiers() -> None:
    assert [name for name, _ in identifiers('a = "brake"  # teller\n')] == ["a"]


def test_identifiers_include_attributes_arguments_and_keywords() -> None:
    source = "def a(b): return c.d(e=f'{g}')\nclass H: i = 1\ndef test_j(): pass\n"
    assert {name for name, _ in identifiers(source)} == {*"abcdegHi"}


@pytest.mark.parametrize("word", RETIRED)
def test_no_identifier_has_a_retired_word(word: str) -> None:
    found = {name: where for name, where in names().items() if word in words(name)}
    for name in STABLE | FOREIGN:
        found.pop(name, None)
    assert not found, f"the standard term is {RETIRED[word]}"


def test_no_folder_has_too_many_files() -> None:
    counts = Counter(str(PurePath(file).parent) for file in tracked())
    crowded = {folder: count for folder, count in counts.items() if count > MOST_FILES}
    assert not crowded
