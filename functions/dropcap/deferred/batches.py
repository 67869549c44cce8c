"""Batches of requests to Gemini, at half the price: submit, poll and collect them, in each reconcile run.

    submit      From GEMINI_BATCH pictures on: read them, store the batch (batch_rows.py), create it at
                Google.
    collect     Poll each batch. Store the descriptions of one that has ended, return its other pictures to
                the queue, settle what it cost, and delete it at Google, with the pictures in it.

Every step may crash or run twice. A batch is stored before it is created, as creation is not idempotent: one
whose creation was not answered is found by its display name, or given up after GIVE_UP_S. Its descriptions
are stored one by one, and a picture that has its own, or was deleted, is passed over. A picture goes into a
batch at most twice (rows.BATCH_TRIES), then it is described alone.

Google's answers come in any order (googleapis/python-genai #1909), often without the metadata of their
requests (#2008), or with that of another one (#1909, 2026-01-11): another product assigned 17,148 answers to
wrong pages (Embassy-of-the-Free-Mind/sourcelibrary-v2 #135). So each request has a key that its answer must
copy, by its schema (prompt.schema). An answer without it is not used: neither a description nor a verdict of
Google's filter, which the picture then gets alone.
"""

import datetime as dt
import logging
import time
from collections import Counter
from dataclasses import replace

from dropcap import logs
from dropcap.budget import GeminiBudget
from dropcap.database import daily_usage
from dropcap.database.response_cache import CacheEntry
from dropcap.deferred import batch_rows, pictures, rows
from dropcap.deferred.batch_rows import Batch, BatchRow
from dropcap.deferred.rows import PendingDescription
from dropcap.describing import prompt
from dropcap.describing.client import BATCH_TIMEOUT_S, BatchedRequest, BatchStatus
from dropcap.describing.response import NotDescribed, request_key
from dropcap.domain.analysis import Usage
from dropcap.domain.gemini_response import GeminiResponse, Tokens
from dropcap.runtime.watchdog import Watchdog
from dropcap.services import Services

logger = logging.getLogger(__name__)

# Inline requests may have 20 MB (ai.google.dev/gemini-api/docs/batch-api, 2026-11). 5 MB of JPEG, 47 pictures
# of 107 kB, are 7 MB of JSON; to create that batch took 25 MB of memory.
MOST_BYTES, MOST_REQUESTS = 5_000_000, 100
GIVE_UP_S = 600  # after which a batch that is not in Google's list does not exist
DUPLICATE_S = 3600  # until the same bytes are tried again, which the response cache then has
Prepared = list[tuple[PendingDescription, BatchRow, BatchedRequest]]


def run(services: Services, ends: float) -> tuple[Counter[str], bool, bool | None]:
    """Collect and submit batches until the monotonic clock reaches `ends`.

    Returns the numbers `described`, `not_described` and `batched`, whether pictures are due, and False if
    what may go into a batch must wait for the next run, or None if it may be described alone.
    """
    settings = services.settings
    unjudged = settings.safety == "off"
    exist, due, waiting = batch_rows.look(services.database, settings.gemini_batch, unjudged=unjudged)
    outcomes = _collect_all(services, ends) if exist else Counter[str]()
    if not 0 < settings.gemini_batch <= waiting:
        return outcomes, due, None
    submission = _Submission(services, outcomes)
    while submission.goes_on and time.monotonic() < ends:
        submission.submit(ends)
    return outcomes, due, False if submission.waits else None


