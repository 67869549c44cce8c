"""Renditions have no EXIF, GPS or other metadata of the upload, only the texts of Dropcap."""

import io
import struct
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any
from xml.etree import ElementTree

import pytest
import pyvips
from PIL import Image, PngImagePlugin, TiffImagePlugin

from dropcap.imaging import decoding
from dropcap.settings import Settings
from tests.support.app import Start
from tests.support.images import pictures
from tests.support.images.pictures import SECRET, encoded, exif, quadrants

ROOM = Settings(memory_limit_mb=4096, memory_warning_mb=4096)
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><exif:GPSLatitude>' + SECRET + b"</exif:GPSLatitude></x:xmpmeta>"
IPTC = b"\x1c\x02\x78" + struct.pack(">H", len(SECRET)) + SECRET  # a caption: IIM 4.2, 2:120
PHOTOSHOP = b"8BIM\x04\x04\0\0" + struct.pack(">I", len(IPTC)) + IPTC + b"\0" * (len(IPTC) % 2)


def exif_with_thumbnail() -> bytes:
    """Return EXIF with a thumbnail JPEG in a second directory, as cameras write it."""
    small = encoded(quadrants(16, 16), "JPEG", comment=SECRET)
    first = struct.pack("<HHHIII", 1, 0x0112, 3, 1, 6, 26)  # orientation 6; the second directory is at 26
    second = struct.pack("<HHHIIHHIII", 2, 0x0201, 4, 1, 56, 0x0202, 4, 1, len(small), 0)
    return b"Exif\0\0" + (b"II*\0" + struct.pack("<I", 8) + first + second).ljust(56, b"\0") + small


