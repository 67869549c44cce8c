"""Read sources from Cloud Storage and publish renditions; disposal.py disposes of sources.

Every operation names a generation, so that a newer upload under the same name is never touched. All errors
except `Rejected` are transient. Object names are only sent, never interpreted.
"""

import base64
import datetime as dt
import hashlib
import io
import os
from collections.abc import Iterator, Mapping
from http import HTTPStatus
from itertools import chain
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from dropcap.domain import content_encoding
from dropcap.domain.analysis import Rendition
from dropcap.domain.naming import Encoded
from dropcap.domain.temporary_names import is_temporary
from dropcap.domain.upload import Upload, is_object, owner
from dropcap.errors import Rejected
from dropcap.runtime.timeouts import side_by_side
from dropcap.settings import Settings
from dropcap.storage import metadata
from dropcap.storage.disposal import GONE, Disposal
from dropcap.storage.gcs import NotStored

if TYPE_CHECKING:
    from google.cloud.storage import Blob

PART = 1024 * 1024  # bytes of a picture in memory at once
PAGE = 500  # objects per request of a listing: about 1 MB
NO_METADATA: Mapping[str, str] = {}


class Buckets(Disposal):
    """The four buckets of the settings, through one client that is created on first use."""

    def find(self, bucket: str, name: str, user: str) -> Upload:
        """Return the live generation of the user's object in the uploads bucket.

        Raises Rejected if it is another bucket or there is no such object. Another user's object gets the
        same answer without a lookup, so that nobody learns which names others use.
        """
        from google.api_core.exceptions import NotFound

        none = Rejected(
            "no_such_object",
            "There is no object of that name in the uploads bucket.",
            "Check the name; an upload that is done has been deleted.",
            HTTPStatus.NOT_FOUND,
        )
        if bucket != self.settings.uploads_bucket:
            raise Rejected(
                "wrong_bucket",
                "Only objects of the uploads bucket can be analyzed.",
                f"Put the picture into {self.settings.uploads_bucket}, or post it.",
                HTTPStatus.FORBIDDEN,
            )
        if owner(name) != user or not is_object(name) or is_temporary(name):
            raise none
        blob = self.blob(bucket, name)
        try:
            self.ask(blob.reload)
        except NotFound as missing:
            raise none from missing
        return _upload(blob)

    def current(self, upload: Upload) -> Upload:
        """Return the upload with the bucket's metadata; unchanged if this generation is gone."""
        blob = self._live(upload)
        return _upload(blob) if blob else upload

    def pages(
        self, before: dt.datetime, start: str | None = None, end: str | None = None
    ) -> Iterator[list[Upload]]:
        """Yield pages of the objects created `before`, by name, without content types.

        Names start at `start` and end before `end`, if given.
        """
        listing = self.ask(
            self.client.list_blobs,
            bucket_or_name=self.settings.uploads_bucket,
            start_offset=start,
            end_offset=end,
            page_size=PAGE,
            fields="items(bucket,name,generation,size,metadata,timeCreated),nextPageToken",
        )
        for page in listing.pages:
            yield [_upload(blob) for blob in page if blob.time_created < before]

    def read(self, upload: Upload) -> bytes:
        """Return the bytes of exactly this generation, with its Content-Encoding removed.

        Raises Rejected if the object is larger than MAX_MB (whatever size the event stated), can't be
        decompressed, or has been deleted or replaced by a newer upload.
        """
        from google.api_core.exceptions import NotFound, PreconditionFailed

        if _mib(upload.size) > self.settings.max_mb and (live := self._live(upload)):
            check_size(int(live.size or 0), self.settings)  # the object's own size, not the event's
        blob, stored = self.blob(upload.bucket, upload.name), _Bounded(self.settings.max_mb)
        try:
            # raw: a gzip-encoded object must not grow beyond the checked size
            self.ask(
                blob.download_to_file,
                file_obj=stored,
                raw_download=True,
                if_generation_match=upload.generation,
            )
        except (NotFound, PreconditionFailed) as gone:
            if self._live(upload):
                raise NotStored(f"{upload.id} could not be read, and is there.") from gone
            raise Rejected(
                GONE,
                "The upload was deleted or replaced before it was read.",
                "Upload it again if it is still wanted.",
                HTTPStatus.NOT_FOUND,
            ) from gone
        return content_encoding.decode(stored.getvalue(), blob.content_encoding or "", self.settings.max_mb)

    def published(self, upload: Upload) -> dict[str, int]:
        """Return the renditions of an upload: generations by object name."""
        client, bucket = self.client, self.settings.pictures_bucket
        blobs = self.ask(lambda **bounds: list(client.list_blobs(bucket, prefix=f"{upload.id}/", **bounds)))
        return {blob.name: int(blob.generation) for blob in blobs}

    def publish(
        self,
        upload: Upload,
        label: str,
        picture: Encoded,
        existing: Mapping[str, int],
        alias_metadata: Mapping[str, str] = NO_METADATA,
    ) -> Rendition:
        """Write one resized picture; the same upload and label give the same name.

        Its metadata are the upload's with `alias_metadata`, or the latter alone if both are too large.
        `existing` are the renditions from before the lease was acquired. No others are replaced: a worker
        that acquired the lease later has published and recorded them. Raises NotStored if the stored bytes
        differ.
        """
        from google.api_core.exceptions import Forbidden, PreconditionFailed

        data, content_type = picture.data, picture.content_type
        name = f"{upload.id}/{label}.{content_type.removeprefix('image/')}"
        blob = self.blob(self.settings.pictures_bucket, name)
        blob.metadata = metadata.beside(upload.metadata, alias_metadata)
        blob.cache_control = self.settings.cache_control
        known = existing.get(name, 0)  # 0: the object does not exist
        try:
            self.ask(blob.upload_from_string, data=data, content_type=content_type, if_generation_match=known)
        except (Forbidden, PreconditionFailed):
            # Identical bytes are fine: our own request whose response was lost, or an object that a retention
            # policy keeps.
            if not self._found(blob):
                raise
        checksum = base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()
        published = Rendition(label, name, picture.width, picture.height, len(data), content_type, checksum)
        self._check(published, blob)
        return published

    @staticmethod
    def _check(expected: Rendition, blob: "Blob") -> None:
        if (blob.size, blob.md5_hash) != (expected.bytes, expected.md5):
            raise NotStored(f"{expected.object} is not stored as it was written.")

    def check(self, published: tuple[Rendition, ...]) -> None:
        """Raise NotStored unless there is at least one output and each one is stored as it was written.

        A peer deleted sources that had no output at all (firebase/extensions #3007).
        """
        from google.api_core.exceptions import NotFound

        if not published:
            raise NotStored("No picture was published.")

        def check(expected: Rendition) -> None:
            blob = self.blob(self.settings.pictures_bucket, expected.object)
            try:
                self.ask(blob.reload)
            except NotFound as missing:
                raise NotStored(f"{expected.object} is no longer stored.") from missing
            self._check(expected, blob)

        side_by_side(check, published, "check")

    def read_published(self, published: Rendition) -> bytes:
        """Return the bytes of a rendition as they were written. Raises NotStored."""
        self.check((published,))
        blob = self.blob(self.settings.pictures_bucket, published.object)
        return bytes(self.ask(blob.download_as_bytes, raw_download=True))

    def read_parts(self, name: str, size: int) -> Iterator[bytes]:
        """Yield the `size` bytes of a rendition in parts; the first is read before returning.

        Raises google.api_core.exceptions.NotFound.
        """
        blob = self.blob(self.settings.pictures_bucket, name)

        def part(start: int) -> bytes:
            end = min(start + PART, size) - 1
            data = self.ask(blob.download_as_bytes, start=start, end=end, raw_download=True, checksum=None)
            return bytes(data)

        return chain([part(0)], map(part, range(PART, size, PART)))

    def begin_upload(self, upload: Upload, origin: str) -> str:
        """Return the address of a resumable upload session for a new object of exactly `upload.size` bytes.

        It is a secret: its holder may write this object, and nothing else, for a week. It accepts requests
        from pages of `origin`, regardless of the bucket's CORS configuration
        (cloud.google.com/storage/docs/cross-origin).
        """
        blob = self.blob(upload.bucket, upload.name)
        blob.metadata = dict(upload.metadata)
        address = self.ask(
            blob.create_resumable_upload_session,
            content_type=upload.content_type,
            size=upload.size,
            origin=origin,
            checksum=None,  # this process sends no data
            if_generation_match=0,
        )
        return str(address)


