"""Ask for confirmation at the terminal."""

import sys


class NotConfirmed(Exception):
    """The user did not confirm; the message is one line."""


def confirm(question: str, yes: str | None) -> None:
    """Return if `yes` is set or the user confirms. Raises NotConfirmed otherwise."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise NotConfirmed(f"{question} Confirm with YES=1.")
    if input(f"{question} [y/N] ").strip().lower() not in ("y", "yes"):
        raise NotConfirmed("Nothing was changed.")
