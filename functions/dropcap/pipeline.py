"""The pipeline: what happens to an upload, from its lease to the deletion of its source.

    acquire the lease    one delivery works on an upload at a time; a killed one is followed by the next
    read                 bounded bytes of exactly this generation
    wait for its turn    one picture at a time is decoded, encoded and captioned (runtime/turns.py)
    analyze              decode, encode and caption while Gemini describes, then publish (analyze.py)
    record               one transaction: analysis, progress, receipt, event (outcomes.py)
    delete the source    this generation only, and only when every output is stored
    dispatch the event   to the consumer that EVENTS names

Each step is idempotent. After a transient error the platform delivers the event again, and the next delivery
starts from the beginning; what is stored already is not stored twice.
"""

from collections.abc import Mapping
from contextlib import suppress

from dropcap import erasure, logs, outcomes
from dropcap.analyze import analyze
from dropcap.database import leases
from dropcap.database.connection import DatabaseUnavailable
from dropcap.database.leases import Lease, LeaseHeld
from dropcap.domain.body import Body
from dropcap.domain.upload import Upload, UploadState
from dropcap.errors import Rejected
from dropcap.runtime import memory
from dropcap.runtime.turns import Turn
from dropcap.runtime.watchdog import Watchdog
from dropcap.sandbox.processes import DecoderHung
from dropcap.services import Services

# Bytes of a source that are read while another picture uses the CPU; a larger one waits for its turn. A
# choice: half of what is kept free while a picture is decoded (sandbox/client.py).
READ_AHEAD = 8 * 2**20


def process(upload: Upload, services: Services, posted: Body | None = None) -> None:
    """Process an upload from its lease to the deletion of its source.

    `posted` is the body of an upload that is not in a bucket. A rejected upload is quarantined and recorded;
    one without a verdict on its safety is held; nothing that its user deleted is restored.

    Raises LeaseHeld while another delivery holds the lease, or after it was taken over; Rejected for a posted
    picture, also if an earlier request did not finish it and its bytes are missing now. All other errors are
    transient, those of the database included: the lease is released, and the next delivery continues.
    """
    settings = services.settings
    watchdog = Watchdog(settings.memory_warning_mb, settings.lease_s, settings.timeout_s)
    with logs.bind_upload(upload.id), services.turns.take(posted=posted is not None) as turn:
        existing: Mapping[str, int] = {}
        with watchdog.stage("claim"):
            lease = services.leases.acquire_new(upload)
            if lease is None:
                # Listed before the lease is acquired: it holds nothing that a later delivery publishes.
                existing = services.buckets.published(upload)
                lease = services.leases.acquire(upload)
        if lease.state is UploadState.BUSY:
            raise LeaseHeld(f"Upload {upload.id} is being analyzed by another delivery.")
        if lease.state in (UploadState.DONE, UploadState.HELD):
            return
        if lease.state is UploadState.DELETED:
            erasure.erase(upload, services)
            if posted is not None:  # a concurrent deletion may not be finished
                raise LeaseHeld(f"Upload {upload.id} was being deleted.")
            return
        decided = True  # also where an earlier delivery committed the outcome, and crashed after it
        if lease.state is UploadState.LEASED:
            decided = _work(lease, upload, services, watchdog, turn, posted, existing)
        turn.end()
        if decided:
            with watchdog.stage("delete the source"):
                outcomes.dispose(upload, services)
        _dispatch(upload, services, watchdog)


def _work(
    lease: Lease,
    upload: Upload,
    services: Services,
    watchdog: Watchdog,
    turn: Turn,
    posted: Body | None,
    existing: Mapping[str, int],
) -> bool:
    """Analyze an upload under its lease, and commit the outcome. Return False if the upload is held.

    Each stage sends a heartbeat, which renews the lease and tells the next delivery where a crash happened.
    `existing` are the renditions of earlier deliveries: generations by object name. Raises LeaseHeld if the
    lease is lost.
    """

    def heartbeat(stage: str) -> None:
        if not services.leases.heartbeat(upload, lease.token, stage, memory.rss_mb()):
            raise leases.lost(upload)

    watchdog.on_stage = heartbeat
    body = posted or Body(lambda: services.buckets.read(upload))

    def begin() -> None:
        with watchdog.paused():
            turn.begin(lambda: heartbeat("wait"), services.settings.lease_s / 3)

    try:
        try:
            leases.check_crashes(lease, upload, services.settings.max_deaths)
            if upload.size > READ_AHEAD:
                begin()
            with watchdog.stage("read"):
                if posted is None and not upload.in_bucket:
                    raise leases.not_finished()
                body.load()
            begin()
            analysis = analyze(body, upload, services, watchdog, turn, existing)
            with watchdog.stage("record"):
                outcomes.record(analysis, upload, lease, services)
        except Rejected as rejection:
            turn.end()
            return outcomes.reject(rejection, upload, lease, services, watchdog, body.sha256, existing)
    except LeaseHeld:
        erasure.unpublish_unrecorded(upload, services)
        raise
    except BaseException as failed:
        give_up = services.leases.discard if isinstance(failed, Rejected) else services.leases.release
        if not isinstance(failed, DecoderHung):  # its lease expires, which counts as a crash
            with suppress(DatabaseUnavailable):  # the lease then expires
                give_up(upload, lease.token)
        raise
    return True


def _dispatch(upload: Upload, services: Services, watchdog: Watchdog) -> None:
    """Deliver the upload's event, if EVENTS asks for it. Its lease has ended: no heartbeat is sent."""
    if services.settings.events:
        watchdog.on_stage = lambda stage: None
        with watchdog.stage("tell"):
            services.dispatcher.dispatch(upload)
