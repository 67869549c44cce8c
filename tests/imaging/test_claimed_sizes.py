"""Claimed sizes are checked before any library opens a file: a decompression bomb allocates no memory."""

import json
import os
import subprocess
import sys
from contextlib import nullcontext, suppress
from pathlib import Path

import pytest
from PIL import Image

from dropcap.errors import Rejected
from dropcap.imaging import decoding
from dropcap.imaging.headers import dimensions
from dropcap.settings import Settings
from tests.memory.limit import NO_LIMIT, kernel_limit
from tests.support.app import ROOT
from tests.support.children import FUNCTIONS, python_path
from tests.support.images.bombs import BOMBS
from tests.support.images.pictures import FORMATS, encoded, quadrants

# Refuses every file of a folder, in one process that may not grow by 100 MiB: its address space where the
# kernel limits nothing else. Prints the codes of both ways in, and by how much the peak grew, MB.
PROGRAM = """
import io, json, resource, sys, warnings
from pathlib import Path
from PIL import Image
from dropcap.errors import Rejected
from dropcap.imaging import decoding
from dropcap.settings import Settings
from tests.memory.peak import peak_mb

def code(check, *arguments):
    try:
        taken = check(*arguments)
        return taken and taken.close()
    except Rejected as refused:
        return refused.code

Image.init()
decoding.register_heif()
settings = Settings(memory_limit_mb=512, memory_warning_mb=512)
pages = int(Path("/proc/self/statm").read_text().split()[0])
most = pages * resource.getpagesize() + 100 * 2**20
resource.setrlimit(resource.RLIMIT_AS, (most, most))
before, codes = peak_mb(), {}
for file in sorted(Path(sys.argv[1]).iterdir()):
    data = file.read_bytes()
    codes[file.name] = [code(check, data, settings) for check in (decoding.open_picture, decoding.check_head)]
print(json.dumps({"codes": codes, "grown": peak_mb() - before}))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits and peaks are Linux's")
@pytest.mark.parametrize("limited", ["by the kernel", "in its address space"])
def test_a_small_file_with_a_huge_claimed_size_is_rejected_and_takes_no_memory(
    limited: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if limited == "by the kernel":
        request.getfixturevalue("memory_limit")
    names = {}
    for number, (name, data) in enumerate(BOMBS.items()):
        assert len(data) < 1500, name
        names[f"{number:03}"] = name
        (tmp_path / f"{number:03}").write_bytes(data)
    with kernel_limit(128) if limited == "by the kernel" else nullcontext(NO_LIMIT) as limit:
        done = subprocess.run(
            limit.command(sys.executable, "-W", "ignore", "-c", PROGRAM, str(tmp_path)),
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": python_path(FUNCTIONS, ROOT)},
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    wrong = {
        names[number]: codes
        for number, codes in report["codes"].items()
        if not {*codes} <= {"too_many_pixels", "side_too_long"}
    }
    assert wrong == {}
    assert len(report["codes"]) == len(BOMBS)
    assert report["grown"] < 10


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("size", [(64, 64), (120, 80), (334, 776)])
def test_the_largest_claimed_size_of_a_valid_picture_is_its_size(kind: str, size: tuple[int, int]) -> None:
    options = {"chroma": 420, "tile_size": 128} if kind == "HEIF" and size == (334, 776) else {}
    frames = [quadrants(*size)] if kind in ("GIF", "WEBP", "PNG", "AVIF", "TIFF") else []
    for more in ({}, {"save_all": True, "append_images": frames} if frames else options):
        claims = [*dimensions.claimed_sizes(kind, encoded(quadrants(*size), kind, **more))]
        assert size in claims
        assert max(claims, key=lambda each: each[0] * each[1]) == size


@pytest.mark.parametrize("kind", FORMATS)
def test_check_head_accepts_or_rejects_any_bytes(kind: str) -> None:
    data = encoded(quadrants(40, 30), kind)
    for at in range(0, min(len(data), 700)):
        for changed in (data[:at], data[:at] + b"\xff" + data[at + 1 :], data[:at] + b"\0" + data[at + 1 :]):
            with suppress(Rejected):
                decoding.check_head(changed, Settings())


def test_check_head_passes_no_bytes_to_a_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "open", lambda *of, **options: pytest.fail("a library sees it"))
    for kind in FORMATS:
        decoding.check_head(encoded(quadrants(), kind), Settings())


def test_a_file_without_a_size_is_rejected_before_any_library_reads_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Image, "open", lambda *of, **options: pytest.fail("a library sees it"))
    for head in (b"GIF89a", b"\xff\xd8\xff", b"BM" + bytes(12) + b"\x28", b"RIFF\0\0\0\0WEBP", b"II*\0"):
        with pytest.raises(Rejected, match="damaged or incomplete"):
            decoding.open_picture(head, Settings())


def test_a_file_with_too_many_parts_is_damaged() -> None:
    for data in (
        BOMBS["GIF frame"][:19] + b"!\xf9\0\0" * 150_000,
        b"\x89PNG\r\n\x1a\n" + bytes(4) + b"tEXt" + bytes(4) + (bytes(4) + b"tEXt" + bytes(4)) * 150_000,
    ):
        with pytest.raises(Rejected) as caught:
            decoding.open_picture(data, Settings())
        assert caught.value.code == "broken_picture"
