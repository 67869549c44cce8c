"""`make scaling`: the model keeps to theory and to the code, and SCALING.md says what it computed."""

import math
from dataclasses import replace
from itertools import pairwise
from statistics import NormalDist, fmean

import pytest

from infra.scaling import facts, inputs, scenarios
from infra.scaling.inputs import LOOK, Inputs, Picture
from infra.scaling.limits import Database as Asked
from infra.scaling.limits import Limit, busy_of, kept_for, limits, seconds_described
from infra.scaling.model import Push, World, simulate
from infra.scaling.quota import DAY_S, Gemini

KEPT = inputs.kept()
ASKED = Asked(11, 0.005, 0.02)
PATIENT = Push(pending_s=math.inf)


def pictures(*seconds: float) -> Inputs:
    """Pictures that take so many seconds, on instances that start at once."""
    none = dict.fromkeys((*inputs.BEFORE, *inputs.AFTER), 0.0)
    return Inputs(tuple(Picture("", 1.0, none | {LOOK: each}) for each in seconds), 0.0, 0.0)


def exponential(number: int = 2000) -> Inputs:
    """Pictures of a second on average, exponentially distributed."""
    return pictures(*(-math.log(1 - (index + 0.5) / number) for index in range(number)))


def queue(rate: float, servers: int, uploads: int) -> World:
    return World(rate, uploads / rate, servers, warm=servers, settle_s=100.0, push=PATIENT)


def erlang_c(servers: int, load: float) -> float:
    """The share of arrivals that wait in M/M/c."""
    full = load**servers / math.factorial(servers) * servers / (servers - load)
    return full / (sum(load**busy / math.factorial(busy) for busy in range(servers)) + full)


@pytest.mark.parametrize(("servers", "rate"), [(1, 0.6), (3, 2.1)])
def test_waits_are_those_of_erlang(servers: int, rate: float) -> None:
    outcome = simulate(queue(rate, servers, 60_000), exponential(), seed=1)
    expected = 1 + erlang_c(servers, rate) / (servers - rate)
    assert outcome.mean_s == pytest.approx(expected, rel=0.05)


def test_waits_of_equal_pictures_are_those_of_pollaczek_and_khinchine() -> None:
    rate = 0.7
    outcome = simulate(queue(rate, 1, 60_000), pictures(1.0), seed=1)
    assert outcome.mean_s == pytest.approx(1 + rate / (2 * (1 - rate)), rel=0.05)


def test_instances_are_busy_for_rate_times_seconds() -> None:
    outcome = simulate(World(10.0, 2_000.0, settle_s=200.0), KEPT, seed=1)
    assert outcome.worked_s / outcome.seconds == pytest.approx(10 * KEPT.seconds, rel=0.03)


@pytest.mark.parametrize("rate", [1.0, 30.0])
def test_as_many_instances_are_kept_as_the_limits_are_computed_with(rate: float) -> None:
    outcome = simulate(World(rate, 2_000 + 4_000 / rate, settle_s=1_000.0), KEPT, seed=1)
    assert outcome.instances == pytest.approx(kept_for(rate * KEPT.seconds), rel=0.25)
    assert kept_for(busy_of(outcome.instances)) == pytest.approx(outcome.instances)


def test_nothing_is_lost_however_often_it_is_refused() -> None:
    world = World(100.0, 10.0, 5, drain_s=DAY_S, connections=4, gemini=Gemini(60, math.inf, 1e9))
    outcome = simulate(world, KEPT, seed=1)
    assert outcome.refused > 0
    assert outcome.failed > 0
    assert outcome.left == 0
    assert len(outcome.latencies) == outcome.uploads


def test_the_same_seed_gives_the_same() -> None:
    world = World(20.0, 60.0, 30, gemini=Gemini(*facts.TIERS["1"]))
    assert simulate(world, KEPT, seed=3).latencies == simulate(world, KEPT, seed=3).latencies
    assert simulate(world, KEPT, seed=3).latencies != simulate(world, KEPT, seed=4).latencies


