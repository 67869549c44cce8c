"""Which limit is met first: each with its value, the load at which it is met, and what lifts it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist, fmean

from infra.scaling import facts
from infra.scaling.inputs import Inputs
from infra.scaling.quota import DAY_S, MINUTE_S

QUANTILES = [(step + 0.5) / 200 for step in range(200)]
FREE = "nothing"


@dataclass(frozen=True, slots=True)
class Database:
    """What a picture asks of PostgreSQL (`--measure`): transactions, s of CPU, s within transactions."""

    transactions: float
    cpu_s: float
    held_s: float


@dataclass(frozen=True, slots=True)
class Limit:
    """`described`, `alone`: the uploads a second at which it is met with Gemini and without, or infinity."""

    name: str
    value: str
    described: float
    alone: float
    lifts: str
    costs: str
    kind: str

    @property
    def first(self) -> float:
        return min(self.described, self.alone)


def seconds_described(inputs: Inputs, median_s: float = facts.GEMINI_S) -> float:
    """Mean seconds of a picture on a warm instance where Gemini describes it beside BLIP."""
    normal = NormalDist()
    latencies = [
        min(median_s * math.exp(facts.GEMINI_SPREAD * normal.inv_cdf(share)), facts.GEMINI_TIMEOUT_S)
        for share in QUANTILES
    ]
    return fmean(
        each.before + each.after + fmean(max(each.look, latency) for latency in latencies)
        for each in inputs.pictures
    )


def kept_for(busy: float) -> float:
    """Instances that are there where so many are busy on average: what Cloud Run aims at, or a chance peak.

    An idle one lives for a quarter of an hour, in which a Poisson number is four deviations above its mean.
    """
    return max(busy / facts.UTILISATION, busy + 4 * math.sqrt(busy))


def busy_of(kept: float) -> float:
    """How many are busy where so many are there."""
    return min(kept * facts.UTILISATION, (math.sqrt(4 + kept) - 2) ** 2)


def limits(inputs: Inputs, database: Database) -> list[Limit]:
    """All of them, the first that is met with Gemini first."""
    found = [*_gemini(), *_instances(inputs), *_database(inputs, database), *_carriers()]
    return sorted(found, key=lambda each: (each.first, each.described))


def _gemini() -> list[Limit]:
    names = list(facts.TIERS)
    made = []
    for name, following in zip(names, [*names[1:], ""], strict=True):
        requests, tokens, a_day = facts.TIERS[name]
        lifts = f"tier {following}" if following else "a quota by agreement; Gemini batch"
        costs = facts.TIER_COSTS.get(following, "a contract; batch: half the price, an answer within 24 h")
        tier = f"Gemini, {'free tier' if name == 'free' else f'tier {name}'}"
        minute = min(requests, tokens // facts.INPUT_TOKENS)
        if a_day < math.inf:
            rate = a_day / DAY_S
            made.append(
                Limit(f"{tier}: a day", f"{a_day:,} requests", rate, math.inf, lifts, costs, "Gemini")
            )
        value = f"{requests:,} requests, {tokens:,} tokens"
        rate = minute / MINUTE_S
        made.append(Limit(f"{tier}: a minute", value, rate, math.inf, lifts, costs, "Gemini"))
    return made


def _instances(inputs: Inputs) -> list[Limit]:
    described, alone = seconds_described(inputs), inputs.seconds
    ask = "a larger quota, other regions or projects"
    rows = (
        ("max-instances as deployed", facts.MAX_INSTANCES, "`MAX_INSTANCES`"),
        ("vCPUs of a region, new project", facts.VCPUS_NEW, ask),
        ("max-instances' default", facts.DEFAULT_MAX_INSTANCES, "`MAX_INSTANCES`"),
        ("vCPUs of a region, as one project had", facts.VCPUS_SEEN, ask),
        ("vCPUs of a region, Google's example", facts.VCPUS_EXAMPLE, ask),
    )
    return [
        Limit(name, f"{count:,}", count / described, count / alone, lifts, FREE, "instances")
        for name, count, lifts in rows
    ]


def _database(inputs: Inputs, database: Database) -> list[Limit]:
    described, alone = seconds_described(inputs), inputs.seconds
    made = []
    for machine in (facts.SMALLEST, facts.SMALL):
        slots = busy_of(machine.connections - facts.RESERVED)
        made.append(
            Limit(
                f"connections, {machine.name}",
                f"{machine.connections} - {facts.RESERVED}",
                *(slots / described, slots / alone),
                *("a pooler in transaction mode", "PgBouncer: a small machine", "connections"),
            )
        )
    pooled = (facts.SMALL.connections - facts.RESERVED) / database.held_s
    lifts, costs = "a larger server: more connections", f"US$ {database_usd(1):,.0f} a month for each vCPU"
    value = f"held {database.held_s * 1000:.0f} ms a picture"
    made.append(
        Limit(f"pooled connections, {facts.SMALL.name}", value, pooled, pooled, lifts, costs, "connections")
    )
    for name, vcpus in ((facts.SMALL.name, facts.SMALL.vcpus), ("largest server", facts.LARGEST_VCPUS)):
        rate = vcpus * facts.DATABASE_UTILISATION / database.cpu_s
        lifts = "more vCPUs" if vcpus < facts.LARGEST_VCPUS else "shards"
        value = f"{vcpus:g} vCPU at {facts.DATABASE_UTILISATION:.0%}"
        made.append(Limit(f"PostgreSQL's CPU, {name}", value, rate, rate, lifts, costs, "database"))
    one = 1 / fmean(each.stages["record"] for each in inputs.pictures)
    value, lifts = "a record at a time", "several users: it is a lock of each user's own"
    made.append(Limit("one user's pictures", value, one, one, lifts, FREE, "database"))
    return made


def _carriers() -> list[Limit]:
    writes, reads = facts.WRITES_A_S, facts.READS_A_S
    ramp = "a slow ramp: twice as much every 20 minutes; it scales by itself"
    storage = (
        ("pictures bucket, writes at first", f"{writes:,}/s", writes / facts.PICTURES_WRITES),
        ("uploads bucket, writes at first", f"{writes:,}/s", writes / facts.UPLOADS_WRITES),
        ("pictures bucket, reads at first", f"{reads:,}/s", reads / facts.PICTURES_READS),
    )
    made = [Limit(name, value, rate, rate, ramp, FREE, "storage") for name, value, rate in storage]
    queue = float(facts.DISPATCHES_A_S)
    value = f"{facts.DISPATCHES_A_S}/s a queue"
    made.append(Limit("Cloud Tasks (backfill alone)", value, queue, queue, "more queues", FREE, "delivery"))
    events = facts.PUBLISHED_MB_S * 1000 / facts.EVENT_KB
    value = f"{facts.PUBLISHED_MB_S:g} MB/s, {facts.EVENT_KB:g} kB an event"
    lifts = "a large region (200 MB/s), a larger quota"
    made.append(Limit("Pub/Sub, small region", value, events, events, lifts, FREE, "delivery"))
    return made


def database_usd(vcpus: float) -> float:
    """A month of Cloud SQL with so many vCPUs and their memory, US$; disk and backup left out."""
    return 730 * vcpus * (facts.VCPU_HOUR + facts.GB_A_VCPU * facts.GB_HOUR)
