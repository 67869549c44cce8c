"""Send changed files through the whole sandbox, and look at how each ends.

A file may be decoded or rejected, and nothing else: a decoder that crashes, hangs or needs too much time, and
a fault of ours in the child, are findings, though each harms that child alone. Each finding is written to a
folder, and printed with the number that makes it again.
"""

import hashlib
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from unittest.mock import patch

import psutil

from dropcap.domain.embedding import embed
from dropcap.errors import Rejected, cause
from dropcap.runtime import memory
from dropcap.sandbox import client, processes
from dropcap.sandbox.processes import Child
from dropcap.settings import Settings
from tests.fuzz import corpus, mutations
from tests.support.images.pictures import FORMATS
from tests.support.sandbox import open_bytes

LEFT_MB = 200  # with BLIP-base loaded, an instance of 512 MiB has about as much
LEASE_S = 20  # a child may take half of it in CPU time
OFTEN = 50  # files, after which to look for processes that are left
FAULTS = ("decoder_crashed", "decoder_timed_out")
WAYS = (("webp", 80), ("jpeg", 85), ("png", 80))
PACKET = b"<x/>"


@dataclass(slots=True)
class Outcomes:
    """How files ended, the findings among them, and the most that a child took."""

    counts: Counter[str] = field(default_factory=Counter)
    findings: Counter[str] = field(default_factory=Counter)
    peak_mb: float = 0.0
    cpu_s: float = 0.0
    files: int = 0
    seconds: float = 0.0


def settings() -> Settings:
    """Return settings that leave LEFT_MB for a child."""
    limit = round(memory.rss_mb() / 1.048576) + LEFT_MB
    return Settings(memory_limit_mb=limit, memory_warning_mb=limit, lease_s=LEASE_S, animated=True)


def outcome(data: bytes, chosen: Settings, way: int) -> tuple[str, bool]:
    """Return how a file ended, and whether that is a finding. `way` chooses how it is encoded."""
    try:
        with open_bytes(data, chosen) as source:
            kind, quality = WAYS[way % len(WAYS)]
            source.raster(400)
            embed(source.encode(800, kind, quality), PACKET)
            animated = source.facts.format in ("GIF", "WEBP") and source.open_animation()
            if animated and (moving := source.encode_animation(200, 80)):
                embed(moving, PACKET)
        if way % 8 == 0:
            client.check_head(data[:65_536], chosen)
            if data[8:12] == b"WEBP":
                client.is_animated(data, chosen)
    except Rejected as rejected:
        text = f"{rejected.code}: {cause(rejected)}" if rejected.code in FAULTS else rejected.code
        return text, rejected.code in FAULTS
    except Exception as failed:  # NotDecoded and DecoderHung, too
        return f"{type(failed).__name__}: {failed}", True
    return "decoded", False


def replay(data: bytes) -> str:
    """Return how a file ends. Raises AssertionError for a finding."""
    for way in range(len(WAYS)):
        ended, is_finding = outcome(data, settings(), way)
        assert not is_finding, ended
    return ended


@contextmanager
def _noted(found: Outcomes) -> Iterator[None]:
    """Note what each child took."""
    end = Child._end

    def note(child: Child, patience_s: float = 0.0) -> processes.ExitReport:
        report = end(child, patience_s)
        found.peak_mb, found.cpu_s = max(found.peak_mb, report.peak_mb), max(found.cpu_s, report.cpu_s)
        return report

    with patch.object(Child, "_end", note):
        yield


def _server() -> int:
    server = processes._fork_server(processes.WORKER)._process
    return server.pid if server else 0


def _left() -> list[psutil.Process]:
    """Return the children of the fork server that are still there."""
    pid = _server()
    return psutil.Process(pid).children(recursive=True) if pid else []


def run(
    folder: Path,
    *,
    runs: int,
    seconds: float,
    seed: int,
    first: int = 0,
    kinds: Sequence[str] = FORMATS,
    small: bool = False,
) -> Outcomes:
    """Send files until `runs` or `seconds` are over; 0 is no limit. `small`: change only the small files."""
    found, files = Outcomes(), corpus.small() if small else corpus.all_files()
    outcome(files["PNG"][0], settings(), 1)
    chosen, server, begun = settings(), _server(), time.monotonic()
    folder.mkdir(parents=True, exist_ok=True)

    def note(what: str, data: bytes, number: str) -> None:
        found.findings[what] += 1
        name = f"decoding-{hashlib.sha256(data).hexdigest()[:12]}"
        (folder / name).write_bytes(data)
        print(f"  {number}: {what[:300]}: {folder.name}/{name}", flush=True)

    with _noted(found):
        while (not runs or found.files < runs) and (not seconds or time.monotonic() - begun < seconds):
            at = first + found.files
            kind, number = kinds[at % len(kinds)], f"{seed}:{at}"
            data = mutations.changed(files, kind, number)
            peak_mb = found.peak_mb
            ended, is_finding = outcome(data, chosen, at // len(kinds))
            found.files += 1
            found.counts[f"{kind}: {ended.partition(':')[0]}"] += 1
            if is_finding:
                note(ended, data, number)
            if found.peak_mb > max(peak_mb, LEFT_MB):
                note(f"a child of {found.peak_mb:.0f} MB", data, number)
            if found.files % OFTEN == 0 and _left():
                note("a child is left", data, number)
            if _server() != server:
                note("the fork server ended", data, number)
                server = _server()
    if _left():
        found.findings["a child is left"] += 1
    found.seconds = time.monotonic() - begun
    return found
