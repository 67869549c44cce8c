"""The bytes of an upload on their way to the process that decodes them."""

import hashlib
from collections.abc import Callable


class Body:
    """Bytes that this process holds only until a decoder has them, and reads again if it needs them again.

    Otherwise both processes would hold the upload. `sha256` (hexadecimal) and `size` are empty and 0 until
    the first read.
    """

    def __init__(self, read: Callable[[], bytes]) -> None:
        self.sha256, self.size = "", 0
        self._read, self._data = read, b""

    def load(self) -> None:
        """Read the bytes. Raises what `read` raises."""
        self._data = self._read()
        self.sha256, self.size = hashlib.sha256(self._data).hexdigest(), len(self._data)

    def take(self) -> bytes:
        """Return the bytes, and let go of them."""
        if not self._data:
            self.load()
        data, self._data = self._data, b""
        return data

    def close(self) -> None:
        """Let go of the bytes, and of `read`, which may hold them: they are not needed again."""
        self._read, self._data = bytes, b""
