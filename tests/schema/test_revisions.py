"""An earlier revision and this one share database and storage, as in a deployment and its rollback.

The rule for it is in `dropcap/database/schema/tables.py`: expand, then contract. Versions that had their
tables in `public` are refused while the tables are in the schema.
"""

import os
import re
import runpy
import subprocess
import tarfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest
import requests

from dropcap.database.leases import Leases
from dropcap.database.schema.tables import TABLES
from dropcap.domain.upload import Upload
from dropcap.settings import SCHEMA
from infra.local import StackError
from infra.local.process import Process, framework, free_port
from tests.support.app import EVENT, ROOT, App, Start, event_of, rows, small_png
from tests.support.children import python_path
from tests.support.database import released
from tests.support.pages import DOCS

SETTINGS_FILE = "functions/dropcap/settings.py"
TABLES_FILES = ("functions/dropcap/database/schema/tables.py", "functions/dropcap/tables.py")  # and as it was
USERS = ("ana", "bo")
WAIT_S = 60
COUNT = "SELECT count(*), count(DISTINCT id) FROM analyses"
LEFT = "SELECT relname::text, relkind FROM pg_class WHERE relnamespace = 'public'::regnamespace"
BACK, _ = re.findall(r"^```sql\n(.*?)^```", (DOCS / "migrating.md").read_text(), re.MULTILINE | re.DOTALL)


def git(*words: str) -> bytes:
    done = subprocess.run(["/usr/bin/env", "git", *words], cwd=ROOT, capture_output=True)
    if done.returncode:  # a download without the history
        pytest.skip(f"the revision before is not here, git {words[0]} says: {done.stderr.decode().strip()}")
    return done.stdout


def revision_before(scratch: Path) -> str:
    """The latest commit whose tables are in a schema of their own, and declared otherwise than today's.

    Merges count as one. Where there is none yet, the latest commit with such a schema.
    """
    latest = ""
    log = git("log", "--first-parent", "--format=%H", "--", *TABLES_FILES, SETTINGS_FILE)
    for commit in log.decode().split():
        if b"database_schema" not in git("show", f"{commit}:{SETTINGS_FILE}"):
            break
        latest = latest or commit
        file = git("ls-tree", "--name-only", commit, "--", *TABLES_FILES).decode().strip()
        scratch.write_bytes(git("show", f"{commit}:{file}"))
        if repr(runpy.run_path(str(scratch))["TABLES"]) != repr(TABLES):
            return commit
    else:
        if git("rev-parse", "--is-shallow-repository") == b"true\n":
            pytest.skip("the revision before is not here: git fetch --unshallow")
    if not latest:
        pytest.skip("no commit has a schema of its own")
    return latest


def functions_of(commit: str, folder: Path) -> Path:
    """The functions as they were, without their model."""
    archive = folder / "functions.tar"
    archive.write_bytes(git("archive", commit, "functions", ":(exclude)functions/model"))
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    return folder / "functions"


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The functions of the revision before."""
    folder = tmp_path_factory.mktemp("before")
    return functions_of(revision_before(folder / "tables.py"), folder)


@pytest.fixture(scope="module")
def without(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The functions of the last revision without a schema of its own."""
    return functions_of(released.LAST, tmp_path_factory.mktemp("without"))


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


@contextmanager
def both(earlier: Path, folder: Path) -> Iterator[tuple[Revision, Revision]]:
    """Earlier code and today's, neither of them started."""
    with ExitStack() as running:
        revisions = Revision(earlier, folder / "before"), Revision(ROOT / "functions", folder / "after")
        for each in revisions:
            running.callback(each.stop)
        yield revisions


