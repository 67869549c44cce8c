"""The model beside reality: real instances of the function here, events pushed by the platform's rules.

Each instance is a process of functions-framework with the small model that ships, PostgreSQL and the storage
server are real. All of them share this machine's cores, which the model does not know.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median
from tempfile import TemporaryDirectory
from typing import Any

import aiohttp
import numpy as np
import psutil
from pg8000.native import Connection
from rich.console import Console

from dropcap.database import connect_inside
from dropcap.settings import Settings
from infra.local.events import cloud_event
from infra.local.ports import free_port
from infra.local.process import Process, framework
from infra.local.storage import ROOT
from infra.local.surroundings import Surroundings
from infra.scaling.inputs import LOOK, Inputs, Picture
from infra.scaling.model import Push, World, replicate

KEPT = Path(__file__).with_name("measured.json")
MAIN = ROOT / "functions" / "main.py"
SAMPLES = sorted(path for path in (ROOT / "infra" / "samples").iterdir() if path.suffix != ".json")
PUSH = Push(
    pending_s=1.0, first_s=1.0, longest_s=8.0
)  # the platform's 10, 10 and 600, in a run of half a minute
INSTANCES, LOADS = (1, 2), (0.5, 0.8, 1.1)  # processes; uploads in times of what one instance does, for each
UNLOADED, SEEDS, WORKERS_S = 60, range(20), 120.0
BASE = ROOT / "build" / "random-base"
Event = tuple[Mapping[str, str], bytes]


@dataclass(frozen=True, slots=True)
class Seen:
    """Of uploads at the instants `arrivals`: seconds until each was done; deliveries that got 429."""

    arrivals: list[float]
    latencies: list[float]
    refused: int
    seconds: float  # until the last was done

    def facts(self) -> dict[str, float]:
        """The figures that are compared."""
        return figures(self.latencies, self.seconds)


def figures(latencies: Sequence[float], seconds: float) -> dict[str, float]:
    quantiles = np.quantile(latencies, (0.5, 0.95))
    return {
        "done_a_second": len(latencies) / seconds,
        "mean_s": fmean(latencies),
        "p50_s": float(quantiles[0]),
        "p95_s": float(quantiles[1]),
    }


def measure(console: Console, seconds: float, seed: int) -> dict[str, Any]:
    """Everything that measured.json has; each run takes `seconds` of uploads. Raises StackError."""
    chance = random.Random(seed)  # noqa: S311  no secret
    with ExitStack() as running:
        folder = Path(running.enter_context(TemporaryDirectory(prefix="dropcap-scaling-")))
        load = os.getloadavg()[1]
        with console.status("Captions on one thread and on two ..."):
            threads = _threads()
        around = running.enter_context(Surroundings(folder, Settings()))
        before = _used(around)
        with console.status("One instance without load ..."), _Instances(around, 1) as instances:
            instances.unloaded()
        asked = _asked(before, _used(around))  # its connection is closed: all that it did is counted
        runs = []
        for count in INSTANCES:
            with _Instances(around, count) as instances:
                for share in LOADS:
                    service = instances.unloaded(UNLOADED // 2)  # anew, as a machine is not always as fast
                    each = fmean(service)
                    rate = share * count / each
                    arrivals = _poisson(rate, seconds, chance)
                    with console.status(f"{count} instances, {rate:.1f} uploads a second ..."):
                        seen = asyncio.run(instances.push(arrivals))
                    run: dict[str, Any] = {
                        "instances": count,
                        "load": share,
                        "rate": rate,
                        "uploads": len(arrivals),
                    }
                    run |= {"service_s": each, "refused": seen.refused, "measured": seen.facts()}
                    runs.append(run | {"predicted": predicted(arrivals, service, count)})
    return {
        "machine": {"cores": psutil.cpu_count(), "load": load},
        "seconds": seconds,
        "seed": seed,
        "database": asked,
        "threads": threads,
        "runs": runs,
    }


def predicted(arrivals: Sequence[float], service: Sequence[float], count: int) -> dict[str, float]:
    """What the model says of uploads at these instants, with these seconds of a picture without load."""
    nothing = dict.fromkeys(("claim", "read", "open", "resize", "publish", "record"), 0.0)
    nothing |= {"delete the source": 0.0, "rest": 0.0}
    pictures = tuple(Picture("sample", 0, nothing | {LOOK: seconds}) for seconds in service)
    world = World(
        len(arrivals) / arrivals[-1],
        arrivals[-1] + 1e-6,
        max_instances=count,
        warm=count,
        drain_s=WORKERS_S,
        push=PUSH,
        arrivals=tuple(arrivals),
    )
    runs = replicate(world, Inputs(pictures, 0.0, 0.0), SEEDS)
    every = [figures(run.latencies, run.last_s) for run in runs]
    return {name: fmean(figure[name] for figure in every) for name in every[0]}


class _Instances:
    """Processes of the function, each of which gets one event at a time."""

    def __init__(self, around: Surroundings, count: int) -> None:
        self.around = around
        self.count = count
        self.urls: list[str] = []
        self._number = 0
        self._exit = ExitStack()

    def __enter__(self) -> _Instances:
        path = f"{ROOT / 'functions'}:{ROOT}"
        environment = os.environ | self.around.environment | {"THREADS": "4", "PYTHONPATH": path}
        for index in range(self.count):
            port = free_port()
            log = self.around.logs / f"function-{index}.log"
            command = framework(MAIN, port, python=Path(sys.executable))
            process = self._exit.enter_context(Process("function", command, log, environment, ROOT))
            self.urls.append(f"http://127.0.0.1:{port}")
            process.wait_until_answers(self.urls[-1])
        return self

    def __exit__(self, *error: object) -> None:
        self._exit.close()

    def upload(self, count: int) -> list[Event]:
        """Put pictures into the bucket, one after the other; their events."""
        made: list[Event] = []
        for _ in range(count):
            path = SAMPLES[self._number % len(SAMPLES)]
            self._number += 1
            name = f"user{self._number % 50}/{id(self)}-{self._number}{path.suffix}"
            made.append(cloud_event(self.around.put(name, path)))
        return made

    def unloaded(self, count: int = UNLOADED) -> list[float]:
        """Seconds of one picture after the other; those that warm up left out."""
        return asyncio.run(self._one_by_one(self.upload(count + len(SAMPLES))))

    async def _one_by_one(self, events: list[Event]) -> list[float]:
        taken = []
        async with aiohttp.ClientSession() as session:
            for number, event in enumerate(events):
                began = time.monotonic()
                await _post(session, self.urls[number % self.count], event)
                taken.append(time.monotonic() - began)
        return taken[len(SAMPLES) :]

    async def push(self, arrivals: list[float]) -> Seen:
        """Deliver an event at each of these instants, again where there is no instance for it in time."""
        events = self.upload(len(arrivals))
        idle: asyncio.LifoQueue[str] = asyncio.LifoQueue()
        for url in self.urls:
            idle.put_nowait(url)
        refused = 0

        async def deliver(at: float, event: Event) -> float:
            nonlocal refused
            await asyncio.sleep(began + at - time.monotonic())
            wait_s = PUSH.first_s
            while True:
                try:
                    url = await asyncio.wait_for(idle.get(), PUSH.pending_s)
                except TimeoutError:
                    refused += 1
                    await asyncio.sleep(wait_s * random.uniform(0.75, 1.25))  # noqa: S311  no secret
                    wait_s = min(2 * wait_s, PUSH.longest_s)
                    continue
                await _post(session, url, event)
                idle.put_nowait(url)
                return time.monotonic() - began - at

        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector) as session:
            began = time.monotonic() + 0.1
            latencies = await asyncio.gather(*map(deliver, arrivals, events))
            return Seen(arrivals, list(latencies), refused, time.monotonic() - began)


async def _post(session: aiohttp.ClientSession, url: str, event: Event) -> None:
    headers, body = event
    async with session.post(url, data=body, headers=dict(headers)) as answer:
        answer.raise_for_status()


def _poisson(rate: float, seconds: float, chance: random.Random) -> list[float]:
    times, now = [], chance.expovariate(rate)
    while now < seconds:
        times.append(now)
        now += chance.expovariate(rate)
    return times


STATISTICS = """
SELECT xact_commit, active_time + idle_in_transaction_time FROM pg_stat_database
WHERE datname = current_database()
"""


def _used(around: Surroundings) -> dict[str, float]:
    """What PostgreSQL has done so far: transactions, s within them, CPU s of all its processes, pictures."""
    time.sleep(1.0)  # until what has just ended is counted
    connection: Connection = connect_inside(around.database_url)
    try:
        [[commits, held_ms]] = connection.run(STATISTICS) or []
        [[pictures]] = connection.run("SELECT count(*) FROM uploads WHERE state = 'done'") or []
    finally:
        connection.close()
    server = psutil.Process(int((around.postgres.data / "postmaster.pid").read_text().split()[0]))
    cpu_s = 0.0
    for each in (*server.children(recursive=True), server):  # the server last: it has those of who has ended
        with suppress(psutil.NoSuchProcess):
            times = each.cpu_times()
            cpu_s += times.user + times.system + times.children_user + times.children_system
    return {"transactions": commits, "held_s": held_ms / 1000, "cpu_s": cpu_s, "pictures": pictures}


def _asked(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, float]:
    """The same for one picture."""
    more = {name: after[name] - before[name] for name in before}
    return {name: more[name] / more["pictures"] for name in ("transactions", "held_s", "cpu_s")}


def _threads(rounds: int = 7) -> dict[str, float] | None:
    """Median seconds of BLIP-base's caption by number of threads, in turns; None where it is not built."""
    if not (BASE / "model.json").exists():
        return None
    from dataclasses import replace

    from dropcap.blip import Captioner
    from tests.bench.ways import TOKENS, photo

    captioners = {}
    for threads in (1, 2):
        captioner = Captioner(BASE, threads)
        captioner.card = replace(captioner.card, eos=-1)
        captioners[str(threads)] = captioner
    taken: dict[str, list[float]] = {name: [] for name in captioners}
    image = photo()
    for _ in range(rounds):
        for name, captioner in captioners.items():
            began = time.perf_counter()
            captioner.generate(captioner.encode(image), [captioner.card.bos], 1, TOKENS)
            taken[name].append(time.perf_counter() - began)
    return {name: median(seconds[1:]) for name, seconds in taken.items()}


def kept() -> dict[str, Any]:
    """What is committed."""
    facts: dict[str, Any] = json.loads(KEPT.read_text())
    return facts
