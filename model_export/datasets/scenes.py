"""Draw scenes of emoji things on a coloured background, with captions, to train and evaluate the small model.

One function draws both the small pictures for training and the large ones (480 to 2,000 px) that represent
uploads, so that training uses the geometry of real use, and the resize to a square.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

# Noto Color Emoji 2.042 (Google, SIL Open Font License 1.1), drawn at the font's size of 109 and trimmed.
ART, CELL, COLUMNS = Path(__file__).with_name("things.webp"), 136, 10
THINGS = tuple(
    word
    for line in (
        "dog cat lion bear panda pig frog monkey rabbit fox",
        "elephant horse penguin owl duck turtle snake fish dolphin octopus",
        "crab butterfly bee apple banana orange pear strawberry pineapple watermelon",
        "cherry carrot pizza cake car bus bicycle train boat rocket",
        "airplane house tree flower cactus mushroom sun moon star cloud",
        "umbrella clock book key guitar ball crown hat shoe heart",
    )
    for word in line.split()
)  # in the order of the cells
COLOURS = {
    "white": (244, 244, 244),
    "gray": (138, 138, 138),
    "yellow": (240, 214, 84),
    "green": (96, 172, 88),
    "blue": (84, 136, 212),
    "purple": (146, 92, 180),
    "pink": (244, 164, 192),
    "brown": (138, 96, 62),
}


@dataclass(frozen=True, slots=True)
class Thing:
    name: str
    flipped: bool
    angle: int  # degrees
    fill: float  # side of the thing as a share of its slot's shorter side
    shift: tuple[float, float]  # -1 to 1: its position in the free space of its slot


@dataclass(frozen=True, slots=True)
class Scene:
    """What is in the picture; `width` and `height` are those of the upload, in pixels."""

    things: tuple[Thing, ...]
    colour: str
    width: int
    height: int
    seed: int

    @property
    def caption(self) -> str:
        """Return the caption, such as "a guitar, an elephant and a car on a green background"."""
        names = [f"{'an' if t.name[0] in 'aeiou' else 'a'} {t.name}" for t in self.things]
        names[-2:] = [" and ".join(names[-2:])]
        return f"{', '.join(names)} on a {self.colour} background"


def random_scene(rng: np.random.Generator, threes: float = 0.2) -> Scene:
    """Return a scene of one, two or three different things, whose sides are sampled independently.

    `threes` is the share of scenes with three things; the rest is shared 7 : 9 between one and two.
    """
    counts = (0.4375 * (1 - threes), 0.5625 * (1 - threes), threes)
    names = rng.choice(THINGS, size=rng.choice(3, p=counts) + 1, replace=False)
    things = tuple(
        Thing(
            str(name),
            bool(rng.random() < 0.5),
            int(rng.integers(-15, 16)),
            float(rng.uniform(0.72, 0.95)),
            (float(rng.uniform(-1, 1)), float(rng.uniform(-1, 1))),
        )
        for name in names
    )
    width, height = (int(n) for n in rng.integers(480, 2001, size=2))
    return Scene(things, str(rng.choice(list(COLOURS))), width, height, int(rng.integers(2**31)))


def held_out(index: int) -> Scene:
    """Return held-out scene number `index`: its seed is (1, index), and training only uses (0, ...)."""
    return random_scene(np.random.default_rng((1, index)))


def draw(scene: Scene, longest: int | None = None, plain: bool = False) -> Image.Image:
    """Return the scene as RGB, at its own size or `longest` px on the longer side; `plain`: on one colour."""
    scale = longest / max(scene.width, scene.height) if longest else 1.0
    width, height = round(scene.width * scale), round(scene.height * scale)
    canvas = _ground(scene, width, height, plain)
    wide = scene.width >= scene.height
    slot_w, slot_h = (width / len(scene.things), height) if wide else (width, height / len(scene.things))
    for i, thing in enumerate(scene.things):
        art = _sprite(thing.name, thing.flipped, thing.angle)
        side = min(slot_w, slot_h) * thing.fill / max(art.size)
        w, h = max(1, round(art.width * side)), max(1, round(art.height * side))
        art = art.resize((w, h), Image.Resampling.BICUBIC, reducing_gap=2.0)
        # Always within its slot, or neighbours overlap; near the row (or column), or the order of two things
        # on a diagonal of an almost square picture depends on which side is a pixel longer.
        along, across = 0.8, 0.3
        right, down = (along, across) if wide else (across, along)
        x = (i * slot_w if wide else 0) + (slot_w - w) / 2 * (1 + right * thing.shift[0])
        y = (0 if wide else i * slot_h) + (slot_h - h) / 2 * (1 + down * thing.shift[1])
        canvas.paste(art, (round(x), round(y)), art)
    return canvas


def training_sample(rng: np.random.Generator, size: int, threes: float) -> tuple[NDArray[np.uint8], str]:
    """Return a new (size, size, 3) uint8 picture, resized as BLIP resizes, and its caption.

    Drawn near the model's resolution, which is 50 times faster than at an upload's; drawn a little larger or
    smaller, blurred and JPEG-compressed at times, so that what is learnt also holds for large photographs.
    """
    scene = random_scene(rng, threes)
    image = draw(scene, longest=int(rng.integers(int(size * 1.2), int(size * 2.4))))
    image = image.resize((size, size), Image.Resampling.BICUBIC)
    if rng.random() < 0.3:
        image = image.filter(ImageFilter.GaussianBlur(float(rng.uniform(0.2, 0.8))))
    if rng.random() < 0.2:
        image = Image.open(io.BytesIO(encode(image, "JPEG", quality=int(rng.integers(60, 96)))))
    pixels = np.asarray(image, dtype=np.float32) * rng.uniform(0.92, 1.08) + rng.uniform(-8, 8)
    return np.clip(pixels, 0, 255).astype(np.uint8), scene.caption


def encode(image: Image.Image, format: str = "JPEG", **options: int) -> bytes:
    """Return the picture encoded as a file."""
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def _ground(scene: Scene, width: int, height: int, plain: bool) -> Image.Image:
    """Return the background: its colour varied by 18, a slight gradient and soft noise."""
    if plain:
        return Image.new("RGB", (width, height), COLOURS[scene.colour])
    rng = np.random.default_rng(scene.seed)
    colour = np.array(COLOURS[scene.colour]) + rng.uniform(-18, 18, size=3)
    y, x = np.mgrid[-1:1:12j, -1:1:12j]
    slope = (x * rng.uniform(-10, 10) + y * rng.uniform(-10, 10))[..., None]
    noise = rng.normal(0, rng.uniform(0, 3), size=(12, 12, 1))
    tile = np.clip(colour + slope + noise, 0, 255).astype(np.uint8)
    return Image.fromarray(tile).resize((width, height), Image.Resampling.BICUBIC)


@lru_cache(maxsize=4096)
def _sprite(name: str, flipped: bool, angle: int) -> Image.Image:
    art = _art(name)
    art = art.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if flipped else art
    art = art.rotate(angle, Image.Resampling.BICUBIC, expand=True)
    return art.crop(art.getchannel("A").getbbox())


@cache
def _art(name: str) -> Image.Image:
    """Return the thing's emoji as RGBA, trimmed, about 128 px."""
    with Image.open(ART) as sheet:
        row, column = divmod(THINGS.index(name), COLUMNS)
        cell = sheet.convert("RGBA").crop((column * CELL, row * CELL, (column + 1) * CELL, (row + 1) * CELL))
    return cell.crop(cell.getchannel("A").getbbox())
