"""Measure the inputs: stages of the last `make prove`, and the work of PostgreSQL for a picture."""

import json
import os
import sys
import time
from collections import defaultdict
from contextlib import closing
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory

import psutil

from dropcap.database.connection import connect_to_schema
from dropcap.settings import Settings
from infra import ROOT
from infra.local.events import cloud_event
from infra.local.process import Process, framework, free_port
from tests.support.backing_services import BackingServices, post_event

SAMPLES = sorted(path for path in (ROOT / "infra" / "samples").iterdir() if path.suffix != ".json")
COUNT = 66
STATISTICS = """
SELECT xact_commit, (active_time + idle_in_transaction_time) / 1000 FROM pg_stat_database
WHERE datname = current_database()
"""


def stages(build: Path = ROOT / "build") -> dict[str, float]:
    """Return the mean seconds of a picture in the last `make prove`. Raises OSError, ValueError."""
    proof = json.loads((build / "prove.json").read_text())
    if (proof["deliveries_at_once"], proof["gemini_s"]) != (1, 0):
        raise ValueError('pictures waited in it: run make prove PROVE="--at-once 1 --gemini-s 0" first.')
    uploads = proof["dropcap"]["results"]
    logged: defaultdict[str, dict[str, float]] = defaultdict(dict)
    for line in (build / "prove" / "main-0.log").read_text().splitlines():
        entry = json.loads(line) if line.startswith("{") else {}
        if "stage" in entry and "seconds" in entry:
            logged[entry["upload"]][entry["stage"]] = entry["seconds"]
    if len(uploads) != len(logged):
        raise ValueError("build/prove/main-0.log is not of the run in build/prove.json: the instance died.")
    runs = list(zip(uploads, logged.values(), strict=True))[1:]  # the first was a cold start
    warm = [(upload["seconds"], each) for upload, each in runs if upload["state"] == "analyzed"]
    return {
        "picture_s": round(fmean(whole for whole, _ in warm), 4),
        "caption_s": round(fmean(each["caption"] for _, each in warm), 4),
        "record_s": round(fmean(each["record"] for _, each in warm), 5),
    }


def database() -> dict[str, float]:
    """Return a picture's transactions, s within them and s of PostgreSQL's CPU. Raises StackError."""
    with (
        TemporaryDirectory(prefix="dropcap-capacity-") as folder,
        BackingServices(Path(folder), Settings()) as around,
    ):
        before, port = _used(around), free_port()
        path = f"{ROOT / 'functions'}:{ROOT}"
        environment = os.environ | around.environment | {"THREADS": "4", "PYTHONPATH": path}
        command = framework(ROOT / "functions" / "main.py", port, python=Path(sys.executable))
        with Process("function", command, Path(folder) / "function.log", environment, ROOT) as process:
            process.wait_until_answers(url := f"http://127.0.0.1:{port}")
            for index in range(COUNT):
                sample = SAMPLES[index % len(SAMPLES)]
                event = cloud_event(around.put(f"user{index % 50}/{index}{sample.suffix}", sample))
                post_event(url, *event, timeout_s=60)
        after = _used(around)  # its connection is closed, so that all it did is counted
    return {name: round((after[name] - before[name]) / COUNT, 5) for name in before}


def _used(around: BackingServices) -> dict[str, float]:
    """Return PostgreSQL's totals so far."""
    time.sleep(1.0)  # until the statistics have what has just ended
    with closing(connect_to_schema(around.database_url)) as connection:
        [[commits, held_s]] = connection.run(STATISTICS) or []
    server = psutil.Process(int((around.postgres.data / "postmaster.pid").read_text().split()[0]))
    cpu_s = 0.0
    for each in (*server.children(recursive=True), server):  # the server last: it counts those that ended
        times = each.cpu_times()
        cpu_s += times.user + times.system + times.children_user + times.children_system
    return {"transactions": commits, "held_s": held_s, "cpu_s": cpu_s}
