"""A state machine over uploads, leases, crashes, reconcile, erasures and the outbox; a seed replays it.

Hypothesis chooses the steps, and reduces those that lead to a violation to the fewest. The product's own code
works on the real PostgreSQL and the local storage server; Gemini, BLIP and the consumer of events are stubs.
While a worker is suspended (workers.py), others go on; then it resumes or crashes.
"""

import logging
import sys
from collections import defaultdict
from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import replace
from io import BytesIO
from typing import Any, ClassVar
from unittest.mock import patch
from uuid import UUID

import flask
from google.api_core.exceptions import NotFound
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from PIL import Image
from werkzeug.test import create_environ

from dropcap.database import progress
from dropcap.database.transactions import Database
from dropcap.describing import moderation
from dropcap.describing.response import NotDescribed
from dropcap.domain.analysis import Description, Verdict
from dropcap.gallery import edits
from dropcap.gallery.request import GalleryRequest
from dropcap.outbox.event import Event
from dropcap.outbox.publishers import PublishError
from dropcap.pipeline import process
from dropcap.reconcile import reconcile
from dropcap.runtime.turns import Turns
from tests.chaos.invariants import violations
from tests.chaos.machine.workers import Worker
from tests.chaos.report import Scene
from tests.chaos.world import BAD, Sent, png

Until = tuple[str, int]
"""What happens to a worker after so many points, if it has not ended by then."""

END: Until = ("ended", 0)
STEPS = 50  # of one run, after which everything settles
THEN = st.sampled_from(("ended", "suspended", "suspended", "crashed"))
UNTIL = st.tuples(THEN, st.integers(0, 38))  # a picture passes 38 points; crashed at 0, an event is lost
LEASE_S, HOUR_S, DAY_S = 600, 3600, 86_400
LONGEST_S = 2 * DAY_S  # of a run: an upload is held for three days at most
QUIET = 40  # reconcile runs after which nothing may be left
TOOK_DOWN, CRASHES = "took_the_instance_down", 3  # MAX_DEATHS
CRASHED = f"SELECT id FROM uploads WHERE jsonb_array_length(deaths) >= {CRASHES}"  # noqa: S608  ours
NAMES = st.sampled_from(("ana/a.png", "bo/a.png"))
CONSUMERS = ("accepts", "fails", "loses the answer")
CODES = st.sampled_from(("", BAD, moderation.UNSAFE))  # of the expected rejection
COLOURS = {"": (30, 90, 200), BAD: (0, 0, 0), moderation.UNSAFE: (220, 90, 60)}  # by that code
LEASES = "SELECT id, state, holder, lease_until > now() FROM uploads"
ERASED = "SELECT id FROM uploads WHERE reason_code = 'deleted'"
SHOWN = (  # a receipt is deleted last
    "SELECT id FROM analyses UNION SELECT upload_id FROM events UNION "
    "SELECT id FROM receipts JOIN uploads USING (id) WHERE state = 'done'"
)
PICTURES = "SELECT user_id, count(*) FROM analyses GROUP BY 1"
LEFT = (
    "SELECT name || ' is ' || state FROM uploads WHERE state <> 'done' UNION ALL SELECT 'an event of ' || "
    "upload_id FROM events WHERE sent_at IS NULL AND next_at <> 'infinity'"
)


