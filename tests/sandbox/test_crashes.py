"""The death of a decoder is an answer at once, and the instance goes on with the next picture."""

import os
import sys
from collections.abc import Callable
from http import HTTPStatus

import psutil
import pytest

from dropcap.errors import DropcapError, NotDecoded, Rejected
from dropcap.runtime import memory
from dropcap.sandbox import client, processes
from dropcap.sandbox.processes import DecoderHung
from dropcap.settings import Settings
from tests.support.app import Start, rows
from tests.support.images.pictures import encoded, quadrants
from tests.support.sandbox import hostile, open_bytes

ROOM_MB = 200  # besides what the test worker holds, which is 600 MB with PyTorch
PICTURE = encoded(quadrants())
CRASHED = ("decoder_crashed", "A decoder crashed on these bytes.")
NONSENSE = ("decoder_crashed", "A decoder's answer makes no sense.")
OUTCOMES: dict[str, tuple[str, str] | type[DropcapError]] = {
    "read address 0": CRASHED,
    "abort": CRASHED,
    "exit": CRASHED,
    "answer with noise": NONSENSE,
    "announce a gigabyte": NONSENSE,
    "answer a list": NONSENSE,
    "close the connection": NONSENSE,
    "abort for a thread": NotDecoded,
    "abort for memory": ("needs_too_much_memory", "Decoding the picture needs more than the"),
    "grow": ("needs_too_much_memory", "Decoding the picture needs more than the"),
    "loop": ("decoder_timed_out", "Decoding took more than 1 s of CPU and was stopped."),
    "hang": DecoderHung,
    "answer nothing": NONSENSE,
    "answer a side of 10^9 px": NONSENSE,
    "answer a format with markup": NONSENSE,
    "reject with a code of its own": NONSENSE,
    "reject with a status of its own": NONSENSE,
    "reject with a number for a cause": NONSENSE,
    "log endless problems": NONSENSE,
    "log an event of its own": NONSENSE,
    "ask for NumPy for ever": NONSENSE,
    "ask for memory for ever": NONSENSE,
}


@pytest.fixture(autouse=True)
def taken_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """Load the worker that does what a picture says; 1 s of CPU is enough for what is honest."""
    monkeypatch.setattr(processes, "WORKER", hostile.__name__)
    monkeypatch.setattr(client, "CPU", 0.01)


def open_with_room(data: bytes, make_room: Callable[[], None] = memory.release) -> client.Picture:
    limit = round(memory.rss_mb()) + ROOM_MB
    return open_bytes(data, Settings(memory_limit_mb=limit, memory_warning_mb=limit, lease_s=100), make_room)


def doing(deed: str) -> bytes:
    return PICTURE + hostile.MARK + deed.encode()


def children() -> list[psutil.Process]:
    return psutil.Process().children(recursive=True)


def test_every_deed_is_in_the_table() -> None:
    assert {*OUTCOMES} == {*hostile.DEEDS}