class _Submission:
    """The batches of one run: it `goes_on` until nothing is left, or `waits` for Google's queue."""

    def __init__(self, services: Services, outcomes: Counter[str]) -> None:
        self.services, self.settings, self.outcomes = services, services.settings, outcomes
        self.goes_on, self.waits = True, False
        self._unjudged = self.settings.safety == "off"  # a picture without a verdict must not wait for it
        self._failures = 0

    def submit(self, ends: float) -> None:
        """Submit one batch, if enough pictures wait and the day's budget allows it."""
        services, settings = self.services, self.settings
        room = daily_usage.affordable(services.database, settings, MOST_REQUESTS)
        waiting = rows.count_batchable(services.database, settings.gemini_batch, unjudged=self._unjudged)
        if waiting < settings.gemini_batch or room < 1:
            self.goes_on = False
            return
        prepared = self._prepare(ends, room)
        if not prepared:
            return
        sent = [(pending, row) for pending, row, _ in prepared]
        opened = batch_rows.open_batch(services.database, settings, services.describer.prompt, sent)
        if opened is None:  # another instance took what was left of the day's budget
            for pending, _ in sent:
                rows.release(services.database, pending)
            self.goes_on = False
            return
        batch, held = opened
        self._create(batch, [request for _, row, request in prepared if row.id in held])

    def _prepare(self, ends: float, room: int) -> Prepared:
        """Acquire and read the pictures of a batch."""
        prepared: Prepared = []
        size = 0
        lease_s = pictures.lease_s(self.settings)
        while len(prepared) < room and size < MOST_BYTES and time.monotonic() < ends:
            with self.services.turns.take() as turn:
                turn.begin()
                options = {"batchable": True, "unjudged": self._unjudged}
                pending = rows.acquire(self.services.database, lease_s, **options)
                if pending is None:
                    break
                with logs.bind_upload(pending.id):
                    try:
                        if ready := self._read(pending, prepared):
                            prepared.append(ready)
                            size += len(ready[2].jpeg)
                    except Exception as error:  # the failure of one picture must not stop the run
                        self.outcomes["not_described"] += 1
                        self._failures += pictures.record_failure(pending, error, Usage(), self.services)
            if self._failures >= pictures.MAX_FAILURES:
                self.goes_on = False
                break
        return prepared

    def _read(
        self, pending: PendingDescription, prepared: Prepared
    ) -> tuple[PendingDescription, BatchRow, BatchedRequest] | None:
        """Return the request for a picture; None if the response cache has it, or will have it."""
        services, settings = self.services, self.settings
        watchdog = Watchdog(settings.memory_warning_mb, settings.lease_s, settings.timeout_s)
        with watchdog.stage("read the largest rendition"):
            published = pictures.read(pending, services)
        language = pending.analysis.named_language or settings.language
        budget = GeminiBudget(services, pending.id, pending.analysis.picture.sha256)
        entry = budget.cache_entry(published.jpeg, language)
        if entry and entry.cached(services.database):
            description = budget.describe(published.jpeg, language)
            usage, animated = budget.usage(sum(watchdog.timings.values())), published.animated
            recorded = pictures.record(
                pending, description, published.largest, usage, services, animated=animated
            )
            self.outcomes["described"] += recorded
            return None
        digest, cache_prompt = (entry.sha256, entry.prompt) if entry else ("", "")
        if entry and (
            any((row.sha256, row.prompt) == (digest, cache_prompt) for _, row, _ in prepared)
            or batch_rows.is_duplicate(services.database, digest, cache_prompt)
        ):
            rows.release(services.database, pending, DUPLICATE_S)
            return None
        row = BatchRow(pending.id, pending.lease_until, language, digest, cache_prompt)
        return pending, row, BatchedRequest(row.key, published.jpeg, prompt.request(language, key=row.key))

    def _create(self, batch: Batch, requests: list[BatchedRequest]) -> None:
        """Create a stored batch at Google. If that is not answered, the next run finds out."""
        services, settings, database = self.services, self.settings, self.services.database
        fields = {"batch": batch.display_name, "requests": len(requests)}
        try:
            name = services.describer.batches(
                lambda client: client.create_batch(batch.display_name, requests), BATCH_TIMEOUT_S
            )
        except NotDescribed as error:
            self.goes_on = False
            if error.quota:
                # With others in Google's queue, this one waits as well; else there is no queue for this key.
                self.waits = batch_rows.in_batches(database) > len(requests)
                batch_rows.give_up(database, settings, batch, untried=self.waits)
            elif not error.retry_now:
                batch_rows.give_up(database, settings, batch, alone=True)
            else:
                batch_rows.release(database, batch, "")
            text, fields = "a batch was not accepted by Gemini", fields | {"problem": str(error)}
            logger.warning(text, extra={"event": "batch_failed", **fields})
            return
        batch_rows.release(database, batch, name)
        self.outcomes["batched"] += len(requests)
        logger.info("a batch was submitted", extra={"event": "batch_submitted", **fields})


def _collect_all(services: Services, ends: float) -> Counter[str]:
    """Collect the batches that have ended; return the numbers `described` and `not_described`."""
    outcomes, failures = Counter[str](), 0
    begun = batch_rows.now(services.database)
    lease_s = pictures.lease_s(services.settings)
    while time.monotonic() < ends and failures < pictures.MAX_FAILURES:
        batch = batch_rows.acquire(services.database, begun, lease_s)
        if batch is None:
            break
        try:
            _collect(batch, services, outcomes)
        except NotDescribed as error:  # Gemini is not available; another run polls again
            failures += 1
            fields = {"event": "batch_failed", "batch": batch.display_name, "problem": str(error)}
            logger.warning("a batch was not collected", extra=fields)
            batch_rows.release(services.database, batch, batch.name)
    return outcomes


