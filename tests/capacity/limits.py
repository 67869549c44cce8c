"""Limits of Google Cloud, Gemini and PostgreSQL, and the load at which an upload path meets each.

Quotas differ between projects and change: console.cloud.google.com/iam-admin/quotas and
aistudio.google.com/rate-limit have yours. Each value names its source, read in November 2026.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dropcap.settings import Settings
from infra import cost
from infra.cloud.config import Config
from infra.cloud.resources.declaration import PICTURES_AT_ONCE

INPUTS: dict[str, Any] = json.loads(Path(__file__).with_name("inputs.json").read_text())
MEASURED: dict[str, float] = {name: each["value"] for name, each in INPUTS.items()}
MINUTE_S, DAY_S = 60, 86_400

# Gemini: requests and input tokens a minute, requests a day, and how the tier is reached. Google's staff gave
# these for gemini-2.5-flash at discuss.ai.google.dev/t/104465; AI Studio shows a project's own.
TIERS = {
    "free tier": (10, 250_000, 250, ""),
    "tier 1": (1_000, 1_000_000, 10_000, "a billing account"),
    "tier 2": (2_000, 3_000_000, 100_000, "US$ 100 paid, 3 days"),
    "tier 3": (10_000, 8_000_000, math.inf, "US$ 1,000 paid, 30 days"),
}
TOKENS = cost.input_tokens()
# Assumed, because no key was available: a log-normal latency with a 95th percentile of twice the median.
GEMINI_MEAN_S = cost.GEMINI_S * math.exp((math.log(2) / 1.645) ** 2 / 2)

# Cloud Run keeps instances at 60 % of their maximum concurrency, idle ones for 15 minutes:
# docs.cloud.google.com/run/docs/about-instance-autoscaling.
UTILISATION = 0.6
# vCPUs of a region: new projects were refused beyond 20 (googlecodelabs/feedback #1856), one beyond 200
# (jspsych/datapipe #238); 1,000 is the example of cloud.google.com/run/docs/configuring/max-instances-limits,
# whose earlier copy gave 100 as max-instances' default.
INSTANCES = (
    ("max-instances as deployed", int(Config().max_instances), "`MAX_INSTANCES`"),
    ("vCPUs of a region, new project", 20, "a larger quota, other regions or projects"),
    ("max-instances' default", 100, "`MAX_INSTANCES`"),
    ("vCPUs of a region, as one project had", 200, "a larger quota, other regions or projects"),
    ("vCPUs of a region, Google's example", 1_000, "a larger quota, other regions or projects"),
)
# Cloud SQL's max_connections: cloud.google.com/sql/docs/postgres/faq (25), PostgreSQL's default (100), of
# which it reserves 3. Up to 96 vCPUs: cloud.google.com/sql/docs/postgres/instance-settings.
CONNECTIONS, RESERVED = {"db-f1-micro": 25, "db-custom-1-3840": 100}, 3
VCPUS, DATABASE_UTILISATION = {"db-custom-1-3840": 1, "largest server": 96}, 0.6
VCPU_USD = 730 * (0.0413 + 3.75 * 0.007)  # a month with its memory: cloud.google.com/sql/pricing, May 2026
# Cloud Storage, a bucket at first: docs.cloud.google.com/storage/docs/request-rate. Requests of an upload are
# counted by tests/commands/test_scaling.py.
WRITES_A_S, READS_A_S = 1_000, 5_000
PICTURES_WRITES, PICTURES_READS, UPLOADS_WRITES, UPLOADS_READS = 3, 3, 2, 1
# Cloud Tasks: RateLimits.max_dispatches_per_second. Pub/Sub: cloud.google.com/pubsub/quotas, small regions.
DISPATCHES_A_S, PUBLISHED_KB_S, EVENT_KB = 500, 50_000, 2  # EVENT_KB is assumed


@dataclass(frozen=True, slots=True)
class Limit:
    """A limit, and the uploads a second that meet it with Gemini and with BLIP alone (inf: never)."""

    name: str
    value: str
    with_gemini: float
    alone: float
    remedy: str
    price: str = "nothing"


def seconds(with_gemini: bool, speedup: float = 1.0) -> float:
    """Return the mean seconds for which a picture takes a busy, warm instance.

    While pictures wait for Gemini, the instance works on the next ones, up to PICTURES_AT_ONCE in all.
    """
    cpu_s = MEASURED["picture_s"] - MEASURED["caption_s"] + MEASURED["caption_s"] / speedup
    return max(cpu_s, (cpu_s + GEMINI_MEAN_S) / PICTURES_AT_ONCE) if with_gemini else cpu_s


def kept(busy: float) -> float:
    """Return the instances that Cloud Run keeps where `busy` work on average.

    The target utilisation determines it, or at low load the peak of a quarter of an hour: four standard
    deviations above the mean of a Poisson distribution.
    """
    return max(busy / UTILISATION, busy + 4 * math.sqrt(busy))


def busy(instances: float) -> float:
    """Return how many of the instances that Cloud Run keeps are busy: the inverse of `kept`."""
    return min(instances * UTILISATION, (math.sqrt(4 + instances) - 2) ** 2)


def limits() -> list[Limit]:
    """Return all limits, the first that is met first."""
    found = [*_gemini(), *_instances(), *_database(), *_storage_and_delivery()]
    return sorted(found, key=lambda each: (min(each.with_gemini, each.alone), each.with_gemini))


def _gemini() -> list[Limit]:
    made = []
    following = [*list(TIERS)[1:], ""]
    for (tier, (requests, tokens, a_day, _)), after in zip(TIERS.items(), following, strict=True):
        remedy = after or "a quota by agreement; Gemini batch"
        price = TIERS[after][3] if after else "a contract; batch: half the price, an answer within 24 h"
        a_second = min(requests, tokens // TOKENS) / MINUTE_S
        quota = f"{requests:,} requests, {tokens:,} tokens"
        made.append(Limit(f"Gemini, {tier}: a minute", quota, a_second, math.inf, remedy, price))
        if a_day < math.inf:
            quota, a_second = f"{a_day:,} requests", a_day / DAY_S
            made.append(Limit(f"Gemini, {tier}: a day", quota, a_second, math.inf, remedy, price))
    return made


def _instances() -> list[Limit]:
    return [
        Limit(name, f"{count:,}", count / seconds(True), count / seconds(False), remedy)
        for name, count, remedy in INSTANCES
    ]


def _database() -> list[Limit]:
    made = []
    for server, connections in CONNECTIONS.items():
        working = busy((connections - RESERVED) / Settings().database_connections)
        value, remedy = f"{connections} - {RESERVED}", "a pooler in transaction mode"
        rates = (working / seconds(True), working / seconds(False))
        made.append(Limit(f"connections, {server}", value, *rates, remedy, "PgBouncer: a small machine"))
    price = f"US$ {VCPU_USD:,.0f} a month for each vCPU"
    (server, connections) = list(CONNECTIONS.items())[-1]
    rate, value = (connections - RESERVED) / MEASURED["held_s"], f"held {1000 * MEASURED['held_s']:.0f} ms"
    remedy = "a larger server: more connections"
    made.append(Limit(f"pooled connections, {server}", f"{value} a picture", rate, rate, remedy, price))
    for server, vcpus in VCPUS.items():
        rate, value = vcpus * DATABASE_UTILISATION / MEASURED["cpu_s"], f"{vcpus} vCPU at 60%"
        remedy = "more vCPUs" if vcpus < max(VCPUS.values()) else "shards"
        made.append(Limit(f"PostgreSQL's CPU, {server}", value, rate, rate, remedy, price))
    rate, remedy = 1 / MEASURED["record_s"], "several users: each has a lock of their own"
    return [*made, Limit("one user's pictures", "a record at a time", rate, rate, remedy)]


def _storage_and_delivery() -> list[Limit]:
    ramp = "a slow ramp: at most twice the load every 20 minutes"
    rows = (
        ("pictures bucket, writes at first", WRITES_A_S, PICTURES_WRITES, ramp),
        ("uploads bucket, writes at first", WRITES_A_S, UPLOADS_WRITES, ramp),
        ("pictures bucket, reads at first", READS_A_S, PICTURES_READS, ramp),
        ("Cloud Tasks, a queue (backfill alone)", DISPATCHES_A_S, 1, "more queues"),
    )
    made = [Limit(name, f"{most:,}/s", most / each, most / each, lifts) for name, most, each, lifts in rows]
    value, rate = f"{PUBLISHED_KB_S // 1000} MB/s, {EVENT_KB} kB an event", PUBLISHED_KB_S / EVENT_KB
    remedy = "a large region (200 MB/s), a larger quota"
    return [*made, Limit("Pub/Sub, small region", value, rate, rate, remedy)]
