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
EVIDENCE = (ROOT / "docs" / "evidence.md").read_text()
MAKEFILE = (ROOT / "Makefile").read_text()


NAMED = sorted(set(re.findall(r"`([A-Z]+(?:_[A-Z]+)*)(?:=[^`]*)?`|^export ([A-Z_]+)=", README, re.MULTILINE)))


@pytest.mark.parametrize("name", [name for names in NAMED for name in names if name])
def test_the_settings_that_it_names_are_those_of_the_code(name: str) -> None:
    assert f"| `{name}` |" in table()


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
    assert list((ROOT / "tests").rglob(f"{test}.py"))


def test_what_nobody_has_tried_stands_in_one_box_of_readme_and_guide_and_near_the_top_of_both() -> None:
    pages = [README, (ROOT / "docs" / "deploy.md").read_text()[:2500]]
    boxes = [re.findall(r"^> \*\*Not yet tried.*?\n\n", page, re.DOTALL | re.MULTILINE) for page in pages]
    assert boxes[0] == boxes[1]
    assert len(boxes[0]) == 1
    assert "has not been deployed to a real project yet: see [status](#status)" in README[:1000]
    assert README.partition("## Status\n\n")[2].startswith("> **Not yet tried")


def test_it_is_short_and_in_the_usual_order() -> None:
    assert len(README.splitlines()) < 180
    assert re.findall(r"^## (.*)$", README, re.MULTILINE) == [
        "What it is for",
        "Try it",
        "Features",
        "Deploy",
        "Status",
        "Documentation",
        "Contributing",
        "License",
    ]


def evidence() -> list[str]:
    """Return the figures in the lines of evidence."""
    lines = README.partition("with the details in [evidence]")[2].partition("## ")[0]
    return sorted(set(re.findall(r"\d[\d,.]*\d|\d", lines)))


@pytest.mark.parametrize("figure", evidence())
def test_every_figure_of_the_evidence_is_on_its_page(figure: str) -> None:
    assert re.search(rf"(?<![\d,.]){re.escape(figure)}(?![\d])", EVIDENCE)
