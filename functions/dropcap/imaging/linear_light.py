"""Convert colours by linear light to sRGB. It imports NumPy: load it only for a picture that needs it."""

from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from dropcap.imaging.colour_spaces import D65, PRIMARIES, SRGB_PRIMARIES, VIDEO, XY, Colours

Array = npt.NDArray[np.float32]
WIDE = PRIMARIES[9]  # BT.2020, the space in which HDR is tone-mapped
PQ, HLG, SMPTE240 = 16, 18, 7  # transfer characteristics (ITU-T H.273, table 3)
GAMMAS = {4: 2.2, 5: 2.8, 8: 1.0, 17: 2.6}
# nits: the reference white of HDR (ITU-R BT.2408), and the default peak of a picture
WHITE, BRIGHTEST = 203.0, 1000.0
PX = 100_000  # converted at a time


def convert(raster: Image.Image, colours: Colours) -> Image.Image:
    """Convert a raster of mode RGB to sRGB in place, and return it."""
    hdr = colours.curve in (PQ, HLG)
    linear = _linearize(np.linspace(0, 1, 256, dtype=np.float32), colours.curve)
    first = _matrix(colours.primaries, WIDE if hdr else SRGB_PRIMARIES)
    levels = _levels()
    rows = max(1, PX // raster.width)
    for top in range(0, raster.height, rows):
        box = (0, top, raster.width, min(raster.height, top + rows))
        light = linear[np.asarray(raster.crop(box))] @ first.T
        if hdr:
            light = _tone_map(light, colours) @ _matrix(WIDE, SRGB_PRIMARIES).T
        found = levels[(light.clip(0, 1) * (len(levels) - 1) + 0.5).astype(np.uint16)]
        raster.paste(Image.fromarray(found), box)
    return raster


def _linearize(values: Array, curve: int | tuple[float]) -> Array:
    """Return linear light from 0 to 1; for PQ and HLG in units of reference white, HLG before OOTF."""

    def after(limit: float, slope: float, offset: float, power: float) -> Any:
        return np.where(values < limit, values / slope, ((values + offset) / (1 + offset)) ** power)

    if isinstance(curve, tuple):
        return values ** np.float32(curve[0])
    if curve in GAMMAS:
        light = values ** GAMMAS[curve] * (52.37 / 48 if curve == 17 else 1)
    elif curve == PQ:  # SMPTE ST 2084
        root = values ** (32 / 2523)
        light = (np.maximum(root - 107 / 128, 0) / (2413 / 128 - 2392 / 128 * root)) ** (8192 / 1305)
        light = light * (10_000 / WHITE)
    elif curve == HLG:  # ITU-R BT.2100, table 5
        high = (np.exp((values - 0.55991073) / 0.17883277) + 0.28466892) / 12
        light = np.where(values <= 0.5, values**2 / 3, high)
    elif curve == SMPTE240:
        light = after(0.0912, 4.0, 0.1115, 1 / 0.45)
    elif curve in VIDEO:  # the display curve (ITU-R BT.1886), not that of a camera
        light = values**2.4
    else:
        light = after(0.04045, 12.92, 0.055, 2.4)
    return np.asarray(light, np.float32)


def _tone_map(light: Any, colours: Colours) -> Any:
    """Tone-map HDR in BT.2020 to SDR of 0 to 1: the reference white operator of SMPTE ST 2094-50, annex D.

    Values up to reference white are halved, or reduced less if the picture is not very bright. Brighter
    values follow a Bezier curve up to the peak. It scales the largest channel, and the other two by the same
    factor.
    """
    if colours.curve == HLG:  # its OOTF for a display of 1,000 nits: gamma 1.2
        luminance = light @ np.array((0.2627, 0.6780, 0.0593), np.float32)
        light = light * (np.maximum(luminance, 0) ** 0.2)[..., None] * (BRIGHTEST / WHITE)
    light = light.clip(0)
    top = max((colours.curve == PQ and colours.brightest) or BRIGHTEST, 1.01 * WHITE) / WHITE
    white = 1 - 0.5 * min(np.log(top) / np.log(BRIGHTEST / WHITE), 1)
    high = light.max(axis=-1, keepdims=True)
    inside = high.clip(1, top)
    x, y = 0.35 + 0.65 / white, 0.35 * white + 0.65
    a, b = 1 - 2 * x + top, x - 1
    at = (np.sqrt(b * b + a * (inside - 1)) - b) / a
    curved = white * (1 - at) ** 2 + 2 * y * at * (1 - at) + at**2
    return light * np.where(high > 1, curved / high.clip(1), white)


def _matrix(primaries: tuple[XY, XY, XY, XY], wanted: tuple[XY, XY, XY, XY]) -> Array:
    """Return the matrix between two sets of primaries, for linear light, with Bradford adaptation."""
    return np.asarray(np.linalg.inv(_to_xyz(wanted)) @ _to_xyz(primaries), np.float32)


def _to_xyz(primaries: tuple[XY, XY, XY, XY]) -> Any:
    """Return the matrix from primaries to CIE XYZ, adapted to D65."""
    xyz = [np.array((x / y, 1, (1 - x - y) / y)) if y else np.array((x, y, 1 - x - y)) for x, y in primaries]
    columns = np.column_stack(xyz[:3])
    columns = columns * np.linalg.solve(columns, xyz[3])
    cone = np.array(((0.8951, 0.2664, -0.1614), (-0.7502, 1.7135, 0.0367), (0.0389, -0.0685, 1.0296)))
    white = np.array((D65[0] / D65[1], 1, (1 - sum(D65)) / D65[1]))
    return np.linalg.inv(cone) @ np.diag(cone @ white / (cone @ xyz[3])) @ cone @ columns


@cache
def _levels() -> Any:
    """Return a table of sRGB levels, 0 to 255, for linear light in 65,536 steps."""
    light = np.arange(65_536) / 65_535
    return np.round(
        255 * np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    ).astype(np.uint8)
