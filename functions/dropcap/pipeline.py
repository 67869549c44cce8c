"""The product's story, top to bottom: what happens to a picture between its upload and its caption."""

import datetime as dt
import hashlib
from collections.abc import Mapping
from contextlib import suppress
from http import HTTPStatus

from dropcap import erasure, inference, logs, renditions
from dropcap.budget import Brake
from dropcap.database import leases, receipts
from dropcap.database.connection import DatabaseUnavailable
from dropcap.database.leases import Claim, Row
from dropcap.describing import moderation
from dropcap.domain import texts
from dropcap.domain.analysis import Analysis, PictureFacts, Published
from dropcap.domain.outcome import Outcome
from dropcap.domain.records import read
from dropcap.domain.upload import Upload
from dropcap.errors import Rejected, TransientError, cause
from dropcap.imaging import decoding
from dropcap.outbox import dispatcher
from dropcap.runtime import memory
from dropcap.runtime.watchdog import Watchdog
from dropcap.services import Services
from dropcap.settings import Settings


class LeaseHeld(TransientError):
    """Another delivery holds the lease: redeliver, in case that one is killed."""


def process(upload: Upload, services: Services, posted: bytes | None = None) -> None:
    """Process an upload from its claim to the deletion of its source; each step is idempotent.

    `posted` are the bytes of an upload that is not in a bucket. A picture that is rejected is quarantined and
    recorded; one without a verdict on its safety is held. A posted picture raises Rejected instead, also if
    an earlier request did not finish it and its bytes are missing now. Raises LeaseHeld while another worker
    holds the lease, and after another has acquired it. Nothing that the user deleted is restored. All other
    errors are transient, including the database's: the lease is released, and the next delivery continues.
    """
    database, settings = services.database, services.settings
    watchdog = Watchdog(str(upload.id), settings.memory_warning_mb, settings.lease_s, settings.timeout_s)
    with logs.about(upload.id), memory.heavy_work_lock:
        with watchdog.stage("claim"):
            before = services.buckets.published(upload)  # first: what a later holder publishes is not in it
            claim = database.claim(upload)
        if claim.state == "busy":
            raise LeaseHeld(f"Upload {upload.id} is being analyzed by another delivery.")
        if claim.state == "done":
            return
        if claim.state == erasure.STATE:
            erasure.finish(upload, services)
            if posted is not None:  # a concurrent deletion may not be finished
                raise LeaseHeld(f"Upload {upload.id} was being deleted.")
            return
        if claim.state == moderation.HELD:
            return
        decided = True
        if claim.state == "claimed":
            watchdog.on_stage = lambda stage: _keep(claim, upload, services, stage)
            try:
                decided = _decide(claim, upload, services, watchdog, posted, before)
            except LeaseHeld:
                erasure.withdraw(upload, services)
                raise
            except BaseException as failed:
                give_back = database.forget if isinstance(failed, Rejected) else database.release
                with suppress(DatabaseUnavailable):  # the lease then runs out by itself
                    give_back(upload, claim.holder)
                raise
        if decided:
            with watchdog.stage("delete the source"):
                _finish(upload, services)
        if settings.events:
            watchdog.on_stage = lambda stage: None  # the upload is done, and nobody's claim
            with watchdog.stage("tell"):
                services.dispatcher.dispatch(upload)


def _keep(claim: Claim, upload: Upload, services: Services, stage: str) -> None:
    """Renew the lease as a stage begins, so that a crash in it is counted. Raises LeaseHeld if it is lost."""
    if not services.database.mark(upload, claim.holder, stage, memory.rss_mb()):
        raise _lost(upload)


def _lost(upload: Upload) -> LeaseHeld:
    return LeaseHeld(f"The claim on upload {upload.id} ran out and another delivery took it.")


def _decide(
    claim: Claim,
    upload: Upload,
    services: Services,
    watchdog: Watchdog,
    posted: bytes | None,
    before: Mapping[str, int],
) -> bool:
    """Record the analysis of a claimed upload, or quarantine it and record why; False where it is held."""
    database, buckets, settings = services.database, services.buckets, services.settings
    data = None
    try:
        _check_deaths(claim, upload, settings.max_deaths)
        with watchdog.stage("read"):
            if posted is None and not upload.in_bucket:
                raise leases.not_finished()
            data = buckets.read(upload) if posted is None else posted
        analysis = analyze(data, upload, services, watchdog, before)
        data = None
        with watchdog.stage("record"):
            rows = rows_of(Outcome(upload, analysis), claim.holder, settings)
            held = database.record(analysis, upload, claim.holder, rows)
    except Rejected as rejection:
        if rejection.code in moderation.HOLDS or not upload.in_bucket:
            erasure.unpublish(upload, buckets, before)  # by a delivery with another verdict, or a crash
        if not upload.in_bucket:
            raise
        logs.write(
            "WARNING", str(rejection), upload=str(upload.id), code=rejection.code, cause=cause(rejection)
        )
        sha256 = hashlib.sha256(data).hexdigest() if data is not None and settings.receipts else ""
        new = claim.age_s < moderation.LONGEST_S or not claim.reason  # days of other faults are no hold
        waits = rejection.code == moderation.NO_VERDICT and new
        outcome = Outcome(upload, rejection=rejection, sha256=sha256, waits=waits)
        rows = rows_of(outcome, claim.holder, settings)
        reason = (rejection.code, str(rejection))
        if waits:
            if not database.hold(upload, claim.holder, *reason, moderation.AGAIN_S, rows):
                raise _lost(upload) from rejection
            return False
        with watchdog.stage("quarantine"):
            buckets.quarantine(upload, rejection)
        held = database.reject(upload, claim.holder, *reason, rows)
    if not held:
        raise _lost(upload)
    return True


