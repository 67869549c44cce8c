# ruff: noqa: S608  what is put into the SQL is this file's own
"""Deferred descriptions: the sweep describes what Gemini could not, from the published picture.

A row of `analyses` whose description is pending has a time in `describe_after`, on which there is a partial
index. A worker acquires the lease by moving that time beyond the longest that the work may take. It may
change the row only while the time is still the one that it set. So a picture that is deleted meanwhile stays
deleted, and two sweeps never describe one twice. The exception is a description, because it has been paid
for: it is stored even after the lease expired, if the row still needs one. After a failure, the time is that
of the next try. A person's own caption and alt text are in separate columns, and stay.

A picture that Gemini then finds above SAFETY is withdrawn: it is copied to quarantine, its row is updated to
list no pictures, and the pictures are deleted. A crash in between leaves a pending row without pictures.
"""

import datetime as dt
import logging
import time
import uuid
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from http import HTTPStatus
from typing import Any

from dropcap import erasure, logs
from dropcap.budget import SPARE_S, BudgetExhausted, GeminiBudget
from dropcap.database import daily_usage, receipts, search
from dropcap.database.transactions import Executor
from dropcap.describing import moderation
from dropcap.describing.response import NotDescribed
from dropcap.domain import consistency, texts
from dropcap.domain.analysis import Analysis, Caption, Description, Rendition, Source, Usage, Verdict
from dropcap.domain.records import read
from dropcap.domain.upload import Upload
from dropcap.errors import Rejected, TransientError
from dropcap.imaging import decoding
from dropcap.runtime import memory
from dropcap.runtime.watchdog import Watchdog
from dropcap.services import Services
from dropcap.settings import Settings
from dropcap.storage.gcs import NotStored, expected

logger = logging.getLogger(__name__)

FIRST_S, LONGEST_S = 300, 86_400  # until the next try, which doubles: the sweep comes every ten minutes
TRIES = 15  # in 6.8 days
UNFIT = 3  # tries that an invalid answer counts as, because it costs money
FAILURES = 3  # in one sweep, none the picture's: then they are Gemini's, and the others need not find out
NEXT_S = f"least({FIRST_S} * 2 ^ {{}}, {LONGEST_S})"
# Not before its source is gone, for which all that is published must be there.
TAKE = f"""
UPDATE analyses SET describe_tries = describe_tries + 1,
  describe_after = now() + make_interval(secs => greatest(:lease, {NEXT_S.format("describe_tries")}))
WHERE id = (
  SELECT id FROM analyses AS due WHERE describe_after <= now()
    AND coalesce((SELECT state FROM uploads WHERE uploads.id = due.id), 'done') = 'done'
  ORDER BY describe_after LIMIT 1 FOR UPDATE OF due SKIP LOCKED
)
RETURNING id, user_id, describe_after, describe_tries, result
"""
OURS = "id = :id AND describe_after = :until"
# A paid description is stored even if the lease has expired or the row was marked again meanwhile, provided
# that the row still needs one. The current or next holder continues, and replaces it.
DESCRIBED = """
UPDATE analyses SET caption = :caption, description = :description, alt_text = :alt_text, tags = :tags,
  picture_text = :text, describe_after = nullif(describe_after, :until),
  describe_tries = CASE WHEN describe_after = :until THEN 0 ELSE describe_tries END,
  result = result || CAST(:result AS jsonb) || jsonb_build_object('describe_later', describe_after <> :until)
WHERE id = :id AND describe_after IS NOT NULL AND jsonb_typeof(result->'pictures'->0) = 'object'
RETURNING describe_after
"""
FAILED = f"""
UPDATE analyses SET result = result || CAST(:result AS jsonb), describe_tries = describe_tries + :more,
  describe_after = CASE
    WHEN :over THEN NULL
    WHEN :again THEN now() + make_interval(secs => {NEXT_S.format("(describe_tries + :more - 1)")})
    ELSE describe_after END
WHERE {OURS} RETURNING id
"""
# Whoever deleted the picture meanwhile could not find the answer that came since.
FORGET = """
DELETE FROM answers WHERE upload_id = :id AND NOT EXISTS (SELECT FROM analyses WHERE id = :id) RETURNING 1
"""
NOT_TRIED = f"""
UPDATE analyses SET describe_after = now(), describe_tries = describe_tries - 1 WHERE {OURS} RETURNING id
"""


@dataclass(frozen=True, slots=True)
class Due:
    """A row that is leased until `until`, at its n-th try; `result` is its Analysis as JSON.

    The JSON is kept unchanged, including keys of a newer revision; `known` holds the fields that we know.
    """

    id: uuid.UUID
    user: str
    until: dt.datetime
    tries: int
    result: Mapping[str, Any]

    @property
    def known(self) -> Analysis:
        return read(Analysis, self.result)

    @property
    def upload(self) -> Upload:
        return read(Upload, self.result.get("upload"))


class StillPublished(TransientError):
    """Transient error: an unsafe picture is still published. Unlike a description, this is never given up."""


