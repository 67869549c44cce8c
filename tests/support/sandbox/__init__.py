"""Builds of the decoder for tests, which the fork server loads instead of dropcap.sandbox.worker."""

from collections.abc import Callable

from dropcap.domain.body import Body
from dropcap.runtime import memory
from dropcap.sandbox import client
from dropcap.settings import Settings


def open_bytes(
    data: bytes, settings: Settings, make_room: Callable[[], None] = memory.release
) -> client.Picture:
    """Return a picture that the sandbox has decoded."""
    return client.open_picture(Body(lambda: data), settings, make_room)
