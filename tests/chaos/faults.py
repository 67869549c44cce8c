"""Faults between the function and its services; after a fault, the next delivery finishes the upload.

Each fault is injected at every turn of the conversation: at that turn alone, and from that turn on.
A delivery must end within the function's timeout, because retries are bounded.
"""

import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import asdict, dataclass
from urllib.parse import urlsplit

from pg8000.native import DatabaseError, InterfaceError

from dropcap.database.connection import connect
from tests.chaos.proxy import Fault, Proxy
from tests.chaos.report import Scene
from tests.chaos.world import BOUNDS, LEASE_S, TIMEOUT_S, Function, Sent

ADDRESSES = {
    "PostgreSQL": "DATABASE_URL",
    "Cloud Storage": "STORAGE_EMULATOR_HOST",
    "Gemini": "GEMINI_ENDPOINT",
}
BROKEN = tuple(Fault(kind) for kind in ("refuse", "lose", "half-open", "cut"))
SLOW = (Fault("latency", seconds=0.2), Fault("drip", seconds=0.002))
TOO_SLOW = (Fault("latency", seconds=TIMEOUT_S), Fault("drip", seconds=0.1))
STATUSES = tuple(Fault("status", status=status) for status in (404, 412, 429, 500, 503))
LAST = (404, 412)  # not transient: the object does not exist
TRIES = 3
ALIVE = ("answered", "busy", "refused")  # the process neither hung nor was killed
GEMINI = (
    "fault-slow", "fault-drip", "fault-cut", "fault-page", "fault-proxy", "fault-429", "fault-429-after-0.5",
    "fault-429-after-3600", "fault-500", "fault-503", "fault-blocked", "fault-empty", "fault-finish-SAFETY",
    "fault-malformed", "fault-array", "fault-nested", "fault-missing-tags", "fault-type-description",
    "fault-blank", "fault-huge", "fault-long", "fault-script", "fault-spanish", "fault-ok-error",
    "fault-finish-RECITATION", "fault-cut-text", "fault-fenced", "fault-talkative", "fault-image",
    "fault-key",
)  # fmt: skip
MID_RECORD = "record > Analyses.record > COMMIT, before"


@dataclass(frozen=True, slots=True)
class FirstDelivery:
    """The result of the delivery during a fault, and its turns with the faulty service."""

    fault: str
    answer: str
    seconds: float
    turns: int


def of_the_network(scene: Scene, part: str, only: int | None = None) -> None:
    """Inject each fault at each turn with this service, or `only` that many at random."""
    world = scene.world
    with _proxied(scene, part) as (function, proxy):
        faults = list(_faults(part, _turns(scene, function, proxy)))
        faults = faults if only is None else world.chance.sample(faults, min(only, len(faults)))
        scene.total(len(faults))
        for fault in faults:
            sent = world.upload()
            proxy.set(fault)
            answer, seconds = _timed(scene, function, sent, str(fault))
            _note(scene, FirstDelivery(str(fault), answer, seconds, proxy.turns))
            scene.check()
            proxy.clear()
            _heal(scene, function, sent, str(fault))
            if answer in ALIVE:
                _check_no_crash(scene, sent, str(fault))
            scene.step()


def of_gemini(scene: Scene, only: int | None = None) -> None:
    """Make Gemini misbehave: the first delivery analyzes the picture nevertheless."""
    world = scene.world
    with world.function("function") as function:
        models = GEMINI if only is None else world.chance.sample(GEMINI, min(only, len(GEMINI)))
        scene.total(len(models))
        for model in models:
            world.gemini.model = model
            asked = world.gemini.counts.total()
            answer, seconds = _timed(scene, function, world.upload(), model)
            asked = world.gemini.counts.total() - asked
            _note(scene, FirstDelivery(model, answer, seconds, asked))
            if answer != "answered":
                scene.problems.append(f"{model}: the delivery was {answer}")
            if asked > int(BOUNDS["GEMINI_ATTEMPTS"]):
                scene.problems.append(f"{model}: Gemini was asked {asked} times")
            scene.check(at_rest=True)
            scene.step()
        world.gemini.model = ""


