"""Identify what belongs to Dropcap: its schema by its comment, tables without a schema by their columns.

Reads only the catalogue, so it does not wait for locks on tables.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from pg8000.native import Connection, literal

from dropcap.database.schema.tables import ACHIEVEMENTS, TABLES, Table

MARK = "Owned by Dropcap"  # the beginning of the schema's comment
AWAITS = "Rows of the old web app are still to be copied"  # the comment of `achievements`: legacy.py
# Fingerprints of all versions without a schema, by table; written by tests/support/database/released.py.
RELEASED = Path(__file__).with_name("released.json")

SHAPES = """
SELECT quote_ident(n.nspname), c.relname,
  (SELECT json_object_agg(a.attname, format_type(a.atttypid, a.atttypmod)
      || CASE WHEN a.attnotnull THEN ' NOT NULL' ELSE '' END || a.attidentity::text || a.attgenerated::text)
    FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped),
  (SELECT json_agg(a.attname ORDER BY k.place) FROM pg_index i
    CROSS JOIN unnest(i.indkey[0:i.indnkeyatts - 1]) WITH ORDINALITY AS k (n, place)
    JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = k.n WHERE i.indrelid = c.oid AND i.indisprimary)
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname IN ({schemas}) AND c.relname IN ({names}) AND c.relkind IN ('r', 'p') AND NOT c.relispartition
ORDER BY n.nspname = 'public', array_position(ARRAY[{names}], c.relname::text)
"""
# The first object that depends on the schema: relations, functions, types, operators, extensions.
CONTENTS = """
SELECT pg_describe_object(d.classid, d.objid, d.objsubid) FROM pg_depend d
WHERE d.refclassid = 'pg_namespace'::regclass AND d.deptype = 'n'
  AND d.refobjid = (SELECT oid FROM pg_namespace WHERE nspname = {schema})
ORDER BY 1 LIMIT 1
"""


@dataclass(frozen=True, slots=True)
class Found:
    """A table with one of our names. `ours`: it exactly matches a released version of Dropcap.

    `proof`: it is also evidence that the tables beside it may be ours; `achievements` alone is not.
    """

    schema: str  # quoted if necessary
    name: str
    ours: bool

    @property
    def proof(self) -> bool:
        return self.ours and self.name != ACHIEVEMENTS

    @property
    def strange(self) -> bool:
        """Return whether it is another app's. Achievements may be the old web app's instead: legacy.py."""
        return not self.ours and self.name != ACHIEVEMENTS

    def __str__(self) -> str:
        return f"{self.schema}.{self.name}"


def mark(schema: str) -> str:
    """Return the SQL that marks a schema (a quoted name) as Dropcap's."""
    return f"COMMENT ON SCHEMA {schema} IS {literal(MARK)}"


def fingerprint(columns: Mapping[str, str], key: Sequence[str] | None) -> str:
    """Return a hash of the columns (name to type with NOT NULL) and the primary key."""
    shape = json.dumps([sorted(columns.items()), key and list(key)])
    return hashlib.sha256(shape.encode()).hexdigest()[:16]


def declared(table: Table) -> str:
    """Return the fingerprint of a table as declared in tables.py."""
    columns = {column.name: f"{column.type}{'' if column.null else ' NOT NULL'}" for column in table.columns}
    return fingerprint(columns, table.key)


@cache
def _known() -> Mapping[str, Iterable[str]]:
    """Return the fingerprints of all released versions and of this one, by table."""
    released: dict[str, list[str]] = json.loads(RELEASED.read_text())
    for table in TABLES:
        released.setdefault(table.name, []).append(declared(table))
    return released


def tables(connection: Connection, schemas: Iterable[str]) -> list[Found]:
    """Return the tables with our names in these schemas, in the order of `TABLES`."""
    names = ", ".join(literal(table.name) for table in TABLES)
    rows = connection.run(SHAPES.format(schemas=", ".join(map(literal, schemas)), names=names))
    known = _known()
    return [
        Found(schema, name, fingerprint(columns or {}, key) in known[name])
        for schema, name, columns, key in rows or ()
    ]


def others(connection: Connection, schema: str, quoted: str) -> tuple[str, str]:
    """Return what in an unmarked schema is not Dropcap's, and the remedy; both are empty if nothing is.

    Such a schema was created by hand, restored without its comments, or is another app's.
    """
    found = tables(connection, [schema])
    ours, strange = any(table.proof for table in found), [table for table in found if table.strange]
    elsewhere = "set DATABASE_SCHEMA to another name"
    if ours and strange:
        by_hand = f"{elsewhere}; or, where all tables of this name in it are Dropcap's: {mark(quoted)}"
        return f"table {strange[0]}, which no version of Dropcap made so", by_hand
    contents = connection.run(CONTENTS.format(schema=literal(schema)))
    if ours or not contents:
        return "", ""
    return f"{contents[0][0]}, and nothing that shows it to be Dropcap's", elsewhere
