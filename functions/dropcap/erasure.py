"""A picture is deleted by its user: first nobody can see it any more, then nothing of it is stored.

    edits.py    one transaction: its analysis, words, sums and achievements are gone; the upload's row is
                  nobody's and in the state `deleted`, but still tells where the objects lie
    _erase        the published pictures and their copies, those in quarantine and archive, the source
    _forget       the row tells nothing any more: a tombstone, which is `done`; its receipt goes, too

So at no moment is a picture shown without its parts, or is something stored that no row tells of. Whoever
dies in between leaves a row that is not done: who deletes the picture again, a late delivery and the sweep
all go on with it, from its beginning, as each step may be repeated.

The tombstone is an id, which is a hash, and some times: without it, an event that is delivered late would be
that of a new upload. No event can come of a posted picture, so its row goes, and it may be posted again.

What is not ours to delete stays as long as it is set to: objects where the bucket has soft delete (7 days, as
`make deploy` makes them), backups of the database, logs, and copies in browsers.
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


def finish(upload: Upload, services: Services) -> dict[str, Any] | None:
    """Erase all that is stored of an upload whose row is in the state `deleted`, and make it a tombstone.

    Its receipt, if there was one, for the last time: `erased_at` is when everything was gone. What this
    raises is a passing fault: the next to come goes on.
    """
    _erase(upload, services.buckets)
    return _forget(upload, services)


def unpublish(upload: Upload, buckets: Buckets, known: Mapping[str, int] | None = None) -> None:
    """Delete what is published of an upload, with its copies: of what is `known`, by generation, or all."""
    if known == {}:
        return
    stored = _stored(buckets.settings.pictures_bucket, upload, buckets)
    stored = [blob for blob in stored if known is None or known.get(blob.name) == blob.generation]
    names = aliases.names_of(stored)
    buckets.delete(*aliases.own(buckets, upload, names))  # first: the others are all that tells of them
    buckets.delete(*stored)
    buckets.delete(*aliases.own(buckets, upload, names))  # made meanwhile; now none can be


def withdraw(upload: Upload, services: Services) -> None:
    """Delete what is published of an upload beside what is recorded, unless somebody is at work on it.

    For a worker that has lost its lease, and has published since: what others have rejected, held or deleted
    meanwhile they could not see.
    """
    known = services.buckets.published(upload)  # first: what a later worker publishes is not in it
    [[state, pictures]] = services.database.query(STANDS, id=upload.id) or [["", None]]
    if state != UploadState.LEASED:
        named = {each.object for each in read(tuple[Rendition, ...], pictures)}
        unpublish(upload, services.buckets, {name: known[name] for name in known.keys() - named})


def _erase(upload: Upload, buckets: Buckets) -> None:
    unpublish(upload, buckets)
    places = {buckets.settings.quarantine_bucket, buckets.settings.archive_bucket} - {""}
    stored = [blob for bucket in sorted(places) for blob in _stored(bucket, upload, buckets)]
    if upload.in_bucket:
        stored.append(buckets.blob(upload.bucket, upload.name, upload.generation))
    buckets.delete(*stored)


def _stored(bucket: str, upload: Upload, buckets: Buckets) -> "list[Blob]":
    """All objects of an upload in a bucket, which need not exist.

    Each with its generation: where the bucket keeps versions, a delete without one would leave another.
    """
    from google.api_core.exceptions import NotFound

    def listing(**bounds: Any) -> "list[Blob]":
        return list(buckets.client.list_blobs(bucket, prefix=f"{upload.id}/", versions=True, **bounds))

    try:
        return buckets.ask(listing)
    except NotFound:
        return []


def _forget(upload: Upload, services: Services) -> dict[str, Any] | None:
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
