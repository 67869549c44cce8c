"""What a request to Gemini is paid by, and who is told of each."""

from typing import Any, Protocol

from dropcap.domain.gemini_response import Tokens


class RequestBudget(Protocol):
    """Who is told of each request, tries that fail included; budget.py has the one that counts."""

    def reserve(self) -> None:
        """Reserve the budget for a request. Raises response.NotDescribed if it may not be made."""

    def record_usage(self, tokens: Tokens | None) -> None:
        """After it; None where nobody knows what it cost."""


class NoBudget:
    """The RequestBudget that does not care."""

    def reserve(self) -> None: ...

    def record_usage(self, tokens: Tokens | None) -> None: ...


UNLIMITED = NoBudget()


def tokens(usage: Any) -> Tokens | None:
    """From `usageMetadata`, whose total has the thoughts, which the older package does not know."""
    if usage is None or not usage.total_token_count:
        return None
    read = usage.prompt_token_count or 0
    return Tokens(read, max(usage.total_token_count - read, usage.candidates_token_count or 0))
