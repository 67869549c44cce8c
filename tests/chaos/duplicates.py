"""Duplicate deliveries: every event one to five times, shuffled, over several processes; names are reused.

Days later all events are delivered once more, and nothing changes.
"""

import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from threading import Semaphore
from typing import Any

from tests.chaos.invariants import Snapshot
from tests.chaos.report import Scene
from tests.chaos.world import Function, Sent

FUNCTIONS = 3
AT_ONCE = 6  # concurrent deliveries
MOST = 5  # deliveries of one event
ONE_BAD_IN = 16
ONE_OVER_IN = 8  # uploads that reuse a name
SPREAD = 12.0  # uploads between the first and the last delivery of an event, on average
GIVE_UP = 200  # deliveries
AGAIN_S = 0.05
DAYS_S = 10 * 86_400


@dataclass(frozen=True, slots=True)
class Step:
    """At `at`, upload number `upload` is put into the bucket, or its event is delivered."""

    at: float
    upload: int
    put: bool


def many_times(scene: Scene, uploads: int) -> None:
    """Deliver as the platform may in the worst case."""
    world = scene.world
    scene.total(uploads)
    with ExitStack() as running:
        functions = [running.enter_context(world.function(f"function-{n}")) for n in range(FUNCTIONS)]
        pool = running.enter_context(ThreadPoolExecutor(AT_ONCE))
        with scene.watched():
            _deliver_all(scene, functions, pool, uploads)
        scene.check(at_rest=True)
        before = _state(scene)
        world.later(DAYS_S)
        shuffled = world.chance.sample(world.sent, len(world.sent))
        late = [pool.submit(world.deliver, world.chance.choice(functions), sent) for sent in shuffled]
        if any(each.result() != "answered" for each in late):
            scene.problems.append("An event of days ago was not acknowledged.")
        scene.check(at_rest=True)
    after = _state(scene)
    changed = [name for name in before if before[name] != after[name]]
    if changed:
        scene.problems.append(f"Events of days ago changed {', '.join(changed)}.")


def _steps(scene: Scene, uploads: int) -> Iterator[Step]:
    chance = scene.world.chance
    steps = []
    for number in range(uploads):
        steps.append(Step(number, number, put=True))
        when = float(number)
        for _ in range(chance.randint(1, MOST)):
            # Half of them come at the same instant, to two processes.
            when = when if chance.random() < 0.5 else number + chance.expovariate(1 / SPREAD)
            steps.append(Step(when, number, put=False))
    yield from sorted(steps, key=lambda step: (step.at, not step.put))


def _deliver_all(scene: Scene, functions: list[Function], pool: ThreadPoolExecutor, uploads: int) -> None:
    world, chance = scene.world, scene.world.chance
    sent: dict[int, Sent] = {}
    free, waiting = Semaphore(AT_ONCE), list[Future[str]]()
    for step in _steps(scene, uploads):
        if step.put:
            latest = [each for each in world.sent if not each.overwritten]
            over = chance.choice(latest) if latest and chance.randrange(ONE_OVER_IN) == 0 else None
            sent[step.upload] = world.upload(bad=chance.randrange(ONE_BAD_IN) == 0, over=over)
            scene.step()
        else:
            free.acquire()
            task = pool.submit(_until_answered, scene, chance.choice(functions), sent[step.upload])
            task.add_done_callback(lambda _: free.release())
            waiting.append(task)
    for task in waiting:
        task.result()


def _until_answered(scene: Scene, function: Function, sent: Sent) -> str:
    for _ in range(GIVE_UP):
        answer = scene.world.deliver(function, sent)
        if answer == "answered":
            return answer
        if answer != "busy":
            scene.problems.append(f"{sent} was {answer}")
        time.sleep(AGAIN_S)
    scene.problems.append(f"{sent} was not acknowledged after {GIVE_UP} deliveries")
    return "given up"


def _state(scene: Scene) -> dict[str, Any]:
    """Return everything that a delivery could change."""
    now = Snapshot(scene.world)
    objects = {
        name: {blob.name: (blob.generation, blob.md5_hash) for blob in getattr(now, name).values()}
        for name in ("sources", "pictures", "quarantine", "archive")
    }
    return objects | {
        "rows": now.rows,
        "achievements": sorted(now.achievements),
        "analyses": now.analyses,
    }
