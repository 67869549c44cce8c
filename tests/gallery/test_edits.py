"""Edits are shown immediately; deletions leave no trace, also after failures."""

import json
import os
import uuid
from typing import Any

import pytest
from werkzeug.test import TestResponse

from dropcap.domain.upload import Upload
from tests.support.app import App, Start, expire_leases, problem, rows, small_png

OWN = {"Sec-Fetch-Site": "same-origin"}
JSON = OWN | {"Accept": "application/json"}
MODELS = {"caption": "a red square", "alt_text": "A red square on nothing."}


def record(user: str = "ana", at: str = "2026-01-31T12:00Z") -> uuid.UUID:
    """A picture in the database alone, as one that is done."""
    upload = Upload("uploads", f"{user}/{uuid.uuid4()}.png", 1, 3)
    rows(
        "INSERT INTO uploads (id, bucket, name, generation, user_id, size, state, finished_at) "
        "VALUES (:id, :bucket, :name, 1, :user, 3, 'done', now()) ",
        id=str(upload.id),
        bucket=upload.bucket,
        name=upload.name,
        user=user,
    )
    rows(
        "INSERT INTO analyses (id, user_id, analyzed_at, caption, alt_text, result) "
        "VALUES (:id, :user, CAST(:at AS timestamptz), :caption, :alt_text, :result)",
        id=str(upload.id),
        user=user,
        at=at,
        result=json.dumps({"upload": upload.to_json(), **MODELS}),
        **MODELS,
    )
    return upload.id


def edit(app: App, picture: object, user: str = "ana", **form: str) -> TestResponse:
    path = f"/gallery/picture/{picture}/edit"
    return app.gallery.post(path, query_string={"user": user}, data=form, headers=JSON)


def delete(app: App, picture: object, user: str = "ana") -> TestResponse:
    path = f"/gallery/picture/{picture}/delete"
    return app.gallery.post(path, query_string={"user": user}, headers=JSON)


def shown(app: App, picture: uuid.UUID) -> list[Any]:
    [row] = rows(
        "SELECT coalesce(own_caption, caption), coalesce(own_alt_text, alt_text), edited_at IS NOT NULL, "
        "caption, alt_text, result->'caption', result->'alt_text' FROM analyses WHERE id = :id",
        id=str(picture),
    )
    assert dict(zip(MODELS, row[3:5], strict=True)) == MODELS, "the model's stay"
    assert dict(zip(MODELS, row[5:], strict=True)) == MODELS, "and what was recorded"
    return row[:3]


def test_a_users_text_is_shown_and_the_models_is_kept(start: Start) -> None:
    app = start()
    picture = record()
    path = f"/gallery/picture/{picture}"
    form = {"caption": "  Our \r\n garden\x00 ", "alt_text": "Roses, in June."}
    answer = app.gallery.post(f"{path}/edit?user=ana", data=form, headers=OWN)
    assert (answer.status_code, answer.headers["Location"]) == (303, f"{path}?user=ana")
    assert shown(app, picture) == ["Our garden", "Roses, in June.", True]


def test_an_omitted_text_stays_and_an_empty_or_identical_one_restores_the_models(start: Start) -> None:
    app = start()
    picture = record()
    edit(app, picture, caption="Mine", alt_text="Mine too")
    edit(app, picture, caption="Mine still")
    assert shown(app, picture) == ["Mine still", "Mine too", True]
    edit(app, picture, alt_text=" ")
    assert shown(app, picture) == ["Mine still", MODELS["alt_text"], True]
    edit(app, picture, caption=MODELS["caption"])
    assert shown(app, picture) == [*MODELS.values(), False]


def test_a_program_receives_the_texts_now_shown(start: Start) -> None:
    answer = edit(start(), record(), caption="Mine").get_json()
    edited_at = answer.pop("edited_at")
    assert edited_at.startswith("20")
    assert answer == {
        "caption": "Mine",
        "alt_text": MODELS["alt_text"],
        "own_caption": "Mine",
        "own_alt_text": None,
    }


