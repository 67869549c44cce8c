# ruff: noqa: S608  what is put into the SQL is this file's own
"""What Gemini said of which bytes: the same are never paid for twice, by whoever and however often uploaded.

A row is the SHA-256 of a source, the hash of what is asked with its language, and the model; with SAFETY also
the SHA-256 of the picture that is shown, as a verdict is of that alone. Who is first takes a lease, asks, and
stores the answer as it came, at once: whoever then dies, or comes with the same bytes, has it from here. Who
finds a lease waits a while, then does without, and the sweep describes the picture later. That Gemini
blocked the picture is an answer, too; what is unfit (response.py) is none, and never stored.

The answer goes with the picture: whoever deletes one of these bytes takes it along (gallery/changes.py).
"""

import datetime as dt
import time
import uuid
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from dropcap.records import read
from dropcap.response import Answer

if TYPE_CHECKING:
    from dropcap.database import Database

POLL_S = 0.5
KEY = "sha256 = :sha256 AND prompt = :prompt AND model = :model"
TAKE = """
INSERT INTO answers AS a (sha256, prompt, model, upload_id, asker, lease_until)
VALUES (:sha256, :prompt, :model, :upload, :asker, now() + make_interval(secs => :lease))
ON CONFLICT (sha256, prompt, model) DO UPDATE
SET upload_id = excluded.upload_id, asker = excluded.asker, lease_until = excluded.lease_until
WHERE a.answer IS NULL AND (a.lease_until <= now() OR a.asker = excluded.asker)
RETURNING 1
"""
READ = f"SELECT answer, asked_at FROM answers WHERE {KEY} AND answer IS NOT NULL"
KEEP = f"""
UPDATE answers SET answer = :answer, asked_at = :at WHERE {KEY} AND answer IS NULL RETURNING 1
"""
FORGET = f"DELETE FROM answers WHERE {KEY} AND asked_at = :at RETURNING 1"
GIVE_UP = f"DELETE FROM answers WHERE {KEY} AND asker = :asker AND answer IS NULL RETURNING 1"

Known = tuple[Answer, dt.datetime]
"""An answer, and the instant of it."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where the answer to one question about some bytes belongs; `asker` is our token."""

    sha256: str
    prompt: str
    model: str
    asker: str = field(default_factory=lambda: uuid.uuid4().hex)

    def take(self, database: "Database", upload: uuid.UUID, lease_s: float, wait_s: float) -> Known | None:
        """The answer that is known; None where it is ours to ask, for `lease_s` seconds.

        Raises TimeoutError where somebody else has been asking for more than `wait_s` seconds.
        """
        ends = time.monotonic() + wait_s
        while not database.query(TAKE, **self._key, asker=self.asker, upload=upload, lease=lease_s):
            for answer, at in database.query(READ, **self._key):
                return read(Answer, answer), at
            if time.monotonic() > ends:
                raise TimeoutError
            time.sleep(POLL_S)
        return None

    def keep(self, database: "Database", answer: Answer, at: dt.datetime) -> None:
        """Store what was answered, also where the lease has run out: it is paid."""
        database.query(KEEP, **self._key, answer=asdict(answer), at=at)

    def forget(self, database: "Database", at: dt.datetime) -> None:
        """Delete the answer of this instant."""
        database.query(FORGET, **self._key, at=at)

    def give_up(self, database: "Database") -> None:
        """Let somebody else ask."""
        database.query(GIVE_UP, **self._key, asker=self.asker)

    @property
    def _key(self) -> dict[str, Any]:
        return {"sha256": self.sha256, "prompt": self.prompt, "model": self.model}