@pytest.mark.parametrize("deed", OUTCOMES)
def test_the_way_a_decoder_ends_decides_and_the_next_picture_succeeds(
    deed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if deed == "hang":
        monkeypatch.setattr(client, "TIMEOUT", 0.02)
    with open_with_room(PICTURE):
        before = {*children()}
    outcome = OUTCOMES[deed]
    with pytest.raises(DropcapError) as caught:
        open_with_room(doing(deed))
    if isinstance(outcome, type):
        assert type(caught.value) is outcome
    else:
        assert isinstance(caught.value, Rejected)
        assert caught.value.code == outcome[0]
        assert caught.value.problem.startswith(outcome[1])
    with open_with_room(PICTURE) as source:
        assert source.facts.width == 120
    assert {*children()} <= before  # the same fork server, and no child is left


@pytest.mark.skipif(sys.platform != "linux", reason="needs the limit on address space")
def test_a_picture_that_grows_gets_more_memory_once_and_no_more() -> None:
    made: list[float] = []

    def make_room() -> None:
        made.append(memory.rss_mb())

    with pytest.raises(Rejected, match=r"needs more than the \d+ MB of memory that are left"):
        open_with_room(doing("grow"), make_room)
    assert len(made) == 1


def test_a_decoder_that_the_system_kills_is_transient() -> None:
    source = open_with_room(PICTURE)
    [child] = fork_server().children()
    child.kill()
    with pytest.raises(NotDecoded, match="SIGKILL"):
        source.raster(400)
    source.close()


def _runs(process: psutil.Process, worker: str) -> bool:
    return process.status() != psutil.STATUS_ZOMBIE and worker in process.cmdline()


def fork_server() -> psutil.Process:
    [server] = [child for child in psutil.Process().children() if _runs(child, hostile.__name__)]
    return server


def test_a_fork_server_that_ends_is_started_again() -> None:
    with open_with_room(PICTURE) as source:
        server = fork_server()
        [child] = server.children()
        server.kill()
        psutil.wait_procs([child], timeout=30)  # the kernel ends it with its parent
        with pytest.raises(NotDecoded):
            source.raster(400)
    with open_with_room(PICTURE) as source:
        assert source.raster(400).size == (120, 80)


def test_pictures_leave_no_process_descriptor_or_memory_behind() -> None:
    def held() -> tuple[int, int, int]:
        return len(children()), len(os.listdir("/dev/fd")), len(memory.helpers)

    with open_with_room(PICTURE):
        pass
    before = held()
    for deed in ("", "abort", "answer nothing") * 5:
        try:
            open_with_room(doing(deed) if deed else PICTURE).close()
        except Rejected:
            continue
    assert held() == before


PERMANENT = {
    "read address 0": "decoder_crashed",
    "loop": "decoder_timed_out",
    "grow": "needs_too_much_memory",
}


@pytest.mark.parametrize("deed", PERMANENT)
def test_the_first_delivery_quarantines_a_picture_that_its_decoder_does_not_survive(
    deed: str, start: Start
) -> None:
    room = str(round(memory.rss_mb()) + ROOM_MB)
    app = start(LEASE_S="100", MEMORY_LIMIT_MB=room, MEMORY_WARNING_MB=room, GEMINI_API_KEY="")
    upload = app.upload("ana/a.png", doing(deed))
    assert app.deliver(upload) == HTTPStatus.OK
    assert app.deliver(app.upload("ana/b.png", PICTURE)) == HTTPStatus.OK
    [blob] = app.objects(app.quarantine).values()
    assert blob.metadata["dropcap-reason"] == PERMANENT[deed]
    assert app.objects(app.uploads) == {}
    query = "SELECT state, reason_code, attempts, deaths FROM uploads WHERE id = :id"
    assert rows(query, id=upload.id) == [["done", PERMANENT[deed], 1, []]]


def test_a_decoder_that_hangs_counts_as_a_crash(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "TIMEOUT", 0.02)
    app = start(LEASE_S="100", MAX_DEATHS="1", GEMINI_API_KEY="")
    upload = app.upload("ana/a.png", doing("hang"))
    assert app.deliver(upload) == HTTPStatus.INTERNAL_SERVER_ERROR
    rows("UPDATE uploads SET lease_until = now() WHERE id = :id", id=upload.id)
    assert app.deliver(upload) == HTTPStatus.OK
    [blob] = app.objects(app.quarantine).values()
    assert blob.metadata["dropcap-reason"] == "took_the_instance_down"


def test_analyze_answers_with_the_reason(start: Start) -> None:
    app = start(GEMINI_API_KEY="")
    answer = app.analyze(data=doing("abort"))
    assert answer.status_code == HTTPStatus.UNPROCESSABLE_ENTITY
    assert answer.get_json()["code"] == "decoder_crashed"
    assert app.analyze(data=PICTURE).status_code == HTTPStatus.OK
