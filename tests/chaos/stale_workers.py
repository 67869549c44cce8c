"""Stale workers: an instance is suspended at a point, as a throttled one is, and resumes later.

Meanwhile its lease expires and another instance, of a later deployment with other settings, finishes the
upload; or a newer upload takes the name. The stale worker must harm neither.
"""

import signal
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor

from tests.chaos.kills import chosen, points_of
from tests.chaos.report import Scene
from tests.chaos.world import BECOMES, LEASE_S, Function, Sent

OTHER = {"QUALITY": "35"}  # so that the same picture gives other bytes
TRIES = 8
AGAIN_S = 0.3  # the server releases the suspended instance's locks after a second
POLL_S = 0.005


def taken_over(
    scene: Scene, bad: bool = False, other: Mapping[str, str] = OTHER, only: int | None = None
) -> None:
    """Suspend a worker at each point, let a second one finish, then resume the first.

    The second is of a later deployment, whose `other` settings may lead to another outcome.
    """

    def meanwhile(second: Function, sent: Sent) -> None:
        sent.or_code = BECOMES.get(other.get("GEMINI_MODEL", ""))
        scene.world.later(LEASE_S)
        _answered(scene, second, sent)
        scene.check()

    _suspended_at_every_point(scene, meanwhile, bad, other, only)


def overwritten(scene: Scene, bad: bool = False, only: int | None = None) -> None:
    """At each point, let a newer upload take the name, and sometimes finish first."""

    def meanwhile(second: Function, sent: Sent) -> None:
        newer = scene.world.upload(over=sent)
        if scene.world.chance.random() < 0.5:
            _answered(scene, second, newer)
        scene.check()

    _suspended_at_every_point(scene, meanwhile, bad, OTHER, only)


def _suspended_at_every_point(
    scene: Scene,
    meanwhile: Callable[[Function, Sent], None],
    bad: bool,
    other: Mapping[str, str],
    only: int | None,
) -> None:
    world = scene.world
    with (
        world.function("first") as first,
        world.function("second", **other) as second,
        ThreadPoolExecutor(1) as pool,
    ):
        points = chosen(points_of(scene, first, world.upload(bad, new=True)), only, world.chance)
        scene.facts["points"] = points
        scene.total(len(points))
        for point in points:
            first.fresh()
            first.order(signal.SIGSTOP, point)
            begun = len(world.sent)
            sent = world.upload(bad, new=True)
            answer = pool.submit(world.deliver, first, sent)
            if not _is_suspended(first, answer):
                scene.problems.append(f"{point} was not passed ({answer.result()})")
                continue
            try:
                meanwhile(second, sent)
            finally:
                first.worker().send_signal(signal.SIGCONT)
            answer.result()
            for each in world.sent[begun:]:
                _answered(scene, second, each)
            scene.check(at_rest=True)
            scene.step()


def _is_suspended(function: Function, answer: Future[str]) -> bool:
    """Return whether the instance was suspended at the ordered point, before it answered."""
    while not (answer.done() or function.obeyed()):
        time.sleep(POLL_S)
    return function.called_off()


def _answered(scene: Scene, function: Function, sent: Sent) -> None:
    """Deliver until it is acknowledged."""
    answers = []
    for _ in range(TRIES):
        answers.append(scene.world.deliver(function, sent))
        if answers[-1] == "answered":
            return
        if answers[-1] == "busy":  # the first worker's lease, which it released or lost
            scene.world.later(LEASE_S)
        time.sleep(AGAIN_S)
    scene.problems.append(f"{sent} was not acknowledged: {', '.join(answers)}")
