"""Rate limit: each user may send MAX_PER_HOUR pictures per hour, to any number of instances.

It applies to `analyze` and, if users sign in, to uploads through the gallery.
"""

import time
from http import HTTPStatus

from dropcap.database.transactions import Database
from dropcap.errors import Rejected

HOUR_S = 3600
# Count one call in the current hour of UTC, unless :most calls are counted already. The row is locked, so of
# any number of concurrent calls exactly :most pass.
COUNT_CALL = """
INSERT INTO analyze_calls AS c (user_id, hour, calls)
VALUES (:user, date_trunc('hour', now(), 'UTC'), 1)
ON CONFLICT (user_id) DO UPDATE SET
  hour = greatest(c.hour, excluded.hour),
  calls = CASE WHEN c.hour < excluded.hour THEN 1 ELSE c.calls + 1 END
WHERE c.hour < excluded.hour OR c.calls < :most
RETURNING calls
"""


def count(database: Database, user: str, most: int) -> None:
    """Count one picture of the user, by the database's clock. A limit of 0 means no limit.

    Raises Rejected (429) above the limit; rejected pictures are not counted.
    """
    counted = not most or database.query(COUNT_CALL, user=user, most=most)
    if not counted:
        wait = HOUR_S - int(time.time()) % HOUR_S
        raise Rejected(
            "too_many_calls",
            f"The limit of {most} pictures an hour is reached.",
            f"Send it again in {wait} s, or raise MAX_PER_HOUR.",
            HTTPStatus.TOO_MANY_REQUESTS,
            {"Retry-After": str(wait)},
        )