class Machine(RuleBasedStateMachine):
    """One run on empty tables and new buckets."""

    scene: ClassVar[Scene]
    uploads = Bundle("uploads")

    def __init__(self) -> None:
        super().__init__()
        self.world, self.client = self.scene.world, self.scene.world.client
        self.chosen = replace(
            self.world.renewed(),
            sizes=(48,),
            safety="low",
            gemini_api_key="any",
            receipts=1,
            events="https://example.com",
            events_days=1,
            lease_s=LEASE_S,
            max_deaths=CRASHES,
            memory_limit_mb=32_768,  # of this process, which may hold much else
            memory_warning_mb=32_768,
        )
        self.database = Database(self.chosen)
        self.suspended: list[Worker] = []
        self.wrong: list[str] = []
        self.leases: dict[UUID, Sequence[Any]] = {}
        self.owners: dict[str, Worker] = {}  # by lease token
        self.events = defaultdict[tuple[UUID, str], set[UUID]](set)
        self.gemini, self.consumer, self.repeats, self.passed_s = True, "accepts", False, 0

    @rule(target=uploads, name=NAMES, code=CODES, until=UNTIL)
    def upload(self, name: str, code: str, until: Until) -> Sent:
        sent = self._send(name, code)
        self.deliver(sent, until)
        return sent

    @precondition(lambda self: self.passed_s < LONGEST_S)
    @rule(target=uploads, name=NAMES, code=CODES, points=st.integers(1, 38), until=UNTIL)
    def take_over(self, name: str, code: str, points: int, until: Until) -> Sent:
        """A worker is suspended until its lease has expired, and the event is delivered to another."""
        sent = self._send(name, code)
        self.deliver(sent, ("suspended", points))
        self.later(LEASE_S)
        self.deliver(sent, until)
        return sent

    @initialize(target=uploads, name=NAMES, code=CODES)  # a run may have no other uploads
    def first_upload(self, name: str, code: str) -> Sent:
        return self._send(name, code)

    def _send(self, name: str, code: str) -> Sent:
        size = (48 + len(self.world.sent), 40)
        self._replaced(name)
        colour = COLOURS[code]
        data = b"a letter" if code == BAD else png(size, colour)
        return self.world.send(name, data, size, colour, code)

    @rule(name=NAMES)
    def delete_object(self, name: str) -> None:
        self._replaced(name)
        with suppress(NotFound):
            self.client.bucket(self.chosen.uploads_bucket).blob(name).delete()

    @rule(sent=uploads, until=UNTIL)
    def deliver(self, sent: Sent, until: Until) -> None:
        self.world.deliveries += 1
        self._work(Worker(self, lambda services: process(sent.upload, services)), until)

    @rule(until=UNTIL)
    def reconcile(self, until: Until) -> None:
        self._work(Worker(self, lambda services: reconcile(services, 0)), until)

    @rule(sent=uploads, until=UNTIL)
    def erase(self, sent: Sent, until: Until) -> None:
        http, user = flask.Request(create_environ(headers={"Accept": "application/json"})), sent.upload.user
        self._work(Worker(self, lambda each: edits.delete(GalleryRequest(http, each, user), sent.id)), until)

    @precondition(lambda self: self.suspended)
    @rule(number=st.integers(0, 3), until=UNTIL)
    def resume(self, number: int, until: Until) -> None:
        self._work(self.suspended.pop(number % len(self.suspended)), until)

    @precondition(lambda self: self.passed_s < LONGEST_S)
    @rule(seconds=st.sampled_from((LEASE_S, HOUR_S, DAY_S)))
    def later(self, seconds: int) -> None:
        self.passed_s += seconds
        self.world.later(seconds)
        self.observe(None)

    @rule(gemini=st.booleans(), repeats=st.booleans(), consumer=st.sampled_from(CONSUMERS))
    def change(self, gemini: bool, repeats: bool, consumer: str) -> None:
        """Gemini answers or not; PostgreSQL's responses are lost, so that each transaction is repeated."""
        self.gemini, self.repeats, self.consumer = gemini, repeats, consumer

    @invariant()
    def holds(self) -> None:
        self.scene.facts["steps"] += 1
        self.scene.step()
        self._check()

    def teardown(self) -> None:
        with closing(self.database):
            if sys.exc_info()[0] is None:
                self._settle()
            for worker in self.suspended:
                worker.crash()

    def describe(self, jpeg: bytes, language: str, _: object) -> Description:
        """Gemini: it tells a safe picture by its colour, if it answers."""
        if not self.gemini:
            raise NotDescribed("Gemini is down")
        with Image.open(BytesIO(jpeg)) as picture:
            red = picture.convert("RGB").getpixel((20, 20))[0]  # type: ignore[index]
        verdict = Verdict("high" if red > 128 else "none")
        return Description("A square.", "Square", (), "", "stub", "1", language=language, safety=verdict)

    def receive(self, events: Sequence[Event]) -> None:
        """The consumer receives events, fails, or has them and its answer is lost."""
        if self.consumer != "fails":
            for event in events:
                self.events[event.upload, event.type].add(event.id)
                self.world.delivered.add((event.upload, event.type))
        if self.consumer != "accepts":
            raise PublishError("no answer")

    def observe(self, worker: Worker | None) -> None:
        """Check each lease that the last effect changed, before another worker has its turn."""
        before, self.leases = self.leases, {row[0]: row for row in self.database.query(LEASES)}
        for id, state, token, _ in self.leases.values():
            _, old_state, old_token, held = before.get(id, (id, "", None, False))
            if token not in (None, old_token):
                if old_token and held and state == old_state:
                    self.wrong.append(f"{id} has two workers with a lease")
                if worker:
                    self.owners[token] = worker
            if old_state == "claimed" and state != old_state and self.owners.get(old_token) is not worker:
                self.wrong.append(f"{id} became {state} by a worker without its lease")

    def _work(self, worker: Worker, until: Until) -> None:
        then, points = until
        worker.resume(None if then == "ended" else points)
        if not worker.ended and then == "crashed":
            worker.crash()
            self.world.kills += 1
        if not worker.ended:
            self.suspended.append(worker)

    def _replaced(self, name: str) -> None:
        for sent in self.world.sent:
            sent.overwritten = sent.overwritten or sent.upload.name == name

    def _check(self, at_rest: bool = False) -> None:
        self.scene.looks += 1
        rows = self.database.query
        erased = {id for [id] in rows(ERASED)}
        for sent in self.world.sent:
            sent.erased = sent.erased or sent.id in erased
        shown = {id for [id] in rows(SHOWN)}
        back = [
            sent for sent in self.world.sent if sent.erased and (sent.id not in erased or sent.id in shown)
        ]
        self.wrong += [f"{sent} was erased, and is back" for sent in back]
        self.wrong += [f"{key} has the events {ids}" for key, ids in self.events.items() if len(ids) > 1]
        counted = {user: progress.stats(self.database, user)["pictures_analyzed"] for user in ("ana", "bo")}
        if {user: count for user, count in counted.items() if count} != dict(rows(PICTURES)):
            self.wrong.append(f"progress counts {counted}, and there are {rows(PICTURES)}")
        self.wrong += map(str, violations(self.world, at_rest))
        assert not self.wrong, "\n".join(self.wrong)

    def _settle(self) -> None:
        """Let all workers end, and time pass until reconcile finds nothing; then deliver each event again."""
        while self.suspended:
            self.suspended.pop(0).resume()
        self.gemini, self.consumer, self.repeats = True, "accepts", False
        for turn in range(QUIET):
            self.reconcile(END)
            if not (left := self.database.query(LEFT)):
                break
            self.later(HOUR_S if turn < 5 else DAY_S)
        assert not left, f"left when everything has settled: {left}"
        left = list(self.client.list_blobs(self.chosen.uploads_bucket))
        assert not left, f"left in the uploads bucket: {left}"
        crashed = self.database.query(CRASHED)
        for sent in self.world.sent:
            self.deliver(sent, END)
            sent.or_code = TOOK_DOWN if [sent.id] in crashed else None
        self._check(at_rest=True)
        erased = {str(sent.id) for sent in self.world.sent if sent.erased}
        stored = [blob.name for bucket in self.world.buckets[1:] for blob in self.client.list_blobs(bucket)]
        back = {name for name in stored if name.partition("/")[0] in erased}
        assert not back, f"erased, and still stored: {back}"


def run(scene: Scene, steps: int, number: int) -> None:
    """Run at least so many steps, in runs of STEPS; `number` is the seed."""
    scene.total(steps)
    scene.facts["steps"] = 0
    chosen = settings(
        stateful_step_count=STEPS,
        database=None,
        deadline=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
    )
    machine = type("Machine", (Machine,), {"scene": scene})
    logging.disable(logging.CRITICAL)
    try:
        # Each worker stands for an instance, which has turns of its own.
        take = Turns.take
        with patch.object(Turns, "take", lambda shared, posted=False: take(Turns(), posted=posted)):
            while (left := steps - scene.facts["steps"]) > 0:
                # At least two, as the first run is the simplest one: it has no steps.
                enough = settings(chosen, max_examples=max(2, left // STEPS))
                run_state_machine_as_test(seed(number + scene.facts["steps"])(machine), settings=enough)
    except Exception as failed:  # a violation, or an error of the product
        notes = getattr(failed, "__notes__", [])
        scene.problems.append("\n".join([f"{type(failed).__name__}: {failed}", *notes]))
    finally:
        logging.disable(logging.NOTSET)
