"""Identify the deployed source, exactly the folder functions/, by its digest and commit."""

import hashlib
import subprocess
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from infra import ROOT
from infra.cloud import CloudError
from infra.cloud.config import Config

FOLDER = "functions"
WORKSPACE = "/workspace/"  # path of that folder in an instance


@dataclass(frozen=True, slots=True)
class Source:
    """`digest` covers names and bytes; `commit` is the last that changed them, with `-dirty` if modified."""

    digest: str
    commit: str
    bytes: int


def read(root: Path = ROOT) -> Source:
    """Return the source of the working tree. Raises CloudError if it is missing."""
    digest, size = hashlib.sha256(), 0
    for name in files(root):
        data = (root / FOLDER / name).read_bytes()
        size += len(data)
        digest.update(f"{name}\0{len(data)}\0".encode() + data)
    return Source(digest.hexdigest()[:16], _commit(root), size)


def check_model(config: Config, root: Path = ROOT) -> None:
    """Raise CloudError if a damaged model would be deployed, or a demonstration without DEMO_MODEL=1."""
    if config.demo_model == "1":
        return
    from dropcap.captioning.blip import (  # imported here, as it takes 0.1 s that no other command needs
        Card,
        ModelError,
    )

    chosen = config.variables.get("MODEL_FOLDER", "model").removeprefix(WORKSPACE)
    folder = root / FOLDER / chosen
    if not folder.is_relative_to(root / FOLDER):
        return  # on a mounted volume, for example, which is not readable here
    try:
        card = Card.read(folder)
        if not card.things:
            card.verify(folder)  # the function itself does so only after its first caption
    except ModelError as unusable:
        if config.settings.blip == "optional":
            return
        raise CloudError(str(unusable)) from unusable
    if card.things:
        raise CloudError(
            f"{FOLDER}/{chosen} is the demonstration captioner, which knows {card.things} drawn objects: "
            "run `make model`, or deploy it with DEMO_MODEL=1."
        )


def files(root: Path = ROOT) -> list[str]:
    """Return the names of the files that gcloud uploads: all except those in functions/.gcloudignore."""
    folder = root / FOLDER
    if not (folder / "main.py").exists():
        raise CloudError(f"{folder} has no main.py: run this in a clone of Dropcap.")
    lines = (folder / ".gcloudignore").read_text().split("\n")
    patterns = [line.strip().rstrip("/") for line in lines if line.strip() and not line.startswith("#")]

    def ignored(path: Path) -> bool:
        return any(fnmatch(part, pattern) for part in path.parts for pattern in patterns)

    found = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return sorted(path.as_posix() for path in found if not ignored(path))


def _commit(root: Path) -> str:
    """Return seven characters of the commit, for the names of revisions; \"no-commit\" without git."""

    def git(*words: str) -> str:
        asked = ["git", "-C", str(root), *words]
        return subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()

    try:
        commit = git("log", "-1", "--format=%H", "--", FOLDER)[:7]
        dirty = git("status", "--porcelain", "--", FOLDER)
    except (OSError, subprocess.CalledProcessError):
        return "no-commit"
    return f"{commit}{'-dirty' if dirty else ''}"
