"""Edits are shown immediately; deletions leave no trace, also after failures."""

import datetime as dt
import os
import uuid
from typing import Any

import pytest
from werkzeug.test import TestResponse

from tests.support.app import JSON, OWN, OWN_JSON, App, Start, expire_leases, problem, rows, small_png
from tests.support.database import uploads

MODELS = {"caption": "a red square", "alt_text": "A red square on nothing."}


def done(app: App, user: str = "ana", at: str = "2026-01-31T12:00Z") -> uuid.UUID:
    """Record a picture in the database only, as one that is done; return its id."""
    picture = uploads.upload(f"{user}/{uuid.uuid4()}.png")
    instant = dt.datetime.fromisoformat(at)
    assert uploads.record(app.services.database, picture, analyzed_at=instant, **MODELS)
    app.services.leases.finish(picture)
    return picture.id


def edit(app: App, picture: object, user: str = "ana", **form: str) -> TestResponse:
    path = f"/gallery/picture/{picture}/edit"
    return app.gallery.post(path, query_string={"user": user}, data=form, headers=OWN_JSON)


def shown(app: App, picture: uuid.UUID) -> list[Any]:
    [row] = rows(
        "SELECT coalesce(own_caption, caption), coalesce(own_alt_text, alt_text), edited_at IS NOT NULL, "
        "caption, alt_text, result->'caption', result->'alt_text' FROM analyses WHERE id = :id",
        id=str(picture),
    )
    assert dict(zip(MODELS, row[3:5], strict=True)) == MODELS, "the model's texts are kept"
    assert dict(zip(MODELS, row[5:], strict=True)) == MODELS, "in the result too"
    return row[:3]


def test_a_users_text_is_shown_and_the_models_is_kept(start: Start) -> None:
    app = start()
    picture = done(app)
    path = f"/gallery/picture/{picture}"
    form = {"caption": "  Our \r\n garden\x00 ", "alt_text": "Roses, in June."}
    answer = app.gallery.post(f"{path}/edit?user=ana", data=form, headers=OWN)
    assert (answer.status_code, answer.headers["Location"]) == (303, f"{path}?done=saved&user=ana")
    assert shown(app, picture) == ["Our garden", "Roses, in June.", True]


def test_an_omitted_text_stays_and_an_empty_or_identical_one_restores_the_models(start: Start) -> None:
    app = start()
    picture = done(app)
    edit(app, picture, caption="Mine", alt_text="Mine too")
    edit(app, picture, caption="Mine still")
    assert shown(app, picture) == ["Mine still", "Mine too", True]
    edit(app, picture, alt_text=" ")
    assert shown(app, picture) == ["Mine still", MODELS["alt_text"], True]
    edit(app, picture, caption=MODELS["caption"])
    assert shown(app, picture) == [*MODELS.values(), False]


def test_an_edit_by_a_program_returns_the_texts_now_shown(start: Start) -> None:
    app = start()
    answer = edit(app, done(app), caption="Mine").get_json()
    edited_at = answer.pop("edited_at")
    assert edited_at.startswith("20")
    texts = {"caption": "Mine", "alt_text": MODELS["alt_text"]}
    assert answer == texts | {"own_caption": "Mine", "own_alt_text": None}


@pytest.mark.parametrize(("field", "most"), [("caption", 300), ("alt_text", 250)])
def test_a_text_that_is_too_long_is_refused_without_changes(start: Start, field: str, most: int) -> None:
    app = start()
    picture = done(app)
    other = {"caption": "alt_text", "alt_text": "caption"}[field]
    answer = edit(app, picture, **{field: "x" * (most + 1), other: "Mine"})
    assert problem(answer, 400)["code"] == "text_too_long"
    assert shown(app, picture) == [*MODELS.values(), False]
    assert edit(app, picture, **{field: "x" * most}).status_code == 200


def traces(app: App) -> str:
    """Return all that database and buckets hold."""
    tables = ("uploads", "analyses", "vocabulary", "progress_days", "progress_totals", "achievements")
    buckets = (app.uploads, app.pictures, app.quarantine, app.services.settings.archive_bucket)
    found = [str(rows(f"SELECT * FROM {table}")) for table in tables]  # noqa: S608  the names are above
    return "; ".join(found + [str(sorted(app.objects(bucket))) for bucket in buckets])


@pytest.mark.parametrize("source", ["delete", "keep", "archive"])
def test_a_deleted_picture_leaves_no_trace_and_no_event_restores_it(start: Start, source: str) -> None:
    app = start(SOURCE=source)
    upload = app.upload("ana/beach.png", small_png(), album="secret")
    assert app.deliver(upload) == 200
    assert "beach" in traces(app)
    answer = app.gallery.post(f"/gallery/picture/{upload.id}/delete?user=ana", headers=OWN)
    assert (answer.status_code, answer.headers["Location"]) == (303, "/gallery/?done=deleted&user=ana")
    for _ in range(2):
        assert rows("SELECT id, state, reason_code FROM uploads") == [[upload.id, "done", "deleted"]]
        left = traces(app).replace(f"UUID('{upload.id}')", "", 1)
        assert not [word for word in ("beach", "ana", str(upload.id), "png", "secret") if word in left]
        assert app.deliver(upload) == 200
        assert app.reconcile() == {"complete": True}
    assert problem(app.delete(upload.id), 404)["code"] == "no_such_picture"