@pytest.mark.parametrize(("field", "most"), [("caption", 300), ("alt_text", 250)])
def test_a_text_that_is_too_long_is_refused_without_changes(start: Start, field: str, most: int) -> None:
    app = start()
    picture = record()
    other = {"caption": "alt_text", "alt_text": "caption"}[field]
    answer = edit(app, picture, **{field: "x" * (most + 1), other: "Mine"})
    assert problem(answer, 400)["code"] == "text_too_long"
    assert shown(app, picture) == [*MODELS.values(), False]
    assert edit(app, picture, **{field: "x" * most}).status_code == 200


def test_another_users_picture_gets_the_same_answer_as_a_missing_one(start: Start) -> None:
    app = start()
    picture = record()
    for change in (edit, delete):
        nothing = problem(change(app, uuid.uuid4(), "bob"), 404)
        assert problem(change(app, picture, "bob"), 404) == nothing
    assert shown(app, picture) == [*MODELS.values(), False]


def traces(app: App) -> str:
    """What database and buckets know, all of it."""
    tables = ("uploads", "analyses", "vocabulary", "progress_days", "progress_totals", "achievements")
    buckets = (app.uploads, app.pictures, app.quarantine, app.services.settings.archive_bucket)
    found = [str(rows(f"SELECT * FROM {table}")) for table in tables]  # noqa: S608  the names are above
    return "; ".join(found + [str(sorted(app.objects(bucket))) for bucket in buckets])


@pytest.mark.parametrize("source", ["delete", "keep", "archive"])
def test_a_deleted_picture_leaves_no_trace_and_no_event_brings_it_back(start: Start, source: str) -> None:
    app = start(SOURCE=source)
    upload = app.upload("ana/beach.png", small_png(), album="secret")
    assert app.deliver(upload) == 200
    assert "beach" in traces(app)
    answer = app.gallery.post(f"/gallery/picture/{upload.id}/delete?user=ana", headers=OWN)
    assert (answer.status_code, answer.headers["Location"]) == (303, "/gallery/?user=ana")
    for _ in range(2):
        assert rows("SELECT id, state, reason_code FROM uploads") == [[upload.id, "done", "deleted"]]
        told = traces(app).replace(f"UUID('{upload.id}')", "", 1)
        assert not [word for word in ("beach", "ana", str(upload.id), "png", "secret") if word in told]
        assert app.deliver(upload) == 200
        assert app.reconcile() == {"complete": True}
    assert problem(delete(app, upload.id), 404)["code"] == "no_such_picture"


def test_a_rejected_upload_is_deleted_from_quarantine(start: Start) -> None:
    app = start()
    upload = app.upload("ana/beach.png", b"no picture")
    app.deliver(upload)
    assert app.objects(app.quarantine)
    assert delete(app, upload.id).status_code == 303
    assert app.objects(app.quarantine) == {}
    assert "beach" not in traces(app)
    assert app.deliver(upload) == 200
    assert app.objects(app.quarantine) == {}


def test_an_upload_in_work_is_not_deleted(start: Start) -> None:
    app = start()
    picture = record()
    for state in ("claimed", "recorded", "rejected"):
        rows("UPDATE uploads SET state = :state", state=state)
        answer = delete(app, picture)
        assert problem(answer, 409)["code"] == "still_in_work"
        assert answer.headers["Retry-After"]
    assert shown(app, picture) == [*MODELS.values(), False]


def test_a_newer_upload_of_the_same_name_is_left_alone(start: Start) -> None:
    app = start(SOURCE="keep")
    older = app.upload("ana/beach.png", small_png())
    app.deliver(older)
    newer = app.upload("ana/beach.png", small_png())
    assert delete(app, older.id).status_code == 303
    assert app.objects(app.uploads)["ana/beach.png"].generation == newer.generation
    assert app.reconcile() == {"found": 1, "done": 1, "complete": True}
    assert rows("SELECT id FROM analyses") == [[newer.id]]