def browser_origin() -> str:
    """Return scheme and host at which browsers reach Cloud Storage."""
    url = urlsplit(os.environ.get("STORAGE_EMULATOR_HOST") or "https://storage.googleapis.com")
    return f"{url.scheme}://{url.netloc}"


def _upload(blob: "Blob") -> Upload:
    return Upload(
        bucket=blob.bucket.name,
        name=blob.name,
        generation=int(blob.generation or 0),
        size=int(blob.size or 0),
        content_type=blob.content_type or "",
        metadata=blob.metadata or {},
    )


class _Bounded(io.BytesIO):
    """A buffer that accepts at most MAX_MB."""

    def __init__(self, max_mb: int) -> None:
        super().__init__()
        self._max_mb = max_mb

    def write(self, data: Any) -> int:
        if _mib(self.tell() + len(data)) > self._max_mb:
            raise content_encoding.too_large(self._max_mb)
        return super().write(data)


def _mib(size: int) -> float:
    return size / (1024 * 1024)


def check_size(size: int, settings: Settings) -> None:
    """Raise Rejected if `size` bytes exceed MAX_MB."""
    if _mib(size) > settings.max_mb:
        raise Rejected(
            "too_many_bytes",
            f"The picture has {_mib(size):.1f} MiB; the limit is {settings.max_mb} MiB.",
            "Send a smaller file, or raise MAX_MB.",
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        )
