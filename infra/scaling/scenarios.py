"""The runs that SCALING.md shows, and what they cost."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from infra.cost import GIB_S, REQUEST, VCPU_S
from infra.scaling import facts
from infra.scaling.inputs import Inputs, summary
from infra.scaling.limits import Database, database_usd, limits, seconds_described
from infra.scaling.model import FOREVER, World, simulate
from infra.scaling.outcome import Outcome
from infra.scaling.quota import DAY_S, Gemini
from tests.bench import cost

INSTANCE = cost.Size(1, 0.5)  # infra/cloud/resources/declaration.py
RATES = (1.0, 100.0, 10_000.0)
SWEEP = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1_000.0, 3_000.0)
SWEPT = 20_000  # uploads of a point, in a day at most, half a minute at least
DROPPED, DROP_S = 1_000, 10.0  # pictures that somebody drops, and the seconds it takes
MAX_INSTANCES = (5, 20, 100, 1_000)
Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Scenario:
    """A run and the vCPUs of its database server."""

    name: str
    world: World
    vcpus: int


def deployed(rate: float, seconds: float, settle_s: float, database: Database) -> Scenario:
    """As `make deploy` leaves it: five instances, Cloud SQL's smallest, Gemini's first paid tier."""
    world = World(
        rate,
        seconds,
        facts.MAX_INSTANCES,
        settle_s=settle_s,
        connections=facts.SMALLEST.connections - facts.RESERVED,
        database_vcpus=facts.SMALLEST.vcpus,
        database_s=database.cpu_s,
        gemini=Gemini(*facts.TIERS["1"]),
    )
    return Scenario("as deployed", world, facts.SMALLEST.vcpus)


def lifted(rate: float, seconds: float, settle_s: float, database: Database) -> Scenario:
    """Every limit lifted: instances and quota as needed, a pooler, a database server that is large enough."""
    vcpus = max(1, math.ceil(rate * database.cpu_s / facts.DATABASE_UTILISATION))
    world = World(
        rate,
        seconds,
        settle_s=settle_s,
        database_vcpus=vcpus,
        database_s=database.cpu_s,
        gemini=Gemini(),
    )
    return Scenario("limits lifted", world, vcpus)


def alone(rate: float, seconds: float, settle_s: float, database: Database) -> Scenario:
    """The same without a Gemini key."""
    scenario = lifted(rate, seconds, settle_s, database)
    return Scenario("lifted, BLIP alone", replace(scenario.world, gemini=None), scenario.vcpus)


def scaled(database: Database, quick: bool) -> Iterator[Scenario]:
    """The main table: each load as deployed, lifted, and without Gemini."""
    for rate in RATES[: 2 if quick else None]:
        seconds = {1.0: DAY_S, 100.0: 900.0}.get(rate, 40.0)
        seconds = min(seconds, 3_000 / rate) if quick else seconds
        settle_s = min(300.0, seconds / 3)
        yield deployed(rate, seconds, 0.0, database)
        yield lifted(rate, seconds, settle_s, database)
        yield alone(rate, seconds, settle_s, database)


def swept(database: Database, quick: bool) -> Iterator[Scenario]:
    """Points of the picture."""
    for rate in SWEEP[:: 4 if quick else 1]:
        seconds = min(max((SWEPT // 10 if quick else SWEPT) / rate, 45.0), DAY_S * 2)
        yield lifted(rate, seconds, seconds / 3, database)
        if rate <= 3.0:
            yield deployed(rate, seconds, 0.0, database)  # a day's quota is used at its beginning


def run(
    inputs: Inputs,
    database: Database,
    threads: dict[str, float] | None,
    seed: int,
    quick: bool,
    progress: Callable[[list[Any], str], Iterator[Any]],
) -> Row:
    """All tables, as numbers; `progress` wraps each list of runs."""
    scale = [
        _row(each, simulate(each.world, inputs, seed))
        for each in progress(list(scaled(database, quick)), "1, 100 and 10,000 uploads a second")
    ]
    sweep = [
        _row(each, simulate(each.world, inputs, seed))
        for each in progress(list(swept(database, quick)), "the picture")
    ]
    quota = [
        row
        for attempts in progress([facts.GEMINI_ATTEMPTS, 1, 0], "Gemini without enough quota")
        for row in [_short_of_quota(inputs, database, attempts, seed, quick)]
    ]
    drop = [
        _dropped(inputs, count, seed)
        for count in progress(list(MAX_INSTANCES[:: 2 if quick else 1]), "a folder is dropped")
    ]
    found = [
        {key: None if value == FOREVER else _round(value) for key, value in asdict(limit).items()}
        for limit in limits(inputs, database)
    ]
    return {
        "seed": seed,
        "inputs": summary(inputs) | {"described_s": seconds_described(inputs)},
        "database": asdict(database),
        "scale": scale,
        "sweep": sweep,
        "limits": found,
        "quota": quota,
        "drop": drop,
        "sizes": sizes(inputs, threads),
    }


def _row(scenario: Scenario, outcome: Outcome) -> Row:
    world = scenario.world
    ok = outcome.keeps_up
    share = outcome.described / len(outcome.latencies) if outcome.latencies else 0.0
    done = max(1, outcome.finished)
    row = {
        "setting": scenario.name,
        "rate": world.rate,
        "done_a_second": outcome.throughput,
        "keeps_up": ok,
        "described": share,
        "p50_s": outcome.percentile(0.5) if ok else None,
        "p95_s": outcome.percentile(0.95) if ok else None,
        "p99_s": outcome.percentile(0.99) if ok else None,
        "instances": outcome.instances,
        "instances_peak": outcome.instances_peak,
        "connections": outcome.connections,
        "refused": outcome.refused,
        "worked_s": outcome.worked_s / done,
        "database_vcpus": scenario.vcpus,
        "usd": dollars(outcome.billed_s / done, share, scenario.vcpus, outcome.throughput),
    }
    return {key: _round(value) for key, value in row.items()}


def dollars(billed_s: float, described: float, vcpus: float, rate: float) -> Row:
    """US$ for a million pictures, by part. Disk, traffic, logs and what is free each month are left out."""
    tokens = facts.INPUT_TOKENS * facts.INPUT_USD
    tokens += facts.OUTPUT_TOKENS * facts.OUTPUT_USD
    parts = {
        "instances": billed_s * (INSTANCE.vcpus * VCPU_S + INSTANCE.gib * GIB_S) + REQUEST,
        "gemini": described * tokens,
        "storage": facts.STORAGE_USD,
        "database": database_usd(vcpus) / (730 * 3600 * rate),
    }
    return {name: _round(1e6 * usd) for name, usd in parts.items()}


def _short_of_quota(inputs: Inputs, database: Database, attempts: int, seed: int, quick: bool) -> Row:
    """Three times as many uploads as Gemini's highest tier allows; 0 attempts: there is enough quota."""
    tier = Gemini(*facts.TIERS["3"])
    rate = 3 * tier.most / (20 if quick else 1)
    scenario = lifted(rate, 360.0 if not quick else 180.0, 120.0 if not quick else 60.0, database)
    gemini = (
        replace(tier, attempts=attempts, requests=tier.requests / (20 if quick else 1))
        if attempts
        else Gemini()
    )
    outcome = simulate(replace(scenario.world, gemini=gemini), inputs, seed)
    return _row(replace(scenario, name=str(attempts)), outcome)


