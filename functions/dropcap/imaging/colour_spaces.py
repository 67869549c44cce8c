"""Colour spaces by their code points in ITU-T H.273."""

from typing import NamedTuple

XY = tuple[float, float]
D65, C, DCI, E = (0.3127, 0.3290), (0.310, 0.316), (0.314, 0.351), (1 / 3, 1 / 3)
# ITU-T H.273, table 2: red, green, blue and white by number
PRIMARIES: dict[int, tuple[XY, XY, XY, XY]] = {
    1: ((0.64, 0.33), (0.30, 0.60), (0.15, 0.06), D65),
    4: ((0.67, 0.33), (0.21, 0.71), (0.14, 0.08), C),
    5: ((0.64, 0.33), (0.29, 0.60), (0.15, 0.06), D65),
    6: ((0.63, 0.34), (0.31, 0.595), (0.155, 0.07), D65),
    7: ((0.63, 0.34), (0.31, 0.595), (0.155, 0.07), D65),
    8: ((0.681, 0.319), (0.243, 0.692), (0.145, 0.049), C),
    9: ((0.708, 0.292), (0.170, 0.797), (0.131, 0.046), D65),
    10: ((1.0, 0.0), (0.0, 1.0), (0.0, 0.0), E),
    11: ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060), DCI),
    12: ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060), D65),
    22: ((0.63, 0.34), (0.295, 0.605), (0.155, 0.077), D65),
}
SRGB_PRIMARIES = PRIMARIES[1]
SRGB = 13  # transfer characteristics (H.273, table 3)
VIDEO = frozenset({1, 6, 11, 14, 15})  # BT.709 and similar ones
CURVES = VIDEO | {4, 5, 7, 8, 17, 16, 18}


class Colours(NamedTuple):
    """Primaries and white point, transfer curve (a code of H.273 or (exponent,)), brightest px in nits."""

    primaries: tuple[XY, XY, XY, XY]
    curve: int | tuple[float]
    brightest: float = 0
