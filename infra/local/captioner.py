"""The captioning model of `make run`: offer BLIP-base, or install the model that MODEL names.

state/model        what `make run MODEL=...` has installed, so that the same command does not install it again
state/no-model     the user declined BLIP-base; without this file `make run` offers it again
"""

import json
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import requests
from rich.console import Console

from dropcap.captioning.blip import Card, ModelError
from dropcap.runtime.timeouts import run_with_timeout
from dropcap.settings import MODEL_FOLDER
from infra import ROOT
from infra.local import StackError, hub

# huggingface_hub 0.36 also requests this before it downloads: file_download.py, 2026-11-30.
ASKED = "Salesforce/blip-image-captioning-base/resolve/main/config.json"
HUB_S = 2.5  # longest wait for the hub, s; a failing DNS lookup alone takes far longer
OPTIONS = ("RESOLUTION", "MERGE", "DECODER_BITS")  # of `make model`: another value makes another model
YES = ("y", "yes")


def notice(folder: Path) -> str:
    """Return the line that says that the model is a demonstration; empty if it is not.

    It is also empty if the model can't be read: the functions report that.
    """
    with suppress(ModelError):
        return Card.read(folder).notice
    return ""


def offer(console: Console, state: Path) -> bool:
    """Offer to install BLIP-base, unless the user declined before or the hub does not answer.

    Return whether the user was asked, and so has seen the model's notice. The caller makes sure that the
    demonstration model is installed and that the terminal is interactive.
    """
    declined = state / "no-model"
    if declined.exists():
        return False
    with console.status("Asking whether BLIP-base can be downloaded ..."):
        if not hub_answers():
            return False
    console.print(notice(MODEL_FOLDER), style="yellow", markup=False)
    try:
        answer = console.input("Install BLIP-base now? [y/N] ", markup=False)
    except EOFError:  # Ctrl-D is not an answer
        return True
    if answer.strip().lower() not in YES:
        state.mkdir(parents=True, exist_ok=True)
        declined.write_text("`make run` does not offer BLIP-base while this file is here.\n")
        console.print("You will not be asked again. `make model` installs it at any time.")
    elif not _make_model():
        console.print("BLIP-base was not installed: continuing with the demonstration model.", style="yellow")
    return True


def hub_answers() -> bool:
    """Return whether the hub has BLIP-base and answers within HUB_S; HF_ENDPOINT and proxies are honoured."""
    if hub.is_offline():
        return False
    url = f"{hub.endpoint()}/{ASKED}"
    with suppress(requests.RequestException, TimeoutError):
        return run_with_timeout(HUB_S, lambda: requests.head(url, timeout=HUB_S)).ok
    return False


def install(model: str, state: Path) -> None:
    """Install the model that `make model MODEL=...` would, unless it is the one that is there.

    Raises StackError if it can't be installed.
    """
    chosen = {"model": model, "changed": _changed(Path(model))}
    chosen |= {name: os.environ.get(name, "") for name in OPTIONS}
    if _is_installed(chosen, state):
        return
    if not _make_model(f"MODEL={model}"):
        raise StackError(
            f"MODEL={model} was not installed; the lines above say why. "
            "`make run` without MODEL uses the model that is installed."
        )
    state.mkdir(parents=True, exist_ok=True)
    (state / "model").write_text(json.dumps(chosen | {"revision": _card().get("revision")}))


def _is_installed(chosen: dict[str, Any], state: Path) -> bool:
    """Return whether the installed model comes from the same source and with the same options.

    The card names a repository of the hub; of anything else, the last `make run MODEL=...` left a record.
    """
    card = _card()
    of_hub = not chosen["changed"] and not any(chosen[name] for name in OPTIONS)
    if of_hub and card.get("source") == chosen["model"]:
        return True
    with suppress(OSError, ValueError):
        recorded = json.loads((state / "model").read_text())
        return bool(recorded == chosen | {"revision": card.get("revision")})
    return False


def _card() -> dict[str, Any]:
    """Return `model.json` of the installed model; nothing if there is none."""
    with suppress(OSError, ValueError):
        card = json.loads((MODEL_FOLDER / "model.json").read_text(encoding="utf-8"))
        return card if isinstance(card, dict) else {}
    return {}


def _changed(path: Path) -> float:
    """Return when a file or any file of a folder was changed last; 0 for a name of the hub or an address.

    A name too long for a file, as an address with a signature has, is not a path either.
    """
    with suppress(OSError):
        files = [path, *path.iterdir()] if path.is_dir() else [path]
        return max(file.lstat().st_mtime if file.is_symlink() else file.stat().st_mtime for file in files)
    return 0


def _make_model(*words: str) -> bool:
    """Run `make model` with these words and return whether it succeeded; it reports its own errors."""
    sys.stdout.flush()
    command = ["make", "--no-print-directory", "model", *words]
    return subprocess.run(command, cwd=ROOT, check=False).returncode == 0
