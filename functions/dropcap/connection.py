"""The way to PostgreSQL: its address, TLS, and what goes wrong on it."""

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import parse_qs, unquote, urlsplit

from pg8000.native import Connection, DatabaseError, InterfaceError

from dropcap.errors import SettingsError

LOCAL = ("127.0.0.1", "::1", "localhost")  # hosts that are reached without a network, so without TLS
CHECKED_TLS = ("", "require", "verify-ca", "verify-full")  # sslmode: we always verify in full
NETWORK_S = 5.0  # how much later than the server we give up: its own answer says more than a timeout


class Unreachable(Exception):
    """PostgreSQL did not answer, or not with what was asked for: a passing fault. One line, no address."""


def connect(url: str, timeout_s: float = 10.0) -> Connection:
    """A connection to `postgresql://user:password@host:port/name`, parts percent-encoded.

    `?host=/folder` takes the Unix socket in that folder, `?sslrootcert=file` trusts its certificates.
    Any host that is not this machine is reached by TLS with its certificate and name verified, or not at all.
    Raises SettingsError where the address makes no sense, else what pg8000 raises.
    """
    try:
        parts = urlsplit(url)
        options = {name: values[-1] for name, values in parse_qs(parts.query).items()}
        port, user = parts.port or 5432, unquote(parts.username or "")
        local = options.get("host", "").startswith("/") or (parts.hostname or "localhost") in LOCAL
        if not user or not (local or options.get("sslmode", "") in CHECKED_TLS):
            raise ValueError(url)
    except ValueError as wrong:
        raise SettingsError(
            "DATABASE_URL=*** is not allowed: it must be postgresql://user:password@host:port/name, "
            "and sslmode, where it is given, require, verify-ca or verify-full."
        ) from wrong
    folder = options.get("host", "")
    return Connection(
        user,
        host=parts.hostname or "localhost",
        port=port,
        unix_sock=f"{folder}/.s.PGSQL.{port}" if folder.startswith("/") else None,
        database=unquote(parts.path.lstrip("/")) or user,
        password=unquote(parts.password) if parts.password else None,
        ssl_context=False if local else ssl.create_default_context(cafile=options.get("sslrootcert")),
        timeout=timeout_s + NETWORK_S,
        application_name="dropcap",
    )


@contextmanager
def foreign_errors() -> Iterator[None]:
    """What pg8000 and the network raise, as Unreachable."""
    try:
        yield
    except DatabaseError as refused:
        raise Unreachable(f"PostgreSQL refused ({refused.args[0]['C']}): {refused.args[0]['M']}") from refused
    except (InterfaceError, OSError) as lost:
        kind = type(lost.__cause__ or lost).__name__
        raise Unreachable(
            f"PostgreSQL does not answer: {kind if lost.__cause__ else f'{kind}: {lost}'}"
        ) from lost
