"""A decoder that a picture has taken over reaches nothing outside its process."""

import json
import resource
import sys

import psutil
import pytest

from dropcap import logs
from dropcap.errors import Rejected
from dropcap.imaging import decoding
from dropcap.sandbox import client, processes, syscall_filter
from dropcap.settings import Settings
from tests.support.app import log_lines
from tests.support.images.kinds import KINDS
from tests.support.images.pictures import FORMATS, encoded, quadrants
from tests.support.sandbox import hostile, open_bytes

ROOM = Settings(memory_limit_mb=4096, memory_warning_mb=4096)
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="the system has no filter of system calls")


@pytest.fixture
def taken_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """Load the worker that does what a picture says."""
    monkeypatch.setattr(processes, "WORKER", hostile.__name__)


def reported(deed: str) -> str:
    """Return what a decoder that was taken over reports."""
    with pytest.raises(Rejected) as caught:
        open_bytes(encoded(quadrants()) + hostile.MARK + deed.encode(), ROOM)
    return caught.value.problem


@LINUX
@pytest.mark.usefixtures("taken_over")
@pytest.mark.parametrize("attempt", hostile.ATTEMPTS)
def test_a_decoder_can_not(attempt: str) -> None:
    assert reported(attempt) == "EPERM"


@pytest.mark.usefixtures("taken_over")
def test_a_decoder_is_given_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "_fork_server", processes._ForkServer)  # a new one
    monkeypatch.setenv("DATABASE_URL", "postgresql://user:secret@host/name")
    monkeypatch.setenv("GEMINI_API_KEY", "secret")
    inventory = json.loads(reported("inventory"))
    assert {*inventory["variables"]} <= {*processes.ENVIRONMENT, *processes.VARIABLES, "LC_CTYPE"}
    assert "secret" not in str(inventory["arguments"])
    assert inventory["descriptors"] == 4  # standard input, output and error, and the connection


@pytest.mark.parametrize("machine", syscall_filter.COLUMNS)
def test_the_filter_fits_into_the_kernels_limit_and_ends_in_a_refusal(machine: str) -> None:
    lines = syscall_filter.program(machine, 1)
    assert len(lines) <= 4096  # BPF_MAXINSNS (linux/bpf_common.h)
    assert lines[-1] == (syscall_filter.RETURN, 0, 0, syscall_filter.ERRNO | 1)
    for at, (code, if_true, if_false, _) in enumerate(lines):
        if code in (syscall_filter.EQUAL, syscall_filter.ANY_BIT):
            assert at + 1 + max(if_true, if_false) < len(lines)


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_is_decoded_and_encoded_in_the_sandbox(kind: str) -> None:
    data = encoded(quadrants(1200, 900), kind)
    with open_bytes(data, ROOM) as source:
        assert (source.facts.format, source.facts.bytes) == (kind, len(data))
        assert source.raster(400).size == (400, 300)
        for made in ("webp", "jpeg", "png", "avif"):
            assert source.encode(800, made, 80)[1:] == (800, 600, f"image/{made}")


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_picture_is_decoded_as_it_is_without_a_sandbox(name: str) -> None:
    data = KINDS[name][1]()  # some need NumPy, and a child can open no module
    with decoding.open_picture(data, ROOM) as shown, open_bytes(data, ROOM) as source:
        assert source.raster(400).tobytes() == shown.resize(400).tobytes()


def test_the_fork_server_has_one_thread() -> None:
    open_bytes(encoded(quadrants()), ROOM).close()
    server = processes._fork_server(processes.WORKER)._process
    assert server
    assert psutil.Process(server.pid).num_threads() == 1


@pytest.mark.parametrize("data", [b"RIFF\4\0\0\0WEBP", encoded(quadrants(), "WEBP")[:40], b"GIF89a"])
def test_a_damaged_webp_is_no_fault_of_the_instance(data: bytes) -> None:
    with pytest.raises(Rejected, match="damaged"):
        client.is_animated(data, ROOM)


def test_what_is_missing_is_logged_once(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(processes, "WORKER", "tests.support.sandbox.without_filter")
    logs.once.cache_clear()
    for _ in range(2):
        with open_bytes(encoded(quadrants()), ROOM) as source:
            assert source.facts.width == 120
    found = [line for line in log_lines(capfd) if line["event"] == "decoder_less_confined"]
    assert [line["message"] for line in found] == ["Decoders are less confined here: no filter."]


def test_pictures_are_decoded_in_a_child_on_a_system_other_than_linux(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(processes, "WORKER", "tests.support.sandbox.elsewhere")
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.delattr(resource, "prlimit", raising=False)
    with open_bytes(encoded(quadrants()), ROOM) as source:
        assert source.raster(400).size == (120, 80)
        assert psutil.Process().children(recursive=True)
