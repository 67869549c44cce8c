"""An instance of `on_upload` in a process of its own, which tests can crash."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import requests

from dropcap.domain.upload import Upload
from infra.local.process import Process, free_port
from tests.memory.limit import Limit
from tests.support.app import EVENT, ROOT, event_of
from tests.support.children import FUNCTIONS, python_path

CRASHED = 0  # instead of an HTTP status
WAIT_S = 60


@dataclass
class Instance:
    """The functions in a process that can crash."""

    url: str
    log: Path
    crash_file: Path

    def deliver(self, upload: Upload) -> int:
        """Deliver the upload's event once; return the HTTP status, or CRASHED."""
        try:
            return requests.post(self.url, event_of(upload), headers=EVENT, timeout=WAIT_S).status_code
        except requests.ConnectionError:
            return CRASHED

    def crash_after(self, step: str, upload: Upload) -> None:
        """Deliver the event, and crash after this step."""
        self.crash_file.write_text(f"after {step}")
        assert self.deliver(upload) == CRASHED, step
        assert not self.crash_file.exists(), step

    @property
    def decodings(self) -> int:
        return self.log.read_text().count("a decoder at work")


@contextmanager
def instance(folder: Path, limit: Limit | None = None, **settings: str) -> Iterator[Instance]:
    """Run functions-framework with support/crashing.py on the environment's buckets and database."""
    port, log = free_port(), folder / "log"
    command = [str(Path(sys.executable).with_name("functions-framework")), "--target", "on_upload"]
    command += ["--source", str(ROOT / "tests" / "support" / "crashing.py"), "--signature-type", "cloudevent"]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    own = {"PYTHONPATH": python_path(FUNCTIONS), "CRASH_FILE": str(folder / "crash")}
    command = limit.command(*command) if limit else command
    with Process("functions", command, log, os.environ | own | settings, ROOT) as functions:
        functions.wait_until_answers(f"http://127.0.0.1:{port}")
        yield Instance(f"http://127.0.0.1:{port}", log, folder / "crash")
