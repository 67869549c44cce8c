"""Pictures of one instance take turns: one uses the CPU, while others wait for Gemini and the buckets."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from http import HTTPStatus

import pytest

from dropcap import inference
from dropcap.budget import GeminiBudget
from dropcap.domain.analysis import Description
from dropcap.domain.upload import Upload
from dropcap.errors import NotDecoded, Rejected
from dropcap.pipeline import READ_AHEAD
from dropcap.runtime import memory
from dropcap.runtime.turns import State, Turns
from dropcap.sandbox import client
from dropcap.storage.buckets import Buckets
from tests.support.app import Start, expire_leases, problem, rows, small_png

WAIT_S = 30.0
AT_ONCE = 4


@pytest.fixture
def turns() -> Turns:
    return Turns()


@contextmanager
def in_thread(work: Callable[[], object]) -> Iterator[threading.Thread]:
    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield thread
    finally:
        thread.join(WAIT_S)
        assert not thread.is_alive()


def test_one_picture_is_next_and_one_has_its_turn(turns: Turns) -> None:
    order: list[str] = []

    def second() -> None:
        with turns.take() as turn:
            order.append("second is next")
            turn.begin()
            order.append("second begins")

    with turns.take() as first, in_thread(second) as thread:
        thread.join(0.05)
        order.append("first begins")
        first.begin()
        while len(order) < 2:
            time.sleep(0.001)
        thread.join(0.05)
        order.append("first ends")
        first.end()
    assert order == ["first begins", "second is next", "first ends", "second begins"]


def test_a_picture_that_waits_for_its_turn_renews_its_lease(turns: Turns) -> None:
    renewed = threading.Event()

    def second() -> None:
        with turns.take() as turn:
            turn.begin(renewed.set, 0.01)

    with turns.take() as first:
        first.begin()
        with in_thread(second):
            assert renewed.wait(WAIT_S)
            first.end()


def test_a_lost_lease_or_a_failed_picture_lets_the_next_one_begin(turns: Turns) -> None:
    def fail() -> None:
        raise NotDecoded("lost")

    with turns.take() as first:
        first.begin()
        with pytest.raises(NotDecoded), turns.take() as second:
            second.begin(fail, 0.01)
        with pytest.raises(ValueError, match="wrong"), turns.take():
            raise ValueError("wrong")
    with turns.take() as third:
        third.begin()
        third.begin()  # has begun already


def test_a_picture_waits_until_it_is_alone(turns: Turns) -> None:
    with ExitStack() as first:
        turn = first.enter_context(turns.take())
        turn.begin()
        turn.end()
        with turns.take() as second:
            second.begin()
            with pytest.raises(NotDecoded, match="Other pictures hold the memory"):
                turns.wait_alone(0.01)
            with in_thread(lambda: turns.wait_alone(WAIT_S)) as waits:
                assert waits.is_alive()
                first.close()
            turns.wait_alone(0)


def test_posted_bytes_in_memory_are_no_reason_to_reject_another_picture(turns: Turns) -> None:
    begun = threading.Event()

    def post() -> None:
        with turns.take(posted=True) as turn:
            turn.begin()
            begun.set()

    with turns.take() as first:
        first.begin()
        with in_thread(post):
            while not turns.count[State.NEXT]:
                time.sleep(0.001)
            with pytest.raises(NotDecoded):
                turns.wait_alone(0.01)
            first.end()
            assert begun.wait(WAIT_S)
    with turns.take() as last:
        last.begin()
        turns.wait_alone(0)


@pytest.fixture
def gemini(monkeypatch: pytest.MonkeyPatch) -> threading.Barrier:
    """Gemini answers when all pictures wait for it at once."""
    everybody = threading.Barrier(AT_ONCE, timeout=WAIT_S)
    describe = GeminiBudget.describe

    def together(budget: GeminiBudget, jpeg: bytes, language: str) -> Description:
        everybody.wait()
        return describe(budget, jpeg, language)

    monkeypatch.setattr(GeminiBudget, "describe", together)
    return everybody


@pytest.mark.usefixtures("gemini")
def test_while_pictures_wait_for_gemini_the_next_ones_are_decoded_one_at_a_time(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    app, working, most = start(), [0], [0]

    def one_at_a_time(work: Callable[..., object]) -> Callable[..., object]:
        def checked(*arguments: object) -> object:
            working[0] += 1
            most[0] = max(most[0], working[0])
            try:
                return work(*arguments)
            finally:
                working[0] -= 1

        return checked

    for owner, name in ((client, "open_picture"), (client.Picture, "encode"), (inference, "caption")):
        monkeypatch.setattr(owner, name, one_at_a_time(getattr(owner, name)))
    uploads = [app.upload(f"ana/{number}.png", small_png()) for number in range(AT_ONCE)]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        assert list(pool.map(app.deliver, uploads)) == [HTTPStatus.OK] * AT_ONCE
    assert most == [1]
    found = rows("SELECT state, attempts, deaths FROM uploads")
    assert found == [["done", 1, []]] * AT_ONCE
    assert rows("SELECT count(*) FROM analyses WHERE description <> ''") == [[AT_ONCE]]
    assert len(app.objects(app.pictures)) == 3 * AT_ONCE
    assert app.objects(app.uploads) == {}


def test_a_new_upload_is_not_listed_and_a_second_delivery_looks_at_its_row_first(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    app, listed = start(), list[str]()
    published = Buckets.published

    def listing(buckets: Buckets, upload: Upload) -> dict[str, int]:
        listed.append("listed")
        return published(buckets, upload)

    monkeypatch.setattr(Buckets, "published", listing)
    upload = app.upload("ana/a.png", small_png())
    with monkeypatch.context() as failing:
        failing.setattr(Buckets, "check", lambda *_: 1 / 0)
        assert app.deliver(upload) == HTTPStatus.INTERNAL_SERVER_ERROR
    assert listed == []
    assert app.deliver(upload) == HTTPStatus.OK  # recorded already
    assert app.deliver(upload) == HTTPStatus.OK  # done already
    assert listed == []
    other = app.upload("ana/b.png", small_png())
    with monkeypatch.context() as failing:
        failing.setattr(Buckets, "publish", lambda *_: 1 / 0)
        assert app.deliver(other) == HTTPStatus.INTERNAL_SERVER_ERROR
    assert app.deliver(other) == HTTPStatus.OK
    assert listed == ["listed"]


def test_renditions_that_no_row_knows_are_replaced_by_the_second_delivery(start: Start) -> None:
    """The rows were restored from a backup, say."""
    app = start(SIZES="200")
    upload = app.upload("ana/a.png", small_png())
    name = f"{upload.id}/200.webp"
    app.storage.bucket(app.pictures).blob(name).upload_from_string(b"another")
    assert app.deliver(upload) == HTTPStatus.INTERNAL_SERVER_ERROR
    assert app.deliver(upload) == HTTPStatus.OK
    assert app.objects(app.pictures)[name].size > len(b"another")


def test_a_large_source_is_read_when_its_turn_has_begun(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    app, held = start(), dict[str, bool]()
    read = Buckets.read

    def reading(buckets: Buckets, upload: Upload) -> bytes:
        held[upload.name] = app.services.turns.count[State.WORKING] == 1
        return read(buckets, upload)

    monkeypatch.setattr(Buckets, "read", reading)
    for name, size in (("ana/small.png", READ_AHEAD), ("ana/large.png", READ_AHEAD + 1)):
        data = small_png()
        assert app.deliver(app.upload(name, data + b"\0" * (size - len(data)))) == HTTPStatus.OK
    assert held == {"ana/small.png": False, "ana/large.png": True}


def test_a_posted_picture_that_fits_only_alone_is_asked_for_again(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = start(GEMINI_API_KEY="")
    monkeypatch.setattr(memory, "left_mb", lambda limit: 0.0)
    with app.services.turns.take() as other:
        other.begin()
        other.end()
        monkeypatch.setattr("dropcap.services.ALONE", 0.0)
        answer = problem(app.analyze(data=small_png()), HTTPStatus.SERVICE_UNAVAILABLE)
        assert answer["code"] == "try_again"
    rejected = problem(app.analyze(data=small_png()), HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
    assert rejected["code"] == "needs_too_much_memory"


def test_a_description_is_awaited_before_the_next_delivery_if_the_picture_fails(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Gemini charges for it, and the next delivery uses it."""
    app = start(DAILY_CALLS="100")
    upload = app.upload("ana/a.png", small_png())
    with monkeypatch.context() as failing:
        failing.setattr(client.Picture, "encode", _after_one(client.Picture.encode))
        assert app.deliver(upload) == HTTPStatus.INTERNAL_SERVER_ERROR
    expire_leases()
    assert app.deliver(upload) == HTTPStatus.OK
    [[usage]] = rows("SELECT result->'usage' FROM analyses")
    assert (usage["calls"], usage["reused"]) == (0, True)


def _after_one(encode: Callable[..., object]) -> Callable[..., object]:
    """Let Gemini's JPEG be encoded, and nothing else."""

    def failing(picture: client.Picture, side: int, kind: str, quality: int) -> object:
        if kind != "jpeg":
            raise NotDecoded("encoding failed")
        return encode(picture, side, kind, quality)

    return failing


def test_the_next_picture_begins_while_a_rejected_one_is_copied_to_quarantine(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    app, working = start(GEMINI_API_KEY=""), list[int]()
    quarantine = Buckets.quarantine

    def copying(buckets: Buckets, upload: Upload, rejection: Rejected) -> None:
        working.append(app.services.turns.count[State.WORKING])
        quarantine(buckets, upload, rejection)

    monkeypatch.setattr(Buckets, "quarantine", copying)
    assert app.deliver(app.upload("ana/a.png", b"no picture")) == HTTPStatus.OK
    assert working == [0]
