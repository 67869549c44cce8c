"""Start Python processes for tests, with a minimal PYTHONPATH."""

import os
import subprocess
import sys
from pathlib import Path

from tests.support.app import ROOT

QUICK = ROOT / "tests" / "quick"
FUNCTIONS = ROOT / "functions"


def python_path(*folders: Path) -> str:
    """Return a PYTHONPATH of these folders and the one that speeds up the start (sitecustomize.py)."""
    return os.pathsep.join(map(str, (*folders, QUICK)))


def fresh_python(program: str) -> str:
    """Return what a program prints in a new Python, which has loaded none of our modules."""
    command = [sys.executable, "-W", "ignore", "-c", program]
    environment = os.environ | {"PYTHONPATH": python_path(FUNCTIONS)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout
