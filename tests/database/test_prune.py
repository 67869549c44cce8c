# ruff: noqa: S608  the SQL is made of this file's own words
"""Pruning deletes old rows in batches, and none that is still needed."""

import time
import uuid
from collections.abc import Callable
from contextlib import closing
from typing import Any

import pytest

from dropcap.database import prune
from dropcap.database.connection import connect_to_schema
from dropcap.database.transactions import Database
from dropcap.settings import Settings
from infra.cloud import CloudError
from infra.cloud.config import Config
from tests.support.app import App, Start, rows, small_png

KEPT, DELIVERED = Settings().retention_days, Settings().events_days
OLD, YOUNG = KEPT + 1, KEPT - 1


def pruned(database: Database) -> None:
    prune.prune(database, Settings(), time.monotonic() + 60)


def age(days: int) -> None:
    """Make everything that is stored so many days older."""
    columns = {
        "uploads": ("created_at", "finished_at", "lease_until", "stage_at"),
        "events": ("at", "sent_at"),
        "answers": ("asked_at", "lease_until"),
        "analyses": ("analyzed_at",),
        "receipts": ("recorded_at", "source_gone_at"),
        "analyze_calls": ("hour",),
    }
    for table, names in columns.items():
        past = ", ".join(f"{name} = {name} - make_interval(days => {days})" for name in names)
        rows(f"UPDATE {table} SET {past}")


def stored(*tables: str) -> dict[str, int]:
    return {table: rows(f"SELECT count(*) FROM {table}")[0][0] for table in tables}


def rejected(app: App) -> Any:
    upload = app.upload("ana/x.png", b"no picture")
    assert app.deliver(upload) == 200
    return upload


def analyzed(app: App) -> Any:
    upload = app.upload("ana/y.png", small_png())
    assert app.deliver(upload) == 200
    return upload


def deleted(app: App) -> Any:
    upload = analyzed(app)
    assert app.delete(upload.id).status_code == 200
    return upload


def gone(app: App) -> Any:
    upload = app.upload("ana/z.png", small_png())
    app.storage.bucket(app.uploads).delete_blob(upload.name)
    assert app.deliver(upload) == 200
    return upload


@pytest.mark.parametrize("kind", [rejected, deleted, gone])
def test_the_row_of_an_upload_without_a_picture_is_deleted_after_retention_days(
    start: Start, kind: Callable[[App], Any]
) -> None:
    app = start(RECEIPTS="1")
    upload = kind(app)
    age(YOUNG)
    app.reconcile()
    assert stored("uploads") == {"uploads": 1}
    assert app.deliver(upload) == 200  # too late, and it changes nothing
    before = rows("SELECT * FROM receipts")
    age(OLD - YOUNG)
    app.reconcile()
    assert stored("uploads") == {"uploads": 0}
    assert len(rows("SELECT * FROM receipts")) == len(before)


def test_the_row_of_a_published_picture_is_kept_for_ever(start: Start) -> None:
    app = start(RECEIPTS="1")
    upload = analyzed(app)
    age(10 * OLD)
    app.reconcile()
    assert stored("uploads", "analyses", "receipts") == {"uploads": 1, "analyses": 1, "receipts": 1}
    assert app.deliver(upload) == 200
    assert rows("SELECT attempts FROM uploads") == [[1]]
    assert app.delete(upload.id).status_code == 200


@pytest.mark.parametrize("later", ["keep", "delete"])
def test_a_kept_source_is_never_processed_again(start: Start, later: str) -> None:
    """Not even after SOURCE has changed, and not if an older revision did not record the disposal."""
    app = start(SOURCE="keep")
    for kind in (rejected, analyzed):
        kind(app)
    age(10 * OLD)
    app = app.restarted(SOURCE=later)
    for _ in range(2):
        assert app.reconcile() == {"complete": True}
    assert stored("uploads") == {"uploads": 2}
    assert len(app.objects(app.uploads)) == 2
    rows("UPDATE uploads SET source_kept = NULL")
    assert app.reconcile() == {"complete": True}
    assert stored("uploads") == {"uploads": 2}


def test_unfinished_and_held_uploads_are_never_pruned(database: Database) -> None:
    for number, state in enumerate(("claimed", "held", "recorded", "rejected", "deleted")):
        database.query(
            "INSERT INTO uploads (id, bucket, name, generation, user_id, state, reason_code, source_kept, "
            "finished_at) VALUES (:id, 'b', 'n', 1, 'ana', :state, 'code', false, '2000-01-01Z') RETURNING 1",
            id=uuid.UUID(int=number),
            state=state,
        )
    pruned(database)
    assert database.query("SELECT count(*) FROM uploads") == [[5]]


def event(database: Database, days: int, **columns: str) -> None:
    values = {"sent_at": "NULL", "next_at": "now()"} | columns
    database.query(
        f"INSERT INTO events (upload_id, type, id, at, {', '.join(values)}) VALUES (gen_random_uuid(), 'x', "
        f"gen_random_uuid(), now() - make_interval(days => {days}), {', '.join(values.values())}) RETURNING 1"
    )


def test_delivered_and_dead_lettered_events_are_deleted_in_time(database: Database) -> None:
    ago = "now() - make_interval(days => {})".format
    for days in (DELIVERED - 1, DELIVERED + 1):
        event(database, days, sent_at=ago(days))
    for days in (KEPT + DELIVERED - 1, KEPT + DELIVERED + 1):
        event(database, days, next_at="'infinity'")  # dead-lettered
        event(database, days)  # EVENTS is no longer set
    pruned(database)
    left = database.query("SELECT round(extract(epoch FROM now() - at) / 86400)::int FROM events ORDER BY 1")
    assert left == [[DELIVERED - 1], [KEPT + DELIVERED - 1], [KEPT + DELIVERED - 1]]


