"""Camera raw is rejected by name and kept unchanged; a TIFF with several pages yields the largest."""

from http import HTTPStatus

import pytest

from dropcap.errors import Rejected
from dropcap.imaging import decoding
from dropcap.imaging.decoders import ranking
from dropcap.imaging.decoders.ranking import DECODERS, Decoder
from dropcap.imaging.headers import tiff
from dropcap.settings import Settings
from tests.pipeline.test_reconcile import NOTHING
from tests.support.app import Start, rows
from tests.support.images import bombs
from tests.support.images.pictures import QUADRANTS, alike, corners, encoded, quadrants

ROOM = Settings(memory_limit_mb=4096, memory_warning_mb=4096)
PILLOW, LIBVIPS, _ = DECODERS
BEHIND = 8 + 6 + 12 * 11  # where a directory starts behind a first one of eleven tags
SENSOR = bombs.strip(4000, 3000)
RAW = {
    "DNG": encoded(quadrants(40, 30), "TIFF", tiffinfo={254: 1, 271: "Make", 50706: b"\1\4\0\0"}),
    "DNG of Motorola": bombs.tiff(bombs.strip(40, 30, t50706=0x01040000), order=">"),
    "DNG big": bombs.tiff(bombs.strip(40, 30, t50706=0x01040000), big=True),
    "NEF": bombs.tiff(bombs.strip(160, 120, t254=1, t330=BEHIND)) + bombs.ifd(0, SENSOR),
    "ARW, an old thumbnail": bombs.tiff(bombs.strip(160, 120, t255=2, t330=BEHIND)) + bombs.ifd(0, SENSOR),
    "PEF, a sensor's picture first": bombs.tiff(bombs.strip(4000, 3000, t262=32803)),
    "a sensor's picture within": bombs.tiff(bombs.strip(40, 30, t330=BEHIND - 12))
    + bombs.ifd(0, SENSOR | {262: 32803}),
    "a sensor's picture on another page": bombs.tiff(bombs.strip(40, 30), SENSOR | {262: 34892}),
    "CR2": b"II*\0\x10\0\0\0CR\2\0" + bytes(4) + bombs.ifd(0, bombs.strip(40, 30)),
    "IIQ": b"MM\0*\0\0\0\x10MMMM" + bytes(4) + bombs.ifd(0, bombs.strip(40, 30), order=">"),
    "ORF": b"IIRO\x08\0\0\0" + bombs.ifd(0, bombs.strip(40, 30)),
    "ORF, older": b"IIRS\x08\0\0\0" + bombs.ifd(0, bombs.strip(40, 30)),
    "ORF of Motorola": b"MMOR\0\0\0\x08" + bombs.ifd(0, bombs.strip(40, 30), order=">"),
    "RW2": b"IIU\0\x08\0\0\0" + bombs.ifd(0, bombs.strip(40, 30)),
    "RAF": b"FUJIFILMCCD-RAW 0201FF383501" + bytes(60),
    "CR3": bombs.box(b"ftyp", b"crx ", b"\0\0\0\1", b"crx isom") + bombs.box(b"moov", bytes(40)),
    "CRW": b"II\x1a\0\0\0HEAPCCDR" + bytes(40),
    "MRW": b"\0MRM" + bytes(40),
    "X3F": b"FOVb" + bytes(40),
}


@pytest.mark.parametrize("name", RAW)
def test_camera_raw_of_every_maker_is_rejected_as_camera_raw(name: str) -> None:
    for check in (decoding.open_picture, decoding.check_head):
        with pytest.raises(
            Rejected, match=r"The upload is a camera raw file, which is not supported\."
        ) as caught:
            check(RAW[name], ROOM)
        assert caught.value.code == "unsupported_format"


def test_camera_raw_is_unchanged_in_quarantine(start: Start) -> None:
    app = start()
    assert app.deliver(app.upload("ana/a.dng", RAW["DNG"], "image/x-adobe-dng")) == 200
    assert rows("SELECT reason_code FROM uploads") == [["unsupported_format"]]
    [kept] = app.objects(app.quarantine).values()
    assert kept.download_as_bytes() == RAW["DNG"]
    assert app.objects(app.pictures) == {}


@pytest.mark.parametrize("brand", [b"mif1", b"mif2", b"mif3", b"heic", b"heix", b"hevc", b"miaf", b"heis"])
def test_every_heif_brand_is_decoded(brand: bytes) -> None:
    data = encoded(quadrants(), "HEIF")
    assert data[8:12] == b"heix"
    with decoding.open_picture(data[:8] + brand + data[12:], ROOM) as source, source.resize(200) as copy:
        assert alike(corners(copy), QUADRANTS, 10)


@pytest.mark.parametrize(
    ("kind", "name"), [(b"avc1", "AVC"), (b"j2k1", "JPEG 2000"), (b"jpeg", "JPEG"), (b"unci", "uncompressed")]
)
def test_heif_with_an_unsupported_codec_is_unsupported_not_damaged(kind: bytes, name: str) -> None:
    with pytest.raises(Rejected, match=rf"a HEIF \({name}\) file, which is not supported"):
        decoding.open_picture(bombs.item(b"mif1", kind, bytes(8), bombs.ispe(64, 64)), ROOM)
    with pytest.raises(Rejected, match="a HEIF \\(low-overhead\\) file"):
        decoding.open_picture(bombs.box(b"ftyp", b"mif3", b"heic") + bombs.box(b"mini", bytes(40)), ROOM)


