"""A deferred description that fails never blocks the others, and the lease covers the whole work."""

import base64
import hashlib
import json
import threading
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

import pytest

from dropcap.deferred.pictures import MAX_FAILURES
from dropcap.deferred.rows import FIRST_DELAY_S
from dropcap.deferred.worker import describe_pending
from dropcap.domain.analysis import Rendition
from dropcap.domain.upload import Upload
from dropcap.storage.buckets import Buckets
from tests.support.app import App, Start, log_lines, rows, small_png
from tests.support.describing import DONE, DOWN, ONCE, UP, make_due, redescribe, result

WAIT_S = 30


def upload_without_description(app: App, name: str) -> Upload:
    upload = app.upload(f"ana/{name}.png", small_png())
    assert app.deliver(upload) == HTTPStatus.OK
    return upload


def blob(app: App, upload: Upload, label: str = "200") -> Any:
    return app.storage.bucket(app.pictures).blob(f"{upload.id}/{label}.webp")


def deleted(app: App, upload: Upload) -> None:
    blob(app, upload).delete()


def replaced(app: App, upload: Upload) -> None:
    blob(app, upload).upload_from_string(b"somebody else's")


def undecodable(app: App, upload: Upload) -> None:
    data = b"RIFF\x10\x00\x00\x00WEBPVP8 nothing"
    blob(app, upload).upload_from_string(data)
    facts = {"bytes": len(data), "md5": base64.b64encode(hashlib.md5(data).digest()).decode()}  # noqa: S324
    rows(
        "UPDATE analyses SET result = jsonb_set(result, '{pictures,0}', "
        "result->'pictures'->0 || CAST(:facts AS jsonb)) WHERE id = :id",
        facts=json.dumps(facts),
        id=upload.id,
    )


def without(part: str) -> Callable[[App, Upload], None]:
    def lacking(_: App, upload: Upload) -> None:
        rows("UPDATE analyses SET result = result - :part WHERE id = :id", part=part, id=upload.id)

    return lacking


def with_pictures(stored: str) -> Callable[[App, Upload], None]:
    def damaged(_: App, upload: Upload) -> None:
        rows(
            "UPDATE analyses SET result = jsonb_set(result, '{pictures}', CAST(:stored AS jsonb)) "
            "WHERE id = :id",
            stored=stored,
            id=upload.id,
        )

    return damaged


FAULTS = (
    *(deleted, deleted, deleted, deleted, replaced, undecodable, without("pictures"), without("upload")),
    *map(with_pictures, ("null", "{}", '"none"', '["none"]', "[{}]")),
)


def test_pictures_that_can_never_be_described_do_not_block_the_others(start: Start) -> None:
    app = start(**ONCE, GEMINI_MODEL=DOWN)
    assert len(FAULTS) > 2 * MAX_FAILURES
    lost = [upload_without_description(app, str(number)) for number in range(len(FAULTS))]
    whole = upload_without_description(app, "whole")
    for upload, fault in zip(lost, FAULTS, strict=True):
        fault(app, upload)
    stored = set(app.objects(app.pictures))
    app = app.restarted(GEMINI_MODEL=UP)
    assert app.reconcile() == DONE | {"described": 1, "not_described": len(FAULTS)}
    assert result(app, whole.id)["sources"]["gemini"]["answered"]
    assert rows("SELECT count(*) FROM analyses WHERE describe_after IS NOT NULL") == [[0]]
    for upload in lost:
        known = result(app, upload.id)
        assert not known["describe_later"]
        assert known["sources"]["gemini"]["problem"]
    assert "still stored" in result(app, lost[0].id)["sources"]["gemini"]["problem"]
    assert set(app.objects(app.pictures)) == stored  # a damaged record deletes nothing
    assert app.reconcile() == DONE
    damaged = 5  # whose record has no list of renditions
    assert redescribe(app, all=True, mark=True)["pictures"] == len(FAULTS) + 1 - damaged


def test_a_record_of_an_older_revision_without_newer_fields_is_described(start: Start) -> None:
    app = start(**ONCE, GEMINI_MODEL=DOWN)
    upload = upload_without_description(app, "older")
    for part in ("sources", "provenance", "captions", "usage", "picture", "analyzed_at", "safety"):
        without(part)(app, upload)
    app = app.restarted(GEMINI_MODEL=UP)
    assert app.reconcile() == DONE | {"described": 1}
    assert "stand-in" in result(app, upload.id)["description"]


