"""An event of the outbox: a row of `events`, and its attributes as a CloudEvent."""

import datetime as dt
import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dropcap.domain.records import read

TYPE = "dev.dropcap.upload."
MAX_SUBJECT = 1024  # bytes of an attribute: cloud.google.com/pubsub/quotas#resource_limits
# Characters that a CloudEvent attribute must not contain: github.com/cloudevents/spec, type system, String
CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\ufdd0-\ufdef\ufffe\uffff\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Event:
    """A row of `events`; `last_try` if it is dead-lettered when this attempt fails."""

    upload: uuid.UUID
    type: str
    id: uuid.UUID
    at: dt.datetime
    data: Mapping[str, Any]
    attempts: int
    last_try: bool

    @property
    def attributes(self) -> dict[str, str]:
        """Return the context attributes of the CloudEvent, without specversion.

        The subject is sanitized: if Pub/Sub refused one attribute, the whole batch would fail.
        """
        name = CONTROL.sub("\ufffd", read(str, self.data.get("name")))
        subject = name.encode()[:MAX_SUBJECT].decode(errors="ignore")
        return {
            "id": str(self.id),
            "type": f"{TYPE}{self.type}",
            "source": "/dropcap",
            "subject": subject,
            "time": self.at.isoformat(),
            "datacontenttype": "application/json",
        }
