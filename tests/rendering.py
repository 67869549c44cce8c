"""What Chromium shows of pictures on a white page: the reference for ours."""

import base64
import io
from collections.abc import Mapping

from PIL import Image
from playwright.sync_api import Browser

from tests.browser import looping

# Drawn on a white canvas at their own size and read back, all in one page.
DRAW = """async (files) => Object.fromEntries(await Promise.all(files.map(async ([name, type, body]) => {
  const image = new Image();
  image.src = `data:${type};base64,${body}`;
  await image.decode();
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
  const context = canvas.getContext("2d");
  context.fillStyle = "white";
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.drawImage(image, 0, 0);
  return [name, canvas.toDataURL("image/png").split(",")[1]];
})))"""


def rendered(browser: Browser, files: Mapping[str, tuple[str, bytes]]) -> dict[str, Image.Image]:
    """Return what Chromium shows of each file, in RGB. `files` are (MIME type, bytes) by name."""
    given = [[name, kind, base64.b64encode(data).decode()] for name, (kind, data) in files.items()]
    with looping(browser):
        page = browser.new_page()
        try:
            drawn = page.evaluate(DRAW, given)
        finally:
            page.close()
    return {
        name: Image.open(io.BytesIO(base64.b64decode(body))).convert("RGB") for name, body in drawn.items()
    }
