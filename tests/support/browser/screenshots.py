"""`make screenshots`: the gallery's main states as pictures, from a local stack with real results.

Dropped are the samples and scenes as they are drawn for the model's training; for the calendar, their
records are copied over the days of a year. The captioner knows these scenes, so that the pages are those of a
model that is no demonstration. With --write the best two go to docs/.
"""

import argparse
import io
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import numpy as np
from google.auth.credentials import AnonymousCredentials
from google.cloud.storage import Client
from PIL import Image
from playwright.sync_api import Browser, FloatRect, Page, Playwright, sync_playwright

from dropcap.database.connection import connect_to_schema
from infra import ROOT
from infra.local import StackError
from infra.local.stack import STAND_IN, Stack
from model_export.datasets import scenes
from tests.support.browser import chromium
from tests.support.models import no_demo

USER = "ana"
SAMPLES = ROOT / "infra" / "samples"
SIDES = ((1600, 1200), (1500, 1000), (1080, 1440), (1600, 900), (1200, 1200), (1000, 1500))  # px
PDF = b"%PDF-1.7\n"
DEADLINE_S = 300
LARGEST_KB = 300
DESKTOP: dict[str, Any] = {"viewport": {"width": 1440, "height": 1000}}
PHONE: dict[str, Any] = {
    "viewport": {"width": 390, "height": 844},
    "device_scale_factor": 2,
    "is_mobile": True,
    "has_touch": True,
}
DONE = "SELECT count(*) FROM uploads WHERE user_id = :user AND state = 'done'"
# On most days of a year some of the pictures again; a year, as the calendar has 53 weeks.
HISTORY = """
INSERT INTO analyses (id, user_id, analyzed_at, time_zone, caption, description, alt_text, tags, picture_text,
                      format, bytes, width, height, result)
SELECT gen_random_uuid(), user_id, analyzed_at - day * interval '1 day', time_zone, caption, description,
       alt_text, tags, picture_text, format, bytes, width, height, result
FROM generate_series(1, 371) AS day CROSS JOIN LATERAL (
  SELECT * FROM analyses WHERE user_id = :user ORDER BY md5(id::text || day)
  LIMIT CASE WHEN day < 17 THEN 1 + day % 3 WHEN day * day % 11 < 5 THEN day * 13 % 7 ELSE 0 END
) AS again
"""
PICTURE = """
SELECT id FROM analyses WHERE user_id = :user AND result->'upload'->>'name' LIKE '%/garden.jpg'
ORDER BY analyzed_at DESC LIMIT 1
"""


@dataclass(frozen=True, slots=True)
class Shot:
    """One state: `path` and `query` of its page, `context` for the browser, `act` what is done before.

    `clip` is the part of the whole page that is shown, px; None: what the window shows.
    """

    name: str
    path: str = "/"
    query: dict[str, str] = field(default_factory=dict)
    context: dict[str, Any] = field(default_factory=lambda: DESKTOP)
    act: Callable[[Page], object] = lambda page: None
    whole: bool = False
    clip: FloatRect | None = None


def shots(picture: str) -> tuple[Shot, ...]:
    """Return the main states; `picture` is the id of the one that is shown large."""
    dark = DESKTOP | {"color_scheme": "dark"}
    large = f"/picture/{picture}"
    return (
        Shot("wall", clip={"x": 0, "y": 0, "width": 1440, "height": 1200}),
        Shot("wall-dark", context=dark),
        Shot("wall-phone", context=PHONE),
        Shot("search", query={"q": "elefant guitar"}),
        Shot("picture", large, clip={"x": 0, "y": 0, "width": 1440, "height": 1130}),
        Shot("picture-dark", large, context=dark, whole=True),
        Shot("picture-phone", large, context=PHONE, whole=True),
        Shot("progress", "/progress", whole=True),
        Shot("progress-dark", "/progress", context=dark, whole=True),
        Shot("progress-phone", "/progress", context=PHONE, whole=True),
        Shot("uploads", query={"user": "ben"}, act=_upload),
        Shot("rejected", query={"user": "cleo"}),
        Shot("empty", query={"user": "dora"}),
    )


BEST = {"wall": "gallery-wall.png", "picture": "gallery-picture.png"}


def _drawn(number: int) -> bytes:
    """Return a scene that the model has not been trained on, as a camera's JPEG."""
    width, height = SIDES[number % len(SIDES)]
    scene = replace(scenes.random_scene(np.random.default_rng((2, number))), width=width, height=height)
    return scenes.encode(scenes.draw(scene, plain=True), "JPEG", quality=85)


def _upload(page: Page) -> None:
    """Choose several pictures and a file that is none; until one of them is looked at."""
    files = [
        {"name": f"IMG_{each}.jpg", "mimeType": "image/jpeg", "buffer": _drawn(each)} for each in range(8)
    ]
    files.insert(3, {"name": "notes.pdf", "mimeType": "application/pdf", "buffer": PDF})
    page.locator("#files").set_input_files(files)  # type: ignore[arg-type]
    page.locator(".upload .way").nth(2).wait_for()


