"""Describe what a program can see in a picture: size, format and main colours."""

import colorsys
import re
from collections import Counter
from typing import Any

from PIL import Image

LANGUAGE = re.compile(r"Write in the language of the BCP 47 tag (\S+)\.")
# Upper limit of each hue in degrees.
HUES = ((15, "red"), (45, "orange"), (70, "yellow"), (160, "green"), (200, "turquoise"), (260, "blue"))


def describe(picture: Image.Image, prompt: str) -> dict[str, Any]:
    """Return a value for each field that Dropcap's schema can ask for; each says that it is a stand-in's."""
    size = f"{picture.width} x {picture.height} px"
    colours = main_colours(picture)
    language = LANGUAGE.search(prompt)
    excuse = f" It knows no {language[1]}." if language else ""
    return {
        "description": f"This is Dropcap's stand-in speaking, not Gemini. It received a {picture.format} "
        f"picture of {size}, mainly {' and '.join(colours)}.{excuse}",
        "caption": f"{' and '.join(colours)}, says a stand-in".capitalize(),
        "alt_text": f"A {size} {picture.format} picture, mainly {' and '.join(colours)} (from a stand-in)",
        "tags": ["stand-in", *colours],
        "text": "",
        "safety": {"level": "none", "categories": [], "reason": "The stand-in knows colours alone."},
    }


def main_colours(picture: Image.Image) -> list[str]:
    """Return up to three colours that each cover at least a tenth of the picture, the largest area first."""
    pixels = picture.convert("RGB").resize((48, 48), Image.Resampling.BOX).tobytes()
    names = Counter(colour_name(*pixels[start : start + 3]) for start in range(0, len(pixels), 3))
    common = names.most_common(3)
    return [name for name, count in common if count >= 48 * 48 // 10] or [common[0][0]]


def colour_name(red: int, green: int, blue: int) -> str:
    """Return a plain English name for an RGB colour."""
    hue, saturation, value = colorsys.rgb_to_hsv(red / 255, green / 255, blue / 255)
    if value < 0.2:
        return "black"
    if saturation < 0.15:
        return "white" if value > 0.85 else "grey"
    degrees = hue * 360
    if degrees < 45 and value < 0.65:
        return "brown"
    if degrees >= 330 or degrees < 15:
        return "pink" if saturation < 0.5 and value > 0.8 else "red"
    return next((name for limit, name in HUES if degrees < limit), "purple")
