"""`make scaling`: the limits follow from the inputs and from what the code does, and the page shows them."""

import json
import math
import re
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from statistics import NormalDist, fmean
from typing import Any
from urllib.parse import urlsplit

import pytest
from google.auth.transport.requests import AuthorizedSession

from dropcap.database.connection import connect
from dropcap.database.leases import Leases
from dropcap.database.schema.tables import TABLES
from dropcap.database.transactions import Database
from dropcap.describing import gemini
from dropcap.describing.response import NotDescribed
from dropcap.domain.gemini_response import GeminiResponse
from dropcap.domain.upload import Upload
from dropcap.settings import Settings
from infra import cost
from infra.cloud.resources.declaration import PICTURES_AT_ONCE
from tests.capacity import __main__ as capacity
from tests.capacity import limits, measure
from tests.capacity.__main__ import number
from tests.capacity.limits import Limit, busy, kept, seconds
from tests.support.app import NAME, PICTURE, ROOT, App

NORMAL = NormalDist()


def limit(name: str) -> Limit:
    [found] = [each for each in limits.limits() if each.name == name]
    return found


def test_limits_are_listed_in_the_order_in_which_they_are_met() -> None:
    found = limits.limits()
    first = [min(each.with_gemini, each.alone) for each in found]
    assert len(found) == 23
    assert first == sorted(first)
    assert all(0 < each.with_gemini <= each.alone for each in found)


def test_a_limit_is_what_there_is_divided_by_what_an_upload_takes() -> None:
    assert limit("max-instances as deployed").alone * seconds(False) == pytest.approx(5)
    assert limit("vCPUs of a region, new project").with_gemini * seconds(True) == pytest.approx(20)
    assert limit("Gemini, tier 1: a day").with_gemini * 86_400 == pytest.approx(10_000)
    assert limit("Gemini, tier 3: a minute").with_gemini * 60 * limits.TOKENS == pytest.approx(8e6, rel=0.002)
    assert kept(limit("connections, db-f1-micro").alone * seconds(False)) == pytest.approx((25 - 3) / 2)


@pytest.mark.parametrize("working", [1.0, 3.0, 40.0, 1e4])
def test_kept_instances_suffice_for_the_peak_of_a_quarter_of_an_hour(
    working: float,
) -> None:
    assert busy(kept(working)) == pytest.approx(working)
    assert working / kept(working) <= limits.UTILISATION
    passed = 1 - sum(
        math.exp(n * math.log(working) - working - math.lgamma(n + 1)) for n in range(int(kept(working)) + 1)
    )
    assert passed < 0.003


def test_an_instance_works_while_pictures_wait_for_gemini(monkeypatch: pytest.MonkeyPatch) -> None:
    spread = math.log(2) / 1.645
    latencies = [cost.GEMINI_S * math.exp(spread * NORMAL.inv_cdf(n / 1000)) for n in range(1, 1000)]
    assert latencies[949] == pytest.approx(2 * cost.GEMINI_S, rel=0.01)
    assert fmean(latencies) == pytest.approx(limits.GEMINI_MEAN_S, rel=0.02)
    assert seconds(True) == seconds(False) == limits.MEASURED["picture_s"]
    assert seconds(True, 2.0) == pytest.approx(seconds(False) - limits.MEASURED["caption_s"] / 2)
    monkeypatch.setattr(limits, "GEMINI_MEAN_S", 100.0)  # more than the others fill
    assert seconds(True) == pytest.approx((seconds(False) + 100) / PICTURES_AT_ONCE)


def test_the_page_shows_what_the_command_computes(capsys: pytest.CaptureFixture[str]) -> None:
    text = capacity.PAGE.read_text()
    assert capacity.filled(text) == text
    assert capacity.main([]) == 0
    assert capsys.readouterr().out == "\n\n".join(capacity.tables().values()) + "\n"
    for name, table in capacity.tables().items():
        assert f"<!-- {name} -->\n{table}\n<!-- /{name} -->" in text


def test_the_summary_has_the_figures_of_the_tables() -> None:
    summary = capacity.PAGE.read_text().partition("## ")[0]
    shown = [number(seconds(True)), f"{1 / limits.UTILISATION:.1f}"]
    shown += [
        number(limit("Gemini, tier 1: a day").with_gemini),
        number(limit("max-instances as deployed").alone),
    ]
    shown += [number(limit("PostgreSQL's CPU, largest server").alone)]
    assert re.findall(r"(?<![\w.])\d[\d,.]*\d", summary) == shown


