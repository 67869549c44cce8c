"""The stored tables: every table, column, key, index and check, declared once. `repair.py` applies them.

While a revision is deployed, and after a rollback, two revisions share the database. So a change here takes
two steps, expand and contract, each in a revision of its own:

    expand      Add a table, an index, or a column that allows NULL or has a default. The previous revision
                does not name it when it inserts.
    contract    Remove what is no longer read or written, once the previous revision does without it too.
                `repair.py` drops nothing; a person may.

Never rename a column, narrow a type, or tighten a check or key in one step. What each of two consecutive
revisions writes must be right for the other: `tests/schema/test_revisions.py` runs the latest revision with
other tables and today's on one database.
"""

from dataclasses import dataclass

INSTANT = "timestamp with time zone"
TOTALS = "progress_totals"  # a user without a row is recounted
VOCABULARY = "vocabulary"  # a user without a row is reindexed
ANSWERS = "answers"
ACHIEVEMENTS = "achievements"
UNNAMED = "unnamed"  # the name of an achievement whose name was lost: kept, but not shown


@dataclass(frozen=True, slots=True)
class Column:
    """A column, with `type` and `default` as PostgreSQL prints them.

    `fill` computes the value of a lost column from the columns in `source`. Without a source it is a constant
    for all existing rows, which takes no time per row. `empties` is the table that is derived from the
    column, and invalid if the column is lost.
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
    """An index, with `where` as PostgreSQL prints it (empty: all rows) and `method` as in pg_am."""

    columns: tuple[str, ...]
    where: str = ""
    method: str = "btree"


@dataclass(frozen=True, slots=True)
class Table:
    """A table, with `key` as column names and `checks` as (name, rule), which must hold in all revisions.

    A `derived` table can be rebuilt from the others, which happens if it can't be repaired: it names the
    table that is emptied for that, possibly itself.
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
            Column(  # domain/upload.py, UploadState
                "state",
                "text",
                "'claimed'::text",
                fill="CASE WHEN finished_at IS NOT NULL THEN 'done' "
                "WHEN reason_code = 'held_no_verdict' THEN 'held' WHEN reason_code <> '' THEN 'rejected' END",
                source=("finished_at", "reason_code"),
            ),
            Column("attempts", "bigint", "1"),
            Column("holder", "text", null=True),  # the lease token of the worker: leases.py
            Column("lease_until", INSTANT, "now()"),
            Column("created_at", INSTANT, "now()"),
            Column("finished_at", INSTANT, null=True),
            Column("reason_code", "text", "''::text"),
            Column("reason", "text", "''::text"),
            Column("stage", "text", "''::text"),  # of the last heartbeat, with its time and resident MB
            Column("stage_at", INSTANT, "now()"),
            Column("rss_mb", "bigint", "0"),
            Column("deaths", "jsonb", "'[]'::jsonb"),  # the same of crashed workers
            Column("sweep_failures", "bigint", "0"),  # failed retries by reconcile.py
            Column("sweep_after", INSTANT, null=True),  # it is not retried before then
            Column("source_kept", "boolean", null=True),  # NULL: unknown
        ),
        key=("id",),
        # For reconcile.py, among millions of rows that are done. No update changes the indexed instant, so a
        # heartbeat updates the row in place (HOT), without new index entries.
        indexes=(
            Index(("created_at",), "(state <> 'done'::text)"),
            Index(("user_id", "created_at"), "(reason_code <> ''::text)"),
            Index(("finished_at",), "((reason_code <> ''::text) AND (NOT source_kept))"),  # prune.py
        ),
        checks=(("uploads_attempts", "attempts > 0"),),
    ),
    # Proof of what became of each upload, with RECEIPTS: receipts.py.
    Table(
        "receipts",
        (
            Column("id", "uuid"),
            Column("user_id", "text", "''::text"),
            Column("bucket", "text", "''::text"),
            Column("name", "text", "''::text"),
            Column("generation", "bigint", "0"),
            Column("bytes", "bigint", "0"),
            Column("sha256", "text", "''::text"),  # of the source; empty if it was never read
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
    # The outbox: pending events, and for some days delivered ones: outbox/dispatcher.py.
    Table(
        "events",
        (
            Column("upload_id", "uuid"),
            Column("type", "text"),
            Column("id", "uuid"),
            Column("user_id", "text", "''::text"),
            Column("at", INSTANT, "now()"),
            Column("data", "jsonb", "'{}'::jsonb"),
            Column("next_at", INSTANT, "now()"),  # infinity: dead-lettered
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
    # The first of three tables with counts of pictures: rollup.py.
    Table(
        TOTALS,
        (
            Column("user_id", "text"),
            Column("pictures", "bigint", "0"),
            Column("counted_to", INSTANT, "'-infinity'::timestamp with time zone"),
            Column("time_zone", "text", null=True),  # TIME_ZONE, if a picture without a zone was counted
        ),
        key=("user_id",),
        derived=TOTALS,
    ),
    Table(  # the words and tags of a user's pictures, to correct typing errors: search.py
        VOCABULARY,
        (
            Column("user_id", "text"),
            Column("tag", "boolean"),
            Column("word", "text"),  # '': the user's documents are indexed, by VERSION `pictures`
            Column("pictures", "bigint", "0"),
            Column("grams", "text[]", "'{}'::text[]"),  # its trigrams, each prefixed with a hash of the user
        ),
        key=("user_id", "tag", "word"),
        indexes=(Index(("grams",), method="gin"),),
        derived=VOCABULARY,
    ),
    # What a search scans; `analyses` would have five times as many pages.
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
            Column("time_zone", "text", null=True, fill="result->>'time_zone'"),  # NULL: TIME_ZONE
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
            # Whether it is counted in the tables of progress, if its user is in TOTALS. A revision that does
            # not count leaves it false; older rows belong to users who are not in TOTALS.
            Column("counted", "boolean", "false", fill="true", source=(), empties=TOTALS),
            Column("own_caption", "text", null=True),  # an edited text, shown instead of the model's
            Column("own_alt_text", "text", null=True),
            Column("edited_at", INSTANT, null=True),
            # Whether it has its document; a revision that does not index leaves it false.
            Column("searchable", "boolean", "false", empties=VOCABULARY),
            # From when the deferred description is retried, and how often it was tried: deferred/rows.py.
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
            Column("day", "date"),  # local
            Column("pictures", "bigint", "0"),
            Column("first_at", INSTANT),
            Column("nth", "bigint", "0"),  # position in its streak
            Column("reached_at", INSTANT),  # when the streak reached this day
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
            # If the column is lost, each row gets a name from its ctid, which is not shown.
            Column("achievement_name", "text", fill=f"concat('{UNNAMED} ', ctid)", source=("user_id",)),
            Column("earned_at", INSTANT, "now()"),
        ),
        key=("user_id", "achievement_name"),
    ),
    Table(  # one row per user: calls of `analyze` in the hour of the latest one: rate_limit.py
        "analyze_calls",
        (Column("user_id", "text"), Column("hour", INSTANT, "now()"), Column("calls", "bigint", "0")),
        key=("user_id",),
        indexes=(Index(("hour",)),),
    ),
    Table(  # one row per day of TIME_ZONE, with DAILY_CALLS or DAILY_MONEY: daily_usage.py
        "spending",
        (
            Column("day", "date"),
            Column("calls", "bigint", "0"),
            Column("input_tokens", "bigint", "0"),
            Column("output_tokens", "bigint", "0"),
            Column("micro_usd", "bigint", "0"),  # reservations count as spent
            Column("pictures", "bigint", "0"),
            Column("reused", "bigint", "0"),  # pictures described from the cache
            Column("gb_ms", "bigint", "0"),
            Column("batched", "bigint", "0"),  # of the calls: those in batches
        ),
        key=("day",),
    ),
    Table(  # batches of requests to Gemini that are not settled: deferred/batch_rows.py
        "batches",
        (
            Column("id", "uuid"),
            Column("name", "text", "''::text"),  # Google's; empty until it is known
            Column("model", "text", "''::text"),
            Column("prompt", "text", "''::text"),  # the hash of the prompt
            Column("requests", "bigint", "0"),
            Column("created_at", INSTANT, "now()"),
            Column("poll_after", INSTANT, "now()"),
            Column("day", "date", null=True),  # the day in `spending` that has the reservation
            Column("settled", "boolean", "false"),
        ),
        key=("id",),
        indexes=(Index(("poll_after",)),),
    ),
    Table(  # pictures in a batch: each is in one at most
        "batch_requests",
        (
            Column("upload_id", "uuid"),
            Column("batch_id", "uuid"),
            Column("lease_until", INSTANT),  # the picture's `describe_after`, while it is in the batch
            Column("language", "text", "''::text"),
            Column("sha256", "text", "''::text"),  # of the source; empty: its response is not cached
            Column("prompt", "text", "''::text"),  # of the response cache
        ),
        key=("upload_id",),
        indexes=(
            Index(("batch_id",)),
            Index(("lease_until",)),  # prune.py
            Index(("sha256",), "(sha256 <> ''::text)"),
        ),
    ),
    Table(  # Gemini's responses by the bytes of the source: response_cache.py
        ANSWERS,
        (
            Column("sha256", "text"),  # of the source
            Column("prompt", "text"),  # hash of prompt and language
            Column("model", "text"),
            Column("upload_id", "uuid"),  # the upload that asked
            Column("asker", "text", null=True),  # the lease token of the worker that asks
            Column("lease_until", INSTANT, "now()"),
            Column("answer", "jsonb", null=True),
            Column("asked_at", INSTANT, "now()"),
        ),
        key=("sha256", "prompt", "model"),
        indexes=(Index(("upload_id",)), Index(("asked_at",))),
        derived=ANSWERS,  # rebuilt by asking, and paying, again
    ),
)

# Types that can be widened to a type without losing a value, and how. The old web app stored times in UTC.
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
