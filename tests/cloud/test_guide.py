"""Execute docs/deploy.md: each console command, in order, prints the output on the page.

In an expected output `...` matches any number of lines, or any text within one. Times, hashes, ids and the
width of a table's columns are not compared. The project is called demo-project here.
"""

import re
import shlex
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from dropcap.domain.analysis import Source
from infra.cloud.config import Config
from tests.cloud.test_destroy import Function, logged
from tests.support.app import NO_GCLOUD
from tests.support.cloud.deployment import FIRST, Deployment
from tests.support.pages import DOCS, blocks
from tests.support.terminal import ASKS

pytestmark = pytest.mark.skipif(NO_GCLOUD, reason="gcloud is not installed")
PAGE = DOCS / "deploy.md"
VARYING = (
    (r" *\d+\.\d s(?= )", "TIME s"),
    (r"after \d+ s", "after TIME s"),
    (r"\b[0-9a-f]{7}(-dirty)?-[0-9a-f]{8}\b", "COMMIT-DIGEST"),
    (r"\b(?=[0-9a-f]*\d)[0-9a-f]{7}(-dirty)?\b", "COMMIT"),
    (r"\b\d{8}-\d{6}\b", "INSTANT"),
    (r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "ID"),
    (r" {2,}", "  "),
    (r" +$", ""),
)


def same(text: str) -> str:
    """Return the text without the parts that differ between runs."""
    for pattern, instead in VARYING:
        text = re.sub(pattern, instead, text, flags=re.MULTILINE)
    return text


def consoles() -> Iterator[tuple[str, str]]:
    """Yield each command of the page with its expected output, in order."""
    for block in blocks(PAGE, "console"):
        for part in re.split(r"^\$ ", block.replace("my-project", "demo-project"), flags=re.MULTILINE)[1:]:
            command, _, output = part.partition("\n")
            yield command, output


def fits(shown: str, expected: str) -> bool:
    """Return whether the output matches the page."""
    lines = [
        r"(.*\n)*?" if line == "..." else re.escape(line).replace(r"\.\.\.", ".*") + r"\n"
        for line in same(expected).splitlines()
    ]
    return bool(re.fullmatch("".join(lines), same(shown)))


@contextmanager
def prepared(there: Deployment, command: str) -> Iterator[None]:
    """Prepare what a command of the page depends on."""
    target, bucket = command.split()[1], f"{there.plane.project}-uploads"
    if target == "verify":
        function = Function(there.plane, "pictures")
        models = ("blip-image-captioning-base", "82a3776"), ("gemini-3.5-flash-lite", "2026-07")
        blip, gemini = (Source(True, *model) for model in models)
        there.plane.resources["entries"] = logged(blip=blip, gemini=gemini)
        function.start()
        yield
        function.stop.set()
        return
    if target == "rollback":  # there is a version before this one
        (there.functions / "dropcap" / "new.py").write_text("")
        there.commit("second")
        there.deployed()
    if target == "backfill":
        for number in range(2500):
            name, one = f"ana/{number}.jpg", {"kind": "storage#object", "bucket": bucket, "size": "2000000"}
            now = {
                "updated": there.plane.now(),
                "timeCreated": there.plane.now(),
                "generation": str(number + 1),
            }
            there.plane.resources[f"storage/b/{bucket}/o/ana%2F{number}.jpg"] = {"name": name, **one, **now}
    yield


def test_every_command_of_the_guide_shows_what_the_guide_says(there: Deployment) -> None:
    saved = there.plane.resources.pop("recorded")
    shown = saved["shown"]
    (there.root / "settings.mk").write_text(saved["settings.mk"])
    done, differing = [], []
    for command, expected in consoles():
        if command.startswith("export "):
            continue
        with prepared(there, command):
            answer = expected.partition(ASKS)[2][:1]
            text = shown.pop(command, "") or there.typed(command, answer)
        done.append(command)
        if not fits(text, expected):
            differing.append(f"{command} showed\n{same(text)}\nand the page says\n{expected}")
    assert not differing, "\n".join(differing)
    assert tuple(done[: len(FIRST)]) == FIRST
    assert {command.split()[1] for command in done} >= {"plan", "verify", "rollback", "backfill", "destroy"}


def test_the_address_of_the_database_is_one_that_a_deployment_takes() -> None:
    exported = dict(
        shlex.split(command)[1].split("=", 1) for command, _ in consoles() if command.startswith("export ")
    )
    assert exported.keys() == {"DATABASE_URL", "GEMINI_API_KEY"}
    assert Config.read(exported | {"PROJECT": "demo-project"})
