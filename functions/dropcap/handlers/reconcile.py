"""Answer `sweep`: reconcile unfinished uploads, or mark pictures to be described again."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import flask

from dropcap.errors import Rejected
from dropcap.http import bodies
from dropcap.services import Services

YEAR_S = 31_536_000


def reconcile_uploads(request: flask.Request, services: Services, _: str | None) -> Mapping[str, Any]:
    """Reconcile unfinished uploads and return how many there were, by outcome.

    Objects without a row count from an age of `min_age_s`, by default the lease. With the JSON body
    `{"redescribe": {...}}`, mark the chosen pictures instead, for later calls to describe again.
    """
    if request.mimetype == "application/json":
        from dropcap.handlers.redescribe import asked

        return asked(bodies.json_object(request).get("redescribe"), services)
    from dropcap.reconcile import reconcile

    min_age_s = bodies.single_values(request.args).get("min_age_s", str(services.settings.lease_s))
    return reconcile(services, _seconds(min_age_s))


def _seconds(value: str) -> float:
    try:
        seconds = float(value)
        if 0 <= seconds < YEAR_S:
            return seconds
    except ValueError:
        pass
    raise Rejected(
        "bad_age",
        "`min_age_s` is not a number of seconds.",
        "Leave it out, or give one from 0 to a year: ?min_age_s=0.",
        HTTPStatus.BAD_REQUEST,
    )
