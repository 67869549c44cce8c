"""The outcome of an upload: analyzed, held or rejected."""

from dataclasses import dataclass

from dropcap.domain.analysis import Analysis
from dropcap.domain.upload import Upload
from dropcap.errors import Rejected


@dataclass(frozen=True, slots=True)
class Outcome:
    """It has an `analysis`, or a `rejection`; then `sha256` is of the bytes, empty where none were read.

    `waits`: the rejection is not its end, and it is tried again.
    """

    upload: Upload
    analysis: Analysis | None = None
    rejection: Rejected | None = None
    sha256: str = ""
    waits: bool = False

    @property
    def word(self) -> str:
        """Return "analyzed", "held" (while it waits for a verdict) or "rejected"."""
        if self.rejection is None:
            return "analyzed"
        return "held" if self.waits else "rejected"
