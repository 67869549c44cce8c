"""The local stack: the functions and the real servers that they need, started with `make run`."""

from typing import Self

YOU = "you"  # the user of all local uploads, so that one page of the gallery shows them


class StackError(Exception):
    """The local stack can't start; the message is one line with cause and remedy."""


class Failed(Exception):
    """`make run` failed; the message is one line with cause and remedy."""


class Part:
    """A server or program that runs from the start of a `with` block to its end."""

    def start(self) -> None:
        """Start it. Raises StackError if it can't start."""

    def wait(self) -> None:
        """Wait until it answers. Raises StackError if it does not."""

    def close(self) -> None:
        """Stop it and everything that it started. Safe to call twice."""

    def __enter__(self) -> Self:
        try:
            self.start()
            self.wait()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
