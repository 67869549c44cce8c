"""Cloud Storage: read the source, publish the pictures, quarantine, and delete the source last of all.

Every operation names the generation it means, so that a newer upload under the same name is never touched.
What this raises is a passing fault, except `Rejected`; object names are only ever sent, never interpreted.
"""

import base64
import datetime as dt
import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import cached_property
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, TypeVar

from dropcap.analysis import Published
from dropcap.deadline import within
from dropcap.errors import Passing, Rejected
from dropcap.naming import COPIES, OWNER
from dropcap.settings import Settings
from dropcap.upload import LONGEST_NAME, Upload, is_object, owner

if TYPE_CHECKING:
    from google.cloud.storage import Blob, Client

T = TypeVar("T")

CONNECT_S = 5
PAGE = 500  # objects of one listing: about 1 MB of them
LARGEST_METADATA = 8192  # bytes, keys and values: cloud.google.com/storage/quotas#objects
# A copied token would open the published picture to whoever had the source's address.
PRIVATE_METADATA = frozenset({"firebaseStorageDownloadTokens", OWNER, COPIES})
NO_MARKS: Mapping[str, str] = {}


class NotStored(Passing):
    """What must be in a bucket is not there as it was written: the source stays, the event comes again."""


class Buckets:
    """The four buckets of the settings, through one client that is made when first needed."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    @cached_property
    def client(self) -> "Client":
        """Google's own client: 33 MB that get_progress_stats never pays."""
        from google.cloud.storage import Client

        return Client()

    def blob(self, bucket: str, name: str) -> "Blob":
        """The object of this name, whether it is there or not."""
        return self.client.bucket(bucket).blob(name)

    def ask(self, call: Callable[..., T], **options: Any) -> T:
        """What the call returns or raises, repetitions included; TimeoutError after STORAGE_TIMEOUT_S."""
        from google.cloud.storage.retry import DEFAULT_RETRY

        seconds = self.settings.storage_timeout_s
        options |= {"timeout": (CONNECT_S, seconds), "retry": DEFAULT_RETRY.with_timeout(seconds)}
        return within(seconds, lambda: call(**options))

    def find(self, bucket: str, name: str, user: str) -> Upload:
        """The present generation of an object of the uploads bucket that is this user's.

        Raises Rejected where the bucket is another one or the object does not exist; somebody else's is
        refused in the same words without a look, so that nobody learns which names others have.
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
        if owner(name) != user or not is_object(name):
            raise none
        blob = self.blob(bucket, name)
        try:
            self.ask(blob.reload)
        except NotFound as missing:
            raise none from missing
        return _upload(blob)

    def current(self, upload: Upload) -> Upload:
        """The upload with all that the bucket knows of it; as it is given where this generation is gone."""
        blob = self._live(upload)
        return _upload(blob) if blob else upload

    def pages(
        self, before: dt.datetime, start: str | None = None, end: str | None = None
    ) -> Iterator[list[Upload]]:
        """The objects of the uploads bucket that were there `before`, without content types, page by page.

        By name, from `start` on and up to `end`, where these are given.
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
        """The bytes of exactly this generation, as stored.

        Raises Rejected where it is larger than MAX_MB, or gone: deleted, or replaced by a newer upload.
        """
        from google.api_core.exceptions import NotFound, PreconditionFailed

        check_size(upload.size, self.settings)
        blob = self.blob(upload.bucket, upload.name)
        try:
            # raw: a gzip-encoded object must not unfold beyond the size that was checked
            data = self.ask(blob.download_as_bytes, raw_download=True, if_generation_match=upload.generation)
        except (NotFound, PreconditionFailed) as gone:
            if self._live(upload):
                raise NotStored(f"{upload.id} could not be read, and is there.") from gone
            raise Rejected(
                "gone",
                "The upload was deleted or replaced before it was read.",
                "Upload it again if it is still wanted.",
                HTTPStatus.NOT_FOUND,
            ) from gone
        return bytes(data)

    def published(self, upload: Upload) -> dict[str, int]:
        """What is published of an upload: generations by object name."""
        client, bucket = self.client, self.settings.pictures_bucket
        blobs = self.ask(lambda **bounds: list(client.list_blobs(bucket, prefix=f"{upload.id}/", **bounds)))
        return {blob.name: int(blob.generation) for blob in blobs}

    def publish(
        self,
        upload: Upload,
        label: str,
        data: bytes,
        content_type: str,
        size: tuple[int, int],
        before: Mapping[str, int],
        marks: Mapping[str, str] = NO_MARKS,
    ) -> Published:
        """Write one resized picture, `size` = (width, height) px; the same upload gives the same name.

        Its metadata are the upload's, with `marks` of our own; where both are too much, the marks alone.
        `before` is what was `published` before we claimed the upload. Nothing else is replaced: whoever took
        the claim from us has published since, and recorded it. Raises NotStored where what is stored is not
        what was sent.
        """
        from google.api_core.exceptions import PreconditionFailed

        name = f"{upload.id}/{label}.{content_type.removeprefix('image/')}"
        blob = self.blob(self.settings.pictures_bucket, name)
        given = {k: v for k, v in upload.metadata.items() if k not in PRIVATE_METADATA}
        fits = not marks or _bytes(given) + _bytes(marks) <= LARGEST_METADATA
        blob.metadata = (given if fits else {}) | dict(marks)
        blob.cache_control = self.settings.cache_control
        known = before.get(name, 0)  # 0: there is none
        try:
            self.ask(blob.upload_from_string, data=data, content_type=content_type, if_generation_match=known)
        except PreconditionFailed:
            # The same bytes are as good: our own, perhaps, whose answer was lost.
            self.ask(blob.reload)
        checksum = base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()
        published = Published(label, name, *size, len(data), content_type, checksum)
        self._check(published, blob)
        return published

    @staticmethod
    def _check(expected: Published, blob: "Blob") -> None:
        if (blob.size, blob.md5_hash) != (expected.bytes, expected.md5):
            raise NotStored(f"{expected.object} is not stored as it was written.")

    def check(self, published: tuple[Published, ...]) -> None:
        """Raise NotStored unless there is at least one output and each one is stored as it was written.

        A peer deleted sources that had no output at all (firebase/extensions #3007).
        """
        from google.api_core.exceptions import NotFound

        if not published:
            raise NotStored("No picture was published.")
        for expected in published:
            blob = self.blob(self.settings.pictures_bucket, expected.object)
            try:
                self.ask(blob.reload)
            except NotFound as missing:
                raise NotStored(f"{expected.object} is no longer stored.") from missing
            self._check(expected, blob)

    def read_published(self, published: Published) -> bytes:
        """The bytes of a published picture, as it was written. Raises NotStored."""
        self.check((published,))
        blob = self.blob(self.settings.pictures_bucket, published.object)
        return bytes(self.ask(blob.download_as_bytes, raw_download=True))

    def quarantine(self, upload: Upload, rejection: Rejected) -> None:
        """Copy the source to the quarantine bucket, with the reason in its metadata."""
        self._copy(upload, self.settings.quarantine_bucket, _reason(rejection))

    def quarantine_published(self, upload: Upload, published: Published, rejection: Rejected) -> None:
        """The same with a published picture of an upload whose source is gone; under its own name."""
        blob = self._found(self.blob(self.settings.pictures_bucket, published.object))
        facts = _reason(rejection) | {"source": _address(upload)}
        quarantine = self.settings.quarantine_bucket
        if blob is None or not self._copy(_upload(blob), quarantine, facts, published.object):
            raise NotStored(f"{published.object} is no longer stored.")

    def forget_quarantined(self, published: Published) -> None:
        """Delete that copy."""
        from google.api_core.exceptions import NotFound

        with suppress(NotFound):
            self.ask(self.blob(self.settings.quarantine_bucket, published.object).delete)

    def quarantined(self, upload: Upload) -> bool:
        """Whether its copy is in quarantine; a source that was gone has none.

        Raises NotStored where the source is there and its copy is not.
        """
        kept = self._kept(upload, self.settings.quarantine_bucket)
        if not kept and self._live(upload):
            raise NotStored(f"{upload.id} is rejected and not in quarantine.")
        return kept

    def dispose(self, upload: Upload) -> str:
        """Do what SOURCE says with a source that is done: delete this generation, archive it, or keep it.

        Which of them was done, in a word: what somebody else deleted before is in no archive.
        """
        from google.api_core.exceptions import NotFound, PreconditionFailed

        if self.settings.source == "keep":
            return "kept"
        fate, archive = "deleted", self.settings.archive_bucket
        if self.settings.source == "archive":
            copied = self._copy(upload, archive, {})
            fate = "archived" if copied or self._kept(upload, archive) else fate
        # Gone already, or a newer upload has its name: that one is not ours to delete.
        with suppress(NotFound, PreconditionFailed):
            self.ask(self.blob(upload.bucket, upload.name).delete, if_generation_match=upload.generation)
        return fate

    def _copy(self, upload: Upload, bucket: str, facts: dict[str, str], name: str = "") -> bool:
        """Copy within Cloud Storage to `name`, or to `<id>/<name>`, as an earlier delivery may have done.

        Whether it was copied: False where the source is gone.
        """
        from google.api_core.exceptions import NotFound, PreconditionFailed

        target = self.blob(bucket, name or _kept_as(upload))
        target.content_type = upload.content_type or "application/octet-stream"
        facts = {"source": _address(upload)} | facts
        room = LARGEST_METADATA - _bytes(facts)  # what would not fit would be refused at every delivery
        target.metadata = (dict(upload.metadata) if _bytes(upload.metadata) <= room else {}) | facts
        source = self.blob(upload.bucket, upload.name)
        token: str | None = None
        try:
            while True:
                token, _, _ = self.ask(
                    target.rewrite, source=source, token=token, if_source_generation_match=upload.generation
                )
                if token is None:
                    return True
        except (NotFound, PreconditionFailed) as lost:
            if self._live(upload):  # then it is the target bucket that is missing
                raise NotStored(f"{upload.id} can't be copied to gs://{bucket}: does it exist?") from lost
        return False

    def _kept(self, upload: Upload, bucket: str) -> bool:
        """Whether its copy is in quarantine or archive."""
        return self._found(self.blob(bucket, _kept_as(upload))) is not None

    def _live(self, upload: Upload) -> "Blob | None":
        """The object, where this generation is still the live one."""
        return self._found(self.blob(upload.bucket, upload.name), if_generation_match=upload.generation)

    def _found(self, blob: "Blob", **conditions: int) -> "Blob | None":
        from google.api_core.exceptions import NotFound, PreconditionFailed

        try:
            self.ask(blob.reload, **conditions)
        except (NotFound, PreconditionFailed):
            return None
        return blob


