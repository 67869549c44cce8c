"""The local PostgreSQL keeps its data, leaves nothing running, and says in one line why it can't start."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil
import pytest
from pg8000.native import DatabaseError

from dropcap.database.connection import connect
from infra.local import StackError
from infra.local.postgres import Postgres

ROOT = Path(__file__).parents[2]
PARENT = """
import sys
from pathlib import Path
from infra.local.postgres import Postgres
with Postgres(Path(sys.argv[1])) as server:
    print(server.url, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    with TemporaryDirectory(prefix="dropcap-postgres-") as name:
        yield Path(name)


def servers(folder: Path) -> list[psutil.Process]:
    found = psutil.process_iter(["cmdline"])
    return [process for process in found if str(folder / "data") in (process.info["cmdline"] or [])]


def test_after_a_killed_parent_the_data_are_kept_and_the_server_ends(folder: Path) -> None:
    command = [sys.executable, "-c", PARENT, str(folder)]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        with closing(connect(parent.stdout.readline().strip())) as connection:
            connection.run("CREATE TABLE kept (n integer)")
        left = servers(folder)
        parent.kill()
    assert left
    assert psutil.wait_procs(left, timeout=20)[1] == []
    with Postgres(folder) as server, closing(connect(server.database("other"))) as connection:
        assert connection.run("SELECT current_database()") == [["other"]]
        with closing(connect(server.url)) as first:
            assert first.run("SELECT count(*) FROM kept") == [[0]]
        assert server.database("other").endswith("/other")
        with pytest.raises(StackError, match=rf"Port {server.port}, .* is in use: .*choose another port"):
            Postgres(folder, server.port).start()
    assert servers(folder) == []


def test_a_wrong_password_is_refused(postgres: Postgres) -> None:
    url = postgres.url.replace(postgres.password, "guess")
    with pytest.raises(DatabaseError, match="28P01"):
        connect(url)


def test_data_in_use_by_another_server_are_refused(postgres: Postgres) -> None:
    with pytest.raises(StackError, match=r"Another PostgreSQL uses .*stop the other"):
        Postgres(postgres.folder).start()


def test_a_failed_start_is_reported_in_one_line(folder: Path) -> None:
    (folder / "data").mkdir()
    (folder / "data" / "PG_VERSION").write_text("9.6")
    (folder / "password").write_text("x")
    with pytest.raises(StackError, match=r"PostgreSQL did not start: .*see") as refused:
        Postgres(folder).start()
    assert "\n" not in str(refused.value)
