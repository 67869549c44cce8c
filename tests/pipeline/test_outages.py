"""PostgreSQL goes away in the middle of deliveries: that is no crash, and costs no picture."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from dropcap.domain.upload import Upload
from dropcap.runtime.watchdog import Watchdog
from infra.local.postgres import Postgres
from tests.chaos.proxy import Fault, Proxy
from tests.pipeline.test_healing import lease_runs_out
from tests.support.app import App, Start, rows, small_png

QUICK = {"SIZES": "200", "GEMINI_API_KEY": ""}
OUTAGES = 3  # as many as MAX_DEATHS
STAGES = (
    *("claim", "read", "open", "resize", "describe and caption", "publish", "record"),
    "delete the source",
)


@contextmanager
def away(url: str) -> Iterator[tuple[str, Proxy]]:
    """The database by a way that can be interrupted."""
    port = urlsplit(url).port
    assert port
    with Proxy(port) as proxy:
        yield url.replace(f":{port}", f":{proxy.port}"), proxy


def at(monkeypatch: pytest.MonkeyPatch, proxy: Proxy, stage: str, begun: bool) -> None:
    """The database is away from here on: before the stage has begun, or as soon as it has."""
    original = Watchdog.stage

    @contextmanager
    def watched(watch: Watchdog, name: str) -> Iterator[None]:
        if name == stage and not begun:
            proxy.set(Fault("refuse"))
        with original(watch, name):
            if name == stage and begun:
                proxy.set(Fault("refuse"))
            yield

    monkeypatch.setattr(Watchdog, "stage", watched)


def interrupted(app: App, upload: Upload, proxy: Proxy, stage: str, begun: bool) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        at(monkeypatch, proxy, stage, begun)
        assert app.deliver(upload) == HTTPStatus.INTERNAL_SERVER_ERROR, stage
    proxy.clear()
    lease_runs_out()


def test_three_outages_at_any_stage_are_no_death_and_the_next_delivery_finishes(
    start: Start, database_url: str
) -> None:
    with away(database_url) as (url, proxy):
        app = start(**QUICK, DATABASE_URL=url)
        for stage in STAGES:
            upload = app.upload("ana/a.png", small_png())
            for _ in range(OUTAGES):
                interrupted(app, upload, proxy, stage, begun=False)
            assert app.deliver(upload) == HTTPStatus.OK, stage
        assert rows("SELECT DISTINCT state, reason_code, deaths FROM uploads") == [["done", "", []]]
        assert rows("SELECT count(*) FROM analyses") == [[len(STAGES)]]


@pytest.mark.parametrize("stage", ["claim", "read", "record", "delete the source"])
def test_nor_are_they_where_another_instance_comes_next_and_nothing_heavy_was_at_work(
    start: Start, database_url: str, stage: str
) -> None:
    with away(database_url) as (url, proxy):
        app = start(**QUICK, DATABASE_URL=url)
        upload = app.upload("ana/a.png", small_png())
        for _ in range(OUTAGES):
            interrupted(app, upload, proxy, stage, begun=True)
            app = app.restarted()
        assert app.deliver(upload) == HTTPStatus.OK
        assert rows("SELECT state, reason_code, deaths FROM uploads") == [["done", "", []]]


def test_an_outage_is_one_line_of_the_log_without_a_stack_trace(
    start: Start, database_url: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with away(database_url) as (url, proxy):
        app = start(**QUICK, DATABASE_URL=url)
        upload = app.upload("ana/a.png", small_png())
        proxy.set(Fault("refuse"))
        capfd.readouterr()
        assert app.deliver(upload) == HTTPStatus.INTERNAL_SERVER_ERROR
    lines = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    [error] = [line for line in lines if line["severity"] == "ERROR"]
    assert (error["message"], error["error"]) == ("request failed", "DatabaseUnavailable")
    assert error["upload"] == str(upload.id)
    assert "PostgreSQL does not answer" in error["problem"]
    assert not any("stack_trace" in line for line in lines)


def test_a_lease_is_released_as_soon_as_the_database_is_available_again(
    start: Start, database_url: str
) -> None:
    with away(database_url) as (url, proxy):
        app = start(**QUICK, DATABASE_URL=url)
        first, other = (app.upload(f"ana/{name}.png", small_png()) for name in "ab")
        with pytest.MonkeyPatch.context() as monkeypatch:
            at(monkeypatch, proxy, "record", begun=False)
            assert app.deliver(first) == HTTPStatus.INTERNAL_SERVER_ERROR
        assert app.deliver(other) == HTTPStatus.INTERNAL_SERVER_ERROR  # still away
        proxy.clear()
        assert rows("SELECT stage, holder IS NULL FROM uploads") == [["publish", False]]
        assert app.deliver(other) == HTTPStatus.OK
        [[free]] = rows("SELECT lease_until <= now() FROM uploads WHERE id = :id", id=first.id)
        assert free
        assert app.restarted().deliver(first) == HTTPStatus.OK  # another instance need not wait
        assert rows("SELECT DISTINCT state, reason_code, deaths FROM uploads") == [["done", "", []]]


def test_a_server_that_is_stopped_at_the_end_of_three_deliveries_costs_no_picture(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ("-c", "fsync=off", "-c", f"unix_socket_directories={tmp_path}")
    with Postgres(tmp_path / "postgres", options=options) as server:
        app = start(**QUICK, DATABASE_URL=server.url)
        upload = app.upload("ana/a.png", small_png())
        original = Watchdog.stage

        @contextmanager
        def stage(watch: Watchdog, name: str) -> Iterator[None]:
            if name == "record":
                server.close()
            with original(watch, name):
                yield

        for _ in range(OUTAGES):
            with monkeypatch.context() as stopping:
                stopping.setattr(Watchdog, "stage", stage)
                assert app.deliver(upload) == HTTPStatus.INTERNAL_SERVER_ERROR
            server.start()
            server.wait()
            assert os.environ["DATABASE_URL"] == server.url
            lease_runs_out()
        assert app.deliver(upload) == HTTPStatus.OK
        assert rows("SELECT state, reason_code, deaths FROM uploads") == [["done", "", []]]
        app.services.database.close()
