"""A deployment for tests: the real tool and the real gcloud against Google's stand-in."""

import os
import pickle
import shlex
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from infra.cloud import source
from tests.support import terminal
from tests.support.app import ROOT
from tests.support.cloud.control_plane import ControlPlane
from tests.support.cloud.control_plane_store import Request

PASSWORD, KEY = "secret1", "secret2"
USUAL = {
    "DATABASE_URL": f"postgresql://ana:{PASSWORD}@db.example.com/dropcap",
    "GEMINI_API_KEY": KEY,
    "YES": "1",
    "PATIENCE_S": "0",
    "DEMO_MODEL": "1",
}
# The first commands of docs/deploy.md, whose outputs tests/cloud/test_guide.py compares.
FIRST = tuple(f"make {words}" for words in ("plan PROJECT=demo-project", "deploy PROJECT=demo-project"))
FIRST += ("make deploy PROJECT=demo-project GALLERY=1 ALERT_EMAIL=ana@example.com BUDGET=20",)
ALERTS = {"ALERT_EMAIL": "ana@example.com", "BUDGET": "20"}
STATE = ("resources", "policies", "operations", "images", "payloads", "uploads", "_numbers")
NOTHING = ["CLOUD_SQL", "ALERT_EMAIL", "BUDGET", "SOURCE", "AUTH", "GALLERY", "SIGN_IN_URL", "DATA"]
NOTHING += ["COMMANDS", "PROJECT", "REGION", "YES"]


@dataclass(frozen=True)
class Ran:
    """The result of a command: exit status, output, and the requests that ask for a change."""

    status: int
    out: str
    error: str
    writes: list[Request] = field(repr=False)

    @property
    def lines(self) -> list[str]:
        return [request.line for request in self.writes]


class Deployment:
    """A copy of the repository with small functions, and a project in Google's stand-in."""

    def __init__(self, folder: Path, plane: ControlPlane) -> None:
        self.plane = plane
        self.root = folder / "copy"
        self.root.mkdir()
        (self.root / "infra").symlink_to(ROOT / "infra")
        heavy = ("__pycache__", "*.onnx", "*.data", "vocab.txt")
        shutil.copytree(ROOT / "functions", self.functions, ignore=shutil.ignore_patterns(*heavy))
        self.git("init", "-q")
        self.commit("first")

    @property
    def functions(self) -> Path:
        return self.root / "functions"

    def git(self, *words: str) -> str:
        identity = ("-c", "user.name=Ana", "-c", "user.email=ana@example.com", "-c", "commit.gpgsign=false")
        asked = ["git", *identity, "-C", str(self.root), *words]
        return subprocess.run(asked, check=True, capture_output=True, text=True).stdout.strip()

    def commit(self, message: str) -> str:
        """Commit the working tree, and return seven characters of the commit."""
        self.git("add", "functions")
        self.git("commit", "-qm", message)
        return self.git("rev-parse", "HEAD")[:7]

    def read_source(self) -> source.Source:
        return source.read(self.root)

    def environment(self, **variables: str) -> dict[str, str]:
        """Return the environment of a command with these additional variables; empty ones are unset."""
        environment = {name: value for name, value in os.environ.items() if name not in NOTHING}
        environment |= self.plane.environment | {"PROJECT": self.plane.project} | USUAL | variables
        environment = {name: value for name, value in environment.items() if value}
        environment["PYTHONPATH"] = f"{self.functions}:{self.root}"
        return environment

    def run_script(self, text: str, **variables: str) -> None:
        """Run a shell script in the folder of the copy."""
        script = self.root / "script.sh"
        script.write_text(text)
        subprocess.run(["sh", str(script)], cwd=self.root, env=self.environment(**variables), check=True)  # noqa: S607

    def make(self, command: str, **variables: str) -> Ran:
        """Run `make COMMAND` and return the result."""
        before = len(self.plane.writes)
        ran = subprocess.run(
            [sys.executable, "-m", "infra.cloud", command],
            cwd=self.root,
            env=self.environment(**variables),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        assert "Traceback" not in ran.stderr, ran.stderr
        assert PASSWORD not in ran.stdout + ran.stderr
        assert KEY not in ran.stdout + ran.stderr
        return Ran(ran.returncode, ran.stdout, ran.stderr, self.plane.writes[before:])

    def typed(self, command: str, answer: str) -> str:
        """Type a command of the guide at a terminal, answer its question, and return the output."""
        program = self.root / "bin" / "make"
        if not program.exists():
            program.parent.mkdir()
            words = ["make", "-f", str(ROOT / "Makefile"), "-o", ".venv/installed", f"RUN={sys.executable}"]
            program.write_text(f'#!/bin/sh\nPATH=${{PATH#*:}} exec {shlex.join(words)} "$@"\n')
            program.chmod(0o700)
        environment = self.environment(YES="", PROJECT="")
        environment["PATH"] = f"{program.parent}:{environment['PATH']}"
        shown = terminal.typed(command, self.root, environment, answer)
        assert PASSWORD not in shown
        assert KEY not in shown
        return shown

    def deployed(self, **variables: str) -> Ran:
        """Run `make deploy`, which must succeed."""
        ran = self.make("deploy", **variables)
        assert ran.status == 0, ran.out[-2000:] + ran.error
        return ran

    def service(self, name: str) -> Any:
        return self.plane.resources[
            f"run/projects/{self.plane.project}/locations/europe-west1/services/dropcap-{name}"
        ]

    def container(self, name: str) -> Any:
        [container] = self.service(name)["spec"]["template"]["spec"]["containers"]
        return container

    def variables(self, name: str) -> dict[str, str]:
        """Return the variables of a function that are not secrets."""
        return {each["name"]: each["value"] for each in self.container(name)["env"] if "value" in each}

    def rights(self, key: str) -> set[tuple[str, str]]:
        """Return account and role of each grant on a resource: `dropcap-analyze`, `storage.objectUser`."""
        return {
            (member.partition(":")[2].partition("@")[0] or member, binding["role"].removeprefix("roles/"))
            for binding in self.plane.policies.get(key, {"bindings": []})["bindings"]
            for member in binding["members"]
        }


def save(plane: ControlPlane, file: Path) -> None:
    """Save the state of the stand-in."""
    part = file.with_suffix(".part")
    part.write_bytes(pickle.dumps({name: getattr(plane, name) for name in STATE}))
    part.rename(file)


def load(plane: ControlPlane, file: Path) -> None:
    """Load a saved state into a stand-in."""
    for name, value in pickle.loads(file.read_bytes()).items():  # noqa: S301  our own
        setattr(plane, name, value)


def once(made: Path) -> bool:
    """Return whether this process must create it; others wait until it is created or has failed."""
    if made.exists():
        return False
    taken = made.with_suffix(".taken")
    try:
        taken.mkdir()
        return True
    except FileExistsError:
        while taken.exists() and not made.exists():
            time.sleep(0.2)
        assert made.exists(), "it could not be made, as the test worker that tried says"
        return False
