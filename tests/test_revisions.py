"""The latest code that had other tables, beside today's: on one database and one storage, before and after.

That is a deployment as it goes, and a rollback. The rule that makes it work is told in `dropcap/tables.py`:
expand, then contract.
"""

import os
import runpy
import subprocess
import tarfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest
import requests

from dropcap.tables import TABLES
from dropcap.upload import Upload
from infra.local.ports import free_port
from infra.local.process import Process, framework
from tests.app import EVENT, ROOT, App, Start, event_of, rows, small_png
from tests.children import python_path

TABLES_FILE = "functions/dropcap/tables.py"
USERS = ("ana", "bo")
WAIT_S = 60


def git(*words: str) -> bytes:
    done = subprocess.run(["/usr/bin/env", "git", *words], cwd=ROOT, capture_output=True)
    if done.returncode:  # a download without the history
        pytest.skip(f"the revision before is not here, git {words[0]} says: {done.stderr.decode().strip()}")
    return done.stdout


def revision_before(scratch: Path) -> str:
    """The latest commit whose tables are declared otherwise than today's; merges count as one."""
    for commit in git("log", "--first-parent", "--format=%H", "--", TABLES_FILE).decode().split():
        scratch.write_bytes(git("show", f"{commit}:{TABLES_FILE}"))
        if repr(runpy.run_path(str(scratch))["TABLES"]) != repr(TABLES):
            return commit
    assert git("rev-parse", "--is-shallow-repository") == b"true\n", f"no commit has another {TABLES_FILE}"
    pytest.skip("the revision before is not here: git fetch --unshallow")


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The functions of the revision before, without their model."""
    folder = tmp_path_factory.mktemp("before")
    commit = revision_before(folder / "tables.py")
    archive = folder / "functions.tar"
    archive.write_bytes(git("archive", commit, "functions", ":(exclude)functions/model"))
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    return folder / "functions"


@dataclass
class Revision:
    """One revision, deployed: its functions in processes of their own."""

    functions: Path
    logs: Path
    running: ExitStack = field(default_factory=ExitStack)
    urls: dict[str, str] = field(default_factory=dict)

    def start(self) -> None:
        """A cold start of the functions that the tests need."""
        environment = os.environ | {
            "PYTHONPATH": python_path(self.functions),
            "MODEL_FOLDER": str(ROOT / "functions" / "model"),
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        parts = []
        for target in ("on_upload", "get_progress_stats"):
            port = free_port()
            self.urls[target] = f"http://127.0.0.1:{port}"
            command = framework(self.functions / "main.py", port, target)
            log = self.logs / f"{target}.log"
            process = Process(target, command, log, environment, self.functions)
            parts.append(self.running.enter_context(process))
        for part, url in zip(parts, self.urls.values(), strict=True):
            part.wait_until_answers(f"{url}/?user=nobody")

    def stop(self) -> None:
        self.running.close()

    def deliver(self, upload: Upload) -> int:
        url, body = self.urls["on_upload"], event_of(upload)
        return requests.post(url, body, headers=EVENT, timeout=WAIT_S).status_code

    def progress(self, user: str) -> dict[str, Any]:
        answer = requests.get(self.urls["get_progress_stats"], {"user": user}, timeout=WAIT_S)
        assert answer.status_code == HTTPStatus.OK, answer.text
        return dict(answer.json())


@pytest.fixture
def both(before: Path, tmp_path: Path) -> Iterator[tuple[Revision, Revision]]:
    """The revision before and today's, neither of them started."""
    with ExitStack() as running:
        revisions = Revision(before, tmp_path / "before"), Revision(ROOT / "functions", tmp_path / "after")
        for each in revisions:
            running.callback(each.stop)
        yield revisions


@dataclass
class Users:
    """What they upload, and how many pictures of each must be counted."""

    app: App
    uploads: list[Upload] = field(default_factory=list)

    def upload(self) -> Upload:
        number = len(self.uploads)
        upload = self.app.upload(f"{USERS[number % 2]}/{number}.png", small_png(), tz="Europe/Madrid")
        self.uploads.append(upload)
        return upload

    def counted(self) -> dict[str, int]:
        return {user: sum(each.user == user for each in self.uploads) for user in USERS}

    def agree(self, *revisions: Revision) -> None:
        """All revisions say the same of everybody, and count each picture once."""
        for user, count in self.counted().items():
            first, *others = [revision.progress(user) for revision in revisions]
            assert first["pictures_analyzed"] == count
            assert all(other == first for other in others)
        assert rows("SELECT count(*), count(DISTINCT id) FROM analyses") == [[len(self.uploads)] * 2]


def test_revisions_share_a_database_while_one_is_deployed_and_after_it_was_rolled_back(
    start: Start, both: tuple[Revision, Revision], empty_database: str
) -> None:
    older, newer = both
    users = Users(start(DATABASE_URL=empty_database, GEMINI_API_KEY=""))
    ok = HTTPStatus.OK

    rows("DROP TABLE IF EXISTS " + ", ".join(table.name for table in TABLES))  # what the app above has made
    older.start()
    for _ in range(4):
        assert older.deliver(users.upload()) == ok
    users.agree(older)

    newer.start()
    users.agree(older, newer)
    for number in range(8):
        one, other = (older, newer) if number % 2 else (newer, older)
        upload = users.upload()
        assert [one.deliver(upload), other.deliver(upload), one.deliver(upload)] == [ok, ok, ok]
        users.agree(older, newer)

    older.stop()
    older.start()
    for each in (older, newer, older):
        assert each.deliver(users.upload()) == ok
    users.agree(newer, older)

    newer.stop()
    for _ in range(4):
        assert older.deliver(users.upload()) == ok
    for upload in users.uploads:
        assert older.deliver(upload) == ok
    users.agree(older)

    newer.start()
    users.agree(newer, older)
    assert rows("SELECT DISTINCT state, attempts, deaths FROM uploads") == [["done", 1, []]]
    assert users.app.objects(users.app.uploads) == {}

    database, waits = users.app.services.database, users.app.upload("ana/held.png", small_png())
    holder = database.claim(waits).holder
    assert database.hold(waits, holder, "held_no_verdict", "There is no verdict.", again_s=3600)
    for each in (older, newer):  # one that does not know the state fails at it, and does no harm
        assert each.deliver(waits) in ((ok,) if each is newer else (ok, HTTPStatus.INTERNAL_SERVER_ERROR))
        assert rows("SELECT state FROM uploads WHERE id = :id", id=waits.id) == [["held"]]
        assert not [name for name in users.app.objects(users.app.pictures) if name.startswith(str(waits.id))]
        assert list(users.app.objects(users.app.uploads)) == [waits.name]
