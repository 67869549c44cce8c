"""Let the pictures of an instance take turns: one uses the CPU, one is next, any number wait for networks.

    with turns.take() as turn:      the next picture: acquires its lease, reads its bytes
        turn.begin()                decode, resize, encode, caption: two at once need twice the memory
        turn.end()                  wait for Gemini and for the buckets, with encoded pictures in memory

A picture that needs more memory than is left waits until no other picture holds any (`wait_alone`).
"""

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import Enum, auto

from dropcap.errors import NotDecoded


class State(Enum):
    """What a picture is doing."""

    AWAY = auto()
    NEXT = auto()  # at most one
    WORKING = auto()  # at most one
    WAITING = auto()  # for networks


class Turns:
    """The turns of the pictures of one instance."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.count = Counter[State]()
        self.posted = 0  # pictures whose bytes are in memory before their turn

    @contextmanager
    def take(self, *, posted: bool = False) -> "Iterator[Turn]":
        """Wait until no other picture is next. `posted` if the bytes of this one are in memory already."""
        turn = Turn(self, int(posted))
        try:
            turn.enter(State.NEXT, alone=True)
            yield turn
        finally:
            turn.enter(State.AWAY)

    def wait_alone(self, seconds: float) -> None:
        """Wait until no other picture holds memory; the one that calls it uses the CPU.

        Raises NotDecoded, a transient error, if others do after that many seconds, or before their turn.
        """
        with self.changed:
            finished = self.changed.wait_for(lambda: not self.count[State.WAITING], seconds)
            if not finished or self.posted:
                raise NotDecoded("Other pictures hold the memory that this one needs.")


class Turn:
    """The turn of one picture."""

    def __init__(self, turns: Turns, posted: int) -> None:
        self._turns, self._state, self._posted = turns, State.AWAY, posted
        with turns.changed:
            turns.posted += posted

    def begin(self, renew: Callable[[], object] = bool, every_s: float | None = None) -> None:
        """Wait until the CPU is free for this picture; does nothing if it has begun.

        Calls `renew`, which renews a lease, each `every_s` seconds meanwhile.
        """
        while self._state is not State.WORKING and not self.enter(State.WORKING, True, every_s):
            renew()

    def end(self) -> None:
        """Let the next picture begin."""
        self.enter(State.WAITING)

    def enter(self, state: State, alone: bool = False, timeout_s: float | None = None) -> bool:
        """Change the state, when no other picture is in it if `alone`; return False after `timeout_s`."""
        turns = self._turns
        with turns.changed:
            if alone and not turns.changed.wait_for(lambda: not turns.count[state], timeout_s):
                return False
            turns.count[self._state] -= 1
            turns.count[state] += 1
            self._state = state
            if state is not State.NEXT:
                turns.posted -= self._posted
                self._posted = 0
            turns.changed.notify_all()
        return True
