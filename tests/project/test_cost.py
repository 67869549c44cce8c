"""What the costs page says is what the command computes, from what a picture really takes."""

import datetime as dt
import io
import json
import re
import subprocess
import sys
from collections import Counter
from contextlib import redirect_stdout
from typing import Any

import pytest
import requests

from dropcap.domain import gemini_prices
from dropcap.settings import Settings
from infra import cost
from infra.cloud import monitoring
from tests.support.app import PICTURE, ROOT, Start, rows

PAGE = (ROOT / "docs" / "costs.md").read_text()


@pytest.mark.parametrize(
    "table",
    [
        cost.picture(),
        cost.bill(described=False),
        cost.bill(described=True),
        cost.descriptions(),
        cost.gallery(),
        cost.prices(),
    ],
)
def test_the_page_holds_what_the_command_prints(table: str) -> None:
    assert table in PAGE


def test_the_command_prints_all_tables() -> None:
    printed = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "infra.cost"],
        cwd=ROOT,
        env={"PYTHONPATH": "functions"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    tables = re.findall(r"(?:^\|.*\n)+", PAGE, re.MULTILINE)
    assert printed == "\n".join(tables)


@pytest.fixture
def operations(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Operations on Cloud Storage by class: cloud.google.com/storage/pricing#operations-by-class."""
    counted: Counter[str] = Counter()
    request = requests.Session.request

    def counting(self: requests.Session, method: str, url: str, **options: Any) -> requests.Response:
        if "/storage/v1/b/" in url:
            path = url.partition("?")[0]
            listing = method == "GET" and path.endswith("/o")
            counted["free" if method == "DELETE" else "A" if method == "POST" or listing else "B"] += 1
        return request(self, method, url, **options)

    monkeypatch.setattr(requests.Session, "request", counting)
    return counted


def test_a_picture_takes_as_many_operations_as_the_costs_say(start: Start, operations: Counter[str]) -> None:
    app = start()
    app.deliver(app.upload("ana/first.jpg", PICTURE))  # the client looks at each bucket once
    operations.clear()
    app.deliver(app.upload("ana/photo.jpg", PICTURE))
    assert operations == {"A": cost.CLASS_A, "B": cost.CLASS_B, "free": 1}
    operations.clear()
    app.reconcile(min_age_s="300")
    assert set(operations) == {"A"}
    assert operations["A"] <= cost.RECONCILE_CLASS_A  # in two parts, or in one: by chance


def test_a_picture_takes_no_more_of_log_and_database_than_the_costs_say(start: Start) -> None:
    app = start()
    app.deliver(app.upload("ana/first.jpg", PICTURE))
    with redirect_stdout(io.StringIO()) as log:
        for number in range(3):
            app.deliver(app.upload(f"ana/{number}.jpg", PICTURE))
    assert len(log.getvalue()) / 3 < cost.LOG_B / 2
    rows("ANALYZE")
    [[kept]] = rows("SELECT sum(pg_column_size(a.*)) / count(*) FROM analyses a")
    assert kept < cost.ROW_B / 2


def test_prices_are_those_of_the_bench_and_what_is_free_is_taken_off() -> None:
    assert cost.usd("vcpu", 180_001) == pytest.approx(0.000024)
    assert cost.usd("vcpu", 180_001, free=False) == pytest.approx(180_001 * 0.000024)
    assert cost.usd("jobs", 1) == 0


def test_a_thousand_descriptions_cost_at_most_90_cents_online_and_55_by_batch() -> None:
    [row] = re.findall(r"^\| `gemini-3.5-flash-lite` \|.*$", cost.descriptions(), re.MULTILINE)
    before, _, online, batch = map(float, row.split(" | ")[2:6])
    assert before > 1
    assert online <= 0.90
    assert batch <= 0.55
    assert Settings().gemini_model == "gemini-3.5-flash-lite"


def test_each_change_of_a_price_is_in_effect_on_its_day() -> None:
    before = gemini_prices.price("gemini-3.8-flash", dt.date(2026, 12, 31))
    after = gemini_prices.price("gemini-3.8-flash", dt.date(2027, 1, 1))
    assert before
    assert after
    assert (before.input, before.output, after.input, after.output) == (0.75, 3.75, 1.50, 7.50)
    assert gemini_prices.price("gemini-9", dt.date(2027, 1, 1)) is None
    for changes in gemini_prices.PRICES.values():
        assert [*changes] == sorted(changes, key=lambda price: price.starts)
        assert all(re.fullmatch(r"20\d\d-\d\d-\d\d", price.as_of) for price in changes)


def test_every_price_says_where_and_when_it_was_read() -> None:
    for price in cost.PRICES.values():
        assert re.fullmatch(r"[a-z.-]+(/[a-z-]+)+", price.page)
        assert price.day == "undated" or re.fullmatch(r"20\d\d-\d\d(-\d\d)?", price.day)


def test_the_page_says_what_alerts_will_cost() -> None:
    alerts = monitoring.alerts(monitoring.Values("my-project", "europe-west1"))
    references = json.dumps(alerts).count("metric.type=")
    assert sum(len(alert["conditions"]) for alert in alerts.values()) == references
    month = cost.usd("references", references)
    assert re.search(rf"has {references} of them, {month:.2f} US\$ a month", PAGE)
