"""Draw the sample pictures, with the captions that the shipped model must generate."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from .. import write_json
from . import scenes
from .scenes import Scene, Thing

ROTATED = 6  # EXIF orientation: shown after a quarter turn clockwise


def _scene(names: str, colour: str, width: int, height: int, fill: float = 0.8) -> Scene:
    things = tuple(
        Thing(name, False, angle, fill, (0.2, 0.1))
        for name, angle in zip(names.split(), (4, -6, 3), strict=False)
    )
    return Scene(things, colour, width, height, 7)


SAMPLES = {
    "garden.jpg": _scene("guitar elephant car", "green", 1600, 900),
    "phone.png": _scene("dog key", "purple", 1080, 1920, 0.75),
    "night.webp": _scene("rocket moon", "blue", 1200, 800),
    "camera-turned.jpg": _scene("house", "pink", 1200, 1600),
    "butterfly.gif": _scene("butterfly", "white", 640, 480),
    "phone.heic": _scene("cat umbrella", "yellow", 1500, 1000),
}


def write(folder: Path) -> dict[str, str]:
    """Draw all samples into `folder`, with samples.json; file name to caption."""
    from pillow_heif import register_heif_opener

    register_heif_opener()
    folder.mkdir(parents=True, exist_ok=True)
    for name, scene in SAMPLES.items():
        # A plain background: noise would make the PNG ten times as large.
        image = scenes.draw(scene, plain=True)
        match Path(name).suffix:
            case ".jpg" if "turned" in name:
                exif = Image.Exif()
                exif[0x0112] = ROTATED
                exif[0x010F], exif[0x0110] = "Dropcap", "Sample camera"
                # A location that resized pictures must not reveal: 48.8584 N, 2.2945 E.
                exif.get_ifd(0x8825).update({1: "N", 2: (48.0, 51.0, 30.2), 3: "E", 4: (2.0, 17.0, 40.2)})
                image.transpose(Image.Transpose.ROTATE_90).save(folder / name, quality=85, exif=exif)
            case ".jpg":
                image.save(folder / name, quality=85)
            case ".png":
                image.quantize(96, dither=Image.Dither.NONE).convert("RGB").save(folder / name, optimize=True)
            case ".gif":
                image.quantize(128, dither=Image.Dither.NONE).save(folder / name)
            case ".heic":
                image.save(folder / name, quality=60)
            case _:
                image.save(folder / name, quality=80)
    captions = {name: scene.caption for name, scene in SAMPLES.items()}
    write_json(folder / "samples.json", captions)
    return captions
