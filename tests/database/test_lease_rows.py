# ruff: noqa: S608  the SQL is made of this file's own words
"""Which columns of which row each statement on a lease changes, and that no other upload's row changes."""

import logging
from collections.abc import Callable
from typing import Any, cast

import pytest

from dropcap.database.analyses import Analyses
from dropcap.database.connection import DatabaseUnavailable
from dropcap.database.leases import ABANDONED, OUTCOME, Crash, Lease, Leases, check_crashes
from dropcap.database.transactions import Database, Executor
from dropcap.domain.upload import Upload, UploadState, posted
from dropcap.errors import Rejected
from dropcap.settings import Settings
from tests.support.database.uploads import analysis, expire, upload

OURS, OTHER = upload(), upload("ben/y.png")
LEASE_MIN = Settings().lease_s // 60
RETRY_MIN = 50
# The row of a new lease, with instants in minutes from now.
LEASED: dict[str, Any] = {
    "state": "claimed",
    "holder": "ours",
    "attempts": 1,
    "reason_code": "",
    "reason": "",
    "stage": "claim",
    "stage_at": 0,
    "rss_mb": 0,
    "deaths": [],
    "lease_until": LEASE_MIN,
    "finished_at": None,
    "source_kept": None,
}
HELD: dict[str, Any] = {"state": "held", "reason_code": "no_verdict", "reason": "why", "stage": "held"}
HELD |= {"holder": None, "lease_until": RETRY_MIN}
HEAVY = {"stage": "open", "rss_mb": 100}
CRASH = Crash("open", "2026-01-01T00:00:00+00:00", 100)


def row(database: Database, of: Upload, token: str = "") -> dict[str, Any] | None:
    """Return the row of an upload in the form of LEASED, or None; `token` is called "ours"."""
    instants = ", ".join(
        f"'{name}', round(extract(epoch FROM {name} - now()) / 60)::int"
        for name in ("stage_at", "lease_until", "finished_at")
    )
    found = database.query(
        f"SELECT to_jsonb(u) || jsonb_build_object({instants}) FROM uploads u WHERE id = :id", id=of.id
    )
    if not found:
        return None
    every = found[0][0] | ({"holder": "ours"} if found[0][0]["holder"] == token else {})
    return {name: every[name] for name in LEASED}


def table(database: Database) -> list[list[Any]]:
    return database.query("SELECT * FROM uploads ORDER BY id")


@pytest.fixture
def held(leases: Leases, database: Database) -> str:
    """The token of a lease on OURS; a lease on OTHER lies beside it, and both began an hour ago."""
    leases.acquire(OTHER)
    token = leases.acquire(OURS).token
    ago = "now() - interval '1 hour'"
    database.query(
        f"UPDATE uploads SET stage = 'open', rss_mb = 100, stage_at = {ago}, lease_until = {ago} RETURNING 1"
    )
    return token


Act = Callable[[Leases, Analyses, Upload, str], Any]


def heartbeat(leases: Leases, _: Analyses, of: Upload, token: str) -> bool:
    return leases.heartbeat(of, token, "resize", 123.4)


def record(_: Leases, analyses: Analyses, of: Upload, token: str) -> bool:
    return analyses.record(analysis(of), of, token)


def reject(leases: Leases, _: Analyses, of: Upload, token: str) -> bool:
    return leases.reject(of, token, "no_picture", "why")


def hold(leases: Leases, _: Analyses, of: Upload, token: str) -> bool:
    return leases.hold(of, token, "no_verdict", "why", RETRY_MIN * 60)


def release(leases: Leases, _: Analyses, of: Upload, token: str) -> None:
    leases.release(of, token)


def discard(leases: Leases, _: Analyses, of: Upload, token: str) -> None:
    leases.discard(of, token)


OLD = {"stage_at": -60, "lease_until": -60}
CHANGES: list[tuple[Act, dict[str, Any] | None]] = [
    (heartbeat, {"stage": "resize", "rss_mb": 123}),
    (record, HEAVY | OLD | {"state": "recorded"}),
    (reject, HEAVY | OLD | {"state": "rejected", "reason_code": "no_picture", "reason": "why"}),
    (hold, HELD),
    (release, HEAVY | OLD | {"holder": None, "lease_until": 0}),
    (discard, None),
]
acts = pytest.mark.parametrize("act", [act for act, _ in CHANGES])


