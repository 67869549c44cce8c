"""Use gcloud's login for Google's Python clients."""

import datetime as dt
import threading
from collections.abc import Sequence
from typing import Any

from google.oauth2.credentials import Credentials

from infra.cloud.gcloud.command import Gcloud

UNKNOWN_LIFE = dt.timedelta(minutes=30)  # of a token whose expiry gcloud does not print
SPARE = dt.timedelta(minutes=5)  # google.auth renews 3 min 45 s before the expiry


def credentials(gcloud: Gcloud) -> Credentials:
    """Return credentials of gcloud's account, which renew their tokens, with the project's quota."""
    lock = threading.Lock()
    held: list[tuple[str, dt.datetime]] = []

    def renew(_: Any, scopes: Sequence[str] | None) -> tuple[str, dt.datetime]:
        with lock:  # several threads may find it expired at the same time
            now = dt.datetime.now(dt.UTC).replace(tzinfo=None)  # google.auth uses times without a time zone
            if not held or held[0][1] < now + SPARE:
                found = gcloud.read("config", "config-helper", "--min-expiry=10m")["credential"]
                ends = found["token_expiry"]
                expiry = dt.datetime.fromisoformat(ends).replace(tzinfo=None) if ends else now + UNKNOWN_LIFE
                held[:] = [(found["access_token"], expiry)]
            return held[0]

    return Credentials(None, refresh_handler=renew, quota_project_id=gcloud.project)
