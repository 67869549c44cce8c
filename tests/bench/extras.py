"""What each extra costs where it is on, and that it costs nothing where it is off: see --help.

One instance for each setting, in turns, so that whatever else the machine does is shared: CPU time and memory
of the picture that they all get. Most of the rows differ by less than one row does from one run to the next.
"""

from __future__ import annotations

import argparse
import base64
import os
import shutil
import statistics
import subprocess
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from rich.console import Console
from rich.progress import track
from rich.table import Table

from infra.local.storage import ROOT
from tests.bench.deployed import DEPLOYED, MAIN, NO_LIMIT, TIMEOUT_S
from tests.memory.instance import Platform
from tests.memory.outside import Outside
from tests.memory.uploads import Sample

OFF, BEFORE, ALL = "all off", "before them", "all on"
WITHOUT = {"EMBED_WORDS": "off"}  # the only one that is on unless it is switched off
SECRET = f"whsec_{base64.b64encode(bytes(32)).decode()}"


@dataclass(frozen=True, slots=True)
class Cost:
    """Of a warm upload, medians: CPU seconds of the instance, seconds by the clock, and its largest MB."""

    cpu_s: float
    seconds: float
    rss_mb: float


def measure(model: Path, picture: Path, rounds: Iterable[int], logs: Path, before: str) -> dict[str, Cost]:
    """Each extra alone, all, and none; with `before`, a revision, also the function as it was then."""
    with ExitStack() as stack:
        outside = stack.enter_context(Outside(logs))
        consumer = stack.enter_context(_consumer())
        platforms = {}
        for name, settings in _settings(consumer).items():
            folder = logs / name.replace(" ", "-")
            folder.mkdir(parents=True, exist_ok=True)
            environment = _shell() | outside.environment | WITHOUT | settings
            platform = Platform(MAIN, model, environment, NO_LIMIT, TIMEOUT_S, folder, python=DEPLOYED)
            platforms[name] = stack.enter_context(platform)
        if before:
            source = stack.enter_context(_revision(before, logs / "before"))
            environment = _shell() | outside.environment | {"PYTHONPATH": str(source.parent)}
            platform = Platform(source, model, environment, NO_LIMIT, TIMEOUT_S, logs, python=DEPLOYED)
            platforms[BEFORE] = stack.enter_context(platform)
        return _in_turns(platforms, outside, picture, rounds)


def _shell() -> dict[str, str]:
    """The environment, in which nobody has switched an extra on for all of them."""
    extras = {*_settings("")[ALL], "DAILY_MONEY"}
    return {name: value for name, value in os.environ.items() if name not in extras}


def _settings(consumer: str) -> dict[str, dict[str, str]]:
    """By the name of an extra, what switches it on."""
    each = {
        "words in the pictures": {"EMBED_WORDS": "on"},
        "copies (LAYOUT)": {"LAYOUT": "beside"},
        "animations": {"ANIMATED": "1"},
        "safety": {"SAFETY": "high"},
        "budget brake": {"DAILY_CALLS": "1000000"},
        "receipts": {"RECEIPTS": "1"},
        "events": {"EVENTS": consumer, "EVENTS_SECRET": SECRET},
    }
    return {OFF: {}, **each, ALL: {name: value for one in each.values() for name, value in one.items()}}


def _in_turns(
    platforms: Mapping[str, Platform], outside: Outside, picture: Path, rounds: Iterable[int]
) -> dict[str, Cost]:
    costs: dict[str, list[Cost]] = {name: [] for name in platforms}
    data = picture.read_bytes()
    for turn in rounds:
        for name, platform in platforms.items():
            # Bytes of their own, after the end of the picture: else the brake would have its answer again.
            file = picture.with_name(f"extra{picture.suffix}")
            file.write_bytes(data + f"{name} {turn}".encode())
            resource, began = outside.upload(Sample(f"{name}/{turn}.jpg", "", file, 0, 0)), platform.cpu_s()
            delivery = platform.deliver(resource)
            if not delivery.answered:
                raise RuntimeError(f"{name!r} did not take {picture.name}: see its log")
            costs[name].append(Cost(platform.cpu_s() - began, delivery.seconds, delivery.rss_mb))
    return {name: _median(of[1:]) for name, of in costs.items()}  # the first was cold


def _median(costs: list[Cost]) -> Cost:
    return Cost(
        statistics.median(each.cpu_s for each in costs),
        statistics.median(each.seconds for each in costs),
        max(each.rss_mb for each in costs),
    )


def table(costs: Mapping[str, Cost]) -> Table:
    """The figures, and how each differs from what is there without any extra."""
    shown = Table("on", "CPU s", "more", "s", "peak MB", "more", title="Extras, a warm upload")
    off = costs[OFF]
    for name, cost in costs.items():
        cpu, memory = f"{cost.cpu_s - off.cpu_s:+.3f}", f"{cost.rss_mb - off.rss_mb:+.1f}"
        shown.add_row(name, f"{cost.cpu_s:.3f}", cpu, f"{cost.seconds:.3f}", f"{cost.rss_mb:.1f}", memory)
    return shown


@contextmanager
def _consumer() -> Iterator[str]:
    """Somebody who takes each event."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(HTTPStatus.NO_CONTENT)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/"
        finally:
            server.shutdown()


@contextmanager
def _revision(name: str, folder: Path) -> Iterator[Path]:
    """The function's program as it was at a revision."""
    git = ("git", "-C", str(ROOT), "worktree")
    shutil.rmtree(folder, ignore_errors=True)  # of a run that was killed
    subprocess.run([*git, "add", "--force", "--detach", str(folder), name], check=True, capture_output=True)
    try:
        yield folder / "functions" / "main.py"
    finally:
        subprocess.run([*git, "remove", "--force", str(folder)], check=True, capture_output=True)


def main(words: Sequence[str] | None = None) -> int:
    """Measure the extras alone; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.extras", description="What extras cost.")
    parser.add_argument("--model", type=Path, default=ROOT / "functions" / "model", help="folder of BLIP")
    parser.add_argument("--picture", type=Path, required=True, help="a JPEG that all get")
    parser.add_argument("--rounds", type=int, default=9, help="warm uploads of each")
    parser.add_argument("--before", default="", help="a revision to compare with, as git names it")
    asked, console = parser.parse_args(words), Console()
    logs = ROOT / "build" / "extras"
    logs.mkdir(parents=True, exist_ok=True)
    picture = logs / asked.picture.name
    picture.write_bytes(asked.picture.read_bytes())
    rounds = track(range(asked.rounds + 1), "extras", console=console)
    console.print(table(measure(asked.model, picture, rounds, logs, asked.before)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
