# ruff: noqa: S608  the SQL is composed of the names in tables.py and, quoted, in the catalogue
"""Schema diff: find what differs from `tables.py` in a database, with the SQL that `repair.py` runs."""

import logging
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from typing import Any

from pg8000.native import Connection, identifier, literal

from dropcap import logs
from dropcap.database.schema import ownership
from dropcap.database.schema.catalogue import RESULTS, snapshot
from dropcap.database.schema.tables import ACHIEVEMENTS, TABLES, WIDER, Column, Index, Table

logger = logging.getLogger(__name__)

MISSING, NULLABLE = "is missing", "allows NULL"
WAITS = "lacks the old web app's rows"  # legacy.py copies them
TABLE_KINDS = ("r", "p")
KINDS = {
    "v": "a view",
    "m": "a materialized view",
    "f": "a foreign table",
    "i": "an index",
    "S": "a sequence",
}


@dataclass(frozen=True, slots=True)
class Difference:
    """A difference, and the SQL that repairs it; empty if no safe repair is known.

    `by_hand`: SQL for a person to run where Dropcap may not. `empties`: the derived table, if any, that must
    be rebuilt afterwards. `slow`: the duration grows with the number of rows, and blocks writes meanwhile.
    """

    where: str
    found: str
    wanted: str
    repair: tuple[str, ...] = ()
    level: int = logging.WARNING
    empties: str = ""
    slow: bool = False
    by_hand: str = ""

    def __str__(self) -> str:
        return f"{self.where} {self.found}; it should {self.wanted}"


def find(connection: Connection, schema: str, limits: str) -> list[Difference]:
    """Return all differences in `schema`, found by one query; `limits` is SQL that precedes it.

    A difference of the schema itself is returned alone.
    """
    found = connection.run(limits + snapshot(schema))[0][0]
    if found["encoding"] != "UTF8":  # LATIN1 can't store every caption, SQL_ASCII does not check its bytes
        remedy = "have UTF8: make another with CREATE DATABASE ... ENCODING 'UTF8' TEMPLATE template0"
        return [Difference("The database", f"has the encoding {found['encoding']}", remedy)]
    if found["read_only"]:
        return [Difference("The database", "is read-only", "accept writes")]
    name, role, tables = found["schema"], found["role"], found["tables"] or {}
    where = f"Schema {name}"
    if not found["exists"]:
        made = f"CREATE SCHEMA {name} AUTHORIZATION {role}"
        return [Difference(where, MISSING, "exist", (made, ownership.mark(name)), logging.INFO, by_hand=made)]
    if not found["ours"]:
        others, by_hand = ownership.others(connection, schema, name)
        if others:
            return [Difference(where, f"holds {others}", "be Dropcap's alone", by_hand=by_hand)]
        give = f"ALTER SCHEMA {name} OWNER TO {role}"
        state, marked = "is not marked as Dropcap's", (ownership.mark(name),)
        return [Difference(where, state, "be marked", marked, logging.INFO, by_hand=give)]
    if not found["usable"]:
        grant = f"GRANT USAGE, CREATE ON SCHEMA {name} TO {role}"
        return [Difference(where, "does not allow us USAGE", "allow it", by_hand=grant)]
    if found["beside"] and RESULTS in tables:
        _log_duplicates(ownership.tables(connection, found["beside"]), name)
    return [
        replace(difference, repair=(*_emptied(name, difference.empties, tables), *difference.repair))
        for table in TABLES
        for difference in _table_differences(table, tables.get(table.name), name, role)
    ]


def _log_duplicates(beside: list[ownership.Found], schema: str) -> None:
    """Log that an older revision may have gone on elsewhere, after the tables were moved."""
    for table in beside:
        if table.proof and table.name == RESULTS:
            logs.once(
                logger,
                logging.WARNING,
                f"Table {table} is Dropcap's and so is {schema}.{table.name}, which alone is used: results "
                "of an older revision, or of another installation.",
                "duplicate_tables_found",
            )


def _emptied(schema: str, name: str, tables: dict[str, Any]) -> tuple[str, ...]:
    found = tables.get(name)
    return (f"TRUNCATE {schema}.{name}",) if found and found["kind"] in TABLE_KINDS else ()


