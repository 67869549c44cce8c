# ruff: noqa: S608  what is put into the SQL is this file's own
"""Reconcile: find unfinished uploads in database and bucket, and process them as usual.

    rows that are not done, with an expired lease     a kill, a long outage, a source that disappeared,
                                                      an interrupted deletion, a hold that is due,
                                                      an unfinished posted picture, which is removed
    objects without a row                             their event was never delivered

A row that fails goes to the back of the queue: it is retried after ten minutes, with exponential backoff, so
that failing rows never delay the others. After five failures it is reported, because a person must act, and
retried daily.

Held uploads come last, and wait for the next run once several have come back held: while Gemini is
unavailable, each costs a decoding, a caption and Gemini's whole time limit. Each kind has its share of the
time, because any may exceed one run: a bucket that keeps a million sources takes minutes to list.

A run that finds nothing costs three queries and a listing, with one query for each page of objects, no
matter how many of them are done and kept. Leases coordinate the work: a run may overlap with deliveries and
other runs. With a key for Gemini, the run finally describes pictures whose description was deferred
(deferred/worker.py), which costs one query if there are none. Users know reconcile as the function `sweep`.
"""

import datetime as dt
import logging
import time
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any

from dropcap.database.connection import DatabaseUnavailable
from dropcap.database.leases import OUTCOME, LeaseHeld
from dropcap.database.prune import prune
from dropcap.describing.gemini import deferring
from dropcap.domain.upload import Upload, UploadState
from dropcap.errors import Rejected
from dropcap.pipeline import process
from dropcap.services import Services
from dropcap.storage.disposal import DeletionRefused
from dropcap.storage.gcs import NotStored, transient_summary

logger = logging.getLogger(__name__)

ROWS = 1000  # at most in one run
# The part of SWEEP_S after which no more uploads of a kind start. The first quarter is for events
# (_dispatch_events), the rest for descriptions.
SHARES = {"rows": 0.5, "objects": 0.75, "held": 0.9}
FIRST_S, DAY_S = 600, 86_400  # delay before the next try; reconcile runs every ten minutes
REPORTED = 5  # failures, in 2.5 hours, after which a row is reported and retried daily
MAX_HELD_AGAIN = 3  # held uploads that come back held, after which the others wait for the next run
# A posted picture is not in a bucket: if it is not recorded, it can't be finished without its bytes, and is
# removed. The row of one that crashed instances stays, in case it is posted again.
UNFINISHED = f"""
SELECT stuck, rows.* FROM (
  SELECT count(*) AS stuck FROM uploads WHERE state <> 'done' AND sweep_failures >= {REPORTED}
) AS reported LEFT JOIN (
  SELECT state, bucket, name, generation, size, content_type FROM uploads
  WHERE state <> 'done' AND lease_until <= now() AND coalesce(sweep_after, lease_until) <= now()
    AND (bucket = :bucket OR bucket = '' AND (state <> 'claimed' OR deaths = '[]'))
  ORDER BY state = 'held', coalesce(sweep_after, lease_until) LIMIT :rows
) AS rows ON true
"""
FAILED = f"""
UPDATE uploads SET sweep_failures = sweep_failures + 1,
  sweep_after = now() + make_interval(secs =>
    CASE WHEN sweep_failures + 1 < {REPORTED} THEN {FIRST_S} * 2 ^ sweep_failures ELSE {DAY_S} END)
WHERE id = :id AND state <> 'done' RETURNING sweep_failures
"""
# Uploads that INCLUDE and EXCLUDE no longer choose must not take the place of others.
PASSED_OVER = f"""
UPDATE uploads SET sweep_after = now() + make_interval(secs => {DAY_S})
WHERE id = ANY(CAST(:ids AS uuid[])) RETURNING 1
"""
KNOWN = "SELECT id FROM uploads WHERE id = ANY(CAST(:ids AS uuid[]))"
# Ids are hashes, so the next id after a random one is a random upload. If none of 30 is in this bucket, few
# uploads are, and the listing starts at its beginning.
ANY_NAME = """
SELECT name FROM (SELECT bucket, name FROM uploads WHERE id >= :id ORDER BY id LIMIT 30) AS some_of_all
WHERE bucket = :bucket LIMIT 1
"""


def reconcile(services: Services, min_age_s: float) -> Mapping[str, Any]:
    """Finish unfinished uploads one by one, and start none after SWEEP_S. Returns their number by outcome.

    Objects without a row count from an age of `min_age_s`, because the event of a younger one may still
    arrive. Outcomes are `done`, `quarantined`, `failed` (the log has the cause), and `left`: no time was
    left, another worker holds the lease, or the upload is still held. `stuck` counts all uploads that have
    failed so often that a person must act, tried now or not. `complete` is false if there was no time for
    everything.
    """
    begun, seconds = time.monotonic(), services.settings.sweep_s
    dispatched = _dispatch_events(services)
    outcomes = Counter(dict.fromkeys(("found", "done", "quarantined", "failed", "left", "stuck"), 0))
    complete, held_again = True, 0
    for kind, batches in _unfinished(services, min_age_s, outcomes).items():
        ends = begun + SHARES[kind] * seconds
        for some in batches:
            for upload in some:
                outcomes["found"] += 1
                in_time = time.monotonic() < ends
                complete = complete and in_time
                outcome = (
                    _finish(upload, services, outcomes) if in_time and held_again < MAX_HELD_AGAIN else "left"
                )
                held_again += kind == "held" and outcome == "left"
                outcomes[outcome] += 1
            if time.monotonic() > ends:
                complete = complete and kind != "objects"  # there may be another page of objects
                break
    ends = begun + seconds
    if services.settings.gemini_api_key:
        from dropcap.deferred.worker import describe_pending

        outcomes.update(describe_pending(services, ends))
    prune(services.database, services.settings, ends)
    logger.log(
        logging.INFO if complete and not outcomes["failed"] else logging.WARNING,
        "reconcile finished",
        extra={"event": "reconcile_finished", **outcomes, **dispatched},
    )
    return {**outcomes, **dispatched, "complete": complete}


