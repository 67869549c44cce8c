"""`make redescribe`: have Gemini describe again what another prompt or model described, or none did.

The command counts the selected pictures, asks for confirmation and marks them. The next runs of reconcile
describe them, within SWEEP_S and the daily budget. Uses the local stack, or the cloud if PROJECT is set.
"""

import argparse
import datetime as dt
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dropcap.errors import SettingsError
from infra.confirm import NotConfirmed, confirm
from infra.local import StackError

# ai.google.dev/gemini-api/docs/batch-api, 2026-11.
BATCHES = "in batches, at half the price: each within 24 hours, usually much sooner"

Send = Callable[[Mapping[str, Any]], Mapping[str, Any]]
"""Sends a selection to the function `sweep` and returns its response."""


def wanted(environment: Mapping[str, str]) -> dict[str, Any]:
    """Return the selection from the variables of `make redescribe`. Raises SettingsError."""
    chosen: dict[str, Any] = {"all": True} if environment.get("ALL") == "1" else {}
    try:
        dt.datetime.fromisoformat(environment.get("SINCE") or "2026-01-01")
    except ValueError as wrong:
        raise SettingsError(
            f"SINCE={environment['SINCE']!r} is not allowed: it must be a day or an instant, 2026-11-01."
        ) from wrong
    return chosen | {name.lower(): environment[name] for name in ("OWNER", "SINCE") if environment.get(name)}


def redescribe(send: Send, chosen: Mapping[str, Any]) -> str:
    """Count, ask and mark; return a line with the result. Raises NotConfirmed."""
    counted, batch = _all(send, chosen)
    if not counted:
        known = "all was described by this prompt and model, or is in a batch"
        return f"There is nothing to describe anew: {known}."
    pictures = "1 picture" if counted == 1 else f"{counted:,} pictures"
    batches = f" ({BATCHES})" if 0 < batch <= counted else ""
    confirm(f"Have Gemini describe {pictures} anew{batches}?", os.environ.get("YES"))
    marked, batch = _all(send, {**chosen, "mark": True})
    how = f" {BATCHES}" if 0 < batch <= marked else ""
    return f"{marked:,} marked: the next runs of `sweep` describe them{how}, as time and budget allow."


def _all(send: Send, chosen: Mapping[str, Any]) -> tuple[int, int]:
    """Return the number of selected pictures, from as many requests as needed, and from how many on they are
    described in batches; 0: never."""
    pictures = 0
    after: str | None = None
    while True:
        answer = send({**chosen, "after": after} if after else chosen)
        pictures += int(answer["pictures"])
        after = answer["after"]
        if after is None:
            return pictures, int(answer.get("batch") or 0)


def main(words: Sequence[str] | None = None) -> int:
    """Return the exit status: 0, or 1 with the reason in one line on stderr."""
    import requests  # not loaded by the cloud commands, which share the code above

    from infra import ROOT
    from infra.local.reconcile import TIMEOUT_S, running

    parser = argparse.ArgumentParser(prog="make redescribe", description=__doc__)
    parser.add_argument("--state", type=Path, default=ROOT / ".dropcap", help="folder of the run (.dropcap)")
    state = parser.parse_args(words).state

    def send(chosen: Mapping[str, Any]) -> Mapping[str, Any]:
        try:
            answer = requests.post(f"{url}/sweep", json={"redescribe": chosen}, timeout=TIMEOUT_S)
            answered: Mapping[str, Any] = answer.json()
        except requests.RequestException as lost:  # an invalid JSON body, too
            log = state / "logs" / "functions.log"
            raise StackError(f"The functions gave no answer that can be read (log: {log}).") from lost
        if not answer.ok:
            raise StackError(f"{answered['detail']} {answered['remedy']}")
        return answered

    try:
        url = running(state)
        print(redescribe(send, wanted(os.environ)))
    except (StackError, SettingsError, NotConfirmed) as reason:
        print(f"make redescribe: {reason}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
