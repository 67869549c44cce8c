# ruff: noqa: S608  what is put into the SQL is this project's own; users and ids are parameters
"""What a user changes: an own caption or alt text beside the model's, and a picture that is to go."""

import datetime as dt
import json
import uuid
from http import HTTPStatus

import flask

from dropcap import erasure
from dropcap.database import progress, rollup, search
from dropcap.database.leases import ABANDONED
from dropcap.database.transactions import Executor
from dropcap.describing.response import UNWANTED
from dropcap.domain.upload import Upload, UploadState
from dropcap.errors import Rejected
from dropcap.gallery import pages
from dropcap.gallery.request import Visit, no_such_picture, redirect
from dropcap.http import bodies

LONGEST = {"caption": 300, "alt_text": 250}  # characters by the field of the form
LATER_S = 10
# A field that is not given leaves what there is. The model's own words, or none, take a person's back.
EDIT = """
UPDATE analyses AS a SET own_caption = new.caption, own_alt_text = new.alt_text,
  edited_at = CASE WHEN num_nonnulls(new.caption, new.alt_text) > 0 THEN now() END
FROM (
  SELECT id, nullif(nullif(coalesce(CAST(:caption AS text), own_caption, ''), ''), caption) AS caption,
         nullif(nullif(coalesce(CAST(:alt_text AS text), own_alt_text, ''), ''), alt_text) AS alt_text
  FROM analyses WHERE user_id = :user AND id = CAST(:id AS uuid)
) AS new
WHERE a.id = new.id
RETURNING coalesce(own_caption, a.caption), coalesce(own_alt_text, a.alt_text), own_caption, own_alt_text,
          edited_at
"""
# Locked, so that whoever works on it is done before, or finds it deleted.
UPLOAD = f"""
SELECT CASE WHEN {ABANDONED} THEN '{UploadState.HELD}' ELSE state END,
       CASE WHEN {ABANDONED} THEN '{UploadState.HELD}' ELSE reason_code END, bucket, name, generation, size
FROM uploads WHERE id = CAST(:id AS uuid) FOR UPDATE
"""
# What Gemini said of these bytes goes along, whoever asked (response_cache.py).
DELETE = """
WITH gone AS (
  DELETE FROM analyses WHERE user_id = :user AND id = CAST(:id AS uuid)
  RETURNING analyzed_at, time_zone, counted, result->'picture'->>'sha256' AS sha256
),
unsaid AS (DELETE FROM answers USING gone WHERE answers.sha256 = gone.sha256)
SELECT analyzed_at, time_zone, counted FROM gone
"""
NOBODYS = """
WITH forgotten AS (DELETE FROM answers WHERE upload_id = CAST(:id AS uuid))
UPDATE uploads SET state = :deleted, reason_code = :deleted, reason = '', user_id = '', content_type = ''
WHERE id = CAST(:id AS uuid)
"""
UNTOLD = "DELETE FROM events WHERE upload_id = CAST(:id AS uuid)"  # nobody is told of it any more


def edit(visit: Visit, picture: uuid.UUID) -> flask.Response:
    """POST `caption` and `alt_text` of a form: what the picture shows instead of the model's words.

    These stay as they are, in columns of their own and in `result`, and are shown again when the own text is
    empty or the same. To a program the answer is JSON, with what is shown now. Raises Rejected for a text
    that is too long, and where the picture is not the user's.
    """
    form = bodies.once(visit.request.form)
    given = {field: _text(form.get(field), field) for field in LONGEST}

    def work(run: Executor) -> list[list[object]]:
        search.remove(run, visit.user, picture)
        return run(EDIT, user=visit.user, id=picture, **given)

    rows = visit.services.database.transaction(work)
    if not rows:
        raise no_such_picture()
    if not visit.json:
        return redirect(visit.link(f"/picture/{picture}"))
    names = ("caption", "alt_text", "own_caption", "own_alt_text", "edited_at")
    return flask.Response(
        json.dumps(dict(zip(names, rows[0], strict=True)), default=dt.datetime.isoformat),
        mimetype="application/json",
    )


def _text(text: str | None, field: str) -> str | None:
    """One line without what a text may not hold."""
    line = text if text is None else " ".join(UNWANTED.sub(" ", text).split())
    if line and len(line) > LONGEST[field]:
        name = field.replace("_", " ")
        raise Rejected(
            "text_too_long",
            f"The {name} has {len(line)} characters, and at most {LONGEST[field]} are kept.",
            "Shorten it: a screen reader reads all of it.",
            HTTPStatus.BAD_REQUEST,
        )
    return line


def delete(visit: Visit, picture: uuid.UUID) -> flask.Response:
    """Delete a picture, or an upload that is held or was rejected, with all traces.

    In what order, erasure.py says. A deletion that broke off is gone on with. The answer has the receipt,
    where receipts are kept. Raises Rejected where there is nothing of the user's to delete (404), and while
    somebody is at work on it (409).
    """
    services = visit.services
    upload = services.database.transaction(lambda run: _take_out(run, visit.user, picture))
    receipt = erasure.finish(upload, services)
    if receipt is None:
        return redirect(visit.link("/"))
    if visit.json:
        return flask.Response(json.dumps({"receipt": receipt}), mimetype="application/json")
    return pages.page(visit, "deleted.html", receipt=receipt)


def _take_out(run: Executor, user: str, id: uuid.UUID) -> Upload:
    """Make nobody's what is the user's, so that nothing shows or counts it."""
    for state, code, *where in run(UPLOAD, id=id):
        upload = Upload(*where)
        tombstone = (state, code) == (UploadState.DONE, UploadState.DELETED)
        if upload.user != user or tombstone:
            break
        if state == UploadState.DELETED:
            return upload
        if state not in (UploadState.DONE, UploadState.HELD):
            raise Rejected(
                "still_in_work",
                "The picture is still being worked on.",
                "Delete it when it is done; what was killed is taken up again within minutes.",
                HTTPStatus.CONFLICT,
                {"Retry-After": str(LATER_S)},
            )
        run(NOBODYS, id=id, deleted=UploadState.DELETED.value)
        run(UNTOLD, id=id)
        if not code:
            rollup.lock(run, user)
            search.remove(run, user, id)
            for gone in run(DELETE, user=user, id=id):
                if rollup.subtract(run, user, *gone):  # else achievements follow once the others are counted
                    progress.update_achievements(run, user)
        return upload
    raise no_such_picture()
