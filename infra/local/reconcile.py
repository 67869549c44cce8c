"""`make sweep`: reconcile the running stack: finish each unfinished upload, whatever its age."""

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import requests

from infra import ROOT
from infra.local import StackError

TIMEOUT_S = 3600  # a sweep stops after SWEEP_S and the picture in progress


def main(words: Sequence[str] | None = None) -> int:
    """Return the exit status: 0, or 1 if anything failed, with the reason in one line on stderr."""
    parser = argparse.ArgumentParser(prog="make sweep", description="Finish what no event has finished.")
    parser.add_argument("--state", type=Path, default=ROOT / ".dropcap", help="folder of the run (.dropcap)")
    state = parser.parse_args(words).state
    try:
        print(_reconcile(state))
    except StackError as reason:
        print(f"make sweep: {reason} (log: {state / 'logs' / 'functions.log'})", file=sys.stderr)
        return 1
    return 0


def _reconcile(state: Path) -> str:
    """Run a sweep and return its counts in a line. Raises StackError if an upload failed."""
    url = running(state)
    try:
        answer = requests.post(f"{url}/sweep?min_age_s=0", timeout=TIMEOUT_S)
    except requests.ConnectionError as lost:
        raise StackError(
            "The functions died at an upload. That is counted: sweep again in LEASE_S."
        ) from lost
    swept = answer.json()
    if not answer.ok:
        raise StackError(f"{swept['detail']} {swept['remedy']}")
    found = "1 upload was" if swept["found"] == 1 else f"{swept['found']} uploads were"
    said = (
        f"{found} unfinished: {swept['done']} done, {swept['quarantined']} quarantined, "
        f"{swept['failed']} failed, {swept['left']} left for the next sweep."
    )
    if described := swept.get("described"):
        said += f" {described} described now that could not be before."
    if stuck := swept.get("stuck"):
        said += f" {stuck} can't be finished until somebody acts: see the log."
    if not swept["complete"]:
        said += " There was no time to look at everything: sweep again, or raise SWEEP_S."
    if swept["failed"]:
        raise StackError(said)
    return said


def running(state: Path) -> str:
    """Return the URL of the running functions. Raises StackError if none run."""
    try:
        exports = (shlex.split(line)[1].partition("=") for line in (state / "env").read_text().splitlines())
        url = {name: value for name, _, value in exports}["DROPCAP_URL"]
        requests.get(f"{url}/get_progress_stats", timeout=TIMEOUT_S)
    except (OSError, KeyError) as missing:  # requests' errors are OSErrors
        raise StackError(f"Nothing runs in {state}: start it with make run, or name its STATE.") from missing
    return url


if __name__ == "__main__":
    sys.exit(main())
