"""Download the needed files of a checkpoint from the Hugging Face hub, and verify their SHA-256.

The contents of the repositories were read on 2026-11-30 from stored copies of the hub's pages
(`tree/REVISION` and `blob/REVISION/FILE`, which has the SHA-256).
BLIP-base has safetensors only in unmerged pull requests.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path

from huggingface_hub import HfApi, snapshot_download, try_to_load_from_cache
from huggingface_hub.constants import HF_HUB_CACHE
from huggingface_hub.errors import GatedRepoError, OfflineModeIsEnabled
from requests.exceptions import ConnectionError as NoConnection
from requests.exceptions import Timeout

NAME = re.compile(r"([A-Za-z0-9][\w.-]*/[\w.-]+)(?:@([\w./-]+))?", re.ASCII)  # ./x is a folder
SMALL = (
    *("config.json", "preprocessor_config.json", "tokenizer.json", "tokenizer_config.json", "vocab.txt"),
    *("special_tokens_map.json", "added_tokens.json", "README.md", "LICENSE", "LICENSE.txt", "LICENSE.md"),
)
WEIGHTS = (  # the first that a repository has; never tf_model.h5 or a second copy
    ("model.safetensors",),
    ("model.safetensors.index.json", "model-*.safetensors"),
    ("pytorch_model.bin",),
    ("pytorch_model.bin.index.json", "pytorch_model-*.bin"),
)
SHA256 = re.compile(r"[0-9a-f]{64}")
TIMEOUT_S = 30
MAX_SMALL_BYTES = 20_000_000  # for each of SMALL; BLIP's tokenizer.json has 711,396


class ExportError(Exception):
    """The model cannot be exported; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Known:
    """The revision that is taken unless another is asked for, and the SHA-256 of its weights."""

    revision: str
    sha256: dict[str, str] = field(default_factory=dict)


KNOWN = {
    "Salesforce/blip-image-captioning-base": Known(
        "82a37760796d32b1411fe092ab5d4e227313294b",
        {"pytorch_model.bin": "d6638651a5526cc2ede56f2b5104d6851b0755816d220e5e046870430180c767"},
    ),
    "Salesforce/blip-image-captioning-large": Known(
        "353689b859fcf0523410b1806dace5fb46ecdf41",
        {"model.safetensors": "ebc867586b8318647dd7b75ef8e52f93f89b98ac7dcbd04d10219d33b9a68c6f"},
    ),
}


def fetch(asked: str, accept: Callable[[Path], None]) -> Path:
    """Return the folder with the checkpoint of a hub name, or NAME@REVISION; its name is the commit.

    `accept` is given the folder when all but the weights are there, and raises what speaks against them. What
    the cache of the hub's client (HF_HOME) has is not downloaded again. Raises ExportError.
    """
    name, revision = _parse(asked)
    try:
        listed = _listed(name, revision)
        chosen = weights(listed)
        if large := next((file for file in SMALL if listed.get(file, 0) > MAX_SMALL_BYTES), None):
            raise ExportError(f"{asked}: {large} has {listed[large]:,} bytes: that is no captioner's")
        folder = _snapshot(name, revision, SMALL)
        if not (folder / "config.json").is_file():
            raise ExportError(f"{asked} has no config.json: it is no model that transformers can load")
        if not chosen:
            raise ExportError(f"{asked} has neither model.safetensors nor pytorch_model.bin: name another")
        accept(folder)
        _announce(name, folder.name, {file: listed[file] for file in chosen})
        _snapshot(name, revision, (*SMALL, *chosen))
    except GatedRepoError as closed:
        raise ExportError(
            f"{asked} is open only to those who accept its terms: do so at https://huggingface.co/{name},"
            " then set HF_TOKEN"
        ) from closed
    except (OSError, ValueError) as failed:  # include all errors of the hub's client
        # A server's message may contain terminal control characters.
        why = " ".join("".join(c if c.isprintable() else " " for c in str(failed)).split())[:300]
        why += "" if why.endswith((".", "!", "?")) else "."
        raise ExportError(
            f"{asked} could not be downloaded: {why} Is the name right and the network up? "
            "The same command goes on where it stopped."
        ) from failed
    for file in chosen:
        _verify(asked, folder / file, KNOWN[name].sha256.get(file) if _is_known(name, folder.name) else None)
    return folder


def weights(names: Collection[str]) -> list[str]:
    """Return the names that hold the weights, index included; empty if none does."""
    for patterns in WEIGHTS:
        found = [name for pattern in patterns for name in sorted(names) if fnmatch(name, pattern)]
        if found and fnmatch(found[0], patterns[0]):
            return found
    return []


def weights_in(folder: Path) -> list[Path]:
    """Return the files of a folder that hold the weights."""
    return [folder / name for name in weights([path.name for path in folder.iterdir()])]


def _parse(asked: str) -> tuple[str, str]:
    matched = NAME.fullmatch(asked)
    assert matched, asked
    name, revision = matched.groups()
    return name, revision or (KNOWN[name].revision if name in KNOWN else "main")


def _is_known(name: str, revision: str) -> bool:
    return name in KNOWN and KNOWN[name].revision == revision


def _listed(name: str, revision: str) -> dict[str, int]:
    """Return the repository's files with their bytes; without a network, those in the cache."""
    try:
        info = HfApi().model_info(name, revision=revision, files_metadata=True, timeout=TIMEOUT_S)
        # The needed files are at the top level of the repository.
        return {
            file.rfilename: int(file.size or 0) for file in info.siblings or () if "/" not in file.rfilename
        }
    except (LookupError, TypeError) as odd:  # JSON that is not the hub's: of a proxy or a mirror
        raise ValueError("What answers is not the hub") from odd
    except (NoConnection, Timeout, OfflineModeIsEnabled):
        folder = Path(snapshot_download(name, revision=revision, local_files_only=True))
        return {path.name: path.stat().st_size for path in folder.iterdir()}


def _snapshot(name: str, revision: str, patterns: Iterable[str]) -> Path:
    return Path(snapshot_download(name, revision=revision, allow_patterns=list(patterns)))


def _announce(name: str, commit: str, files: dict[str, int]) -> None:
    """Say what is going to be downloaded; raise ExportError where the disk has no room for it."""
    need = sum(
        size
        for file, size in files.items()
        if not isinstance(try_to_load_from_cache(name, file, revision=commit), str)
    )
    if not need:
        return
    free = shutil.disk_usage(Path(HF_HUB_CACHE)).free
    if need > free:
        raise ExportError(
            f"the disk of {HF_HUB_CACHE} has {free / 1e9:.1f} GB free, and {need / 1e9:.1f} GB are needed:"
            " make room, or set HF_HOME to a folder of another disk"
        )
    print(f"{name} at {commit[:12]}: {need / 1e6:,.0f} MB to download, into {HF_HUB_CACHE}", flush=True)


def _verify(asked: str, path: Path, sha256: str | None) -> None:
    """Raise ExportError unless the file has its SHA-256, and remove it, so that it is downloaded again.

    That is the one we know, or the one that the hub gave: its ETag of a large file, which the cache names the
    file for.
    """
    if sha256 is None:
        sha256 = path.resolve().name
        if not SHA256.fullmatch(sha256):  # a small file, or a cache without links
            return
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != sha256:
        path.resolve().unlink()
        path.unlink(missing_ok=True)
        raise ExportError(
            f"{asked}: {path.name} has the SHA-256 {found}, not {sha256}, and was removed: download it again"
        )