def test_more_instances_never_make_it_slower() -> None:
    latencies = [
        simulate(World(5.0, 400.0, instances, drain_s=DAY_S), KEPT, seed=1).percentile(0.95)
        for instances in (5, 7, 9, 14, 30)
    ]
    assert all(more <= 1.02 * fewer for fewer, more in pairwise(latencies))
    assert latencies[-1] < latencies[0]


def test_a_day_has_its_peak_at_noon() -> None:
    outcome = simulate(World(1.0, 10_000.0, swing=0.9), KEPT, seed=1)
    assert outcome.uploads == pytest.approx(10_000, rel=0.05)
    assert outcome.instances_peak > 1.3 * outcome.instances


@pytest.mark.parametrize("name", ["max-instances as deployed", "vCPUs of a region, new project"])
def test_a_backlog_grows_beyond_a_limit_of_instances_and_not_below(name: str) -> None:
    limit = limit_named(name)
    world = World(limit.alone, 8_000 / limit.alone, float(limit.value), drain_s=30.0)
    assert not simulate(replace(world, rate=1.15 * limit.alone), KEPT, seed=1).keeps_up
    assert simulate(replace(world, rate=0.8 * limit.alone), KEPT, seed=1).keeps_up


def test_deliveries_fail_beyond_the_limit_of_connections_and_not_with_a_pooler() -> None:
    limit = limit_named("connections, db-f1-micro")
    slots = facts.SMALLEST.connections - facts.RESERVED
    world = World(1.4 * limit.alone, 600.0, connections=slots, settle_s=100.0)
    outcome = simulate(world, KEPT, seed=1)
    assert (outcome.failed > 0, outcome.connections) == (True, slots)
    assert simulate(replace(world, rate=0.6 * limit.alone), KEPT, seed=1).failed == 0
    assert simulate(replace(world, connections=math.inf), KEPT, seed=1).failed == 0


def test_a_database_that_is_too_small_makes_pictures_wait() -> None:
    world = World(30.0, 200.0, database_s=0.03, settle_s=50.0)
    small, large = (simulate(replace(world, database_vcpus=vcpus), KEPT, seed=1) for vcpus in (1, 4))
    assert small.percentile(0.5) > large.percentile(0.5) + 0.02
    assert large.percentile(0.5) == pytest.approx(simulate(world, KEPT, seed=1).percentile(0.5), rel=0.02)


@pytest.mark.parametrize("tier", ["1", "2"])
def test_a_days_quota_describes_its_share_of_a_days_uploads(tier: str) -> None:
    quota = Gemini(*facts.TIERS[tier], attempts=1)
    outcome = simulate(World(2 * quota.most, 20_000 / quota.most, gemini=quota), KEPT, seed=1)
    assert outcome.described / outcome.uploads == pytest.approx(0.5, rel=0.05)


def test_to_wait_for_a_minutes_quota_holds_instances_and_describes_no_more() -> None:
    waits, once, enough = (
        scenarios._short_of_quota(KEPT, ASKED, attempts, seed=1, quick=True) for attempts in (3, 1, 0)
    )
    assert waits["described"] == pytest.approx(once["described"], abs=0.02)
    assert waits["worked_s"] > 2 * once["worked_s"]
    assert once["worked_s"] < enough["worked_s"]


def test_limits_are_told_in_the_order_in_which_they_are_met() -> None:
    found = limits(KEPT, ASKED)
    assert [each.first for each in found] == sorted(each.first for each in found)
    assert all(0 < each.described <= each.alone for each in found)


def test_a_picture_waits_for_whichever_model_is_slower() -> None:
    assert seconds_described(KEPT, median_s=1e-9) == pytest.approx(KEPT.seconds)
    slow = seconds_described(pictures(1.0), median_s=5.0)
    mean = fmean(
        min(5 * math.exp(facts.GEMINI_SPREAD * NormalDist().inv_cdf(q / 999)), 20) for q in range(1, 999)
    )
    assert slow == pytest.approx(mean, rel=0.02)


def limit_named(name: str) -> Limit:
    [found] = [each for each in limits(KEPT, ASKED) if each.name == name]
    return found
