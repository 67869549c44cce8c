"""The consistency check: what agrees, what contradicts, and what is only silence."""

import io
import json
import logging
import uuid
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from google.auth.credentials import AnonymousCredentials
from google.cloud.storage import Client
from rich.console import Console

from dropcap.domain.analysis import Agreement, Analysis, Description, Finding
from dropcap.domain.consistency import compare
from dropcap.domain.records import read
from infra.local.results import Outcome
from infra.local.show import outcome
from model_export.__main__ import main
from tests.support.app import EXPECTED, SAMPLES, Start, rows
from tests.support.database.uploads import analysis, upload

CAPTION = "a dog sitting on a couch with a red ball"


def described(text: str, alt_text: str = "", *tags: str) -> Description:
    return Description(text, alt_text or text, tags, "", "gemini", "1")


def contradictions(caption: str, text: str, alt_text: str = "", *tags: str) -> tuple[Finding, ...]:
    agreement = compare(caption, described(text, alt_text, *tags))
    assert agreement.score is not None
    assert agreement.contradicts == bool(agreement.contradictions)
    return agreement.contradictions


@pytest.mark.parametrize(
    ("caption", "text"),
    [
        (CAPTION, "A terrier rests on a gray sofa by the window. A red rubber ball lies between its paws."),
        ("two dogs running on a beach", "A black dog and a brown dog race each other along the sandy beach."),
        ("a man riding a wave on a surfboard", "A man in a wetsuit rides a large wave on his surfboard."),
        ("a bunch of bananas on a table", "Several bananas lie on a wooden table."),
        ("a black and white cat on a bed", "A white and black cat sleeps on the bed."),
    ],
)
def test_a_caption_that_the_description_bears_out_in_other_words_agrees(caption: str, text: str) -> None:
    agreement = compare(caption, described(text))
    assert agreement.contradictions == ()
    assert agreement.score is not None
    assert agreement.score >= 0.8


@pytest.mark.parametrize(
    ("caption", "text", "finding"),
    [
        (CAPTION, "A cat sits on a couch with a red ball.", ("thing", "dog", "cat")),
        (CAPTION, "A dog sits on a couch with a blue ball.", ("colour", "red ball", "blue ball")),
        ("two dogs on a couch", "Three dogs sit on a couch.", ("number", "2 dog", "3 dog")),
        ("two dogs on a couch", "A dog sits on a couch.", ("number", "2 dog", "1 dog")),
        ("a dog on a couch", "Several dogs sit on a couch.", ("number", "1 dog", "2 or more dog")),
        ("a dog on a couch", "There is no dog on the couch.", ("thing", "dog", "no dog")),
        ("a bowl of apples", "Some pears lie in a bowl.", ("thing", "apple", "pear")),
        ("a woman with an umbrella", "A man walks under an umbrella.", ("thing", "woman", "man")),
        ("a guitar on a bed", "A dolphin leaps out of the sea.", ("thing", "guitar", "dolphin")),
        ("a ball on a green background", "A ball on a purple background.",
         ("colour", "green background", "purple background")),
    ],
)  # fmt: skip
def test_a_claim_that_excludes_one_of_the_caption_is_named(caption: str, text: str, finding: Finding) -> None:
    assert finding in contradictions(caption, text)


@pytest.mark.parametrize(
    ("caption", "text"),
    [
        ("a dog on a couch", "A dog and a cat sleep on a red couch under a window."),  # more than the caption
        (CAPTION, "A living room with tall windows and a wooden floor."),  # less
        ("a dog and a cat", "A cat is to the left of a dog."),  # a list claims no order
        ("a dog on a couch", "Some animals rest on a couch."),  # a kind for its member, and any number
        ("an animal in a field", "A sheep grazes in a meadow."),  # a member of its kind
        ("a gray cat", "A silver cat."),  # colours that are taken for each other
        ("a red car", "A car is parked behind a blue car."),  # another one of them
        ("a hot dog on a plate", "A sausage in a bun on a plate. A cat looks at it."),  # no dog
        ("a bat in the air", "A boy swings a bat."),  # one word, two things
        ("a dog on a couch", 'A dog on a couch below a sign that says "Two cats".'),  # is written there
        ("a person on a bench", "An elderly woman rests on a bench."),
        ("a clock on a wall", "A round timekeeper hangs above a row of books."),  # a word not known
    ],
)
def test_silence_and_other_words_are_no_contradiction(caption: str, text: str) -> None:
    assert contradictions(caption, text) == ()


def test_alt_text_and_tags_bear_out_what_the_description_leaves_out() -> None:
    bare = compare(CAPTION, described("A living room.", "A living room"))
    full = compare(CAPTION, described("A living room.", "A dog on a couch", "red ball"))
    assert bare.score is not None
    assert full.score is not None
    assert bare.score < 0.2
    assert full.score >= 0.8


@pytest.mark.parametrize(
    "text",
    [
        "Drei Katzen liegen auf einem blauen Sofa neben einem Ball.",
        "Trois chats sont couchés sur un canapé bleu à côté d'une balle.",
        "Tres gatos descansan en un sofá azul con una pelota.",
        "Drie katten liggen op een blauwe bank in het huis.",
        "Három macska fekszik a kék kanapén.",
        "Три кошки лежат на синем диване.",
        "三匹の猫が青いソファに横たわっています。",
        "ثلاث قطط على أريكة زرقاء",
    ],
)
def test_of_other_languages_there_is_no_verdict(text: str) -> None:
    agreement = compare(CAPTION, described(text, text, "cat", "blue ball"))
    assert (agreement.score, agreement.contradicts) == (None, False)


