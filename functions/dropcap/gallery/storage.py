"""The gallery's way to the buckets: pictures go in by a session of their own, and come out in parts."""

import os
from collections.abc import Iterator
from itertools import chain
from urllib.parse import urlsplit

from dropcap.domain.upload import Upload
from dropcap.storage.buckets import Buckets

PART = 1024 * 1024  # bytes of a picture that are in memory at once


def address() -> str:
    """Where browsers reach Cloud Storage: its scheme and host."""
    place = urlsplit(os.environ.get("STORAGE_EMULATOR_HOST") or "https://storage.googleapis.com")
    return f"{place.scheme}://{place.netloc}"


def begin(buckets: Buckets, upload: Upload, origin: str) -> str:
    """The address of a resumable upload session for exactly so many bytes, to an object that must not exist.

    It is a secret: whoever has it may write this object, and nothing else, for a week. It answers to pages of
    `origin` whatever the bucket's CORS configuration (cloud.google.com/storage/docs/cross-origin).
    """
    blob = buckets.blob(upload.bucket, upload.name)
    blob.metadata = dict(upload.metadata)
    address = buckets.ask(
        blob.create_resumable_upload_session,
        content_type=upload.content_type,
        size=upload.size,
        origin=origin,
        checksum=None,  # of what this process sends, which is nothing
        if_generation_match=0,
    )
    return str(address)


def parts(buckets: Buckets, name: str, size: int) -> Iterator[bytes]:
    """The `size` bytes of an object of the pictures bucket, the first part of them read at once.

    Raises google.api_core.exceptions.NotFound where there is none of this name.
    """
    blob = buckets.blob(buckets.settings.pictures_bucket, name)

    def part(start: int) -> bytes:
        end = min(start + PART, size) - 1
        data = buckets.ask(blob.download_as_bytes, start=start, end=end, raw_download=True, checksum=None)
        return bytes(data)

    return chain([part(0)], map(part, range(PART, size, PART)))
