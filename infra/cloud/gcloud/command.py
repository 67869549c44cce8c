"""Run gcloud: commands are lists of arguments, results JSON, and each error one line."""

import json
import os
import re
import shlex
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from infra import ROOT
from infra.cloud import CloudError
from infra.cloud.config import SECRETS
from infra.cloud.gcloud import known_errors

PAUSE_S = (1.0, 30.0)  # exponential backoff: before the first retry, and the maximum
HIDDEN = {*SECRETS, "MAKEFLAGS", "MAKEOVERRIDES", "MFLAGS"}  # make puts its command line into these


@dataclass(frozen=True, slots=True)
class OutputOf:
    """An argument that is only known later: the output of a reading command."""

    words: tuple[str, ...]
    before: str = ""  # prefix of the argument: a flag

    def shell(self) -> str:
        return f'{self.before}"$(gcloud {shlex.join(self.words)})"'


Word = str | OutputOf


@dataclass(frozen=True, slots=True)
class Command:
    """A gcloud command. `file` is a flag that takes a file, and the text of that file.

    Without a flag the file is a positional argument, followed by `last`.

    `secret` is the environment variable whose value is passed on standard input, so that no command line,
    output or file contains it.

    `again` are the arguments of a retry if the first attempt left a failed revision; the last argument, its
    name, gets a number. The image is built already, and the service has all settings of the first attempt.
    """

    words: tuple[Word, ...]
    file: tuple[str, str] | None = None
    secret: str = ""
    last: str = ""
    again: tuple[str, ...] = ()

    def shell(self) -> str:
        """Return the command for a shell that has the secrets in its environment."""
        words = " ".join(shlex.quote(word) if isinstance(word, str) else word.shell() for word in self.words)
        if self.secret:
            return f'printf %s "${self.secret}" | gcloud {words}'
        if self.file:
            flag, text = self.file
            path = (
                f'{flag}="$FILES/file.json"'
                if flag
                else f'"$FILES/file.json" {shlex.quote(self.last) if self.last else ""}'.rstrip()
            )
            return f"cat >\"$FILES/file.json\" <<'EOF'\n{text.rstrip()}\nEOF\ngcloud {words} {path}"
        return f"gcloud {words}"


def command(surface: str, *words: Word, file: tuple[str, str] | None = None, secret: str = "") -> Command:
    """Return a command; `surface` is its command group and verb in one string: `run services update`."""
    return Command((*surface.split(), *words), file, secret)


def output_of(before: str, surface: str, *words: str) -> OutputOf:
    """Return an argument: `before`, then the output of a reading command."""
    return OutputOf((*surface.split(), *words), before)


class Gcloud:
    """Runs gcloud for one project, with a given environment."""

    def __init__(self, project: str, environment: Mapping[str, str] = os.environ) -> None:
        self.project = project
        self._secrets = environment
        self._environment = {
            **{name: value for name, value in environment.items() if name not in HIDDEN},
            "CLOUDSDK_CORE_PROJECT": project,
            "CLOUDSDK_CORE_DISABLE_PROMPTS": "1",
            "CLOUDSDK_CORE_SHOW_STRUCTURED_LOGS": "never",
            "CLOUDSDK_COMPONENT_MANAGER_DISABLE_UPDATE_CHECK": "1",
        }
        self._known: dict[tuple[str, ...], str] = {}  # the outputs of OutputOf arguments
        self._patience_s = environment.get("PATIENCE_S", "")

    def read(self, surface: str, *words: str) -> Any:
        """Return the JSON output of a reading command; None if it prints nothing. Raises CloudError.

        `surface` is the command group and verb in one string: `run services list`.
        """
        answer = self._run([*surface.split(), *words, "--format=json"], None)
        return json.loads(answer) if answer.strip() else None

    def text(self, surface: str, *words: str) -> str:
        """Return the exact output of a reading command. Raises CloudError."""
        return self._run([*surface.split(), *words], None)

    def listed(self, pattern: str) -> list[str]:
        """Return the addresses of the objects and folders that match a pattern. Raises CloudError."""
        try:
            return self.text("storage ls", pattern).split("\n")[:-1]
        except CloudError as refused:
            if "matched no objects" in str(refused):
                return []
            raise

    def output(self, surface: str, *words: str) -> str:
        """Return a command's standard output and standard error. Raises CloudError."""
        return self._run([*surface.split(), *words], None, both=True)

    def do(self, command: Command, waiting: Callable[[str], None] = lambda _: None) -> str:
        """Run a command that changes something, and return its output. Raises CloudError.

        Retries temporary errors for as long as known_errors.toml allows: a new account, role or API takes
        time to propagate. Calls `waiting` with each new reason to wait.
        """
        begun, pause, tries, announced = time.monotonic(), PAUSE_S[0], 0, ""
        words = [word if isinstance(word, str) else self._word(word) for word in command.words]
        with tempfile.TemporaryDirectory(prefix="dropcap-") as folder:
            if command.file:
                flag, text = command.file
                path = Path(folder) / "file.json"
                path.write_text(text)
                words += [f"{flag}={path}"] if flag else [str(path), *filter(None, (command.last,))]
            while True:
                try:
                    return self._run(words, self._secrets[command.secret] if command.secret else None)
                except known_errors.TemporaryError as temporary:
                    known = temporary.known
                    patience_s = float(self._patience_s or 60 * known.minutes)
                    if time.monotonic() - begun + pause > patience_s:
                        raise CloudError(str(temporary)) from temporary
                    if announced != known.until:
                        waiting(f"{known.until} ({known.minutes} minutes at most)")
                    announced, tries = known.until, tries + 1
                    if known.leaves_revision and command.again:
                        words = [*command.again[:-1], f"{command.again[-1]}-r{tries}"]
                    time.sleep(pause)
                    pause = min(2 * pause, PAUSE_S[1])

    def _word(self, word: OutputOf) -> str:
        if word.words not in self._known:
            self._known[word.words] = self.text(*word.words).strip()
        return word.before + self._known[word.words]

    def _run(self, words: list[str], stdin: str | None, both: bool = False) -> str:
        try:
            ran = subprocess.run(
                ["gcloud", *words, "--quiet"],  # noqa: S607  the user's own gcloud
                env=self._environment,
                cwd=ROOT,
                input=stdin or "",
                capture_output=True,
                text=True,
                check=False,
            )
        except FileNotFoundError as missing:
            raise CloudError(
                "gcloud is not installed, or not on PATH: https://cloud.google.com/sdk/docs/install has it."
            ) from missing
        if ran.returncode:
            raise known_errors.translate(words, ran.stderr, self.project, self._account)
        if partial := re.search(r"WARNING: (The following \S.* did not respond.*)", ran.stderr):
            raise CloudError(partial[1])  # a plan from an incomplete list is wrong
        return ran.stdout + ran.stderr if both else ran.stdout

    def _account(self) -> str:
        """Return the signed-in account; empty if gcloud does not print it."""
        asked = ["gcloud", "config", "get", "core/account", "--quiet"]
        ran = subprocess.run(asked, env=self._environment, capture_output=True, text=True, check=False)
        return ran.stdout.strip()
