"""The stand-in's Batch API: jobs in memory, each visible only to the key that created it.

The shapes are those that google-genai 3.4.0 writes and reads (google/genai/batches.py, 2026-11) and that
ai.google.dev/api/batch-api describes. What jobs do was seen here:

| behaviour | where it was seen |
|---|---|
| requests of at most 20 MB; the same request twice makes two jobs; no results after 48 hours | ai.google.dev/gemini-api/docs/batch-api, 2026-11 |
| responses come in any order; here the last request is answered first | googleapis/python-genai #1909, 2026-01-09; Embassy-of-the-Free-Mind/sourcelibrary-v2 #135, 2026-03-08 |
| an entry fails alone, with a code of google.rpc.Code, in a job that succeeded | discuss.ai.google.dev/t/177123, 2026-08 |
| a list has no results, and counts are strings | flachesis/gemini-rust #13, 2025-09-07 |
| a cancelled job ends at once | tobert/kaibo #8, 2026-06-22 |
| a key sees its own jobs alone | Embassy-of-the-Free-Mind/sourcelibrary-v2 #3717, 2026-08-07 |
"""  # noqa: E501  a table

import datetime as dt
import threading
import time
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from infra.local.gemini.errors import ApiError

if TYPE_CHECKING:
    from infra.local.gemini.server import GeminiStandIn

TYPE = "type.googleapis.com/google.ai.generativelanguage.v1main.GenerateContentBatch"
ENDED = {"SUCCEEDED", "FAILED", "CANCELLED", "EXPIRED"}
PAGE = 50  # jobs of a list, unless pageSize says otherwise
# google/rpc/code.proto by HTTP status, as google.aip.dev/193 relates them.
RPC_CODES = {400: 3, 401: 16, 403: 7, 404: 5, 429: 8, 500: 13, 503: 14, 504: 4}


@dataclass(slots=True)
class Job:
    """A batch: `state` is empty while the model decides it, `responses` None until it has succeeded."""

    key: str
    model: str
    display_name: str
    requests: list[dict[str, Any]]
    name: str = field(default_factory=lambda: f"batches/{uuid.uuid4().hex}")
    created: str = field(default_factory=lambda: dt.datetime.now(dt.UTC).isoformat())
    at: float = field(default_factory=time.monotonic)
    state: str = ""
    responses: list[dict[str, Any]] | None = None


class Batches:
    """All jobs of a stand-in. Thread-safe."""

    def __init__(self, stand_in: "GeminiStandIn") -> None:
        self._stand_in = stand_in
        self._jobs: dict[str, Job] = {}
        self._lock = threading.Lock()

    def create(self, model: str, key: str, fields: Any) -> dict[str, Any]:
        """Create a job, and return it as an operation. Raises ApiError."""
        try:
            batch = fields["batch"]
            requests = batch["inputConfig"]["requests"]["requests"]
            display_name = batch["displayName"]
            if not requests or not all("request" in each for each in requests):
                raise KeyError("request")
        except (KeyError, TypeError) as missing:
            raise ApiError(400, f"* BatchGenerateContentRequest.batch: {missing} is required") from missing
        self._stand_in.check_batch(model, key)
        job = Job(key, model, str(display_name), requests)
        with self._lock:
            self._jobs[job.name] = job
        return self._operation(job)

    def get(self, name: str, key: str) -> dict[str, Any]:
        """Return a job as an operation, with the responses once it has succeeded. Raises ApiError."""
        job = self._job(name, key)
        with self._lock:
            state = self._state(job)
            if state == "SUCCEEDED" and job.responses is None:
                answered = [self._respond(job, each) for each in reversed(job.requests)]
                job.responses = self._stand_in.batch_responses(job.model, answered)
        operation = self._operation(job)
        if job.responses is not None:
            output = {"inlinedResponses": {"inlinedResponses": job.responses}}
            operation["metadata"]["output"] = output
            operation["response"] = {"@type": f"{TYPE}Output", **output}
        if state == "FAILED":
            operation["error"] = {"code": 13, "message": "Internal error encountered."}
        return operation

    def page(self, key: str, size: int, token: str) -> dict[str, Any]:
        """Return a page of the key's jobs, newest first, without their responses."""
        start = int(token or 0)
        mine = [job for job in reversed([*self._jobs.values()]) if job.key == key]
        shown = mine[start : start + (size or PAGE)]
        following = start + len(shown)
        more = {"nextPageToken": str(following)} if following < len(mine) else {}
        return {"operations": [self._operation(job) for job in shown]} | more

    def cancel(self, name: str, key: str) -> dict[str, Any]:
        """Cancel a job that has not ended. Raises ApiError."""
        job = self._job(name, key)
        if self._state(job) not in ENDED:
            job.state = "CANCELLED"
        return {}

    def delete(self, name: str, key: str) -> dict[str, Any]:
        """Delete a job with its requests and responses. Raises ApiError."""
        del self._jobs[self._job(name, key).name]
        return {}

    def _job(self, name: str, key: str) -> Job:
        job = self._jobs.get(name)
        if job is None or job.key != key:
            raise ApiError(404, "Requested entity was not found.")
        return job

    def _state(self, job: Job) -> str:
        return job.state or self._stand_in.batch_state(job.model, time.monotonic() - job.at)

    def _respond(self, job: Job, entry: dict[str, Any]) -> dict[str, Any]:
        """Return the InlinedResponse to an entry, with its metadata."""
        kept = {"metadata": entry["metadata"]} if "metadata" in entry else {}
        try:
            return {"response": self._stand_in.generate(job.model, job.key, entry["request"]), **kept}
        except ApiError as failed:
            return {"error": {"code": RPC_CODES.get(failed.code, 2), "message": str(failed)}, **kept}

    def _operation(self, job: Job) -> dict[str, Any]:
        state, count = self._state(job), str(len(job.requests))
        stats = {"requestCount": count}
        stats |= {"successfulRequestCount" if state == "SUCCEEDED" else "pendingRequestCount": count}
        metadata = {
            "@type": TYPE,
            "model": f"models/{job.model}",
            "displayName": job.display_name,
            "createTime": job.created,
            "updateTime": job.created,
            "batchStats": stats,
            "state": f"BATCH_STATE_{state}",
            "name": job.name,
        }
        return {"name": job.name, "metadata": metadata} | ({"done": True} if state in ENDED else {})
