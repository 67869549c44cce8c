"""What can go wrong, and who must act.

    DropcapError
    ├── Rejected        this input will never work: quarantine it, record why, acknowledge; over HTTP also
    │                   a request that is not for who asks, or one too many
    ├── SettingsError   the operator must change a setting; the function does not start
    └── SchemaError     the operator must change the database; the function does not start

Everything else that is raised is a passing fault: the platform delivers the event again. A Passing one is
expected, and says in one line what is the matter.
"""

from collections.abc import Iterator, Mapping
from http import HTTPStatus


class DropcapError(Exception):
    """The root of all errors that Dropcap raises on purpose."""


class Passing(Exception):
    """A fault of database, network or storage that passes: for the log one line, without a stack trace."""


class SettingsError(DropcapError):
    """One line that names the variable, its value and what is allowed."""


class SchemaError(DropcapError):
    """One line that names table, column, what is and what should be."""


class Rejected(DropcapError):
    """An input that no repetition can make work.

    `code` is a stable word for programs (`not_a_picture`), `problem` one sentence for people,
    `remedy` what they can do, `status` the HTTP status that `analyze` answers, with `headers`.
    """

    def __init__(
        self,
        code: str,
        problem: str,
        remedy: str,
        status: HTTPStatus,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(f"{problem} {remedy}")
        self.code = code
        self.problem = problem
        self.remedy = remedy
        self.status = status
        self.headers = dict(headers or {})


def causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error, and each that it was raised from or while it was handled."""
    seen: set[int] = set()
    each: BaseException | None = error
    while each and id(each) not in seen:
        seen.add(id(each))
        yield each
        each = each.__cause__ or each.__context__


def cause(error: BaseException) -> str:
    """Return what an error was raised from, each by type and message; empty where it was from nothing.

    What is raised `from None` hides the rest, which may quote a secret.
    """
    found = []
    for each in causes(error):
        if each is not error:
            found.append(f"{type(each).__name__}: {each}")
        if each.__suppress_context__ and not each.__cause__:
            break
    return "; ".join(found)[:1000]