def _fill(stack: Stack, pictures: int) -> None:
    """Drop what is shown, and wait until all of it is done. Raises StackError where it takes too long."""
    endpoint = {"api_endpoint": stack.storage_url}
    bucket = Client("dropcap-local", AnonymousCredentials(), client_options=endpoint).bucket(
        "dropcap-uploads"
    )

    def drop(user: str, files: dict[str, bytes]) -> None:
        for name, data in files.items():
            blob = bucket.blob(f"{user}/{name}")
            blob.metadata = {"tz": "Europe/Madrid"}
            blob.upload_from_string(data, content_type="")
        deadline = time.monotonic() + DEADLINE_S
        while _ask(stack, DONE, user=user)[0][0] < len(files):
            stack.check()
            if time.monotonic() > deadline:
                raise StackError(f"Not all pictures were done within {DEADLINE_S} s (log: {stack.logs})")
            time.sleep(0.2)

    drop("cleo", {"notes.pdf": PDF, "half.jpg": _drawn(0)[:9000]})
    samples = {path.name: path.read_bytes() for path in sorted(SAMPLES.iterdir()) if path.suffix != ".json"}
    drop(USER, {f"IMG_{4000 + each}.jpg": _drawn(each) for each in range(pictures)} | samples)
    _ask(stack, HISTORY, user=USER)


def _ask(stack: Stack, sql: str, **values: object) -> list[list[Any]]:
    with closing(connect_to_schema(stack.database_url)) as connection:
        return list(connection.run(sql, **values) or ())


def _browser(playwright: Playwright) -> Browser:
    """Raises StackError where there is none."""
    if program := chromium.found(playwright):
        return chromium.launched(playwright, program)
    raise StackError(chromium.MISSING)


def _take(browser: Browser, stack: Stack, shot: Shot, folder: Path) -> Path:
    """Take one picture into the folder. Raises StackError where the page has none to show."""
    with closing(browser.new_context(locale="en-GB", timezone_id="Europe/Madrid", **shot.context)) as context:
        page = context.new_page()
        query = urlencode({"user": USER} | shot.query)
        answer = page.goto(f"{stack.url}/gallery{shot.path}?{query}", wait_until="networkidle")
        if not answer or not answer.ok:
            raise StackError(f"{shot.name}: the page could not be shown (log: {stack.logs}).")
        shot.act(page)
        path = folder / f"{shot.name}.png"
        page.screenshot(path=path, full_page=shot.whole or bool(shot.clip), clip=shot.clip)
        return path


def _write(path: Path, to: Path) -> None:
    """Write a PNG of 256 colours, a third of the full size. Raises StackError above LARGEST_KB."""
    file = io.BytesIO()
    with Image.open(path) as image:
        image.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(file, "PNG", optimize=True)
    if file.tell() > LARGEST_KB * 1000:
        raise StackError(
            f"{to.name} has {file.tell() // 1000} kB; at most {LARGEST_KB} are to be in the repository."
        )
    to.write_bytes(file.getvalue())


def main(words: Sequence[str] | None = None) -> int:
    """Return the exit status: 0, or 1 with the reason in one line on stderr."""
    parser = argparse.ArgumentParser(prog="make screenshots", description="Take pictures of the gallery.")
    parser.add_argument(
        "--out", type=Path, default=ROOT / "build" / "screenshots", help="folder (%(default)s)"
    )
    parser.add_argument(
        "--pictures", type=int, default=30, help="scenes to draw beside the samples (%(default)s)"
    )
    parser.add_argument("--only", nargs="*", metavar="NAME", help="only these states")
    parser.add_argument("--write", action="store_true", help="put the best two into docs/")
    arguments = parser.parse_args(words)
    arguments.out.mkdir(parents=True, exist_ok=True)
    try:
        with (
            tempfile.TemporaryDirectory(prefix="dropcap-screenshots-") as state,
            Stack(
                Path(state) / "state",
                environment={"GEMINI_API_KEY": STAND_IN}
                | os.environ
                | {"MODEL_FOLDER": str(no_demo.copy(Path(state) / "model"))},
            ) as stack,
            sync_playwright() as playwright,
            closing(_browser(playwright)) as browser,
        ):
            _fill(stack, arguments.pictures)
            [[picture]] = _ask(stack, PICTURE, user=USER)
            for shot in shots(str(picture)):
                if arguments.only is None or shot.name in arguments.only:
                    path = _take(browser, stack, shot, arguments.out)
                    print(path)
                    if arguments.write and shot.name in BEST:
                        _write(path, ROOT / "docs" / "images" / BEST[shot.name])
    except StackError as reason:
        print(f"make screenshots: {reason}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
