"""`make bench-database`: the cost of each database operation with 10 million analyses.

A real PostgreSQL with its default settings runs in a temporary folder. The product's own statements go
through its own client; each is explained (ANALYZE, BUFFERS) just before it runs. The time of an operation is
the planning and execution of all its statements; round trips and the commit are in the client's time.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from dropcap.database import progress
from dropcap.database.connection import connect_to_schema
from dropcap.database.schema import repair
from dropcap.database.transactions import Database
from dropcap.settings import SCHEMA, Settings
from infra import ROOT
from infra.local import StackError
from infra.local.postgres import Postgres
from tests.bench.database import gallery, rows
from tests.bench.database.operations import Bench, operations, spread

GB = 1e9
ROW_BYTES = 900  # of an analysis and its upload, indexes included, without the result
SPARE = 2.0  # for the log that is written ahead, and for others
RESULT_BYTES, SHORT_RESULT_BYTES = 1500, 100
LOADING = ("fsync=off", "autovacuum=off", "max_wal_size=4GB", "maintenance_work_mem=512MB")
Report = dict[str, Any]


def measure(asked: argparse.Namespace, console: Console, folder: Path) -> Report:
    """Load, count and index each user for the first time, then measure."""
    report: Report = {
        "analyses": asked.analyses,
        "gallery": asked.gallery,
        "result_bytes": _result_bytes(asked, console, folder),
    }
    options = tuple(word for value in LOADING for word in ("-c", value))
    with Postgres(folder, options=options) as server, _bar(console) as bar:
        url = server.database("bench")
        with closing(connect_to_schema(url, timeout_s=3600)) as connection:
            repair.check(connection, SCHEMA)
            task = bar.add_task("loading", total=2 * asked.analyses + asked.gallery)
            for number in rows.load(connection, asked.analyses, report["result_bytes"]):
                bar.advance(task, number)
            for number in gallery.load(connection, asked.gallery):
                bar.advance(task, number)
            with console.status("VACUUM ANALYZE, as autovacuum does in time ..."):
                connection.run("VACUUM ANALYZE")
                connection.run("CHECKPOINT")
    with Postgres(folder) as server:  # with what PostgreSQL comes with
        url = server.database("bench")
        with closing(connect_to_schema(url, timeout_s=3600)) as connection:
            with console.status("A cold start adds what was left out while loading ..."):
                repair.check(connection, SCHEMA)
            connection.run("DROP INDEX analyses_user_id_analyzed_at_idx")
            with console.status("A cold start that finds an index lost ..."):
                report["index_s"] = _seconds(partial(repair.check, connection, SCHEMA))
            report["first"] = _first_looks(url, asked.analyses, console)
            with console.status("The gallery's user comes for the first time ..."):
                report["gallery_s"] = _searchable(url)
            with console.status("VACUUM ANALYZE, as autovacuum does in time ..."):
                connection.run("VACUUM ANALYZE")
            report["version"] = connection.run("SHOW server_version")[0][0]
        with closing(Bench(url, asked.rounds)) as bench, console.status("Measuring ..."):
            users = rows.users(asked.analyses)
            report["figures"] = [*operations(bench, users), *gallery.operations(bench, asked.gallery)]
    return report


def _first_looks(url: str, analyses: int, console: Console) -> Report:
    """Count every user for the first time; return seconds."""
    names = [user.name for user in rows.users(analyses)]
    ordinary = [f"user{n}" for n in range(rows.ordinary(analyses))]
    with (
        closing(Database(Settings(database_url=url, database_timeout_s=300))) as database,
        _bar(console) as bar,
    ):
        task = bar.add_task("counting each user for the first time", total=len(names) + len(ordinary))
        first = {}
        for name in (*names, *ordinary):
            first[name] = _seconds(partial(progress.stats, database, name))
            database.query(progress.achievements_update(), user=name, known=sorted(progress.RULES))
            bar.advance(task)
    return {name: first[name] for name in names} | {"ordinary": spread([first[name] for name in ordinary])}


def _searchable(url: str) -> float:
    """Index the gallery's user, in seconds, and then some others, so that the index has several users."""
    with closing(Database(Settings(database_url=url, database_timeout_s=300))) as database:
        seconds = _seconds(partial(gallery.index, database))
        for number in range(9):
            gallery.index(database, f"user{number}")
    return seconds


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _result_bytes(asked: argparse.Namespace, console: Console, folder: Path) -> int:
    """Return the size of a result: that of a real one if there is room."""
    free = shutil.disk_usage(folder).free
    needed = [asked.analyses * (ROW_BYTES + size) * SPARE for size in (RESULT_BYTES, SHORT_RESULT_BYTES)]
    if free > needed[0]:
        return RESULT_BYTES
    if free < needed[1]:
        raise StackError(f"{needed[1] / GB:.0f} GB are needed in {folder}, and {free / GB:.0f} are free.")
    console.print(f"{needed[0] / GB:.0f} GB are not free in {folder}: the results are short ones.")
    return SHORT_RESULT_BYTES


