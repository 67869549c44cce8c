"""Check the schema against `tables.py`: add what is missing, and explain what can't be repaired.

A healthy database costs one query. Otherwise one process at a time, under an advisory lock, repairs in one
transaction what can be repaired without losing a row, and checks again:

    missing schema                                        created, and marked as ours by its comment
    tables of versions that had no schema                 moved into it (relocation.py)
    missing table, column, default, key, index, check     added
    missing column that follows from other columns        added and filled from them
    damaged derived table                                 emptied and rebuilt later (rollup.py, search.py)
    narrower type (integer, varchar(40), json, ...)       widened
    nullable column that must not be                      tightened, where it holds no NULL
    the old web app's achievements                        copied when ours are created (legacy.py)

Everything else raises SchemaError and changes nothing. Outside the schema nothing is changed or locked,
except for tables of earlier versions (relocation.py). Inside, tables, columns, indexes and constraints that
are not ours are left alone, so that earlier and later revisions can share the database.

Most repairs only change the catalogue and block the table for milliseconds. A new index takes as long as
reading the table (`make bench-database` measures it for 10 million rows). So indexes come last, each in its
own transaction. Meanwhile others can read that table, but writes wait for DATABASE_TIMEOUT_S, fail and are
redelivered. If that is too long, create the index before the deployment, with CREATE INDEX CONCURRENTLY.
"""

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import replace

from pg8000.native import Connection, DatabaseError

from dropcap.database.connection import LOCALS
from dropcap.database.schema import diff, legacy, relocation
from dropcap.database.schema.diff import Difference
from dropcap.errors import SchemaError

logger = logging.getLogger(__name__)

LOCK = 0x44726F70636170  # "Dropcap": the advisory lock for repairs
REPAIR_S = 200.0  # a cold start has 240 s on Cloud Run: cloud.google.com/run/docs/container-contract
# Schema, moved tables, new tables, two levels of dependants, and one more. More would be a bug.
ROUNDS = 6
EMPTY = "TRUNCATE "
IN_USE = ("0A000", "2BP01")  # SQLSTATE: a foreign key or a view depends on it
# SQLSTATEs of transient errors: network, deadlock, no resources, a lock that is held, a restart, a full disk
TRANSIENT = ("08", "40", "53", "55", "57P", "58")


def check(
    connection: Connection,
    schema: str,
    timeout_s: float = 10.0,
    patient: Callable[[], Connection] | None = None,
) -> None:
    """Ensure that the tables are in `schema` and as declared; one query if they are.

    `timeout_s` limits the check. A repair waits half of it for a lock on a table, because other transactions
    queue behind it. A statement of a repair, and the wait for another process that repairs, may take
    REPAIR_S; `patient` opens a connection with that timeout. Raises SchemaError, one line, if a person must
    act; transient errors pass through.
    """
    if diff.find(connection, schema, _limits(timeout_s, timeout_s)):
        other: AbstractContextManager[Connection] = closing(patient()) if patient else nullcontext(connection)
        with other as repairing:
            limits = _limits(REPAIR_S, timeout_s)
            _repair(repairing, schema, limits, slow=False)
            while _repair(repairing, schema, limits, slow=True):
                pass


def _limits(statement_s: float, timeout_s: float) -> str:
    lock, statement = (max(1, round(seconds * 1000)) for seconds in (timeout_s / 2, statement_s))
    return f"{LOCALS}SET LOCAL statement_timeout = {statement}; SET LOCAL lock_timeout = {lock};"


def _repair(connection: Connection, schema: str, limits: str, slow: bool) -> bool:
    """Run one slow repair, or all quick ones, in one transaction; return whether there was any."""
    longest = round(REPAIR_S * 1000)
    wait = (
        f"{LOCALS}SET LOCAL statement_timeout = {longest}; "
        f"SET LOCAL idle_in_transaction_session_timeout = {longest}; SELECT pg_advisory_xact_lock({LOCK})"
    )
    repaired: list[Difference] = []
    try:
        connection.run(f"BEGIN ISOLATION LEVEL READ COMMITTED; {wait}; {limits}")
        [[home]] = connection.run("SELECT current_schema()")  # earlier versions kept their tables there
        for _ in range(ROUNDS):
            moves = [] if slow else relocation.moves(connection, schema, home)
            waits, found = _split(moves or diff.find(connection, schema, limits), slow)
            if not found or (slow and repaired and repaired[0] not in found):
                break
            repaired += found[:1] if slow else found
            for difference in found[:1] if slow else found:
                _apply(connection, difference)
        else:
            raise SchemaError(f"{found[0]}, which the repair did not achieve.")
        for difference in () if slow else waits:
            schemas = {home or "public", "public"} - {schema}
            if copied := legacy.copy(connection, difference.where.removeprefix("Table "), schemas):
                repaired.append(replace(difference, found=f"lacks {copied}"))
        connection.run("COMMIT")
    except (DatabaseError, SchemaError):
        connection.run("ROLLBACK")
        raise
    for difference in repaired:
        emptied = [
            statement.removeprefix(EMPTY) for statement in difference.repair if statement.startswith(EMPTY)
        ]
        anew = f"; emptied, to be rebuilt: {', '.join(emptied)}" if emptied else ""
        level = logging.WARNING if emptied else difference.level
        logger.log(level, f"schema changed, as {difference}{anew}", extra={"event": "schema_changed"})
    return bool(repaired)


def _split(found: list[Difference], slow: bool) -> tuple[list[Difference], list[Difference]]:
    """Return the differences that wait for the old web app's rows, and those to repair now."""
    waits = [difference for difference in found if difference.found == diff.WAITS]
    return waits, [
        difference for difference in found if difference not in waits and (slow or not difference.slow)
    ]


def _apply(connection: Connection, difference: Difference) -> None:
    if not difference.repair and difference.by_hand:
        raise SchemaError(f"{difference}. Dropcap does not change that itself: {difference.by_hand}")
    if not difference.repair:
        raise SchemaError(f"{difference}. No safe repair is known: please change it by hand.")
    for statement in difference.repair:
        try:
            connection.run(statement)
        except DatabaseError as refused:
            code, message = refused.args[0]["C"], refused.args[0]["M"]
            if code.startswith(TRANSIENT):
                raise
            if code in IN_USE:  # names the dependants; other details may quote values of rows
                message = " ".join(f"{message}: {refused.args[0].get('D', '')}".split())
            by_hand = statement.replace("INDEX", "INDEX CONCURRENTLY", 1) if difference.slow else statement
            by_hand = difference.by_hand or by_hand
            raise SchemaError(
                f"{difference}. PostgreSQL refused the repair ({message}): {' '.join(by_hand.split())}"
            ) from refused