def test_a_rejected_upload_is_deleted_from_quarantine(start: Start) -> None:
    app = start()
    upload = app.upload("ana/beach.png", b"no picture")
    app.deliver(upload)
    assert app.objects(app.quarantine)
    assert app.delete(upload.id).status_code == 303
    assert app.objects(app.quarantine) == {}
    assert "beach" not in traces(app)
    assert app.deliver(upload) == 200
    assert app.objects(app.quarantine) == {}


def test_a_picture_in_work_is_not_deleted(start: Start) -> None:
    app = start()
    picture = done(app)
    for state in ("claimed", "recorded", "rejected"):
        rows("UPDATE uploads SET state = :state", state=state)
        answer = app.delete(picture)
        assert problem(answer, 409)["code"] == "still_in_work"
        assert answer.headers["Retry-After"]
    assert shown(app, picture) == [*MODELS.values(), False]


def test_a_deletion_leaves_a_newer_upload_of_the_same_name_alone(start: Start) -> None:
    app = start(SOURCE="keep")
    older = app.upload("ana/beach.png", small_png())
    app.deliver(older)
    newer = app.upload("ana/beach.png", small_png())
    assert app.delete(older.id).status_code == 303
    assert app.objects(app.uploads)["ana/beach.png"].generation == newer.generation
    assert app.reconcile() == {"found": 1, "done": 1, "complete": True}
    assert rows("SELECT id FROM analyses") == [[newer.id]]


def test_a_deleted_picture_that_was_posted_may_be_posted_again(start: Start) -> None:
    app = start()

    def post() -> Any:
        return app.analyze(data=small_png(), query_string={"keep": "true", "user": "ana"}).get_json()["id"]

    picture = post()
    assert app.delete(picture).status_code == 303
    assert rows("SELECT * FROM uploads") == []
    assert app.objects(app.pictures) == {}
    assert post() == picture
    assert app.objects(app.pictures)


@pytest.mark.parametrize("finished_by", ["its user", "a delivery", "reconcile"])
def test_an_interrupted_deletion_hides_the_picture_and_is_finished(start: Start, finished_by: str) -> None:
    app = start(SOURCE="keep")
    storage = os.environ["STORAGE_EMULATOR_HOST"]
    upload = app.upload("ana/beach.png", small_png())
    app.deliver(upload)
    without_storage = app.restarted(STORAGE_EMULATOR_HOST="http://127.0.0.1:9", STORAGE_TIMEOUT_S="0.3")
    assert problem(without_storage.delete(upload.id), 503)["code"] == "try_again"
    path = f"/gallery/picture/{upload.id}"
    back = without_storage.restarted(STORAGE_EMULATOR_HOST=storage, STORAGE_TIMEOUT_S="60")
    assert problem(back.gallery.get(path, query_string={"user": "ana"}, headers=JSON), 404)
    assert back.stats("ana")["pictures_analyzed"] == 0
    next(iter(back.objects(back.pictures).values())).delete()  # the deletion had come that far
    if finished_by == "its user":
        assert problem(back.delete(upload.id, "bob"), 404)
        assert back.delete(upload.id).status_code == 303
    elif finished_by == "a delivery":
        assert back.deliver(upload) == 200
    else:
        expire_leases()
        assert back.reconcile() == {"found": 1, "done": 1, "complete": True}
    assert "beach" not in traces(back)
    assert rows("SELECT id, state, reason_code FROM uploads") == [[upload.id, "done", "deleted"]]
    assert back.reconcile() == {"complete": True}


@pytest.mark.parametrize(
    ("refused", "left"),
    [
        ("DELETE ON analyses", "all"),
        ("UPDATE ON uploads", "all"),
        ("UPDATE OF bucket ON uploads", "tombstone"),
    ],
    ids=["in the first transaction", "at its start", "after all objects are deleted"],
)
def test_a_deletion_that_fails_in_the_database_can_be_repeated(start: Start, refused: str, left: str) -> None:
    app = start()
    picture = done(app)
    rows("CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE disk_full; END'")
    rows(f"CREATE TRIGGER refused BEFORE {refused} FOR EACH ROW EXECUTE FUNCTION refuse()")
    assert problem(app.delete(picture), 503)["code"] == "try_again"
    if left == "all":
        assert shown(app, picture) == [*MODELS.values(), False]
    else:
        assert rows("SELECT * FROM analyses") == []
    rows("DROP FUNCTION refuse() CASCADE")
    assert app.delete(picture).status_code == 303
    assert rows("SELECT state, name FROM uploads") == [["done", ""]]
    assert rows("SELECT * FROM analyses") == []


def test_after_a_deletion_progress_is_as_if_the_picture_had_never_been_there(start: Start) -> None:
    app = start()
    instants = [f"2026-03-{day:02}T12:00Z" for day in range(1, 11)] + ["2026-03-20T03:00Z"]
    kept = [at for at in instants if at not in ("2026-03-02T12:00Z", "2026-03-20T03:00Z")]
    pictures = {at: done(app, "ana", at) for at in instants}
    for at in kept:
        done(app, "bob", at)
    stored = "SELECT achievement_name, earned_at FROM achievements WHERE user_id = :user ORDER BY 1"
    app.stats("ana")
    assert ["night_owl"] in [row[:1] for row in rows(stored, user="ana")]
    for at in set(instants) - set(kept):
        assert app.delete(pictures[at]).status_code == 303
    assert app.stats("ana") == app.stats("bob") | {"user": "ana"}
    assert rows(stored, user="ana") == rows(stored, user="bob")
