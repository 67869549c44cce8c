"""Detect the format of a file by its first bytes, never by its name or content type."""

from contextlib import suppress
from http import HTTPStatus

from dropcap.errors import Rejected
from dropcap.imaging.headers import tiff

FORMATS = "JPEG, PNG, WebP, GIF, TIFF, BMP, HEIC or AVIF"
SIGNATURES = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),  # BigTIFF
    (b"MM\0+", "TIFF"),
)
RAW = "camera raw"
KNOWN_BUT_UNSUPPORTED = (
    (b"%PDF-", "PDF"),
    (b"%!PS", "PostScript"),
    (b"\xc5\xd0\xd3\xc6", "EPS"),  # with a DOS header
    (b"8BPS", "Photoshop"),
    (b"\0\0\1\0", "ICO"),
    *((beginning, RAW) for beginning in tiff.RAW_BEGINNINGS),
    (b"FUJIFILMCCD-RAW", RAW),  # RAF
    (b"II\x1a\0\0\0HEAPCCDR", RAW),  # CRW
    (b"\0MRM", RAW),  # MRW
    (b"FOVb", RAW),  # X3F
    (b"\xff\x0a", "JPEG XL"),
    (b"\0\0\0\x0cJXL ", "JPEG XL"),
    (b"\0\0\0\x0cjP  ", "JPEG 2000"),
    (b"\xff\x4f\xff\x51", "JPEG 2000"),
    (b"<svg", "SVG"),
)
BMP_HEADER_SIZES = frozenset({12, 16, 40, 52, 56, 64, 108, 124})  # texts may also begin with "BM"
# ISO/IEC 23008-12:2022, 10.2 to 10.3 and annexes B, H, L and M, as libheif 1.23's heif_brands.h lists them.
AVIF_BRANDS = frozenset({b"avif", b"avis"})
HEVC_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"})
HEIF_BRANDS = HEVC_BRANDS | {b"mif1", b"mif2", b"mif3", b"msf1", b"miaf", b"1pic", b"avci", b"avcs", b"vvic"}
HEIF_BRANDS |= {b"vvis", b"evbi", b"evmi", b"evbs", b"evms", b"jpeg", b"jpgs", b"j2ki", b"j2is"}
OPENED_BRANDS = HEVC_BRANDS | {b"mif1", b"msf1"}  # major brands that pillow-heif 1.8 accepts
RAW_BRAND = b"crx "  # CR3 (lclevy/canon_cr3, README)
CODECS = {  # in HEIF, that pillow-heif's build of libheif doesn't decode
    b"mini": "low-overhead",
    b"av01": "AV1",
    b"avc1": "AVC",
    b"vvc1": "VVC",
    b"evc1": "EVC",
    b"jpeg": "JPEG",
    b"j2k1": "JPEG 2000",
    b"unci": "uncompressed",
}


def detect_format(data: bytes) -> str:
    """Return the format, by Pillow's name.

    Raises Rejected if it is not supported.
    """
    if not data:
        raise Rejected(
            "empty_picture",
            "The upload is empty: it has 0 bytes.",
            "Upload it again.",
            HTTPStatus.UNPROCESSABLE_ENTITY,
        )
    for signature, name in SIGNATURES:
        if data.startswith(signature):
            with suppress(ValueError):
                if name == "TIFF" and tiff.is_raw(data):
                    raise unsupported(RAW)
            return name
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "WEBP"
    if data.startswith(b"BM") and int.from_bytes(data[14:18], "little") in BMP_HEADER_SIZES:
        return "BMP"
    if data[4:8] == b"ftyp":  # ISO/IEC 14496-12: length, "ftyp", major brand, version, compatible brands
        box = data[: min(int.from_bytes(data[:4], "big"), 512)]
        brands = {data[8:12]} | {box[at : at + 4] for at in range(16, len(box), 4)}
        if RAW_BRAND in brands:
            raise unsupported(RAW)
        if data[8:12] not in HEVC_BRANDS and brands & AVIF_BRANDS:
            return "AVIF"
        if brands & HEIF_BRANDS:
            return "HEIF"
        raise unsupported("video")
    text = data[:1024].lstrip().lower()
    for signature, name in KNOWN_BUT_UNSUPPORTED:
        if data.startswith(signature) or text.startswith(signature):
            raise unsupported(name)
    if text.startswith(b"<?xml") and b"<svg" in text:
        raise unsupported("SVG")
    raise Rejected(
        "not_a_picture",
        "The upload is not a picture.",
        f"Upload a picture: {FORMATS}.",
        HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    )


def unsupported(name: str) -> Rejected:
    """Return the rejection of a known but unsupported format."""
    return Rejected(
        "unsupported_format",
        f"The upload is a {name} file, which is not supported.",
        f"Save it as {FORMATS} and upload that.",
        HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    )