def test_of_a_description_that_is_marked_as_of_another_language_there_is_no_verdict() -> None:
    description = replace(described("A cat sits on a couch."), language="de")
    assert compare(CAPTION, description).score is None


def test_of_an_empty_caption_there_is_no_verdict() -> None:
    assert compare("", described("A dog.")).score is None


@pytest.mark.parametrize(
    "text",
    [
        "a dog and " * 100_000,
        "\0\x01" * 500_000,
        "“" * 10**6,
        "on the " * 150_000,
        "a" * 10**6,
        ",and " * 10**5,
    ],
)
def test_of_a_megabyte_of_anything_the_beginning_is_read_and_ten_findings_are_told(text: str) -> None:
    agreement = compare(text, described(text, text, *[text] * 20))
    beginning = text[:1000]
    assert agreement == compare(beginning, described(beginning, beginning, *[beginning] * 20))
    assert len(agreement.contradictions) <= 10


def test_the_record_says_how_far_the_models_agree_and_the_log_where_they_do_not(
    start: Start, capfd: pytest.CaptureFixture[str]
) -> None:
    app = start(GEMINI_MODEL="fault-invented")
    of = app.upload("ana/key.png", (SAMPLES / "phone.png").read_bytes())  # a dog and a key on purple
    assert app.deliver(of) == 200
    [[result]] = rows("SELECT result FROM analyses")
    assert isinstance(result, dict)
    agreement = result["agreement"]
    assert agreement["contradicts"]
    assert ["thing", "dog", "cat"] in agreement["contradictions"]
    assert 0 < agreement["score"] < 1  # the background is purple
    logged = [json.loads(line) for line in capfd.readouterr().out.splitlines() if line.startswith("{")]
    [entry] = [each for each in logged if each["message"] == "the two models contradict each other"]
    assert (entry["severity"], entry["upload"]) == ("WARNING", str(of.id))
    assert "thing: dog or cat" in entry["found"]


def test_where_one_model_is_silent_nothing_is_compared(start: Start) -> None:
    app = start(GEMINI_API_KEY="")
    answer = app.analyze(data=(SAMPLES / "butterfly.gif").read_bytes(), content_type="image/gif")
    assert answer.json is not None
    assert answer.json["caption"] == EXPECTED["butterfly.gif"]
    assert answer.json["agreement"] is None


def shown(result: dict[str, Any]) -> str:
    """What `make run` prints of a result."""
    printed = io.StringIO()
    nowhere = Client(
        project="p", credentials=AnonymousCredentials()
    )  # no picture is shown without a terminal
    finished = Outcome(uuid.uuid4(), "", "a.png", "", read(Analysis, result))
    outcome(Console(file=printed, width=200), nowhere, finished, "pictures", "deleted")
    return printed.getvalue()


@pytest.mark.parametrize(
    ("agreement", "line"),
    [
        ({"score": 0.92, "contradictions": [], "contradicts": False}, "Agreement: 92 %"),
        ({"score": None, "contradictions": [], "contradicts": False}, "Agreement: no verdict"),
        (
            {"score": 0.4, "contradictions": [["thing", "dog", "cat"]], "contradicts": True},
            "Agreement: the models contradict each other: dog (BLIP) or cat (Gemini)",
        ),
    ],
)
def test_make_run_shows_it(agreement: dict[str, Any], line: str) -> None:
    result = RESULT | {"agreement": agreement}
    assert line in shown(result)


def test_a_result_of_before_is_shown_as_it_was() -> None:
    old = {name: value for name, value in RESULT.items() if name != "agreement"}
    assert "Agreement" not in shown(old)


SOURCE = {"answered": True, "model": "m", "version": "1", "problem": ""}
RESULT = analysis(upload()).to_json() | {"sources": {"blip": SOURCE, "gemini": SOURCE}}


def test_true_descriptions_are_not_flagged_and_altered_ones_score_lower(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = tmp_path / "consistency.json"
    with warnings.catch_warnings():
        assert main(["consistency", "--count", "25", "--report", str(report)]) == 0
    logging.disable(logging.NOTSET)
    assert "false alarms 0.0%" in capsys.readouterr().out
    figures = json.loads(report.read_text())
    assert figures["false_alarms"] == 0
    assert figures["wrongly_flagged"] == []
    for name, thing in (("held-out scenes", "another thing"), ("written by hand", "thing")):
        assert figures[name]["true"]["score"] > 0.8 > figures[name][thing]["score"]
    flagged = {kind: found["share"] for kind, found in figures["held-out scenes"].items()}
    assert flagged["number"] >= 0.75
    assert flagged["another colour"] >= 0.75


def test_the_former_name_of_the_command_works_and_warns(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = tmp_path / "witnesses.json"
    assert main(["witnesses", "--tuning", "--report", str(report)]) == 0
    logging.disable(logging.NOTSET)
    assert "`witnesses` is deprecated: use `consistency`" in capsys.readouterr().err
    assert json.loads(report.read_text())["written by hand"]["true"]["number"] == 20


def test_more_false_alarms_than_promised_fail_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    flagged = Agreement(0.0, (("thing", "dog", "cat"),), True)
    monkeypatch.setattr("model_export.evaluation.consistency.compare", lambda caption, description: flagged)
    assert main(["consistency", "--tuning", "--report", str(tmp_path / "report.json")]) == 1
    logging.disable(logging.NOTSET)
    assert "false alarms: 100.00%, more than 1%" in capsys.readouterr().err
