"""The HTTP edge: requests in, JSON out, every error as `application/problem+json` (RFC 9457)."""

import json
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any

import flask
from werkzeug.exceptions import HTTPException, RequestEntityTooLarge

from dropcap import logs
from dropcap.database.leases import LeaseHeld
from dropcap.domain.upload import ANONYMOUS, Upload, is_user, owner, posted
from dropcap.errors import DropcapError, Rejected, cause
from dropcap.http import bodies, origin
from dropcap.runtime.watchdog import Watchdog
from dropcap.services import Services
from dropcap.storage import content_encoding

# The last argument is the user who is signed in, or None where a back end that IAM lets in names the user.
Handler = Callable[[flask.Request, Services, str | None], Mapping[str, Any]]
Tell = Callable[[HTTPStatus, str, str, str], flask.Response]  # status, code, problem, remedy
RETRY_AFTER_S = 10
YEAR_S = 31_536_000
OF_BYTES = frozenset({"broken_picture", "needs_too_much_memory"})  # rejections whose cause is logged
HELD = "SELECT 1 FROM uploads WHERE id = :id AND state = 'held'"
TRUE = frozenset({"1", "true", "yes"})


def problem(status: HTTPStatus, code: str, problem: str, remedy: str) -> flask.Response:
    """The answer to a program that something went wrong (RFC 9457)."""
    facts = {"type": "about:blank", "title": status.phrase, "status": int(status)}
    facts |= {"code": code, "detail": problem, "remedy": remedy}
    return unread(flask.Response(json.dumps(facts), status, mimetype="application/problem+json"))


def unread(response: flask.Response) -> flask.Response:
    """Return the response as a stream: otherwise the framework reads the whole request into memory."""
    if not response.is_streamed:
        data = response.get_data()
        response.headers["Content-Length"] = str(len(data))
        response.response = iter([data])
    return response


def respond(
    request: flask.Request, method: str, handler: Handler, services: Services, operators: bool = False
) -> flask.Response:
    """Answer a request by its handler, in JSON.

    With AUTH=token nothing is done, nor the body read, for who shows no valid token. What is for `operators`
    has no users: there IAM says who may call.
    """

    def work() -> flask.Response:
        if request.method != method:
            raise wrong_method(request, method)
        caller = None
        if services.settings.auth != "token" or operators:
            origin.check(request, services.settings)
        else:
            caller = services.tokens.user(request.headers.get("Authorization", ""))
        answer = json.dumps(handler(request, services, caller))
        return unread(flask.Response(answer, mimetype="application/json"))

    return guarded(request, services, work)


def guarded(
    request: flask.Request, services: Services, work: Callable[[], flask.Response], tell: Tell = problem
) -> flask.Response:
    """What `work` answers; a client sees a problem and its remedy by `tell`, never a stack trace."""
    logs.follow(request.headers.get("traceparent", ""))
    request.max_content_length = bodies.LARGEST_JSON  # handlers that accept more raise this limit
    try:
        bodies.check_query(request)
        content_encoding.refuse(request.headers.get("Content-Encoding", ""), gzip=False)
        return work()
    except Rejected as rejection:
        if rejection.code in OF_BYTES:
            logs.write("INFO", str(rejection), code=rejection.code, cause=cause(rejection))
        response = tell(rejection.status, rejection.code, rejection.problem, rejection.remedy)
        response.headers.update(rejection.headers)
        return response
    except RequestEntityTooLarge:
        return tell(
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            "too_many_bytes",
            f"The request is larger than {services.settings.max_mb} MiB.",
            "Send a smaller picture, or raise MAX_MB.",
        )
    except HTTPException as refused:  # Flask's own: a broken multipart body, say
        return tell(
            HTTPStatus(refused.code or 400), "bad_request", "The request can't be read.", "Check its form."
        )
    except Exception as failed:  # the edge: whatever failed is logged, and the client may try again
        if isinstance(failed, DropcapError):
            log_expected(failed)
        else:
            logs.exception("request failed", failed)
        response = tell(
            HTTPStatus.SERVICE_UNAVAILABLE,
            "try_again",
            "The request could not be answered just now.",
            "Send it again in a while; if it goes on, look into the function's log.",
        )
        response.headers["Retry-After"] = str(RETRY_AFTER_S)
        return response


def log_expected(failed: Exception) -> None:
    """Log in one line why a request failed; a stack trace would add nothing."""
    logs.write("ERROR", "request failed", error=type(failed).__name__, problem=str(failed))


def wrong_method(request: flask.Request, *allowed: str) -> Rejected:
    """The refusal of the request's method, where these are allowed."""
    return Rejected(
        "wrong_method",
        f"{request.method} is not allowed here.",
        f"Use {' or '.join(allowed)}.",
        HTTPStatus.METHOD_NOT_ALLOWED,
        {"Allow": ", ".join(allowed)},
    )


