"""Session variables set on a database or login change neither answers nor stored data."""

import datetime as dt
import json
import re
import uuid
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from pg8000.native import Connection, identifier, literal

from dropcap import reconcile
from dropcap.database import search
from dropcap.database.analyses import Analyses
from dropcap.database.connection import connect
from dropcap.database.leases import Leases
from dropcap.database.outcome_rows import OutcomeRow
from dropcap.database.response_cache import CacheEntry
from dropcap.database.transactions import Database
from dropcap.domain.gemini_response import GeminiResponse, Tokens
from dropcap.errors import SchemaError
from dropcap.gallery import progress_page, wall
from dropcap.handlers import redescribe
from dropcap.settings import Settings
from infra.local.postgres import Postgres
from tests.conftest import _new_database
from tests.support.app import App, Start
from tests.support.database.uploads import analysis, expire, race, upload

START = dt.datetime(2026, 3, 5, 23, 30, 12, 345678, tzinfo=dt.UTC)
PAGES = (
    *("/gallery/", "/gallery/progress", "/gallery/?from=2026-03-06&to=2026-03-07", "/gallery/?q=ärger"),
    *("/gallery/?q=krown", "/gallery/?q=東京", "/gallery/?tag=NULL", "/gallery/?state=rejected"),
    *("/gallery/export/csv", "/gallery/export/jsonl", "/gallery/export/receipts"),
)
# Not set: variables that cost minutes in planner or logger. Another test is for read-only sessions.
LEFT = ("transaction_", "default_transaction_read_only", "geqo", "jit", "debug_", "trace_", "session_preload")
WORST = {  # other than the value farthest from the default
    "DateStyle": "German",
    "TimeZone": "Asia/Kathmandu",
    "client_encoding": "LATIN1",
    "default_text_search_config": "pg_catalog.german",
    "IntervalStyle": "sql_standard",
    "timezone_abbreviations": "India",
    "default_transaction_isolation": "serializable",
    "extra_float_digits": "-15",
    "gin_fuzzy_search_limit": "1",
    "lock_timeout": "1",
    "statement_timeout": "1000",  # it applies to the statement that begins a transaction
    "idle_in_transaction_session_timeout": "1",
    "lc_messages": "C",
}


def worst(connection: Connection) -> dict[str, str]:
    """Each variable that a login may set, with a value that is far from its default."""
    found = connection.run(
        "SELECT name, vartype, setting, min_val, max_val, to_json(enumvals) FROM pg_settings "
        "WHERE context = 'user'"
    )
    values = {}
    for name, kind, usual, low, high, words in found or ():
        if name in WORST:
            values[name] = WORST[name]
        elif name.startswith(LEFT):
            continue
        elif kind == "bool":
            values[name] = "off" if usual == "on" else "on"
        elif kind == "enum":
            values[name] = next((word for word in reversed(words) if word != usual), usual)
        elif kind in ("integer", "real"):
            values[name] = low if usual != low else high
    return values


@pytest.fixture
def hostile_url(postgres: Postgres, administrator: Connection, template: str) -> Iterator[str]:
    """A database with the schema, whose sessions all begin with the worst values."""
    with _new_database(postgres, administrator, template) as url:
        name = identifier(url.rpartition("/")[2])
        values = worst(administrator)
        assert len(values) > 80
        for variable, value in values.items():
            administrator.run(f"ALTER DATABASE {name} SET {variable} = {literal(value)}")
        yield url


def fill(database: Database) -> None:
    """Record pictures of many kinds, an upload that crashed, and one that was rejected."""
    zones = (None, "UTC", "Asia/Tokyo", "America/New_York", "CET", "no/zone")
    words = ("Ärger am Fluß", "a \\crown\\ 'of' $1", "東京の空", "crown", "naïve café", "\N{CROWN}")
    for number, (zone, caption) in enumerate(zip(zones, words, strict=True)):
        each = upload(f"ana/{number} ü.png", metadata={})
        token = Leases(database).acquire(each).token
        receipt = {"id": each.id, "user_id": "ana", "name": caption, "recorded_at": START}
        receipt["outputs"] = json.dumps([caption])
        found = analysis(
            each,
            analyzed_at=START + dt.timedelta(hours=11 * number),
            time_zone=zone,
            caption=caption,
            alt_text=caption,
            tags=("NULL", "null", '"', "\\", "{a,b}", caption),
            memory={"open": 100 + 1 / 3, "resize": 1e-5},
            timings={"open": 0.1 + 0.2},
        )
        assert Analyses(database).record(found, each, token, [OutcomeRow("receipts", "id", receipt)])
        Leases(database).finish(each, "deleted")
    crashed = upload("ana/crashed.png")
    token = Leases(database).acquire(crashed).token
    database.query(
        "UPDATE uploads SET stage_at = :at WHERE holder = :token RETURNING 1", at=START, token=token
    )
    expire(database, crashed)
    rejected = upload("ana/ü \\' rejected.png")
    Leases(database).reject(
        rejected, Leases(database).acquire(rejected).token, "not_a_picture", "Ärger \\ 'x'"
    )
    Leases(database).finish(rejected)
    database.query("UPDATE uploads SET created_at = :at WHERE reason_code <> '' RETURNING 1", at=START)
    database.query("UPDATE receipts SET source_gone_at = :at RETURNING 1", at=START)


