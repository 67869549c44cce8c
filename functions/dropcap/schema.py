# ruff: noqa: S608  what is put into the SQL are the names in tables.py and, quoted, in the catalogue
"""The tables of `tables.py` in a real database: what it lacks is added, what can't be is explained.

A healthy database costs one query. Otherwise one process at a time, under an advisory lock and in one
transaction, repairs what can be repaired without losing a row, and checks again:

    missing table, column, default, key, index, check     added
    missing column that other columns still tell          added and filled from them
    narrower type (integer, varchar(40), json, ...)       widened
    nullable column that must not be                      tightened, where it holds no NULL
    what would refuse our rows: NOT NULL without default
    on a column that is not ours, a foreign key on ours   dropped; the rows stay
    the old web app's achievements                        brought to ours, every row kept

Everything else raises SchemaError and changes nothing. Tables, columns and indexes that are not ours are left
alone, so that the code before and after this one can share the database.
"""

from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any

from pg8000.native import Connection, DatabaseError, identifier, literal

from dropcap import ancestor, logs
from dropcap.errors import SchemaError
from dropcap.tables import TABLES, WIDER, Column, Table

LOCK = 0x44726F70636170  # "Dropcap": the advisory lock of whoever repairs
ROUNDS = 4  # a table, then what hangs on it, then what hangs on that; one more is a fault of ours
# SQLSTATEs of faults that pass: network, deadlock, no resources, a lock that is held, a restart, a full disk
PASSING = ("08", "40", "53", "55", "57P", "58")

PRIVILEGES = ("SELECT", "INSERT", "UPDATE", "DELETE")
KINDS = {
    "v": "a view",
    "m": "a materialized view",
    "f": "a foreign table",
    "i": "an index",
    "S": "a sequence",
}

SNAPSHOT = f"""
SELECT json_build_object(
  'schema', quote_ident(current_schema()),
  'read_only', pg_is_in_recovery() OR current_setting('transaction_read_only') = 'on',
  'tables', (SELECT json_object_agg(c.relname, json_build_object(
    'schema', c.relnamespace::regnamespace::text,
    'kind', c.relkind,
    'lacks', (SELECT json_agg(p) FROM unnest(ARRAY[{", ".join(map(literal, PRIVILEGES))}]) AS p
              WHERE c.relkind IN ('r', 'p') AND NOT has_table_privilege(c.oid, p)),
    'columns', (SELECT json_object_agg(a.attname, json_build_object(
        'type', format_type(a.atttypid, a.atttypmod), 'not_null', a.attnotnull,
        'default', pg_get_expr(d.adbin, d.adrelid), 'made', a.attgenerated <> '', 'identity', a.attidentity
      ) ORDER BY a.attnum)
      FROM pg_attribute a LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
      WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped),
    'indexes', (SELECT json_agg(json_build_object(
        'columns', ARRAY(SELECT a.attname
          FROM unnest(i.indkey[0:i.indnkeyatts - 1]) WITH ORDINALITY AS k (n, place)
          JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = k.n ORDER BY k.place),
        'unique', i.indisunique AND i.indimmediate, 'primary', i.indisprimary))
      FROM pg_index i WHERE i.indrelid = c.oid AND i.indisvalid AND i.indpred IS NULL AND i.indexprs IS NULL),
    'constraints', (SELECT json_agg(json_build_object('name', o.conname, 'type', o.contype, 'columns',
        ARRAY(SELECT a.attname FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum = ANY (o.conkey)),
        'text', pg_get_constraintdef(o.oid)))
      FROM pg_constraint o WHERE o.conrelid = c.oid AND o.contype IN ('c', 'f') AND o.convalidated)
  )) FROM pg_class c
  WHERE c.relname IN ({", ".join(literal(table.name) for table in TABLES)}) AND pg_table_is_visible(c.oid)))
"""


@dataclass(frozen=True, slots=True)
class Fault:
    """One difference, and the SQL that removes it: empty where that would take a risk."""

    where: str
    found: str
    wanted: str
    repair: tuple[str, ...] = ()
    severity: str = "WARNING"

    def __str__(self) -> str:
        return f"{self.where} {self.found}; it should {self.wanted}"