@dataclass
class Users:
    """The users' uploads, and how many pictures of each must be counted."""

    app: App
    uploads: list[Upload] = field(default_factory=list)
    schema: str = SCHEMA  # where the tables are

    def upload(self) -> Upload:
        number = len(self.uploads)
        upload = self.app.upload(f"{USERS[number % 2]}/{number}.png", small_png(), tz="Europe/Madrid")
        self.uploads.append(upload)
        return upload

    def counted(self) -> dict[str, int]:
        return {user: sum(each.user == user for each in self.uploads) for user in USERS}

    def agree(self, *revisions: Revision) -> None:
        """Check that all revisions return the same progress, and count each picture once."""
        for user, count in self.counted().items():
            first, *others = [revision.progress(user) for revision in revisions]
            assert first["pictures_analyzed"] == count
            assert all(other == first for other in others)
        assert rows(f"SET search_path = {self.schema}; {COUNT}") == [[len(self.uploads)] * 2]


@pytest.fixture
def revisions(before: Path, tmp_path: Path) -> Iterator[tuple[Revision, Revision]]:
    with both(before, tmp_path) as made:
        yield made


def test_two_revisions_share_a_database_during_a_deployment_and_after_a_rollback(
    start: Start, revisions: tuple[Revision, Revision], empty_database: str
) -> None:
    older, newer = revisions
    users = Users(start(DATABASE_URL=empty_database, GEMINI_API_KEY=""))
    ok = HTTPStatus.OK

    rows(f"DROP SCHEMA IF EXISTS {SCHEMA} CASCADE")  # that the app above made
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
    token = Leases(database).acquire(waits).token
    assert Leases(database).hold(waits, token, "held_no_verdict", "There is no verdict.", retry_s=3600)
    for each in (older, newer):  # one that does not know the state fails without harm
        assert each.deliver(waits) in ((ok,) if each is newer else (ok, HTTPStatus.INTERNAL_SERVER_ERROR))
        assert rows("SELECT state FROM uploads WHERE id = :id", id=waits.id) == [["held"]]
        assert not [name for name in users.app.objects(users.app.pictures) if name.startswith(str(waits.id))]
        assert list(users.app.objects(users.app.uploads)) == [waits.name]


@pytest.fixture
def moving(without: Path, tmp_path: Path) -> Iterator[tuple[Revision, Revision]]:
    with both(without, tmp_path) as made:
        yield made


def test_moving_the_tables_of_a_revision_without_a_schema_and_back_loses_nothing(
    start: Start, moving: tuple[Revision, Revision], empty_database: str
) -> None:
    older, newer = moving
    users = Users(start(DATABASE_URL=empty_database, GEMINI_API_KEY=""), schema="public")
    ok, again = HTTPStatus.OK, HTTPStatus.INTERNAL_SERVER_ERROR
    rows(f"DROP SCHEMA IF EXISTS {SCHEMA} CASCADE")  # that the app above made

    older.start()
    for _ in range(4):
        assert older.deliver(users.upload()) == ok
    users.agree(older)
    begun = users.upload()  # by an instance of the older revision that has stopped
    rows(
        "INSERT INTO public.uploads (id, bucket, name, generation, user_id, holder) "
        "VALUES (:id, :bucket, :name, :generation, :user, 'gone')",
        id=begun.id,
        bucket=begun.bucket,
        name=begun.name,
        generation=begun.generation,
        user=begun.user,
    )

    newer.start()
    users.schema = SCHEMA
    assert newer.deliver(begun) == ok
    for _ in range(2):
        upload = users.upload()
        assert older.deliver(upload) == again
        assert list(users.app.objects(users.app.uploads)) == [upload.name]
        assert newer.deliver(upload) == ok
    users.agree(newer)
    assert rows(LEFT) == [["uploads", "v"]]
    older.stop()
    with pytest.raises(StackError):
        older.start()
    older.stop()
    assert "public.uploads is a view; it should be a table" in (older.logs / "on_upload.log").read_text()

    newer.stop()
    rows(BACK)
    users.schema = "public"
    older.start()
    for _ in range(2):
        assert older.deliver(users.upload()) == ok
    users.agree(older)
    newer.start()
    users.schema = SCHEMA
    assert newer.deliver(users.upload()) == ok
    users.agree(newer)
    assert users.app.objects(users.app.uploads) == {}
