"""Custom metadata of objects: the uploader's own goes along, what others or we have put there does not.

What we write begins with `dropcap-`: `dropcap-upload` and `dropcap-copies` on what is published (copies.py),
and on copies in quarantine and archive `dropcap-source`, in quarantine `dropcap-reason`, `-problem` and
`-remedy` as well. An object that is copied back from there has them still, or their old names without the
prefix; none of them is published, nor a token that opens the source to whoever has its address.
"""

from collections.abc import Mapping

from dropcap.errors import Rejected
from dropcap.upload import Upload

OURS = "dropcap-"
LARGEST = 8192  # bytes, keys and values: cloud.google.com/storage/quotas#objects
TOKENS = "firebasestoragedownloadtokens"
OLD_REASON = frozenset({"reason", "problem", "remedy"})  # together, else they are somebody else's
OLD_SOURCE = "source"


def of_uploader(metadata: Mapping[str, str]) -> dict[str, str]:
    """Return what of an object's metadata is its uploader's, and may be published."""
    left_out = OLD_REASON | {OLD_SOURCE} if metadata.keys() >= OLD_REASON else set()
    if metadata.get(OLD_SOURCE, "").startswith("gs://"):
        left_out |= {OLD_SOURCE}
    return {
        key: value
        for key, value in metadata.items()
        if key not in left_out and not key.lower().startswith(OURS) and key.lower() != TOKENS
    }


def beside(metadata: Mapping[str, str], facts: Mapping[str, str]) -> dict[str, str]:
    """Return the uploader's metadata with `facts` of our own; the facts alone where both are too much.

    What Cloud Storage would refuse would be refused at every delivery.
    """
    given = of_uploader(metadata)
    return (given if _bytes(given) + _bytes(facts) <= LARGEST or not facts else {}) | dict(facts)


def reason(rejection: Rejected) -> dict[str, str]:
    """Return the facts of a copy in quarantine."""
    facts = {"reason": rejection.code, "problem": rejection.problem, "remedy": rejection.remedy}
    return {f"{OURS}{name}": fact for name, fact in facts.items()}


def source(upload: Upload) -> dict[str, str]:
    """Return the fact of where an upload was; of a posted one, whose it was."""
    return {f"{OURS}source": f"gs://{upload.bucket}/{upload.name}" if upload.in_bucket else upload.name}


def _bytes(metadata: Mapping[str, str]) -> int:
    return sum(len(key.encode()) + len(value.encode()) for key, value in metadata.items())
