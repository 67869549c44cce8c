"""What was uploaded, by whom, and what we call it. Object names are hostile: they are compared, never run."""

import hashlib
import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from fnmatch import fnmatchcase
from http import HTTPStatus
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from dropcap.domain.temporary_names import is_temporary
from dropcap.errors import Rejected

ANONYMOUS = "anonymous"  # the user of an upload that lies in no folder
INT64 = 2**63 - 1  # generations and sizes: cloud.google.com/storage/docs/json_api/v1/objects
FINALIZED = "google.cloud.storage.object.v1.finalized"  # cloud.google.com/eventarc/docs/reference
RESIZED = "resizedImage"  # metadata by which Firebase's Resize Images knows its own outputs, of any size
DESCRIBE, LATER = "describe", "later"  # metadata of an upload whose description may wait
LONGEST_NAME = 1024  # bytes of an object's name: cloud.google.com/storage/docs/objects#naming
# A user is a folder: with a slash, "ana/x" could write as "ana"; "." and ".." lead to another folder.
# Surrogates are not valid UTF-8.
USER_NAME = re.compile(r"(?!\.\.?\Z)[^\x00-\x1f\x7f/\ud800-\udfff]{1,128}")
# BCP 47: language, script, region. No variants: subtags of eight letters could be words to a model.
LANGUAGE = re.compile(r"([a-z]{2,3})(-[a-z]{4})?(-[a-z]{2}|-[0-9]{3})?", re.ASCII | re.IGNORECASE)


class UploadState(StrEnum):
    """The states of an upload, as stored in `uploads.state`."""

    LEASED = "claimed"  # a worker has its lease, or had it when the lease expired or was released
    HELD = "held"  # waits for a verdict on its safety; the source stays (describing/moderation.py)
    RECORDED = "recorded"  # the analysis is committed; the source is to be disposed of
    REJECTED = "rejected"  # the rejection is committed; the source is to be disposed of
    DELETED = "deleted"  # deleted by its user; what is stored of it is to be erased (erasure.py)
    DONE = "done"  # nothing is left to do
    BUSY = "busy"  # never stored: another worker has the lease


@dataclass(frozen=True, slots=True)
class Upload:
    """One object generation in a bucket, or one posted picture (`bucket` empty, `generation` 0).

    `size` is in bytes. `user` is the first folder of the name, exactly; a name that has none, or one that
    can't be a user's, is credited to the anonymous user, never to another one.
    """

    bucket: str
    name: str
    generation: int
    size: int
    content_type: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)

    @property
    def id(self) -> uuid.UUID:
        """Return the id: the same for every delivery of this generation, and unique to it."""
        return uuid.uuid5(uuid.NAMESPACE_URL, f"gs://{self.bucket}/{self.name}#{self.generation}")

    @property
    def user(self) -> str:
        return owner(self.name)

    @property
    def time_zone(self) -> str | None:
        """Return the IANA time zone in the upload's metadata (`tz`), or None if there is no valid one."""
        zone = self.metadata.get("tz", "")
        try:
            return ZoneInfo(zone).key if zone else None
        except (ZoneInfoNotFoundError, ValueError, OSError):
            return None

    @property
    def language(self) -> str | None:
        """Return the language of the upload's metadata (`language`); None if it is not a language tag."""
        return language_tag(self.metadata.get("language", ""))

    @property
    def describe_later(self) -> bool:
        """Return whether the upload's metadata (`describe=later`) lets its description wait for a batch."""
        return self.metadata.get(DESCRIBE) == LATER

    @property
    def in_bucket(self) -> bool:
        return bool(self.bucket)

    def wanted(self, include: tuple[str, ...], exclude: tuple[str, ...]) -> bool:
        """Return whether to process the object: it is not empty, not a folder marker, an output of Resize
        Images or a temporary object of a tool, and INCLUDE and EXCLUDE choose it."""
        if self.name.endswith("/") or self.size == 0 or self.metadata.get(RESIZED) == "true":
            return False
        if is_temporary(self.name) or any(_fits(self.name, pattern) for pattern in exclude):
            return False
        return any(_fits(self.name, pattern) for pattern in include)

    def to_json(self) -> dict[str, Any]:
        return {"bucket": self.bucket, "name": self.name, "generation": self.generation}


def _fits(name: str, pattern: str) -> bool:
    """Return whether a name matches: `*` is any characters, slashes included, `?` any one, the rest literal.

    fnmatch would treat `[...]` as a character class, and leave `[private]/a.jpg` unprotected.
    """
    return fnmatchcase(name, pattern.replace("[", "[[]"))


def is_user(name: str) -> bool:
    """Return whether this can be a user's name: 1 to 128 characters, no slash or control character, not `.`
    or `..`."""
    return USER_NAME.fullmatch(name) is not None


def is_object(name: str) -> bool:
    """Return whether an object can have this name; clients resolve "." and ".." as path segments."""
    try:
        return 0 < len(name.encode()) <= LONGEST_NAME and name not in (".", "..") and not {*name} & {*"\r\n"}
    except UnicodeEncodeError:  # a lone surrogate can be in JSON, but in no name
        return False


def language_tag(text: str) -> str | None:
    """Return the text as a BCP 47 tag in its usual form (`pt-BR`, `zh-Hant`); None if it is not one."""
    found = LANGUAGE.fullmatch(text)
    if not found:
        return None
    language, script, region = (part or "" for part in found.groups())
    return language.lower() + script.title() + region.upper()


def owner(name: str) -> str:
    """Return the user that owns an object: its first folder if that can be a user's name."""
    folder, slash, _ = name.partition("/")
    return folder if slash and is_user(folder) else ANONYMOUS


def from_event(data: Mapping[str, Any]) -> Upload:
    """Return the upload that a Cloud Storage event (`StorageObjectData`) describes.

    Raises Rejected if the event lacks bucket, name or generation.
    """
    try:
        metadata = data.get("metadata") or {}
        upload = Upload(
            bucket=str(data["bucket"]),
            name=str(data["name"]),
            generation=int(data["generation"]),
            size=int(data.get("size", 0)),
            content_type=str(data.get("contentType", "")),
            metadata={str(key): str(value) for key, value in metadata.items()},
        )
        if not (is_object(upload.name) and 0 < upload.generation <= INT64 and 0 <= upload.size <= INT64):
            raise ValueError(upload.generation)
        return upload
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as wrong:  # int(1e999) overflows
        raise Rejected(
            "not_a_storage_event",
            "The event does not describe a Cloud Storage object.",
            f"Send a {FINALIZED} event with bucket, name, generation and size.",
            HTTPStatus.BAD_REQUEST,
        ) from wrong


def posted(body: bytes, user: str, content_type: str, time_zone: str = "", language: str = "") -> Upload:
    """Return the upload for a posted picture; identical bytes of a user are one upload."""
    return Upload(
        bucket="",
        name=f"{user}/{hashlib.sha256(body).hexdigest()}",
        generation=0,
        size=len(body),
        content_type=content_type,
        metadata={name: value for name, value in (("tz", time_zone), ("language", language)) if value},
    )
