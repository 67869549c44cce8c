# ruff: noqa: S608  what is put into the SQL is this file's own
"""Count or mark pictures to be described again: those described by another prompt or model, or not at all.

Nothing else is requested again. Reconcile describes marked pictures (deferred/worker.py); until then their
texts stay.
"""

import datetime as dt
import logging
import time
import uuid
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from dropcap.errors import Rejected
from dropcap.services import Services

logger = logging.getLogger(__name__)

BATCH = 1000  # rows that one statement of `redescribe` scans: 16 ms to count, 200 ms to mark
# Batches follow the key across all users, so that each statement reads the same number of rows.
CHOSEN = """
WITH looked AS (SELECT * FROM analyses WHERE id > CAST(:after AS uuid) ORDER BY id LIMIT :batch),
chosen AS (
  SELECT id, result FROM looked
  WHERE jsonb_typeof(result->'pictures'->0) = 'object'
    AND NOT EXISTS (SELECT FROM batch_requests WHERE upload_id = looked.id AND lease_until > now())
    AND (:user = '' OR user_id = :user)
    AND analyzed_at >= coalesce(CAST(:since AS timestamptz), '-infinity')
    AND (:all OR (result->'provenance'->'gemini'->>'model', result->'provenance'->'gemini'->>'prompt',
                  result->>'language')
         IS DISTINCT FROM (CAST(:model AS text), CAST(:prompt AS text),
                           coalesce(result->>'named_language', CAST(:language AS text))))
)"""
COUNT = f"{CHOSEN} SELECT (SELECT count(*) FROM chosen), (SELECT max(id::text) FROM looked)"
# If a person wants a new answer, the cached one must not be used.
MARK = f"""
{CHOSEN},
forgotten AS (
  DELETE FROM answers WHERE :all AND answer IS NOT NULL
    AND sha256 IN (SELECT result->'picture'->>'sha256' FROM chosen)
),
marked AS (
  UPDATE analyses SET describe_after = now(), describe_tries = 0
  WHERE id IN (SELECT id FROM chosen) RETURNING 1
)
SELECT (SELECT count(*) FROM marked), (SELECT max(id::text) FROM looked)
"""


def asked(wanted: Any, services: Services) -> Mapping[str, Any]:
    """Handle a request to describe pictures again: count or mark them.

    Options are `owner`, `since` (ISO 8601), `all`, `mark` (otherwise it only counts), and `after`, the id to
    continue from. The answer is logged with `token`, for callers behind a queue. Raises Rejected.
    """
    kinds = {"owner": str, "since": str, "all": bool, "mark": bool, "after": str, "token": str}
    try:
        if not all(type(value) is kinds[name] for name, value in wanted.items()):
            raise TypeError
        since = dt.datetime.fromisoformat(wanted["since"]) if "since" in wanted else None
        after = uuid.UUID(wanted["after"]) if "after" in wanted else uuid.UUID(int=0)
    except (AttributeError, KeyError, TypeError, ValueError) as wrong:
        raise Rejected(
            "bad_redescribe",
            "`redescribe` is not a valid selection of pictures.",
            'Give "owner", "since" (an instant), "all" and "mark" (true or false), or none of them.',
            HTTPStatus.BAD_REQUEST,
        ) from wrong
    if not services.settings.gemini_api_key:
        raise Rejected(
            "no_key",
            "GEMINI_API_KEY is not set, so no picture can be described.",
            "Set it, and ask again.",
            HTTPStatus.CONFLICT,
        )
    chosen = {"user": wanted.get("owner", ""), "since": since, "all": wanted.get("all", False)}
    answer = redescribe(services, chosen, after, mark=wanted.get("mark", False))
    logger.info(
        "to be described anew",
        extra={"event": "redescribe_requested", **answer, "token": wanted.get("token", "")},
    )
    return answer


def redescribe(
    services: Services, chosen: Mapping[str, Any], after: uuid.UUID, *, mark: bool
) -> Mapping[str, Any]:
    """Count, or mark for reconcile, pictures described by another prompt or model, or not at all.

    `chosen` limits them to one `user`, unless empty, and to those analyzed `since` a time, unless None; `all`
    includes those by the present prompt and model. Starts after the id `after` and takes at most SWEEP_S. The
    `after` in the answer is the last id seen, or None when all have been seen. `batch` is the number from
    which waiting pictures are described in batches; those that are in one already are not chosen.
    """
    settings, ends, counted = services.settings, time.monotonic() + services.settings.sweep_s, 0
    present = {
        "model": settings.gemini_model,
        "prompt": services.describer.prompt,
        "language": settings.language,
    }
    sql, last = MARK if mark else COUNT, str(after)
    while True:
        [[found, last]] = services.database.query(sql, after=last, batch=BATCH, **chosen, **present)
        counted += found
        if last is None or time.monotonic() > ends:
            batch = settings.gemini_batch if settings.can_batch else 0
            return {"pictures": counted, "marked": mark, "after": last, "batch": batch}
