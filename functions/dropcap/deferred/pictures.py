"""One picture with a pending description: read it for Gemini, store what Gemini wrote, record a failure.

A picture that Gemini now finds above SAFETY is unpublished: it is copied to quarantine, its row is updated to
list no pictures, and the renditions are deleted. A crash in between leaves a pending row without pictures,
for which the next run deletes them.
"""

import logging
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from http import HTTPStatus
from typing import Any

from dropcap import erasure
from dropcap.budget import SPARE_S
from dropcap.database import receipts
from dropcap.deferred import rows
from dropcap.deferred.rows import PendingDescription
from dropcap.describing import moderation
from dropcap.describing.response import NotDescribed
from dropcap.domain import consistency, naming, texts
from dropcap.domain.analysis import Analysis, Caption, Description, Rendition, Source, Usage, Verdict
from dropcap.domain.body import Body
from dropcap.errors import Rejected, TransientError
from dropcap.runtime import memory
from dropcap.sandbox import client
from dropcap.services import Services
from dropcap.settings import Settings
from dropcap.storage.gcs import NotStored, transient_summary

logger = logging.getLogger(__name__)

MAX_TRIES = 15  # within 6.8 days
INVALID_RESPONSE_TRIES = 3  # tries that a response without a description counts as, because it costs money
# Reconcile stops after this many failures that no picture caused: Gemini, or a bucket, is down.
MAX_FAILURES = 3


class StillPublished(TransientError):
    """Transient error: an unsafe picture is still published. Its retries never end."""


@dataclass(frozen=True, slots=True)
class Published:
    """A published picture: its largest rendition, the JPEG of it for Gemini, and whether one is animated."""

    largest: Rendition
    jpeg: bytes = field(repr=False)
    animated: bool


def read(pending: PendingDescription, services: Services) -> Published:
    """Read the largest rendition, and encode it for Gemini.

    Raises Rejected if the record does not say what was published, or nothing of it is stored.
    """
    settings, analysis = services.settings, pending.analysis
    if pending.upload.id != pending.id or not any(rendition.object for rendition in analysis.pictures):
        raise Rejected(
            "record_incomplete",
            "The record of the picture does not say what was uploaded or published.",
            "Restore it from a backup of the database, or upload the picture again.",
            HTTPStatus.GONE,
        )
    largest, data = _read_largest(pending, analysis, services)
    animated = is_animated(analysis, services)
    with client.open_picture(Body(lambda: data), settings, services.make_room) as source:
        return Published(largest, source.for_gemini().data, animated)


def lease_s(settings: Settings) -> float:
    """Return the length of the lease, s.

    It covers the longest time for Gemini, a stage that decodes before it, and one that stores after it. It is
    longer than TIMEOUT_S, after which the describing process ends.
    """
    return max(settings.gemini_s + 2 * settings.lease_s, settings.timeout_s + SPARE_S)


def record(
    pending: PendingDescription,
    description: Description,
    largest: Rendition | None,
    usage: Usage,
    services: Services,
    *,
    animated: bool,
) -> bool:
    """Store a description, unless its verdict unpublishes the picture; return whether the row is done.

    It is not if the picture was deleted, or marked again, while it was being described. Raises Rejected if
    the picture is above SAFETY.
    """
    settings = services.settings
    check_safety(pending, largest, description.safety, services)
    if animated:  # Gemini saw one frame only
        description = replace(description, safety=Verdict(moderation.UNKNOWN))
    memory.release()
    changes = _changes(pending, pending.analysis, description, usage, settings)
    counted = usage if settings.has_budget else None
    return rows.store(services.database, pending, changes, description.tags, counted)


def _read_largest(
    pending: PendingDescription, analysis: Analysis, services: Services
) -> tuple[Rendition, bytes]:
    """Return the largest rendition that is still stored, and its bytes.

    Raises Rejected if all of them have been deleted or replaced.
    """
    for rendition in sorted(analysis.pictures, key=lambda rendition: rendition.width, reverse=True):
        with suppress(NotStored):
            return rendition, services.buckets.read_published(rendition)
    services.buckets.published(pending.upload)  # raises if the bucket is missing or does not answer
    raise Rejected(
        "published_gone",
        "None of the picture's published files is still stored as it was written.",
        "Restore one while the bucket's soft delete keeps it, then run make redescribe.",
        HTTPStatus.GONE,
    )


def is_animated(analysis: Analysis, services: Services) -> bool:
    """Return whether a rendition is animated, which is possible if SAFETY was off when it was published.

    It only matters to a verdict.
    """
    if services.settings.safety == "off" or analysis.picture.format not in naming.ANIMATED_FORMATS:
        return False
    for rendition in analysis.pictures:
        if rendition.content_type == naming.CONTENT_TYPES["webp"]:
            with suppress(NotStored):  # a deleted rendition is not shown
                if client.is_animated(services.buckets.read_published(rendition), services.settings):
                    return True
    return False


