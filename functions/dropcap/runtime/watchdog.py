"""Limit and log the time of each stage of a picture, and log its memory."""

import faulthandler
import logging
import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from dropcap.runtime.memory import container_mb, rss_mb

logger = logging.getLogger(__name__)

STDERR = 2  # sys.stderr may have no file behind it
LEAST_S = 0.001

_deadlines: list[float] = []  # of the stages that run, by the monotonic clock
_lock = threading.Lock()


class Watchdog:
    """Watchdog of one picture: logs memory and time of each stage, and ends the process if one hangs.

    The process ends, with the stack of each thread on stderr, if a stage takes longer than `stage_s` seconds,
    or the picture longer than `total_s` since its first stage. The other pictures of the instance start again
    with their next delivery. A picture waits for its turn `paused`, not in a stage. `on_stage` is called with
    the name of each stage before it starts; if it raises, the stage does not run.
    """

    def __init__(self, warning_mb: int, stage_s: float, total_s: float) -> None:
        self.warning_mb = warning_mb
        self.stage_s = stage_s
        self.total_s = total_s
        self.deadline = math.inf
        self.on_stage: Callable[[str], None] = lambda name: None
        self.memory: dict[str, float] = {}
        self.timings: dict[str, float] = {}

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Wait between two stages; the time does not count towards `total_s`."""
        started = time.monotonic()
        try:
            yield
        finally:
            self.deadline += time.monotonic() - started

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Run a stage within its time limit, then log its time and the resident memory at its end."""
        started = time.perf_counter()
        if not self.timings:
            self.deadline = time.monotonic() + self.total_s
        ends = min(time.monotonic() + self.stage_s, self.deadline)
        try:
            with _ends_process(ends):
                self.on_stage(name)
                yield
        finally:
            self.timings[name] = round(time.perf_counter() - started, 4)
            used = self.memory[name] = round(rss_mb(), 1)
            facts = {
                "stage": name,
                "seconds": self.timings[name],
                "rss_mb": used,
                "container_mb": container_mb(),
            }
            if used > self.warning_mb:
                text = f"{name}: memory {used:.0f} MB is above {self.warning_mb} MB"
                logger.warning(text, extra={"event": "memory_above_warning", **facts})
            else:
                logger.info(name, extra={"event": "stage_finished", **facts})


@contextmanager
def _ends_process(at: float) -> Iterator[None]:
    """End the process if the block still runs at this time of the monotonic clock."""
    with _lock:
        _deadlines.append(at)
        _set_timer()
    try:
        yield
    finally:
        with _lock:
            _deadlines.remove(at)
            _set_timer()


def _set_timer() -> None:
    """Set faulthandler's only timer to the next deadline.

    A Python timer or signal handler would wait for the GIL, which native code that hangs may hold.
    """
    if _deadlines:
        limit_s = max(LEAST_S, min(_deadlines) - time.monotonic())
        faulthandler.dump_traceback_later(limit_s, exit=True, file=STDERR)
    else:
        faulthandler.cancel_dump_traceback_later()
