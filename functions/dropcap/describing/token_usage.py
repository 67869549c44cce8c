"""What a request to Gemini is paid by, and who is told of each."""

from typing import Any, Protocol

from dropcap.domain.answer import Tokens


class Meter(Protocol):
    """Who is told of each request, tries that fail included; budget.py has the one that counts."""

    def reserve(self) -> None:
        """Reserve the budget for a request. Raises response.Unavailable if it may not be made."""

    def settle(self, tokens: Tokens | None) -> None:
        """After it; None where nobody knows what it cost."""


class Free:
    """The Meter that does not care."""

    def reserve(self) -> None: ...

    def settle(self, tokens: Tokens | None) -> None: ...


FREE = Free()


def tokens(usage: Any) -> Tokens | None:
    """From `usageMetadata`, whose total has the thoughts, which the older package does not know."""
    if usage is None or not usage.total_token_count:
        return None
    read = usage.prompt_token_count or 0
    return Tokens(read, max(usage.total_token_count - read, usage.candidates_token_count or 0))
