"""No file keeps a reader busy, makes it grow, or is mistaken for a transient error of the instance."""

import json
import os
import subprocess
import sys

import pytest

from dropcap.errors import Rejected
from dropcap.imaging import decoder_errors, decoding
from dropcap.settings import Settings
from tests.support.app import ROOT
from tests.support.children import FUNCTIONS, python_path
from tests.support.images import bombs
from tests.support.images.mazes import MAZES
from tests.support.images.pictures import encoded, quadrants

MOST_MB = 100  # 1.1 MB of HEIC took 1,768; 65 KB of PNG took 250


@pytest.mark.skipif(sys.platform != "linux", reason="limits and peaks are Linux's")
def test_files_that_grow_or_never_end_in_a_reader_are_rejected_or_decoded_quickly() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.support.images.mazes"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": python_path(FUNCTIONS, ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    came = json.loads(done.stdout.splitlines()[-1])
    assert {name: outcome for name, (outcome, _) in came.items()} == {
        name: outcome for name, (outcome, _) in MAZES.items()
    }
    assert {name: grown for name, (_, grown) in came.items() if grown > MOST_MB} == {}


@pytest.mark.parametrize("number", decoder_errors.EXHAUSTED, ids=os.strerror)
def test_error_text_from_a_file_is_never_taken_for_a_system_error(number: int) -> None:
    text = os.strerror(number).encode() + b"\0"
    for tag in (259, 262, 277, 284, 332, 338, 339):  # each is to be a number
        tags = dict(sorted((bombs.strip(8, 8) | {tag: 0}).items()))
        data = bytearray(bombs.tiff(tags) + text)
        at = 10 + 12 * [*tags].index(tag)
        data[at + 2 : at + 12] = (
            b"\2\0" + len(text).to_bytes(4, "little") + len(bombs.tiff(tags)).to_bytes(4, "little")
        )
        with pytest.raises(Rejected):
            decoding.open_picture(bytes(data), Settings())


@pytest.mark.parametrize(
    ("gamma", "points"), [(45_455, (31_270, 32_900, *(30_000,) * 6)), (2**32 - 1, (2**32 - 1,) * 8)]
)
def test_invalid_primaries_are_ignored(gamma: int, points: tuple[int, ...]) -> None:
    """As in Chromium: SkPngCodec of Skia uses sRGB's primaries if these yield no matrix."""
    plain = encoded(quadrants(), "PNG")
    shown = []
    bodies = [(b"gAMA", gamma.to_bytes(4, "big")), (b"cHRM", b"".join(p.to_bytes(4, "big") for p in points))]
    for chunks in (bodies[:1], bodies):
        with decoding.open_picture(
            bombs.with_chunks(plain, *chunks), Settings(memory_limit_mb=4096)
        ) as source:
            shown.append(source.resize(64).tobytes())
    assert shown[0] == shown[1]
