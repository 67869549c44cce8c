"""What the platform promises, allows and charges: each with where it is said, or that it is assumed.

The pages were read as stored copies, in November 2026; a date is the copy's own. Quotas differ between
projects and change: console.cloud.google.com/iam-admin/quotas and aistudio.google.com/rate-limit have yours.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from dropcap.settings import Settings
from infra import cost
from infra.cloud.config import Config

_settings = Settings()
DATABASE_TIMEOUT_S = _settings.database_timeout_s
GEMINI_ATTEMPTS, GEMINI_TIMEOUT_S = _settings.gemini_attempts, _settings.gemini_timeout_s

# --- Delivery: docs.cloud.google.com/eventarc/docs/retry-events: the delay starts at 10 s, and increases with
# each failure up to 600 s; infra/cloud/resources/events.py sets 60. The sweep finds what is then discarded.
FIRST_BACKOFF_S, LONGEST_BACKOFF_S, RETENTION_S = 10.0, 60.0, 7 * 86_400.0
# cloud.google.com/pubsub/quotas: published 200 MB/s in europe-west1, us-central1 and us-east1, 50 MB/s
# elsewhere.
PUBLISHED_MB_S = 50.0
EVENT_KB = 2.0  # assumed: the object's resource as JSON, with the headers

# --- Cloud Run: docs.cloud.google.com/run/docs/about-instance-autoscaling: a request without an instance
# waits up to 3.5 times the average startup time or 10 s, whichever is more, then gets 429; instances are
# scheduled so that concurrency is 60 % of the maximum over a minute, and idle ones end after 15 minutes. How
# often that is judged is from an earlier copy of the page, which said 5 s.
PENDING_S, UTILISATION, WINDOW_S, SCALE_S, IDLE_S = 10.0, 0.6, 60.0, 5.0, 900.0
MAX_INSTANCES = int(Config().max_instances)
DEFAULT_MAX_INSTANCES = 100  # cloud.google.com/run/docs/configuring/max-instances-limits, an earlier copy
# The regional vCPU quota, which the same page gives 1,000 in an example. Projects were refused beyond 20 in
# April 2026 (googlecodelabs/feedback #1856, europe-west4), and beyond 200 in September (jspsych/datapipe
# #238).
VCPUS_NEW, VCPUS_SEEN, VCPUS_EXAMPLE = 20, 200, 1000

# --- Gemini: tiers of gemini-2.5-flash, whose place ours takes, as Google's staff gave them at
# discuss.ai.google.dev/t/104465
# (requests and input tokens a minute, requests a day). Google no longer prints them:
# ai.google.dev/gemini-api/docs/rate-limits sends to AI Studio. Minutes reset at second 00
# (discuss.ai.google.dev/t/6851).
TIERS = {
    "free": (10, 250_000, 250),
    "1": (1_000, 1_000_000, 10_000),
    "2": (2_000, 3_000_000, 100_000),
    "3": (10_000, 8_000_000, math.inf),
}
# Tiers are reached by what was paid: ai.google.dev/gemini-api/docs/rate-limits.
TIER_COSTS = {
    "1": "a billing account",
    "2": "US$ 100 paid, 3 days",
    "3": "US$ 1,000 paid, 30 days",
}
INPUT_TOKENS, OUTPUT_TOKENS = (
    cost.PICTURE_TOKENS + cost.prompt_tokens(),
    cost.ANSWER_TOKENS + cost.THOUGHT_TOKENS,
)
GEMINI_S = cost.GEMINI_S  # assumed, as no key was at hand; a 95th percentile of twice that
GEMINI_SPREAD = 0.42  # of the logarithm: exp(1.645 x 0.42) = 2
INPUT_USD, OUTPUT_USD = (cost.PRICES[name].usd * 1e-6 for name in ("input", "output"))  # a token
BATCH = 0.5  # of the price, within 24 hours: ai.google.dev/gemini-api/docs/batch-api

# --- Cloud Storage: docs.cloud.google.com/storage/docs/request-rate: about 1,000 writes (uploads, updates,
# deletes) and 5,000 reads (lists, data, metadata) a second and bucket at first, doubling at most every 20
# minutes.
WRITES_A_S, READS_A_S, DOUBLING_S = 1_000, 5_000, 1_200.0
# Requests for a picture, counted in functions/dropcap/bucket.py: published, read, publish and check thrice,
# dispose.
PICTURES_WRITES, PICTURES_READS, UPLOADS_WRITES, UPLOADS_READS = 3, 1 + 3, 1 + 1, 1
CLASS_A, CLASS_B = 5e-6, 0.4e-6  # US$: cloud.google.com/storage/pricing-examples; a delete is free
STORAGE_USD = (1 + PICTURES_WRITES + 1) * CLASS_A + (
    PICTURES_READS - 1 + UPLOADS_READS
) * CLASS_B  # a list is A

# --- Cloud Tasks, for the backfill: cloud.google.com/tasks, RateLimits.max_dispatches_per_second: at most
# 500.
DISPATCHES_A_S = 500


@dataclass(frozen=True, slots=True)
class Machine:
    """A database server: its vCPUs and its max_connections as it comes."""

    name: str
    vcpus: int  # of db-f1-micro a share
    connections: int


# --- Cloud SQL. 25 connections: cloud.google.com/sql/docs/postgres/faq; 100: a project's own table
# (doughayden.github.io/agent-foundation/references/cloud-sql), PostgreSQL's default too. The flag can be
# raised (dev.to/gleb_otochkin: 25 is no hard limit), a connection costs memory. PostgreSQL keeps 3 for
# superusers.
SMALLEST, SMALL = Machine("db-f1-micro", 1, 25), Machine("db-custom-1-3840", 1, 100)
RESERVED = 3
LARGEST_VCPUS = 96  # cloud.google.com/sql/docs/postgres/instance-settings: cores from 1 to 96
VCPU_HOUR, GB_HOUR, GB_A_VCPU = (
    0.0413,
    0.007,
    3.75,
)  # US$: cloud.google.com/sql/pricing, us-central1, May 2026
DATABASE_UTILISATION = 0.6  # that a server is bought for
REFUSED_S = 0.05  # assumed: until an instance knows that there is no connection for it
