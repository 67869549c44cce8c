"""Dispatch a request of the JSON API: check method and caller, run the handler, serialize its answer."""

import json
from collections.abc import Callable, Mapping
from typing import Any

import flask

from dropcap.http import origin, problems
from dropcap.services import Services

# The last argument is the signed-in user, or None where IAM admits a back end, which then names the user.
Handler = Callable[[flask.Request, Services, str | None], Mapping[str, Any]]


def respond(
    request: flask.Request, method: str, handler: Handler, services: Services, operators: bool = False
) -> flask.Response:
    """Return the handler's answer as JSON.

    With AUTH=token, a request without a valid token is refused before its body is read. Functions for
    `operators` have no users: IAM decides who may call them.
    """

    def run() -> flask.Response:
        if request.method != method:
            raise problems.wrong_method(request, method)
        caller = None
        if services.settings.auth != "token" or operators:
            origin.check(request, services.settings)
        else:
            caller = services.tokens.user(request.headers.get("Authorization", ""))
        answer = json.dumps(handler(request, services, caller))
        return problems.streamed(flask.Response(answer, mimetype="application/json"))

    return problems.handle(request, services.settings.max_mb, run)
