"""The database: transactions on a pool of connections to PostgreSQL that all threads of a process share.

Every change is one idempotent transaction, so it is retried once if the connection has died since its last
use. Session variables are set with SET LOCAL, per transaction, which also works through a pooler.
"""

import json
import os
import re
import threading
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, TypeVar

from pg8000.native import Connection, DatabaseError, InterfaceError, literal

from dropcap.database.connection import (
    LOCALS,
    DatabaseUnavailable,
    Pool,
    close,
    connect,
    search_path,
    translated_errors,
)
from dropcap.database.schema import repair
from dropcap.errors import SettingsError
from dropcap.settings import Settings

SCHEMA_CHANGED = ("42P01", "42703", "42P10")  # SQLSTATE: undefined table, undefined column, no such key
NO_SUCH_ZONE = "22023"  # SQLSTATE invalid_parameter_value
UNSTORABLE = re.compile("[\x00\ud800-\udfff]")  # characters that str allows and PostgreSQL's text does not

T = TypeVar("T")
Executor = Callable[..., list[list[Any]]]
"""Executes one SQL statement in the current transaction, with named parameters, and returns its rows."""


class Database:
    """The database of `settings.database_url`, for any number of threads.

    The first connection of a process checks and repairs the schema. Every method may raise SchemaError,
    SettingsError, and DatabaseUnavailable for all other problems.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        timeout_s = settings.database_timeout_s
        self._pool = Pool(
            lambda: connect(settings.database_url, timeout_s), settings.database_connections, timeout_s
        )
        self._checking = threading.Lock()
        self._checked = False

    def prepare(self) -> None:
        """Check the schema at the cold start, and keep the connection for the first transaction.

        If the web server forks a worker, the connection is the worker's: two processes on one connection
        would read each other's responses.
        """
        with translated_errors(), self._pool.slot():
            connection, _ = self._pool.acquire()
            try:
                self._check(connection)
            except BaseException:
                close(connection)
                raise
            self._pool.release(connection)
        os.register_at_fork(after_in_parent=self._pool.forget)

    def close(self) -> None:
        """Close the idle connections; the next use opens another."""
        self._pool.clear()

    def query(self, sql: str, **values: Any) -> list[list[Any]]:
        """Execute one statement in its own transaction, and return its rows. A retry may execute it twice."""
        return self.transaction(lambda execute: execute(sql, **values))

    def transaction(self, work: Callable[[Executor], T]) -> T:
        """Run `work`, commit, return its result. Retry once if the connection died or the schema changed."""
        with translated_errors(), self._pool.slot():
            connection, used_before = self._pool.acquire()
            try:
                return self._attempt(connection, work)
            except DatabaseError as refused:
                if refused.args[0]["C"] not in SCHEMA_CHANGED:
                    raise
                self._checked = False
            except TimeoutError:
                raise  # a retry would exceed the caller's time limit
            except (InterfaceError, OSError):
                if not used_before:
                    raise
                self._pool.clear()  # the other idle connections have died as well
            connection, _ = self._pool.acquire()
            return self._attempt(connection, work)

    def _attempt(self, connection: Connection, work: Callable[[Executor], T]) -> T:
        """Run `work` once. Keep the connection after an error, unless a response may be incomplete."""
        complete = kept = False

        def send(sql: str, **values: Any) -> list[list[Any]]:
            nonlocal complete
            complete = False
            try:
                rows: list[list[Any]] | None = connection.run(sql, **values)
            except DatabaseError:  # pg8000 raises it after reading the whole response
                complete = True
                raise
            complete = True
            return rows or []

        def execute(sql: str, **values: Any) -> list[list[Any]]:
            return send(sql, **{key: _storable(value) for key, value in values.items()})

        try:
            self._check(connection)
            self._begin(send)
            result = work(execute)
            send("COMMIT")
            kept = True
        except BaseException:
            if complete:
                with suppress(DatabaseError, InterfaceError, OSError):
                    send("ROLLBACK")
                    kept = True
            raise
        finally:
            if kept:
                self._pool.release(connection)
            else:
                close(connection)
        return result

    def _begin(self, execute: Executor) -> None:
        wait = max(1, round(self.settings.database_timeout_s * 1000))
        try:
            execute(
                f"BEGIN ISOLATION LEVEL READ COMMITTED; {LOCALS}SET LOCAL statement_timeout = {wait}; "
                f"SET LOCAL idle_in_transaction_session_timeout = {wait}; "  # an instance may be suspended
                f"SET LOCAL TimeZone = {literal(self.settings.time_zone)}; "
                f"SET LOCAL {search_path(self.settings.database_schema)}"
            )
        except DatabaseError as refused:
            if refused.args[0]["C"] != NO_SUCH_ZONE:
                raise
            zone = self.settings.time_zone
            raise SettingsError(
                f"TIME_ZONE={zone!r} is not allowed: PostgreSQL does not know it."
            ) from refused

    def _check(self, connection: Connection) -> None:
        """Check the schema once in a process; a failed check is repeated."""
        timeout = self.settings.database_timeout_s
        if self._checked:
            return
        if not self._checking.acquire(timeout=timeout):
            raise DatabaseUnavailable("The schema is still being checked: try again.")
        try:
            if not self._checked:
                repair.check(
                    connection,
                    self.settings.database_schema,
                    timeout,
                    lambda: connect(self.settings.database_url, repair.REPAIR_S),
                )
                self._checked = True
        finally:
            self._checking.release()


def _storable(value: Any) -> Any:
    """Return the value as PostgreSQL can store it: U+FFFD for NUL and lone surrogates, JSON for mappings."""
    if isinstance(value, Mapping):
        return json.dumps(_clean(value))
    return str(value) if isinstance(value, uuid.UUID) else _clean(value)


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        return UNSTORABLE.sub("\ufffd", value)
    if isinstance(value, Mapping):
        return {_clean(key): _clean(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_clean(item) for item in value]
    return value
