"""Commit the outcome of an upload: record, hold or reject it; then dispose of its source."""

import logging
from collections.abc import Mapping

from dropcap import erasure
from dropcap.database import leases, receipts
from dropcap.database.leases import Lease
from dropcap.database.outcome_rows import OutcomeRow
from dropcap.describing import moderation
from dropcap.domain.analysis import Analysis, PictureFacts, Rendition
from dropcap.domain.outcome import Outcome
from dropcap.domain.records import read
from dropcap.domain.upload import Upload
from dropcap.errors import Rejected, cause
from dropcap.outbox import dispatcher
from dropcap.runtime.watchdog import Watchdog
from dropcap.services import Services
from dropcap.settings import Settings

logger = logging.getLogger(__name__)


def record(analysis: Analysis, upload: Upload, lease: Lease, services: Services) -> None:
    """Record the analysis of an upload. Raises LeaseHeld if the lease is lost."""
    rows = rows_of(Outcome(upload, analysis), lease.token, services.settings)
    if not services.analyses.record(analysis, upload, lease.token, rows):
        raise leases.lost(upload)


def reject(
    rejection: Rejected,
    upload: Upload,
    lease: Lease,
    services: Services,
    watchdog: Watchdog,
    sha256: str,
    existing: Mapping[str, int],
) -> bool:
    """Quarantine the source and record the rejection; or hold an upload without a verdict on its safety.

    Returns False if it is held. `sha256` is that of its bytes, empty if they were not read; `existing` are
    the renditions of earlier deliveries. Raises the rejection of a posted picture, and LeaseHeld if the lease
    is lost.
    """
    buckets, settings = services.buckets, services.settings
    if rejection.code in moderation.HOLDS or not upload.in_bucket:
        # Published by a delivery that had another verdict, or that crashed.
        erasure.unpublish(upload, buckets, existing)
    if not upload.in_bucket:
        raise rejection
    logger.warning(
        str(rejection), extra={"event": "upload_rejected", "code": rejection.code, "cause": cause(rejection)}
    )
    new = lease.age_s < moderation.MAX_HOLD_S or not lease.reason  # days of other faults are no hold
    waits = rejection.code == moderation.NO_VERDICT and new
    outcome = Outcome(upload, rejection=rejection, sha256=sha256 if settings.receipts else "", waits=waits)
    rows = rows_of(outcome, lease.token, settings)
    reason = (rejection.code, str(rejection))
    if waits:
        if not services.leases.hold(upload, lease.token, *reason, moderation.RETRY_S, rows):
            raise leases.lost(upload) from rejection
        return False
    with watchdog.stage("quarantine"):
        buckets.quarantine(upload, rejection)
    if not services.leases.reject(upload, lease.token, *reason, rows):
        raise leases.lost(upload) from rejection
    return True


def rows_of(outcome: Outcome, lease_token: str, settings: Settings) -> tuple[OutcomeRow, ...]:
    """Return the rows that are written in the outcome's own statement: its receipt and its event."""
    rows = []
    if settings.receipts:
        rows.append(receipts.row(outcome))
    if settings.events:
        rows.append(dispatcher.row(outcome, lease_token, settings.pictures_bucket))
    return tuple(rows)


def dispose(upload: Upload, services: Services) -> None:
    """Dispose of the source of an upload whose outcome is committed, once each output is stored."""
    disposition = "never stored"
    if upload.in_bucket:
        disposition = "gone"
        recorded = services.analyses.result(upload.id)
        stored = True
        if recorded:
            services.buckets.check(read(tuple[Rendition, ...], recorded.get("pictures")))
        else:
            stored = services.buckets.quarantined(upload)
            erasure.unpublish(upload, services.buckets)  # by a delivery that crashed before it could reject
        pages = read(PictureFacts, recorded.get("picture")).pages if recorded else 1
        if stored and pages > 1 and services.settings.source == "delete":
            disposition = "kept"  # the other pages are not published
            problem = f"It has {pages:,} pages, and only the largest is published."
            logger.warning("the source is kept", extra={"event": "source_kept", "problem": problem})
        elif stored:
            disposition = services.buckets.dispose(upload, analyzed=recorded is not None)
    services.leases.finish(upload, disposition)
