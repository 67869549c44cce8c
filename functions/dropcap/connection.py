"""The way to PostgreSQL: its address, TLS, and what goes wrong on it."""

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from urllib.parse import parse_qs, unquote, urlsplit

from pg8000.native import Connection, DatabaseError, InterfaceError, identifier

from dropcap.errors import SettingsError
from dropcap.settings import CHECKED_TLS, LOCAL

# cloud.google.com/sql/docs/postgres/iam-logins: an access token with this scope is the password.
LOGIN_SCOPE = "https://www.googleapis.com/auth/sqlservice.login"
NETWORK_S = 5.0  # how much later than the server we give up: its own answer says more than a timeout


class Unreachable(Exception):
    """PostgreSQL did not answer, or not with what was asked for: a passing fault. One line, no address."""


def connect(url: str, timeout_s: float = 10.0) -> Connection:
    """A connection to `postgresql://user:password@host:port/name`, parts percent-encoded.

    `?host=/folder` takes the Unix socket in that folder, `?sslrootcert=file` trusts its certificates,
    `?iam=true` logs in with the service account's access token (Cloud SQL), `?role=name` goes on as that
    role, so that what one function makes is also the others' (behind a pooler, set the login's own role).
    Any host that is not this machine is reached by TLS with its certificate and name verified, or not at all.
    Raises SettingsError where the address makes no sense, Unreachable where there is no token, else what
    pg8000 raises.
    """
    try:
        parts = urlsplit(url)
        options = {name: values[-1] for name, values in parse_qs(parts.query).items()}
        port, user = parts.port or 5432, unquote(parts.username or "")
        local = options.get("host", "").startswith("/") or (parts.hostname or "localhost") in LOCAL
        iam = options.get("iam", "false")
        checked = local or options.get("sslmode", "") in CHECKED_TLS
        if not user or not checked or iam not in ("true", "false") or (iam == "true" and parts.password):
            raise ValueError(url)
    except ValueError as wrong:
        raise SettingsError(
            "DATABASE_URL=*** is not allowed: it must be postgresql://user:password@host:port/name, "
            "sslmode, where it is given, require, verify-ca or verify-full, and with iam=true no password."
        ) from wrong
    folder = options.get("host", "")
    password = unquote(parts.password) if parts.password else None
    connection = Connection(
        user,
        host=parts.hostname or "localhost",
        port=port,
        unix_sock=f"{folder}/.s.PGSQL.{port}" if folder.startswith("/") else None,
        database=unquote(parts.path.lstrip("/")) or user,
        password=_access_token(timeout_s) if iam == "true" else password,
        ssl_context=False if local else ssl.create_default_context(cafile=options.get("sslrootcert")),
        timeout=timeout_s + NETWORK_S,
        application_name="dropcap",
    )
    if role := options.get("role"):
        try:
            connection.run(f"SET ROLE {identifier(role)}")
        except BaseException:
            connection.close()
            raise
    return connection


def _access_token(timeout_s: float) -> str:
    """The service account's, from where Google's clients find it: on Cloud Run, its metadata server."""
    import google.auth  # here: whoever logs in with a password needs none of it
    from google.auth.exceptions import GoogleAuthError
    from google.auth.transport.requests import Request

    try:
        credentials, _ = google.auth.default(scopes=[LOGIN_SCOPE])
        credentials.refresh(partial(Request(), timeout=timeout_s))
    except GoogleAuthError as failed:
        raise Unreachable(f"There is no access token to log in to PostgreSQL with: {failed}") from failed
    return str(credentials.token)


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
