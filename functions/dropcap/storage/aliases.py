"""Copies of the published pictures under names that an app knows: made, replaced by newer uploads, erased.

`naming.py` says which. A copy is made within the bucket of what lies under `<id>/`, which tells of it in its
metadata, so that a deletion finds it whatever LAYOUT is by then:

    dropcap-upload   on both: generation and id of the upload; the larger has the name
    dropcap-copies   the names of the copies, a JSON array

So however late, and however often, an upload is delivered: a copy is of the newest upload that wants its
name, and what is erased with an upload are its own copies alone.
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

REFRESHED = "private, max-age=3600"  # for what never changes under `<id>/`, and here with the next upload
TRIES = 5  # each fails only where another has written meanwhile


def marks(upload: Upload, names: list[str]) -> dict[str, str]:
    """The metadata that a picture with these copies has; none without copies."""
    return {OWNER: _owner(upload), COPIES: json.dumps(names)} if names else {}


def _owner(upload: Upload) -> str:
    return f"{upload.generation:019d} {upload.id}"  # in the order of time also as text


def place(buckets: Buckets, upload: Upload, picture: Rendition, names: list[str]) -> None:
    """Copy a published picture to these names, but for those that a newer upload has.

    Raises NotStored where another delivery is at it; that is a passing fault.
    """
    from google.api_core.exceptions import NotFound

    if not names:
        return
    source = buckets.blob(buckets.settings.pictures_bucket, picture.object)
    try:
        buckets.ask(source.reload)
        if not names_of([source]).issuperset(names):
            raise NotStored(f"{picture.object} is stored without word of its copies.")
        for name in names:
            _place(buckets, upload, source, name)
    except NotFound as gone:
        raise NotStored(f"{picture.object} is no longer stored.") from gone


def _place(buckets: Buckets, upload: Upload, source: "Blob", name: str) -> None:
    from google.api_core.exceptions import NotFound, PreconditionFailed

    bucket, known = buckets.settings.pictures_bucket, 0
    for _ in range(TRIES):
        try:
            copy = buckets.blob(bucket, name)
            copy.content_type, copy.cache_control = source.content_type, source.cache_control
            if "immutable" in (source.cache_control or ""):
                copy.cache_control = REFRESHED
            copy.metadata = source.metadata
            buckets.ask(  # in one call, as it is within one bucket
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
    raise NotStored(f"{name} could not be written: others write it.")


def names_of(blobs: "Iterable[Blob]") -> set[str]:
    """The names of the copies that these objects tell of."""
    names: set[str] = set()
    for blob in blobs:
        with suppress(ValueError, TypeError):  # an upload's own metadata, as code before this copied them
            names |= {*filter(is_object, map(str, json.loads((blob.metadata or {}).get(COPIES, "[]"))))}
    return names


def own(buckets: Buckets, upload: Upload, names: Iterable[str]) -> "list[Blob]":
    """Of these copies those that are this upload's, each of their versions."""
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