@pytest.mark.parametrize(("act", "changed"), CHANGES)
def test_a_worker_changes_exactly_these_columns_of_its_own_row(
    database: Database,
    leases: Leases,
    analyses: Analyses,
    held: str,
    act: Act,
    changed: dict[str, Any] | None,
) -> None:
    other = row(database, OTHER)
    assert act(leases, analyses, OURS, held) in (True, None)
    assert row(database, OURS, held) == (None if changed is None else LEASED | changed)
    assert row(database, OTHER) == other


@acts
def test_a_token_is_valid_for_its_own_upload_alone(
    database: Database, leases: Leases, analyses: Analyses, held: str, act: Act
) -> None:
    before = table(database)
    assert not act(leases, analyses, OTHER, held)
    assert not act(leases, analyses, OURS, "another")
    assert table(database) == before


@pytest.mark.parametrize("outcome", [record, reject])
def test_a_committed_outcome_is_final_for_its_own_worker_too(
    database: Database, leases: Leases, analyses: Analyses, held: str, outcome: Act
) -> None:
    assert outcome(leases, analyses, OURS, held)
    before = table(database)
    for act in {record, reject, hold, release, discard} - {outcome}:
        assert not act(leases, analyses, OURS, held)
    assert table(database) == before
    assert outcome(leases, analyses, OURS, held)  # again, because the first answer may be lost
    expire(database, OURS)
    before = table(database)
    assert leases.acquire(OURS).state == ("recorded" if outcome is record else "rejected")
    assert table(database) == before


def test_a_takeover_starts_a_new_attempt_and_keeps_the_age(database: Database, leases: Leases) -> None:
    leases.acquire(OTHER)
    first = leases.acquire(OURS)
    assert row(database, OURS, first.token) == LEASED
    assert abs(first.age_s) < 60
    other = row(database, OTHER)
    leases.hold(OURS, first.token, "no_verdict", "why", 600)
    assert leases.acquire(OURS) == Lease(UploadState.HELD, "", 1, "why")  # until its time has come
    database.query("UPDATE uploads SET created_at = now() - interval '1 day' RETURNING 1")
    expire(database, OURS)
    again = leases.acquire(OURS)
    assert row(database, OURS, again.token) == LEASED | {"attempts": 2, "reason": "why"}
    assert (again.reason, round(again.age_s / 3600)) == ("why", 24)
    assert row(database, OTHER) == other


def test_a_lease_ends_at_its_very_instant(database: Database, leases: Leases) -> None:
    leases.acquire(OURS)

    def work(execute: Executor) -> list[Any]:
        execute("UPDATE uploads SET lease_until = now(), bucket = '' RETURNING 1")  # now() stands still
        abandoned = execute(f"SELECT {ABANDONED} FROM uploads")[0][0]

        class InTransaction:
            settings = database.settings
            query = staticmethod(execute)

        return [abandoned, Leases(cast(Database, InTransaction())).acquire(OURS).state]

    assert database.transaction(work) == [True, "claimed"]


def test_only_an_expired_posted_picture_is_abandoned(database: Database, leases: Leases) -> None:
    picture = posted(b"x", "ana", "image/png")
    tokens = {leases.acquire(of).token: of for of in (OURS, picture)}

    def abandoned() -> list[str]:
        rows = database.query(f"SELECT bucket FROM uploads WHERE {ABANDONED}")
        return [bucket for [bucket] in rows]

    assert abandoned() == []
    for of in (OURS, picture):
        expire(database, of)
    assert abandoned() == [""]
    for token, of in tokens.items():
        leases.reject(of, token, "no_picture", "why")
    assert abandoned() == []


