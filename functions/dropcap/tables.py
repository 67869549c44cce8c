"""What is stored: every table, column, key, index and check, declared once. `schema.py` makes it so."""

from dataclasses import dataclass

INSTANT = "timestamp with time zone"
UNNAMED = "unnamed"  # the achievement of a row that has lost its name: kept, but not shown


@dataclass(frozen=True, slots=True)
class Column:
    """`type` and `default` as PostgreSQL prints them.

    `fill` tells the value of a lost column from other columns of the row, the ones in `source`.
    """

    name: str
    type: str
    default: str = ""
    null: bool = False
    fill: str = ""
    source: tuple[str, ...] = ("result",)


@dataclass(frozen=True, slots=True)
class Table:
    """`key` and `indexes` are column names, `checks` (name, rule): only such as will hold for ever."""

    name: str
    columns: tuple[Column, ...]
    key: tuple[str, ...]
    indexes: tuple[tuple[str, ...], ...] = ()
    checks: tuple[tuple[str, str], ...] = ()


# In the order in which a transaction of `database.py` locks them, so that a repair can't deadlock with one.
TABLES = (
    Table(
        "uploads",
        (
            Column("id", "uuid"),
            Column("bucket", "text"),
            Column("name", "text"),
            Column("generation", "bigint"),
            Column("user_id", "text"),
            Column("size", "bigint", "0"),
            Column("content_type", "text", "''::text"),
            Column(  # claimed, recorded, rejected, done
                "state",
                "text",
                "'claimed'::text",
                fill="CASE WHEN finished_at IS NOT NULL THEN 'done' "
                "WHEN reason_code <> '' THEN 'rejected' END",
                source=("finished_at", "reason_code"),
            ),
            Column("attempts", "bigint", "1"),
            Column("holder", "text", null=True),  # the token of who works on it
            Column("lease_until", INSTANT, "now()"),
            Column("created_at", INSTANT, "now()"),
            Column("finished_at", INSTANT, null=True),
            Column("reason_code", "text", "''::text"),
            Column("reason", "text", "''::text"),
            Column("stage", "text", "''::text"),  # the holder's, with its time and resident MB
            Column("stage_at", INSTANT, "now()"),
            Column("rss_mb", "bigint", "0"),
            Column("deaths", "jsonb", "'[]'::jsonb"),  # the same of holders whose lease ran out
        ),
        key=("id",),
        checks=(("uploads_attempts", "attempts > 0"),),
    ),
    Table(
        "analyses",
        (
            Column("id", "uuid", fill="(result->>'id')::uuid"),
            Column("user_id", "text", fill="result->>'user'"),
            Column("analyzed_at", INSTANT, fill=f"(result->>'analyzed_at')::{INSTANT}"),
            Column("time_zone", "text", null=True, fill="result->>'time_zone'"),  # NULL: the setting's
            Column("caption", "text", "''::text", fill="result->>'caption'"),
            Column("description", "text", "''::text", fill="result->>'description'"),
            Column("alt_text", "text", "''::text", fill="result->>'alt_text'"),
            Column(
                "tags",
                "text[]",
                "'{}'::text[]",
                fill="ARRAY(SELECT jsonb_array_elements_text(result->'tags'))",
            ),
            Column("picture_text", "text", "''::text", fill="result->>'text'"),
            Column("format", "text", "''::text", fill="result->'picture'->>'format'"),
            Column("bytes", "bigint", "0", fill="(result->'picture'->>'bytes')::bigint"),
            Column("width", "bigint", "0", fill="(result->'picture'->>'width')::bigint"),
            Column("height", "bigint", "0", fill="(result->'picture'->>'height')::bigint"),
            Column("result", "jsonb"),  # the whole Analysis
        ),
        key=("id",),
        indexes=(("user_id", "analyzed_at"),),
        checks=(("analyses_picture", "bytes >= 0 AND width >= 0 AND height >= 0"),),
    ),
    Table(
        "achievements",
        (
            Column("user_id", "text"),
            Column("achievement_name", "text"),
            Column("earned_at", INSTANT, "now()"),
        ),
        key=("user_id", "achievement_name"),
    ),
    Table(  # one row a user: the calls of `analyze` in the hour of the latest one
        "analyze_calls",
        (Column("user_id", "text"), Column("hour", INSTANT, "now()"), Column("calls", "bigint", "0")),
        key=("user_id",),
    ),
)

# What can become a type without losing a value, and how. The old web app's clocks without a zone were UTC.
WIDER: dict[str, dict[str, str]] = {
    "bigint": {"smallint": "", "integer": ""},
    "text": dict.fromkeys(
        ("character varying", "character", "smallint", "integer", "bigint", "uuid", "name"), ""
    ),
    "text[]": {"character varying[]": ""},
    "jsonb": {"json": ""},
    INSTANT: {
        "timestamp without time zone": "::timestamp AT TIME ZONE 'UTC'",
        "date": "::timestamp AT TIME ZONE 'UTC'",
    },
}