def _collect(batch: Batch, services: Services, outcomes: Counter[str]) -> None:
    """Poll a batch, and collect it if it has ended, or is older than one may be. Raises NotDescribed."""
    database, describer = services.database, services.describer
    name = batch.name or describer.batches(lambda client: client.find_batch(batch.display_name)) or ""
    if not name:
        if batch.age_s > GIVE_UP_S:
            batch_rows.give_up(database, services.settings, batch)
        else:
            batch_rows.release(database, batch, "")
        return
    status = None
    if not batch.settled:
        status = describer.batches(lambda client: client.batch(name))
        if status and not status.ended and batch.age_s < batch_rows.ABANDON_S:
            batch_rows.release(database, batch, name)
            return
        _record_all(batch, status or BatchStatus("DELETED"), services, outcomes)
    running = bool(status and not status.ended)
    describer.batches(lambda client: client.delete_batch(name, cancel=running))
    batch_rows.forget(database, batch)


def _record_all(batch: Batch, status: BatchStatus, services: Services, outcomes: Counter[str]) -> None:
    """Store the descriptions of a batch that has ended, return its other pictures, and settle its cost."""
    settings, database = services.settings, services.database
    waiting = {row.key: row for row in batch_rows.requests(database, batch)}
    highest = daily_usage.highest_cost(settings, batch=True)
    used, micro_usd, found = Tokens(), 0, Counter[str]()
    for response in status.responses:
        tokens = response.tokens or Tokens()
        cost = round(settings.usd(*tokens, batch=True) * 1e6) if response.tokens else highest
        used, micro_usd = Tokens(used.input + tokens.input, used.output + tokens.output), micro_usd + cost
        if row := waiting.pop(request_key(response), None):
            usd = cost / 1e6 if settings.prices else None
            usage = Usage(1, tokens.input, tokens.output, usd)
            found[_finish(batch, row, response, usage, status.state, services)] += 1
    for row in waiting.values():
        found[_finish(batch, row, None, Usage(), status.state, services)] += 1
    # What was neither answered nor refused may have been paid for, unless the whole batch failed.
    unknown = batch.requests - len(status.responses) - status.failed
    micro_usd += highest * max(0, unknown) if status.state != "FAILED" else 0
    batch_rows.settle(database, settings, batch, used, micro_usd)
    del found[""]
    outcomes.update(found)
    fields = {"batch": batch.display_name, "state": status.state, "requests": batch.requests, **found}
    fields |= {"usd": micro_usd / 1e6} if settings.prices else {}
    logger.info("a batch was collected", extra={"event": "batch_collected", **fields})


def _finish(
    batch: Batch,
    row: BatchRow,
    response: GeminiResponse | None,
    usage: Usage,
    state: str,
    services: Services,
) -> str:
    """Store the description of one picture, or why it has none; return which. Empty: it needs none."""
    outcome = ""
    if pending := rows.pending(services.database, row.id, row.lease_until):
        with logs.bind_upload(row.id):
            try:
                if response is None:
                    raise NotDescribed(f"Gemini's batch has no description of it ({state or 'no state'})")
                outcome = "described" if _record(batch, row, pending, response, usage, services) else ""
            except Exception as error:  # the failure of one picture must not stop the run
                outcome = "not_described"
                pictures.record_failure(pending, error, usage, services)
    batch_rows.remove(services.database, batch, row)
    return outcome


def _record(
    batch: Batch,
    row: BatchRow,
    pending: PendingDescription,
    response: GeminiResponse,
    usage: Usage,
    services: Services,
) -> bool:
    """Store the description in a response; return whether the picture is done. Raises NotDescribed."""
    at = dt.datetime.now(dt.UTC)
    try:
        description = services.describer.parse(response, row.language, at)
    except NotDescribed as error:
        pictures.check_safety(pending, None, error.verdict, services)
        raise
    if row.sha256:
        CacheEntry(row.sha256, row.prompt, batch.model).add(services.database, row.id, response, at)
    description = replace(description, model=batch.model, prompt=batch.prompt)
    animated = pictures.is_animated(pending.analysis, services)
    return pictures.record(pending, description, None, usage, services, animated=animated)