def observe(app: App) -> dict[str, Any]:
    """Return all answers and stored data by their source."""
    database = app.services.database
    fill(database)
    found: dict[str, Any] = {"crashes": Leases(database).acquire(upload("ana/crashed.png")).crashes}
    database.query("UPDATE uploads SET stage_at = :at WHERE state = 'claimed' RETURNING 1", at=START)
    for path in PAGES:
        answer = app.gallery.get(f"{path}{'&' if '?' in path else '?'}user=ana")
        assert answer.status_code == 200, answer.text
        found[path] = re.sub(rb"(uploads|pictures)-[0-9a-f]{12}", rb"\1", answer.get_data())
    found["stats"] = app.stats("ana")
    found["cards"] = wall.cards(database, "ana")
    found["memory"] = progress_page.memory(database, "ana")
    found["tags"] = wall.tags(database, "ana")
    found["alike"] = database.transaction(lambda run: search.query(run, "ana", "krown aerger fluss", ""))
    found["unfinished"] = database.query(reconcile.UNFINISHED, bucket="uploads", rows=10)
    ids = [str(row[0]) for row in database.query("SELECT id FROM uploads ORDER BY id")]
    found["known"] = sorted(database.query(reconcile.KNOWN, ids=ids))
    entry = CacheEntry("ab" * 32, "prompt", "model", "asker")
    assert entry.get_or_acquire(database, uuid.UUID(int=1), 10, 0) is None
    entry.store(database, GeminiResponse("Ärger", "STOP", "", "1", tokens=Tokens(1, 2)), START)
    found["answer"] = entry.get_or_acquire(database, uuid.UUID(int=1), 10, 0)
    chosen = {"user": "", "since": START, "all": True, "model": "", "prompt": "", "language": ""}
    found["redescribe"] = database.query(redescribe.COUNT, after=uuid.UUID(int=0), batch=10, **chosen)
    found["reconciled"] = app.reconcile()
    for table in ("analyses", "documents", "progress_days", "progress_hours", "progress_totals"):
        rows = database.query(f"SELECT to_jsonb(t)::text FROM {table} AS t ORDER BY 1")  # noqa: S608
        found[table] = rows
    found["vocabulary"] = [
        [*row, sorted(grams)]
        for *row, grams in database.query("SELECT tag, word, pictures, grams FROM vocabulary ORDER BY 1, 2")
    ]
    assert app.services.settings.time_zone == "Pacific/Auckland"
    return found


def test_no_session_variable_changes_answers(start: Start, database_url: str, hostile_url: str) -> None:
    """Set every variable that a login may set at once, including those of future versions of PostgreSQL."""
    variables = {"TIME_ZONE": "Pacific/Auckland", "RECEIPTS": "1", "GEMINI_API_KEY": ""}
    usual = observe(start(DATABASE_URL=database_url, **variables))
    hostile = observe(start(DATABASE_URL=hostile_url, **variables))
    assert hostile.keys() == usual.keys()
    for name, value in usual.items():
        assert hostile[name] == value, name


def test_a_sound_schema_passes_with_hostile_session_variables(hostile_url: str, capsys: Any) -> None:
    with closing(Database(Settings(database_url=hostile_url))) as database:
        database.prepare()
        database.query("SELECT 1")
    assert "schema changed" not in capsys.readouterr().out


def test_the_statement_timeout_is_that_of_the_settings(hostile_url: str) -> None:
    with closing(Database(Settings(database_url=hostile_url, database_timeout_s=7))) as database:
        assert database.query("SHOW statement_timeout") == [["7s"]]


def test_lock_timeout_of_the_session_does_not_end_waits(hostile_url: str) -> None:
    assert sorted(race(hostile_url, lambda racer, _: Leases(racer).acquire(upload()).state))[-2:] == [
        "busy",
        "claimed",
    ]


def test_a_database_that_is_read_only_is_refused(hostile_url: str, administrator: Connection) -> None:
    name = identifier(hostile_url.rpartition("/")[2])
    administrator.run(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    with pytest.raises(SchemaError, match="The database is read-only; it should accept writes"):
        Database(Settings(database_url=hostile_url)).prepare()


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII", "UTF8"])
def test_only_databases_in_utf_8_are_accepted(
    encoding: str, postgres: Postgres, administrator: Connection
) -> None:
    name = f"test_{uuid.uuid4().hex}"
    administrator.run(f"CREATE DATABASE {name} ENCODING '{encoding}' TEMPLATE template0 LOCALE 'C'")
    try:
        url = f"{postgres.url.rpartition('/')[0]}/{name}"
        with closing(Database(Settings(database_url=url))) as database:
            if encoding == "UTF8":
                database.prepare()
            else:
                with pytest.raises(SchemaError, match=f"has the encoding {encoding}; it should have UTF8"):
                    database.prepare()
        with closing(connect(url)) as connection:
            tables = connection.run("SELECT count(*) > 0 FROM pg_tables WHERE tablename = 'uploads'")
            assert tables == [[encoding == "UTF8"]]
    finally:
        administrator.run(f"DROP DATABASE {name} WITH (FORCE)")
