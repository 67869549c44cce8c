"""Move tables of earlier versions, in `public` or first on the role's search_path, into our schema.

A table is moved if it exactly matches a released version. If a table beside it has one of our names but
matches none, a person must decide whose it is. If no table matches, all are another app's and are left alone.
"""

from itertools import groupby

from pg8000.native import Connection, literal

from dropcap.database.schema import ownership
from dropcap.database.schema.diff import Difference
from dropcap.database.schema.ownership import Found
from dropcap.database.schema.tables import TABLES

# An older revision that still runs would create its tables again, empty, and write to them. It fails at a
# view in place of its first table, so events are redelivered until they reach the newer revision.
SIGNPOST = TABLES[0].name

OURS = """
SELECT quote_ident(n.nspname), quote_ident(current_user),
  ARRAY(SELECT c.relname::text FROM pg_class c WHERE c.relnamespace = n.oid)
FROM pg_namespace n WHERE n.nspname = {schema} AND obj_description(n.oid, 'pg_namespace') LIKE {mark}
"""
ROOM = "SELECT to_regclass({view}) IS NULL, has_schema_privilege(to_regnamespace({schema}), 'CREATE')"


def moves(connection: Connection, schema: str, home: str | None) -> list[Difference]:
    """Return a difference, with its repair, for each of our tables outside `schema`, or one for all.

    `home` is the first schema on the session's own search_path. The list is empty if there is nothing to
    move, or the schema does not exist yet.
    """
    ours = connection.run(OURS.format(schema=literal(schema), mark=literal(f"{ownership.MARK}%")))
    if not ours:
        return []
    [[name, role, taken]] = ours
    found = ownership.tables(connection, {home or "public", "public"} - {schema})
    left = [table for table in found if table.name not in taken]
    groups = [list(tables) for _, tables in groupby(left, lambda table: table.schema)]
    groups = [tables for tables in groups if any(table.proof for table in tables)]
    for tables in groups:
        if stopped := _stopped(tables, groups, name, role):
            return [stopped]
    return [difference for tables in groups for difference in _moved(connection, tables, name)]


def _stopped(tables: list[Found], groups: list[list[Found]], name: str, role: str) -> Difference | None:
    """Return the difference that a person must resolve before any of these tables is moved."""
    made = f"CREATE SCHEMA IF NOT EXISTS {name} AUTHORIZATION {role}; {ownership.mark(name)}"
    ours = "; ".join(_move(table, name) for table in tables if table.ours)
    for table in tables:
        if table.strange:
            return Difference(
                f"Table {table}",
                "is beside tables of Dropcap, but matches none of its versions",
                "be moved, or left alone, by a person",
                by_hand=f"where it is Dropcap's: {made}; {_move(table, name)}; "
                f"where it is another app's: {made}; {ours}",
            )
        twins = [each for group in groups for each in group if each.name == table.name and each is not table]
        if table.proof and twins:
            return Difference(
                f"Table {table}",
                f"is Dropcap's, as is {twins[0]}",
                "be the only one of the two",
                by_hand=f"where this is the one to go on with: {made}; {ours}",
            )
    return None


def _moved(connection: Connection, tables: list[Found], name: str) -> list[Difference]:
    moved = [table for table in tables if table.ours]
    repairs: list[tuple[str, ...]] = [(_move(table, name),) for table in moved]
    home, sign = moved[0].schema, f"{moved[0].schema}.{SIGNPOST}"
    [[free, may]] = connection.run(ROOM.format(view=literal(sign), schema=literal(home)))
    if may and (free or moved[0].name == SIGNPOST):
        note = literal(
            f"Dropcap's tables are in the schema {name}. Drop this view when no older revision runs."
        )
        repairs[-1] += (f"CREATE VIEW {sign} AS SELECT {note} AS note", f"COMMENT ON VIEW {sign} IS {note}")
    found, wanted = "is Dropcap's, but outside its schema", f"be in {name}"
    return [
        Difference(f"Table {table}", found, wanted, repair)
        for table, repair in zip(moved, repairs, strict=True)
    ]


def _move(table: Found, schema: str) -> str:
    return f"ALTER TABLE {table} SET SCHEMA {schema}"
