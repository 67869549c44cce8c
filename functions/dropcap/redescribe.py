# ruff: noqa: S608  what is put into the SQL is this file's own
"""What is to be described anew: what another prompt or model described, or none, counted or marked.

Nothing else is ever asked anew. The sweep describes what is marked (later.py); until then it keeps its words.
"""

import datetime as dt
import time
import uuid
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from dropcap import logs
from dropcap.errors import Rejected
from dropcap.services import Services

BATCH = 1000  # rows that one statement of `redescribe` looks at: 16 ms to count, 200 to mark
# A batch by the key, whoever's they are, so that each statement reads the same number of rows.
CHOSEN = """
WITH looked AS (SELECT * FROM analyses WHERE id > CAST(:after AS uuid) ORDER BY id LIMIT :batch),
chosen AS (
  SELECT id, result FROM looked
  WHERE jsonb_typeof(result->'pictures'->0) = 'object'
    AND (:user = '' OR user_id = :user)
    AND analyzed_at >= coalesce(CAST(:since AS timestamptz), '-infinity')
    AND (:all OR (result->'provenance'->'gemini'->>'model', result->'provenance'->'gemini'->>'prompt',
                  result->>'language')
         IS DISTINCT FROM (CAST(:model AS text), CAST(:prompt AS text),
                           coalesce(result->>'named_language', CAST(:language AS text))))
)"""
COUNT = f"{CHOSEN} SELECT (SELECT count(*) FROM chosen), (SELECT max(id::text) FROM looked)"
# Where a person wants to ask anew what has been answered, the answer that is kept must not be in the way.
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
    """What somebody wants to be described anew, counted or marked.

    `owner`, `since` (ISO 8601), `all`, and `mark`, without which it only counts; `after` goes on there. The
    answer is logged, with a `token`, for who asks through a queue. Raises Rejected.
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
            "`redescribe` is no object of what is to be described anew.",
            'Give "owner", "since" (an instant), "all" and "mark" (true or false), or none of them.',
            HTTPStatus.BAD_REQUEST,
        ) from wrong
    if not services.settings.gemini_api_key:
        raise Rejected(
            "no_key",
            "There is no GEMINI_API_KEY, so nobody could describe them.",
            "Set it, and ask again.",
            HTTPStatus.CONFLICT,
        )
    chosen = {"user": wanted.get("owner", ""), "since": since, "all": wanted.get("all", False)}
    answer = redescribe(services, chosen, after, mark=wanted.get("mark", False))
    logs.write("INFO", "to be described anew", **answer, token=wanted.get("token", ""))
    return answer


def redescribe(
    services: Services, chosen: Mapping[str, Any], after: uuid.UUID, *, mark: bool
) -> Mapping[str, Any]:
    """Count, or mark for the sweep, the pictures that another prompt or model described, or none.

    `chosen`: of one `user`, unless it is empty; analyzed `since` an instant, unless it is None; `all`, by the
    present prompt and model too. It begins beyond the id `after`, and goes on for SWEEP_S at most: `after` of
    the answer, where it ended, is None when all have been looked at.
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
            return {"pictures": counted, "marked": mark, "after": last}
