"""Answer requests: every failure becomes `application/problem+json` (RFC 9457), never a stack trace."""

import json
import logging
from collections.abc import Callable
from http import HTTPStatus

import flask
from werkzeug.exceptions import HTTPException, RequestEntityTooLarge

from dropcap import logs
from dropcap.domain import content_encoding
from dropcap.errors import DropcapError, Rejected, SchemaError, SettingsError, cause
from dropcap.http import bodies

logger = logging.getLogger(__name__)

Render = Callable[[HTTPStatus, str, str, str], flask.Response]  # status, code, problem, remedy
RETRY_AFTER_S = 10
# Rejections whose cause is logged, because the message alone does not say what is wrong with the bytes.
LOGGED_CODES = frozenset({"broken_picture", "needs_too_much_memory"})


def problem(status: HTTPStatus, code: str, problem: str, remedy: str) -> flask.Response:
    """Return a problem as JSON (RFC 9457)."""
    facts = {"type": "about:blank", "title": status.phrase, "status": int(status)}
    facts |= {"code": code, "detail": problem, "remedy": remedy}
    return streamed(flask.Response(json.dumps(facts), status, mimetype="application/problem+json"))


def streamed(response: flask.Response) -> flask.Response:
    """Return the response as a stream: otherwise the framework reads the whole request into memory."""
    if not response.is_streamed:
        data = response.get_data()
        response.headers["Content-Length"] = str(len(data))
        response.response = iter([data])
    return response


def handle(
    request: flask.Request, max_mb: int, handler: Callable[[], flask.Response], render: Render = problem
) -> flask.Response:
    """Return the handler's response, or the `render`ed problem if it raises.

    The handler runs with this request's trace in the log and a limit of LARGEST_JSON for the body, which
    handlers that accept more raise.
    """
    logs.bind_trace(request.headers.get("traceparent", ""))
    request.max_content_length = bodies.LARGEST_JSON
    try:
        bodies.check_query(request)
        content_encoding.check_supported(request.headers.get("Content-Encoding", ""), gzip=False)
        return handler()
    except Rejected as rejection:
        if rejection.code in LOGGED_CODES:
            logger.info(
                str(rejection),
                extra={"event": "request_rejected", "code": rejection.code, "cause": cause(rejection)},
            )
        response = render(rejection.status, rejection.code, rejection.problem, rejection.remedy)
        response.headers.update(rejection.headers)
        return response
    except RequestEntityTooLarge:
        return render(
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            "too_many_bytes",
            f"The request is larger than {max_mb} MiB.",
            "Send a smaller picture, or raise MAX_MB.",
        )
    except HTTPException as refused:  # raised by Flask, for a broken multipart body for example
        return render(
            HTTPStatus(refused.code or 400), "bad_request", "The request can't be read.", "Check its form."
        )
    except Exception as failed:  # transient until proven otherwise: log the error, tell the client to retry
        if isinstance(failed, DropcapError):
            log_expected(failed)
        else:
            logger.error("request failed", exc_info=failed, extra={"event": "request_failed"})
        response = render(
            HTTPStatus.SERVICE_UNAVAILABLE,
            "try_again",
            "The request could not be answered just now.",
            "Try again later. If it keeps failing, check the function's log.",
        )
        response.headers["Retry-After"] = str(RETRY_AFTER_S)
        return response


def log_expected(failed: Exception) -> None:
    """Log in one line why a request failed; a stack trace would add nothing."""
    event = "setup_refused" if isinstance(failed, SettingsError | SchemaError) else "request_failed"
    facts = {"event": event, "error": type(failed).__name__, "problem": str(failed)}
    logger.error("request failed", extra=facts)


def wrong_method(request: flask.Request, *allowed: str) -> Rejected:
    """Return the rejection of the request's method."""
    return Rejected(
        "wrong_method",
        f"{request.method} is not allowed here.",
        f"Use {' or '.join(allowed)}.",
        HTTPStatus.METHOD_NOT_ALLOWED,
        {"Allow": ", ".join(allowed)},
    )