def check_safety(
    pending: PendingDescription, largest: Rendition | None, verdict: Verdict | None, services: Services
) -> None:
    """Unpublish a picture that is above SAFETY, and raise Rejected; without a verdict it stays published."""
    try:
        moderation.check(verdict, services.settings)
    except Rejected as rejection:
        if rejection.code == moderation.NO_VERDICT:
            return
        try:
            largest = largest or _read_largest(pending, pending.analysis, services)[0]
            moved = services.buckets.quarantine_published(pending.upload, largest, rejection)
        except Exception as error:
            raise _still_published(error) from error
        changes: dict[str, Any] = {"pictures": [], "safety": asdict(verdict) if verdict else None}
        if rows.update(services.database, pending, changes):
            if moved:
                services.database.query(receipts.MOVED_TO_QUARANTINE, id=pending.id)
            unpublish(pending, services)
        elif services.analyses.result(pending.id) is None:
            # The user deleted the picture meanwhile, before the copy was in quarantine.
            services.buckets.forget_quarantined(pending.upload, largest)
        raise


def _still_published(error: Exception) -> StillPublished:
    return StillPublished(
        f"An unsafe picture is still published: {transient_summary(error) or type(error).__name__}"
    )


def unpublish(pending: PendingDescription, services: Services) -> None:
    try:
        erasure.unpublish(pending.upload, services.buckets)
    except Exception as error:
        raise _still_published(error) from error


def _changes(
    pending: PendingDescription,
    analysis: Analysis,
    description: Description,
    usage: Usage,
    settings: Settings,
) -> dict[str, Any]:
    """Return the fields of the result that the description changes."""
    blip = texts.marked_sources(analysis.sources).get("blip", Source(False))
    # Older revisions stored BLIP's caption in `caption` only, and of its model the name.
    text = analysis.captions.get("blip", "") if analysis.captions else analysis.caption
    caption = Caption(text, blip.model, blip.version, blip.confidence, blip.low_confidence, blip.demo)
    authors = texts.provenance(description, caption, analysis.analyzed_at, "")
    provenance = {model: asdict(author) for model, author in authors.items()}
    if "blip" in provenance and (recorded := analysis.provenance.get("blip")):
        provenance["blip"] |= {"prompt": recorded.prompt, "at": recorded.at}
    changes = asdict(texts.select(description, caption)) | {
        "sources": _sources(pending, Source(True, description.model, description.version)),
        "agreement": asdict(consistency.compare(text, description)) if texts.trusted(caption) else None,
        "usage": asdict((analysis.usage or Usage()) + usage),
        "provenance": provenance,
        "captions": texts.captions(description, caption),
    }
    if settings.safety != "off":
        changes["safety"] = asdict(description.safety or Verdict(moderation.UNKNOWN))
    return changes


def _sources(pending: PendingDescription, gemini: Source) -> dict[str, Any]:
    """Return the sources of the result, updated for Gemini."""
    return {**(pending.result.get("sources") or {}), "gemini": asdict(gemini)}


def record_failure(pending: PendingDescription, error: Exception, usage: Usage, services: Services) -> bool:
    """Log and record why a picture was not described; return whether other pictures may fail like it.

    Ends the retries if the picture is the cause, or after MAX_TRIES.
    """
    expected_error = isinstance(error, NotDescribed | Rejected)
    permanent = isinstance(error, NotDescribed | Rejected) and not error.retryable
    answered = isinstance(error, NotDescribed) and error.answered
    unsafe = isinstance(error, StillPublished)
    extra_tries = INVALID_RESPONSE_TRIES - 1 if answered else 0
    finish = permanent or (pending.tries + extra_tries >= MAX_TRIES and not unsafe)
    if expected_error:
        fields = {"event": "gemini_unavailable", "problem": str(error)}
        logger.warning("not described by Gemini", extra=fields)
    elif line := transient_summary(error):
        fields = {"event": "deferred_description_failed", "problem": line}
        logger.log(logging.ERROR if unsafe else logging.WARNING, "not described by reconcile", extra=fields)
    else:
        fields = {"event": "deferred_description_failed"}
        logger.error("not described by reconcile", exc_info=error, extra=fields)
    problem = str(error) if expected_error else f"Reconcile failed ({type(error).__name__})"
    analysis = pending.analysis
    total = (analysis.usage or Usage()) + usage
    changes: dict[str, Any] = {"describe_later": not finish, "usage": asdict(total)}
    if not analysis.sources.get("gemini", Source(False)).answered:  # else the earlier description is shown
        source = Source(False, services.settings.gemini_model, problem=problem)
        changes["sources"] = _sources(pending, source)
    rows.fail(services.database, pending, changes, finish=finish, extra_tries=extra_tries)
    return not (permanent or answered or unsafe)
