"""Receive storage events: process their objects, and acknowledge bodies that are not events."""

import logging
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import flask

from dropcap import logs
from dropcap.domain.upload import FINALIZED, from_event
from dropcap.errors import DropcapError, Rejected
from dropcap.http import bodies, origin, problems
from dropcap.services import Services
from dropcap.storage.disposal import DeletionRefused

logger = logging.getLogger(__name__)


def receive(request: flask.Request, services: Services) -> flask.Response:
    """Process the event in a request. Other bodies are acknowledged, or they would be redelivered."""
    if request.method != "POST":
        flask.abort(HTTPStatus.METHOD_NOT_ALLOWED)
    logs.bind_trace(request.headers.get("traceparent", ""))
    try:
        origin.check(request, services.settings)
        event = bodies.event(request)
    except Rejected as refused:
        return problems.problem(refused.status, refused.code, refused.problem, refused.remedy)
    except ValueError as wrong:
        logger.error(f"Ignored: the body {wrong}.", extra={"event": "event_invalid"})
    else:
        handle_event(event.type, event.data, services)
    return problems.streamed(flask.Response("OK"))


def handle_event(kind: str, data: Mapping[str, Any] | None, services: Services) -> None:
    """Process the object of a storage event; raise only if redelivery can help."""
    from dropcap.database.leases import LeaseHeld
    from dropcap.describing.gemini import deferring
    from dropcap.pipeline import process

    settings = services.settings
    if kind != FINALIZED:  # deleted, archived or changed: there are no new bytes
        logs.once(
            logger,
            logging.WARNING,
            f"Ignored: the trigger must be for {FINALIZED} alone.",
            "event_type_ignored",
        )
        return
    try:
        upload = from_event(data or {})
    except Rejected as rejection:
        # Acknowledged, because a redelivery would not help.
        logger.error(str(rejection), extra={"event": "event_invalid"})
        return
    if upload.bucket != settings.uploads_bucket:
        logger.warning(
            f"Ignored: the trigger must watch {settings.uploads_bucket}.",
            extra={"event": "event_bucket_ignored", "bucket": upload.bucket},
        )
        return
    if not upload.wanted(settings.include, settings.exclude):
        ignored = (
            "Ignored: empty, a folder, made by Resize Images, a tool's temporary object, or not chosen by "
            "INCLUDE and EXCLUDE."
        )
        logger.info(ignored, extra={"event": "object_ignored", "object": upload.name})
        return
    try:
        with deferring(upload, settings):
            process(upload, services)
    except LeaseHeld as busy:
        logger.info(str(busy), extra={"event": "lease_held"})
        flask.abort(HTTPStatus.SERVICE_UNAVAILABLE)
    except DeletionRefused as stays:  # acknowledged: the rest is done, and reconcile retries with backoff
        logger.warning(
            "the source could not be deleted",
            extra={"event": "source_not_deleted", "upload": str(upload.id), "problem": str(stays)},
        )
    except DropcapError as failed:
        with logs.bind_upload(upload.id):
            problems.log_expected(failed)
        flask.abort(HTTPStatus.INTERNAL_SERVER_ERROR)
