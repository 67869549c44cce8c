"""Decode pictures in a process with an exhausted resource and print each result: arguments FAULT FOLDER.

Each fault is real: the system denies files, threads, memory or disk, or a library is missing.
"""

import json
import os
import resource
import sys
from collections.abc import Callable
from math import inf
from pathlib import Path
from typing import Any

NOBODY = 65534
ABLE = {"libvips": ("JPEG", "PNG", "TIFF", "WEBP"), "libheif": ("HEIF",)}


def no_files() -> None:
    _warm()
    most = max(int(name) for name in os.listdir("/proc/self/fd")) + 1
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    for _ in range(most):  # those that are free below
        try:
            os.dup(0)
        except OSError:
            break


def no_threads() -> None:
    _warm()
    if os.geteuid() == 0:  # root has no such limit
        os.setuid(NOBODY)
    resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))


def no_memory() -> None:
    _warm()
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + 4 * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


def no_disk() -> None:
    _warm()
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))


def no_libraries() -> None:
    for name in ("PIL._webp", "PIL._avif", "_pillow_heif", "pillow_heif", "pyvips"):
        sys.modules[name] = None  # type: ignore[assignment]


def nothing() -> None:
    """Leave everything available."""


FAULTS: dict[str, Callable[[], None]] = {
    each.__name__: each for each in (no_files, no_threads, no_memory, no_disk, no_libraries, nothing)
}


def _warm() -> None:
    """Load lazily loaded code, as in an instance that has decoded pictures before."""
    import pyvips
    from PIL import Image, features

    from dropcap.imaging import decoding

    Image.init()
    decoding.register_heif()
    for name in features.get_supported():
        features.check(name)
    pyvips.Image.black(1, 1).write_to_memory()


def main() -> None:
    from dropcap.errors import Rejected
    from dropcap.imaging import decoding
    from dropcap.imaging.decoders import ranking
    from dropcap.settings import Settings

    settings = Settings(memory_limit_mb=8192, memory_warning_mb=8192)
    fault, folder = sys.argv[1:]
    files = [(file.name, file.read_bytes()) for file in sorted(Path(folder).iterdir())]
    ranked = ranking.rank_decoders
    FAULTS[fault]()
    outcomes = {}
    for decoder in ranking.DECODERS:

        def only(*of: Any, name: str = decoder.name) -> Any:
            needs = ranked(*of)
            return [need for need in needs if need[1].name == name and need[0] < inf] or needs

        ranking.rank_decoders = only  # type: ignore[assignment]
        for name, data in files:
            if decoder.name != "pillow" and (name not in ABLE[decoder.name]):
                continue
            try:
                with decoding.open_picture(data, settings) as source:
                    outcome = "shown" if source.facts.width else ""
            except Rejected as refused:
                outcome = refused.code
            except Exception as error:
                outcome = f"{type(error).__name__}: {error}"
            outcomes[f"{decoder.name} {name}"] = outcome
    print(json.dumps(outcomes))


if __name__ == "__main__":
    main()
