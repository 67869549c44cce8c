"""Erase a picture for its user: first it becomes invisible, then every stored object is deleted.

    gallery/edits.py   one transaction deletes its analysis, texts, sums and achievements; its row in
                       `uploads` loses the user and enters the state `deleted`, but still names the objects
    _delete_objects    deletes renditions, aliases, the copies in quarantine and archive, the source
    _make_tombstone    clears the row, which is then `done`, and deletes the receipt

At no moment is a picture shown without its parts, or an object stored that no row names. A crash leaves a row
that is not done. The next deletion by the user, a late delivery, and reconcile each start again from the
first step, because every step is idempotent.

A tombstone is an id, which is a hash, and some timestamps. Without it, a late event would count as a new
upload. Posted pictures have no events, so their rows are deleted, and they may be posted again.

Some data outlives the erasure as configured: objects in buckets with soft delete (7 days, as `make deploy`
creates them), backups of the database, logs, copies in browsers, and the pictures of a batch at Google, until
it is collected.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dropcap.database import receipts
from dropcap.database.transactions import Executor
from dropcap.domain.analysis import Rendition
from dropcap.domain.records import read
from dropcap.domain.upload import Upload, UploadState
from dropcap.services import Services
from dropcap.storage import aliases
from dropcap.storage.buckets import Buckets

if TYPE_CHECKING:
    from google.cloud.storage import Blob

STANDS = (
    "SELECT u.state, a.result->'pictures' FROM uploads u LEFT JOIN analyses a USING (id) WHERE u.id = :id"
)


def erase(upload: Upload, services: Services) -> dict[str, Any] | None:
    """Erase an upload whose row is in the state `deleted`, and make the row a tombstone.

    Returns its receipt for the last time, if there was one; `erased_at` is the time of the erasure. All
    errors are transient: the next call continues.
    """
    _delete_objects(upload, services.buckets)
    return _make_tombstone(upload, services)


def unpublish(upload: Upload, buckets: Buckets, known: Mapping[str, int] | None = None) -> None:
    """Delete the renditions of an upload, with their aliases: those in `known`, by generation, or all."""
    if known == {}:
        return
    stored = _objects(buckets.settings.pictures_bucket, upload, buckets)
    stored = [blob for blob in stored if known is None or known.get(blob.name) == blob.generation]
    names = aliases.names_in(stored)
    buckets.delete(*aliases.owned(buckets, upload, names))  # first, because only the renditions name them
    buckets.delete(*stored)
    buckets.delete(*aliases.owned(buckets, upload, names))  # created meanwhile; no more can follow


def unpublish_unrecorded(upload: Upload, services: Services) -> None:
    """Delete the renditions of an upload that are not recorded, unless another worker holds the lease.

    Called by a worker that lost its lease and may have published since: others, who rejected, held or deleted
    the upload meanwhile, could not see those renditions.
    """
    known = services.buckets.published(upload)  # first: what a later worker publishes is not in it
    [[state, pictures]] = services.database.query(STANDS, id=upload.id) or [["", None]]
    if state != UploadState.LEASED:
        named = {each.object for each in read(tuple[Rendition, ...], pictures)}
        unpublish(upload, services.buckets, {name: known[name] for name in known.keys() - named})


def _delete_objects(upload: Upload, buckets: Buckets) -> None:
    unpublish(upload, buckets)
    bucket_names = {buckets.settings.quarantine_bucket, buckets.settings.archive_bucket} - {""}
    stored = [blob for bucket in sorted(bucket_names) for blob in _objects(bucket, upload, buckets)]
    if upload.in_bucket:
        stored.append(buckets.blob(upload.bucket, upload.name, upload.generation))
    buckets.delete(*stored)


def _objects(bucket: str, upload: Upload, buckets: Buckets) -> "list[Blob]":
    """Return all objects of an upload in a bucket, which need not exist.

    They have generations: in a bucket with versioning, a delete without one leaves a noncurrent version.
    """
    from google.api_core.exceptions import NotFound

    def listing(**bounds: Any) -> "list[Blob]":
        return list(buckets.client.list_blobs(bucket, prefix=f"{upload.id}/", versions=True, **bounds))

    try:
        return buckets.ask(listing)
    except NotFound:
        return []


def _make_tombstone(upload: Upload, services: Services) -> dict[str, Any] | None:
    def work(run: Executor) -> list[list[Any]]:
        run(
            "UPDATE uploads SET state = 'done', finished_at = now(), source_kept = false, "
            "bucket = '', name = '', generation = 0, size = 0 "
            "WHERE id = :id AND state = :deleted RETURNING id"
            if upload.in_bucket
            else "DELETE FROM uploads WHERE id = :id AND state = :deleted RETURNING id",
            id=upload.id,
            deleted=UploadState.DELETED.value,
        )
        return run(receipts.DELETE, id=upload.id)

    rows = services.database.transaction(work)
    return receipts.to_json(rows[0][:-1]) | {"erased_at": rows[0][-1].isoformat()} if rows else None
