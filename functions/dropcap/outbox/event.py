"""An event of the outbox: one row of `events`, and the CloudEvent that it becomes."""

import datetime as dt
import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dropcap.domain.records import read

TYPE = "dev.dropcap.upload."
LONGEST = 1024  # bytes of an attribute: cloud.google.com/pubsub/quotas#resource_limits
# What no attribute of a CloudEvent may hold: github.com/cloudevents/spec, type system, String
CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\ufdd0-\ufdef\ufffe\uffff\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Event:
    """One row; `given_up` where this is the last try."""

    upload: uuid.UUID
    type: str
    id: uuid.UUID
    at: dt.datetime
    data: Mapping[str, Any]
    attempts: int
    given_up: bool

    @property
    def attributes(self) -> dict[str, str]:
        """The context attributes of a CloudEvent, all but the specversion.

        One that Pub/Sub refuses would hold up all that are sent with it.
        """
        name = CONTROL.sub("\ufffd", read(str, self.data.get("name")))
        subject = name.encode()[:LONGEST].decode(errors="ignore")
        return {
            "id": str(self.id),
            "type": f"{TYPE}{self.type}",
            "source": "/dropcap",
            "subject": subject,
            "time": self.at.isoformat(),
            "datacontenttype": "application/json",
        }
