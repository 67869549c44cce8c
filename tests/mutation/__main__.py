"""`python -m tests.mutation`: mutate a module, run the tests that are about it, and print what survived.

mutmut 3.x mutates functions only, and most of our SQL is in constants; cosmic-ray 8 starts a process for each
mutant. Here each mutant is a fork of a process that has imported everything but our own code.
"""

import argparse
import difflib
import importlib
import logging
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing, nullcontext, suppress
from pathlib import Path

import pytest

from infra import ROOT
from tests.mutation.operators import Edit, edits

SCHEMA = (
    "tests/schema/test_repairs.py",
    "tests/schema/test_schema.py",
    "tests/schema/test_schema_damage.py",
    "tests/schema/test_own_schema.py",
)
FIRST_SCHEMA = ("tests/schema/test_own_schema.py", "tests/schema/test_relocation.py")
ERASURE = ("tests/storage/test_erasure.py", "tests/storage/test_aliases.py", "tests/gallery/test_edits.py")
# Each module of functions/dropcap, and its tests: the quickest first, because the first failure ends a run.
TESTS = {
    "database/leases": ("tests/database/test_lease_rows.py", "tests/database/test_leases.py"),
    "domain/upload": (
        "tests/core/test_upload.py",
        "tests/core/test_texts.py",
        "tests/pipeline/test_included_objects.py",
    ),
    "erasure": ERASURE,
    "storage/disposal": ("tests/storage/test_disposal.py",),
    "database/progress": ("tests/database/test_progress.py", "tests/database/test_achievements.py"),
    "database/schema/diff": SCHEMA,
    "database/schema/catalogue": SCHEMA,
    "database/schema/repair": SCHEMA,
    "database/schema/relocation": FIRST_SCHEMA,
    "database/schema/ownership": FIRST_SCHEMA,
}
COPIED = ("functions", "infra", "model_export", "tests", "pyproject.toml", "docs", "requirements.txt")
MADE = "SELECT quote_ident(datname) FROM pg_database WHERE datname !~ '^(postgres|template[01])$'"
INTERRUPTS = (signal.SIGINT, signal.SIGTERM)
KILLED, SURVIVED, TIMEOUT = "killed", "survived", "timeout"
SLOWER = 4  # a mutant may take as many times as long as the tests without one,
SPARE_S = 20.0  # and so much longer: other processes may be busy


def main() -> None:
    """Print the table and the survivors of each module; see `--help`."""
    parser = argparse.ArgumentParser("python -m tests.mutation", description=__doc__)
    parser.add_argument("--module", choices=[name.rpartition("/")[2] for name in TESTS], action="append")
    parser.add_argument("--sample", type=int, help="mutants of each module; all by default")
    parser.add_argument("--seed", type=int, default=7, help="of the sample")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--lines", help="only mutants of these lines, as in 10-25")
    asked = parser.parse_args()
    for number in INTERRUPTS:
        signal.signal(number, _interrupt)
    _import_what_is_not_ours()
    for name, tests in TESTS.items():
        if not asked.module or name.rpartition("/")[2] in asked.module:
            _report(name, tests, asked)


def _interrupt(*_: object) -> None:
    for number in INTERRUPTS:
        signal.signal(number, signal.SIG_IGN)  # timeout(1) sends two
    raise KeyboardInterrupt


def _report(name: str, tests: Sequence[str], asked: argparse.Namespace) -> None:
    path = f"functions/dropcap/{name}.py"
    source = (ROOT / path).read_text()
    every = edits(source)
    if asked.lines:
        first, last = map(int, asked.lines.split("-"))
        every = [edit for edit in every if first <= source.count("\n", 0, edit.start) + 1 <= last]
    size = min(asked.sample or len(every), len(every))
    drawn = random.Random(asked.seed).sample(every, size)  # noqa: S311  no secret
    began = time.monotonic()
    memory = "/dev/shm" if os.path.isdir("/dev/shm") else None  # noqa: S108  the folder has a name of its own
    with tempfile.TemporaryDirectory(prefix="dropcap-mutants-", dir=memory) as folder:
        take = Worker(Path(folder) / "check", path, tests)
        result, output = take.run(source, 600)
        if result != SURVIVED:
            sys.exit(f"The tests fail without any mutant:\n{output}")
        limit = SLOWER * (time.monotonic() - began) + SPARE_S
        take.close()
        context = multiprocessing.get_context("fork")
        results: list[str] = []
        work = [(edit.apply(source), limit) for edit in drawn]
        # Ctrl-C ends a module early: what was tested is reported.
        with context.Pool(asked.workers, _start, (folder, path, tests)) as pool, suppress(KeyboardInterrupt):
            for result in pool.imap(_run, work):
                results.append(result)
                print(f"{name}: {len(results)} of {len(work)} {result}", file=sys.stderr, flush=True)
    count = {outcome: results.count(outcome) for outcome in (KILLED, SURVIVED, TIMEOUT)}
    share = (count[KILLED] + count[TIMEOUT]) / max(len(results), 1)
    print(f"{'module':28} {'mutants':>9} {'killed':>6} {'survived':>8} {'timeouts':>8} {'share':>7}")
    print(
        f"{name:28} {f'{len(results)}/{len(every)}':>9} {count[KILLED]:>6} {count[SURVIVED]:>8} "
        f"{count[TIMEOUT]:>8} {share:>7.1%}   seed {asked.seed}, {time.monotonic() - began:.0f} s"
    )
    for edit, result in sorted(zip(drawn, results, strict=False)):
        if result == SURVIVED:
            print(_diff(path, source, edit))