def check(connection: Connection, timeout_s: float = 10.0) -> None:
    """Make sure that the tables are as declared: one query when they are.

    `timeout_s` bounds each statement, and half of it each wait for a lock: others wait behind a repair that
    waits. Raises SchemaError, one line, where a person must act; faults that pass as they are.
    """
    wait = max(1, round(timeout_s * 1000))
    bounds = f"SET LOCAL statement_timeout = {wait}; SET LOCAL lock_timeout = {(wait + 1) // 2};"
    if _faults(connection, bounds):
        try:
            _repair(connection, bounds)
        except (DatabaseError, SchemaError):
            connection.run("ROLLBACK")
            raise


def _repair(connection: Connection, bounds: str) -> None:
    connection.run(f"BEGIN ISOLATION LEVEL READ COMMITTED; {bounds} SELECT pg_advisory_xact_lock({LOCK})")
    mended: list[Fault] = []
    for _ in range(ROUNDS):
        faults = _faults(connection, bounds)
        if not faults:
            connection.run("COMMIT")
            for fault in mended:
                logs.write(fault.severity, f"schema changed, as {fault}")
            return
        for fault in faults:
            _mend(connection, fault)
        mended += faults
    raise SchemaError(f"{faults[0]}, which the repair did not achieve.")


def _mend(connection: Connection, fault: Fault) -> None:
    if not fault.repair:
        raise SchemaError(f"{fault}. No safe repair is known: please change it by hand.")
    for statement in fault.repair:
        try:
            connection.run(statement)
        except DatabaseError as refused:
            code, said = refused.args[0]["C"], refused.args[0]["M"]
            if code.startswith(PASSING):
                raise
            raise SchemaError(
                f"{fault}. PostgreSQL refused the repair ({said}): {' '.join(statement.split())}"
            ) from refused


def _faults(connection: Connection, bounds: str) -> list[Fault]:
    found = connection.run(bounds + SNAPSHOT)[0][0]
    if found["read_only"]:
        return [Fault("The database", "is read-only", "accept writes")]
    if found["schema"] is None:
        return [Fault("The search_path", "names no schema that exists", "name one")]
    tables = found["tables"] or {}
    return [
        fault for table in TABLES for fault in _table_faults(table, tables.get(table.name), found["schema"])
    ]


def _table_faults(table: Table, found: dict[str, Any] | None, schema: str) -> Iterator[Fault]:
    if found is None:
        name = f"{schema}.{table.name}"
        yield Fault(f"Table {name}", "is missing", "exist", _creation(name, table), "INFO")
        return
    name = f"{found['schema']}.{table.name}"  # regnamespace quotes where it must
    if found["kind"] not in ("r", "p"):
        yield Fault(name, f"is {KINDS.get(found['kind'], 'no table')}", "be a table")
        return
    if found["lacks"]:
        yield Fault(
            f"Table {name}",
            f"does not allow us {', '.join(found['lacks'])}",
            "allow it: GRANT it to our user",
        )
        return
    columns, indexes = found["columns"] or {}, found["indexes"] or []
    constraints = found["constraints"] or []
    alter = f"ALTER TABLE {name}"
    ours = {column.name for column in table.columns}

    for rule in constraints:
        if rule["type"] == "f" and ours & set(rule["columns"]):
            drop = f"{alter} DROP CONSTRAINT {identifier(rule['name'])}"
            where = f"Column {name}.{', '.join(rule['columns'])}"
            yield Fault(where, f"has the constraint {rule['text']}", "take values of its own", (drop,))

    if table.name == "achievements" and "achievement_name" not in columns:
        wanted = "be there: text NOT NULL"
        yield Fault(f"Column {name}.achievement_name", "is missing", wanted, ancestor.repair(name, columns))
        return
    for column in table.columns:
        if column.name not in columns:
            yield _missing_column(name, column, columns.keys())
        else:
            yield from _column_faults(name, column, columns[column.name])
    for other in columns.keys() - ours:
        known = columns[other]
        if known["not_null"] and known["default"] is None and not known["identity"] and not known["made"]:
            drop = f"{alter} ALTER COLUMN {identifier(other)} DROP NOT NULL"
            yield Fault(
                f"Column {name}.{other}",
                "is not ours, NOT NULL and without default",
                "not refuse our rows",
                (drop,),
            )
    if ours - columns.keys():
        return  # keys and indexes come when their columns are there

    if not any(index["unique"] and set(index["columns"]) == set(table.key) for index in indexes):
        kind = "UNIQUE" if any(index["primary"] for index in indexes) else "PRIMARY KEY"
        key = f"({', '.join(table.key)})"
        yield Fault(
            f"Table {name}", f"has no key {key}", f"be unique by {key}", (f"{alter} ADD {kind} {key}",)
        )
    for leading in table.indexes:
        if not any(tuple(index["columns"][: len(leading)]) == leading for index in indexes):
            list_ = f"({', '.join(leading)})"
            yield Fault(
                f"Table {name}", f"has no index {list_}", "have one", (f"CREATE INDEX ON {name} {list_}",)
            )
    for rule_name, text in table.checks:
        if not any(rule["name"] == rule_name for rule in constraints):
            add = (
                f"{alter} DROP CONSTRAINT IF EXISTS {rule_name}",  # one that is there but was never validated
                f"{alter} ADD CONSTRAINT {rule_name} CHECK ({text})",
            )
            yield Fault(f"Table {name}", f"lacks the check {rule_name}", f"hold to {text}", add)


