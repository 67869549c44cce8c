"""Objects stored as gzip are decompressed within limits, and no more than the limit is ever read."""

import gzip
import hashlib
import os
import time
import tracemalloc
import zlib
from contextlib import nullcontext

import pytest
from google.cloud.storage import Blob
from hypothesis import given
from hypothesis import strategies as st

from dropcap.domain.content_encoding import MEMBERS, OTHERS, check_supported, decode
from dropcap.domain.upload import Upload
from dropcap.errors import Rejected
from tests.pipeline.test_receipts import receipts
from tests.support.app import App, Start, problem, rows, small_png

MIB = 1024 * 1024
PNG = small_png()
PACKED = gzip.compress(PNG)


@given(st.lists(st.binary(max_size=300), min_size=1, max_size=5), st.integers(0, 20))
def test_decoding_matches_gzip(parts: list[bytes], padding: int) -> None:
    data = b"".join(map(gzip.compress, parts)) + bytes(padding)
    assert decode(data, "gzip", 1) == gzip.decompress(data) == b"".join(parts)


@given(st.data())
def test_truncated_or_damaged_gzip_is_refused(draw: st.DataObject) -> None:
    data = bytearray(gzip.compress(bytes(range(256)) * 4))
    at = draw.draw(st.integers(10, len(data) - 1))  # behind the header
    cut, data[at] = bytes(data[:at]), data[at] ^ (1 << draw.draw(st.integers(0, 7)))
    for broken in (cut, bytes(data)):
        with pytest.raises((EOFError, gzip.BadGzipFile, zlib.error)):
            gzip.decompress(broken)
        with pytest.raises(Rejected) as rejected:
            decode(broken, "gzip", 1)
        assert rejected.value.code == "broken_encoding"


def test_the_limit_applies_exactly_to_the_decompressed_bytes() -> None:
    assert len(decode(gzip.compress(bytes(MIB)), "gzip", 1)) == MIB
    with pytest.raises(Rejected) as rejected:
        decode(gzip.compress(bytes(MIB + 1)), "gzip", 1)
    assert rejected.value.code == "too_many_bytes"


def test_a_gzip_bomb_costs_neither_memory_nor_time() -> None:
    bombs = (
        gzip.compress(bytes(50 * MIB)),
        gzip.compress(b"") * (MEMBERS + 1) * 1000,
        gzip.compress(gzip.compress(bytes(50 * MIB))),
    )
    for bomb, code in zip(bombs, ("too_many_bytes", "broken_encoding", ""), strict=True):
        tracemalloc.start()
        began = time.process_time()
        with pytest.raises(Rejected) if code else nullcontext() as rejected:
            assert len(decode(bomb, "gzip", 1)) < MIB
        assert not code or (rejected and rejected.value.code == code)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 3 * MIB
        assert time.process_time() - began < 2


@pytest.mark.parametrize("encoding", [*sorted(OTHERS), "BR", "gzip, br", "gzip,gzip", "zstd, identity"])
def test_unsupported_encodings_are_refused_by_name(encoding: str) -> None:
    with pytest.raises(Rejected) as rejected:
        decode(PACKED, encoding, 1)
    assert (rejected.value.code, rejected.value.status) == ("unsupported_encoding", 415)
    word = rejected.value.problem.split()[3]
    assert word in encoding.lower()


@pytest.mark.parametrize("encoding", ["", "identity", "utf-8", "aws-chunked", "7bit"])
def test_identity_is_not_an_encoding(encoding: str) -> None:
    check_supported(encoding, gzip=False)
    assert decode(PNG, encoding, 1) == PNG
    assert decode(PNG, "gzip", 1) == PNG  # only the label says gzip


def stored(app: App, data: bytes, encoding: str, name: str = "ana/a.png") -> Upload:
    """Store an object with this Content-Encoding, which its event does not mention."""
    blob = app.storage.bucket(app.uploads).blob(name)
    blob.content_encoding = encoding
    blob.upload_from_string(data, content_type="image/png")
    return Upload(app.uploads, name, int(blob.generation), len(data), "image/png")


def raw(blob: Blob) -> bytes:
    blob.reload()
    return bytes(blob.download_as_bytes(raw_download=True))


