"""Answer `analyze`: a posted picture, or an object of the uploads bucket."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import flask

from dropcap.database.leases import OUTCOME, LeaseHeld
from dropcap.domain.body import Body
from dropcap.domain.upload import ANONYMOUS, Upload, UploadState, owner, posted
from dropcap.errors import Rejected
from dropcap.http import bodies
from dropcap.http.problems import RETRY_AFTER_S
from dropcap.runtime.watchdog import Watchdog
from dropcap.services import Services

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class AnalyzeRequest:
    """The upload to analyze, its body if that was posted, and whether to publish and record it."""

    upload: Upload
    posted: Body | None
    keep: bool


def analyze_picture(request: flask.Request, services: Services, caller: str | None) -> Mapping[str, Any]:
    """Return the analysis of a raw body, a multipart file, or the object in JSON `{"bucket", "name"}`.

    `keep=true` in the query, form or JSON publishes and records the picture as an upload would be. For a
    posted picture, `user`, `tz` and `language` name its user, the user's time zone and the language of the
    description. A stored object's own metadata counts instead, and it must be that of the given or signed-in
    user.
    """
    from dropcap.analyze import analyze  # loads Pillow and NumPy, which get_progress_stats does without

    asked = _parse(request, services, caller)
    if asked.keep:
        return _kept_analysis(asked, services)
    settings, upload = services.settings, asked.upload
    watchdog = Watchdog(settings.memory_warning_mb, settings.lease_s, settings.timeout_s)
    body = asked.posted or Body(lambda: services.buckets.read(upload))
    with services.turns.take(posted=asked.posted is not None) as turn:
        turn.begin()
        body.load()
        return analyze(body, upload, services, watchdog, turn).to_json()


def _kept_analysis(asked: AnalyzeRequest, services: Services) -> Mapping[str, Any]:
    """Process the upload and return its recorded analysis, with its receipt if there is one."""
    from dropcap import pipeline
    from dropcap.database import receipts
    from dropcap.describing import moderation
    from dropcap.storage import disposal

    upload = asked.upload
    try:
        pipeline.process(upload, services, asked.posted)
    except disposal.DeletionRefused as stays:
        logger.warning(
            "the source could not be deleted",
            extra={"event": "source_not_deleted", "upload": str(upload.id), "problem": str(stays)},
        )
    except LeaseHeld as busy:
        logger.info(str(busy), extra={"event": "lease_held"})
        raise Rejected(
            "being_analyzed",
            "The picture is being analyzed by another request or delivery.",
            "Send it again in a while: the answer is then the same analysis.",
            HTTPStatus.CONFLICT,
            {"Retry-After": str(RETRY_AFTER_S)},
        ) from busy
    recorded = services.analyses.result(upload.id)
    if recorded is None and services.database.query(OUTCOME, id=upload.id) == [[UploadState.HELD]]:
        raise moderation.no_verdict()
    if recorded is None:
        raise Rejected(
            "quarantined",
            "This object is not a picture that can be analyzed.",
            f"The reason is in the metadata of its copy in {services.settings.quarantine_bucket}.",
            HTTPStatus.UNPROCESSABLE_ENTITY,
        )
    proofs = receipts.by_upload(services.database, [upload.id])
    return recorded | ({"receipt": proofs[upload.id]} if upload.id in proofs else {})


def _parse(request: flask.Request, services: Services, caller: str | None) -> AnalyzeRequest:
    """Parse the request, and count it against its user's rate limit before any expensive work."""
    from dropcap.database import rate_limit
    from dropcap.storage.buckets import check_size

    settings = services.settings
    largest = settings.max_mb * 1024 * 1024
    if caller:
        rate_limit.count(services.database, caller, settings.max_per_hour)
    data, content_type, default = None, request.mimetype, ANONYMOUS
    options: Mapping[str, Any]
    if request.mimetype == "application/json":
        options = bodies.json_object(request)
        bucket, name = bodies.required_text(options, "bucket"), bodies.required_text(options, "name")
        default = owner(name)
    elif request.mimetype == "multipart/form-data":
        options, file = bodies.form(request, largest)
        data, content_type = file.read(), file.mimetype
        file.close()  # it has the bytes, too
    else:
        options = bodies.single_values(request.args)
    user = bodies.user(options, caller, default)
    if not caller and user != ANONYMOUS:  # without a user, the back end does its own counting
        rate_limit.count(services.database, user, settings.max_per_hour)
    keep = bodies.is_true(options.get("keep", ""))
    if request.mimetype == "application/json":
        return AnalyzeRequest(services.buckets.find(bucket, name, user), None, keep)
    if data is None:
        request.max_content_length = largest + 1
        data = request.get_data(cache=False)
    check_size(len(data), settings)
    zone, language = str(options.get("tz", "")), str(options.get("language", ""))
    body = Body(lambda: data)
    return AnalyzeRequest(posted(data, user, content_type, zone, language), body, keep)