@contextmanager
def _bar(console: Console) -> Iterator[Progress]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as bar:
        yield bar


def show(report: Report, console: Console) -> None:
    """Print the report as tables."""
    table = Table("operation", "database, ms", "95 %", "pages", "client, ms", "95 %", "as promised")
    for figure in report["figures"]:
        database, client = ([f"{value:.2f}" for value in each] for each in (figure.database, figure.client))
        verdict = "[red]no[/], over " if figure.over else "yes, under "
        verdict += f"{figure.bound_ms:g} ms"
        table.add_row(figure.operation, *database, f"{figure.pages:.0f}", *client, verdict)
    console.print(table)
    first = report["first"]
    median, most = (seconds * 1000 for seconds in first["ordinary"])
    console.print(
        f"PostgreSQL {report['version']}; {report['analyses']:,} analyses with results of "
        f"{report['result_bytes']:,} bytes.\n"
        f"A cold start that has to create the index (user_id, analyzed_at) took {report['index_s']:.1f} s.\n"
        f"Counting a user for the first time: an ordinary one {median:.0f} ms (95 %: {most:.0f} ms), "
        f"decade {first['decade']:.1f} s, burst {first['burst']:.1f} s.\n"
        f"Wall and searches are of a user with {report['gallery']:,} pictures; to index them took "
        f"{report['gallery_s']:.1f} s, over as many visits of about 2 s."
    )


def main(words: Sequence[str] | None = None) -> int:
    """Run it all; the exit status: 1 where an operation takes too long in the database, by the median."""
    asked = _arguments(words)
    console = Console()
    asked.build.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(prefix="dropcap-bench-", dir=asked.folder) as folder:
            report = measure(asked, console, Path(folder))
    except StackError as failed:
        console.print(f"make bench-database: {failed}", style="red", markup=False)
        return 2
    show(report, console)
    file = asked.build / "bench-database.json"
    figures = [
        {
            "operation": figure.operation,
            "database_ms": figure.database,
            "client_ms": figure.client,
            "pages": figure.pages,
            "plans": figure.plans,
        }
        for figure in report["figures"]
    ]
    file.write_text(json.dumps(report | {"figures": figures}, indent=1) + "\n")
    console.print(f"All of it, with the plans: {file}")
    return 1 if any(figure.over for figure in report["figures"]) else 0


def _arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="make bench-database",
        description="Measure what the database does for each operation when it holds many analyses. "
        "10 million take about 25 GB and half an hour, most of it to load them.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--analyses", type=int, default=10_000_000, metavar="N", help="how many to load")
    parser.add_argument(
        "--gallery",
        type=int,
        default=100_000,
        metavar="N",
        help="pictures of the user whose wall is looked at",
    )
    parser.add_argument("--rounds", type=int, default=40, metavar="N", help="times to do each operation")
    parser.add_argument(
        "--folder", type=Path, help="where the data may lie meanwhile; not given: the system's"
    )
    parser.add_argument("--build", type=Path, default=ROOT / "build", help="folder for bench-database.json")
    return parser.parse_args(words)


if __name__ == "__main__":
    sys.exit(main())
