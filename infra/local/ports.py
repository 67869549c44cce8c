"""Ports of 127.0.0.1."""

import socket

from infra.local import StackError


def free_port(port: int = 0, meant_for: str = "the stack", remedy: str = "choose another port") -> int:
    """The port itself, or a free one for 0. Raises StackError where it is in use."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as taken:
            raise StackError(
                f"Port {port}, meant for {meant_for}, is in use: stop the program that uses it, or {remedy}."
            ) from taken
        return int(probe.getsockname()[1])