def _dropped(inputs: Inputs, instances: int, seed: int) -> Row:
    """Somebody drops a folder of pictures on a function at rest."""
    chance = np.random.default_rng(seed)
    arrivals = tuple(np.sort(chance.uniform(0, DROP_S, DROPPED)).tolist())
    world = World(DROPPED / DROP_S, DROP_S, instances, drain_s=DAY_S, gemini=Gemini(), arrivals=arrivals)
    outcome = simulate(world, inputs, seed)
    return {
        "max_instances": instances,
        "pictures": outcome.uploads,
        "p50_s": _round(outcome.percentile(0.5)),
        "p95_s": _round(outcome.percentile(0.95)),
        "all_s": _round(outcome.last_s),
        "at_best_s": _round(outcome.uploads * seconds_described(inputs) / instances),
        "refused": outcome.refused,
    }


def sizes(inputs: Inputs, threads: dict[str, float] | None) -> list[Row]:
    """More instances or larger ones: US$ for a million pictures with one vCPU and with two."""
    speeds = {1: 1.0} | ({2: threads["1"] / threads["2"]} if threads else {})
    rows = []
    for vcpus, speed in speeds.items():
        faster = tuple(
            replace(each, stages=each.stages | {"describe and caption": each.look / speed})
            for each in inputs.pictures
        )
        quicker = replace(inputs, pictures=faster)
        for name, seconds in (("BLIP alone", quicker.seconds), ("with Gemini", seconds_described(quicker))):
            usd = 1000 * cost.per_thousand(cost.Size(vcpus, INSTANCE.gib), seconds)
            rows.append(
                {"vcpus": vcpus, "setting": name, "caption": _round(speed), "seconds": _round(seconds)}
            )
            rows[-1]["usd"] = _round(usd)
    return rows


def _round(value: Any) -> Any:
    """Four figures are more than any of this is worth."""
    return float(f"{value:.4g}") if isinstance(value, float) else value