def _table_differences(
    table: Table, found: dict[str, Any] | None, schema: str, role: str
) -> Iterator[Difference]:
    name = f"{schema}.{table.name}"
    if found is None:
        made, grant = _creation(name, table), f"GRANT CREATE ON SCHEMA {schema} TO {role}"
        yield Difference(
            f"Table {name}", MISSING, "exist", made, logging.INFO, empties=table.derived, by_hand=grant
        )
        return
    if found["kind"] not in TABLE_KINDS:
        yield Difference(name, f"is {KINDS.get(found['kind'], 'no table')}", "be a table")
        return
    if found["lacks"]:
        needed = ", ".join(found["lacks"])
        grant = f"GRANT {needed} ON {name} TO {role}"
        yield Difference(f"Table {name}", f"does not allow us {needed}", "allow it", by_hand=grant)
        return
    if found["awaits"]:
        yield Difference(f"Table {name}", WAITS, "have them", level=logging.INFO)
    columns, indexes = found["columns"] or {}, found["indexes"] or []
    constraints = found["constraints"] or []
    alter = f"ALTER TABLE {name}"
    ours = {column.name for column in table.columns}

    for rule in constraints:
        foreign = rule["type"] == "f" and ours & set(rule["columns"])
        # The query returns only deferrable keys, which ON CONFLICT can't use.
        late = rule["type"] in ("p", "u") and set(rule["columns"]) == set(table.key)
        if foreign or late:
            drop = f"{alter} DROP CONSTRAINT {identifier(rule['name'])}"
            where = f"Column {name}.{', '.join(rule['columns'])}"
            wanted = "take values of its own" if foreign else "be unique at once"
            yield Difference(where, f"has the constraint {rule['text']}", wanted, by_hand=drop)

    for column in table.columns:
        if column.name not in columns:
            differences = iter((_missing_column(name, column, columns.keys()),))
        else:
            differences = _column_differences(name, column, columns[column.name])
        for difference in differences:
            yield _rebuilt(name, table, column, difference) if table.derived else difference
    for other in columns.keys() - ours:
        known = columns[other]
        if known["not_null"] and known["default"] is None and not known["identity"] and not known["made"]:
            drop = f"{alter} ALTER COLUMN {identifier(other)} DROP NOT NULL"
            yield Difference(
                f"Column {name}.{other}",
                "is not ours, NOT NULL and without default",
                "not refuse our rows",
                by_hand=drop,
            )
    if ours - columns.keys():
        return  # keys and indexes are added once their columns exist

    whole = [index for index in indexes if not index["where"]]
    if not any(index["unique"] and set(index["columns"]) == set(table.key) for index in whole):
        kind = "UNIQUE" if any(index["primary"] for index in whole) else "PRIMARY KEY"
        key = f"({', '.join(table.key)})"
        add = (*((f"TRUNCATE {name}",) if table.derived else ()), f"{alter} ADD {kind} {key}")
        yield Difference(
            f"Table {name}", f"has no key {key}", f"be unique by {key}", add, empties=table.derived
        )
    for index in table.indexes:
        if not any(_covers(found, index) for found in indexes):
            create = f"CREATE INDEX {_on(name, index)}"
            lacks = f"has no index {create.partition(name)[2].strip()}"
            yield Difference(f"Table {name}", lacks, "have one", (create,), slow=True)
    for rule_name, text in table.checks:
        if not any(rule["name"] == rule_name and ours.issuperset(rule["columns"]) for rule in constraints):
            add = (
                f"{alter} DROP CONSTRAINT IF EXISTS {rule_name}",  # one that is there but was never validated
                f"{alter} ADD CONSTRAINT {rule_name} CHECK ({text})",
            )
            yield Difference(f"Table {name}", f"lacks the check {rule_name}", f"hold to {text}", add)


