"""Make the planned changes in order, with one line of output each; similar ones run in parallel."""

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby

from rich.console import Console

from infra.cloud import CloudError
from infra.cloud.gcloud.command import Gcloud
from infra.cloud.resources.base import Change

PARALLEL = 4
SHOWN = 6  # unfinished changes that are listed after an error


def apply(console: Console, gcloud: Gcloud, planned: Sequence[Change]) -> None:
    """Make all changes. On an error, print what is done and what is not, and raise CloudError."""
    done: list[Change] = []
    for group in _groups(planned):
        names = group[0].what + (f" and {len(group) - 1} beside it" if len(group) > 1 else "")
        with console.status(f"{len(done)} of {len(planned)}: {names}"), ThreadPoolExecutor(PARALLEL) as pool:
            results = [(change, pool.submit(_do, console, gcloud, change)) for change in group]
            failed = []
            for change, result in results:
                if error := result.exception():
                    failed.append(error)
                else:
                    done.append(change)
        if failed:
            left = [change.what for change in planned if change not in done]
            more = f" and {len(left) - SHOWN} more (make plan shows them)" if len(left) > SHOWN else ""
            summary = f"Done: {len(done)} of {len(planned)}. Not done: {', '.join(left[:SHOWN])}{more}."
            console.print(summary, markup=False, soft_wrap=True)
            if not isinstance(failed[0], CloudError):
                raise failed[0]
            raise CloudError(f"{failed[0]} Run the same command again to continue.") from failed[0]


def _groups(planned: Sequence[Change]) -> Iterator[list[Change]]:
    """Yield the changes that may run in parallel as groups, all others alone."""
    for parallel_group, group in groupby(planned, key=lambda change: change.parallel_group):
        together = list(group)
        yield from [together] if parallel_group else [[change] for change in together]


def _do(console: Console, gcloud: Gcloud, change: Change) -> None:
    begun = time.monotonic()
    for command in change.commands:
        gcloud.do(
            command,
            lambda what: console.print(f"  {change.what} waits for {what}", soft_wrap=True, markup=False),
        )
    console.print(
        f"{time.monotonic() - begun:6.1f} s  {change.what}: {change.then}", soft_wrap=True, markup=False
    )
