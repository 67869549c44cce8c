"""Print, as JSON, the fingerprints of the tables of all versions without a schema of their own.

    PYTHONPATH=functions python -m tests.support.database.released > released.json

It needs the whole history of the repository. All later versions have a schema, so the file is complete.
"""

import json
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from dropcap.database.schema import ownership
from dropcap.database.schema.tables import Table
from infra import ROOT

LAST = "0d28d606343d6b124c9596fd61479a5392d3576a"  # the last commit that found its tables by search_path
DECLARED_IN = "functions/dropcap/tables.py"  # as it was called then


def _git(*words: str) -> str:
    command = ["/usr/bin/env", "git", *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout


def versions() -> Iterator[Sequence[Table]]:
    """Yield the tables of each version, oldest first. Raises CalledProcessError without the history."""
    with tempfile.TemporaryDirectory() as folder:
        for commit in _git(
            "log", "--full-history", "--reverse", "--format=%H", LAST, "--", DECLARED_IN
        ).split():
            source = Path(folder) / f"{commit}.py"
            source.write_text(_git("show", f"{commit}:{DECLARED_IN}"))
            yield runpy.run_path(str(source))["TABLES"]


def released() -> dict[str, list[str]]:
    """Return the fingerprints of all versions, by table, oldest first."""
    known: dict[str, list[str]] = {}
    for declared in versions():
        for table in declared:
            found = known.setdefault(table.name, [])
            if (shape := ownership.declared(table)) not in found:
                found.append(shape)
    return known


if __name__ == "__main__":
    json.dump(released(), sys.stdout, indent=1)
    sys.stdout.write("\n")
