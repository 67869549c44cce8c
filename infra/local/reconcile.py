"""`make reconcile`: reconcile the running stack: finish each unfinished upload, whatever its age."""

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import requests

from infra import ROOT
from infra.local import StackError

TIMEOUT_S = 3600  # a run stops after SWEEP_S and the picture in progress


def main(words: Sequence[str] | None = None) -> int:
    """Return the exit status: 0, or 1 if anything failed, with the reason in one line on stderr."""
    parser = argparse.ArgumentParser(prog="make reconcile", description="Finish what no event has finished.")
    parser.add_argument("--state", type=Path, default=ROOT / ".dropcap", help="folder of the run (.dropcap)")
    state = parser.parse_args(words).state
    try:
        print(_reconcile(state))
    except StackError as reason:
        print(f"make reconcile: {reason} (log: {state / 'logs' / 'functions.log'})", file=sys.stderr)
        return 1
    return 0


def _reconcile(state: Path) -> str:
    """Reconcile once and return the counts in one line. Raises StackError if an upload failed."""
    url = running(state)
    try:
        answer = requests.post(f"{url}/sweep?min_age_s=0", timeout=TIMEOUT_S)
    except requests.ConnectionError as lost:
        raise StackError(
            "The functions crashed during an upload. The crash is counted: "
            "run make reconcile again after LEASE_S."
        ) from lost
    counts = answer.json()
    if not answer.ok:
        raise StackError(f"{counts['detail']} {counts['remedy']}")
    found = "1 upload was" if counts["found"] == 1 else f"{counts['found']} uploads were"
    summary = (
        f"{found} unfinished: {counts['done']} done, {counts['quarantined']} quarantined, "
        f"{counts['failed']} failed, {counts['left']} left for the next run."
    )
    if described := counts.get("described"):
        summary += f" {described} pending {'description' if described == 1 else 'descriptions'} added."
    if batched := counts.get("batched"):
        summary += f" {batched} requested in batches, at half the price: run it again to collect them."
    if stuck := counts.get("stuck"):
        summary += f" {stuck} can't be finished until somebody acts: see the log."
    if not counts["complete"]:
        summary += " Time ran out before everything was checked: run it again, or raise SWEEP_S."
    if counts["failed"]:
        raise StackError(summary)
    return summary


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
