"""A deployment as a test meets it: the real tool and the real gcloud against Google's stand-in."""

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
    """A command that ran: its exit status, what it printed, and the requests that asked for a change."""

    status: int
    out: str
    error: str
    writes: list[Request] = field(repr=False)

    @property
    def lines(self) -> list[str]:
        return [request.line for request in self.writes]


class Deployment:
    """A copy of the project with functions that are small, and a project of Google's stand-in."""

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
        """Commit what is there; the seven characters that name it."""
        self.git("add", "functions")
        self.git("commit", "-qm", message)
        return self.git("rev-parse", "HEAD")[:7]

    def read_source(self) -> source.Source:
        return source.read(self.root)

    def environment(self, **variables: str) -> dict[str, str]:
        """What a command finds, with these variables besides the usual ones; an empty one is unset."""
        environment = {name: value for name, value in os.environ.items() if name not in NOTHING}
        environment |= self.plane.environment | {"PROJECT": self.plane.project} | USUAL | variables
        environment = {name: value for name, value in environment.items() if value}
        environment["PYTHONPATH"] = f"{self.functions}:{self.root}"
        return environment

    def run_script(self, text: str, **variables: str) -> None:
        """Run a shell script in the folder of the copy, as a person would."""
        script = self.root / "script.sh"
        script.write_text(text)
        subprocess.run(["sh", str(script)], cwd=self.root, env=self.environment(**variables), check=True)  # noqa: S607

    def make(self, command: str, **variables: str) -> Ran:
        """What `make COMMAND` does."""
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
        """What a person sees who types a command of the guide, and answers what it asks."""
        program = self.root / "bin" / "make"
        if not program.exists():
            program.parent.mkdir()
            words = ["make", "-f", str(ROOT / "Makefile"), "-o", ".venv/installed", f"RUN={sys.executable}"]
            program.write_text(f'#!/bin/sh\nPATH=${{PATH#*:}} exec {shlex.join(words)} "$@"\n')
            program.chmod(0o700)
        environment = self.environment(YES="", PROJECT="", MAKEFLAGS="", MAKELEVEL="")
        environment["PATH"] = f"{program.parent}:{environment['PATH']}"
        shown = terminal.typed(command, self.root, environment, answer)
        assert PASSWORD not in shown
        assert KEY not in shown
        return shown

    def deployed(self, **variables: str) -> Ran:
        """`make deploy`, which must succeed."""
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
        """The variables of a function that are no secrets."""
        return {each["name"]: each["value"] for each in self.container(name)["env"] if "value" in each}

    def rights(self, key: str) -> set[tuple[str, str]]:
        """Who has which role on a resource: `dropcap-analyze` has `storage.objectUser`."""
        return {
            (member.partition(":")[2].partition("@")[0] or member, binding["role"].removeprefix("roles/"))
            for binding in self.plane.policies.get(key, {"bindings": []})["bindings"]
            for member in binding["members"]
        }


def save(plane: ControlPlane, file: Path) -> None:
    """Keep all that there is in the stand-in."""
    part = file.with_suffix(".part")
    part.write_bytes(pickle.dumps({name: getattr(plane, name) for name in STATE}))
    part.rename(file)


def load(plane: ControlPlane, file: Path) -> None:
    """Put all that was kept into a stand-in."""
    for name, value in pickle.loads(file.read_bytes()).items():  # noqa: S301  our own
        setattr(plane, name, value)


def once(made: Path) -> bool:
    """Whether this process is the one that has to make it; the others wait until it is made or has failed."""
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
