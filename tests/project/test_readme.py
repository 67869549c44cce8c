"""What the README and SECURITY.md say is so."""

import re
from dataclasses import fields

import pytest

from dropcap.domain.analysis import Analysis
from dropcap.settings import table
from tests.support.app import ROOT

README = (ROOT / "README.md").read_text()
SECURITY = (ROOT / "SECURITY.md").read_text()
API = (ROOT / "docs" / "reference" / "api.md").read_text()
MAKEFILE = (ROOT / "Makefile").read_text()


def test_the_settings_that_it_shows_are_those_of_the_code() -> None:
    [rows] = re.findall(r"\| variable \| default \| meaning \|\n\|[-|]+\n(.*?)\n\n", README, re.DOTALL)
    for row in rows.splitlines():
        assert row in table()


def test_the_quick_start_is_the_real_model_and_a_photo_of_ones_own_and_then_the_samples() -> None:
    start = README.partition("## Try it")[2].partition("\n## ")[0]
    assert re.findall(r"^\$ (make \w+)", start, re.MULTILINE)[:2] == ["make model", "make run"]
    after = start.partition("$ make run")[2]
    assert 0 < after.index("your own") < after.index("`make run` alone") < after.index("samples")


@pytest.mark.parametrize("target", sorted(set(re.findall(r"\bmake ([a-z]+)\b", README + SECURITY))))
def test_every_make_target_exists(target: str) -> None:
    assert re.search(rf"^{target}:.*## ", MAKEFILE, re.MULTILINE)


def test_every_field_of_an_analysis_is_explained() -> None:
    [section] = re.findall(r"\| field \| meaning \|\n(.*?)\n\n", API, re.DOTALL)
    explained = {name for row in section.splitlines() for name in re.findall(r"`(\w+)`", row.split("|")[1])}
    assert explained == {item.name for item in fields(Analysis)}


@pytest.mark.parametrize("link", sorted(set(re.findall(r"\]\(([^)#:]+)\)", README))))
def test_every_link_leads_somewhere(link: str) -> None:
    assert (ROOT / link).exists()


@pytest.mark.parametrize("test", sorted(set(re.findall(r"\btest_\w+", SECURITY))))
def test_every_proof_that_security_names_is_there(test: str) -> None:
    assert (ROOT / "tests" / f"{test}.py").exists()


def test_what_nobody_has_tried_stands_in_one_box_near_the_top_of_readme_and_guide() -> None:
    boxes = []
    for page in (ROOT / "README.md", ROOT / "docs" / "deploy.md"):
        [box] = re.findall(r"^> \*\*Not yet tried.*?\n\n", page.read_text()[:2500], re.DOTALL | re.MULTILINE)
        boxes.append(box)
    assert boxes[0] == boxes[1]
