"""The simulation: uploads, events, instances, Gemini's quota and the database, by discrete events (SimPy).

    upload ─▶ event ─▶ a free instance, a new one, or a place in the queue ─▶ claim ... resize
             ▲                     │ none in time: 429                              │
             └── again later ◀─────┴── no connection: 500 ◀─────────────────────────┤
                                                       describe ∥ caption ─▶ publish, record, delete

Every picture is simulated, also at 10,000 a second. What is not in it says SCALING.md.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import simpy

from infra.scaling import facts
from infra.scaling.inputs import Inputs, Picture
from infra.scaling.outcome import Outcome
from infra.scaling.quota import Gemini

Steps = Generator[simpy.Event, Any, None]
FOREVER = math.inf


@dataclass(frozen=True, slots=True)
class Push:
    """Of each delivery: longest wait for an instance, then the waits before it comes again, s."""

    pending_s: float = facts.PENDING_S
    first_s: float = facts.FIRST_BACKOFF_S
    longest_s: float = facts.LONGEST_BACKOFF_S


@dataclass(frozen=True, slots=True)
class World:
    """What is simulated. Rates are uploads a second; `warm` instances are there before the first upload.

    Uploads come at random (Poisson) for `seconds`, or at the instants in `arrivals`; results count from
    `settle_s` on, and what is under way has `drain_s` more to end. With `swing` the rate goes up and down
    once, as in a day, by this share of the mean.
    """

    rate: float
    seconds: float
    max_instances: float = FOREVER
    settle_s: float = 0.0
    drain_s: float = 60.0
    warm: int = 0
    swing: float = 0.0
    connections: float = FOREVER
    database_vcpus: float = FOREVER
    database_s: float = 0.0  # CPU of PostgreSQL for a picture
    gemini: Gemini | None = None
    push: Push = field(default_factory=Push)
    utilisation: float = facts.UTILISATION
    starts_a_second: float = FOREVER
    arrivals: tuple[float, ...] = ()


def simulate(world: World, inputs: Inputs, seed: int = 0) -> Outcome:
    """One run; the same for the same seed."""
    return _Run(world, inputs, seed).outcome()


@dataclass(slots=True, eq=False)
class _Instance:
    cold: bool = True
    connected: bool = False
    idle_since: float = 0.0


class _Database:
    """Servers that work off transactions in the order in which they come; a vCPU is one."""

    def __init__(self, vcpus: float) -> None:
        self._free = [0.0] * int(vcpus) if vcpus < FOREVER else []
        self.busy_s = 0.0

    def wait(self, now: float, cpu_s: float) -> float:
        """Seconds until the work of `cpu_s` seconds begins."""
        self.busy_s += cpu_s
        if not self._free or not cpu_s:
            return 0.0
        begins = max(now, self._free[0])
        heapq.heapreplace(self._free, begins + cpu_s)
        return begins - now


class _Run:
    def __init__(self, world: World, inputs: Inputs, seed: int) -> None:
        self.world, self.inputs = world, inputs
        self.chance = np.random.default_rng(seed)
        self.env = simpy.Environment()
        self.quota = world.gemini.quota_of(world.seconds) if world.gemini else None
        self.database = _Database(world.database_vcpus)
        self.result = Outcome(world.rate, world.seconds - world.settle_s)
        self.idle = deque(_Instance(cold=False) for _ in range(world.warm))
        self.waiting: deque[tuple[float, simpy.Event]] = deque()  # until when; gets an instance, or None
        self.instances, self.starting, self.busy, self.connected = world.warm, 0, 0, 0
        self.next_start = 0.0
        self.busy_area, self.busy_since = 0.0, 0.0

    def outcome(self) -> Outcome:
        times = _arrivals(self.world, self.chance)
        self.result.uploads = int((times >= self.world.settle_s).sum())
        self.env.process(self._uploads(times))
        if self.world.push.pending_s < FOREVER:
            self.env.process(self._expire())
        self.env.process(self._scale())
        self.env.run(until=self.world.seconds + self.world.drain_s)
        self.result.database_vcpus_busy = self.database.busy_s / self.world.seconds
        return self.result

    @property
    def _counts(self) -> bool:
        return self.world.settle_s <= self.env.now <= self.world.seconds

    def _uploads(self, times: np.ndarray[Any, Any]) -> Steps:
        pictures = self.inputs.pictures
        chosen = self.chance.integers(0, len(pictures), len(times))
        latency = self.world.gemini.latencies(self.chance, len(times)) if self.world.gemini else None
        jitter = self.chance.uniform(0.75, 1.25, len(times))  # as of infra/local/events.py
        for number, at in enumerate(times.tolist()):
            yield self.env.timeout(at - self.env.now)
            gemini_s = float(latency[number]) if latency is not None else 0.0
            again = float(jitter[number])
            self.env.process(self._picture(pictures[chosen[number]], at, gemini_s, again))

    def _picture(self, picture: Picture, arrived: float, gemini_s: float, jitter: float) -> Steps:
        """From the upload to its last delivery."""
        counts = arrived >= self.world.settle_s
        back_off = self.world.push.first_s
        while True:
            instance = self._free() or (yield self._queue())
            if instance is None:
                self.result.refused += 1
            else:
                began = self.env.now
                self._count_busy(+1)
                described = yield from self._work(instance, picture, gemini_s)
                self._count_busy(-1)
                if self._counts:
                    self.result.worked_s += self.env.now - began
                    self.result.billed_s += math.ceil((self.env.now - began) * 10 - 1e-9) / 10
                self._hand_on(instance)
                if described is not None:
                    self.result.finished += self._counts
                    if counts:
                        self.result.done(self.env.now, arrived, described)
                    return
                self.result.failed += 1
            yield self.env.timeout(back_off * jitter)
            back_off = min(2 * back_off, self.world.push.longest_s)

    def _work(
        self, instance: _Instance, picture: Picture, gemini_s: float
    ) -> Generator[simpy.Event, Any, bool | None]:
        """Whether Gemini described it; None where the database let the delivery fail."""
        half_s = self.world.database_s / 2
        if not instance.connected:
            if self.connected >= self.world.connections:
                yield self.env.timeout(facts.REFUSED_S)
                return None
            self.connected += 1
            instance.connected = True
            self.result.connections = max(self.result.connections, self.connected)
        first_s = self.inputs.first_s if instance.cold else 0.0
        instance.cold = False
        waited = self.database.wait(self.env.now, half_s)
        if waited > facts.DATABASE_TIMEOUT_S:
            yield self.env.timeout(facts.DATABASE_TIMEOUT_S)
            return None
        yield self.env.timeout(first_s + waited + picture.before)
        ends = self.env.now + picture.look
        described = False
        if self.world.gemini and self.quota:
            described = yield from self.world.gemini.ask(self.env, self.quota, self.chance)
            if described:
                ends = max(ends, self.env.now + gemini_s)
        waited = self.database.wait(self.env.now, half_s)
        yield self.env.timeout(max(0.0, ends - self.env.now) + waited + picture.after)
        return described

    def _free(self) -> _Instance | None:
        """The idle instance that was used last: those that are not needed then stay idle."""
        return self.idle.pop() if self.idle else None

    def _queue(self) -> simpy.Event:
        """A place in the queue. A new instance is started for whoever has none to wait for."""
        event = self.env.event()
        self.waiting.append((self.env.now + self.world.push.pending_s, event))
        if self.starting < len(self.waiting):
            self._start()
        return event

    def _start(self) -> None:
        if self.instances >= self.world.max_instances:
            return
        self.instances += 1
        self.starting += 1
        self.result.starts += 1
        self.result.instances_peak = max(self.result.instances_peak, self.instances)
        self.next_start = max(self.next_start, self.env.now) + 1 / self.world.starts_a_second
        self.env.process(self._begin(self.next_start - self.env.now))

    def _begin(self, wait_s: float) -> Steps:
        yield self.env.timeout(wait_s + self.inputs.listening_s)
        self.starting -= 1
        if self._counts:
            self.result.billed_s += self.inputs.listening_s
        self._hand_on(_Instance())

    def _hand_on(self, instance: _Instance) -> None:
        """To who waits longest, else to nobody for now."""
        while self.waiting:
            _, event = self.waiting.popleft()
            if not event.triggered:
                event.succeed(instance)
                return
        instance.idle_since = self.env.now
        self.idle.append(instance)

    def _expire(self) -> Steps:
        """Answer 429 to who has waited too long."""
        while True:
            until = self.waiting[0][0] if self.waiting else self.env.now + self.world.push.pending_s
            yield self.env.timeout(max(0.0, until - self.env.now))
            while self.waiting and self.waiting[0][0] <= self.env.now + 1e-9:
                self.waiting.popleft()[1].succeed(None)

    def _scale(self) -> Steps:
        """As Cloud Run does: instances for the last minute's work at the wanted load; idle ones end."""
        past: deque[float] = deque(maxlen=int(facts.WINDOW_S / facts.SCALE_S))
        while True:
            yield self.env.timeout(facts.SCALE_S)
            self._count_busy(0)
            past.append(self.busy_area / facts.SCALE_S)
            self.busy_area = 0.0
            wanted = math.ceil(sum(past) / len(past) / self.world.utilisation)
            for _ in range(self.instances, int(min(wanted, self.world.max_instances))):
                self._start()
            while self.idle and self.idle[0].idle_since < self.env.now - facts.IDLE_S:
                ended = self.idle.popleft()
                self.instances -= 1
                self.connected -= ended.connected
            if self._counts:
                self.result.sampled_instances.append(self.instances)

    def _count_busy(self, change: int) -> None:
        self.busy_area += self.busy * (self.env.now - self.busy_since)
        self.busy_since = self.env.now
        self.busy += change


def _arrivals(world: World, chance: np.random.Generator) -> np.ndarray[Any, Any]:
    """Instants of uploads, s, in order."""
    if world.arrivals:
        return np.array(world.arrivals)
    most = world.rate * (1 + world.swing)
    times = np.sort(chance.uniform(0, world.seconds, chance.poisson(most * world.seconds)))
    if world.swing:
        rate = world.rate * (1 - world.swing * np.cos(2 * math.pi * times / world.seconds))
        times = times[chance.uniform(0, most, len(times)) < rate]
    return times


def replicate(world: World, inputs: Inputs, seeds: Sequence[int]) -> list[Outcome]:
    """The same world by other chances."""
    return [simulate(world, inputs, seed) for seed in seeds]