def analyze(request: flask.Request, services: Services, caller: str | None) -> Mapping[str, Any]:
    """The analysis of a posted picture: a raw body, a multipart file, or JSON `{"bucket", "name"}`.

    `keep=true`, in query, form or JSON, publishes and records it as an upload would be. `user` and
    `tz` then say whose a posted picture is and in which zone, and `language` in which one it is to be
    described; a stored one says so itself, and where a user is given or signed in, only that user's is found.
    """
    from dropcap import pipeline
    from dropcap.analyze import analyze as analyze_bytes
    from dropcap.describing import moderation  # loads Pillow and NumPy: not for get_progress_stats
    from dropcap.storage import disposal

    settings = services.settings
    upload, data, keep = _asked(request, services, caller)
    if keep:
        try:
            pipeline.process(upload, services, data)
        except disposal.Undeletable as stays:
            logs.write(
                "WARNING", "the source could not be deleted", upload=str(upload.id), problem=str(stays)
            )
        except LeaseHeld as busy:
            logs.write("INFO", str(busy))
            raise Rejected(
                "being_analyzed",
                "The picture is being analyzed by another request or delivery.",
                "Send it again in a while: the answer is then the same analysis.",
                HTTPStatus.CONFLICT,
                {"Retry-After": str(RETRY_AFTER_S)},
            ) from busy
        recorded = services.analyses.result(upload.id)
        if recorded is None and services.database.query(HELD, id=upload.id):
            raise moderation.no_verdict()
        if recorded is None:
            raise Rejected(
                "quarantined",
                "This object is no picture that can be analyzed.",
                f"Its reason stands in the metadata of its copy in {settings.quarantine_bucket}.",
                HTTPStatus.UNPROCESSABLE_ENTITY,
            )
        from dropcap.database import receipts

        proofs = receipts.of(services.database, [upload.id])
        return recorded | ({"receipt": proofs[upload.id]} if upload.id in proofs else {})
    watchdog = Watchdog(str(upload.id), settings.memory_warning_mb, settings.lease_s, settings.timeout_s)
    data = services.buckets.read(upload) if data is None else data
    return analyze_bytes(data, upload, services, watchdog).to_json()


def _asked(
    request: flask.Request, services: Services, caller: str | None
) -> tuple[Upload, bytes | None, bool]:
    """Return the upload to analyze, its bytes if they were posted, and whether to keep it.

    A request counts (rate_limit.py) as soon as its user is known, before any expensive work.
    """
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
        bucket, name = bodies.text(options, "bucket"), bodies.text(options, "name")
        default = owner(name)
    elif request.mimetype == "multipart/form-data":
        options, file = bodies.form(request, largest)
        data, content_type = file.read(), file.mimetype
    else:
        options = bodies.once(request.args)
    user = user_of(options, caller, default)
    if not caller and user != ANONYMOUS:  # without a user: the back end keeps its own count
        rate_limit.count(services.database, user, settings.max_per_hour)
    keep = str(options.get("keep", "")).lower() in TRUE
    if request.mimetype == "application/json":
        return services.buckets.find(bucket, name, user), None, keep
    if data is None:
        request.max_content_length = largest + 1
        data = request.get_data(cache=False)
    check_size(len(data), settings)
    zone, language = str(options.get("tz", "")), str(options.get("language", ""))
    return posted(data, user, content_type, zone, language), data, keep


def sweep(request: flask.Request, services: Services, _: str | None) -> Mapping[str, Any]:
    """How many uploads no delivery has finished, and what became of them now.

    `min_age_s` is the age from which an object without a row is one of them: the lease, unless it is given.
    JSON `{"redescribe": {...}}` marks what is to be described anew instead, for the sweeps that follow.
    """
    if request.mimetype == "application/json":
        from dropcap.handlers.redescribe import asked

        return asked(bodies.json_object(request).get("redescribe"), services)
    from dropcap.reconcile import sweep

    min_age_s = bodies.once(request.args).get("min_age_s", str(services.settings.lease_s))
    return sweep(services, _seconds(min_age_s))


def progress(request: flask.Request, services: Services, caller: str | None) -> Mapping[str, Any]:
    """The uploads, streaks and achievements of `user`, who is the caller where one is signed in.

    `spending=1` is an operator's question: what all pictures cost, day by day.
    """
    options = bodies.once(request.args)
    if options.get("spending", "").lower() in TRUE:
        if services.settings.auth == "token" and caller not in services.settings.operators:
            raise Rejected(
                "operators_only",
                "Only an operator sees what all pictures cost.",
                "Put the `sub` of your ID token into OPERATORS.",
                HTTPStatus.FORBIDDEN,
            )
        from dropcap.database.daily_usage import report

        return report(services.database, services.settings)
    from dropcap.database.progress import stats

    return stats(services.database, user_of(options, caller, None))


def user_of(options: Mapping[str, Any], caller: str | None, default: str | None) -> str:
    """The user of the options, else the caller, else `default`; Rejected where it is not the caller."""
    user = options.get("user", caller or default)
    if caller and user != caller:
        raise Rejected(
            "not_you",
            "`user` is not who the ID token says.",
            "Leave it out: the user is always that of the token.",
            HTTPStatus.FORBIDDEN,
        )
    if not isinstance(user, str) or not is_user(user):
        raise Rejected(
            "no_user",
            "`user` is missing." if not user else "`user` is not a name.",
            "Say whose it is: ?user=ana, at most 128 characters, none of them a slash or control character.",
            HTTPStatus.BAD_REQUEST,
        )
    return user


def _seconds(value: str) -> float:
    try:
        seconds = float(value)
        if 0 <= seconds < YEAR_S:
            return seconds
    except ValueError:
        pass
    raise Rejected(
        "bad_age",
        "`min_age_s` is no number of seconds.",
        "Leave it out, or give one from 0 to a year: ?min_age_s=0.",
        HTTPStatus.BAD_REQUEST,
    )
