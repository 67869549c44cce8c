"""What the pages in docs say is so, and what must be said there is said."""

import json
import os
import re
import shlex
import subprocess
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest

from dropcap.settings import table
from infra.cloud.config import Config
from infra.cloud.gcloud import known_errors
from infra.cloud.resources import rights
from tests.support.app import ROOT
from tests.support.messages import Message, collect
from tests.support.pages import DOCS, PAGES, commands

MAKEFILE = (ROOT / "Makefile").read_text()
TROUBLE = (DOCS / "troubleshooting.md").read_text()
FOREIGN = (
    "The platform's own",
    "Known errors of Google and gcloud",
)  # sections whose messages are not Dropcap's


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split(" | ")]


def code(cell: str) -> list[str]:
    """The texts in code spans: within one or two backticks, which are not part of the text."""
    spans = re.findall(r"(`+)(.+?)(?<!`)\1(?!`)", cell)
    return [" ".join(text.replace("`", "").split()) for _, text in spans]


def explained() -> Iterator[tuple[str, str]]:
    """Code and text of each message in the tables of the troubleshooting page."""
    for section in re.split(r"^## ", TROUBLE, flags=re.MULTILINE)[1:]:
        if section.startswith(FOREIGN):
            continue
        coded = False
        for line in section.splitlines():
            if line.startswith(("| message", "| code")):
                coded = line.startswith("| code")
            elif line.startswith("| "):
                first, second = cells(line)[:2]
                for text in code(second if coded else first):
                    yield (code(first)[0] if coded else "", text)


def named(messages: set[tuple[str, str]]) -> str:
    return "\n".join(f"{code} {text}" for code, text in sorted(messages))


def test_every_message_that_can_be_printed_has_its_cause_and_remedy() -> None:
    missing = {(each.code, each.text) for each in collect()} - set(explained())
    assert not missing, f"docs/troubleshooting.md lacks\n{named(missing)}"


def test_no_message_is_explained_that_can_not_be_printed() -> None:
    gone = set(explained()) - {(each.code, each.text) for each in collect()}
    assert not gone, f"no source prints\n{named(gone)}"


def test_no_message_is_explained_twice() -> None:
    all_of_them = list(explained())
    assert len(all_of_them) == len(set(all_of_them))


@pytest.mark.parametrize(
    ("code", "text", "file"),
    [
        ("gone", "The upload was deleted or replaced before it was read.", "buckets.py"),
        ("bad_json", "… is missing or not a string.", "bodies.py"),  # through a helper
        ("no_user", "user is not a name.", "bodies.py"),  # the other branch
        ("", "Table … is missing; it should exist", "diff.py"),  # in parts
        ("", "Gemini's quota is used up (…)", "client.py"),  # through a name
        ("", "reconcile finished", "reconcile.py"),  # a warning at times
        ("", "… could not make the environment ….", "environment.sh"),
    ],
)
def test_messages_are_found_however_they_are_made(code: str, text: str, file: str) -> None:
    assert any(isinstance(each, Message) and (each.code, each.text) == (code, text) for each in collect())
    assert any(each.path.endswith(file) for each in collect() if each.text == text)


def test_the_settings_table_is_that_of_the_code() -> None:
    assert table() in (DOCS / "settings.md").read_text()


def test_the_table_of_what_a_deployment_takes_is_that_of_the_code() -> None:
    page = (DOCS / "settings.md").read_text().partition("## Of a deployment")[2]
    for item in fields(Config):
        if item.metadata:
            default = f"`{item.default}`" if item.default else "empty"
            row = f"| `{item.name.upper()}` | {default} | {item.metadata['meaning']} |"
            assert f"{row} {item.metadata['allowed']} |" in page


def test_the_table_of_known_errors_is_that_of_the_error_handling() -> None:
    assert known_errors.table() in TROUBLE


def test_the_table_of_roles_is_that_of_the_code() -> None:
    assert rights.table() in (DOCS / "roles.md").read_text()


def test_every_command_and_flag_of_gcloud_is_one_that_it_knows(warm_gcloud: str, tmp_path: Path) -> None:
    asked = [(page.name, shlex.join(words)) for page in PAGES for words in commands(page, "gcloud")]
    assert len(asked) > 10
    asked.append(("none", "gcloud run deploy --no-such-flag"))  # that a wrong one is told
    (tmp_path / "commands").write_text("\n".join(["```", *(command for _, command in asked), "```", ""]))
    checked = subprocess.run(
        [
            f"{warm_gcloud}/gcloud",
            "meta",
            "lint-gcloud-commands",
            f"--commands-text-file={tmp_path}/commands",
        ],
        env=os.environ | {"CLOUDSDK_CONFIG": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    verdicts = json.loads(checked.stdout)
    assert len(verdicts) == len(asked)
    *wrong, last = [
        (each, verdict) for each, verdict in zip(asked, verdicts, strict=True) if not verdict["success"]
    ]
    assert not wrong
    assert last[0] == asked[-1]


def links() -> list[tuple[Path, str]]:
    found = [(page, link) for page in PAGES for link in re.findall(r"\]\(([^)]+)\)", page.read_text())]
    return [(page, link) for page, link in found if "://" not in link]


@pytest.mark.parametrize(("page", "link"), links(), ids=lambda value: getattr(value, "name", value))
def test_every_link_leads_to_a_file_and_a_heading(page: Path, link: str) -> None:
    name, _, heading = link.partition("#")
    target = (page.parent / name).resolve() if name else page
    assert target.exists()
    if heading:
        titles = re.findall(r"^#+ (.*)$", target.read_text(), re.MULTILINE)
        assert heading in {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


def test_every_page_is_linked_from_the_list_of_pages_and_that_from_the_readme() -> None:
    listed = {link for page, link in links() if page == DOCS / "README.md"}
    assert {page.relative_to(DOCS).as_posix() for page in PAGES} - {"README.md"} <= listed
    assert "(docs/README.md)" in (ROOT / "README.md").read_text()


def targets() -> set[str]:
    """The targets of make in code, not in prose."""
    spoken = re.compile(r"(?:`|\$ |=\S+ )make ([a-z]+)\b")
    return {target for page in PAGES for target in spoken.findall(page.read_text())}


@pytest.mark.parametrize("target", sorted(targets()))
def test_every_make_target_exists(target: str) -> None:
    assert re.search(rf"^{target}:.*## ", MAKEFILE, re.MULTILINE)


def test_no_page_is_left_unfinished() -> None:
    assert [page.name for page in PAGES if "TODO" in page.read_text()] == []
