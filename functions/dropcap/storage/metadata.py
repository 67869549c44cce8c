"""Custom metadata of objects: only the uploader's own is published.

Keys that Dropcap writes begin with `dropcap-`: `dropcap-upload` and `dropcap-copies` on published pictures
(aliases.py), `dropcap-source` on copies in quarantine and archive, and in quarantine also `dropcap-reason`,
`-problem` and `-remedy`. An object that is copied back from there still has them, or their old names without
the prefix. None of these is published, and neither is a download token, which opens the source to anyone with
the address.
"""

from collections.abc import Mapping

from dropcap.domain.upload import Upload
from dropcap.errors import Rejected

OURS = "dropcap-"
LARGEST = 8192  # bytes, keys and values: cloud.google.com/storage/quotas#objects
TOKENS = "firebasestoragedownloadtokens"
OLD_REASON = frozenset({"reason", "problem", "remedy"})  # ours only if all three are there
OLD_SOURCE = "source"


def of_uploader(metadata: Mapping[str, str]) -> dict[str, str]:
    """Return the part of an object's metadata that is its uploader's and may be published."""
    left_out = OLD_REASON | {OLD_SOURCE} if metadata.keys() >= OLD_REASON else set()
    if metadata.get(OLD_SOURCE, "").startswith("gs://"):
        left_out |= {OLD_SOURCE}
    return {
        key: value
        for key, value in metadata.items()
        if key not in left_out and not key.lower().startswith(OURS) and key.lower() != TOKENS
    }


def beside(metadata: Mapping[str, str], facts: Mapping[str, str]) -> dict[str, str]:
    """Return the uploader's metadata with our `facts`, or only the facts if both together are too large.

    Otherwise Cloud Storage would refuse the copy at every delivery.
    """
    uploaders = of_uploader(metadata)
    return (uploaders if _bytes(uploaders) + _bytes(facts) <= LARGEST or not facts else {}) | dict(facts)


def reason(rejection: Rejected) -> dict[str, str]:
    """Return the metadata for a copy in quarantine."""
    facts = {"reason": rejection.code, "problem": rejection.problem, "remedy": rejection.remedy}
    return {f"{OURS}{name}": fact for name, fact in facts.items()}


def source(upload: Upload) -> dict[str, str]:
    """Return the metadata that names the source of an upload, or the user of a posted one."""
    return {f"{OURS}source": f"gs://{upload.bucket}/{upload.name}" if upload.in_bucket else upload.name}


def _bytes(metadata: Mapping[str, str]) -> int:
    return sum(len(key.encode()) + len(value.encode()) for key, value in metadata.items())
