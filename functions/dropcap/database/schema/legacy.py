# ruff: noqa: S608  the SQL is composed of quoted names from the catalogue
"""Legacy migration: copy the old web app's achievements into ours, once. Its table is only read."""

import logging
from collections.abc import Iterable, Mapping

from pg8000.native import Connection, DatabaseError, identifier, literal

from dropcap.database.schema.tables import ACHIEVEMENTS, INSTANT, UNNAMED, WIDER

logger = logging.getLogger(__name__)

# Columns that may hold names and dates, best first; the first of each is the name that Dropcap uses.
NAMES = (
    "achievement_name",
    *("name", "title", "badge", "achievement", "achievement_type", "type", "code", "key", "slug"),
)
INSTANTS = ("earned_at", "unlocked_at", "awarded_at", "achieved_at", "created_at", "date")

SOURCES = """
SELECT quote_ident(n.nspname) || '.' || c.relname, json_object_agg(a.attname, format_type(a.atttypid, NULL))
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_attribute a ON a.attrelid = c.oid
WHERE n.nspname IN ({schemas}) AND c.relname = {name} AND c.relkind IN ('r', 'p') AND a.attnum > 0
  AND NOT a.attisdropped
GROUP BY n.nspname, c.oid, c.relname ORDER BY n.nspname = 'public'
"""


def copy(connection: Connection, ours: str, schemas: Iterable[str]) -> str:
    """Copy the old web app's achievements from the first of `schemas` that has them into `ours`.

    Returns a description of what was copied, or an empty string. If the table can't be read now, `ours` stays
    marked as waiting, and the next cold start tries again. Takes no lock above ACCESS SHARE.
    """
    among = SOURCES.format(schemas=", ".join(map(literal, schemas)), name=literal(ACHIEVEMENTS))
    sources = [
        (source, columns)
        for source, columns in connection.run(among) or ()
        if "user_id" in columns and columns.keys() & set(NAMES)  # otherwise it belongs to another app
    ]
    copied = ""
    # Without row_security = off, a policy could hide rows unnoticed.
    connection.run("SAVEPOINT copied; SET LOCAL row_security = off")
    try:
        for source, columns in sources[:1]:
            connection.run(_copy(ours, source, columns))
            copied = f"{connection.row_count} rows of {source}"
        connection.run(f"COMMENT ON TABLE {ours} IS NULL")
    except DatabaseError as refused:
        connection.run("ROLLBACK TO SAVEPOINT copied")
        source = sources[0][0] if sources else ours
        logger.warning(
            f"The achievements in {source} can't be copied into {ours} now ({refused.args[0]['M']}), so the "
            f"next cold start tries again: GRANT SELECT ON {source} to our user, or, to do without them, "
            f"COMMENT ON TABLE {ours} IS NULL.",
            extra={"event": "legacy_copy_refused"},
        )
        return ""
    return copied


def _copy(ours: str, source: str, columns: Mapping[str, str]) -> str:
    """Return the SQL; `columns` maps each name to its type in the catalogue.

    Equal names of one user are numbered, because in our table they are part of the key. Every row is copied,
    and the earliest keeps its name.
    """
    names = [f"nullif(btrim({identifier(name)}::text), '')" for name in NAMES if name in columns]
    instants = [
        identifier(name) + ({INSTANT: ""} | WIDER[INSTANT])[columns[name]]
        for name in INSTANTS
        if columns.get(name) in (INSTANT, *WIDER[INSTANT])
    ]
    return f"""
WITH old AS (
  SELECT coalesce(user_id::text, 'anonymous') AS user_id, ctid AS line,
    coalesce({", ".join([*names, literal(UNNAMED)])}) AS called,
    coalesce({", ".join([*instants, "now()"])}) AS earned_at
  FROM {source}
), numbers AS (  -- numbers that names already have, as in "Collector (2)"
  SELECT user_id, substring(called FROM '^(.*) \\(\\d{{1,9}}\\)$') AS called,
    max(substring(called FROM ' \\((\\d{{1,9}})\\)$')::bigint) AS most
  FROM old GROUP BY 1, 2
), placed AS (
  SELECT *, row_number() OVER (PARTITION BY user_id, called ORDER BY earned_at, line) AS place FROM old
)
INSERT INTO {ours} AS ours (user_id, achievement_name, earned_at)
SELECT user_id, called || CASE WHEN place > 1
    THEN concat(' (', greatest(coalesce(most, 1), 1) + place - 1, ')') ELSE '' END, earned_at
FROM placed LEFT JOIN numbers USING (user_id, called)
ON CONFLICT (user_id, achievement_name) DO UPDATE SET earned_at = least(ours.earned_at, EXCLUDED.earned_at)
"""
