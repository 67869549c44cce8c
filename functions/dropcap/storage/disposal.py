"""Dispose of sources: copy them to quarantine or archive, and delete them last."""

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING

from dropcap.domain.analysis import Rendition
from dropcap.domain.upload import LONGEST_NAME, Upload
from dropcap.errors import Rejected, TransientError
from dropcap.storage import metadata
from dropcap.storage.gcs import Gcs, NotStored

logger = logging.getLogger(__name__)

if TYPE_CHECKING:
    from google.cloud.storage import Blob

GONE = "gone"  # code for a source that was deleted or replaced before it was read


class Undeletable(TransientError):
    """Transient error: the bucket refuses a deletion. The sweep retries it; a redelivery would not help."""


class Kept(Gcs):
    """Access to sources, and to their copies in quarantine and archive."""

    def quarantine(self, upload: Upload, rejection: Rejected) -> None:
        """Copy the source to the quarantine bucket, with the reason in its metadata.

        What was gone stays as it is: where the bucket keeps versions, somebody has deleted this one.
        """
        if rejection.code != GONE:
            facts = metadata.reason(rejection) | metadata.source(upload)
            self._copy(self._source(upload), self.settings.quarantine_bucket, _kept_as(upload), facts)

    def quarantine_published(self, upload: Upload, published: Rendition, rejection: Rejected) -> bool:
        """Copy a published picture to quarantine, under its own name, if the upload's source is gone.

        An archived original moves from the archive to quarantine; returns whether it is only there now. If a
        policy keeps it in the archive, the published pictures are still withdrawn.
        """
        source = self.blob(self.settings.pictures_bucket, published.object)
        facts = metadata.reason(rejection) | metadata.source(upload)
        if not self._copy(source, self.settings.quarantine_bucket, published.object, facts):
            raise NotStored(f"{published.object} is no longer stored.")
        if not self.settings.archive_bucket:
            return False
        original = self.blob(self.settings.archive_bucket, _kept_as(upload))
        if self._copy(original, self.settings.quarantine_bucket, original.name, facts):
            try:
                self.delete(original)
            except Undeletable as stays:
                problem = str(stays)
                logger.error(
                    "an unsafe original stays in the archive",
                    extra={"event": "unsafe_original_kept", "upload": str(upload.id), "problem": problem},
                )
                return False
        return self._kept(upload, self.settings.quarantine_bucket)

    def forget_quarantined(self, upload: Upload, published: Rendition) -> None:
        """Delete that copy from quarantine for good."""
        for name in (published.object, _kept_as(upload)):
            if copy := self._found(self.blob(self.settings.quarantine_bucket, name)):
                self.delete(copy)

    def quarantined(self, upload: Upload) -> bool:
        """Return whether the copy is in quarantine; a source that was gone has none.

        Raises NotStored if the source exists and its copy does not.
        """
        kept = self._kept(upload, self.settings.quarantine_bucket)
        if not kept and self._live(upload):
            raise NotStored(f"{upload.id} is rejected and not in quarantine.")
        return kept

    def dispose(self, upload: Upload, analyzed: bool) -> str:
        """Dispose of a finished source as SOURCE says: delete this generation, archive it, or keep it.

        An upload that is not `analyzed` is in quarantine, and is not archived. Returns what was done, in a
        word: a source that somebody else had deleted is not archived either. Raises Undeletable.
        """
        if self.settings.source == "keep":
            return "kept"
        fate, archive = "deleted" if analyzed else "quarantined", self.settings.archive_bucket
        if analyzed and self.settings.source == "archive":
            copied = self._copy(self._source(upload), archive, _kept_as(upload), metadata.source(upload))
            fate = "archived" if copied or self._kept(upload, archive) else fate
        self.delete(self._source(upload))
        return fate

    def delete(self, *blobs: "Blob") -> None:
        """Delete these generations for good; it is fine if one is gone or a newer one has its name.

        Raises Undeletable if one can't be deleted, after the others are deleted.
        """
        from google.api_core.exceptions import Forbidden, NotFound

        stays: Undeletable | None = None
        for blob in blobs:
            try:
                self.ask(blob.delete)
            except NotFound:
                continue
            except Forbidden as refused:
                stays = Undeletable(
                    f"gs://{blob.bucket.name}/{blob.name} can't be deleted: {refused.message}"
                )
                stays.__cause__ = refused
        if stays:
            raise stays

    def _source(self, upload: Upload) -> "Blob":
        return self.blob(upload.bucket, upload.name, upload.generation)

    def _copy(self, source: "Blob", bucket: str, name: str, facts: Mapping[str, str]) -> bool:
        """Copy within Cloud Storage, as it is stored, as an earlier delivery may have done; with our `facts`.

        Whether it was copied: False where the source is gone.
        """
        from google.api_core.exceptions import Forbidden, NotFound

        if not self._found(source):
            return False
        target = self.blob(bucket, name)
        # Where one is given, none is taken over: cloud.google.com/storage/docs/json_api/v1/objects/rewrite
        target.content_type = source.content_type or "application/octet-stream"
        target.content_encoding, target.content_language = source.content_encoding, source.content_language
        target.content_disposition = source.content_disposition
        target.metadata = metadata.beside(source.metadata or {}, facts)
        token: str | None = None
        try:
            while True:
                token, _, _ = self.ask(target.rewrite, source=source, token=token)
                if token is None:
                    return True
        except NotFound as lost:
            if self._found(source):  # then it is the target bucket that is missing
                raise NotStored(f"{name} can't be copied to gs://{bucket}: does it exist?") from lost
        except Forbidden:
            # A retention policy or a hold keeps what an earlier delivery has copied.
            if not (self._found(target) and target.crc32c == source.crc32c):
                raise
            return True
        return False

    def _kept(self, upload: Upload, bucket: str) -> bool:
        """Return whether the copy is in quarantine or archive."""
        return self._found(self.blob(bucket, _kept_as(upload))) is not None

    def _live(self, upload: Upload) -> "Blob | None":
        """Return the object if this generation is still the live one."""
        return self._found(self.blob(upload.bucket, upload.name), if_generation_match=upload.generation)


def _kept_as(upload: Upload) -> str:
    """Return the name of the copy in quarantine or archive."""
    return f"{upload.id}/{upload.name}".encode()[:LONGEST_NAME].decode(errors="ignore")
