"""Describe pending pictures from their largest rendition, for at most SWEEP_S: many in batches, few alone."""

import logging
import time
from collections import Counter
from collections.abc import Mapping

from dropcap import logs
from dropcap.budget import BudgetExhausted, GeminiBudget
from dropcap.deferred import pictures, rows
from dropcap.deferred.rows import PendingDescription
from dropcap.describing.response import NotDescribed
from dropcap.runtime.turns import Turn
from dropcap.runtime.watchdog import Watchdog
from dropcap.services import Services

logger = logging.getLogger(__name__)


def describe_pending(services: Services, ends: float) -> Mapping[str, int]:
    """Describe pictures that are due until the monotonic clock reaches `ends`.

    Returns the numbers `described`, `not_described`, which are retried with backoff for about a week, and
    `batched`, for which a batch was requested.
    """
    settings = services.settings
    outcomes, failures = Counter[str](), 0
    batchable = None
    if settings.can_batch:
        from dropcap.deferred import batches  # not loaded by a function that has no key

        outcomes, due, batchable = batches.run(services, ends)
        if not due:
            return outcomes
    while time.monotonic() < ends and failures < pictures.MAX_FAILURES:
        with services.turns.take() as turn:  # before the lease, which must not expire while waiting
            turn.begin()
            lease_s, unjudged = pictures.lease_s(settings), settings.safety == "off"
            pending = rows.acquire(services.database, lease_s, batchable=batchable, unjudged=unjudged)
            if pending is None:
                break
            budget = GeminiBudget(services, pending.id, pending.analysis.picture.sha256)
            with logs.bind_upload(pending.id):
                try:
                    outcomes["described"] += _describe(pending, budget, services, turn)
                except BudgetExhausted:
                    rows.release(services.database, pending)
                    break
                except Exception as error:  # the failure of one picture must not stop the run
                    outcomes["not_described"] += 1
                    failures += pictures.record_failure(pending, error, budget.usage(0), services)
    return outcomes


def _describe(pending: PendingDescription, budget: GeminiBudget, services: Services, turn: Turn) -> bool:
    """Describe one picture; return False if it is gone, or its description is no longer wanted."""
    settings = services.settings
    # An earlier unpublish did not finish. A damaged list does not count as empty: it deletes nothing.
    if pending.upload.id == pending.id and pending.result.get("pictures") == []:
        pictures.unpublish(pending, services)
        rows.update(services.database, pending, {"describe_later": False}, finish=True)
        return False
    watchdog = Watchdog(settings.memory_warning_mb, settings.lease_s, settings.timeout_s)
    with watchdog.stage("read the largest rendition"):
        published = pictures.read(pending, services)
    turn.end()
    with watchdog.stage("describe"):
        try:
            language = pending.analysis.named_language or settings.language
            description = budget.describe(published.jpeg, language)
        except NotDescribed as error:
            pictures.check_safety(pending, published.largest, error.verdict, services)
            raise
    with watchdog.stage("record the description"):
        usage = budget.usage(sum(watchdog.timings.values()))
        animated = published.animated
        if not pictures.record(pending, description, published.largest, usage, services, animated=animated):
            return False
    logger.info("described later", extra={"event": "picture_described", **budget.log_fields(usage)})
    return True
