"""Connect to PostgreSQL: address, TLS, login, translation of errors, and the connection pool.

No package pools pg8000's native interface; SQLAlchemy's pool needs its DB-API interface, and ten megabytes.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial

from pg8000.native import Connection, DatabaseError, InterfaceError, identifier

from dropcap import database_url
from dropcap.errors import TransientError
from dropcap.settings import SCHEMA

# cloud.google.com/sql/docs/postgres/iam-logins: an access token with this scope is the password.
LOGIN_SCOPE = "https://www.googleapis.com/auth/sqlservice.login"
# Set at the start of each transaction, because the database and the login may have other defaults and a
# pooler shares sessions.
LOCALS = "".join(f"SET LOCAL {name} = '{value}'; " for name, value in database_url.SESSION.items())
NETWORK_S = 5.0  # wait this much longer than the server does: its error says more than a timeout


class DatabaseUnavailable(TransientError):
    """Transient error: PostgreSQL did not answer as expected. The message is one line without the address."""


def connect(url: str, timeout_s: float = 10.0) -> Connection:
    """Return a connection to the database of `url`, with libpq's options (database_url.py) and two of ours.

    `?iam=true` logs in with the service account's access token (Cloud SQL). `?role=name` switches to that
    role, so that all functions own what one of them creates (behind a pooler, set the login's own role).
    Other hosts are reached only over TLS, with certificate and host name verified. Raises SettingsError for
    an invalid address, DatabaseUnavailable without an access token or a required channel binding, and
    pg8000's own errors otherwise.
    """
    address = database_url.read(url)
    longest_s = timeout_s + NETWORK_S
    startup = {"client_encoding": "UTF8"}  # overrides the login's default
    connection = Connection(
        address.user,
        host=address.host,
        port=address.port,
        unix_sock=f"{address.host}/.s.PGSQL.{address.port}" if address.host.startswith("/") else None,
        database=address.dbname,
        password=_access_token(timeout_s) if address.iam else address.password or None,
        ssl_context=address.context() if address.tls else False,
        timeout=min(address.connect_timeout or longest_s, longest_s),
        application_name=address.application_name,
        startup_params=startup | ({"options": address.options} if address.options else {}),
    )
    try:
        connection._usock.settimeout(longest_s)
        mechanism = getattr(getattr(connection, "auth", None), "mechanism_name", "")
        if address.channel_binding == "require" and not str(mechanism).endswith("-PLUS"):
            raise DatabaseUnavailable("PostgreSQL offers no channel binding, which DATABASE_URL requires.")
        if address.role:
            connection.run(f"SET ROLE {identifier(address.role)}")
    except BaseException:  # also an interrupt: no connection may be left open
        connection.close()
        raise
    return connection


def search_path(schema: str) -> str:
    """Return the `search_path` assignment for unqualified names of tables in `schema`.

    pg_temp is last: if it were left out, a temporary table of the session would hide ours.
    """
    return f"search_path = {identifier(schema)}, pg_temp"


def connect_to_schema(url: str, schema: str = SCHEMA, timeout_s: float = 10.0) -> Connection:
    """Return a connection whose session uses `schema`: for tools and tests, which use no pooler."""
    connection = connect(url, timeout_s)
    connection.run(f"SET {search_path(schema)}")
    return connection


def _access_token(timeout_s: float) -> str:
    """Return the service account's access token from the default credentials (Cloud Run: metadata server)."""
    import google.auth  # imported here: password logins do not need it
    from google.auth.exceptions import GoogleAuthError
    from google.auth.transport.requests import Request

    try:
        credentials, _ = google.auth.default(scopes=[LOGIN_SCOPE])
        credentials.refresh(partial(Request(), timeout=timeout_s))
    except GoogleAuthError as failed:
        raise DatabaseUnavailable(
            f"There is no access token to log in to PostgreSQL with: {failed}"
        ) from failed
    return str(credentials.token)


@contextmanager
def translated_errors() -> Iterator[None]:
    """Raise errors of pg8000 and of the network as DatabaseUnavailable."""
    try:
        yield
    except DatabaseError as refused:
        raise DatabaseUnavailable(
            f"PostgreSQL refused ({refused.args[0]['C']}): {refused.args[0]['M']}"
        ) from refused
    except (InterfaceError, OSError) as lost:
        kind = type(lost.__cause__ or lost).__name__
        raise DatabaseUnavailable(
            f"PostgreSQL does not answer: {kind if lost.__cause__ else f'{kind}: {lost}'}"
        ) from lost


class Pool:
    """Connection pool of a process, with at most `size` connections, which `connect` opens on demand.

    A thread waits up to `wait_s` seconds for a free connection. Call `forget` in the parent after a fork.
    """

    def __init__(self, connect: Callable[[], Connection], size: int, wait_s: float) -> None:
        self._connect, self._wait_s = connect, wait_s
        self._slots = threading.BoundedSemaphore(size)
        self._idle: list[Connection] = []  # last in, first out, so that few are opened

    @contextmanager
    def slot(self) -> Iterator[None]:
        """Wait for a slot, which allows one connection. Raises DatabaseUnavailable if none becomes free."""
        if not self._slots.acquire(timeout=self._wait_s):
            raise DatabaseUnavailable(f"No connection to PostgreSQL was free for {self._wait_s:g} s.")
        try:
            yield
        finally:
            self._slots.release()

    def acquire(self) -> tuple[Connection, bool]:
        """Return a connection, and whether it was used before: then it may have died since."""
        try:
            return self._idle.pop(), True
        except IndexError:
            return self._connect(), False

    def release(self, connection: Connection) -> None:
        """Return a connection to the pool. It must be outside a transaction, with no response pending."""
        self._idle.append(connection)

    def forget(self) -> None:
        """Leave the idle connections to the child that was forked: close our files, and send nothing."""
        with suppress(IndexError):
            while True:
                connection = self._idle.pop()
                connection._sock.close()  # the file on the socket; close() would end the session, too
                connection._usock.close()

    def clear(self) -> None:
        """Close the idle connections; new ones are opened on demand."""
        with suppress(IndexError):
            while True:
                close(self._idle.pop())


def close(connection: Connection) -> None:
    """Close a connection, which may already be dead."""
    with suppress(InterfaceError, OSError):
        connection.close()
