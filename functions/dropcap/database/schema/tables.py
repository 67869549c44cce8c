"""What is stored: every table, column, key, index and check, declared once. `repair.py` makes it so.

Two revisions share the database while one is deployed, and after a rollback the older one has it alone, so a
change here is made in two steps, each a revision of its own: **expand, then contract**.

    expand      what is new is a table, an index, or a column that may be NULL or has a default: the revision
                before does not name it when it inserts
    contract    what is no longer read or written goes out of this file when the revision before does without
                it too; `repair.py` drops nothing, a person may

Never in one step: another name for a column, a narrower type, a stricter check or key. What the older
revision writes must be right for the newer, and the other way round: `tests/schema/test_revisions.py` has the
latest revision with other tables and today's at work on one database.
"""

from dataclasses import dataclass

INSTANT = "timestamp with time zone"
TOTALS = "progress_totals"  # a user who has no row there is counted anew
VOCABULARY = "vocabulary"  # a user who has no row there is indexed anew
ANSWERS = "answers"
ACHIEVEMENTS = "achievements"
UNNAMED = "unnamed"  # the achievement of a row that has lost its name: kept, but not shown


@dataclass(frozen=True, slots=True)
class Column:
    """`type` and `default` as PostgreSQL prints them.

    `fill` tells the value of a lost column from other columns of the row, the ones in `source`: where there
    are none it is the same for all rows that there are, which costs nothing however many they are. `empties`
    is the table that was derived from the column, and does not hold when it is lost.
    """

    name: str
    type: str
    default: str = ""
    null: bool = False
    fill: str = ""
    source: tuple[str, ...] = ("result",)
    empties: str = ""


@dataclass(frozen=True, slots=True)
class Index:
    """`where` as PostgreSQL prints it; empty: of all rows. `method` as in pg_am."""

    columns: tuple[str, ...]
    where: str = ""
    method: str = "btree"


@dataclass(frozen=True, slots=True)
class Table:
    """`key` is column names, `checks` (name, rule): only such as will hold for ever.

    A table that is `derived` can be made anew from the others, and is where it can't be repaired: it names
    the table that is emptied so that this happens, which may be itself.
    """

    name: str
    columns: tuple[Column, ...]
    key: tuple[str, ...]
    indexes: tuple[Index, ...] = ()
    checks: tuple[tuple[str, str], ...] = ()
    derived: str = ""