def test_the_next_rendition_is_described_if_the_largest_is_gone(start: Start) -> None:
    app = start(**ONCE | {"SIZES": "40,20"}, GEMINI_MODEL=DOWN)
    upload = upload_without_description(app, "a")
    blob(app, upload, "40").delete()
    app = app.restarted(GEMINI_MODEL=UP)
    assert app.reconcile() == DONE | {"described": 1}
    assert "20 x 13 px" in result(app, upload.id)["description"]


def test_a_missing_bucket_is_transient_and_the_picture_is_retried(start: Start) -> None:
    app = start(**ONCE, GEMINI_MODEL=DOWN)
    upload = upload_without_description(app, "a")
    pictures = app.pictures
    app = app.restarted(GEMINI_MODEL=UP, PICTURES_BUCKET="not-there")
    assert app.reconcile() == DONE | {"not_described": 1}
    assert result(app, upload.id)["describe_later"]
    make_due()
    app = app.restarted(PICTURES_BUCKET=pictures)
    assert app.reconcile() == DONE | {"described": 1}


def test_the_lease_outlasts_gemini_and_the_timeout_and_a_failure_schedules_an_early_retry(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    gemini_s, stage_s, timeout_s = (2 * 3 - 1) * 120, 700, 900
    slow = {"GEMINI_TIMEOUT_S": "120", "GEMINI_ATTEMPTS": "3", "LEASE_S": str(stage_s)}
    app = start(**ONCE, GEMINI_MODEL=DOWN)
    upload = upload_without_description(app, "a")
    app = app.restarted(**slow, TIMEOUT_S=str(timeout_s), GEMINI_MODEL="fault-malformed")
    leases: list[list[float]] = []

    def watched(_: Buckets, published: Rendition) -> bytes:
        leases.extend(rows("SELECT extract(epoch FROM describe_after - now())::float8 FROM analyses"))
        raise TimeoutError(published.object)

    with monkeypatch.context() as watching:
        watching.setattr(Buckets, "read_published", watched)
        assert app.reconcile() == DONE | {"not_described": 1}
    [[lease]] = leases
    assert lease > gemini_s + stage_s
    assert lease > timeout_s
    [[after]] = rows("SELECT extract(epoch FROM describe_after - now())::float8 FROM analyses")
    assert 0 < after <= FIRST_DELAY_S
    assert result(app, upload.id)["describe_later"]


def test_no_lease_is_acquired_while_another_picture_has_its_turn(start: Start) -> None:
    app = start(**ONCE, GEMINI_MODEL=DOWN)
    upload_without_description(app, "a")
    app = app.restarted(GEMINI_MODEL=UP)
    due = "SELECT count(*) FROM analyses WHERE describe_after <= now()"
    waiting = threading.Thread(target=describe_pending, args=(app.services, float("inf")))
    with app.services.turns.take() as turn:
        turn.begin()
        waiting.start()
        waiting.join(0.5)
        assert waiting.is_alive()
        assert rows(due) == [[1]]
    waiting.join(WAIT_S)
    assert rows("SELECT count(*) FROM analyses WHERE describe_after IS NULL") == [[1]]


def test_pictures_that_can_not_be_unpublished_do_not_block_the_others(
    start: Start, capfd: pytest.CaptureFixture[str]
) -> None:
    app = start(**ONCE)
    for number in range(MAX_FAILURES + 1):
        app.deliver(app.upload(f"ana/{number}.png", small_png()))
    app = app.restarted(GEMINI_MODEL="fault-unsafe-high", SAFETY="low", QUARANTINE_BUCKET="not-there")
    assert redescribe(app, mark=True)["pictures"] == MAX_FAILURES + 1
    capfd.readouterr()
    assert app.reconcile() == DONE | {"not_described": MAX_FAILURES + 1}
    assert rows("SELECT count(*) FROM analyses WHERE describe_after > now()") == [[MAX_FAILURES + 1]]
    errors = [line for line in log_lines(capfd) if line["severity"] == "ERROR"]
    assert len(errors) == MAX_FAILURES + 1
    for line in errors:
        assert "not-there: does it exist?" in line["problem"]
        assert "stack_trace" not in line
