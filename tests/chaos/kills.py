"""Kills at every point that an upload passes, and at random instants; each upload crashes once.

After a kill the event is redelivered at once, as by the platform, when the lease may still be held, and again
when the lease has expired, which must finish the upload.
"""

import random
import signal
import statistics
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

from dropcap.describing import moderation
from tests.chaos.report import Scene
from tests.chaos.world import BECOMES, LEASE_S, NO_VERDICT, NONE, Function, Sent

WAVE = 20  # kills between two checks
MEASURED = 5  # undisturbed deliveries
T = TypeVar("T")
LONGER = 1.1  # than the slowest of them: the last random instants come after the answer


def held(scene: Scene, only: int | None = None) -> None:
    """Kill at each point while there is no safety verdict; an hour later there is one."""
    world = scene.world
    at_every_point(scene, settings=NO_VERDICT, only=only)
    world.later(moderation.RETRY_S)
    with world.function("an hour later") as function:
        for sent in world.sent:
            sent.code = ""
            answer = world.deliver(function, sent)
            if answer != "answered":
                scene.problems.append(f"{sent}, which was held, was {answer}")
    scene.check(at_rest=True)


def at_every_point(
    scene: Scene, bad: bool = False, settings: Mapping[str, str] = NONE, only: int | None = None
) -> None:
    """Kill at each point, or at `only` that many at random."""
    world = scene.world

    def upload() -> Sent:
        sent = world.upload(bad, new=True)
        sent.code = BECOMES.get(settings.get("GEMINI_MODEL", ""), sent.code)
        return sent

    with world.function("killed", **settings) as function:
        points = chosen(points_of(scene, function, upload()), only, world.chance)
        scene.facts["points"] = points
        scene.total(len(points))
        for wave in _waves(points):
            killed = []
            for point in wave:
                function.fresh()
                function.order(signal.SIGKILL, point)
                worker, sent = function.worker(), upload()
                answer = world.deliver(function, sent)
                if function.called_off():
                    world.kills += 1
                    function.wait_for_another(worker)
                else:
                    scene.problems.append(f"{point} was not passed ({answer})")
                killed.append(sent)
                scene.step()
            heal(scene, function, killed)


def at_random(scene: Scene, kills: int) -> None:
    """Kill at random instants, from just before an upload arrives to just after it is done."""
    world = scene.world
    scene.total(kills)
    with world.function("killed") as function, ThreadPoolExecutor(1) as pool:
        longest = _longest(scene, function)
        scene.facts["longest_s"] = round(longest, 3)
        for wave in _waves(range(kills)):
            killed = []
            for _ in wave:
                worker, sent = function.worker(), world.upload()
                answer = pool.submit(world.deliver, function, sent)
                time.sleep(world.chance.uniform(0, longest))
                worker.kill()
                world.kills += 1
                answer.result()
                function.wait_for_another(worker)
                killed.append(sent)
                scene.step()
            heal(scene, function, killed)


def points_of(scene: Scene, function: Function, sent: Sent) -> list[str]:
    """Return the points that an undisturbed upload passes in a new process, in order."""
    function.fresh()
    passed = function.passes()
    answer = scene.world.deliver(function, sent)
    points = passed.read_text().splitlines()
    passed.unlink()
    if answer != "answered":
        scene.problems.append(f"An undisturbed upload was {answer}.")
    return points


def chosen(points: Sequence[str], only: int | None, chance: random.Random) -> list[str]:
    """Return all points, or `only` that many at random, in order."""
    if only is None or only >= len(points):
        return list(points)
    return [points[index] for index in sorted(chance.sample(range(len(points)), only))]


def heal(scene: Scene, function: Function, killed: Sequence[Sent]) -> None:
    """Redeliver at once, and again when the lease has expired; check before, between and after."""
    world = scene.world
    scene.check()
    left = [sent for sent in killed if world.deliver(function, sent) != "answered"]
    scene.check()
    world.later(LEASE_S)
    for sent in left:
        answer = world.deliver(function, sent)
        if answer != "answered":
            scene.problems.append(f"{sent} was {answer} when the lease was over")
    scene.check(at_rest=True)


def _longest(scene: Scene, function: Function) -> float:
    times = []
    for _ in range(MEASURED):
        function.fresh()
        began = time.monotonic()
        scene.world.deliver(function, scene.world.upload())
        times.append(time.monotonic() - began)
    return LONGER * statistics.median(times)


def _waves(things: Iterable[T]) -> Iterator[list[T]]:
    left = iter(things)
    while wave := list(islice(left, WAVE)):
        yield wave
