"""Access to the buckets: begin resumable upload sessions, and read renditions in parts."""

import os
from collections.abc import Iterator
from itertools import chain
from urllib.parse import urlsplit

from dropcap.domain.upload import Upload
from dropcap.storage.buckets import Buckets

PART = 1024 * 1024  # bytes of a picture in memory at once


def address() -> str:
    """Return scheme and host at which browsers reach Cloud Storage."""
    url = urlsplit(os.environ.get("STORAGE_EMULATOR_HOST") or "https://storage.googleapis.com")
    return f"{url.scheme}://{url.netloc}"


def begin(buckets: Buckets, upload: Upload, origin: str) -> str:
    """Return the address of a resumable upload session for a new object of exactly `upload.size` bytes.

    It is a secret: its holder may write this object, and nothing else, for a week. It accepts requests from
    pages of `origin`, regardless of the bucket's CORS configuration
    (cloud.google.com/storage/docs/cross-origin).
    """
    blob = buckets.blob(upload.bucket, upload.name)
    blob.metadata = dict(upload.metadata)
    address = buckets.ask(
        blob.create_resumable_upload_session,
        content_type=upload.content_type,
        size=upload.size,
        origin=origin,
        checksum=None,  # this process sends no data
        if_generation_match=0,
    )
    return str(address)


def parts(buckets: Buckets, name: str, size: int) -> Iterator[bytes]:
    """Yield the `size` bytes of an object in the pictures bucket; the first part is read before returning.

    Raises google.api_core.exceptions.NotFound.
    """
    blob = buckets.blob(buckets.settings.pictures_bucket, name)

    def part(start: int) -> bytes:
        end = min(start + PART, size) - 1
        data = buckets.ask(blob.download_as_bytes, start=start, end=end, raw_download=True, checksum=None)
        return bytes(data)

    return chain([part(0)], map(part, range(PART, size, PART)))
