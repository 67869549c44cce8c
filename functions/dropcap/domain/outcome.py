"""What became of an upload, and the rows that are written with it: its receipt, and the event that tells."""

from dataclasses import dataclass

from dropcap.database.leases import Row
from dropcap.domain.analysis import Analysis
from dropcap.domain.upload import Upload
from dropcap.errors import Rejected
from dropcap.settings import Settings


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
        """analyzed, held (while it waits) or rejected."""
        if self.rejection is None:
            return "analyzed"
        return "held" if self.waits else "rejected"

    def rows(self, holder: str, settings: Settings) -> tuple[Row, ...]:
        """What the transaction that commits it has to write besides; none where nobody asks for any."""
        made = []
        if settings.receipts:
            from dropcap.database import receipts

            made.append(receipts.row(self))
        if settings.events:
            from dropcap.outbox import dispatcher

            made.append(dispatcher.row(self, holder, settings.pictures_bucket))
        return tuple(made)
