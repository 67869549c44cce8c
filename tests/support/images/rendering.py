"""Render pictures in Chromium on a white page, as the reference."""

import base64
import io
from collections.abc import Mapping

import numpy as np
from PIL import Image
from playwright.sync_api import Browser

from tests.support.browser.browser import looping

MEAN = 2.0  # levels: two libraries round twice, once in linear light, and two of JPEG's differ by as much
AREA, LOCAL = 4, 12.0  # px, and levels in the mean of such an area: an edge that falls a little otherwise
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
    encoded = [[name, kind, base64.b64encode(data).decode()] for name, (kind, data) in files.items()]
    with looping(browser):
        page = browser.new_page()
        try:
            drawn = page.evaluate(DRAW, encoded)
        finally:
            page.close()
    return {name: _opened(body) for name, body in drawn.items()}


def unlike(ours: Image.Image, wanted: Image.Image) -> str:
    """Return how a picture differs from the expected one; empty if it does not."""
    if ours.size != wanted.size:
        return f"{ours.size} for {wanted.size}"
    apart = np.abs(np.asarray(ours, np.float64) - np.asarray(wanted, np.float64))
    height, width = (side // AREA * AREA or side for side in apart.shape[:2])
    areas = apart[:height, :width].reshape(
        -1, min(AREA, height), width // min(AREA, width), min(AREA, width), 3
    )
    mean, local = apart.mean(), areas.mean(axis=(1, 3)).max()
    return f"{mean:.1f} in the mean, {local:.0f} in an area" if mean > MEAN or local > LOCAL else ""


# The frames of an animation, each drawn on white; a page without an origin has no ImageDecoder.
FRAMES = """async ([type, body, count]) => {
  const bytes = Uint8Array.from(atob(body), (letter) => letter.charCodeAt(0));
  const decoder = new ImageDecoder({data: bytes, type});
  const drawn = [];
  for (let index = 0; index < count; index++) {
    const {image} = await decoder.decode({frameIndex: index});
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [image.displayWidth, image.displayHeight];
    const context = canvas.getContext("2d");
    context.fillStyle = "white";
    context.fillRect(0, 0, canvas.width, canvas.height);
    context.drawImage(image, 0, 0);
    drawn.push(canvas.toDataURL("image/png").split(",")[1]);
  }
  return drawn;
}"""
SECURE = "https://frames.invalid/"


def frames_rendered(
    browser: Browser, files: Mapping[str, tuple[str, bytes, int]]
) -> dict[str, list[Image.Image]]:
    """Return what Chromium shows of each frame, in RGB. `files` are (MIME type, bytes, frames) by name."""
    with looping(browser):
        page = browser.new_page()
        try:
            page.route(SECURE, lambda route: route.fulfill(body="", content_type="text/html"))
            page.goto(SECURE)
            drawn = {
                name: page.evaluate(FRAMES, [kind, base64.b64encode(data).decode(), count])
                for name, (kind, data, count) in files.items()
            }
        finally:
            page.close()
    return {name: [_opened(body) for body in bodies] for name, bodies in drawn.items()}


def _opened(body: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(body))).convert("RGB")
