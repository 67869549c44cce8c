"""Convert pictures to sRGB.

The colour space comes from an ICC profile, from the chunks cICP, gAMA and cHRM of a PNG, or from the nclx box
of an AVIF or HEIF. Their precedence, and the conversion of HDR to SDR, follow Chromium 156, as tried there.
"""

import io
import logging
import struct
from functools import cache

from PIL import Image, ImageCms

from dropcap.imaging.colour_spaces import CURVES, PRIMARIES, SRGB, SRGB_PRIMARIES, VIDEO, Colours
from dropcap.imaging.headers import nclx

logger = logging.getLogger(__name__)

SRGB_GAMMA, NEAR = 0.45455, 0.0228  # Chromium treats a lone gAMA of 0.4327 to 0.4773 as sRGB
MIN_AREA = 0.01  # of the primaries' parallelogram in x and y (sRGB: 0.22); with less there is no matrix
COLOUR_CHUNKS = frozenset({b"cICP", b"cLLI", b"sRGB", b"gAMA", b"cHRM"})
PROFILES = {"L": ("GRAY", "RGB"), "RGB": ("RGB",), "CMYK": ("CMYK",)}  # kinds of profiles by mode


ColourSpace = bytes | Colours | None
"""An ICC profile, or colours by numbers; None if the picture is in sRGB."""


def colour_space(header: Image.Image, data: bytes) -> ColourSpace:
    """Return the colour space of a picture. A damaged profile, or one of another kind, is ignored."""
    profile = header.info.get("icc_profile")
    if header.format == "PNG":
        chunks = _colour_chunks(data)
        code = chunks.get(b"cICP", b"")
        if len(code) == 4 and code[2] == 0:  # W3C PNG, third edition, 11.3.2.6: no YCbCr
            return _from_codes(code[0], code[1], int.from_bytes(chunks.get(b"cLLI", b"")[:4], "big") / 10_000)
        return _usable_profile(profile, header) or _gamma(chunks)
    if header.format in ("AVIF", "HEIF"):
        return _usable_profile(profile, header) or _nclx(nclx.codes(data))
    return _usable_profile(profile, header)


def to_srgb(raster: Image.Image, colours: ColourSpace) -> Image.Image:
    """Convert a raster of mode L, RGB or CMYK to sRGB.

    Relative colorimetric intent with black point compensation keeps the colours inside sRGB's gamut.
    """
    if isinstance(colours, Colours):
        from dropcap.imaging import linear_light  # imports NumPy, which few pictures need

        return linear_light.convert(raster.convert("RGB"), colours)
    if colours:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(colours))
        if profile.profile.xcolor_space.strip() == "RGB":
            raster = raster.convert("RGB")
        try:
            converted = ImageCms.profileToProfile(
                raster,
                profile,
                srgb_profile(),
                ImageCms.Intent.RELATIVE_COLORIMETRIC,
                "RGB",
                flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
            )
            assert converted is not None
            return converted
        except (ImageCms.PyCMSError, OSError, ValueError):
            _log_ignored("it can't be applied")
    return raster.convert("RGB")


@cache
def srgb_profile() -> ImageCms.ImageCmsProfile:
    """Return an sRGB profile."""
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))


def _usable_profile(profile: bytes | None, header: Image.Image) -> bytes | None:
    """Return the profile if it can be read and fits the mode of the picture."""
    if not profile or header.mode == "LAB":  # LAB needs none
        return None
    try:
        kind = ImageCms.ImageCmsProfile(io.BytesIO(profile)).profile.xcolor_space.strip()
    except (ImageCms.PyCMSError, OSError, ValueError):
        _log_ignored("it is damaged")
        return None
    mode = Image.getmodebase(header.mode) if header.mode != "CMYK" else "CMYK"
    if kind in PROFILES.get(mode, ()):
        return profile
    _log_ignored(f"it is for {kind}, the picture is {header.mode}")
    return None


def _log_ignored(why: str) -> None:
    logger.info(
        "the picture's colour profile is ignored", extra={"event": "colour_profile_ignored", "problem": why}
    )


def _colour_chunks(data: bytes) -> dict[bytes, bytes]:
    """Return the colour chunks before the pixels of a PNG (W3C PNG, third edition, 5.6)."""
    found, at = {}, 8  # after the signature; each chunk is length, name, body, checksum
    while (name := data[at + 4 : at + 8]) not in (b"IDAT", b""):
        length = int.from_bytes(data[at : at + 4], "big")
        if name in COLOUR_CHUNKS:
            found[name] = data[at + 8 : at + 8 + min(length, 64)]
        at += 12 + length
    return found


def _nclx(codes: tuple[int, int, int] | None) -> Colours | None:
    """Return the colours in an nclx box. Like Chromium, treat video curves as sRGB's."""
    if not codes:
        return None
    return _from_codes(codes[0], SRGB if codes[1] in VIDEO else codes[1], codes[2])


def _from_codes(primaries: int, curve: int, brightest: float) -> Colours | None:
    colours = Colours(PRIMARIES.get(primaries, SRGB_PRIMARIES), curve if curve in CURVES else SRGB, brightest)
    return None if colours[:2] == (SRGB_PRIMARIES, SRGB) else colours


def _gamma(chunks: dict[bytes, bytes]) -> Colours | None:
    """Return the colours in gAMA and cHRM. As in Chromium, sRGB overrides them, and cHRM alone is ignored."""
    if b"sRGB" in chunks or len(chunks.get(b"gAMA", b"")) != 4:
        return None
    gamma = int.from_bytes(chunks[b"gAMA"], "big") / 100_000
    if len(chunks.get(b"cHRM", b"")) == 32:
        x = [value / 100_000 for value in struct.unpack(">8I", chunks[b"cHRM"])]
        white, red, green, blue = zip(x[::2], x[1::2], strict=True)
        area = (green[0] - red[0]) * (blue[1] - red[1]) - (green[1] - red[1]) * (blue[0] - red[0])
        if gamma and min(white[1], red[1], green[1], blue[1]) > 0 and abs(area) > MIN_AREA:
            return Colours((red, green, blue, white), (1 / gamma,))
    return Colours(SRGB_PRIMARIES, (1 / gamma,)) if gamma and abs(gamma - SRGB_GAMMA) > NEAR else None