def describe(services: Services, ends: float) -> Mapping[str, int]:
    """Describe what is due, one after the other, until the monotonic clock is at `ends`.

    How many are described, and how many failed: those come again, later each time, for about a week.
    """
    done, failures = Counter[str](), 0
    while time.monotonic() < ends and failures < FAILURES:
        with memory.heavy_work_lock:  # before the lease, which begins with the work
            rows = services.database.query(TAKE, lease=lease_s(services.settings))
            if not rows:
                break
            due = Due(*rows[0])
            budget = GeminiBudget(services, due.id, due.known.picture.sha256)
            with logs.bind_upload(due.id):
                try:
                    done["described"] += _describe(due, budget, services)
                except BudgetExhausted:
                    services.database.query(NOT_TRIED, id=due.id, until=due.until)
                    break
                except Exception as problem:  # a failure must not keep the sweep from the others
                    done["not_described"] += 1
                    failures += _failed(due, problem, budget.usage(0), services)
    return done


def lease_s(settings: Settings) -> float:
    """Return the length of the lease, s.

    It covers the longest time for Gemini, a stage that decodes before it, and one that stores after it. It is
    longer than TIMEOUT_S, after which the describing process ends.
    """
    return max(settings.gemini_s + 2 * settings.lease_s, settings.timeout_s + SPARE_S)


def _describe(due: Due, budget: GeminiBudget, services: Services) -> bool:
    """False where the picture is gone, or its description is no longer wanted."""
    settings, known = services.settings, due.known
    named = any(each.object for each in known.pictures)
    # An earlier withdrawal did not finish. A damaged list does not count as empty: nothing is deleted for it.
    taken_back = due.result.get("pictures") == []
    if due.upload.id != due.id or not (named or taken_back):
        raise Rejected(
            "record_incomplete",
            "The record of the picture does not say what was uploaded or published.",
            "Restore it from a backup of the database, or upload the picture again.",
            HTTPStatus.GONE,
        )
    if taken_back:
        _unpublish(due, services)
        _note(due, {"describe_later": False}, services, over=True)
        return False
    watchdog = Watchdog(settings.memory_warning_mb, settings.lease_s, settings.timeout_s)
    with watchdog.stage("read what is published"):
        largest, data = _largest(due, known, services)
        moves = settings.safety != "off" and _moves(known, services)
        with decoding.opened(data, settings, services.make_room) as source:
            jpeg = source.for_gemini(settings).data
    with watchdog.stage("describe later"):
        try:
            description = budget.describe(jpeg, known.named_language or settings.language)
        except NotDescribed as unavailable:
            _check_safety(due, largest, unavailable.verdict, services)
            raise
    with watchdog.stage("record the description"):
        _check_safety(due, largest, description.safety, services)
        if moves:
            description = replace(description, safety=Verdict(moderation.UNKNOWN))
        memory.release()
        usage = budget.usage(sum(watchdog.timings.values()))
        if not _store(due, known, description, usage, services):
            services.database.query(FORGET, id=due.id)
            return False
    logger.info("described later", extra={"event": "picture_described", **budget.log_fields(usage)})
    return True


def _largest(due: Due, known: Analysis, services: Services) -> tuple[Rendition, bytes]:
    """Return the largest published picture that is still stored, and its bytes.

    Raises Rejected if all of them have been deleted or replaced.
    """
    for each in sorted(known.pictures, key=lambda each: each.width, reverse=True):
        with suppress(NotStored):
            return each, services.buckets.read_published(each)
    services.buckets.published(due.upload)  # raises transient errors: no such bucket, or it is unreachable
    raise Rejected(
        "published_gone",
        "None of the picture's published files is still stored as it was written.",
        "Restore it, while the bucket's soft delete keeps it, and ask for it by make redescribe.",
        HTTPStatus.GONE,
    )


def _moves(known: Analysis, services: Services) -> bool:
    """Return whether a published picture is animated: before SAFETY was set, that was allowed."""
    from dropcap.imaging import animation

    if known.picture.format not in animation.MOVING:
        return False
    for each in known.pictures:
        if each.content_type == decoding.CONTENT_TYPES["webp"]:
            with suppress(NotStored):  # nobody sees it
                if animation.count(services.buckets.read_published(each), "WEBP") > 1:
                    return True
    return False


def _check_safety(due: Due, largest: Rendition, verdict: Verdict | None, services: Services) -> None:
    """Take back what is published of a picture that is above SAFETY, and raise Rejected.

    What has no verdict, even now, stays as it is.
    """
    try:
        moderation.check(verdict, services.settings)
    except Rejected as rejection:
        if rejection.code == moderation.NO_VERDICT:
            return
        try:
            moved = services.buckets.quarantine_published(due.upload, largest, rejection)
        except Exception as failed:
            raise _still_published(failed) from failed
        if _note(due, {"pictures": [], "safety": asdict(verdict) if verdict else None}, services):
            if moved:
                services.database.query(receipts.MOVED, id=due.id)
            _unpublish(due, services)
        elif services.analyses.result(due.id) is None:  # whoever deleted it could not find the copy
            services.buckets.forget_quarantined(due.upload, largest)
        raise


