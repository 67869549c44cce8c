"""`make redescribe`: have Gemini describe anew what another prompt or model described, or none.

What is chosen is counted, said and asked about; then it is marked, and the sweeps that follow do it, within
their time and the day's budget. Here it goes to the stack of `make run`; with PROJECT, to the cloud.
"""

import argparse
import datetime as dt
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dropcap.errors import SettingsError
from infra.local import StackError

Send = Callable[[Mapping[str, Any]], Mapping[str, Any]]
"""Sends the function `sweep` what is to be redescribed, and returns its answer."""


def wanted(given: Mapping[str, str]) -> dict[str, Any]:
    """What is chosen, by the words after `make redescribe`. Raises SettingsError."""
    chosen: dict[str, Any] = {"all": True} if given.get("ALL") == "1" else {}
    try:
        dt.datetime.fromisoformat(given.get("SINCE") or "2026-01-01")
    except ValueError as wrong:
        raise SettingsError(
            f"SINCE={given['SINCE']!r} is not allowed: it must be a day or an instant, 2026-11-01."
        ) from wrong
    return chosen | {name.lower(): given[name] for name in ("OWNER", "SINCE") if given.get(name)}


def redescribe(send: Send, chosen: Mapping[str, Any]) -> str:
    """Count, ask, mark; what was done, in a line. Raises StackError where nobody says yes."""
    if not (counted := _all(send, chosen)):
        return "There is nothing to describe anew: all was described by this prompt and model."
    pictures = "1 picture" if counted == 1 else f"{counted:,} pictures"
    _ask(f"Have Gemini describe {pictures} anew?")
    marked = _all(send, {**chosen, "mark": True})
    return f"{marked:,} marked: the sweeps that follow describe them, as time and budget allow."


def _all(send: Send, chosen: Mapping[str, Any]) -> int:
    """How many pictures it is about, in as many requests as it takes."""
    pictures = 0
    after: str | None = None
    while True:
        answer = send({**chosen, "after": after} if after else chosen)
        pictures += int(answer["pictures"])
        after = answer["after"]
        if after is None:
            return pictures


def _ask(question: str) -> None:
    """Go on only where a person says yes, or YES=1 has said so. Raises StackError."""
    if os.environ.get("YES"):
        return
    if not sys.stdin.isatty():
        raise StackError(f"{question} Say so with YES=1.")
    if input(f"{question} [y/N] ").strip().lower() not in ("y", "yes"):
        raise StackError("Nothing was changed.")


def main(words: Sequence[str] | None = None) -> int:
    """The exit status: 0, or 1 with the reason in one line on stderr."""
    import requests  # which the commands of the cloud, who share what is above, do without; so have these

    from infra import ROOT
    from infra.local.reconcile import TIMEOUT_S, running

    parser = argparse.ArgumentParser(prog="make redescribe", description=__doc__)
    parser.add_argument("--state", type=Path, default=ROOT / ".dropcap", help="folder of the run (.dropcap)")
    state = parser.parse_args(words).state

    def send(chosen: Mapping[str, Any]) -> Mapping[str, Any]:
        try:
            answer = requests.post(f"{url}/sweep", json={"redescribe": chosen}, timeout=TIMEOUT_S)
            said: Mapping[str, Any] = answer.json()
        except requests.RequestException as lost:  # that it is no JSON, too
            log = state / "logs" / "functions.log"
            raise StackError(f"The functions gave no answer that can be read (log: {log}).") from lost
        if not answer.ok:
            raise StackError(f"{said['detail']} {said['remedy']}")
        return said

    try:
        url = running(state)
        print(redescribe(send, wanted(os.environ)))
    except (StackError, SettingsError) as reason:
        print(f"make redescribe: {reason}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
