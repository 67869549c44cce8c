"""Write `settings.mk`, from which make reads the settings of a deployment.

It saves typing the settings with each command; the deployed services are authoritative (deployed.py).
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
    "# Settings for make plan, make deploy and the later commands. The command line and the environment "
    "override them.\n# make deploy writes the deployed settings here, without secrets, and keeps all other "
    "lines.\n"
)
ASSIGNED = re.compile(r"\s*(?:export\s+)?([A-Z_]+)\s*[?:+]*=\s*(.*)")
CONDITION = re.compile(r"\s*(ifn?eq|ifn?def|endif)\b")
COMMENT = re.compile(r"(?<!\\)#.*")
OWN = (NAMES | SETTINGS | {"PROJECT"}) - {*SECRETS} - {*NOT_KEPT}


def line(name: str, value: str) -> str:
    """Return a line of make that sets a variable if it is not set yet. Raises CloudError."""
    if "\\" in value or not value.isprintable() or value != value.strip():
        raise CloudError(
            f"{name}={value!r} is not allowed: it must have no backslash, control character or outer space."
        )
    return f"export {name} ?= {value.replace('$', '$$').replace('#', chr(92) + '#')}"


def updated(text: str, settings: Mapping[str, str]) -> str:
    """Return the text of the file with these settings in place of the old ones.

    Other lines, comments and the order stay. A value that make cannot express is left out.
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
    """Yield each line, with its match if it sets a variable of Dropcap outside a condition."""
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
        return []  # the deployment keeps it anyway


def write(config: Config) -> None:
    """Write the deployed settings; warn if that is not possible."""
    try:
        before = FILE.read_text() if FILE.exists() else ""
        after = updated(before, {"PROJECT": config.project, "REGION": config.region, **config.chosen})
        if after != before:
            replace(after)
    except (OSError, UnicodeDecodeError) as wrong:
        print(f"Warning: {FILE} was not written ({wrong}); the deployment is not affected.", file=sys.stderr)


def replace(text: str) -> None:
    """Replace the file atomically and keep its mode; only the user can read a new file."""
    path = FILE.resolve()
    number, part = tempfile.mkstemp(prefix=f".{FILE.name}.", dir=path.parent)
    try:
        with open(number, "w") as file:
            file.write(text)
        if path.exists():
            os.chmod(part, path.stat().st_mode)
        os.replace(part, path)
    except BaseException:
        os.unlink(part)
        raise


def check(project: str, environment: Mapping[str, str]) -> None:
    """Raise CloudError if make has read the file, and it belongs to another project."""
    if "MAKELEVEL" not in environment or not FILE.is_file():
        return
    for _, found in _parsed(FILE.read_text(errors="replace")):
        if found and found[1] == "PROJECT" and (other := COMMENT.sub("", found[2]).strip()) != project:
            raise CloudError(
                f"{FILE} has the settings of {other}, but PROJECT={project} is given: move the file away "
                "or, if both projects should have the same settings, delete its PROJECT line."
            )