def pages(*layouts: tuple[int, int, dict[int, int]], order: str = "<", big: bool = False) -> bytes:
    """A TIFF of plain grey pages: width, the level of all px, and more tags; each is half as high as wide."""
    at, parts = 0, []
    for _ in (1, 2):  # the second time it is known where the px begin
        tags = []
        for width, _level, more in layouts:
            strip = bombs.strip(width, width // 2) | {273: at, 279: width * width // 2} | more
            tags.append(dict(sorted(strip.items())))
            at += width * width // 2
        made = bombs.tiff(*tags, order=order, big=big)
        at = len(made)
    parts = [bytes([level]) * (width * width // 2) for width, level, _ in layouts]
    return made + b"".join(parts)


THUMBNAIL = {254: 1}
PAGES = {
    "one": (((40, 10, {}),), 40, 10, 1),
    "a thumbnail first": (((20, 10, THUMBNAIL), (80, 200, {})), 80, 200, 1),
    "an old thumbnail first": (((20, 10, {255: 2}), (80, 200, {})), 80, 200, 1),
    "a thumbnail behind": (((80, 200, {}), (20, 10, THUMBNAIL)), 80, 200, 1),
    "a mask, larger": (((40, 200, {}), (80, 10, {254: 4})), 40, 200, 1),
    "the largest of three": (((40, 10, {254: 2}), (80, 200, {254: 2}), (60, 90, {254: 2})), 80, 200, 3),
    "two alike": (((40, 10, {}), (40, 200, {})), 40, 10, 2),
    "thumbnails alone": (((20, 10, THUMBNAIL), (40, 200, THUMBNAIL)), 40, 200, 1),
}


@pytest.mark.parametrize("name", PAGES)
@pytest.mark.parametrize("decoder", [PILLOW, LIBVIPS], ids=["pillow", "libvips"])
def test_the_largest_full_page_is_decoded(
    name: str, decoder: Decoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    layouts, width, level, full = PAGES[name]
    monkeypatch.setattr(ranking, "rank_decoders", lambda *header: [(0.0, decoder)])
    for form in ({}, {"order": ">"}, {"big": True}):
        data = pages(*layouts, **form)
        with decoding.open_picture(data, ROOM) as source, source.resize(200) as copy:
            assert (source.facts.width, source.facts.height, source.facts.pages) == (width, width // 2, full)
            assert copy.getpixel((5, 5)) == (level,) * 3


def test_tiff_pages_are_counted_and_other_formats_have_one() -> None:
    for kind, count in (("TIFF", 3), ("GIF", 1), ("WEBP", 1)):
        others = (
            [quadrants(60, 40), quadrants(30, 20)] if kind == "TIFF" else [quadrants(colours=QUADRANTS[::-1])]
        )
        with decoding.open_picture(
            encoded(quadrants(), kind, save_all=True, append_images=others), ROOM
        ) as source:
            assert (source.facts.pages, source.facts.width) == (count, 120)


def test_pages_linked_in_a_ring_are_each_read_once() -> None:
    ring = bombs.tiff(bombs.SMALL, bombs.SMALL, loops=True)
    assert [each.page for each in tiff.directories(ring)] == [0, 1]
    within = bombs.tiff(bombs.SMALL | {330: 8})
    assert len([*tiff.directories(within)]) == 1


@pytest.mark.parametrize(
    ("source", "left", "disposition"), [("delete", 1, "kept"), ("archive", 0, "archived")]
)
def test_a_source_with_pages_that_are_not_published_is_never_deleted(
    start: Start, capfd: pytest.CaptureFixture[str], source: str, left: int, disposition: str
) -> None:
    app = start(SOURCE=source, RECEIPTS="1")
    data = encoded(quadrants(60, 40), "TIFF", save_all=True, append_images=[quadrants()])
    upload = app.upload("ana/scan.tif", data, "image/tiff")
    assert app.deliver(upload) == 200
    assert app.deliver(upload) == 200  # once more changes nothing
    assert len(app.objects(app.uploads)) == left
    logged = capfd.readouterr().out
    assert ("It has 2 pages, and only the largest is published." in logged) == bool(left)
    assert rows("SELECT result->'picture'->'pages', result->'picture'->'width' FROM analyses") == [[2, 120]]
    assert rows("SELECT source_fate FROM receipts") == [[disposition]]
    assert app.deliver(app.upload("ana/one.tif", encoded(quadrants(), "TIFF"), "image/tiff")) == 200
    assert len(app.objects(app.uploads)) == left
    assert app.reconcile() == app.reconcile() == NOTHING
    assert rows("SELECT source_fate FROM receipts WHERE id = :id", id=upload.id) == [[disposition]]
    assert app.delete(upload.id).status_code == HTTPStatus.OK
    assert app.objects(app.uploads) == {}
    assert app.reconcile() == NOTHING
