"""What is deployed: exactly the folder functions/, known by its digest and the commit that it is."""

import hashlib
import subprocess
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from infra import ROOT
from infra.cloud import CloudError
from infra.cloud.config import Config

FOLDER = "functions"
WORKSPACE = "/workspace/"  # where that folder is in an instance


@dataclass(frozen=True, slots=True)
class Source:
    """`digest` is of names and bytes, `commit` the last one that changed them, `-dirty` where they differ."""

    digest: str
    commit: str
    bytes: int


def read(root: Path = ROOT) -> Source:
    """The source as it lies there. Raises CloudError where it is not there."""
    digest, size = hashlib.sha256(), 0
    for name in files(root):
        data = (root / FOLDER / name).read_bytes()
        size += len(data)
        digest.update(f"{name}\0{len(data)}\0".encode() + data)
    return Source(digest.hexdigest()[:16], _commit(root), size)


def check_model(config: Config, root: Path = ROOT) -> None:
    """Raise CloudError where the demonstration captioner would be deployed and DEMO_MODEL=1 is not given."""
    if config.demo_model == "1":
        return
    from dropcap.captioning.blip import (  # takes 0.1 s, for which no other command needs to wait
        Card,
        ModelError,
    )

    given = config.variables.get("MODEL_FOLDER", "model").removeprefix(WORKSPACE)
    folder = root / FOLDER / given
    if not folder.is_relative_to(root / FOLDER):
        return  # a mounted volume's, for one, which can't be read from here
    try:
        card = Card.read(folder)
    except ModelError as unusable:
        if config.settings.blip == "optional":
            return
        raise CloudError(str(unusable)) from unusable
    if card.things:
        raise CloudError(
            f"{FOLDER}/{given} is the demonstration captioner, which knows {card.things} drawn objects: "
            "run `make model`, or deploy it with DEMO_MODEL=1."
        )


def files(root: Path = ROOT) -> list[str]:
    """The files that gcloud uploads, by name: all but those of functions/.gcloudignore."""
    folder = root / FOLDER
    if not (folder / "main.py").exists():
        raise CloudError(f"{folder} has no main.py: run it in a copy of Dropcap.")
    lines = (folder / ".gcloudignore").read_text().split("\n")
    patterns = [line.strip().rstrip("/") for line in lines if line.strip() and not line.startswith("#")]

    def ignored(path: Path) -> bool:
        return any(fnmatch(part, pattern) for part in path.parts for pattern in patterns)

    found = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return sorted(path.as_posix() for path in found if not ignored(path))


def _commit(root: Path) -> str:
    """Seven characters that stay short in a revision's name; a copy without git has none."""

    def git(*words: str) -> str:
        asked = ["git", "-C", str(root), *words]
        return subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()

    try:
        commit = git("log", "-1", "--format=%H", "--", FOLDER)[:7]
        dirty = git("status", "--porcelain", "--", FOLDER)
    except (OSError, subprocess.CalledProcessError):
        return "no-commit"
    return f"{commit}{'-dirty' if dirty else ''}"
