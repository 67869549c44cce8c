# ruff: noqa: S608  what is put into the SQL are names from the catalogue, quoted
"""The old web app's achievements table, which called the name of an achievement otherwise, if it had one."""

from typing import Any

from pg8000.native import identifier, literal

from dropcap.tables import INSTANT, UNNAMED, WIDER

# Where an older achievements table may keep its names and dates, best first.
OLD_NAMES = ("name", "title", "badge", "achievement", "achievement_type", "type", "code", "key", "slug")
OLD_INSTANTS = ("unlocked_at", "awarded_at", "achieved_at", "created_at", "date")


def repair(name: str, columns: dict[str, Any]) -> tuple[str, ...]:
    """The SQL that brings the table `name` to ours; `columns` as the catalogue tells them, by name.

    Equal names of one user are numbered, as ours is a key: every row is kept, the earliest keeps its name.
    """
    names = [f"nullif(btrim({identifier(old)}::text), '')" for old in OLD_NAMES if old in columns]
    called = f"coalesce({', '.join([*names, literal(UNNAMED)])})"
    instants = [
        identifier(old) + ({INSTANT: ""} | WIDER[INSTANT])[columns[old]["type"]]
        for old in OLD_INSTANTS
        if old in columns and columns[old]["type"] in (INSTANT, *WIDER[INSTANT])
    ]
    alter = f"ALTER TABLE {name}"
    sql = [f"{alter} ADD COLUMN achievement_name text"]
    if "user_id" in columns:
        sql += [
            f"{alter} ALTER COLUMN user_id DROP DEFAULT",
            f"{alter} ALTER COLUMN user_id TYPE text USING user_id::text",
            f"UPDATE {name} SET user_id = 'anonymous' WHERE user_id IS NULL",
        ]
    if "earned_at" not in columns:
        sql.append(f"{alter} ADD COLUMN earned_at {INSTANT}")
    elif columns["earned_at"]["type"] in WIDER[INSTANT]:
        using = f"earned_at{WIDER[INSTANT][columns['earned_at']['type']]}"
        sql.append(f"{alter} ALTER COLUMN earned_at DROP DEFAULT")
        sql.append(f"{alter} ALTER COLUMN earned_at TYPE {INSTANT} USING {using}")
    named = f"SELECT ctid AS line, user_id, earned_at, {called} AS called FROM {name}"
    place = "row_number() OVER (PARTITION BY user_id, called ORDER BY earned_at, line)"
    sql += [
        f"UPDATE {name} SET earned_at = coalesce({', '.join([*instants, 'now()'])}) WHERE earned_at IS NULL",
        f"UPDATE {name} AS ours SET achievement_name = concat(old.called, ' (' || nullif(place, 1) || ')') "
        f"FROM (SELECT line, called, {place} AS place FROM ({named}) AS named) AS old WHERE ours.ctid = line",
    ]
    return tuple(sql)