@pytest.mark.parametrize("data", [PACKED, gzip.compress(PNG[:60]) + gzip.compress(PNG[60:])])
def test_a_picture_that_is_stored_as_gzip_is_analyzed_and_kept_as_it_was(start: Start, data: bytes) -> None:
    app = start(RECEIPTS="1", SOURCE="archive")
    upload = stored(app, data, "gzip")
    assert app.analyze(json={"bucket": app.uploads, "name": upload.name}).get_json()["picture"]["width"] == 60
    assert app.deliver(upload) == 200
    assert rows("SELECT format, width, height FROM analyses") == [["PNG", 60, 40]]
    assert {blob.content_encoding for blob in app.objects(app.pictures).values()} == {None}
    [receipt] = receipts(app).values()
    assert (receipt["bytes"], receipt["sha256"]) == (len(PNG), hashlib.sha256(PNG).hexdigest())
    [kept] = app.objects(os.environ["ARCHIVE_BUCKET"]).values()
    assert (raw(kept), kept.content_encoding, kept.content_type) == (data, "gzip", "image/png")


REJECTED = {
    "cut": (PACKED[:-9], "gzip", "broken_encoding"),
    "a bomb": (gzip.compress(bytes(3 * MIB)), "gzip", "too_many_bytes"),
    "a letter": (gzip.compress(b"Dear diary"), "gzip", "not_a_picture"),
    "twice": (gzip.compress(PACKED), "gzip, gzip", "unsupported_encoding"),
    "brotli": (PNG, "br", "unsupported_encoding"),
}


@pytest.mark.parametrize(("data", "encoding", "reason"), REJECTED.values(), ids=REJECTED)
def test_an_undecodable_object_is_quarantined_unchanged_with_its_own_reason(
    start: Start, data: bytes, encoding: str, reason: str
) -> None:
    app = start(MAX_MB="1")
    assert app.deliver(stored(app, data, encoding)) == 200
    [kept] = app.objects(app.quarantine).values()
    assert (raw(kept), kept.content_encoding) == (data, encoding)
    assert kept.metadata["dropcap-reason"] == reason
    assert app.objects(app.uploads) == {}


@pytest.mark.parametrize("encoding", ["gzip", "br", "deflate"])
def test_an_encoded_body_is_refused_before_it_is_read(start: Start, encoding: str) -> None:
    app = start()
    packed = {"Content-Encoding": encoding}
    answer = app.analyze(data=PACKED, headers=packed)
    assert problem(answer, 415)["code"] == "unsupported_encoding"
    assert answer.headers["Accept-Encoding"] == "identity"
    for client in (app.sweep, app.gallery):
        answer = client.post("/gallery/uploads", data=PACKED, headers=packed)
        assert answer.status_code == 415
    assert app.analyze(data=PNG, headers={"Content-Encoding": "identity"}).status_code == 200


@pytest.mark.parametrize("stated_size", [5, 10**18])
def test_no_more_than_the_limit_is_read_whatever_the_event_states(start: Start, stated_size: int) -> None:
    app = start(MAX_MB="1")
    blob = app.storage.bucket(app.uploads).blob("ana/a.jpg")
    blob.upload_from_string(bytes(20 * MIB))
    upload = Upload(app.uploads, "ana/a.jpg", int(blob.generation), stated_size)
    tracemalloc.start()
    with pytest.raises(Rejected) as rejected:
        app.services.buckets.read(upload)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (rejected.value.code, peak < 4 * MIB) == ("too_many_bytes", True)
    assert app.deliver(upload) == 200
    assert rows("SELECT state, reason_code FROM uploads") == [["done", "too_many_bytes"]]


def test_an_event_that_overstates_the_size_rejects_no_picture(start: Start) -> None:
    app = start(MAX_MB="1")
    blob = app.storage.bucket(app.uploads).blob("ana/a.png")
    blob.upload_from_string(PNG)
    assert app.deliver(Upload(app.uploads, "ana/a.png", int(blob.generation), 10**18)) == 200
    assert rows("SELECT bytes FROM analyses") == [[len(PNG)]]


def test_an_object_of_exactly_the_limit_is_read(start: Start) -> None:
    app = start(MAX_MB="1")
    upload = app.upload("ana/a.jpg", bytes(MIB))
    assert len(app.services.buckets.read(upload)) == MIB
