"""`settings.mk`: what is set of a deployment, for make to read. `make deploy` and `make import` write it.

It says what a person would say again with each command; the deployed services are the record (deployed.py).
"""

import os
import re
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from infra.cloud import CloudError
from infra.cloud.config import NAMES, NOT_KEPT, SECRETS, SETTINGS, Config

FILE = Path("settings.mk")
HEAD = (
    "# Settings for make plan, make deploy and what comes after them. The command line and the environment "
    "override them.\n# make deploy writes here what it deployed, and leaves all other lines as they are. It "
    "writes no secret.\n"
)
ASSIGNED = re.compile(r"\s*(?:export\s+)?([A-Z_]+)\s*[?:+]*=\s*(.*)")
CONDITION = re.compile(r"\s*(ifn?eq|ifn?def|endif)\b")
COMMENT = re.compile(r"(?<!\\)#.*")
OWN = (NAMES | SETTINGS | {"PROJECT"}) - {*SECRETS} - {*NOT_KEPT}


def line(name: str, value: str) -> str:
    """Return the line of make that sets a variable unless something else does. Raises CloudError."""
    if "\\" in value or not value.isprintable() or value != value.strip():
        raise CloudError(
            f"{name}={value!r} is not allowed: it must have no backslash, control character or outer space."
        )
    return f"export {name} ?= {value.replace('$', '$$').replace('#', chr(92) + '#')}"


def updated(text: str, settings: Mapping[str, str]) -> str:
    """Return the text of the file with these settings in place of those that it had, and no others.

    What it sets besides, its comments and its order stay. A value that make can't have is left out.
    """
    lines, left = [], {"PROJECT": "", **settings}
    for each, found in _parsed(text or HEAD):
        if not found:
            lines.append(each)
            continue
        if comment := COMMENT.search(found[2]):
            lines.append(comment[0])
        if value := left.pop(found[1], ""):
            lines += _lines(found[1], value)
    lines += [each for name, value in left.items() if value for each in _lines(name, value)]
    return "\n".join(lines) + "\n"


def _parsed(text: str) -> Iterator[tuple[str, re.Match[str] | None]]:
    """Yield each line, and where it sets one of ours; what is set on a condition is left to people."""
    depth = 0
    for each in text.replace("\\\n", " ").splitlines():
        if condition := CONDITION.match(each):
            depth += -1 if condition[1] == "endif" else 1
        found = ASSIGNED.fullmatch(each)
        yield each, found if found and not depth and found[1] in OWN else None


def _lines(name: str, value: str) -> list[str]:
    try:
        return [line(name, value)]
    except CloudError:
        return []  # it stays as deployed all the same


def write(config: Config) -> None:
    """Keep what is deployed; where that is not possible, say so."""
    try:
        before = FILE.read_text() if FILE.exists() else ""
        after = updated(before, {"PROJECT": config.project, "REGION": config.region, **config.chosen})
        if after != before:
            replace(after)
    except (OSError, UnicodeDecodeError) as wrong:
        print(f"Warning: {FILE} was not written ({wrong}); all stays as deployed.", file=sys.stderr)


def replace(text: str) -> None:
    """Put a new file in the place of the old one at once, with its mode; a new one is the user's alone."""
    place = FILE.resolve()
    number, part = tempfile.mkstemp(prefix=f".{FILE.name}.", dir=place.parent)
    try:
        with open(number, "w") as file:
            file.write(text)
        if place.exists():
            os.chmod(part, place.stat().st_mode)
        os.replace(part, place)
    except BaseException:
        os.unlink(part)
        raise


def check(project: str, environment: Mapping[str, str]) -> None:
    """Raise CloudError where make has read the file, and it is that of another project."""
    if "MAKELEVEL" not in environment or not FILE.is_file():
        return
    for _, found in _parsed(FILE.read_text(errors="replace")):
        if found and found[1] == "PROJECT" and (other := COMMENT.sub("", found[2]).strip()) != project:
            raise CloudError(
                f"{FILE} has the settings of {other}, but you said PROJECT={project}: move the file away, "
                "or, if both projects are to have the same settings, delete its PROJECT line."
            )
