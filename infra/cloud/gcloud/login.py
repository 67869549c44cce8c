"""gcloud's login for Google's Python clients, so that one login does for all."""

import datetime as dt
import threading
from collections.abc import Sequence
from typing import Any

from google.oauth2.credentials import Credentials

from infra.cloud.gcloud.command import Gcloud

UNKNOWN_LIFE = dt.timedelta(minutes=30)  # of a token whose end gcloud does not tell
SPARE = dt.timedelta(minutes=5)  # google.auth renews 3 min 45 s before the end


def credentials(gcloud: Gcloud) -> Credentials:
    """Tokens of whoever is signed in to gcloud, renewed as they run out; its project's quota is used."""
    lock = threading.Lock()
    held: list[tuple[str, dt.datetime]] = []

    def renew(_: Any, scopes: Sequence[str] | None) -> tuple[str, dt.datetime]:
        with lock:  # the threads of a pool find at one time that it ran out
            now = dt.datetime.now(dt.UTC).replace(tzinfo=None)  # google.auth reckons without a zone
            if not held or held[0][1] < now + SPARE:
                found = gcloud.read("config", "config-helper", "--min-expiry=10m")["credential"]
                ends = found["token_expiry"]
                expiry = dt.datetime.fromisoformat(ends).replace(tzinfo=None) if ends else now + UNKNOWN_LIFE
                held[:] = [(found["access_token"], expiry)]
            return held[0]

    return Credentials(None, refresh_handler=renew, quota_project_id=gcloud.project)