def _upload(blob: "Blob") -> Upload:
    return Upload(
        bucket=blob.bucket.name,
        name=blob.name,
        generation=int(blob.generation or 0),
        size=int(blob.size or 0),
        content_type=blob.content_type or "",
        metadata=blob.metadata or {},
    )


def _address(upload: Upload) -> str:
    """Where it was; of a posted one, whose it was."""
    return f"gs://{upload.bucket}/{upload.name}" if upload.in_bucket else upload.name


def _reason(rejection: Rejected) -> dict[str, str]:
    return {"reason": rejection.code, "problem": rejection.problem, "remedy": rejection.remedy}


def _kept_as(upload: Upload) -> str:
    """The name of its copy in quarantine or archive."""
    return f"{upload.id}/{upload.name}".encode()[:LONGEST_NAME].decode(errors="ignore")


def _bytes(metadata: Mapping[str, str]) -> int:
    return sum(len(key.encode()) + len(value.encode()) for key, value in metadata.items())


def check_size(size: int, settings: Settings) -> None:
    """Raise Rejected where `size` bytes are more than MAX_MB allows."""
    if size > settings.max_mb * 1024 * 1024:
        raise Rejected(
            "too_many_bytes",
            f"The picture has {size / 1048576:.1f} MiB, and at most {settings.max_mb} MiB are taken.",
            "Send a smaller file, or raise MAX_MB.",
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        )
