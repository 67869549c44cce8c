"""The tables of `tables.py` in a real database: what it lacks is added, what can't be is explained.

A healthy database costs one query. Otherwise one process at a time, under an advisory lock, repairs in one
transaction what can be repaired without losing a row, and checks again:

    missing schema                                        made, and marked as ours by its comment
    tables of versions that had no schema                 moved into it (relocation.py)
    missing table, column, default, key, index, check     added
    missing column that other columns still tell          added and filled from them
    what a derived table lacks or holds that is wrong     emptied, to be made anew (rollup.py, search.py)
    narrower type (integer, varchar(40), json, ...)       widened
    nullable column that must not be                      tightened, where it holds no NULL
    the old web app's achievements                        copied, when ours are made (ancestor.py)

Everything else raises SchemaError and changes nothing. Outside of the schema, nothing is changed or locked,
whatever it is called; inside, tables, columns, indexes and constraints that are not ours are left alone, so
that the code before and after this one can share the database.

Most repairs change the catalogue alone, in milliseconds in which nobody else gets at the table. A new index
takes as long as it takes to read the table (`make bench-database` says how long for 10 million rows). So
indexes come last, each in a transaction of its own, in which others can read that table and not write: what
they would write waits for DATABASE_TIMEOUT_S, fails and is delivered again. Where that is too long, make the
index by hand before this code is deployed, with CREATE INDEX CONCURRENTLY.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import replace

from pg8000.native import Connection, DatabaseError

from dropcap import ancestor, faults, logs, relocation
from dropcap.connection import LOCALS
from dropcap.errors import SchemaError
from dropcap.faults import Fault

LOCK = 0x44726F70636170  # "Dropcap": the advisory lock of whoever repairs
REPAIR_S = 200.0  # a cold start has 240 s on Cloud Run: cloud.google.com/run/docs/container-contract
ROUNDS = 6  # schema, tables moved, made, what hangs on them, what hangs on that; one more is a fault of ours
EMPTY = "TRUNCATE "
IN_USE = ("0A000", "2BP01")  # SQLSTATE: another table's key, or a view, needs what is to be changed
# SQLSTATEs of faults that pass: network, deadlock, no resources, a lock that is held, a restart, a full disk
PASSING = ("08", "40", "53", "55", "57P", "58")


def check(
    connection: Connection,
    schema: str,
    timeout_s: float = 10.0,
    patient: Callable[[], Connection] | None = None,
) -> None:
    """Make sure that the tables are in `schema`, and as declared: one query when they are.

    `timeout_s` bounds the check, and half of it each wait of a repair for a table, as others wait behind it.
    A repair's own statement, and the wait for another process that repairs, may take REPAIR_S; `patient`
    makes a connection that waits so long for an answer. Raises SchemaError, one line, where a person must
    act; faults that pass as they are.
    """
    if faults.find(connection, schema, _bounds(timeout_s, timeout_s)):
        other: AbstractContextManager[Connection] = closing(patient()) if patient else nullcontext(connection)
        with other as repairing:
            bounds = _bounds(REPAIR_S, timeout_s)
            _repair(repairing, schema, bounds, slow=False)
            while _repair(repairing, schema, bounds, slow=True):
                pass


def _bounds(statement_s: float, timeout_s: float) -> str:
    lock, statement = (max(1, round(seconds * 1000)) for seconds in (timeout_s / 2, statement_s))
    return f"{LOCALS}SET LOCAL statement_timeout = {statement}; SET LOCAL lock_timeout = {lock};"


def _repair(connection: Connection, schema: str, bounds: str, slow: bool) -> bool:
    """One transaction with one repair that is slow, or with all that are not; whether there was any."""
    longest = round(REPAIR_S * 1000)
    wait = (
        f"{LOCALS}SET LOCAL statement_timeout = {longest}; "
        f"SET LOCAL idle_in_transaction_session_timeout = {longest}; SELECT pg_advisory_xact_lock({LOCK})"
    )
    mended: list[Fault] = []
    try:
        connection.run(f"BEGIN ISOLATION LEVEL READ COMMITTED; {wait}; {bounds}")
        [[home]] = connection.run("SELECT current_schema()")  # where versions before ours had their tables
        for _ in range(ROUNDS):
            moves = [] if slow else relocation.moves(connection, schema, home)
            waits, found = _split(moves or faults.find(connection, schema, bounds), slow)
            if not found or (slow and mended and mended[0] not in found):
                break
            mended += found[:1] if slow else found
            for fault in found[:1] if slow else found:
                _mend(connection, fault)
        else:
            raise SchemaError(f"{found[0]}, which the repair did not achieve.")
        for fault in () if slow else waits:
            places = {home or "public", "public"} - {schema}
            if copied := ancestor.copy(connection, fault.where.removeprefix("Table "), places):
                mended.append(replace(fault, found=f"lacks {copied}"))
        connection.run("COMMIT")
    except (DatabaseError, SchemaError):
        connection.run("ROLLBACK")
        raise
    for fault in mended:
        emptied = [statement.removeprefix(EMPTY) for statement in fault.repair if statement.startswith(EMPTY)]
        anew = f"; emptied, to be rebuilt: {', '.join(emptied)}" if emptied else ""
        logs.write("WARNING" if emptied else fault.severity, f"schema changed, as {fault}{anew}")
    return bool(mended)


def _split(found: list[Fault], slow: bool) -> tuple[list[Fault], list[Fault]]:
    """Return what waits for rows of the old web app, and what is to be mended now."""
    waits = [fault for fault in found if fault.found == faults.WAITS]
    return waits, [fault for fault in found if fault not in waits and (slow or not fault.slow)]


def _mend(connection: Connection, fault: Fault) -> None:
    if not fault.repair and fault.by_hand:
        raise SchemaError(f"{fault}. Dropcap does not change that itself: {fault.by_hand}")
    if not fault.repair:
        raise SchemaError(f"{fault}. No safe repair is known: please change it by hand.")
    for statement in fault.repair:
        try:
            connection.run(statement)
        except DatabaseError as refused:
            code, said = refused.args[0]["C"], refused.args[0]["M"]
            if code.startswith(PASSING):
                raise
            if code in IN_USE:  # what uses it; other details have values of rows
                said = " ".join(f"{said}: {refused.args[0].get('D', '')}".split())
            by_hand = statement.replace("INDEX", "INDEX CONCURRENTLY", 1) if fault.slow else statement
            by_hand = fault.by_hand or by_hand
            raise SchemaError(
                f"{fault}. PostgreSQL refused the repair ({said}): {' '.join(by_hand.split())}"
            ) from refused
