# ruff: noqa: S608  the SQL is composed of this module's constants
"""Response cache for Gemini: identical bytes are described, and paid for, once.

The key is the SHA-256 of the source, the hash of prompt and language, and the model; with SAFETY also the
SHA-256 of the picture that Gemini sees, because a verdict holds only for that one. The first worker takes a
lease, asks Gemini, and stores the response at once, so that it survives a crash. Other workers wait for the
lease for a while, then continue without a description, which is deferred (deferred/). The response for a
blocked picture is stored; an invalid one (response.InvalidResponse) is not.

Deleting a picture also deletes the cached responses for its bytes (gallery/edits.py).
"""

import datetime as dt
import time
import uuid
from dataclasses import asdict, dataclass, field
from typing import Any

from dropcap.database.transactions import Database
from dropcap.domain.gemini_response import GeminiResponse
from dropcap.domain.records import read

POLL_S = 0.5
KEY = "sha256 = :sha256 AND prompt = :prompt AND model = :model"
# Acquire the lease on an entry without a response, unless another worker holds it.
ACQUIRE = """
INSERT INTO answers AS a (sha256, prompt, model, upload_id, asker, lease_until)
VALUES (:sha256, :prompt, :model, :upload, :asker, now() + make_interval(secs => :lease))
ON CONFLICT (sha256, prompt, model) DO UPDATE
SET upload_id = excluded.upload_id, asker = excluded.asker, lease_until = excluded.lease_until
WHERE a.answer IS NULL AND (a.lease_until <= now() OR a.asker = excluded.asker)
RETURNING 1
"""
READ = f"SELECT answer, asked_at FROM answers WHERE {KEY} AND answer IS NOT NULL"
STORE = f"""
UPDATE answers SET answer = :answer, asked_at = :at WHERE {KEY} AND answer IS NULL RETURNING 1
"""
# Add a response for which no lease was acquired.
ADD = """
INSERT INTO answers AS a (sha256, prompt, model, upload_id, answer, asked_at)
VALUES (:sha256, :prompt, :model, :upload, :answer, :at)
ON CONFLICT (sha256, prompt, model) DO UPDATE SET answer = excluded.answer, asked_at = excluded.asked_at
WHERE a.answer IS NULL RETURNING 1
"""
DELETE = f"DELETE FROM answers WHERE {KEY} AND asked_at = :at RETURNING 1"
RELEASE = f"DELETE FROM answers WHERE {KEY} AND asker = :asker AND answer IS NULL RETURNING 1"

Cached = tuple[GeminiResponse, dt.datetime]
"""A cached response, and when Gemini gave it."""


@dataclass(frozen=True, slots=True)
class CacheEntry:
    """The cache entry for one prompt about some bytes. `lease_token` identifies this worker's lease."""

    sha256: str
    prompt: str
    model: str
    lease_token: str = field(default_factory=lambda: uuid.uuid4().hex)

    def get_or_acquire(
        self, database: Database, upload: uuid.UUID, lease_s: float, wait_s: float
    ) -> Cached | None:
        """Return the cached response, or None after acquiring the lease, for `lease_s` seconds, to ask.

        Raises TimeoutError if another worker has held the lease for more than `wait_s` seconds.
        """
        ends = time.monotonic() + wait_s
        while not database.query(ACQUIRE, **self._key, asker=self.lease_token, upload=upload, lease=lease_s):
            for answer, at in database.query(READ, **self._key):
                return read(GeminiResponse, answer), at
            if time.monotonic() > ends:
                raise TimeoutError
            time.sleep(POLL_S)
        return None

    def store(self, database: Database, answer: GeminiResponse, at: dt.datetime) -> None:
        """Store the response, even if the lease has expired: it has been paid for."""
        database.query(STORE, **self._key, answer=asdict(answer), at=at)

    def cached(self, database: Database) -> bool:
        """Return whether there is a response, without acquiring the lease."""
        return bool(database.query(READ, **self._key))

    def add(self, database: Database, upload: uuid.UUID, answer: GeminiResponse, at: dt.datetime) -> None:
        """Store the response of a batch, for which no lease was acquired."""
        database.query(ADD, **self._key, upload=upload, answer=asdict(answer), at=at)

    def delete(self, database: Database, at: dt.datetime) -> None:
        """Delete the response that was given at this instant."""
        database.query(DELETE, **self._key, at=at)

    def release(self, database: Database) -> None:
        """Release the lease, so that another worker can ask."""
        database.query(RELEASE, **self._key, asker=self.lease_token)

    @property
    def _key(self) -> dict[str, Any]:
        return {"sha256": self.sha256, "prompt": self.prompt, "model": self.model}
