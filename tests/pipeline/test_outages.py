"""An outage of PostgreSQL during a delivery is transient: it counts as no crash and loses no picture."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from dropcap.domain.upload import Upload
from dropcap.runtime.watchdog import Watchdog
from infra.local.postgres import Postgres
from tests.chaos.proxy import Fault, Proxy
from tests.support.app import App, Start, expire_leases, log_lines, problem, rows, small_png

QUICK = {"SIZES": "200", "GEMINI_API_KEY": ""}
OUTAGES = 3  # as many as MAX_DEATHS
HEAVY_STAGES = ("open", "resize", "encode", "caption")
LIGHT_STAGES = ("claim", "read", "describe", "publish", "record", "delete the source")


@pytest.fixture
def proxy(database_url: str) -> Iterator[Proxy]:
    """A proxy before the database, which can be interrupted; instances connect through it."""
    port = urlsplit(database_url).port
    assert port
    with Proxy(port) as proxy:
        os.environ["DATABASE_URL"] = database_url.replace(f":{port}", f":{proxy.port}")
        yield proxy


@pytest.fixture
def app(start: Start, proxy: Proxy) -> App:
    return start(**QUICK, DATABASE_URL=os.environ["DATABASE_URL"])


@contextmanager
def outage_at(stage: str, stop: Callable[[], object], begun: bool = False) -> Iterator[None]:
    """Call `stop` before the stage begins, or as soon as it has begun."""
    original = Watchdog.stage

    @contextmanager
    def interrupted(watchdog: Watchdog, name: str) -> Iterator[None]:
        if name == stage and not begun:
            stop()
        with original(watchdog, name):
            if name == stage and begun:
                stop()
            yield

    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(Watchdog, "stage", interrupted)
        yield


def deliver_during_outage(app: App, upload: Upload, proxy: Proxy, stage: str, begun: bool = False) -> None:
    with outage_at(stage, lambda: proxy.set(Fault("refuse")), begun):
        assert app.deliver(upload) == HTTPStatus.INTERNAL_SERVER_ERROR, stage
    proxy.clear()
    expire_leases()


def test_three_outages_at_any_stage_are_no_crash_and_the_next_delivery_finishes(
    app: App, proxy: Proxy
) -> None:
    stages = LIGHT_STAGES + HEAVY_STAGES
    for stage in stages:
        upload = app.upload("ana/a.png", small_png())
        for _ in range(OUTAGES):
            deliver_during_outage(app, upload, proxy, stage)
        assert app.deliver(upload) == HTTPStatus.OK, stage
    assert rows("SELECT DISTINCT state, reason_code, deaths FROM uploads") == [["done", "", []]]
    assert rows("SELECT count(*) FROM analyses") == [[len(stages)]]


@pytest.mark.parametrize("stage", LIGHT_STAGES)
def test_an_outage_in_a_light_stage_counts_as_no_crash_for_another_instance(
    app: App, proxy: Proxy, stage: str
) -> None:
    upload = app.upload("ana/a.png", small_png())
    for _ in range(OUTAGES):
        deliver_during_outage(app, upload, proxy, stage, begun=True)
        app = app.restarted()
    assert app.deliver(upload) == HTTPStatus.OK
    assert rows("SELECT state, reason_code, deaths FROM uploads") == [["done", "", []]]


def test_an_outage_is_one_log_line_without_a_stack_trace_for_each_delivery_and_request(
    app: App, proxy: Proxy, capfd: pytest.CaptureFixture[str]
) -> None:
    upload = app.upload("ana/a.png", small_png())
    proxy.set(Fault("refuse"))
    capfd.readouterr()
    assert app.deliver(upload) == HTTPStatus.INTERNAL_SERVER_ERROR
    kept = {"keep": "true", "user": "ana"}
    for answer in (
        app.analyze(data=small_png(), query_string=kept),
        app.progress.get("/?user=ana"),
        app.sweep.post("/"),
    ):
        assert problem(answer, 503)["code"] == "try_again"
        assert answer.headers["Retry-After"]
    lines = log_lines(capfd)
    errors = [line for line in lines if line["severity"] == "ERROR"]
    assert len(errors) == 4
    assert (errors[0]["message"], errors[0]["error"]) == ("request failed", "DatabaseUnavailable")
    assert errors[0]["upload"] == str(upload.id)
    assert all(line["problem"].startswith("PostgreSQL does not answer") for line in errors)
    assert not any("stack_trace" in line for line in lines)


def test_a_lease_is_released_as_soon_as_the_database_is_available_again(app: App, proxy: Proxy) -> None:
    first, other = (app.upload(f"ana/{name}.png", small_png()) for name in "ab")
    with outage_at("record", lambda: proxy.set(Fault("refuse"))):
        assert app.deliver(first) == HTTPStatus.INTERNAL_SERVER_ERROR
    assert app.deliver(other) == HTTPStatus.INTERNAL_SERVER_ERROR  # the outage continues
    proxy.clear()
    assert rows("SELECT stage, holder IS NULL FROM uploads") == [["publish", False]]
    assert app.deliver(other) == HTTPStatus.OK
    [[released]] = rows("SELECT lease_until <= now() FROM uploads WHERE id = :id", id=first.id)
    assert released
    assert app.restarted().deliver(first) == HTTPStatus.OK  # another instance need not wait
    assert rows("SELECT DISTINCT state, reason_code, deaths FROM uploads") == [["done", "", []]]


def test_a_server_that_stops_during_three_deliveries_loses_no_picture(start: Start, tmp_path: Path) -> None:
    options = ("-c", "fsync=off", "-c", f"unix_socket_directories={tmp_path}")
    with Postgres(tmp_path / "postgres", options=options) as server:
        app = start(**QUICK, DATABASE_URL=server.url)
        upload = app.upload("ana/a.png", small_png())
        for _ in range(OUTAGES):
            with outage_at("record", server.close):
                assert app.deliver(upload) == HTTPStatus.INTERNAL_SERVER_ERROR
            server.start()
            server.wait()
            expire_leases()
        assert app.deliver(upload) == HTTPStatus.OK
        assert rows("SELECT state, reason_code, deaths FROM uploads") == [["done", "", []]]
        app.services.database.close()
