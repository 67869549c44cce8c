"""Cloud Storage's rules on request preconditions and generations, for one object at a time.

cloud.google.com/storage/docs/request-preconditions says what holds when; a condition on a negative that fails
is 304 for a read and 412 for a change (cloud.google.com/storage/docs/json_api/v1/status-codes).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

PRECONDITIONS = ("GenerationMatch", "GenerationNotMatch", "MetagenerationMatch", "MetagenerationNotMatch")
PREFIXES = ("if", "ifSource")  # of the changed object, and of the source of a copy
NOT_MET = "At least one of the pre-conditions you specified did not hold."
LONGEST_FILE_NAME = 255  # bytes of one path component on common file systems


class Refused(Exception):
    """The gate's own error response, in place of the storage server's."""

    def __init__(self, status: HTTPStatus, message: str, reason: str) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Expected:
    """A request's preconditions on one object: the `parameters` whose names begin with `prefix`."""

    bucket: str
    name: str
    parameters: Mapping[str, str] = field(default_factory=dict)
    prefix: str = "if"
    generation: str = ""

    @property
    def conditional(self) -> bool:
        return bool(self.generation) or any(self.prefix + each in self.parameters for each in PRECONDITIONS)

    def check(self, live: Mapping[str, Any] | None, reading: bool, creating: bool) -> None:
        """Raise Refused if the live object (None: there is none) is not as expected.

        `live` is the named generation, if there is one. A missing object that is not about to be created is
        left to the storage server, which answers 404.
        """
        if self.generation and live is None:
            raise Refused(HTTPStatus.NOT_FOUND, f"No such object: {self.bucket}/{self.name}", "notFound")
        if live is None and not creating:
            return
        for condition in PRECONDITIONS:
            wanted = self.parameters.get(self.prefix + condition)
            if wanted is None:
                continue
            if not wanted.isdecimal():
                raise Refused(
                    HTTPStatus.BAD_REQUEST, f"Invalid value for {self.prefix}{condition}.", "invalid"
                )
            is_now = live["metageneration" if condition.startswith("Meta") else "generation"] if live else "0"
            negative = condition.endswith("NotMatch")
            if (negative and live is None) or (int(wanted) == int(is_now)) is negative:
                status = HTTPStatus.NOT_MODIFIED if negative and reading else HTTPStatus.PRECONDITION_FAILED
                raise Refused(status, NOT_MET, "conditionNotMet")


def check_path(name: str) -> None:
    """Raise Refused if an object name is not a safe file path: fake-gcs-server would leave its folder."""
    for part in name.split("/"):
        if part in (".", "..") or len(part.encode()) > LONGEST_FILE_NAME or "\0" in part:
            raise Refused(
                HTTPStatus.BAD_REQUEST,
                "The local storage server can't keep an object of this name as a file.",
                "invalid",
            )