def test_a_deleted_picture_that_was_posted_may_be_posted_again(start: Start) -> None:
    app = start()

    def post() -> Any:
        return app.analyze(data=small_png(), query_string={"keep": "true", "user": "ana"}).get_json()["id"]

    picture = post()
    assert delete(app, picture).status_code == 303
    assert rows("SELECT * FROM uploads") == []
    assert app.objects(app.pictures) == {}
    assert post() == picture
    assert app.objects(app.pictures)


def test_missing_renditions_do_not_prevent_a_deletion(start: Start) -> None:
    app = start()
    picture = record()
    assert delete(app, picture).status_code == 303
    assert rows("SELECT * FROM analyses") == []


@pytest.mark.parametrize("healed_by", ["its user", "a delivery", "the sweep"])
def test_an_interrupted_deletion_hides_the_picture_and_is_continued(start: Start, healed_by: str) -> None:
    app = start(SOURCE="keep")
    storage = os.environ["STORAGE_EMULATOR_HOST"]
    upload = app.upload("ana/beach.png", small_png())
    app.deliver(upload)
    away = app.restarted(STORAGE_EMULATOR_HOST="http://127.0.0.1:9", STORAGE_TIMEOUT_S="0.3")
    assert problem(delete(away, upload.id), 503)["code"] == "try_again"
    path = f"/gallery/picture/{upload.id}"
    back = away.restarted(STORAGE_EMULATOR_HOST=storage, STORAGE_TIMEOUT_S="60")
    assert problem(back.gallery.get(path, query_string={"user": "ana"}, headers=JSON), 404)
    assert back.stats("ana")["pictures_analyzed"] == 0
    next(iter(back.objects(back.pictures).values())).delete()  # as if it had come that far
    if healed_by == "its user":
        assert problem(delete(back, upload.id, "bob"), 404)
        assert delete(back, upload.id).status_code == 303
    elif healed_by == "a delivery":
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
    ids=["in the middle of what is shown", "at its beginning", "when all that was stored is gone"],
)
def test_a_deletion_that_the_database_refuses_can_be_repeated(start: Start, refused: str, left: str) -> None:
    app = start()
    picture = record()
    rows("CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE disk_full; END'")
    rows(f"CREATE TRIGGER refused BEFORE {refused} FOR EACH ROW EXECUTE FUNCTION refuse()")
    assert problem(delete(app, picture), 503)["code"] == "try_again"
    if left == "all":
        assert shown(app, picture) == [*MODELS.values(), False]
    else:
        assert rows("SELECT * FROM analyses") == []
    rows("DROP FUNCTION refuse() CASCADE")
    assert delete(app, picture).status_code == 303
    assert rows("SELECT state, name FROM uploads") == [["done", ""]]
    assert rows("SELECT * FROM analyses") == []


def test_a_deletion_restores_counts_streaks_and_achievements_as_without_the_picture(start: Start) -> None:
    app = start()
    instants = [f"2026-03-{day:02}T12:00Z" for day in range(1, 11)] + ["2026-03-20T03:00Z"]
    kept = [at for at in instants if at not in ("2026-03-02T12:00Z", "2026-03-20T03:00Z")]
    hers = {at: record("ana", at) for at in instants}
    for at in kept:
        record("bob", at)
    stored = "SELECT achievement_name, earned_at FROM achievements WHERE user_id = :user ORDER BY 1"
    app.stats("ana")
    assert ["night_owl"] in [row[:1] for row in rows(stored, user="ana")]
    for at in set(instants) - set(kept):
        assert delete(app, hers[at]).status_code == 303
    assert app.stats("ana") == app.stats("bob") | {"user": "ana"}
    assert rows(stored, user="ana") == rows(stored, user="bob")
