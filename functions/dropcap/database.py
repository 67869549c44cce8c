"""PostgreSQL: the claims, the results and what follows from them.

Every change is one transaction that may be repeated without effect, so an operation is tried a second time
when the connection turns out to have died since its last use. All that is set is set for one transaction, so
that a pooler between us and the server does no harm.
"""

import json
import re
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

from pg8000.native import Connection, DatabaseError, InterfaceError, literal

from dropcap import claims, pool, progress, rollup, schema, spending
from dropcap.analysis import Analysis
from dropcap.claims import Claim as Claim
from dropcap.claims import Row, Run
from dropcap.connection import LOCALS, foreign_errors, inside
from dropcap.connection import Unreachable as Unreachable
from dropcap.connection import connect as connect
from dropcap.connection import connect_inside as connect_inside
from dropcap.errors import SettingsError
from dropcap.pool import Pool
from dropcap.settings import Settings
from dropcap.upload import Upload

CHANGED = ("42P01", "42703", "42P10")  # SQLSTATE: undefined table, undefined column, no such key
NO_SUCH_ZONE = "22023"  # SQLSTATE invalid_parameter_value
UNSTORABLE = re.compile("[\x00\ud800-\udfff]")  # what a str may hold and PostgreSQL's text may not

T = TypeVar("T")


