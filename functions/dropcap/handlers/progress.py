"""Answer `get_progress_stats`: a user's uploads, streaks and achievements, or what all pictures cost."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import flask

from dropcap.errors import Rejected
from dropcap.http import bodies
from dropcap.services import Services


def get_progress(request: flask.Request, services: Services, caller: str | None) -> Mapping[str, Any]:
    """Return the uploads, streaks and achievements of `user`, by default the signed-in one.

    `spending=1` returns what all pictures cost, by day, to operators.
    """
    options = bodies.single_values(request.args)
    if bodies.is_true(options.get("spending", "")):
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

    return stats(services.database, bodies.user(options, caller, None))
