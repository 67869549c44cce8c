"""Run one target in a process of its own, guided by coverage: atheris ends its process when it is done.

    python -m tests.fuzz.guided TARGETS FOLDER FILE libFuzzer's options

Several targets, separated by commas, share a process: the first byte of an input chooses among them.
An exception does not end the run: each is counted by where it was raised, and its first input is written to
the folder. An input that takes longer than SLOW_S is counted, too; libFuzzer itself stops at a hang and at
too much memory.
"""

import gc
import hashlib
import json
import logging
import os
import re
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from infra import ROOT

SLOW_S = 2.0  # CPU for one input
HANG_S, MEMORY_MB = 30, 2048  # at which libFuzzer stops
COVERED = ("dropcap",)  # packages whose coverage guides
DONE = re.compile(r"#\d+\s+DONE\s+cov: (\d+)")
RAN, EVERY_SECOND = (
    re.compile(r"number_of_executed_units: (\d+)"),
    re.compile(r"average_exec_per_sec: *(\d+)"),
)
NAME = re.compile(r"[^a-z0-9]+", re.IGNORECASE)


@dataclass(slots=True)
class Result:
    """What a run found: executions, s, covered branches (None if unknown), and findings by what they are."""

    executions: int
    seconds: float
    covered: int | None
    findings: dict[str, int] = field(default_factory=dict)


def run(names: Sequence[str], folder: Path, *, runs: int, seconds: int, seed: int) -> Result:
    """Fuzz the targets until `runs` executions or `seconds` are over; 0 is no limit."""
    from tests.fuzz.targets import TARGETS

    chosen = [TARGETS[name] for name in names]
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        seeds, words, found = Path(name) / "seeds", Path(name) / "words", Path(name) / "found.json"
        seeds.mkdir()
        for first, each in enumerate(chosen):
            for number, data in enumerate(each.seeds()):
                start = bytes([first]) if len(chosen) > 1 else b""
                (seeds / f"{first:02}-{number:04}").write_bytes(start + data)
        inserted = dict.fromkeys(word for each in chosen for word in each.words())
        words.write_text("".join(f'"{_escaped(word)}"\n' for word in inserted))
        most = max(each.most for each in chosen)
        options = [f"-seed={seed or 1}", f"-max_len={most}", f"-dict={words}", f"-timeout={HANG_S}"]
        options += [f"-rss_limit_mb={MEMORY_MB}", "-print_final_stats=1", "-verbosity=1", "-len_control=0"]
        options += [f"-artifact_prefix={folder / _file_name(names)}-"]
        options += [f"-runs={runs}"] if runs else []
        options += [f"-max_total_time={seconds}"] if seconds else []
        begun = time.monotonic()
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "tests.fuzz.guided",
                ",".join(names),
                str(folder),
                str(found),
                *options,
                str(seeds),
            ],
            env=os.environ | {"PYTHONHASHSEED": "0"},
            cwd=ROOT,
            capture_output=True,
            check=False,
        )
        output = done.stderr.decode(errors="replace")
        took = time.monotonic() - begun
        findings = json.loads(found.read_text()) if found.exists() else {}
    if done.returncode:  # a hang, too much memory, or a crash of Python
        findings[f"libFuzzer ended with {done.returncode}: {output[-300:]}"] = 1
    covered, ran = DONE.search(output), RAN.search(output)
    return Result(int(ran[1]) if ran else 0, took, int(covered[1]) if covered else None, findings)


def _escaped(word: bytes) -> str:
    return "".join(rf"\x{byte:02x}" for byte in word)


def _file_name(names: Sequence[str]) -> str:
    return NAME.sub("-", names[0]) if len(names) == 1 else "several"


def _location(error: Exception) -> str:
    """Return where an error was raised, as far as it is ours, and what it is."""
    ours = [each for each in traceback.extract_tb(error.__traceback__) if str(ROOT) in each.filename]
    frames = [
        f"{Path(each.filename).relative_to(ROOT)}:{each.lineno}"
        for each in ours
        if "venv" not in each.filename
    ]
    return f"{type(error).__name__} at {' < '.join(reversed(frames[1:]))}"


def main() -> None:
    """Fuzz in this process: arguments TARGETS, FOLDER, FILE for the findings, and those of libFuzzer."""
    import atheris

    with atheris.instrument_imports(include=list(COVERED), enable_loader_override=False):
        from tests.fuzz import json_mutations
        from tests.fuzz.targets import TARGETS

    words, folder, found, *options = sys.argv[1:]
    names, counts = words.split(","), Counter[str]()
    checks = [TARGETS[name].check for name in names]
    logging.disable(logging.CRITICAL)
    gc.freeze()

    def note(what: str, name: str, data: bytes) -> None:
        counts[f"{name}: {what}"] += 1
        if counts[f"{name}: {what}"] == 1:
            digest = hashlib.sha256(data).hexdigest()[:12]
            (Path(folder) / f"{_file_name([name])}-{digest}").write_bytes(data)
        Path(found).write_text(json.dumps(counts))

    def once(data: bytes) -> None:
        at = 0
        if len(checks) > 1:
            at, data = (data[0] if data else 0) % len(checks), data[1:]
        begun = time.process_time()
        try:
            checks[at](data)
        except Exception as error:
            note(_location(error), names[at], data)
        if time.process_time() - begun > SLOW_S:
            note("slow", names[at], data)

    def mutate(data: bytes, most: int, seed: int) -> bytes:
        if seed % 2:
            return bytes(atheris.Mutate(data, most))
        return json_mutations.mutate(data, seed)[:most]

    mutator = {"custom_mutator": mutate} if all(TARGETS[name].json for name in names) else {}
    atheris.Setup([sys.argv[0], *options], once, **mutator)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