def of_postgresql(scene: Scene) -> None:
    """Restart PostgreSQL in the middle of the recording transaction; then use up its connections."""
    world = scene.world
    scene.total(2)
    with world.function("function") as function:
        for name, trouble in (("restart", _restart), ("out of connections", _out_of_connections)):
            sent = world.upload()
            answer, seconds = trouble(scene, function, sent)
            _note(scene, FirstDelivery(name, answer, seconds, 0))
            scene.check()
            _heal(scene, function, sent, name)
            _check_no_crash(scene, sent, name)
            scene.step()


def _faults(part: str, turns: int) -> Iterator[Fault]:
    """Yield each kind of fault, at each turn alone and from each turn on."""
    kinds = BROKEN + (STATUSES if part == "Cloud Storage" else ())
    for fault in kinds:
        for turn in range(turns):
            yield Fault(fault.kind, turn, 1, fault.seconds, fault.status)
            if fault.status not in LAST:
                yield Fault(fault.kind, turn, seconds=fault.seconds, status=fault.status)
    yield from SLOW
    for fault in TOO_SLOW:
        for turn in range(turns):
            yield Fault(fault.kind, turn, 1, fault.seconds)


@contextmanager
def _proxied(scene: Scene, part: str) -> Iterator[tuple[Function, Proxy]]:
    """Run a function that reaches one of its services through a proxy."""
    variable = ADDRESSES[part]
    url = scene.world.environment[variable]
    port = urlsplit(url).port
    assert port is not None
    with ExitStack() as running:
        proxy = running.enter_context(Proxy(port))
        through = {variable: url.replace(f":{port}", f":{proxy.port}")}
        yield running.enter_context(scene.world.function("function", **through)), proxy


def _turns(scene: Scene, function: Function, proxy: Proxy) -> int:
    """Return the number of turns of an undisturbed upload in a warm process."""
    for _ in range(2):
        proxy.clear()
        _heal(scene, function, scene.world.upload(), "no fault")
    return proxy.turns


def _timed(scene: Scene, function: Function, sent: Sent, fault: str) -> tuple[str, float]:
    """Deliver once; return the answer and its seconds. A late instance is killed, as by the platform."""
    began = time.monotonic()
    answer = scene.world.deliver(function, sent)
    if answer == "late":
        scene.problems.append(f"{fault}: a delivery takes longer than the function may, {TIMEOUT_S} s")
        function.fresh()
    return answer, round(time.monotonic() - began, 3)


def _note(scene: Scene, delivery: FirstDelivery) -> None:
    scene.facts.setdefault("faults", []).append(asdict(delivery))


def _heal(scene: Scene, function: Function, sent: Sent, fault: str) -> None:
    """Check that the first delivery after the fault and the lease finishes the upload."""
    answers = []
    for _ in range(TRIES):
        answers.append(scene.world.deliver(function, sent))
        if answers[-1] == "answered":
            break
        scene.world.later(LEASE_S)
    if answers[-1] != "answered" or "refused" in answers:
        scene.problems.append(f"{fault}: {sent} was {', '.join(answers)} when the fault was over")
    scene.check(at_rest=True)


def _check_no_crash(scene: Scene, sent: Sent, fault: str) -> None:
    """Check that a network fault was not counted as a crash."""
    with scene.world.connected() as connection:
        [[crashes]] = connection.run("SELECT deaths FROM uploads WHERE id = :id", id=str(sent.id)) or [[[]]]
    if crashes:
        scene.problems.append(f"{fault}: {sent} was counted as a crash: {crashes}")


def _restart(scene: Scene, function: Function, sent: Sent) -> tuple[str, float]:
    world = scene.world
    function.order(signal.SIGSTOP, MID_RECORD)
    with ThreadPoolExecutor(1) as pool:
        delivery = pool.submit(_timed, scene, function, sent, "restart")
        while not (delivery.done() or function.obeyed()):
            time.sleep(0.01)
        if not function.called_off():
            scene.problems.append(f"{MID_RECORD} was not passed")
        world.postgres.close()
        world.postgres.start()
        function.worker().send_signal(signal.SIGCONT)
        return delivery.result()


def _out_of_connections(scene: Scene, function: Function, sent: Sent) -> tuple[str, float]:
    function.fresh()
    with ExitStack() as held:
        with suppress(DatabaseError, InterfaceError):
            while True:
                held.enter_context(closing(connect(scene.world.database_url)))
        return _timed(scene, function, sent, "out of connections")