class Database:
    """The database of `settings.database_url`, for any number of threads: pool.py.

    The first connection of a process checks and repairs the schema. Every method may raise SchemaError,
    SettingsError and, for all other trouble, Unreachable.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        timeout_s = settings.database_timeout_s
        self._pool = Pool(
            lambda: connect(settings.database_url, timeout_s), settings.database_connections, timeout_s
        )
        self._checking = threading.Lock()
        self._checked = False
        # Claims, by holder, that are to be given back: who could not, while the database was away, is alive.
        self._owed: dict[str, Upload] = {}

    def prepare(self) -> None:
        """Check the schema now, at the cold start, and let the connection go.

        The web server forks its workers after this: two of them on one connection would read each other's
        answers, and each checks for itself when it connects.
        """
        with foreign_errors(), self._pool.turn():
            connection, _ = self._pool.take()
            try:
                self._check(connection)
            finally:
                pool.close(connection)
                self._pool.clear()
        self._checked = False

    def close(self) -> None:
        """Close the connections that nobody uses; the next use opens another."""
        self._pool.clear()

    def claim(self, upload: Upload) -> Claim:
        """Take the upload for LEASE_S seconds, if nobody has it: one wins."""
        with suppress(KeyError):  # of the empty dictionary: whatever any thread owes is given back by one
            while True:
                holder, owed = self._owed.popitem()
                self.release(owed, holder)
        holder = uuid.uuid4().hex  # the same where the transaction is repeated: the claim may be ours already
        with self._owing(upload, holder):  # should the answer be lost
            return self.transaction(lambda run: claims.take(run, upload, holder, self._settings.lease_s))

    def mark(self, upload: Upload, holder: str, stage: str, rss_mb: float) -> bool:
        """Say what stage begins at how many resident MB; the lease begins anew.

        False, and nothing is changed, where the claim is no longer `holder`'s.
        """
        lease_s = self._settings.lease_s
        return self.transaction(lambda run: claims.mark(run, upload, holder, stage, rss_mb, lease_s))

    def record(self, analysis: Analysis, upload: Upload, holder: str, rows: Sequence[Row] = ()) -> bool:
        """Store the result, the user's sums and achievements, the upload's state and `rows`, all or nothing.

        False, and nothing is changed, where the claim is no longer `holder`'s. Repeating it changes nothing.
        """

        def work(run: Run) -> bool:
            if not claims.move(run, upload, holder, "recorded", rows=rows):
                return False
            user = analysis.user
            rollup.lock(run, user)
            known = self._settings.brake and run("SELECT 1 FROM analyses WHERE id = :id", id=upload.id)
            complete = rollup.record(
                run,
                user,
                id=upload.id,
                analyzed_at=analysis.analyzed_at,
                time_zone=_known_zone(run, analysis.time_zone),
                caption=analysis.caption,
                description=analysis.description,
                alt_text=analysis.alt_text,
                tags=list(analysis.tags),
                picture_text=analysis.text,
                format=analysis.picture.format,
                bytes=analysis.picture.bytes,
                width=analysis.picture.width,
                height=analysis.picture.height,
                result=analysis.to_json(),
            )
            if complete:
                progress.achieve(run, user)
            if analysis.describe_later:
                run("UPDATE analyses SET describe_after = now() WHERE id = :id", id=upload.id)
            if self._settings.brake and analysis.usage and not known:
                spending.tally(run, analysis.usage)
            return True

        return self.transaction(work)

    def count(self, user: str) -> None:
        """Count what of the user's pictures is not counted yet (rollup.py); achievements follow.

        Raises Unreachable where it takes longer than the setting; the next call goes on from there.
        """
        ends = time.monotonic() + self._settings.database_timeout_s

        def work(run: Run) -> bool:
            rollup.lock(run, user)
            complete = rollup.count(run, user)
            if complete:
                progress.achieve(run, user)
            return complete

        while not self.transaction(work):
            if time.monotonic() > ends:
                raise Unreachable("The user's pictures are still being counted: ask again.")

    def reject(self, upload: Upload, holder: str, code: str, reason: str, rows: Sequence[Row] = ()) -> bool:
        """Store why the upload can't be used. False, and nothing is changed, where the claim is another's."""
        return self.transaction(lambda run: claims.move(run, upload, holder, "rejected", code, reason, rows))

    def hold(
        self,
        upload: Upload,
        holder: str,
        code: str,
        reason: str,
        again_s: int,
        rows: Sequence[Row] = (),
    ) -> bool:
        """Store why the upload has to wait, for `again_s` seconds. False, and no change, as in `reject`."""
        return self.transaction(lambda run: claims.hold(run, upload, holder, code, reason, again_s, rows))

    def release(self, upload: Upload, holder: str) -> None:
        """Give the claim back after a passing fault, so that the next delivery may start at once.

        Where that fails, this process does so before it takes its next claim.
        """
        with self._owing(upload, holder):
            self.transaction(lambda run: claims.release(run, upload, holder))

    @contextmanager
    def _owing(self, upload: Upload, holder: str) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self._owed[holder] = upload
            raise

    def forget(self, upload: Upload, holder: str) -> None:
        """Give the claim on a posted picture that is refused back, and keep nothing of it.

        But its row where it took instances down, which is to be known when it is posted again.
        """
        with self._owing(upload, holder):
            self.query(
                """
                WITH ours AS (
                  SELECT id, deaths FROM uploads
                  WHERE id = :id AND holder = :holder AND state = 'claimed' FOR UPDATE
                ), gone AS (
                  DELETE FROM uploads AS u USING ours WHERE u.id = ours.id AND ours.deaths = '[]'
                ), released AS (
                  UPDATE uploads AS u SET holder = NULL, lease_until = now()
                  FROM ours WHERE u.id = ours.id AND ours.deaths <> '[]'
                )
                DELETE FROM answers AS a USING ours WHERE a.upload_id = ours.id RETURNING 1
                """,
                id=upload.id,
                holder=holder,
            )

    def finish(self, upload: Upload, fate: str = "") -> None:
        """The source is disposed of: nothing is left to do. The reason of a rejection stays.

        `fate` is what became of the source, for its receipt; empty: it is not known.
        """
        done = (
            "UPDATE uploads SET state = 'done', finished_at = now(), "
            "source_kept = CASE WHEN CAST(:fate AS text) <> '' THEN CAST(:fate AS text) = 'kept' END "
            "WHERE id = :id AND state IN ('recorded', 'rejected') RETURNING id"
        )
        if self._settings.receipts:
            from dropcap import receipt

            self.query(receipt.completed(done), id=upload.id, fate=fate)
        else:
            self.query(done, id=upload.id, fate=fate)

    def analysis(self, upload_id: uuid.UUID) -> dict[str, Any] | None:
        """The recorded result as `Analysis.to_json` gave it, or None."""
        rows = self.query("SELECT result FROM analyses WHERE id = :id", id=upload_id)
        return rows[0][0] if rows else None

    def query(self, sql: str, **values: Any) -> list[list[Any]]:
        """The rows of one statement, in a transaction of its own; it may run twice."""
        return self.transaction(lambda run: run(sql, **values))

    def transaction(self, work: Callable[[Run], T]) -> T:
        """What `work` returns, committed; done again once where connection or schema had changed."""
        with foreign_errors(), self._pool.turn():
            connection, used_before = self._pool.take()
            try:
                return self._attempt(connection, work)
            except DatabaseError as refused:
                if refused.args[0]["C"] not in CHANGED:
                    raise
                self._checked = False
            except TimeoutError:
                raise  # the time that the caller has is spent
            except (InterfaceError, OSError):
                if not used_before:
                    raise
                self._pool.clear()  # what was idle meanwhile has died as well
            connection, _ = self._pool.take()
            return self._attempt(connection, work)

    def _attempt(self, connection: Connection, work: Callable[[Run], T]) -> T:
        """Keep the connection, whatever is raised, unless it may be in the middle of an answer."""
        answered = kept = False

        def ask(sql: str, **values: Any) -> list[list[Any]]:
            nonlocal answered
            answered = False
            try:
                rows: list[list[Any]] | None = connection.run(sql, **values)
            except DatabaseError:  # which pg8000 raises when it has read all of the answer
                answered = True
                raise
            answered = True
            return rows or []

        def run(sql: str, **values: Any) -> list[list[Any]]:
            return ask(sql, **{key: _stored(value) for key, value in values.items()})

        try:
            self._check(connection)
            self._begin(ask)
            result = work(run)
            ask("COMMIT")
            kept = True
        except BaseException:
            if answered:
                with suppress(DatabaseError, InterfaceError, OSError):
                    ask("ROLLBACK")
                    kept = True
            raise
        finally:
            if kept:
                self._pool.give_back(connection)
            else:
                pool.close(connection)
        return result

    def _begin(self, run: Run) -> None:
        wait = max(1, round(self._settings.database_timeout_s * 1000))
        try:
            run(
                f"BEGIN ISOLATION LEVEL READ COMMITTED; {LOCALS}SET LOCAL statement_timeout = {wait}; "
                f"SET LOCAL idle_in_transaction_session_timeout = {wait}; "  # an instance may be frozen
                f"SET LOCAL TimeZone = {literal(self._settings.time_zone)}; "
                f"SET LOCAL {inside(self._settings.database_schema)}"
            )
        except DatabaseError as refused:
            if refused.args[0]["C"] != NO_SUCH_ZONE:
                raise
            zone = self._settings.time_zone
            raise SettingsError(
                f"TIME_ZONE={zone!r} is not allowed: PostgreSQL does not know it."
            ) from refused

    def _check(self, connection: Connection) -> None:
        """Check the schema, once a process; a failure is not remembered."""
        timeout = self._settings.database_timeout_s
        if self._checked:
            return
        if not self._checking.acquire(timeout=timeout):
            raise Unreachable("The schema is still being checked: ask again.")
        try:
            if not self._checked:
                schema.check(
                    connection,
                    self._settings.database_schema,
                    timeout,
                    lambda: connect(self._settings.database_url, schema.REPAIR_S),
                )
                self._checked = True
        finally:
            self._checking.release()


def _stored(value: Any) -> Any:
    """The value as PostgreSQL can hold it: U+FFFD for NUL and lone surrogates, JSON for mappings."""
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


def _known_zone(run: Run, zone: str | None) -> str | None:
    """The zone, or None where PostgreSQL's own list lacks it: one row must not break all progress."""
    if zone is None:
        return None
    run("SAVEPOINT zone")
    try:
        run("SELECT now() AT TIME ZONE :zone", zone=zone)
    except DatabaseError as refused:
        if refused.args[0]["C"] != NO_SUCH_ZONE:
            raise
        run("ROLLBACK TO SAVEPOINT zone")
        return None
    return zone
