"""`make bench-database`: the product's own statements are explained, and one that takes too long is seen."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.bench.database import __main__ as database
from tests.bench.database.operations import BOUND_MS, Figure

# The others have too few rows here to need an index.
GROWING = ("analyses", "documents", "uploads", "progress_days")


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("bench")
    assert database.main(
        ["--analyses", "40000", "--gallery", "4000", "--rounds", "3", "--build", str(folder)]
    ) in (0, 1)
    return dict(json.loads((folder / "bench-database.json").read_text()))


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for part in plan.get("Plans", ()):
        yield from nodes(part)


def test_no_operation_reads_a_table_that_grows_from_end_to_end(report: dict[str, Any]) -> None:
    for figure in report["figures"]:
        for plan in figure["plans"].values():
            for node in nodes(plan["Plan"]):
                assert node["Node Type"] != "Seq Scan" or node["Relation Name"] not in GROWING, figure


def test_a_user_with_thousands_costs_as_many_pages_as_one_with_a_picture(report: dict[str, Any]) -> None:
    stats = [figure["pages"] for figure in report["figures"] if figure["operation"].startswith("stats")]
    assert len(stats) == 4
    assert max(stats) < 2 * min(stats) < 200


def test_everything_is_reported(report: dict[str, Any]) -> None:
    operations = " ".join(figure["operation"] for figure in report["figures"])
    assert all(
        word in operations
        for word in (
            "stats",
            "record",
            "acquire",
            "heartbeat",
            "finish",
            "reconcile",
            "schema",
            "wall",
            "search",
        )
    )
    assert all(figure["plans"] and figure["database_ms"][0] > 0 for figure in report["figures"])
    assert report["index_s"] > 0
    assert report["gallery_s"] > 0
    assert report["first"]["decade"] > 0


def test_the_median_decides() -> None:
    assert not Figure("stats", (BOUND_MS - 1, BOUND_MS + 1), (9, 9), 1, {}).over
    assert Figure("stats", (BOUND_MS + 1, BOUND_MS + 1), (9, 9), 1, {}).over


def test_a_folder_without_room_is_refused_with_what_is_needed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["--analyses", str(10**12), "--folder", str(tmp_path), "--build", str(tmp_path)]
    assert database.main(asked) == 2
    assert "GB are needed" in " ".join(capsys.readouterr().out.split())