def _creation(name: str, table: Table) -> tuple[str, ...]:
    parts = [_definition(column) for column in table.columns]
    parts.append(f"PRIMARY KEY ({', '.join(table.key)})")
    parts += [f"CONSTRAINT {rule} CHECK ({text})" for rule, text in table.checks]
    return (
        f"CREATE TABLE {name} ({', '.join(parts)})",
        *(f"CREATE INDEX ON {name} ({', '.join(columns)})" for columns in table.indexes),
    )


def _definition(column: Column) -> str:
    default = f" DEFAULT {column.default}" if column.default else ""
    return f"{column.name} {column.type}{default}{'' if column.null else ' NOT NULL'}"


def _missing_column(name: str, column: Column, present: AbstractSet[str]) -> Fault:
    """Added as declared, with what the rows had, where other columns still tell it."""
    add = f"ALTER TABLE {name} ADD COLUMN "
    wanted = f"be there: {_definition(column)}"
    if not (column.fill and present >= set(column.source)):
        return Fault(f"Column {name}.{column.name}", "is missing", wanted, (add + _definition(column),))
    value = f"coalesce({column.fill}, {column.default})" if column.default else column.fill
    repair = [f"{add}{column.name} {column.type}", f"UPDATE {name} SET {column.name} = {value}"]
    return Fault(f"Column {name}.{column.name}", "is missing", wanted, tuple(repair))


def _column_faults(name: str, column: Column, found: dict[str, Any]) -> Iterator[Fault]:
    where = f"Column {name}.{column.name}"
    alter = f"ALTER TABLE {name} ALTER COLUMN {column.name}"
    if found["made"] or found["identity"] == "a":
        yield Fault(where, "is generated", f"be {column.type} and take our values")
        return
    if found["type"] != column.type:
        bare = _bare(found["type"])
        how = "" if bare == column.type else WIDER.get(column.type, {}).get(bare)
        using = f"{column.name}{how or f'::{column.type}'}"
        widen = (f"{alter} DROP DEFAULT", f"{alter} TYPE {column.type} USING {using}")
        yield Fault(where, f"is {found['type']}", f"be {column.type}", widen if how is not None else ())
        return  # its default is judged when it has its type
    if column.default and found["default"] != column.default:
        is_ = f"has the default {found['default']}" if found["default"] else "has no default"
        yield Fault(where, is_, f"have {column.default}", (f"{alter} SET DEFAULT {column.default}",))
    if found["not_null"] and column.null:
        yield Fault(where, "is NOT NULL", "allow NULL", (f"{alter} DROP NOT NULL",))
    if not column.null and not found["not_null"]:
        yield Fault(where, "allows NULL", "be NOT NULL", (f"{alter} SET NOT NULL",))


def _bare(type_: str) -> str:
    """The type without its length: character varying(40)[] -> character varying[]."""
    head, _, tail = type_.partition("(")
    return head + tail.partition(")")[2]