def rows_of(outcome: Outcome, holder: str, settings: Settings) -> tuple[Row, ...]:
    """Return the rows that the transaction of an outcome writes besides: its receipt and its event."""
    rows = []
    if settings.receipts:
        rows.append(receipts.row(outcome))
    if settings.events:
        rows.append(dispatcher.row(outcome, holder, settings.pictures_bucket))
    return tuple(rows)


def _check_deaths(claim: Claim, upload: Upload, most: int) -> None:
    """Raise Rejected where this upload took too many instances down: the next one is not to follow them."""
    if not claim.deaths:
        return
    problem = "At this upload the instance died, or hung and was ended, at: "
    problem += "; ".join(map(str, claim.deaths)) + "."
    times, stage = len(claim.deaths), claim.deaths[-1].stage
    logs.write("WARNING", problem, upload=str(upload.id), deaths=times, stage=stage)
    if times < most:
        return
    raise Rejected(
        "took_the_instance_down",
        problem,
        "Look into the function's log at these times; a smaller file, or another format, may work.",
        HTTPStatus.UNPROCESSABLE_ENTITY,
    )


def analyze(
    data: bytes,
    upload: Upload,
    services: Services,
    watchdog: Watchdog,
    before: Mapping[str, int] | None = None,
) -> Analysis:
    """From bytes to analysis: open, resize, describe beside caption, and publish where it is kept.

    It is kept where there is a `before`: what was published of it before it was claimed.
    Raises Rejected where the bytes are no picture that can be taken.
    """
    settings = services.settings
    with logs.about(upload.id), memory.heavy_work_lock:
        with watchdog.stage("open"):
            source = decoding.opened(data, settings, services.make_room)
        with source:
            with watchdog.stage("resize"):
                for_gemini = source.for_gemini(settings).data
                for_blip = source.fitted(decoding.BLIP_SIDE)
            brake = Brake(services, upload.id, "" if before is None else source.facts.sha256)
            with watchdog.stage("describe and caption"):
                seen = inference.look(upload, for_gemini, for_blip, services, brake)
            verdict = moderation.check(seen.verdict, settings)
            said = texts.select(seen.description, seen.caption)
            embedded = texts.select(seen.description, texts.trusted(seen.caption))
            agreement = inference.agreement(upload, seen)
            del for_gemini, for_blip
            with watchdog.stage("publish"):
                published: tuple[Published, ...] = ()
                if before and settings.safety != "off":
                    # Left by a delivery that crashed, perhaps with other settings: it is unknown what was
                    # judged.
                    erasure.unpublish(upload, services.buckets, before)
                    before = {}
                if before is not None:
                    published = renditions.publish(source, data, embedded, upload, services, before)
        memory.release()
        usage = brake.usage(sum(watchdog.timings.values()))
        rss_mb = round(memory.rss_mb(), 1)
        facts = {"sources": inference.facts(seen.sources), **brake.facts(usage)}
        logs.write("INFO", "analyzed", upload=str(upload.id), rss_mb=rss_mb, **facts)
    at = dt.datetime.now(dt.UTC)
    return Analysis(
        id=upload.id,
        upload=upload.to_json(),
        user=upload.user,
        analyzed_at=at,
        time_zone=upload.time_zone,
        picture=source.facts,
        caption=said.caption,
        description=said.description,
        alt_text=said.alt_text,
        tags=said.tags,
        text=said.text,
        sources=seen.sources,
        pictures=published,
        agreement=agreement,
        language=said.language,
        named_language=upload.language,
        captions=texts.captions(seen.description, seen.caption),
        safety=verdict,
        provenance=texts.provenance(seen.description, seen.caption, at, settings.caption_prompt),
        describe_later=seen.later and bool(published),
        usage=usage,
        memory=dict(watchdog.memory),
        timings=dict(watchdog.timings),
    )


def _finish(upload: Upload, services: Services) -> None:
    """Dispose of a source whose outcome is committed, and only when every output or its copy is stored."""
    fate = "never stored"
    if upload.in_bucket:
        fate = "gone"
        recorded = services.database.analysis(upload.id)
        stored = True
        if recorded:
            services.buckets.check(read(tuple[Published, ...], recorded.get("pictures")))
        else:
            stored = services.buckets.quarantined(upload)
            erasure.unpublish(upload, services.buckets)  # by one who died before it could be rejected
        pages = read(PictureFacts, recorded.get("picture")).pages if recorded else 1
        if stored and pages > 1 and services.settings.source == "delete":
            fate = "kept"  # the other pages are not published
            problem = f"It has {pages:,} pages, and only the largest is published."
            logs.write("WARNING", "the source is kept", upload=str(upload.id), problem=problem)
        elif stored:
            fate = services.buckets.dispose(upload, analyzed=recorded is not None)
    services.database.finish(upload, fate)