def _dispatch_events(services: Services) -> Mapping[str, int]:
    """Dispatch pending events in a quarter of the time: first, because a picture may crash the instance."""
    if not services.settings.events:
        return {}
    return services.dispatcher.dispatch_due(time.monotonic() + services.settings.sweep_s / 4)


def _unfinished(
    services: Services, min_age_s: float, outcomes: Counter[str]
) -> Mapping[str, Iterable[list[Upload]]]:
    """Yield unfinished uploads by kind."""
    database, bucket = services.database, services.settings.uploads_bucket
    found = database.query(UNFINISHED, bucket=bucket, rows=ROWS)
    outcomes["stuck"] = found[0][0]
    rows = [(state, Upload(*row)) for _, state, *row in found if state is not None]
    # INCLUDE and EXCLUDE apply to objects; an upload that its user has deleted is removed regardless of them.
    passed_over = {
        upload.id
        for state, upload in rows
        if upload.in_bucket and state != UploadState.DELETED and not _wanted(upload, services)
    }
    if passed_over:
        database.query(PASSED_OVER, ids=[str(each) for each in passed_over])
    rows = [(state, upload) for state, upload in rows if upload.id not in passed_over]
    return {
        "rows": [[upload for state, upload in rows if state != UploadState.HELD]],
        "objects": _without_row(services, min_age_s),
        "held": [[upload for state, upload in rows if state == UploadState.HELD]],
    }


def _without_row(services: Services, min_age_s: float) -> Iterator[list[Upload]]:
    """Yield pages of objects without a row, from a random start, so that no part is skipped every time."""
    database, bucket = services.database, services.settings.uploads_bucket
    before = dt.datetime.now(dt.UTC) - dt.timedelta(seconds=min_age_s)
    [[middle]] = database.query(ANY_NAME, id=uuid.uuid4(), bucket=bucket) or [[None]]
    for part in ((middle, None), (None, middle)) if middle else ((None, None),):
        for page in services.buckets.pages(before, *part):
            known = {row[0] for row in database.query(KNOWN, ids=[str(each.id) for each in page])}
            yield [each for each in page if each.id not in known and _wanted(each, services)]


def _wanted(upload: Upload, services: Services) -> bool:
    return upload.wanted(services.settings.include, services.settings.exclude)


def _finish(upload: Upload, services: Services, outcomes: Counter[str]) -> str:
    """Finish one upload and return its outcome; a failure must not stop the others."""
    try:
        current = services.buckets.current(upload) if upload.in_bucket else upload
        with deferring(current, services.settings):
            process(current, services)
        [[code]] = services.database.query(OUTCOME, id=upload.id) or [[UploadState.DELETED]]
    except LeaseHeld:
        return "left"
    except Rejected as ended:  # a posted picture, whose bytes are not kept
        logger.info(str(ended), extra={"event": "posted_picture_removed", "upload": str(upload.id)})
        return "done"
    except Exception as problem:  # logged and counted
        outcomes["stuck"] += _failed(upload, problem, services) == REPORTED
        return "failed"
    if code == UploadState.HELD:
        return "left"
    return "done" if code in ("", "gone", UploadState.DELETED) else "quarantined"


def _failed(upload: Upload, problem: Exception, services: Services) -> int:
    """Move the row to the back, log why, and return its number of failures, 1 if there is no row."""
    from google.api_core.exceptions import Forbidden

    tries = 1
    with suppress(DatabaseUnavailable):  # the next run retries it
        [[tries]] = services.database.query(FAILED, id=upload.id) or [[1]]
    why = transient_summary(problem)
    facts = {"upload": str(upload.id), "object": upload.name, "tries": tries}
    facts["problem"] = why or type(problem).__name__
    if tries >= REPORTED:
        remedy = "Its log lines say what happened before."
        if isinstance(problem, Forbidden | DeletionRefused):
            remedy = (
                "A retention policy or a hold keeps the object, or the function lacks "
                "storage.objects.delete: lift it, or keep sources with SOURCE=keep."
            )
        elif isinstance(problem, NotStored):
            remedy = "Restore the published files while the bucket's soft delete still has them."
        logger.error(
            "reconcile can't finish an upload", extra={"event": "upload_stuck", **facts, "remedy": remedy}
        )
    elif why:
        logger.warning("not finished by reconcile", extra={"event": "upload_not_finished", **facts})
    else:
        logger.error(
            "not finished by reconcile", exc_info=problem, extra={"event": "upload_not_finished", **facts}
        )
    return int(tries)