def test_the_outcome_of_an_upload_is_its_own(database: Database, leases: Leases) -> None:
    def outcomes() -> list[list[list[Any]]]:
        return [database.query(OUTCOME, id=of.id) for of in (OURS, OTHER)]

    assert outcomes() == [[], []]
    ours, other = leases.acquire(OURS).token, leases.acquire(OTHER).token
    assert outcomes() == [[[""]], [[""]]]
    leases.hold(OURS, ours, "no_verdict", "why", 60)
    leases.reject(OTHER, other, "no_picture", "why")
    assert outcomes() == [[["held"]], [["no_picture"]]]


def test_a_discarded_upload_loses_only_its_own_cached_response(database: Database, leases: Leases) -> None:
    tokens = {of.id: leases.acquire(of).token for of in (OURS, OTHER)}
    for key, of in (("1", OURS), ("2", OTHER)):
        database.query(
            "INSERT INTO answers (sha256, prompt, model, upload_id) VALUES (:key, '', '', :id) RETURNING 1",
            key=key,
            id=of.id,
        )
    leases.heartbeat(OURS, tokens[OURS.id], "open", 100)
    expire(database, OURS)
    other = row(database, OTHER)
    leases.discard(OURS, leases.acquire(OURS).token)
    assert database.query("SELECT upload_id FROM answers") == [[OTHER.id]]
    assert row(database, OTHER) == other
    kept = row(database, OURS)
    assert kept is not None
    assert (kept["holder"], kept["lease_until"], len(kept["deaths"])) == (None, 0, 1)


@pytest.mark.parametrize("receipts", [0, 1])
@pytest.mark.parametrize(("disposition", "kept"), [("", None), ("kept", True), ("deleted", False)])
def test_a_finished_upload_says_whether_its_source_is_kept(
    database_url: str, leases: Leases, database: Database, receipts: int, disposition: str, kept: bool | None
) -> None:
    for of in (OURS, OTHER):
        leases.reject(of, leases.acquire(of).token, "no_picture", "why")
        database.query("INSERT INTO receipts (id) VALUES (:id) RETURNING 1", id=of.id)
    other = row(database, OTHER)
    database.settings = Settings(database_url=database_url, receipts=receipts)
    leases.finish(OURS, disposition)
    done = row(database, OURS)
    assert done is not None
    assert (done["state"], done["finished_at"], done["source_kept"]) == ("done", 0, kept)
    assert row(database, OTHER) == other
    completed = database.query("SELECT source_fate FROM receipts WHERE id = :id", id=OURS.id)
    assert completed == [[disposition if receipts else ""]]


@pytest.mark.parametrize("end", [Leases.release, Leases.discard])
def test_a_lease_that_could_not_be_ended_is_released_before_the_next_one(
    database: Database, leases: Leases, monkeypatch: pytest.MonkeyPatch, end: Callable[..., None]
) -> None:
    def unavailable(*_: Any, **__: Any) -> None:
        raise DatabaseUnavailable("down")

    tokens = [leases.acquire(of).token for of in (OURS, OTHER)]
    with monkeypatch.context() as outage:
        outage.setattr(database, "query", unavailable)
        for of, token in zip((OURS, OTHER), tokens, strict=True):
            with pytest.raises(DatabaseUnavailable):
                end(leases, of, token)
    leases.acquire(upload("cleo/z.png"))
    holders = database.query("SELECT user_id FROM uploads WHERE holder IS NULL ORDER BY 1")
    assert holders == [["ana"], ["ben"]]


@pytest.mark.parametrize("crashes", [0, 1, 2, 3])
def test_an_upload_is_rejected_at_the_limit_of_crashes(
    crashes: int, caplog: pytest.LogCaptureFixture
) -> None:
    lease = Lease(UploadState.LEASED, "token", crashes + 1, "", (CRASH,) * crashes)
    with caplog.at_level(logging.WARNING):
        if crashes < 2:
            check_crashes(lease, OURS, 2)
        else:
            with pytest.raises(Rejected, match=r"at: open \(100 MB, 2026.*; open \(100 MB") as rejected:
                check_crashes(lease, OURS, 2)
            assert rejected.value.code == "took_the_instance_down"
    logged = [(vars(each)["event"], vars(each)["deaths"], vars(each)["stage"]) for each in caplog.records]
    assert logged == [("instance_crashed", crashes, "open")] * (crashes > 0)
