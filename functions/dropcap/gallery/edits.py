# ruff: noqa: S608  what is put into the SQL is this project's own; users and ids are parameters
"""Handle a user's changes: replace a caption or alt text, and delete a picture."""

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
from dropcap.gallery.request import GalleryRequest, no_such_picture, redirect
from dropcap.gallery.wall import Filters
from dropcap.http import bodies

LONGEST = {"caption": 300, "alt_text": 250}  # characters by the field of the form
RETRY_AFTER_S = 10
# An omitted field stays as it is. An empty text, or the model's own, restores the model's.
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
# Locked, so that another worker either finishes before, or finds the row deleted.
UPLOAD = f"""
SELECT CASE WHEN {ABANDONED} THEN '{UploadState.HELD}' ELSE state END,
       CASE WHEN {ABANDONED} THEN '{UploadState.HELD}' ELSE reason_code END, bucket, name, generation, size
FROM uploads WHERE id = CAST(:id AS uuid) FOR UPDATE
"""
# Cached responses for these bytes are deleted as well, whoever uploaded them (response_cache.py).
DELETE = """
WITH deleted AS (
  DELETE FROM analyses WHERE user_id = :user AND id = CAST(:id AS uuid)
  RETURNING analyzed_at, time_zone, counted, result->'picture'->>'sha256' AS sha256
),
cached AS (DELETE FROM answers USING deleted WHERE answers.sha256 = deleted.sha256),
requested AS (DELETE FROM batch_requests WHERE upload_id = CAST(:id AS uuid))
SELECT analyzed_at, time_zone, counted FROM deleted
"""
MARK_DELETED = """
WITH cached AS (DELETE FROM answers WHERE upload_id = CAST(:id AS uuid))
UPDATE uploads SET state = :deleted, reason_code = :deleted, reason = '', user_id = '', content_type = ''
WHERE id = CAST(:id AS uuid)
"""
DELETE_EVENTS = "DELETE FROM events WHERE upload_id = CAST(:id AS uuid)"


def edit(request: GalleryRequest, picture: uuid.UUID) -> flask.Response:
    """Replace the shown `caption` and `alt_text` by those of the posted form.

    The model's texts stay in their own columns and in `result`, and are shown again if the user's text is
    empty or equal. Programs get the texts now shown, as JSON. Raises Rejected if a text is too long, or the
    picture is not the user's.
    """
    form = bodies.single_values(request.http.form)
    texts = {field: _text(form.get(field), field) for field in LONGEST}

    def work(run: Executor) -> list[list[object]]:
        search.remove(run, request.user, picture)
        return run(EDIT, user=request.user, id=picture, **texts)

    rows = request.services.database.transaction(work)
    if not rows:
        raise no_such_picture()
    if not request.json:
        filters = Filters.read(request.http.args)
        return redirect(request.link(f"/picture/{picture}", **filters.query, done="saved"))
    names = ("caption", "alt_text", "own_caption", "own_alt_text", "edited_at")
    return flask.Response(
        json.dumps(dict(zip(names, rows[0], strict=True)), default=dt.datetime.isoformat),
        mimetype="application/json",
    )


def _text(text: str | None, field: str) -> str | None:
    """Return the text on one line, without unwanted characters; Rejected if it is too long."""
    line = text if text is None else " ".join(UNWANTED.sub(" ", text).split())
    if line and len(line) > LONGEST[field]:
        name = field.replace("_", " ")
        raise Rejected(
            "text_too_long",
            f"The {name} has {len(line)} characters; the limit is {LONGEST[field]}.",
            "Shorten it: a screen reader reads all of it.",
            HTTPStatus.BAD_REQUEST,
        )
    return line


def delete(request: GalleryRequest, picture: uuid.UUID) -> flask.Response:
    """Delete a picture, or an upload that is held or rejected, with all its data.

    erasure.py describes the order. An interrupted deletion is continued. The response has the receipt, if
    there is one. Raises Rejected if the user has no such picture (404), or a worker holds its lease (409).
    """
    services = request.services
    upload = services.database.transaction(lambda run: _unpublish(run, request.user, picture))
    receipt = erasure.erase(upload, services)
    if receipt is None:
        return redirect(request.link("/", **Filters.read(request.http.args).query, done="deleted"))
    if request.json:
        return flask.Response(json.dumps({"receipt": receipt}), mimetype="application/json")
    return pages.page(request, "deleted.html", receipt=receipt)


def _unpublish(run: Executor, user: str, id: uuid.UUID) -> Upload:
    """Mark the user's upload as deleted and remove its analysis, so that nothing shows or counts it."""
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
                "The picture is still being processed.",
                "Delete it when it is finished. After a crash, processing resumes within minutes.",
                HTTPStatus.CONFLICT,
                {"Retry-After": str(RETRY_AFTER_S)},
            )
        run(MARK_DELETED, id=id, deleted=UploadState.DELETED.value)
        run(DELETE_EVENTS, id=id)
        if not code:
            rollup.lock(run, user)
            search.remove(run, user, id)
            for gone in run(DELETE, user=user, id=id):
                # Otherwise achievements follow once the other pictures are counted.
                if rollup.subtract(run, user, *gone):
                    progress.update_achievements(run, user)
        return upload
    raise no_such_picture()
