"""Every decoder applies the orientation of EXIF or the container, as Chromium does."""

import io
import struct
from collections.abc import Callable
from typing import Any

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from playwright.sync_api import Browser

from dropcap.imaging import animation, decoding
from dropcap.settings import Settings
from tests.support.images.pictures import QUADRANTS, alike, corners, encoded, exif, quadrants, turned
from tests.support.images.rendering import rendered
from tests.support.images.ways import WAYS, shown

ROOM = Settings(memory_limit_mb=4096, memory_warning_mb=4096, animated=1, sizes=(200,))
BYTE, SHORT, LONG, RATIONAL, SIGNED = 1, 3, 4, 5, 9
XMP = b"""<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="3"/></rdf:RDF></x:xmpmeta>"""

UPRIGHT = XMP.replace(b'"3"', b'"1"')


def block(kind: int, turn: int, count: int = 1, order: str = "<") -> bytes:
    """Return an EXIF block with only an orientation of this type."""
    form = {BYTE: "B3x", SHORT: "HH", LONG: "I", SIGNED: "i", RATIONAL: "I"}[kind]
    value = struct.pack(order + form, *((turn, 0) if kind == SHORT else (turn,)))
    head = b"Exif\0\0II*\0" if order == "<" else b"Exif\0\0MM\0*"
    return head + struct.pack(f"{order}IHHHI", 8, 1, 0x0112, kind, count) + value + bytes(4)


def jpeg(body: bytes) -> bytes:
    """Return a JPEG with this EXIF block unchanged; Pillow would correct it."""
    data = encoded(quadrants(), "JPEG")
    return data[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + data[2:]


def with_text(name: str, text: str) -> bytes:
    info = PngInfo()
    info.add_itxt(name, text)
    return encoded(quadrants(), "PNG", pnginfo=info)


def avif_with_exif(turn: int) -> bytes:
    """Return an AVIF with an orientation in EXIF but not in the container."""
    other = block(SHORT, turn).replace(struct.pack("<H", 0x0112), struct.pack("<H", 0x010F))
    data = encoded(quadrants(), "AVIF", exif=other)
    entry = struct.pack("<HHIH", 0x010F, SHORT, 1, turn)
    assert entry in data
    return data.replace(entry, struct.pack("<HHIH", 0x0112, SHORT, 1, turn))


def raw_profile() -> bytes:
    """Return a PNG with EXIF in a text chunk, as old ImageMagick wrote it; browsers ignore it."""
    body = block(SHORT, 6).hex()
    return with_text("Raw profile type exif", f"\nexif\n{len(body) // 2:8}\n{body}\n")


IN_BROWSERS: dict[str, tuple[str, Callable[[], bytes]]] = {
    **{
        f"JPEG {kind} {order}": ("image/jpeg", lambda kind=kind, order=order: jpeg(block(kind, 6, 1, order)))  # type: ignore[misc]
        for kind in (BYTE, SHORT, LONG, SIGNED)
        for order in "<>"
    },
    "JPEG count": ("image/jpeg", lambda: jpeg(block(SHORT, 6, 2))),
    "JPEG 9": ("image/jpeg", lambda: jpeg(block(SHORT, 9))),
    "JPEG XMP": ("image/jpeg", lambda: encoded(quadrants(), "JPEG", xmp=XMP)),
    "JPEG XMP beside EXIF": ("image/jpeg", lambda: encoded(quadrants(), "JPEG", xmp=XMP, exif=exif(6))),
    "PNG": ("image/png", lambda: encoded(quadrants(), exif=block(SHORT, 6))),
    "PNG BYTE": ("image/png", lambda: encoded(quadrants(), exif=block(BYTE, 6))),
    "PNG XMP": ("image/png", lambda: with_text("XML:com.adobe.xmp", XMP.decode())),
    "PNG raw profile": ("image/png", raw_profile),
    "WebP XMP": ("image/webp", lambda: encoded(quadrants(), "WEBP", xmp=XMP)),
    "AVIF irot": ("image/avif", lambda: encoded(quadrants(), "AVIF", exif=exif(6))),
    "AVIF irot and imir": ("image/avif", lambda: encoded(quadrants(), "AVIF", exif=exif(5))),
    "AVIF XMP": ("image/avif", lambda: encoded(quadrants(), "AVIF", xmp=XMP)),
    "AVIF EXIF": ("image/avif", lambda: avif_with_exif(6)),
    "GIF XMP": ("image/gif", lambda: encoded(quadrants(), "GIF", xmp=XMP)),
}


def test_every_decoder_applies_the_orientation_as_chromium_does(chromium: Browser) -> None:
    files = {name: (kind, made()) for name, (kind, made) in IN_BROWSERS.items()}
    wanted, wrong = rendered(chromium, files), []
    assert (wanted["JPEG 3 <"].size, wanted["JPEG 1 <"].size) == ((80, 120), (120, 80))
    for name, (_, data) in files.items():
        ways = [shown(data, way) for way in WAYS]
        assert any(ways)
        wrong += [
            name
            for way in ways
            if way and (way.size != wanted[name].size or not alike(corners(way), corners(wanted[name]), 10))
        ]
    assert wrong == []


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("JPEG", {"xmp": XMP}),
        ("PNG", {}),
        ("WEBP", {"xmp": XMP}),
        ("TIFF", {"tiffinfo": {700: XMP}}),
        ("AVIF", {"xmp": XMP}),
        ("HEIF", {"xmp": UPRIGHT}),  # else its encoder turns it
    ],
)
def test_an_orientation_in_xmp_is_ignored(kind: str, options: dict[str, Any], way: str) -> None:
    data = encoded(quadrants(), kind, **options) if options else with_text("XML:com.adobe.xmp", XMP.decode())
    data = data.replace(UPRIGHT, XMP)
    assert XMP in data
    copy = shown(data, way)
    assert copy is None or alike(corners(copy), QUADRANTS, 10)


@pytest.mark.parametrize("way", ["pillow", "libvips"])
@pytest.mark.parametrize("kind", [BYTE, SHORT, LONG])
@pytest.mark.parametrize("turn", [3, 6])
def test_a_tiff_is_rotated_once_for_every_type_of_its_orientation(kind: int, turn: int, way: str) -> None:
    data = bytearray(encoded(turned(quadrants(), turn), "TIFF", tiffinfo={0x0112: turn, 700: XMP}))
    at = data.index(struct.pack("<HHI", 0x0112, SHORT, 1))
    data[at : at + 12] = struct.pack("<HHI", 0x0112, kind, 1) + block(kind, turn)[24:28]
    copy = shown(bytes(data), way)
    assert copy is not None
    assert copy.size == (120, 80)
    assert alike(corners(copy), QUADRANTS)


def test_an_orientation_in_xmp_is_ignored_for_animations() -> None:
    frames = [quadrants(colours=QUADRANTS[::-1])]
    data = encoded(quadrants(), "WEBP", save_all=True, append_images=frames, duration=100, xmp=XMP)
    with decoding.open_picture(data, ROOM) as source:
        moving = animation.open_animation(data, source.facts, ROOM.sizes, decoding.admit_first)
    assert moving is not None
    made = moving.encode(200, 90)
    assert made is not None
    with Image.open(io.BytesIO(made.data)) as image:
        assert alike(corners(image), QUADRANTS, 10)
