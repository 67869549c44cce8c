"""MAX_PER_HOUR limits a user's pictures exactly, across any number of instances."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing

import pytest

from dropcap.database import rate_limit
from dropcap.database.transactions import Database
from dropcap.errors import Rejected
from dropcap.settings import Settings
from tests.support.app import App, Start, problem, rows, small_png


def status(app: App, **query: str) -> int:
    return app.analyze(data=small_png(), query_string=query).status_code


def test_a_user_above_the_rate_limit_gets_429_with_retry_after(start: Start) -> None:
    app = start(MAX_PER_HOUR="2")
    assert [status(app, user="ana", keep=keep) for keep in ("true", "")] == [200, 200]
    answer = app.analyze(data=small_png(), query_string={"user": "ana"})
    assert problem(answer, 429)["code"] == "too_many_calls"
    assert 0 < int(answer.headers["Retry-After"]) <= 3600
    assert status(app, user="bob") == 200
    assert app.stats("ana")["pictures_analyzed"] == 1


def test_a_stored_object_counts_against_its_users_limit(start: Start) -> None:
    app = start(MAX_PER_HOUR="1")
    app.upload("ana/a.png", small_png())
    body = {"bucket": app.uploads, "name": "ana/a.png"}
    assert [app.analyze(json=body).status_code for _ in range(2)] == [200, 429]


def test_the_limit_resets_every_hour(start: Start) -> None:
    app = start(MAX_PER_HOUR="1")
    assert [status(app, user="ana") for _ in range(2)] == [200, 429]
    rows("UPDATE analyze_calls SET hour = hour - interval '1 hour'")
    assert [status(app, user="ana") for _ in range(2)] == [200, 429]


def test_anonymous_requests_and_bucket_uploads_are_not_rate_limited(start: Start) -> None:
    app = start(MAX_PER_HOUR="1")
    assert [status(app) for _ in range(2)] == [200, 200]
    for name in ("ana/a.png", "ana/b.png"):
        assert app.deliver(app.upload(name, small_png())) == 200
    assert rows("SELECT count(*) FROM analyze_calls") == [[0]]


def test_0_disables_the_limit(start: Start) -> None:
    app = start(MAX_PER_HOUR="0")
    assert [status(app, user="ana") for _ in range(3)] == [200, 200, 200]


@pytest.fixture
def instances(database_url: str) -> Iterator[list[Database]]:
    with ExitStack() as stack:
        new = (Database(Settings(database_url=database_url)) for _ in range(8))
        yield [stack.enter_context(closing(each)) for each in new]


def test_exactly_the_limit_of_concurrent_calls_is_admitted(instances: list[Database]) -> None:
    def is_admitted(number: int) -> bool:
        try:
            rate_limit.count(instances[number % len(instances)], "ana", 25)
        except Rejected:
            return False
        return True

    with ThreadPoolExecutor(len(instances)) as pool:
        assert sum(pool.map(is_admitted, range(80))) == 25
    assert instances[0].query("SELECT calls FROM analyze_calls") == [[25]]
