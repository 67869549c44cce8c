"""The parts of a backfill: memory, resumption, rate and cost."""

import threading
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import pytest
from google.auth.credentials import AnonymousCredentials
from google.cloud.storage import Client

from dropcap.domain.upload import Upload
from dropcap.runtime import memory
from dropcap.settings import Settings
from infra.cloud import CloudError
from infra.cloud.backfill.backlog import BATCH, Journal, State, enqueue, listing
from infra.cloud.backfill.estimate import costs, pace
from infra.cloud.backfill.tasks import Limits
from tests.cloud.test_backfill import QUEUE, bucket_of


class Everything:
    """A queue that accepts every task and stores none."""

    def __init__(self) -> None:
        self.stopping = threading.Event()

    def put(self, upload: Upload) -> bool:
        return True


def uploads(count: int) -> Iterator[Upload]:
    return iter([Upload("b", f"{n:04}", 1, 1) for n in range(count)])


def everything(_: Upload) -> bool:
    return True


def test_memory_is_the_same_for_a_few_objects_and_for_a_hundred_thousand() -> None:
    resident = []
    for number in (5_000, 100_000):
        with bucket_of(number) as url:
            client = Client("demo", AnonymousCredentials(), client_options={"api_endpoint": url})
            found = listing(client, "uploads", "", "")
            [done] = deque(enqueue(found, everything, Everything(), State(), 10**9), maxlen=1)
            resident.append(memory.rss_mb())
        assert (done.enqueued, done.complete) == (number, True)
    assert resident[1] - resident[0] < 20  # MB; all of them together would take 100


def test_no_more_is_enqueued_than_the_queue_sends_before_its_tasks_are_too_old() -> None:
    found = uploads(BATCH + 10)
    *_, done = enqueue(found, everything, Everything(), State(), most=BATCH + 4)
    assert (done.enqueued, done.last, done.complete) == (BATCH + 4, f"{BATCH + 3:04}", False)
    *_, done = enqueue(found, everything, Everything(), done, most=100)
    assert (done.enqueued, done.complete) == (BATCH + 10, True)


def test_what_is_known_or_ignored_is_counted_as_such() -> None:
    class Knowing(Everything):
        def put(self, upload: Upload) -> bool:
            return upload.name > "0002"

    *_, done = enqueue(uploads(10), lambda each: each.name != "0009", Knowing(), State(), most=100)
    assert done == State(last="0009", enqueued=6, known=3, ignored=1, complete=True)


def test_a_failure_in_the_midst_keeps_the_batches_before_it_and_no_more() -> None:
    class Failing(Everything):
        def put(self, upload: Upload) -> bool:
            if upload.name == f"{BATCH + 5:04}":
                raise CloudError("no")
            return True

    kept: list[State] = []
    with pytest.raises(CloudError):
        kept.extend(enqueue(uploads(3 * BATCH), everything, Failing(), State(), 10**9))
    assert kept == [State(last=f"{BATCH - 1:04}", enqueued=BATCH)]


def test_once_it_is_to_stop_it_puts_in_no_more_and_keeps_what_was_done() -> None:
    class Stopping(Everything):
        def put(self, upload: Upload) -> bool:
            if upload.name == f"{BATCH + 50:04}":
                self.stopping.set()
            return True

    kept: list[State] = []
    found = uploads(10_000)
    with pytest.raises(KeyboardInterrupt):
        kept.extend(enqueue(found, everything, Stopping(), State(), 10**9))
    listed = 10_000 - sum(1 for _ in found)
    assert BATCH <= kept[-1].enqueued <= listed <= 2 * BATCH
    assert kept[-1].last == f"{kept[-1].enqueued - 1:04}"


def test_each_bucket_and_prefix_has_its_own_journal_and_a_damaged_one_says_so(tmp_path: Path) -> None:
    journals = [Journal(tmp_path, QUEUE, "b", prefix) for prefix in ("", "a/", "../../x")]
    for number, journal in enumerate(journals):
        journal.write(State(last=f"a/{number}\u00fc", enqueued=number))
    assert [journal.read().enqueued for journal in journals] == [0, 1, 2]
    assert {each.parent for each in tmp_path.rglob("*.json")} == {tmp_path}
    journals[0].path.write_text("{")
    with pytest.raises(CloudError, match="RESTART=1"):
        journals[0].read()


@pytest.mark.parametrize(
    ("limits", "instances", "expected"),
    [(Limits(2, 100), 100, 2), (Limits(500, 4), 100, 2), (Limits(500, 100), 6, 3)],
    ids=["by the rate", "by the number at once", "by the instances"],
)
def test_what_allows_least_sets_the_pace(limits: Limits, instances: int, expected: float) -> None:
    assert pace(limits, instances, seconds=2) == expected


def test_the_cost_of_a_million_is_the_sum_of_list_prices() -> None:
    found = costs(1_000_000, 1_000_000, Settings(source="keep"), seconds=1.3)
    assert found["Cloud Tasks"] == pytest.approx(0.80)
    assert found["Cloud Run"] == pytest.approx(1e6 * (1.3 * (0.000024 + 0.5 * 0.0000025) + 0.4e-6))
    assert found["Cloud Storage"] == pytest.approx(4 * 5 + 4 * 0.4 + 0.01)
    assert "Gemini" not in found
    assert costs(1, 1, Settings(gemini_api_key="k", gemini_model="new"), 1)["Gemini"] is None
