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


class DeletionRefused(TransientError):
    """Transient error: the bucket refuses a deletion. Reconcile retries it; a redelivery would not help."""


class Disposal(Gcs):
    """Access to sources, and to their copies in quarantine and archive."""

    def quarantine(self, upload: Upload, rejection: Rejected) -> None:
        """Copy the source to the quarantine bucket, with the reason in its metadata.

        A source that is gone is not copied, even if the bucket still has it as a noncurrent version.
        """
        if rejection.code != GONE:
            facts = metadata.reason(rejection) | metadata.source(upload)
            self._copy(self._source(upload), self.settings.quarantine_bucket, _copy_name(upload), facts)

    def quarantine_published(self, upload: Upload, published: Rendition, rejection: Rejected) -> bool:
        """Copy a published picture to quarantine, under its own name, if the upload's source is gone.

        An archived original moves from the archive to quarantine; returns whether that move is complete. If a
        retention policy keeps it in the archive, the renditions are still unpublished.
        """
        source = self.blob(self.settings.pictures_bucket, published.object)
        facts = metadata.reason(rejection) | metadata.source(upload)
        if not self._copy(source, self.settings.quarantine_bucket, published.object, facts):
            raise NotStored(f"{published.object} is no longer stored.")
        if not self.settings.archive_bucket:
            return False
        original = self.blob(self.settings.archive_bucket, _copy_name(upload))
        if self._copy(original, self.settings.quarantine_bucket, original.name, facts):
            try:
                self.delete(original)
            except DeletionRefused as stays:
                problem = str(stays)
                logger.error(
                    "an unsafe original stays in the archive",
                    extra={"event": "unsafe_original_kept", "upload": str(upload.id), "problem": problem},
                )
                return False
        return self._has_copy(upload, self.settings.quarantine_bucket)

    def forget_quarantined(self, upload: Upload, published: Rendition) -> None:
        """Delete the copies from quarantine permanently."""
        for name in (published.object, _copy_name(upload)):
            if copy := self._found(self.blob(self.settings.quarantine_bucket, name)):
                self.delete(copy)

    def quarantined(self, upload: Upload) -> bool:
        """Return whether the copy is in quarantine; a source that was gone has none.

        Raises NotStored if the source exists and its copy does not.
        """
        kept = self._has_copy(upload, self.settings.quarantine_bucket)
        if not kept and self._live(upload):
            raise NotStored(f"{upload.id} is rejected and not in quarantine.")
        return kept

    def dispose(self, upload: Upload, analyzed: bool) -> str:
        """Dispose of a finished source as SOURCE says: delete this generation, archive it, or keep it.

        An upload that is not `analyzed` is in quarantine, and is not archived. Returns what was done, in one
        word; a source that somebody else has deleted is not archived either. Raises DeletionRefused.
        """
        if self.settings.source == "keep":
            return "kept"
        disposition, archive = "deleted" if analyzed else "quarantined", self.settings.archive_bucket
        if analyzed and self.settings.source == "archive":
            copied = self._copy(self._source(upload), archive, _copy_name(upload), metadata.source(upload))
            disposition = "archived" if copied or self._has_copy(upload, archive) else disposition
        self.delete(self._source(upload))
        return disposition

    def delete(self, *blobs: "Blob") -> None:
        """Delete these generations permanently. One that is gone is ignored; newer ones stay.

        Raises DeletionRefused if one can't be deleted, after the others are deleted.
        """
        from google.api_core.exceptions import Forbidden, NotFound

        stays: DeletionRefused | None = None
        for blob in blobs:
            try:
                self.ask(blob.delete)
            except NotFound:
                continue
            except Forbidden as refused:
                stays = DeletionRefused(
                    f"gs://{blob.bucket.name}/{blob.name} can't be deleted: {refused.message}"
                )
                stays.__cause__ = refused
        if stays:
            raise stays

    def _source(self, upload: Upload) -> "Blob":
        return self.blob(upload.bucket, upload.name, upload.generation)

    def _copy(self, source: "Blob", bucket: str, name: str, facts: Mapping[str, str]) -> bool:
        """Copy an object as it is stored, with our `facts` in its metadata; an earlier copy is replaced.

        Returns False if the source is gone.
        """
        from google.api_core.exceptions import Forbidden, NotFound

        if not self._found(source):
            return False
        target = self.blob(bucket, name)
        # If any of these is set, none is inherited: cloud.google.com/storage/docs/json_api/v1/objects/rewrite
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
            if self._found(source):  # then the target bucket is missing
                raise NotStored(f"{name} can't be copied to gs://{bucket}: does it exist?") from lost
        except Forbidden:
            # A retention policy or a hold keeps the copy of an earlier delivery.
            if not (self._found(target) and target.crc32c == source.crc32c):
                raise
            return True
        return False

    def _has_copy(self, upload: Upload, bucket: str) -> bool:
        """Return whether the copy is in quarantine or archive."""
        return self._found(self.blob(bucket, _copy_name(upload))) is not None

    def _live(self, upload: Upload) -> "Blob | None":
        """Return the object if this generation is still the live one."""
        return self._found(self.blob(upload.bucket, upload.name), if_generation_match=upload.generation)


def _copy_name(upload: Upload) -> str:
    """Return the name of the copy in quarantine or archive."""
    return f"{upload.id}/{upload.name}".encode()[:LONGEST_NAME].decode(errors="ignore")
