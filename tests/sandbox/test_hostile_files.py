"""A small file that made decoders take hundreds of megabytes, or work for seconds, is decided at once."""

from collections.abc import Callable, Iterator

import pytest

from dropcap.errors import Rejected
from dropcap.runtime import memory
from dropcap.sandbox import client, processes
from dropcap.sandbox.processes import Child
from dropcap.settings import Settings
from tests.support.images.pictures import encoded, quadrants
from tests.support.images.ravenous import FILES
from tests.support.sandbox import open_bytes

LEFT_MB = 200  # with BLIP-base loaded, an instance of 512 MiB has about as much
CPU_S = 3.0  # on a busy machine; each takes less than 0.3


@pytest.fixture
def ends(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[processes.ExitReport]]:
    """How each child ended."""
    found: list[processes.ExitReport] = []
    end = Child._end

    def note(child: Child, patience_s: float = 0.0) -> processes.ExitReport:
        found.append(end(child, patience_s))
        return found[-1]

    monkeypatch.setattr(Child, "_end", note)
    yield found
    assert found
    for child in found:
        assert child.peak_mb < LEFT_MB
        assert child.cpu_s < CPU_S


def code_of(check: Callable[[], client.Picture | None]) -> str:
    """Return the code of a rejection, empty if there is none."""
    try:
        if picture := check():
            picture.close()
    except Rejected as rejected:
        return rejected.code
    return ""


@pytest.mark.usefixtures("ends")
@pytest.mark.parametrize("name", FILES)
def test_a_hostile_file_is_decided_within_memory_and_time(name: str) -> None:
    memory.release()
    settings = Settings(memory_limit_mb=round(memory.rss_mb() / 1.048576) + LEFT_MB)
    code, make = FILES[name]
    assert code_of(lambda: open_bytes(make(), settings)) == code
    assert code_of(lambda: open_bytes(encoded(quadrants()), settings)) == ""


@pytest.mark.usefixtures("ends")
@pytest.mark.parametrize("name", FILES)
def test_the_gallery_decides_on_its_first_bytes_within_memory_and_time(name: str) -> None:
    code, make = FILES[name]
    assert code_of(lambda: client.check_head(make()[:65_536], Settings())) in ("", code)