def test_the_stages_of_a_proof_become_the_inputs_of_a_picture(tmp_path: Path) -> None:
    (tmp_path / "prove").mkdir()
    uploads, lines = [], []
    for index, (caption_s, record_s) in enumerate([(9.0, 9.0), (0.5, 0.02), (0.7, 0.04)]):
        uploads.append({"state": "analyzed", "seconds": 1.0 + index})
        for stage, taken in (("caption", caption_s), ("record", record_s)):
            lines.append(json.dumps({"upload": f"ana/{index}", "stage": stage, "seconds": taken}))
    (tmp_path / "prove" / "main-0.log").write_text("\n".join([*lines, "no JSON"]))
    alone = {"deliveries_at_once": 1, "gemini_s": 0.0}
    (tmp_path / "prove.json").write_text(json.dumps(alone | {"dropcap": {"results": uploads}}))
    assert measure.stages(tmp_path) == {"picture_s": 2.5, "caption_s": 0.6, "record_s": 0.03}
    (tmp_path / "prove.json").write_text(json.dumps(alone | {"dropcap": {"results": uploads[1:]}}))
    with pytest.raises(ValueError, match="the instance died"):
        measure.stages(tmp_path)
    (tmp_path / "prove.json").write_text(json.dumps(alone | {"deliveries_at_once": 8}))
    with pytest.raises(ValueError, match="pictures waited in it"):
        measure.stages(tmp_path)


def test_an_upload_makes_as_many_requests_as_the_limits_count(
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

    def record(self: Database, *arguments: Any) -> Any:
        nonlocal attempts
        attempts += 1
        return attempt(self, *arguments)

    monkeypatch.setattr(AuthorizedSession, "request", count)
    monkeypatch.setattr(Database, "_attempt", record)
    assert app.deliver(upload) == 200
    assert asked == {
        ("pictures", False): limits.PICTURES_WRITES,
        ("pictures", True): limits.PICTURES_READS,
        ("uploads", False): limits.UPLOADS_WRITES - 1,  # one is the upload itself
        ("uploads", True): limits.UPLOADS_READS,
    }
    assert attempts == round(limits.MEASURED["transactions"])


@pytest.mark.parametrize("method", ["execute_named", "prepare_statement"])
def test_a_pooler_in_transaction_mode_does_no_harm(
    method: str, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing outlives a transaction: no statement is prepared by name, and every setting is local."""
    statements: list[str] = []
    connection = type(connect(database.settings.database_url))
    monkeypatch.setattr(connection, method, lambda *_: pytest.fail("a statement has a name"))
    simple = connection.execute_simple

    def listen(self: Any, sql: str) -> Any:
        statements.append(sql)
        return simple(self, sql)

    monkeypatch.setattr(connection, "execute_simple", listen)
    upload = Upload("uploads", "ana/1.jpg", 1, 1)
    token = Leases(database).acquire(upload).token
    assert Leases(database).heartbeat(upload, token, "read", 1.0)
    assert Leases(database).reject(upload, token, "code", "reason")
    Leases(database).finish(upload)
    sets = [part for sql in statements for part in sql.split(";") if "SET " in part and "UPDATE" not in part]
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
        acquired = [
            Leases(database).acquire(Upload("uploads", f"ana/{index}.jpg", 1, 1)) for index in range(20)
        ]
        assert {lease.state for lease in acquired} == {"claimed"}
        assert Leases(database).acquire(Upload("uploads", "ana/1.jpg", 1, 1)).state == "busy"
        [[kind]] = database.query("SELECT relkind::text FROM pg_class WHERE relname = 'uploads'")
        [[used]] = database.query("SELECT count(DISTINCT tableoid) FROM uploads")
    assert (kind, used) == ("p", 4)


@pytest.mark.parametrize(("wait_s", "slept_s"), [(0.5, 2.5), (15.0, 31.5), (19.0, 39.5), (25.0, 0.0)])
def test_a_refusal_holds_an_instance_for_at_most_the_timeout_before_each_attempt(
    wait_s: float, slept_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []

    class Refusing:
        def ask(self, jpeg: bytes, request: str) -> GeminiResponse:
            raise OSError

        def translate_error(self, error: Exception) -> NotDescribed:
            return NotDescribed("", retry_now=True, retry_after_s=wait_s)

    settings = Settings(gemini_api_key="any")
    describer = gemini.Describer(settings)
    monkeypatch.setattr(describer, "_load", Refusing)
    monkeypatch.setattr("dropcap.describing.gemini.time.sleep", slept.append)
    monkeypatch.setattr("dropcap.describing.gemini.random.uniform", lambda low, high: high)
    with pytest.raises(NotDescribed):
        describer.describe(b"")
    assert sum(slept) == pytest.approx(slept_s)
    assert all(each <= settings.gemini_timeout_s for each in slept)
    assert len(slept) < settings.gemini_attempts


def test_every_test_and_file_that_the_page_names_is_there() -> None:
    text = capacity.PAGE.read_text()
    tests = "".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    assert all(f"def {name}(" in tests for name in re.findall(r"`(test_\w+)`", text))
    assert all((capacity.PAGE.parent / path).exists() for path in re.findall(r"\]\(([^)]+)\)", text))
