"""The local stack: the real parts around the functions, started and stopped with `make run`."""

from typing import Self


class StackError(Exception):
    """The local stack can't start: one line that says what is wrong and what to do about it."""


class Part:
    """What runs from the beginning of a `with` to its end, however that comes."""

    def start(self) -> None:
        """Start it. Raises StackError where that can't be."""

    def wait(self) -> None:
        """Wait until it answers. Raises StackError where it does not."""

    def close(self) -> None:
        """End it, and all that it started; once more does no harm."""

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
