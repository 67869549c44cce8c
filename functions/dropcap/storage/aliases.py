"""Aliases: copies of renditions under the names that an app expects.

`naming.py` determines the names. An alias is a copy, within the bucket, of a rendition under `<id>/`. The
metadata of the rendition names its aliases, so that an erasure finds them even after LAYOUT has changed:

    dropcap-upload   on both: generation and id of the upload; the larger value owns the name
    dropcap-copies   the names of the aliases, a JSON array

However late and often an upload is delivered, an alias belongs to the newest upload with its name, and an
erasure deletes only the upload's own aliases.
"""

import json
import logging
from collections.abc import Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from dropcap.domain.analysis import Rendition
from dropcap.domain.naming import COPIES, OWNER
from dropcap.domain.upload import Upload, is_object
from dropcap.storage.buckets import Buckets
from dropcap.storage.gcs import NotStored

logger = logging.getLogger(__name__)

if TYPE_CHECKING:
    from google.cloud.storage import Blob

REFRESHED = (
    "private, max-age=3600"  # renditions under `<id>/` never change, aliases change with the next upload
)
TRIES = 5  # each fails only if another worker has written meanwhile


def metadata_of(upload: Upload, names: list[str]) -> dict[str, str]:
    """Return the metadata of a rendition with these aliases; empty if there are none."""
    return {OWNER: _owner(upload), COPIES: json.dumps(names)} if names else {}


def _owner(upload: Upload) -> str:
    return f"{upload.generation:019d} {upload.id}"  # sorts by time, also as text


def write(buckets: Buckets, upload: Upload, picture: Rendition, names: list[str]) -> None:
    """Copy a rendition to these names, except those that a newer upload owns.

    Raises NotStored, a transient error, if another delivery is writing them.
    """
    from google.api_core.exceptions import NotFound

    if not names:
        return
    source = buckets.blob(buckets.settings.pictures_bucket, picture.object)
    try:
        buckets.ask(source.reload)
        if not names_in([source]).issuperset(names):
            raise NotStored(f"{picture.object} is stored without the names of its aliases.")
        for name in names:
            _write(buckets, upload, source, name)
    except NotFound as gone:
        raise NotStored(f"{picture.object} is no longer stored.") from gone


def _write(buckets: Buckets, upload: Upload, source: "Blob", name: str) -> None:
    from google.api_core.exceptions import NotFound, PreconditionFailed

    bucket, known = buckets.settings.pictures_bucket, 0
    for _ in range(TRIES):
        try:
            copy = buckets.blob(bucket, name)
            copy.content_type, copy.cache_control = source.content_type, source.cache_control
            if "immutable" in (source.cache_control or ""):
                copy.cache_control = REFRESHED
            copy.metadata = source.metadata
            buckets.ask(  # one call suffices within a bucket
                copy.rewrite,
                source=source,
                if_generation_match=known,
                if_source_generation_match=source.generation,
            )
            return
        except PreconditionFailed:
            there = buckets.blob(bucket, name)
            try:
                buckets.ask(there.reload)
            except NotFound:
                known = 0
                continue
            owner = (there.metadata or {}).get(OWNER, "")
            if owner > _owner(upload):
                logger.info(
                    "a newer upload has the name",
                    extra={"event": "alias_superseded", "upload": str(upload.id), "object": name},
                )
                return
            if owner == _owner(upload) and there.md5_hash == source.md5_hash:
                return
            known = int(there.generation or 0)
    raise NotStored(f"{name} could not be written: other deliveries are writing it.")


def names_in(blobs: "Iterable[Blob]") -> set[str]:
    """Return the names of the aliases in the metadata of these objects."""
    names: set[str] = set()
    for blob in blobs:
        with suppress(ValueError, TypeError):  # earlier revisions copied the uploader's own metadata
            names |= {*filter(is_object, map(str, json.loads((blob.metadata or {}).get(COPIES, "[]"))))}
    return names


def owned(buckets: Buckets, upload: Upload, names: Iterable[str]) -> "list[Blob]":
    """Return those of these aliases that the upload owns, in all their versions."""
    found: list[Blob] = []
    for name in sorted(names):

        def versions(name: str = name, **bounds: Any) -> "list[Blob]":
            bucket, end = buckets.settings.pictures_bucket, f"{name}\x00"
            return list(
                buckets.client.list_blobs(bucket, prefix=name, end_offset=end, versions=True, **bounds)
            )

        found += [
            blob
            for blob in buckets.ask(versions)
            if blob.name == name and (blob.metadata or {}).get(OWNER) == _owner(upload)
        ]
    return found