# In the order in which `Analyses.record` locks them, so that a repair can't deadlock with it.
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
            Column(  # claimed, held, recorded, rejected, done; deleted by its user, but not all of it yet
                "state",
                "text",
                "'claimed'::text",
                fill="CASE WHEN finished_at IS NOT NULL THEN 'done' "
                "WHEN reason_code = 'held_no_verdict' THEN 'held' WHEN reason_code <> '' THEN 'rejected' END",
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
            Column("sweep_failures", "bigint", "0"),  # failures of the sweep: reconcile.py
            Column("sweep_after", INSTANT, null=True),  # the sweep does not retry it before then
            Column("source_kept", "boolean", null=True),  # NULL: unknown
        ),
        key=("id",),
        # What a sweep looks for among millions that are done. By an instant that no update changes, so that
        # a lease is renewed in place (HOT), without an entry in any index.
        indexes=(
            Index(("created_at",), "(state <> 'done'::text)"),
            Index(("user_id", "created_at"), "(reason_code <> ''::text)"),
            Index(("finished_at",), "((reason_code <> ''::text) AND (NOT source_kept))"),  # prune.py
        ),
        checks=(("uploads_attempts", "attempts > 0"),),
    ),
    # What became of each upload, where it is to be proved: receipts.py.
    Table(
        "receipts",
        (
            Column("id", "uuid"),
            Column("user_id", "text", "''::text"),
            Column("bucket", "text", "''::text"),
            Column("name", "text", "''::text"),
            Column("generation", "bigint", "0"),
            Column("bytes", "bigint", "0"),
            Column("sha256", "text", "''::text"),  # of the source; empty: it was never read
            Column("outcome", "text", "''::text"),  # analyzed, or the code of a rejection
            Column("outputs", "jsonb", "'[]'::jsonb"),
            Column("code", "jsonb", "'{}'::jsonb"),
            Column("models", "jsonb", "'{}'::jsonb"),
            Column("recorded_at", INSTANT, "now()"),
            Column("source_fate", "text", "''::text"),
            Column("source_gone_at", INSTANT, null=True),
        ),
        key=("id",),
        indexes=(Index(("user_id", "recorded_at", "id")),),
    ),
    # What is to be told of outcomes, and for some days what was: dispatcher.py.
    Table(
        "events",
        (
            Column("upload_id", "uuid"),
            Column("type", "text"),
            Column("id", "uuid"),
            Column("user_id", "text", "''::text"),
            Column("at", INSTANT, "now()"),
            Column("data", "jsonb", "'{}'::jsonb"),
            Column("next_at", INSTANT, "now()"),  # infinity: given up
            Column("attempts", "bigint", "0"),
            Column("sent_at", INSTANT, null=True),
        ),
        key=("upload_id", "type"),
        indexes=(
            Index(("next_at",), "(sent_at IS NULL)"),
            Index(("at",), "(sent_at IS NULL)"),
            Index(("sent_at",), "(sent_at IS NOT NULL)"),
        ),
    ),
    # The first of three that progress is read from; `rollup.py` says how a row of `analyses` gets into them.
    Table(
        TOTALS,
        (
            Column("user_id", "text"),
            Column("pictures", "bigint", "0"),
            Column("counted_to", INSTANT, "'-infinity'::timestamp with time zone"),
            Column("time_zone", "text", null=True),  # the setting's, if any picture was counted by it
        ),
        key=("user_id",),
        derived=TOTALS,
    ),
    Table(  # the words and tags of a user's pictures, for whoever mistypes one; `search.py` keeps it
        VOCABULARY,
        (
            Column("user_id", "text"),
            Column("tag", "boolean"),
            Column("word", "text"),  # '': the user's documents are counted in here
            Column("pictures", "bigint", "0"),
            Column("grams", "text[]", "'{}'::text[]"),  # its trigrams, each begun with a hash of the user
        ),
        key=("user_id", "tag", "word"),
        indexes=(Index(("grams",), method="gin"),),
        derived=VOCABULARY,
    ),
    # What a search looks through, apart from `analyses`, which has five times as many pages.
    Table(
        "documents",
        (
            Column("id", "uuid"),
            Column("user_id", "text"),
            Column("analyzed_at", INSTANT),
            Column("document", "tsvector"),
        ),
        key=("id",),
        indexes=(Index(("user_id", "analyzed_at")), Index(("document",), method="gin")),
        derived=VOCABULARY,
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
            # Whether it is in the tables of progress, where its user is in TOTALS. A revision that does not
            # count leaves it false; rows from before there was the column have users who are not in TOTALS.
            Column("counted", "boolean", "false", fill="true", source=(), empties=TOTALS),
            Column("own_caption", "text", null=True),  # a person's, shown instead of the model's beside it
            Column("own_alt_text", "text", null=True),
            Column("edited_at", INSTANT, null=True),
            # Whether it has its document; a revision that makes none leaves it false.
            Column("searchable", "boolean", "false", empties=VOCABULARY),
            # From when on the sweep asks Gemini for it, and how often that has failed; see deferred/rows.py.
            Column("describe_after", INSTANT, null=True),
            Column("describe_tries", "bigint", "0"),
        ),
        key=("id",),
        indexes=(
            Index(("user_id", "analyzed_at")),
            Index(("user_id",), "(NOT counted)"),
            Index(("user_id", "analyzed_at", "id"), "(NOT searchable)"),
            Index(("describe_after",), "(describe_after IS NOT NULL)"),
        ),
        checks=(("analyses_picture", "bytes >= 0 AND width >= 0 AND height >= 0"),),
    ),
    Table(
        "progress_days",
        (
            Column("user_id", "text"),
            Column("day", "date"),  # where the user was
            Column("pictures", "bigint", "0"),
            Column("first_at", INSTANT),
            Column("nth", "bigint", "0"),  # of its run of days without a gap
            Column("reached_at", INSTANT),  # when all days of the run so far had been seen
        ),
        key=("user_id", "day"),
        indexes=(Index(("user_id", "nth", "reached_at")),),
        derived=TOTALS,
    ),
    Table(
        "progress_hours",
        (Column("user_id", "text"), Column("hour", "bigint"), Column("first_at", INSTANT)),
        key=("user_id", "hour"),
        derived=TOTALS,
    ),
    Table(
        ACHIEVEMENTS,
        (
            Column("user_id", "text"),
            # If the column is lost, each row gets a name that is not shown, made of its ctid.
            Column("achievement_name", "text", fill=f"concat('{UNNAMED} ', ctid)", source=("user_id",)),
            Column("earned_at", INSTANT, "now()"),
        ),
        key=("user_id", "achievement_name"),
    ),
    Table(  # one row a user: the calls of `analyze` in the hour of the latest one
        "analyze_calls",
        (Column("user_id", "text"), Column("hour", INSTANT, "now()"), Column("calls", "bigint", "0")),
        key=("user_id",),
        indexes=(Index(("hour",)),),
    ),
    Table(  # a row a day of TIME_ZONE, where there is a cap; `daily_usage.py` keeps it
        "spending",
        (
            Column("day", "date"),
            Column("calls", "bigint", "0"),
            Column("input_tokens", "bigint", "0"),
            Column("output_tokens", "bigint", "0"),
            Column("micro_usd", "bigint", "0"),  # what is reserved counts as spent
            Column("pictures", "bigint", "0"),
            Column("reused", "bigint", "0"),  # of them: described without a call
            Column("gb_ms", "bigint", "0"),
        ),
        key=("day",),
    ),
    Table(  # what Gemini said of which bytes, where there is a cap; `response_cache.py` keeps it
        ANSWERS,
        (
            Column("sha256", "text"),  # of the source
            Column("prompt", "text"),  # the hash of what is asked
            Column("model", "text"),
            Column("upload_id", "uuid"),  # who asked
            Column("asker", "text", null=True),  # the token of who asks
            Column("lease_until", INSTANT, "now()"),
            Column("answer", "jsonb", null=True),
            Column("asked_at", INSTANT, "now()"),
        ),
        key=("sha256", "prompt", "model"),
        indexes=(Index(("upload_id",)), Index(("asked_at",))),
        derived=ANSWERS,  # at the price of asking again
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