def segment(marker: int, body: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body


def jpeg() -> bytes:
    plain = encoded(
        quadrants(), "JPEG", exif=exif(6).tobytes(), xmp=XMP, comment=SECRET, icc_profile=pictures.DISPLAY_P3
    )
    iptc = segment(0xED, b"Photoshop 3.0\0" + PHOTOSHOP)
    return plain[:2] + iptc + segment(0xEC, SECRET) + segment(0xEB, b"JP" + SECRET) + plain[2:] + SECRET


def png() -> bytes:
    info = PngImagePlugin.PngInfo()
    info.add_itxt("XML:com.adobe.xmp", XMP.decode())
    info.add_text("Comment", SECRET.decode())
    info.add_text("Location", SECRET.decode(), zip=True)
    info.add(b"tIME", bytes((7, 230, 11, 24, 12, 0, 0)))
    options: dict[str, Any] = {"exif": exif(6).tobytes(), "icc_profile": pictures.DISPLAY_P3, "dpi": (72, 72)}
    return encoded(quadrants(), "PNG", pnginfo=info, **options) + SECRET


def tiff() -> bytes:
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    for tag, kind, value in (
        (700, 1, XMP),
        (33723, 7, IPTC),
        (34377, 7, PHOTOSHOP),
        (270, 2, SECRET.decode()),
    ):
        tags.tagtype[tag] = kind
        tags[tag] = value
    tags[0x0112] = 6
    return encoded(quadrants(), "TIFF", tiffinfo=tags, icc_profile=pictures.DISPLAY_P3)


def gif() -> bytes:
    plain = encoded(quadrants(), "GIF", comment=SECRET)
    xmp = b"\x21\xff\x0bXMP DataXMP" + bytes((len(XMP),)) + XMP + b"\0"
    return plain[:-1] + xmp + b";" + SECRET


def with_all(kind: str, **options: Any) -> Callable[[], bytes]:
    return lambda: encoded(
        quadrants(), kind, exif=exif(6).tobytes(), xmp=XMP, icc_profile=pictures.DISPLAY_P3, **options
    )


CARRIERS: dict[str, Callable[[], bytes]] = {
    "JPEG": jpeg,
    "JPEG with a thumbnail": lambda: encoded(quadrants(), "JPEG", exif=exif_with_thumbnail()),
    "JPEG of several pictures": lambda: encoded(
        quadrants(), "MPO", save_all=True, append_images=[quadrants()], exif=exif(6).tobytes()
    ),
    "PNG": png,
    "PNG with a thumbnail": lambda: encoded(quadrants(), "PNG", exif=exif_with_thumbnail()),
    "WebP": with_all("WEBP"),
    "WebP, lossy": with_all("WEBP", lossless=False),
    "TIFF": tiff,
    "TIFF with EXIF": lambda: encoded(quadrants(), "TIFF", exif=exif(6)),
    "HEIC": with_all("HEIF"),
    "AVIF": with_all("AVIF"),
    "GIF": gif,
    "BMP": lambda: encoded(quadrants(), "BMP") + SECRET,
}


# What a published file may be made of, and nothing else: no name here can hold more than pixels.


def jpeg_parts(data: bytes) -> Iterator[str]:
    """Return the markers of a JPEG's segments; after the first scan, search them byte by byte."""
    at, scan = 2, False
    while at < len(data):
        if scan:
            at = next(
                i
                for i in range(at, len(data))
                if data[i] == 0xFF and data[i + 1] not in {0, *range(0xD0, 0xD8)}
            )
        marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
        if marker == 0xD9:
            assert at + 2 == len(data), "nothing follows the end"
            return
        yield f"{marker:X}" + (data[at + 4 : at + 9].decode("latin-1") if 0xE0 <= marker <= 0xEF else "")
        scan = marker == 0xDA
        at += 2 + length


def png_parts(data: bytes) -> Iterator[str]:
    at = 8
    while at < len(data):
        length, name = struct.unpack(">I4s", data[at : at + 8])
        yield name.decode()
        at += 12 + length
    assert at == len(data)


def webp_parts(data: bytes) -> Iterator[str]:
    assert len(data) == 8 + int.from_bytes(data[4:8], "little")
    at = 12
    while at < len(data):
        name, length = struct.unpack("<4sI", data[at : at + 8])
        yield name.decode()
        at += 8 + length + length % 2


def avif_parts(data: bytes) -> Iterator[str]:
    """Return the boxes, including those in meta and iprp, and the types of the items."""
    at = 0
    while at < len(data):
        length, name = struct.unpack(">I4s", data[at : at + 8])
        body = data[at + 8 : at + length]
        if name == b"infe":
            yield "item " + body[8:12].decode()
        inner = {b"meta": 4, b"iinf": 6, b"iprp": 0, b"ipco": 0}.get(name)
        yield from (name.decode(),) if inner is None else avif_parts(body[inner:])
        at += length


PARTS = {
    "jpeg": (jpeg_parts, {"E0JFIF\0", "DB", "C0", "C2", "C4", "DA"}),
    "png": (png_parts, {"IHDR", "IDAT", "IEND"}),
    "webp": (webp_parts, {"VP8 ", "VP8L"}),
    "avif": (
        avif_parts,
        {"ftyp", "mdat", "hdlr", "pitm", "iloc", "infe", "item av01", "ipma", "ispe", "pixi", "av1C", "colr"},
    ),
}


# The parts that an XMP packet of our own adds, and all the elements that it is made of.
XMP_PARTS = {
    "jpeg": {"E1http:"},
    "png": {"iTXt"},
    "webp": {"VP8X", "XMP "},
    "avif": {"item mime", "iref"},
}
XMP_ELEMENTS = {
    "xmpmeta", "RDF", "Description", "Alt", "Bag", "li", "AltTextAccessibility", "ExtDescrAccessibility",
    "description", "subject",
}  # fmt: skip


def assert_bare(data: bytes, kind: str, words: bool = False) -> None:
    """Assert that a file has only pixels: by its parts, its bytes, and two metadata readers.

    With `words`, nothing else but one XMP packet of ours, and one there is.
    """
    read, allowed = PARTS[kind]
    parts = Counter(read(data))
    assert parts.keys() <= allowed | (XMP_PARTS[kind] if words else set())
    assert not words or {parts[each] for each in XMP_PARTS[kind]} == {1}
    for trace in (SECRET, *(b"Exif EXIF eXIf GPSLatitude 8BIM Photoshop ICC_PROFILE acsp".split())):
        assert trace not in data, trace
    assert data.count(b"<x:xmpmeta") == words
    if words:
        packet = data[data.index(b"<x:xmpmeta") : data.index(b"</x:xmpmeta>") + 12]
        elements = list(ElementTree.fromstring(packet).iter())  # noqa: S314  our own
        assert {each.tag.rpartition("}")[2] for each in elements} <= XMP_ELEMENTS
        attributes = {(name.rpartition("}")[2], value) for each in elements for name, value in each.items()}
        assert attributes <= {("about", ""), ("lang", "x-default"), ("lang", "en")}
    fields = pyvips.Image.new_from_buffer(data, "").get_fields()
    foreign = ("exif", "iptc", "icc", "png-comment", "gif", *(() if words else ("xmp",)))
    assert not [name for name in fields if name.startswith(foreign)]
    assert not {"orientation", "photoshop-data", "jpeg-thumbnail-data"} & set(fields)
    with Image.open(io.BytesIO(data)) as again:
        assert (again.format, dict(again.getexif())) == (kind.upper(), {})
        kept = set(again.info) - ({"xmp"} if words else set())
        assert not {"exif", "xmp", "comment", "icc_profile", "photoshop"} & kept


@pytest.mark.parametrize("kind", PARTS)
@pytest.mark.parametrize("carrier", CARRIERS)
def test_renditions_have_no_metadata_of_the_upload(kind: str, carrier: str) -> None:
    data = CARRIERS[carrier]()
    assert SECRET in data
    with decoding.open_picture(data, ROOM) as source:
        copy = source.encode(800, kind, 80)
        assert_bare(copy.data, kind)
        assert_bare(source.encode(800, "jpeg", 85).data, "jpeg")
    assert copy.content_type == f"image/{kind}"


@pytest.mark.parametrize("kind", PARTS)
def test_the_metadata_check_detects_every_kind_of_metadata(kind: str) -> None:
    """The check can fail: a file with any one kind of metadata does not pass."""
    assert_bare(encoded(quadrants(), kind.upper()), kind)
    for options in ({"exif": exif(6).tobytes()}, {"icc_profile": pictures.DISPLAY_P3}):
        for words in (False, True):
            with pytest.raises(AssertionError):
                assert_bare(encoded(quadrants(), kind.upper(), **options), kind, words)


@pytest.mark.parametrize("kind", PARTS)
def test_objects_in_the_bucket_have_only_our_own_metadata(start: Start, kind: str) -> None:
    app = start(FORMAT=kind)
    assert app.deliver(app.upload("ana/a.jpg", jpeg())) == 200
    published = app.objects(app.pictures)
    assert len(published) == 3
    for blob in published.values():
        assert_bare(blob.download_as_bytes(), kind, words=True)
