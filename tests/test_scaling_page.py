"""SCALING.md: what the model takes for granted of the code is so, and the page says what was computed."""

import asyncio
import json
import math
import re
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import simpy
from aiohttp import web
from google.auth.transport.requests import AuthorizedSession

from dropcap import gemini
from dropcap.connection import connect
from dropcap.database import Database
from dropcap.response import Answer, Unavailable
from dropcap.settings import Settings
from dropcap.tables import TABLES
from dropcap.upload import Upload
from infra.scaling import __main__ as command
from infra.scaling import document, facts, inputs, measure, prose, scenarios
from infra.scaling.limits import Database as Asked
from infra.scaling.limits import limits
from infra.scaling.model import Push
from infra.scaling.quota import Gemini, Quota
from tests.app import NAME, PICTURE, ROOT, App

KEPT = inputs.kept()


@pytest.mark.parametrize("wait_s", [0.5, 15.0, 19.0, 25.0, 1e9])
def test_a_refusal_costs_what_it_costs_the_function(wait_s: float, monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    asked = modelled = 0

    class Refusing:
        def ask(self, jpeg: bytes, request: str) -> Answer:
            nonlocal asked
            asked += 1
            raise OSError

        def unavailable(self, error: Exception) -> Unavailable:
            return Unavailable("", again=True, wait_s=wait_s)

    class Refused(Quota):
        def wait(self, now: float) -> float:
            nonlocal modelled
            modelled += 1
            return wait_s

    class Chance:
        def uniform(self, low: float, high: float) -> float:
            return high

    describer = gemini.Describer(Settings(gemini_api_key="any"))
    monkeypatch.setattr(describer, "_load", Refusing)
    monkeypatch.setattr("dropcap.gemini.time.sleep", slept.append)
    monkeypatch.setattr("dropcap.gemini.random.uniform", lambda low, high: high)
    with pytest.raises(Unavailable):
        describer.describe(b"")
    env = simpy.Environment()
    chance: Any = Chance()
    env.process(Gemini().ask(env, Refused(1, 1), chance))
    env.run()
    assert modelled == asked
    assert env.now == pytest.approx(sum(slept))


def test_a_picture_asks_what_the_model_counts(
    start: Callable[..., App], monkeypatch: pytest.MonkeyPatch
) -> None:
    app = start()
    assert app.deliver(app.upload("ana/first.jpg", PICTURE)) == 200
    upload = app.upload(f"ana/{NAME}", PICTURE)
    asked: Counter[tuple[str, bool]] = Counter()
    attempts = 0
    request: Any = AuthorizedSession.request
    attempt: Any = Database._attempt

    def count(self: Any, method: str, url: str, **options: Any) -> Any:
        for name, bucket in (("uploads", app.uploads), ("pictures", app.pictures)):
            asked[name, method == "GET"] += bucket in urlsplit(url).path.split("/")  # not Gemini's
        return request(self, method, url, **options)

    def tell(self: Database, *given: Any) -> Any:
        nonlocal attempts
        attempts += 1
        return attempt(self, *given)

    monkeypatch.setattr(AuthorizedSession, "request", count)
    monkeypatch.setattr(Database, "_attempt", tell)
    assert app.deliver(upload) == 200
    assert asked == {
        ("pictures", False): facts.PICTURES_WRITES,
        ("pictures", True): facts.PICTURES_READS,
        ("uploads", False): facts.UPLOADS_WRITES - 1,  # one is the upload itself
        ("uploads", True): facts.UPLOADS_READS,
    }
    assert attempts == round(measured()["database"]["transactions"])


@pytest.mark.parametrize("method", ["execute_named", "prepare_statement"])
def test_a_pooler_in_transaction_mode_does_no_harm(
    method: str, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing outlives a transaction: no statement is prepared by name, and every setting is local."""
    said: list[str] = []
    connection = type(connect(database._settings.database_url))
    monkeypatch.setattr(connection, method, lambda *_: pytest.fail("a statement has a name"))
    simple = connection.execute_simple

    def listen(self: Any, sql: str) -> Any:
        said.append(sql)
        return simple(self, sql)

    monkeypatch.setattr(connection, "execute_simple", listen)
    upload = Upload("uploads", "ana/1.jpg", 1, 1)
    holder = database.claim(upload).holder
    assert database.mark(upload, holder, "read", 1.0)
    assert database.reject(upload, holder, "code", "reason")
    database.finish(upload)
    sets = [part for sql in said for part in sql.split(";") if "SET " in part and "UPDATE" not in part]
    assert sets
    assert all(part.strip().startswith("SET LOCAL ") for part in sets)


def test_uploads_and_analyses_may_be_partitioned_by_the_hash_of_their_id(empty_database: str) -> None:
    with closing(Database(Settings(database_url=empty_database))) as database:
        database.prepare()
    with closing(connect(empty_database)) as connection:
        connection.run("SET search_path = dropcap; DROP TABLE uploads, analyses")
        for table in [each for each in TABLES if each.name in ("uploads", "analyses")]:
            columns = ", ".join(
                f"{column.name} {column.type}{f' DEFAULT {column.default}' if column.default else ''}"
                f"{'' if column.null else ' NOT NULL'}"
                for column in table.columns
            )
            checks = "".join(f", CONSTRAINT {name} CHECK ({rule})" for name, rule in table.checks)
            connection.run(
                f"CREATE TABLE {table.name} ({columns}, PRIMARY KEY (id){checks}) PARTITION BY HASH (id)"
            )
            for index in range(4):
                connection.run(
                    f"CREATE TABLE {table.name}_{index} PARTITION OF {table.name} "
                    f"FOR VALUES WITH (MODULUS 4, REMAINDER {index})"
                )
    with closing(Database(Settings(database_url=empty_database))) as database:
        database.prepare()
        claims = [database.claim(Upload("uploads", f"ana/{index}.jpg", 1, 1)) for index in range(20)]
        assert {claim.state for claim in claims} == {"claimed"}
        assert database.claim(Upload("uploads", "ana/1.jpg", 1, 1)).state == "busy"
        [[kind]] = database.query("SELECT relkind::text FROM pg_class WHERE relname = 'uploads'")
        [[used]] = database.query("SELECT count(DISTINCT tableoid) FROM uploads")
    assert (kind, used) == ("p", 4)


def test_an_event_without_a_free_instance_comes_again_and_is_delivered_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(measure, "PUSH", Push(pending_s=0.02, first_s=0.02, longest_s=0.05))
    taken: Counter[str] = Counter()
    at_once = most = 0

    async def function(request: web.Request) -> web.Response:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        await asyncio.sleep(0.05)
        taken[await request.text()] += 1
        at_once -= 1
        return web.Response()

    async def run() -> measure.Seen:
        app = web.Application()
        app.router.add_post("/", function)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        around: Any = None
        instances = measure._Instances(around, 1)
        instances.urls = [f"http://127.0.0.1:{runner.addresses[0][1]}"]
        events = [({"ce-id": str(index)}, str(index).encode()) for index in range(6)]
        monkeypatch.setattr(instances, "upload", lambda count: events[:count])
        try:
            return await instances.push([0.0] * 6)
        finally:
            await runner.cleanup()

    seen = asyncio.run(run())
    assert taken == dict.fromkeys(map(str, range(6)), 1)
    assert (most, len(seen.latencies)) == (1, 6)
    assert seen.refused > 0


def test_without_load_the_model_predicts_the_seconds_it_was_given() -> None:
    said = measure.predicted([10.0 * index for index in range(1, 50)], [0.2, 0.3, 0.4], 1)
    assert said["mean_s"] == pytest.approx(0.3, rel=0.05)


def test_the_document_says_what_the_numbers_say() -> None:
    text = document.DOCUMENT.read_text()
    assert document.filled(text, prose.parts(results(), measured())) == text


def test_every_table_is_in_the_document() -> None:
    text = document.DOCUMENT.read_text()
    assert all(f"<!-- {name} -->\n" in text for name in prose.parts(results(), measured()))


def test_every_test_and_file_that_the_page_names_is_there() -> None:
    text = document.DOCUMENT.read_text()
    tests = "".join(path.read_text() for path in (ROOT / "tests").glob("test_*.py"))
    assert all(f"def {name}(" in tests for name in re.findall(r"`(test_\w+)`", text))
    assert all((ROOT / path).exists() for path in re.findall(r"\]\(([^)]+)\)", text))


def test_the_numbers_are_those_of_the_model() -> None:
    assert results()["database"] == pytest.approx(measured()["database"])
    asked = Asked(**measured()["database"])
    expected = [
        (each.name, None if each.alone == math.inf else pytest.approx(each.alone, rel=1e-3))
        for each in limits(KEPT, asked)
    ]
    assert [(row["name"], row["alone"]) for row in results()["limits"]] == expected
    row = scenarios._dropped(KEPT, 5, results()["seed"])
    assert row == pytest.approx(results()["drop"][0], rel=0.01)


def test_a_quick_run_says_it_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "BENCH_PYTHON", tmp_path / "none")  # the picture needs matplotlib
    assert command.main(["--quick", "--build", str(tmp_path)]) == 0
    made = json.loads((tmp_path / "scaling.json").read_text())
    assert made.keys() == results().keys()
    full = {(row["rate"], row["setting"]): row for row in results()["scale"]}
    for row in made["scale"]:
        if row["setting"] == "lifted, BLIP alone":
            assert row["p50_s"] == pytest.approx(full[row["rate"], row["setting"]]["p50_s"], rel=0.1)


def test_measured_inputs_are_read_as_they_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inputs, "KEPT", tmp_path / "inputs.json")
    inputs.keep(KEPT)
    assert inputs.kept() == KEPT


def results() -> dict[str, Any]:
    kept: dict[str, Any] = json.loads(command.RESULTS.read_text())
    return kept


def measured() -> dict[str, Any]:
    return measure.kept()