def test_the_event_of_an_unfinished_upload_is_kept(database: Database) -> None:
    event(database, 10 * OLD)
    database.query(
        "INSERT INTO uploads (id, bucket, name, generation, user_id, state) "
        "SELECT upload_id, 'b', 'n', 1, 'ana', 'recorded' FROM events RETURNING 1"
    )
    pruned(database)
    assert database.query("SELECT count(*) FROM events") == [[1]]


def test_cached_responses_usage_and_counts_of_calls_are_deleted_in_time(database: Database) -> None:
    for days in (YOUNG, OLD):
        database.query(
            "INSERT INTO answers (sha256, prompt, model, upload_id, asked_at, lease_until) "
            "VALUES (:key, '', '', gen_random_uuid(), now() - make_interval(days => :days), "
            "now() - interval '1 s') RETURNING 1",
            key=str(days),
            days=days,
        )
        database.query(
            "INSERT INTO spending (day) VALUES (current_date - CAST(:days AS int)) RETURNING 1", days=days
        )
    for user, hours in (("ana", 1), ("bo", 25)):
        database.query(
            "INSERT INTO analyze_calls (user_id, hour) "
            "VALUES (:user, now() - make_interval(hours => :hours)) RETURNING 1",
            user=user,
            hours=hours,
        )
    pruned(database)
    assert database.query("SELECT sha256 FROM answers") == [[str(YOUNG)]]
    assert database.query("SELECT current_date - day FROM spending") == [[YOUNG]]
    assert database.query("SELECT user_id FROM analyze_calls") == [["ana"]]


def many(database: Database, number: int) -> None:
    """Insert so many rows of each kind, most of them old enough to be deleted."""
    old, n = "now() - interval '9 years'", f"generate_series(1, {number}) AS n"
    for sql in (
        "INSERT INTO uploads (id, bucket, name, generation, user_id, state, reason_code, source_kept, "
        "finished_at) "
        f"SELECT gen_random_uuid(), 'b', 'n', n, 'ana', 'done', 'x', n % 7 = 0, {old} FROM {n}",
        f"INSERT INTO uploads (id, bucket, name, generation, user_id, state, finished_at) "
        f"SELECT gen_random_uuid(), 'b', 'n', n, 'ana', 'done', {old} FROM {n}",
        f"INSERT INTO events (upload_id, type, id, at, sent_at) "
        f"SELECT gen_random_uuid(), 'x', gen_random_uuid(), {old}, CASE n % 2 WHEN 0 THEN {old} END FROM {n}",
        f"INSERT INTO answers (sha256, prompt, model, upload_id, asked_at, lease_until) "
        f"SELECT n::text, '', '', gen_random_uuid(), {old}, {old} FROM {n}",
        f"INSERT INTO analyze_calls (user_id, hour) SELECT n::text, {old} FROM {n}",
    ):
        database.query(f"{sql} RETURNING 1")


def test_a_run_deletes_a_bounded_number_and_the_next_ones_the_rest(
    database: Database, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(prune, "BATCH", 10)
    monkeypatch.setattr(prune, "ROUNDS", 3)
    many(database, 70)
    count = "SELECT (SELECT count(*) FROM answers), (SELECT count(*) FROM uploads WHERE reason_code <> '')"
    pruned(database)
    assert database.query(count) == [[40, 40]]
    assert '"pruned", "uploads": 30, "events": 60, "answers": 30' in capsys.readouterr().out
    prune.prune(database, Settings(), time.monotonic() - 1)  # no time is left: one step
    assert database.query(count) == [[30, 30]]
    for _ in range(2):
        pruned(database)
    assert database.query(count) == [[0, 10]]  # their sources were kept


def test_each_rule_finds_its_rows_by_an_index(database: Database) -> None:
    many(database, 2000)
    database.query(
        "INSERT INTO spending (day) SELECT current_date - n FROM generate_series(1, 300) AS n RETURNING 1"
    )
    values = {"most": prune.BATCH, **prune.days(Settings())}
    with closing(connect_to_schema(database.settings.database_url)) as outside:
        outside.run("ANALYZE")

    def work(run: Any) -> list[Any]:
        run("SET LOCAL enable_seqscan = off")  # it is as fast if nearly all rows match
        run("SET LOCAL enable_sort = off")
        return [
            run(
                f"EXPLAIN (FORMAT JSON) {rule.sql}",
                **{k: v for k, v in values.items() if f":{k}" in rule.sql},
            )[0][0]
            for rule in prune.RULES
        ]

    for rule, plan in zip(prune.RULES, database.transaction(work), strict=True):
        scans = [condition for condition in conditions(plan[0]["Plan"]) if f"({rule.since} <" in condition]
        assert len(scans) == 1, (rule, plan)


def conditions(plan: dict[str, Any]) -> list[str]:
    """Return the index conditions of a plan's scans."""
    below = [condition for part in plan.get("Plans", ()) for condition in conditions(part)]
    return [plan.get("Index Cond", "").replace("old.", ""), *below]


def test_quarantine_days_may_not_exceed_retention_days() -> None:
    values = {"PROJECT": "my-project", "DATABASE_URL": "postgresql://ana@db.example.com/x"}
    values["QUARANTINE_DAYS"] = "400"
    with pytest.raises(CloudError, match=r"QUARANTINE_DAYS='400' .* at most RETENTION_DAYS"):
        Config.read(values)
    assert Config.read(values | {"RETENTION_DAYS": "400"}).quarantine_days == "400"
