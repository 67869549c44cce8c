"""How often: each user may send MAX_PER_HOUR pictures in an hour, whichever instances answer.

What is sent to `analyze` counts, and where users sign in what they drop on the gallery's page.
"""

import time
from http import HTTPStatus

from dropcap.database.transactions import Database
from dropcap.errors import Rejected

HOUR_S = 3600


def count(database: Database, user: str, most: int) -> None:
    """Count one more picture of the user in this hour of UTC, by the database's clock. 0 sets no bound.

    One row a user, which the statement locks: of any number at once exactly `most` pass. Raises
    Rejected (429) for the others, which are not counted.
    """
    counted = not most or database.query(
        """
        INSERT INTO analyze_calls AS c (user_id, hour, calls)
        VALUES (:user, date_trunc('hour', now(), 'UTC'), 1)
        ON CONFLICT (user_id) DO UPDATE SET
          hour = greatest(c.hour, excluded.hour),
          calls = CASE WHEN c.hour < excluded.hour THEN 1 ELSE c.calls + 1 END
        WHERE c.hour < excluded.hour OR c.calls < :most
        RETURNING calls
        """,
        user=user,
        most=most,
    )
    if not counted:
        wait = HOUR_S - int(time.time()) % HOUR_S
        raise Rejected(
            "too_many_calls",
            f"{most} pictures an hour are taken, and this hour has had them.",
            f"Send it again in {wait} s, or raise MAX_PER_HOUR.",
            HTTPStatus.TOO_MANY_REQUESTS,
            {"Retry-After": str(wait)},
        )
