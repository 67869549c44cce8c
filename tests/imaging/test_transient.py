"""A failure of the instance is transient, never reported as damage; damaged bytes always are damage."""

import json
import os
import re
import struct
import subprocess
import sys
from contextlib import suppress
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest

from dropcap.errors import Rejected
from dropcap.imaging import decoder_errors
from dropcap.sandbox import processes
from dropcap.settings import Settings
from tests.support.app import ROOT, Start, rows
from tests.support.children import FUNCTIONS, python_path
from tests.support.images import bombs
from tests.support.images.pictures import FORMATS, encoded, quadrants
from tests.support.sandbox import open_bytes

CHEAP: dict[str, dict[str, Any]] = {
    "HEIF": {"quality": 30, "chroma": 420},
    "WEBP": {"lossless": False, "method": 0},
    "TIFF": {"compression": "tiff_lzw"},
    "PNG": {"compress_level": 1},
}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a picture of several MB in each format, and its first half."""
    folder = tmp_path_factory.mktemp("pictures")
    for kind in FORMATS:
        data = encoded(quadrants(1800, 1200), kind, **CHEAP.get(kind, {}))
        (folder / kind).write_bytes(data)
        (folder / f"{kind} cut").write_bytes(data[: len(data) // 2])
    return folder


def outcomes(fault: str, folder: Path) -> dict[str, str]:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.support.images.failing", fault, str(folder)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": python_path(FUNCTIONS, ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout.splitlines()[-1]))


TRANSIENT = ("NotDecoded: ", "OSError: ", "ModuleNotFoundError: ", "RuntimeError: ", "MemoryError: ")
# What must not have worked, so that the fault is known to have been there.
HIT = {
    "no_files": "",
    "no_threads": "pillow AVIF",
    "no_memory": "pillow BMP",
    "no_disk": "",
    "no_libraries": "libvips JPEG",
    "nothing": "",
}


@pytest.mark.skipif(sys.platform != "linux", reason="other systems limit otherwise, or not at all")
@pytest.mark.parametrize("fault", HIT)
def test_an_exhausted_instance_raises_a_transient_error(fault: str, files: Path) -> None:
    came = outcomes(fault, files)
    assert len(came) == 2 * len(FORMATS) + 5
    for name, outcome in came.items():
        if not name.endswith("cut"):
            assert outcome == "shown" or outcome.startswith(TRANSIENT), name
        elif fault in ("nothing", "no_disk"):
            assert outcome == "broken_picture", name
        else:
            assert outcome == "broken_picture" or outcome.startswith(TRANSIENT), name
    if HIT[fault]:
        assert came[HIT[fault]].startswith(TRANSIENT)
    else:
        assert {outcome for name, outcome in came.items() if not name.endswith("cut")} == {"shown"}


def test_an_upload_is_kept_until_its_library_is_available(
    start: Start, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    app = start()
    upload = app.upload("ana/a.heic", encoded(quadrants(), "HEIF"))
    with monkeypatch.context() as missing:
        missing.setattr(processes, "WORKER", "tests.support.sandbox.without_heif")
        assert app.deliver(upload) == HTTPStatus.INTERNAL_SERVER_ERROR
    assert len(app.objects(app.uploads)) == 1
    assert app.objects(app.quarantine) == {}
    output = capfd.readouterr()
    assert "import of pillow_heif halted" in output.out + output.err
    assert app.deliver(upload) == HTTPStatus.OK
    assert rows("SELECT result->'picture'->>'format' FROM analyses") == [["HEIF"]]


def test_the_cause_of_a_rejection_is_logged(start: Start, capfd: pytest.CaptureFixture[str]) -> None:
    app = start()
    cut = encoded(quadrants())[:-60]
    assert app.deliver(app.upload("ana/a", cut)) == HTTPStatus.OK
    assert app.analyze(data=cut).status_code == HTTPStatus.UNPROCESSABLE_ENTITY
    lines = [json.loads(line) for line in capfd.readouterr().out.splitlines() if "broken_picture" in line]
    assert len(lines) == 2
    assert all(re.match(r"\w*Error: \w+", line["cause"]) for line in lines)


def flood(tags: int) -> bytes:
    """Return a TIFF whose tags all overlap and exceed the file: one warning per tag."""
    more = b"".join(struct.pack("<HHII", 40_000 + tag, 7, 2**20 + tag, 8) for tag in range(tags))
    plain = bombs.strip(8, 8)
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in plain.items())
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(plain) + tags) + entries + more + bytes(100)


def fax(rows_of_it: int) -> bytes:
    """Return a fax-coded TIFF of invalid data: libtiff writes a line per row."""
    noise = bytes((7 * index * index) % 251 for index in range(20_000))
    strip = bombs.strip(2000, rows_of_it) | {258: 1, 259: 3, 279: len(noise)}
    made = bombs.tiff(dict(sorted(strip.items())))
    return bombs.tiff(dict(sorted((strip | {273: len(made)}).items()))) + noise


LOUD = {
    "overlapping tags": flood(5000),
    "overlapping EXIF": encoded(quadrants(), "JPEG", exif=b"Exif\0\0" + flood(5000)[:60_000]),
    "noise as a fax": fax(10_000),
}


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("name", LOUD)
def test_library_warnings_about_a_picture_are_one_bounded_line(
    name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    settings = Settings(memory_limit_mb=4096, memory_warning_mb=4096)
    for _ in range(2):
        with suppress(Rejected):
            open_bytes(LOUD[name], settings).close()
        output = capfd.readouterr()
        assert output.err == ""
        lines = [json.loads(line) for line in output.out.splitlines()]
        assert len(output.out) < 3000
        if name != "overlapping EXIF":  # of which no more is read than the orientation
            [line] = lines
            assert line["message"] == "decoders reported problems in the file"
            assert line["times"] > len(line["said"]) == decoder_errors.MAX_LINES
