"""Restarts of PostgreSQL at random while uploads flow: every upload is done exactly once.

The server process is stopped by a fast shutdown, which ends every transaction, or by an immediate one, after
which it recovers from its log as after a crash.
"""

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from threading import Event

from tests.chaos.report import Scene
from tests.chaos.world import LEASE_S, Function

FUNCTIONS = 2
AT_ONCE = 4  # concurrent deliveries
AGAIN_S = 0.5
GIVE_UP_S = 6 * LEASE_S  # after it no delivery may be necessary
KINDS = ("fast", "immediate")
MIN_ALIVE_S = 0.2  # of a server, for the function to connect


def of_postgresql(scene: Scene, uploads: int, pause_s: Sequence[float]) -> None:
    """Send so many uploads, and restart PostgreSQL each time a random pause of `pause_s` is over."""
    world, over, answers = scene.world, Event(), Counter[str]()
    chance = random.Random(world.chance.random())  # noqa: S311  no secret
    restarts = Counter(dict.fromkeys(KINDS, 0))
    scene.facts |= {"restarts": restarts, "answers": answers}
    scene.total(uploads)

    def restart() -> None:
        while not over.wait(MIN_ALIVE_S + chance.uniform(*pause_s)):
            kind = chance.choice(KINDS)
            if kind == "immediate":
                [pid, *_] = (world.postgres.data / "postmaster.pid").read_text().split()
                os.kill(int(pid), signal.SIGQUIT)
            world.postgres.close()
            world.postgres.start()
            restarts[kind] += 1
            scene.check()

    def send(function: Function) -> None:
        sent, ends = world.upload(bad=False), time.monotonic() + GIVE_UP_S
        while (answer := world.deliver(function, sent)) != "answered":
            answers[answer] += 1
            if time.monotonic() > ends:
                scene.problems.append(f"{sent} was {answer} after {GIVE_UP_S} s")
                break
            time.sleep(AGAIN_S)
        scene.step()

    with ExitStack() as running:
        functions = [running.enter_context(world.function(f"function-{n}")) for n in range(FUNCTIONS)]
        deliveries = running.enter_context(ThreadPoolExecutor(AT_ONCE))
        restarting = running.enter_context(ThreadPoolExecutor(1)).submit(restart)
        try:
            for task in [deliveries.submit(send, functions[n % FUNCTIONS]) for n in range(uploads)]:
                task.result()
        finally:
            over.set()
        restarting.result()
    scene.check(at_rest=True)
    if not restarts.total():
        scene.problems.append("PostgreSQL was never restarted.")
