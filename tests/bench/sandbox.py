"""`python -m tests.bench.sandbox`: what decoding in a child process costs, in time and in memory at rest.

Time: each picture is decoded to a raster and a JPEG for Gemini in this process and in the sandbox, in turns;
the medians are compared. This process has one heap, as the functions have. Memory, without pages that a file
backs: that of the fork server, less what the function no longer loads itself, each in a new process.
"""

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

import psutil

from dropcap.domain.body import Body
from dropcap.imaging import decoding
from dropcap.runtime import memory
from dropcap.sandbox import client
from dropcap.settings import BLIP_SIDE, GEMINI_SIDE, Settings
from tests.support.images.pictures import encoded, quadrants

SETTINGS = Settings(memory_limit_mb=4096, memory_warning_mb=4096)
PICTURES: dict[str, Callable[[], bytes]] = {
    "PNG of 1080 x 1920 px": lambda: encoded(quadrants(1080, 1920)),
    "JPEG of 12 MP": lambda: encoded(quadrants(4000, 3000), "JPEG"),
    "WebP of 2 MP": lambda: encoded(quadrants(1600, 1200), "WEBP"),
}
# Anonymous memory, MB, of a process that has imported what a function imports, without and with decoders.
LOADED = """
import os, sys
from PIL import Image
from dropcap.runtime import memory
from dropcap.sandbox import client
if sys.argv[1:]:
    from dropcap.sandbox.worker import load_decoders
    load_decoders()
print(memory.anonymous_mb(os.getpid()))
"""


def here(data: bytes) -> None:
    """Decode in this process."""
    with decoding.open_picture(data, SETTINGS) as source:
        source.encode(GEMINI_SIDE, "jpeg", client.GEMINI_QUALITY)
        source.resize(BLIP_SIDE).close()


def in_sandbox(data: bytes) -> None:
    """Decode in a child process."""
    with client.open_picture(Body(lambda: data), SETTINGS) as source:
        source.for_gemini()
        source.raster(BLIP_SIDE).close()


def timed(work: Callable[[bytes], None], data: bytes) -> float:
    """Return how long it takes, ms."""
    began = time.perf_counter()
    work(data)
    return 1e3 * (time.perf_counter() - began)


def loaded_mb(*words: str) -> float:
    """Return the anonymous memory of a new process, MB."""
    command = [sys.executable, "-W", "ignore", "-c", LOADED, *words]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def main(words: Sequence[str] | None = None) -> None:
    """Print the medians."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.sandbox")
    parser.add_argument("--rounds", type=int, default=31, help="decodes of each picture in each way")
    rounds = parser.parse_args(words).rounds
    memory.use_one_heap()
    for name, make in PICTURES.items():
        data = make()
        in_sandbox(data)
        pairs = [(timed(here, data), timed(in_sandbox, data)) for _ in range(rounds)]
        before, after = (statistics.median(pair[way] for pair in pairs) for way in (0, 1))
        print(f"{name}: {before:.0f} ms here, {after:.0f} ms in the sandbox, {after - before:+.0f} ms")
    [server] = psutil.Process().children()
    own = memory.anonymous_mb(server.pid)
    saved = loaded_mb("decoders") - loaded_mb()
    print(
        f"fork server: {own:.1f} MB of its own; the function loads {saved:.1f} MB less: {own - saved:+.1f} MB"
    )


if __name__ == "__main__":
    main()