def _diff(path: str, source: str, edit: Edit) -> str:
    line = source.count("\n", 0, edit.start) + 1
    before, after = source.splitlines(), edit.apply(source).splitlines()
    changed = list(difflib.unified_diff(before, after, lineterm="", n=0))[3:]
    return "\n".join([f"\n{path}:{line}", *changed])


def _import_what_is_not_ours() -> None:
    """Import what the tests need, and forget our own modules, so that a fork imports them mutated."""
    importlib.import_module("tests.conftest")
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None) or ""
        ours = file.startswith(f"{ROOT}/") and "site-packages" not in file
        if ours and name not in ("__main__", "tests") and not name.startswith(("tests.mutation", "infra")):
            del sys.modules[name]
    for logger in (logging.getLogger(), logging.getLogger("dropcap")):
        logger.handlers.clear()  # conftest.py adds them again


class Worker:
    """A copy of the project, in which one mutant at a time is tested, and a PostgreSQL of its own."""

    def __init__(self, tree: Path, path: str, tests: Sequence[str]) -> None:
        from infra.local.postgres import Postgres

        self.tree, self.file, self.tests = tree, tree / path, tests
        self.child = 0  # the process that tests a mutant now
        tree.mkdir()
        for name in COPIED:
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, tree / name, symlinks=True)
            else:
                shutil.copy2(ROOT / name, tree / name)
        (tree / ".git").symlink_to(ROOT / ".git")  # for the tests that read released versions
        self.server = Postgres(tree / "postgres", options=("-c", "fsync=off", "-c", "max_connections=150"))
        self.server.start()

    def close(self) -> None:
        self.server.close()

    def run(self, mutant: str, limit_s: float) -> tuple[str, str]:
        """Return the result of the tests with this source, and their output."""
        self.file.write_text(mutant)
        shutil.rmtree(self.file.parent / "__pycache__", ignore_errors=True)
        self._drop_databases()
        log = self.tree / "log"
        child = os.fork()
        if child == 0:
            self._test(log)
        self.child = child
        ends = time.monotonic() + limit_s
        result = TIMEOUT
        while time.monotonic() < ends:
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                result = KILLED if status else SURVIVED
                break
            time.sleep(0.02)
        else:
            os.kill(child, signal.SIGINT)  # pytest stops its servers
            time.sleep(5)
            with suppress(ProcessLookupError):
                os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
        self.child = 0
        return result, log.read_text()

    def _drop_databases(self) -> None:
        from dropcap.database.connection import connect

        with closing(connect(self.server.url)) as connection:
            for [name] in connection.run(
                "SELECT datname FROM pg_database WHERE datname ~ '^te(st_|mplate$)'"
            ):
                connection.run(f"DROP DATABASE {name} WITH (FORCE)")

    def _test(self, log: Path) -> None:
        os.setsid()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        with log.open("wb") as output:
            os.dup2(output.fileno(), 1)
            os.dup2(output.fileno(), 2)
        os.chdir(self.tree)
        sys.path[:0] = [str(self.tree / "functions"), str(self.tree)]
        os.environ["PYTHONPATH"] = sys.path[0]
        for name in [name for name in sys.modules if name.split(".")[0] in ("dropcap", "infra", "tests")]:
            del sys.modules[name]
        postgres = importlib.import_module("infra.local.postgres")
        server = self.server
        postgres.Postgres = lambda *_, **__: nullcontext(server)  # type: ignore[attr-defined]
        options = ("-x", "-p", "no:cacheprovider", "-p", "no:xdist", f"--basetemp={self.tree}/temporary")
        status: int = 1
        try:
            status = int(pytest.main([*options, f"--rootdir={self.tree}", *self.tests]))
        finally:
            sys.stdout.flush()
            os._exit(status)


worker: Worker  # of this process


def _start(folder: str, path: str, tests: Sequence[str]) -> None:
    global worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the main process ends this one
    worker = Worker(Path(folder) / str(os.getpid()), path, tests)
    signal.signal(signal.SIGTERM, _stop)


def _stop(*_: object) -> None:
    if worker.child:
        with suppress(ProcessLookupError):
            os.killpg(worker.child, signal.SIGKILL)
    os._exit(1)


def _run(work: tuple[str, float]) -> str:
    return worker.run(*work)[0]


if __name__ == "__main__":
    main()