def _creation(name: str, table: Table) -> tuple[str, ...]:
    parts = [_definition(column) for column in table.columns]
    parts.append(f"PRIMARY KEY ({', '.join(table.key)})")
    parts += [f"CONSTRAINT {rule} CHECK ({text})" for rule, text in table.checks]
    waits = table.name == ACHIEVEMENTS
    return (
        f"CREATE TABLE {name} ({', '.join(parts)})",
        *(f"CREATE INDEX {_on(name, index)}" for index in table.indexes),
        *((f"COMMENT ON TABLE {name} IS {literal(ownership.AWAITS)}",) if waits else ()),
    )


def _on(name: str, index: Index) -> str:
    method = "" if index.method == "btree" else f"USING {index.method} "
    where = f" WHERE {index.where}" if index.where else ""
    return f"ON {name} {method}({', '.join(index.columns)}){where}"


def _covers(found: dict[str, Any], wanted: Index) -> bool:
    """Return whether an index serves as the wanted one; further columns at its end do no harm."""
    leading = found["columns"][: len(wanted.columns)]
    return Index(tuple(leading), found["where"], found["method"]) == wanted


def _definition(column: Column) -> str:
    default = f" DEFAULT {column.default}" if column.default else ""
    return f"{column.name} {column.type}{default}{'' if column.null else ' NOT NULL'}"


def _missing_column(name: str, column: Column, present: AbstractSet[str]) -> Difference:
    """Return the difference of a missing column; its values are restored from other columns if possible."""
    add = f"ALTER TABLE {name} ADD COLUMN "
    wanted = f"be there: {_definition(column)}"
    restorable = column.fill and present >= set(column.source)
    if not restorable or not column.source:  # a default is stored in the catalogue, not in each existing row
        default = column.fill if restorable else column.default
        there = add + _definition(replace(column, default=default))
        return Difference(f"Column {name}.{column.name}", MISSING, wanted, (there,), empties=column.empties)
    value = f"coalesce({column.fill}, {column.default})" if column.default else column.fill
    repair = (f"{add}{column.name} {column.type}", f"UPDATE {name} SET {column.name} = {value}")
    return Difference(f"Column {name}.{column.name}", MISSING, wanted, repair)


def _rebuilt(name: str, table: Table, column: Column, difference: Difference) -> Difference:
    """Return the difference of a derived table's column, repaired by rebuilding the table if need be."""
    if difference.repair and difference.found not in (MISSING, NULLABLE):
        return difference
    alter = f"ALTER TABLE {name}"
    drop, add = f"DROP COLUMN IF EXISTS {column.name}", f"ADD COLUMN {_definition(column)}"
    return replace(difference, repair=(f"TRUNCATE {name}", f"{alter} {drop}, {add}"), empties=table.derived)


def _column_differences(name: str, column: Column, found: dict[str, Any]) -> Iterator[Difference]:
    where = f"Column {name}.{column.name}"
    alter = f"ALTER TABLE {name} ALTER COLUMN {column.name}"
    if found["made"] or found["identity"] == "a":
        yield Difference(where, "is generated", f"be {column.type} and take our values")
        return
    if found["type"] != column.type:
        bare = _bare(found["type"])
        how = "" if bare == column.type else WIDER.get(column.type, {}).get(bare)
        using = f"{column.name}{how or f'::{column.type}'}"
        widen = (f"{alter} DROP DEFAULT", f"{alter} TYPE {column.type} USING {using}")
        yield Difference(where, f"is {found['type']}", f"be {column.type}", widen if how is not None else ())
        return  # its default is checked once it has its type
    if column.default and found["default"] != column.default:
        is_ = f"has the default {found['default']}" if found["default"] else "has no default"
        yield Difference(where, is_, f"have {column.default}", (f"{alter} SET DEFAULT {column.default}",))
    if found["not_null"] and column.null:
        yield Difference(where, "is NOT NULL", "allow NULL", (f"{alter} DROP NOT NULL",))
    if not column.null and not found["not_null"]:
        yield Difference(where, NULLABLE, "be NOT NULL", (f"{alter} SET NOT NULL",))


def _bare(type_: str) -> str:
    """Return the type without its length: character varying(40)[] -> character varying[]."""
    head, _, tail = type_.partition("(")
    return head + tail.partition(")")[2]