def _still_published(failed: Exception) -> StillPublished:
    return StillPublished(
        f"An unsafe picture is still published: {expected(failed) or type(failed).__name__}"
    )


def _unpublish(due: Due, services: Services) -> None:
    try:
        erasure.unpublish(due.upload, services.buckets)
    except Exception as failed:
        raise _still_published(failed) from failed


def _note(
    due: Due,
    changes: Mapping[str, Any],
    services: Services,
    *,
    over: bool = False,
    again: bool = False,
    more: int = 0,
) -> bool:
    """Change the result, where the row is still ours: it is `over`, or tried `again` later, or stays ours.

    It counts as so many `more` tries than the one that it was.
    """
    values = {"id": due.id, "until": due.until, "over": over, "again": again, "more": more, "result": changes}
    return bool(services.database.query(FAILED, **values))


def _sources(due: Due, gemini: Source) -> dict[str, Any]:
    """Return the sources of the result, updated for Gemini."""
    return {**(due.result.get("sources") or {}), "gemini": asdict(gemini)}


def _store(due: Due, known: Analysis, description: Description, usage: Usage, services: Services) -> bool:
    """Put it in place of what was there before, unless none is wanted any more. Whether the row is done."""
    settings, blip = services.settings, texts.marked_sources(known.sources).get("blip", Source(False))
    # An older result has BLIP's caption alone, and of its model the name.
    text = known.captions.get("blip", "") if known.captions else known.caption
    caption = Caption(text, blip.model, blip.version, blip.confidence, blip.low_confidence, blip.demo)
    shown = texts.select(description, caption)
    provenance = texts.provenance(description, caption, known.analyzed_at, "")
    said = {who: asdict(each) for who, each in provenance.items()}
    if (before := known.provenance.get("blip")) and "blip" in said:
        said["blip"] |= {"prompt": before.prompt, "at": before.at}
    changes = asdict(shown) | {
        "sources": _sources(due, Source(True, description.model, description.version)),
        "agreement": asdict(consistency.compare(text, description)) if texts.trusted(caption) else None,
        "usage": asdict(_sum(known.usage, usage)),
        "provenance": said,
        "captions": texts.captions(description, caption),
    }
    if settings.safety != "off":
        changes["safety"] = asdict(description.safety or Verdict(moderation.UNKNOWN))

    def work(run: Executor) -> bool:
        search.forget(run, due.user, due.id)  # first, as all do: it waits for nobody who waits for the row
        columns = {name: changes[name] for name in ("caption", "description", "alt_text", "text")}
        rows = run(
            DESCRIBED, id=due.id, until=due.until, tags=list(description.tags), result=changes, **columns
        )
        if rows and settings.has_budget:
            daily_usage.count_picture(run, usage, pictures=0)
        return rows == [[None]]

    return services.database.transaction(work)


def _sum(before: Usage | None, more: Usage) -> Usage:
    """Return the total cost of the picture."""
    so_far = before or Usage()
    usd = None if more.usd is None else round((so_far.usd or 0) + more.usd, 6)
    return Usage(
        so_far.calls + more.calls,
        so_far.input_tokens + more.input_tokens,
        so_far.output_tokens + more.output_tokens,
        usd,
        round(so_far.gb_seconds + more.gb_seconds, 3),
        more.reused,
    )


def _failed(due: Due, problem: Exception, usage: Usage, services: Services) -> bool:
    """Note why; for good where it is the picture's fault, or at the last try. Whether it may be another's."""
    known = isinstance(problem, NotDescribed | Rejected)
    fault = isinstance(problem, NotDescribed | Rejected) and not problem.retryable
    answered = isinstance(problem, NotDescribed) and problem.answered
    more = UNFIT - 1 if answered else 0
    over = fault or (due.tries + more >= TRIES and not isinstance(problem, StillPublished))
    if known:
        facts = {"event": "gemini_unavailable", "problem": str(problem)}
        logger.warning("not described by Gemini", extra=facts)
    elif line := expected(problem):
        level = logging.ERROR if isinstance(problem, StillPublished) else logging.WARNING
        facts = {"event": "deferred_description_failed", "problem": line}
        logger.log(level, "not described by the sweep", extra=facts)
    else:
        facts = {"event": "deferred_description_failed"}
        logger.error("not described by the sweep", exc_info=problem, extra=facts)
    why = str(problem) if known else f"The sweep failed ({type(problem).__name__})"
    changes: dict[str, Any] = {"describe_later": not over, "usage": asdict(_sum(due.known.usage, usage))}
    if not due.known.sources.get("gemini", Source(False)).answered:  # else the earlier answer still counts
        source = Source(False, services.settings.gemini_model, problem=why)
        changes |= {"sources": _sources(due, source)}
    if not _note(due, changes, services, over=over, again=True, more=more):
        services.database.query(FORGET, id=due.id)
    return not (fault or answered or isinstance(problem, StillPublished))
