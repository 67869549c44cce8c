# ruff: noqa: S608  the SQL is composed of the names of our tables and columns; values are parameters
"""Rows that are written in the statement that commits an outcome: its receipt and its outbox event."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dropcap.database.transactions import Executor


@dataclass(frozen=True, slots=True)
class OutcomeRow:
    """A row to insert: `values` by column, with the table's `key` columns.

    An existing row stays unless `replace` is set; then the columns in `reset` get their defaults.
    """

    table: str
    key: str
    values: Mapping[str, Any]
    replace: bool = False
    reset: Sequence[str] = ()

    @property
    def sql(self) -> str:
        """Return the part of a WITH clause that follows `updated`; parameters are named table_column."""
        names, values = ", ".join(self.values), ", ".join(f":{name}" for name in self.parameters)
        changes = ", ".join(f"{name} = excluded.{name}" for name in (*self.values, *self.reset))
        action = f"UPDATE SET {changes}" if self.replace else "NOTHING"
        return (
            f", its_{self.table} AS (INSERT INTO {self.table} ({names}) SELECT {values} FROM updated "
            f"ON CONFLICT ({self.key}) DO {action})"
        )

    @property
    def parameters(self) -> dict[str, Any]:
        return {f"{self.table}_{name}": value for name, value in self.values.items()}


def update_with_rows(execute: Executor, update: str, rows: Sequence[OutcomeRow], **values: Any) -> bool:
    """Execute `update`, which returns an id, and insert `rows` in the same statement if it changed a row.

    Returns whether it did. Costs no extra round trip.
    """
    values |= {name: value for row in rows for name, value in row.parameters.items()}
    inserts = "".join(row.sql for row in rows)
    return bool(execute(f"WITH updated AS ({update}){inserts} SELECT id FROM updated", **values))
