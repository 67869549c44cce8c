"""What can go wrong, and who must act.

    DropcapError
    ├── Rejected        permanent: quarantine the input, record the reason, acknowledge; over HTTP also a
    │                   request that the caller may not make, or one above a limit
    ├── SettingsError   the operator must change a setting; the function does not start
    └── SchemaError     the operator must change the database; the function does not start

Everything else is transient: the platform redelivers the event. A Passing error is expected, and its message
is one line.
"""

from collections.abc import Iterator, Mapping
from http import HTTPStatus


class DropcapError(Exception):
    """The root of all errors that Dropcap raises on purpose."""


class Passing(Exception):
    """Transient error of database, network or storage: logged in one line, without a stack trace."""


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
    """Yield an error, and each error that it was raised from or while handling."""
    seen: set[int] = set()
    each: BaseException | None = error
    while each and id(each) not in seen:
        seen.add(id(each))
        yield each
        each = each.__cause__ or each.__context__


def cause(error: BaseException) -> str:
    """Return the causes of an error, each with type and message; empty if it has none.

    An error raised `from None` hides the causes behind it, which may quote a secret.
    """
    found = []
    for each in causes(error):
        if each is not error:
            found.append(f"{type(each).__name__}: {each}")
        if each.__suppress_context__ and not each.__cause__:
            break
    return "; ".join(found)[:1000]
